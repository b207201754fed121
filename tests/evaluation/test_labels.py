"""Swaps, probes and the judge measure what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condvae.data import LabelledImages, load
from condvae.data.augment import blurred, degraded, shifted
from condvae.errors import UserError
from condvae.evaluation import judge as judging
from condvae.evaluation.judge import (
    KernelJudge,
    Panel,
    panel_for,
    place_of,
    predict,
)
from condvae.evaluation.labels import counterfactual_numbers, judged, realism, returned
from condvae.evaluation.outputs import Outputs, outputs_of, sampled, swapped
from condvae.evaluation.probes import drawn_latents, probe_accuracy
from condvae.probability.images import centred, uncentred
from condvae.run import load as load_run


class Obedient:
    """Makes pictures of its label: pixel values are 20 times the label."""

    shape, classes, latents = (1, 4, 4), 5, 2

    def encode(self, x: torch.Tensor, y: torch.Tensor, sample: bool = False) -> tuple[torch.Tensor]:
        return (y[:, None].float().expand(-1, 2) + (torch.randn(len(y), 2) if sample else 0),)

    def transfer(self, latents: tuple[torch.Tensor], *_: object) -> tuple[torch.Tensor]:
        return latents

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


class PixelJudge:
    """Reads the label that `Obedient` writes; its features are pixels."""

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return -(images[:, 0, 0, :1].float() / 20 - torch.arange(5)).abs()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float()


class Contrary(PixelJudge):
    """Reads the next label."""

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return super().scores(images).roll(1, 1)


def outputs(model: Obedient) -> Outputs:
    y = torch.arange(50) % 5
    x = (20 * y)[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8)
    return outputs_of(model, x, x, y, (y + 2) % 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "swaps", "kept"), [(Obedient(), 1.0, 0.0), (Deaf(), 0.0, 1.0)])
def test_measures_tell_a_model_that_listens_from_one_that_does_not(
    model: Obedient, swaps: float, kept: float
) -> None:
    panel = Panel({"pixels": PixelJudge()}, {}, PixelJudge())  # type: ignore[arg-type]
    found = judged(panel, outputs(model))
    assert found["judge_accuracy"] == found["reconstruction_accuracy"] == 1
    assert (found["swap_accuracy"], found["swap_kept_accuracy"]) == (swaps, kept)
    assert found["sample_accuracy"] == 1
    numbers = counterfactual_numbers(panel, outputs(model))
    assert numbers["counterfactual_shares"]["read"] == swaps
    assert set(numbers["style"]) == {"slant", "thickness", "width", "height"}


def test_what_reconstructions_have_lost_of_the_style_is_told() -> None:
    test = load("mnist-sample", split="test").subset(np.arange(0, 1000, 5))
    panel = Panel({"pixels": PixelJudge()}, {}, PixelJudge())  # type: ignore[arg-type]
    real, y = torch.tensor(test.images), test.labels

    def told(made: torch.Tensor) -> float:
        found = counterfactual_numbers(panel, Outputs(real, made, real, real, y, (y + 1) % 10, y))
        return float(found["reconstructions_alike"])

    assert told(real) == 1
    assert told(real.roll(1, 0)) < 0.3


def test_the_worst_of_the_networks_counts() -> None:
    panel = Panel(
        {"pixels": PixelJudge(), "contrary": Contrary()},
        {"other": PixelJudge()},
        PixelJudge(),  # type: ignore[arg-type]
    )
    found = judged(panel, outputs(Obedient()))
    assert found["judges"]["pixels"]["swaps"] == found["judges"]["other"]["swaps"] == 1
    assert found["swap_accuracy"] == found["judge_accuracy"] == 0
    assert counterfactual_numbers(panel, outputs(Obedient()))["counterfactual_score"] == 0


def test_realism_finds_swaps_that_are_like_reconstructions_and_such_as_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 400)
    given = (labels + 1) % 5

    def pictures(of: np.ndarray) -> torch.Tensor:
        noise = generator.normal(0, 8, (len(of), 1, 8, 8))
        return torch.tensor((40 * of[:, None, None, None] + 30 + noise).clip(0, 255).astype(np.uint8))

    made = Outputs(
        *(pictures(labels), pictures(labels), pictures(given), pictures(labels)), labels, given, labels
    )
    panel = Panel({}, {}, PixelJudge())  # type: ignore[arg-type]
    alike = realism(panel, made)
    other = realism(panel, replace(made, swaps=255 - made.swaps))
    assert abs(alike["discriminator_auroc"] - 0.5) < 0.15 and other["discriminator_auroc"] > 0.65
    assert abs(alike["swaps"]["kernel"]) < 0.01 * other["swaps"]["kernel"]
    assert (
        alike["swaps"]["frechet"] < 2 * alike["reconstructions"]["frechet"] < other["swaps"]["frechet"]
    )


def test_there_and_back_is_measured_against_the_reconstruction(small_run: Path) -> None:
    model = load_run(small_run, "cpu").model
    test = load("mnist-sample", split="test").subset(np.arange(0, 1000, 25))
    x, y = torch.tensor(test.images), torch.tensor(test.labels)
    made = outputs_of(model, x, x, y, (y + 1) % 10)
    there = returned(model, made, y, (y + 1) % 10)
    assert 0 < there["composition"] < there["scale"] and there["reversibility"] > 0


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


def test_degrading_leaves_a_quarter_alone_and_keeps_the_range() -> None:
    images = 2 * torch.rand(40, 3, 16, 16) - 1
    seen = degraded(images, torch.Generator().manual_seed(0))
    same = (seen == images).flatten(1).all(1)
    assert same.tolist() == [True] * 10 + [False] * 30
    assert seen.shape == images.shape and seen.min() >= -1 and seen.max() <= 1
    for few in (1, 2, 3):
        assert degraded(images[:few], torch.Generator().manual_seed(0)).shape == images[:few].shape


def test_blur_keeps_the_mean_and_spreads_a_point() -> None:
    point = torch.zeros(1, 1, 15, 15)
    point[..., 7, 7] = 1
    soft = blurred(point, 1.5)
    place = torch.arange(15.0) - 7
    assert soft.sum().item() == pytest.approx(1, abs=1e-5)
    assert (soft[0, 0].sum(0) * place.square()).sum().item() == pytest.approx(1.5**2, rel=0.1)


def test_pixels_go_to_a_network_and_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(uncentred(centred(images)), images)


def test_a_photograph_and_its_mirror_image_are_read_alike() -> None:
    torch.manual_seed(0)
    shape = (3, 8, 10)
    network = judging.CLASSIFIERS.build("plain", shape=shape, classes=4, width=16)
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    judge = judging.NeuralJudge(network.eval())
    assert torch.allclose(judge.scores(images), judge.scores(images.flip(3)), atol=1e-5)
    alone = network(centred(images))
    assert not torch.allclose(judge.scores(images), alone, atol=1e-3)


def test_a_grey_image_is_read_as_it_is() -> None:
    torch.manual_seed(0)
    network = judging.CLASSIFIERS.build("plain", shape=(1, 8, 10), classes=4, width=16)
    images = torch.randint(0, 256, (5, 1, 8, 10), dtype=torch.uint8)
    judge = judging.NeuralJudge(network.eval())
    assert torch.equal(judge.scores(images), network(centred(images)))


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
def test_a_network_learns_by_either_optimiser(optimiser: str) -> None:
    data = load("mnist-sample").subset(np.arange(0, 4000, 4))
    torch.manual_seed(0)
    network = judging.CLASSIFIERS.build("residual", shape=data.shape, classes=10, width=16)
    device = torch.device("cpu")
    taken = judging.train_classifier(network, data, device, 12_800, seed=0, optimiser=optimiser)
    test = load("mnist-sample", split="test")
    read = judging.predict(judging.NeuralJudge(network.eval()), torch.tensor(test.images))
    assert taken == 100
    assert (read == test.labels).mean() > 0.85


def test_places_count_the_classes_that_score_higher() -> None:
    images = torch.tensor([0, 20, 40], dtype=torch.uint8)[:, None, None, None]
    assert place_of(PixelJudge(), images, np.array([0, 2, 0])).tolist() == [0, 1, 3]


# ---------------------------------------------------------------------------------------- the judges


@pytest.fixture
def quick_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judging.SIZES, 1, (4, 256))
    monkeypatch.setattr(judging, "LANDMARKS", 50)


def test_a_judge_is_never_trained_on_test_images() -> None:
    test = load("mnist-sample", split="test")
    with pytest.raises(UserError, match="never trained on test images"):
        panel_for(test, torch.device("cpu"))


@pytest.mark.usefixtures("quick_judges")
@pytest.mark.parametrize("name", ["residual", "plain", "mixer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_of_few_images_does_not_blow_up(
    name: str, precision: str, request: pytest.FixtureRequest
) -> None:
    """Without a limit to its gradient, the mixer ended in numbers that are none."""
    if precision == "bf16":
        request.getfixturevalue("fast_bf16")
    generator = np.random.default_rng(0)
    labels = np.arange(60) // 30
    drawn = [generator.integers(0, 120, (8, 8, 3), dtype=np.uint8) for _ in labels]
    images = np.stack(drawn).transpose(0, 3, 1, 2).copy()
    images[np.arange(60), labels] += 100
    data = LabelledImages(images, labels, ("cat", "dog"), "pets", "train")
    torch.manual_seed(2029)
    network = judging.CLASSIFIERS.build(name, shape=(3, 8, 8), classes=2, width=32)
    device = torch.device("cpu")
    judging.train_classifier(network, data, device, 1800, seed=3, precision=precision)
    judge = judging.NeuralJudge(network.eval())
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert (judging.predict(judge, torch.tensor(images)) == labels).mean() > 0.9


def test_judges_come_from_the_cache_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("mnist-sample").subset(np.arange(0, 4000, 20))
    shares: list[float] = []
    first = panel_for(data, torch.device("cpu"), shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    monkeypatch.setattr(judging, "train_classifier", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(KernelJudge, "fit", lambda *_: pytest.fail("fitted again"))
    again = panel_for(data, torch.device("cpu"))
    x = torch.tensor(data.images)
    for name, judge in first.judges.items():
        assert torch.equal(judge.scores(x), again.judges[name].scores(x)), name
    assert torch.equal(first.reader.features(x), again.reader.features(x))
    other = replace(data, labels=(data.labels + 1) % 10, fingerprint="")
    assert isinstance(other, LabelledImages)
    with pytest.raises(BaseException, match="trained again"):
        panel_for(other, torch.device("cpu"))


@pytest.mark.usefixtures("quick_judges")
def test_the_kernel_judge_solves_its_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "LANDMARKS", 300)
    data = load("mnist-sample").subset(np.arange(0, 3900, 13))
    judge = KernelJudge.fit(data, strength=1e-9)
    assert (predict(judge, torch.tensor(data.images)) == data.labels).mean() > 0.98
    test = load("mnist-sample", split="test").subset(np.arange(0, 1000, 2))
    assert (predict(judge, torch.tensor(test.images)) == test.labels).mean() > 0.8
