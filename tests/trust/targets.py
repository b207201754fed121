"""Every reader of a file that a user may be handed, as a function of bytes: for tests and for fuzzing.

A target comes to an end, or refuses in a sentence (`UserError`); anything else is a find. `SEEDS` has
whole files, to be changed a little.
"""

from __future__ import annotations

import atexit
import gzip
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from condvae.auditing.apply import FORMAT, read_decisions
from condvae.config import Config, ModelConfig, from_dict, load_recipe, recipe_names, to_toml
from condvae.data.folders import Zip, listing
from condvae.data.formats import read_cifar10, read_idx, read_npz
from condvae.data.images import UNREADABLE, fit, open_image, without_warnings
from condvae.data.parquet import Parquet
from condvae.errors import UserError
from condvae.files import read_tensors
from condvae.models.families import build_model
from condvae.registry import parse_spec
from condvae.run import MODEL, load, save_model
from condvae.training.checkpoint import read_checkpoint, restore, save_checkpoint
from condvae.training.ema import WeightAverage
from condvae.training.monitor import _keep_until
from condvae.verbs.card import _evaluation

FOLDER = Path(tempfile.mkdtemp(prefix="condvae-targets-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def put(name: str, content: bytes) -> Path:
    """A file of that content."""
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def idx(content: bytes) -> None:
    read_idx(Path("x"), content)


def idx_file(content: bytes) -> None:
    read_idx(put("x-ubyte", content))


def cifar(content: bytes) -> None:
    read_cifar10(put("cifar/test_batch.bin", content).parent, "test")


def cifar_archive(content: bytes) -> None:
    """A tar, which is packed here: few changes of packed bytes get past their checksum."""
    read_cifar10(put("cifar.tar.gz", gzip.compress(content, 1)), "test")


def cifar_archive_packed(content: bytes) -> None:
    read_cifar10(put("cifar.tar.gz", content), "test")


def npz(content: bytes) -> None:
    path = put("x.npz", content)
    for split in ("test", "all"):
        read_npz(path, split)


def npy(content: bytes) -> None:
    """Three arrays of an npz that are all the same."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("images", "labels", "class_names"):
            archive.writestr(f"{name}.npy", content)
    npz(buffer.getvalue())


def zip_file(content: bytes) -> None:
    container = Zip(put("x.zip", content))
    for entry in listing(container, "all").entries:
        try:
            container.read(entry)
        except (OSError, ValueError):
            continue


def image(content: bytes) -> None:
    try:
        with without_warnings():
            fit(open_image(content), (8, 8), 3)
    except UNREADABLE as error:
        raise UserError(str(error)) from error


def recipe(content: bytes) -> None:
    config = load_recipe(put("x.toml", content))
    if load_recipe(put("y.toml", to_toml(config).encode())) != config:
        assert "nan" in to_toml(config)
    for part in vars(config.model).values():
        if isinstance(part, str):
            parse_spec(part, "part")


def spec(content: bytes) -> None:
    parse_spec(content.decode("utf-8", "replace"), "part")


def tensors(content: bytes) -> None:
    read_tensors(put("x.safetensors", content), "do something")


def run(content: bytes) -> None:
    load(put(f"run/{MODEL}", content).parent, "cpu")


def metadata(content: bytes) -> None:
    """A model file whose weights are as they should be."""
    weights, _ = _model()
    run(save(weights, metadata={"condvae": content.decode("utf-8", "replace")}))


def checkpoint(content: bytes) -> None:
    module = torch.nn.Linear(2, 2)
    read = read_checkpoint(put("state.safetensors", content))
    state = torch.get_rng_state()
    try:
        restore(read, module, torch.optim.Adam(module.parameters()), WeightAverage(module, 0.0))
    finally:
        torch.set_rng_state(state)


def metrics(content: bytes) -> None:
    _keep_until(put("metrics.jsonl", content), 5)


def evaluation(content: bytes) -> None:
    _evaluation(put("evaluation.json", content))


def decisions(content: bytes) -> None:
    read_decisions(put("decisions.json", content))


def parquet(content: bytes) -> None:
    container = Parquet(put("x.parquet", content))
    for split in ("train", "all"):
        for entry in container.listing(split).entries:
            try:
                container.read(entry)
            except (OSError, ValueError):
                continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    "idx": idx,
    "idx-file": idx_file,
    "cifar": cifar,
    "cifar-archive": cifar_archive,
    "cifar-archive-packed": cifar_archive_packed,
    "npz": npz,
    "npy": npy,
    "zip": zip_file,
    "image": image,
    "recipe": recipe,
    "spec": spec,
    "tensors": tensors,
    "run": run,
    "metadata": metadata,
    "checkpoint": checkpoint,
    "metrics": metrics,
    "evaluation": evaluation,
    "decisions": decisions,
    "parquet": parquet,
}


def attempt(name: str, content: bytes) -> bool:
    """Whether a target takes what it is given."""
    try:
        TARGETS[name](content)
    except UserError as error:
        assert str(error)
        return False
    return True


# ------------------------------------------------------------------------------------------ whole files


@lru_cache(maxsize=1)
def _model() -> tuple[dict[str, torch.Tensor], str]:
    """The weights of a tiny model, and the metadata that belongs to them."""
    config = Config(model=ModelConfig(network="mlp(widths=[4])", latents=2, embedding=2))
    weights = build_model(config.model, (1, 4, 4), 2).state_dict()
    save_model(FOLDER, weights, config, (1, 4, 4), ("a", "b"), {"steps": 1})
    read, about = read_tensors(FOLDER / MODEL, "")
    assert from_dict(about["config"], "") == config
    return read, json.dumps(about)


def _seed_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("readme.html", "data_batch_1.bin", "test_batch.bin"):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 3073
            archive.addfile(info, io.BytesIO(bytes(3073)))
        link = tarfile.TarInfo("cifar-10-batches-bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "test_batch.bin"
        archive.addfile(link)
    return buffer.getvalue()


def _seed_npy(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def _seed_npz(pack: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    images, labels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.array([0, 1, -1])
    names = np.array(["a", "b"])
    pack(buffer, images=images, labels=labels, test_images=images, test_labels=labels, class_names=names)
    return buffer.getvalue()


def _seed_images() -> list[bytes]:
    red = Image.new("RGBA", (5, 4), (255, 0, 0, 90))
    red.putpixel((1, 1), (0, 9, 200, 255))
    kinds = [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "1"), ("JPEG", "RGB")]
    kinds += [("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "F"), ("TIFF", "LAB")]
    kinds += [
        ("WEBP", "RGBA"),
        ("TGA", "RGB"),
        ("PPM", "L"),
        ("ICO", "RGBA"),
        ("SGI", "L"),
        ("PCX", "L"),
    ]
    found = []
    for kind, mode in kinds:
        buffer = io.BytesIO()
        red.convert(
            "RGB" if mode in ("CMYK", "LAB") else "L" if mode in ("I;16", "F") else "RGBA"
        ).convert(mode).save(buffer, kind)
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    red.convert("RGB").save(buffer, "GIF", save_all=True, append_images=[Image.new("RGB", (5, 4))])
    return [*found, buffer.getvalue()]


def _seed_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat/1.png", "dog/2.png", "unlabelled/3.png"):
            archive.writestr(name, _seed_images()[0])
    return buffer.getvalue()


def _seed_parquet() -> list[bytes]:
    """As the datasets library and as pandas would write it: images in a struct, and as they are."""
    import pyarrow
    import pyarrow.parquet

    red = _seed_images()[0]
    tables = [
        {"image": [{"bytes": red, "path": "a.png"}, {"bytes": None, "path": "b.png"}], "label": [1, 0]},
        {"image": [red, b"", None], "label": ["cat", None, "dog"]},
    ]
    found = []
    for table, packing in zip(tables, ("snappy", "none"), strict=True):
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(table), buffer, compression=packing)
        found.append(buffer.getvalue())
    return found


def _seed_checkpoint() -> bytes:
    module = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    counters = {"step": 3, "seconds": 1.5, "skipped": 0, "skipped_in_a_row": 0, "usual_norm": None}
    save_checkpoint(FOLDER / "seed", module, optimiser, WeightAverage(module, 0.0), counters)
    return (FOLDER / "seed").read_bytes()


@cache
def seeds(name: str) -> list[bytes]:
    """Whole files for a target."""
    array = b"\x00\x00\x08\x02" + bytes([0, 0, 0, 2, 0, 0, 0, 3]) + b"abcdef"
    if name in ("idx", "idx-file"):
        return [array, gzip.compress(array)] if name == "idx-file" else [array]
    if name in ("metadata", "run", "tensors"):
        weights, about = _model()
        whole = save(weights, metadata={"condvae": about})
        return [about.encode()] if name == "metadata" else [whole]
    found: dict[str, Callable[[], list[bytes]]] = {
        "cifar": lambda: [bytes(2 * 3073)],
        "cifar-archive": lambda: [_seed_tar()],
        "cifar-archive-packed": lambda: [gzip.compress(_seed_tar())],
        "npz": lambda: [_seed_npz(np.savez), _seed_npz(np.savez_compressed)],
        "npy": lambda: [_seed_npy(v) for v in (np.zeros((2, 3, 3), np.uint8), [0, 1], ["a", "bc"])],
        "zip": lambda: [_seed_zip()],
        "image": _seed_images,
        "recipe": lambda: [to_toml(load_recipe(each)).encode() for each in recipe_names()],
        "spec": lambda: [b"ladder(groups=[1, 2], widths=[8, 8], activation=silu)", b"elbo(beta=1.5)"],
        "checkpoint": lambda: [_seed_checkpoint()],
        "metrics": lambda: [b'{"step": 1, "elbo": -1.5}\n{"step": 2, "kl": NaN}\n{"step": 3'],
        "parquet": _seed_parquet,
        "decisions": lambda: [json.dumps(DECISIONS).encode()],
        "evaluation": lambda: [json.dumps(EVALUATION).encode()],
    }
    return found[name]()


EVALUATION = {
    **dict.fromkeys(("elbo_nats", "log_likelihood_nats", "marginal_log_likelihood_nats"), -90.5),
    **dict.fromkeys(("elbo_nats_stderr", "log_likelihood_nats_stderr"), 0.1),
    **{"marginal_log_likelihood_nats_stderr": 0.1, "samples": 5, "images": 10, "split": "test"},
    **{"source": "x", "kl_nats": 20.0, "kl_nats_by_group": [20.0], "active_units": 3, "latents": 4},
}

DECISIONS = {
    "format": FORMAT,
    **{"source": "x", "split": "train", "data_root": None, "class_names": ["cat", "dog"]},
    "decisions": [
        {"index": 3, "file": "a.png", "given": "cat", "action": "relabel", "label": "dog"},
        {"index": 5, "given": "dog", "action": "drop"},
        {"index": -1, "file": "b.png", "action": "drop"},
    ],
}
