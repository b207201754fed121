"""One's own images under other labels, and ways through the latents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import condvae
from condvae.data import load
from condvae.errors import UserError
from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.conditioning import guided
from condvae.run import load as load_run
from condvae.verbs.journeys import between, liveliest
from condvae.verbs.own_images import file_name, likely_labels, read_images


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of three test digits, enlarged, as a user's files: one in colour, one with alpha."""
    test = load("mnist-sample", split="test")
    folder = tmp_path / "own"
    folder.mkdir()
    for index, mode in ((5, "L"), (405, "RGB"), (805, "LA")):
        picture = Image.fromarray(test.images[index, 0]).resize((112, 112)).convert(mode)
        picture.save(folder / f"digit {index}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_own_images_are_swapped(small_run: Path, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = condvae.swap(small_run, images=own, to=["3", 7], label="5", out=out)
    noted = json.loads((out / "own-images.json").read_text())
    assert noted["to"] == ["3", "7"] and [image["label"] for image in noted["images"]] == [5] * 3
    each = sorted(path.name for path in (out / "own-images").iterdir())
    assert each == sorted(f"digit {i}-{k}.png" for i in (5, 405, 805) for k in (3, 7))
    with Image.open(found["files"]["own-images.png"]) as picture:
        assert picture.width > 300
    one = condvae.swap(small_run, images=own / "digit 5.png", out=tmp_path / "one")
    assert len(one["to"]) == 10 and one["images"][0]["label_is"] == "inferred"


def test_own_images_are_read_at_the_models_size(small_run: Path, own: Path) -> None:
    run = load_run(small_run, "cpu")
    x, names = read_images(run, own)
    test = load("mnist-sample", split="test")
    assert x.shape == (3, 1, 28, 28) and names == ["digit 405", "digit 5", "digit 805"]
    apart = np.abs(x[1].numpy().astype(float) - test.images[5])
    assert apart.mean() < 5


def test_bayes_reads_most_digits(small_run: Path) -> None:
    run = load_run(small_run, "cpu")
    test = load("mnist-sample", split="test").subset(np.arange(0, 1000, 20))
    found = likely_labels(run, torch.tensor(test.images))
    assert (found == test.labels).mean() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "nowhere.png"}, "no such file"),
        ({"to": ["3"]}, "name a FILE or FOLDER"),
        ({"images": "OWN", "to": ["eleven"]}, "--to eleven: no such class"),
        ({"images": "OWN", "label": "10"}, "--label 10: no such class"),
        ({"images": "DAMAGED"}, "could not be read as an image"),
        ({"images": "EMPTY"}, "holds no image files"),
    ],
)
def test_bad_input_is_a_sentence(
    small_run: Path, own: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    damaged, empty = tmp_path / "damaged.png", tmp_path / "empty"
    damaged.write_bytes((own / "digit 5.png").read_bytes()[:100])
    empty.mkdir()
    places = {"OWN": own, "DAMAGED": damaged, "EMPTY": empty}
    given = {
        key: places.get(value, value) if isinstance(value, str) else value
        for key, value in options.items()
    }
    with pytest.raises(UserError, match=message):
        condvae.swap(small_run, **given)  # type: ignore[arg-type]


def test_interpolation_goes_from_one_image_to_the_other(small_run: Path, tmp_path: Path) -> None:
    found = condvae.interpolate(small_run, "0", "900", labels=["0", "9"], out=tmp_path)
    assert set(found["files"]) == {"interpolate.png", "interpolate.webp"} and found["labels"] == [
        "0",
        "9",
    ]
    with Image.open(tmp_path / "interpolate.webp") as moving:
        assert moving.n_frames == 16
    gif = condvae.interpolate(small_run, "0", "900", animation="gif", steps=3, out=tmp_path)
    assert "interpolate.gif" in gif["files"]


def test_own_files_can_be_the_ends(small_run: Path, own: Path, tmp_path: Path) -> None:
    ends = str(own / "digit 5.png"), str(own / "digit 805.png")
    found = condvae.interpolate(small_run, *ends, animation="none", out=tmp_path)
    assert list(found["files"]) == ["interpolate.png"]


def test_traversal_moves_the_liveliest_latents(small_run: Path, tmp_path: Path) -> None:
    found = condvae.traverse(small_run, count=3, out=tmp_path)
    assert set(found["files"]) == {"traverse.png", "traverse.webp"} and len(set(found["latents"])) == 3
    run = load_run(small_run, "cpu")
    test = load("mnist-sample", split="test")
    assert liveliest(run, test, 3, 0) == found["latents"]
    assert condvae.traverse(small_run, latents=[1], animation="none", out=tmp_path)["latents"] == [1]


def test_impossible_journeys_are_refused(small_run: Path) -> None:
    for call, message in (
        (lambda: condvae.interpolate(small_run, "0", "5000"), "test image 5000"),
        (lambda: condvae.interpolate(small_run, "0", "1", steps=1), "--steps"),
        (lambda: condvae.interpolate(small_run, "0", "1", animation="mp4"), "--animation"),
        (lambda: condvae.traverse(small_run, latents=[99]), "--latents 99"),
        (lambda: condvae.traverse(small_run, reach=0), "--reach above 0"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_the_way_between_keeps_its_ends_and_its_length() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 4, generator=generator)
    way = between(a, b, torch.linspace(0, 1, 5))
    assert torch.allclose(way[0], a, atol=1e-5) and torch.allclose(way[-1], b, atol=1e-5)
    lengths = way.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.linspace(lengths[0], lengths[-1], 5), rtol=1e-4)
    assert torch.allclose(between(a, 2 * a, torch.tensor([0.5]))[0], 1.5 * a, atol=1e-5)
    assert torch.equal(between(0 * a, 0 * a, torch.tensor([0.3]))[0], 0 * a)


def test_file_names_are_safe() -> None:
    assert file_name("a/b <c>.d") == "a_b__c__d" and file_name("été") == "été"


def test_guidance_exaggerates_labels_and_leaves_no_trace(small_run: Path) -> None:
    model = load_run(small_run, "cpu").model
    assert isinstance(model, ConditionalVAE)
    y = torch.arange(10)
    plain = model.decoder_label(y)
    with guided(model, 2.0):
        pushed = model.decoder_label(y)
    mean = plain.mean(0)
    assert torch.allclose(pushed - mean, 3 * (plain - mean), atol=1e-5)
    assert torch.equal(model.decoder_label(y), plain)


def test_guided_samples_are_others(small_run: Path, tmp_path: Path) -> None:
    made = []
    for weight in (0.0, 3.0):
        found = condvae.sample(small_run, count=2, guidance=weight, out=tmp_path / str(weight))
        with np.load(found["files"]["samples.npz"]) as arrays:
            made.append(arrays["images"])
    assert not np.array_equal(*made)
    with pytest.raises(UserError, match="--guidance -1"):
        condvae.sample(small_run, guidance=-1.0)
