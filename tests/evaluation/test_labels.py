"""Swaps, probes and the judge measure what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condvae.data import LabelledImages, load
from condvae.errors import UserError
from condvae.evaluation import judge as judging
from condvae.evaluation.judge import Judge, judge_for, shifted
from condvae.evaluation.labels import drawn_latents, label_measures, probe_accuracy, sampled, swapped
from condvae.run import load as load_run


class Obedient:
    """Makes pictures of its label: pixel values are 20 times the label."""

    shape, classes, latents = (1, 4, 4), 5, 2

    def encode(self, x: torch.Tensor, y: torch.Tensor, sample: bool = False) -> tuple[torch.Tensor]:
        return (y[:, None].float().expand(-1, 2) + (torch.randn(len(y), 2) if sample else 0),)

    def decode(self, latents: tuple[torch.Tensor], y: torch.Tensor) -> object:
        image = (20 * y)[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8)

        class Fixed:
            def mean_image(self) -> torch.Tensor:
                return image

        return Fixed()

    def sample(self, y: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
        return self.decode((y[:, None],), y).mean_image()  # type: ignore[attr-defined,no-any-return,arg-type]


class Deaf(Obedient):
    """Copies the class from its latents, whatever the label."""

    def decode(self, latents: tuple[torch.Tensor], y: torch.Tensor) -> object:
        return super().decode(latents, latents[0][:, 0].long())


class PixelJudge(Judge):
    """Reads the label that `Obedient` writes."""

    def __init__(self) -> None: ...

    def predict(self, images: torch.Tensor) -> np.ndarray:
        return (images[:, 0, 0, 0] // 20).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("model", "swaps", "kept"), [(Obedient(), 1.0, 0.0), (Deaf(), 0.0, 1.0)])
def test_measures_tell_a_model_that_listens_from_one_that_does_not(
    model: Obedient, swaps: float, kept: float
) -> None:
    y = torch.arange(50) % 5
    x = (20 * y)[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8)
    found = label_measures(model, PixelJudge(), x, x, y, (y + 2) % 5)  # type: ignore[arg-type]
    assert found.judge_accuracy == found.reconstruction_accuracy == 1
    assert (found.swap_accuracy, found.swap_kept_accuracy) == (swaps, kept)


def test_encoding_with_the_wrong_label_is_another_thing() -> None:
    y, given = torch.tensor([0, 1]), torch.tensor([3, 4])
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    values = [
        swapped(Deaf(), x, y, given, how)[:, 0, 0, 0].tolist()  # type: ignore[arg-type]
        for how in ("true", "wrong")
    ]
    assert values == [[0, 20], [60, 80]]


def test_probe_finds_a_leak_and_finds_none_where_there_is_none() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, 4000)
    noise = generator.normal(size=(4000, 3)).astype(np.float32)
    leak = noise + np.eye(4, 3, dtype=np.float32)[y] * 6
    half = slice(0, 2000), slice(2000, 4000)
    for kind in ("linear", "mlp"):
        found = probe_accuracy((leak[half[0]], y[half[0]]), (leak[half[1]], y[half[1]]), kind)
        assert found > 0.95
        none = probe_accuracy((noise[half[0]], y[half[0]]), (noise[half[1]], y[half[1]]), kind)
        assert none < 0.32


def test_drawn_latents_repeat_and_do_not_touch_the_random_state() -> None:
    y = torch.arange(6) % 5
    x = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    state = torch.get_rng_state()
    first = drawn_latents(Obedient(), x, y)  # type: ignore[arg-type]
    assert torch.equal(first, drawn_latents(Obedient(), x, y))  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())


def test_samples_repeat_with_their_seed(small_run: Path) -> None:
    model = load_run(small_run, "cpu").model
    y = torch.arange(20) % 10
    assert torch.equal(sampled(model, y, seed=3), sampled(model, y, seed=3))
    assert not torch.equal(sampled(model, y, seed=3), sampled(model, y, seed=4))


def test_shifting_moves_whole_images_and_mirrors_only_when_told() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(200, 1, 8, 8)
    moved = shifted(image, torch.Generator().manual_seed(0), mirror=False)
    down_the_middle = moved[:, 0, 2:6, 4] - moved[:, 0, 2:6, 3]
    assert torch.allclose(down_the_middle, torch.ones(()))
    mirrored = shifted(image, torch.Generator().manual_seed(0), mirror=True)
    steps = (mirrored[:, 0, 4, 4] - mirrored[:, 0, 4, 3]).sign()
    assert set(steps.tolist()) == {-1.0, 1.0}


def test_a_judge_is_never_trained_on_test_images() -> None:
    test = load("mnist-sample", split="test")
    with pytest.raises(UserError, match="never trained on test images"):
        judge_for(test, torch.device("cpu"))


def test_a_judge_comes_from_the_cache_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judging.SIZES, 1, (4, 256))
    data = load("mnist-sample").subset(np.arange(0, 4000, 20))
    first = judge_for(data, torch.device("cpu"))
    monkeypatch.setattr(judging, "train_judge", lambda *_: pytest.fail("trained again"))
    again = judge_for(data, torch.device("cpu"))
    x = torch.tensor(data.images)
    assert torch.equal(first.probabilities(x), again.probabilities(x))
    other = replace(data, labels=(data.labels + 1) % 10, fingerprint="")
    assert isinstance(other, LabelledImages)
    with pytest.raises(BaseException, match="trained again"):
        judge_for(other, torch.device("cpu"))


@pytest.mark.slow
def test_the_judge_reads_real_digits() -> None:
    judge = judge_for(load("mnist-sample"), torch.device("cpu"))
    test = load("mnist-sample", split="test")
    assert (judge.predict(torch.tensor(test.images)) == test.labels).mean() > 0.97
