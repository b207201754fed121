"""Nothing that is loaded can run code: a payload in every format stays what it is, bytes."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from condvae import cli
from condvae.config import Config, ModelConfig, load_recipe
from condvae.data import info, load
from condvae.data.download import cache_folder
from condvae.errors import UserError
from condvae.files import read_tensors, write_tensors
from condvae.models.families import build_model
from condvae.run import CHECKPOINT, CONFIG, MODEL
from condvae.run import load as load_run
from condvae.verbs.train import train

Maker = Callable[..., Path]
IMAGES, LABELS = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that a payload would write."""
    return tmp_path / "it-was-run"


@pytest.fixture
def pickled(mark: Path) -> bytes:
    """A payload, which works."""
    content = pickle.dumps(Payload(mark))
    pickle.loads(content).close()  # noqa: S301
    assert mark.exists()
    mark.unlink()
    return content


def as_objects(mark: Path) -> np.ndarray:
    """An array that is a payload, as NumPy pickles it."""
    array = np.empty(4, dtype=object)
    array[:] = [Payload(mark)] * 4
    return array


@pytest.mark.parametrize("where", ["images", "labels", "class_names", "test_labels"])
def test_arrays_of_objects(where: str, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    arrays = {"images": IMAGES, "labels": LABELS, "test_images": IMAGES, "test_labels": LABELS}
    np.savez(path, **(arrays | {where: as_objects(mark)}), allow_pickle=True)
    with pytest.raises(UserError, match="objects are never loaded"):
        load(str(path), split="test" if where == "test_labels" else "train")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["data.npz", "data.zip"])
def test_pickles_under_another_name(name: str, pickled: bytes, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    torch_file = io.BytesIO()
    torch.save(Payload(mark), torch_file)
    for content in (pickled, torch_file.getvalue()):
        path.write_bytes(content)
        for read in (load, info):
            with pytest.raises(UserError):
                read(str(path))  # type: ignore[operator]
    np.save(tmp_path / "single.npy", as_objects(mark), allow_pickle=True)
    shutil.move(tmp_path / "single.npy", path)
    with pytest.raises(UserError):
        load(str(path))
    assert not mark.exists()


def test_pickles_among_images_and_arrays(pickled: bytes, mark: Path, class_folder: Maker) -> None:
    folder = class_folder()
    (folder / "cat" / "0.png").write_bytes(pickled)
    with pytest.raises(UserError, match=r"cat/0\.png"):
        load(str(folder), split="all")
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cat/0.png", pickled)
        archive.writestr("dog/0.png", pickled)
    with pytest.raises(UserError, match="none of its 2 images"):
        load(str(packed), split="all")
    root = folder.parent
    (root / "MNIST/raw").mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (root / "MNIST/raw" / name).write_bytes(pickled)
    with pytest.raises(UserError, match="not an IDX file"):
        load("mnist", data_root=root)
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch.bin")
        member.size = len(pickled)
        archive.addfile(member, io.BytesIO(pickled))
    with pytest.raises(UserError, match="no whole number"):
        load("cifar10", split="test", data_root=root)
    assert not mark.exists()


def test_a_program_in_postscript(
    class_folder: Maker, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: mark.write_text("run"))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    folder = class_folder()
    (folder / "cat" / "0.png").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"cat/0\.png"):
        load(str(folder), split="all")
    assert not mark.exists()


def test_the_cache_of_images(class_folder: Maker, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folder()
    monkeypatch.setenv("CONDVAE_CACHE", str(folder.parent / "cache"))
    before = np.asarray(load(str(folder), split="all").images).copy()
    for name in ("images.npy", "labels.npy"):
        cached = next(cache_folder().rglob(name))
        np.save(cached, as_objects(mark), allow_pickle=True)
        assert (load(str(folder), split="all").images == before).all(), "decoded again"
    assert not mark.exists()


def test_weights_and_checkpoints(pickled: bytes, mark: Path, small: Config, small_run: Path) -> None:
    run = Path(shutil.copytree(small_run, mark.parent / "run"))
    torch_file = io.BytesIO()
    torch.save({"weights": Payload(mark)}, torch_file)
    for content in (pickled, torch_file.getvalue()):
        (run / MODEL).write_bytes(content)
        with pytest.raises(UserError, match="damaged, or not written by condvae"):
            load_run(run)
    (run / MODEL).unlink()
    for content in (pickled, torch_file.getvalue()):
        (run / CHECKPOINT).write_bytes(content)
        with pytest.raises(UserError, match="damaged, or not written by condvae"):
            train(small, run, resume=True, quiet=True)
    (run / "evaluation.json").write_bytes(pickled)
    (run / "metrics.jsonl").write_bytes(pickled)
    shutil.copy(small_run / CHECKPOINT, run / CHECKPOINT)
    train(small, run, resume=True, quiet=True)
    assert not mark.exists()


CALLS = (
    "open({mark!r}, 'w')",
    "__import__('pathlib').Path({mark!r}).touch()",
    "elbo(beta=open({mark!r}, 'w'))",
    "elbo(beta=[open({mark!r}, 'w') for _ in [1]])",
    "elbo(**open({mark!r}, 'w'))",
    "elbo(beta=1) + open({mark!r}, 'w')",
    "elbo(beta=(lambda: 1)())",
    "elbo(beta=1.0 if open({mark!r}, 'w') else 2.0)",
    "elbo(beta=f'{{open({mark!r}, chr(119))}}')",
)


@pytest.mark.parametrize("call", CALLS)
def test_calls_in_recipes_and_in_metadata(
    call: str, mark: Path, small_run: Path, tmp_path: Path
) -> None:
    text = call.format(mark=str(mark))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[training]\nepochs = 1.0\nobjective = {json.dumps(text)}\n")
    with pytest.raises(UserError):
        cli.run(["train", str(recipe), "--out", str(tmp_path / "run")])
    for field in ("family", "network", "likelihood", "prior", "posterior", "label_inference"):
        with pytest.raises(UserError):
            build_model(replace(ModelConfig(), **{field: text}), (1, 8, 8), 2)
        tensors, about = read_tensors(small_run / MODEL, "")
        about["config"]["model"][field] = text
        (tmp_path / "other").mkdir(exist_ok=True)
        write_tensors(tmp_path / "other" / MODEL, tensors, about)
        with pytest.raises(UserError):
            load_run(tmp_path / "other")
    recipe.write_text(text)
    with pytest.raises(UserError, match="not a TOML file"):
        load_recipe(recipe)
    assert not mark.exists() and not (tmp_path / "run" / CONFIG).exists()
