"""Models that come along work at once, without training and without a network."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import condvae
from condvae.config import recipe_names
from condvae.data import load as load_data
from condvae.run import BUNDLED, bundled, load


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something wanted a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


def test_they_are_small_and_named_as_the_recipes_that_trained_them() -> None:
    assert bundled() == ("cifar10", "fashion-mnist", "mnist")
    assert set(bundled()) <= set(recipe_names())
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) < 12_000_000
    for name in bundled():
        card = (BUNDLED / name / "README.md").read_text("utf-8")
        assert f'condvae.load("{name}")' in card and "Not evaluated" not in card


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist", "mnist"])
def test_a_photo_is_drawn_under_every_label_and_samples_are_made(name: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    found = condvae.swap(name, images="photo.png", to=[0, 9], device="cpu")
    assert Path(found["files"]["own-images.png"]) == Path("results") / name / "figures/own-images.png"
    assert Path(condvae.sample(name, labels=[3], count=2, device="cpu")["files"]["samples.png"]).exists()
    assert not (BUNDLED / name / "figures").exists()


def test_the_digits_are_known_and_their_swaps_are_digits() -> None:
    from condvae.evaluation.bounds import fixed_binarisation
    from condvae.verbs.own_images import likely_labels

    run = load("mnist", "cpu")
    test = load_data("mnist-sample", split="test").subset(np.arange(0, 1000, 10))
    x = torch.tensor(test.images)
    assert (likely_labels(run, x) == test.labels).mean() > 0.9
    elbo = run.model.elbo(fixed_binarisation(run.model, x, 0), torch.tensor(test.labels)).value
    assert -100 < float(elbo.mean()) < -75


def test_a_directory_comes_before_a_model_of_its_name(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist").symlink_to(small_run)
    assert load("mnist", "cpu").model.latents == 4


def test_loading_a_model_does_not_load_a_compiler() -> None:
    code = (
        "import sys; from condvae.run import load; load('mnist'); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
