"""Shared by all tests: a cache of their own, real data where it is, and one small trained run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condvae import config as configuration
from condvae.config import Config


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in ("CONDVAE_CACHE", "CONDVAE_DATA")}
    os.environ["CONDVAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("CONDVAE_DATA", None)
    yield
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with MNIST/raw and the CIFAR-10 (JPEG) zips; skips where there is none."""
    named = os.environ.get("CONDVAE_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip("no real MNIST and CIFAR-10 here; name their folder in CONDVAE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def fast_bf16() -> None:
    """Skips where bf16 is emulated: a hundred times slower than float32, and never condvae's choice."""
    import torch

    from condvae.run import choose_precision

    if choose_precision("auto", torch.device("cpu")) != "bf16":
        pytest.skip("this processor has no bf16 arithmetic")


@pytest.fixture(scope="session")
def small() -> Config:
    """A recipe that trains in seconds."""
    base = configuration.load_recipe("mnist-sample")
    return replace(
        base,
        model=replace(base.model, network="conv(width=8, patch=4, hidden=32)", latents=4),
        training=replace(
            base.training,
            minutes=0.0,
            epochs=1.0,
            warmup_steps=5,
            device="cpu",
            precision="fp32",
            validations=2,
        ),
    )


@pytest.fixture(scope="session")
def small_run(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of that recipe; tests may read it, and write elsewhere."""
    from condvae.verbs.train import train

    return train(small, tmp_path_factory.mktemp("runs") / "small", quiet=True)


@pytest.fixture
def class_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of class folders of PNGs; returns its path."""
    from PIL import Image

    def make(
        classes: tuple[str, ...] = ("cat", "dog"), number: int = 10, name: str = "pets", side: int = 8
    ) -> Path:
        generator = np.random.default_rng(0)
        for label, title in enumerate(classes):
            (tmp_path / name / title).mkdir(parents=True, exist_ok=True)
            for index in range(number):
                pixels = generator.integers(0, 120, (side, side, 3), dtype=np.uint8)
                pixels[..., label % 3] += 100
                Image.fromarray(pixels).save(tmp_path / name / title / f"{index}.png")
        return tmp_path / name

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, steered by playwright; skips where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    named = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(executable_path=named, args=["--no-sandbox"])
        except playwright.Error:
            pytest.skip("no Chromium that playwright can start")
        yield launched
        launched.close()
