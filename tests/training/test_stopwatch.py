"""Where a training step's time goes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from condvae.cli import main
from condvae.config import load_recipe
from condvae.training import trainer as training
from condvae.training.stopwatch import Stopwatch
from condvae.verbs.train import benchmark


def tiny() -> object:
    base = load_recipe("mnist-sample")
    model = replace(base.model, network="mlp(widths=[32])", latents=4, label_reaches=("decoder",))
    return replace(base, model=model, training=replace(base.training, precision="fp32", batch_size=64))


def test_a_part_that_is_slowed_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    update = training.WeightAverage.update

    def slow(self: training.WeightAverage, share: torch.Tensor) -> None:
        time.sleep(0.02)
        update(self, share)

    monkeypatch.setattr(training.WeightAverage, "update", slow)
    found = benchmark(tiny(), seconds=0.3)  # type: ignore[arg-type]
    assert set(found["milliseconds"]) == {"data", "forward", "backward", "optimiser", "other"}
    assert found["milliseconds"]["optimiser"] >= 20
    whole = sum(found["milliseconds"].values()) / 1000
    assert found["images_per_second"] == pytest.approx(64 / whole, rel=0.01)


def test_operations_are_those_of_the_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward 2, backward 4 times a weight's size; the first layer has no gradient for its input."""
    monkeypatch.setattr("condvae.training.stopwatch.matrix_peak", lambda *_: 1e9)
    found = benchmark(tiny(), seconds=0.0)  # type: ignore[arg-type]
    embedding = load_recipe("mnist-sample").model.embedding
    first, others = 784 * 32, 32 * 8 + 4 * 32 + embedding * 32 + 32 * 784
    assert found["operations_per_image"] == pytest.approx(4 * first + 6 * others, rel=0.05)
    assert found["share_of_peak"] == pytest.approx(found["operations_per_second"] / 1e9)


def test_parts_add_up_over_their_calls() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        with watch.part("sleep"):
            time.sleep(0.01)
    assert list(watch.seconds) == ["sleep"] and watch.seconds["sleep"] >= 0.03


def test_the_command_line_says_it_and_keeps_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "condvae.verbs.train.benchmark.__kwdefaults__", {"data_root": None, "seconds": 0.1}
    )
    flags = ["train", "mnist-sample", "--benchmark", "--training.precision", "fp32"]
    monkeypatch.setattr("sys.argv", ["condvae", *flags])
    main()
    said = " ".join(capsys.readouterr().out.split())  # whose lines break by the processor's name
    assert "images/s in fp32" in said and "GFLOP an image" in said and "backward" in said
    assert not list(tmp_path.iterdir())
