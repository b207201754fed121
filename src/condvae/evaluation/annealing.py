"""Annealed importance sampling: a second estimate of `log p(x|y)`, without the encoder.

A chain starts at a draw from the prior and is led to the posterior through the densities

    f_t(z) = p(z|y) p(x|z,y)^beta_t,    0 = beta_0 < beta_1 < ... < beta_T = 1,

by Hamiltonian Monte Carlo, which leaves every f_t as it is. Its log weight,

    log w = sum_t (beta_t - beta_{t-1}) log p(x|z_{t-1},y),

has `E[w] = p(x|y)` (Neal 2001), so that `log mean_c w_c` over chains is a lower bound in expectation,
tighter with more steps (Wu et al. 2017, who put it to decoders). Backwards from an exact draw from the
posterior, `E[1/w] = 1/p(x|y)`, and the same is an upper bound. Exact draws are had for images that the
model itself has made; there the truth lies between the two (bidirectional Monte Carlo: Grosse et al.
2015), and their gap says how far annealing can be trusted on images like the real ones.

Weights are exact only if a step does not depend on the chain it moves: step sizes are tuned on chains of
their own, which are then thrown away. All is float32, in nats an image, and the same in any batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.evaluation.bounds import NoiseStreams
from condvae.models.protocol import ConditionalModel, Images, Labels, flat, grouped

CHAINS, LEAPFROGS, IMAGES_AT_ONCE = 8, 2, 32
"""At one cost, more densities and fewer leapfrogs gave the smaller gap (on the `mnist` recipe)."""
ACCEPTANCE, FIRST_SIZE, ADAPTATION = 0.65, 0.25, 0.2
"""The acceptance that step sizes are tuned to (Wu et al. 2017), from which size on, and how fast."""


@dataclass(frozen=True)
class State:
    """Where chains are, and what the next step needs to know of that place."""

    latents: Float[Tensor, "rows z"]
    log_prior: Float[Tensor, "rows"]
    log_likelihood: Float[Tensor, "rows"]
    prior_slope: Float[Tensor, "rows z"]
    likelihood_slope: Float[Tensor, "rows z"]

    def log_density(self, beta: float) -> Float[Tensor, "rows"]:
        """`log p(z|y) + beta log p(x|z,y)`."""
        return self.log_prior + beta * self.log_likelihood

    def slope(self, beta: float) -> Float[Tensor, "rows z"]:
        """The gradient of `log_density` with respect to the latents."""
        return self.prior_slope + beta * self.likelihood_slope

    def replaced(self, other: State, where: Bool[Tensor, "rows"]) -> State:
        """The other state in some rows."""

        def chosen(name: str) -> Tensor:
            mine, theirs = getattr(self, name), getattr(other, name)
            return torch.where(where[:, None] if mine.ndim == 2 else where, theirs, mine)

        return State(*(chosen(field.name) for field in fields(self)))


class Chains:
    """Several chains for each of a few images; a row is one chain, the images of a chain in turn.

    Arguments:
        indices: each image's place in the data set, which its randomness comes from.
        seed: of that randomness.
    """

    def __init__(
        self, model: ConditionalModel, x: Images, y: Labels, indices: list[int], chains: int, seed: int
    ) -> None:
        self.model, self.chains, self.images = model, chains, len(y)
        self.x, self.y = x.repeat(chains, 1, 1, 1), y.repeat(chains)
        # One number more than there are latents: it decides whether a step is accepted.
        self.noise = NoiseStreams(indices, model.latents + 1, seed, y.device)

    def at(self, latents: Float[Tensor, "rows z"]) -> State:
        """Densities and their gradients at a place."""
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            groups = grouped(latents, self.model.group_shapes)
            log_prior = self.model.log_prior(groups, self.y)
            log_likelihood = self.model.decode(groups, self.y).log_prob(self.x)
            (prior_slope,) = torch.autograd.grad(log_prior.sum(), latents, retain_graph=True)
            (likelihood_slope,) = torch.autograd.grad(log_likelihood.sum(), latents)
        found = (latents, log_prior, log_likelihood, prior_slope, likelihood_slope)
        return State(*(tensor.detach() for tensor in found))

    def step(
        self, state: State, beta: float, size: Float[Tensor, "images"]
    ) -> tuple[State, Float[Tensor, "images"]]:
        """One step of Hamiltonian Monte Carlo (Neal 2011), and each image's mean acceptance."""
        noise = self.noise.draw(self.chains).flatten(0, 1).to(state.latents.dtype)
        begun, log_uniform = noise[:, :-1], torch.special.log_ndtr(noise[:, -1])
        width = size.repeat(self.chains)[:, None]
        moved = state
        momentum = begun + width / 2 * state.slope(beta)
        for index in range(LEAPFROGS):
            moved = self.at(moved.latents + width * momentum)
            last = index == LEAPFROGS - 1
            momentum = momentum + (width / 2 if last else width) * moved.slope(beta)
        kinetic = (momentum.square() - begun.square()).sum(1) / 2
        log_ratio = moved.log_density(beta) - state.log_density(beta) - kinetic
        log_ratio = torch.nan_to_num(log_ratio, nan=-math.inf).clamp(max=0)
        acceptance = log_ratio.exp().unflatten(0, (self.chains, self.images)).mean(0)
        return state.replaced(moved, log_uniform < log_ratio), acceptance

    def anneal(
        self,
        state: State,
        betas: list[float],
        sizes: Float[Tensor, "steps images"],
        tick: Callable[[], None],
        tune: bool = False,
    ) -> Float[Tensor, "chains images"]:
        """The chains' log weights, on the way through `betas`: up for a forward run, down for a reverse.

        Arguments:
            sizes: of the steps between; with `tune`, each but the first is set by the one before it.
        """
        log_weights = torch.zeros_like(state.log_likelihood, dtype=torch.float64)
        for index, (before, after) in enumerate(itertools.pairwise(betas)):
            log_weights += (after - before) * state.log_likelihood.double()
            if index < len(sizes):
                state, acceptance = self.step(state, after, sizes[index])
                if tune:
                    change = torch.exp(ADAPTATION * (acceptance - ACCEPTANCE))
                    sizes[index + 1 : index + 2] = sizes[index] * change
            tick()
        return log_weights.unflatten(0, (self.chains, self.images))


def schedule(steps: int, steepness: float = 4.0) -> list[float]:
    """`beta_0 = 0` to `beta_T = 1` along a sigmoid: small steps at both ends (Grosse et al. 2015)."""
    raw = [math.tanh(steepness * (step / steps - 0.5)) for step in range(steps + 1)]
    return [(value - raw[0]) / (raw[-1] - raw[0]) for value in raw]


def _estimate(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    indices: list[int],
    exact: Float[Tensor, "images z"] | None,
    steps: int,
    chains: int,
    seed: int,
    tick: Callable[[], None],
) -> list[Float[Tensor, "images"]]:
    """The forward estimate of every image; and, from exact draws from its posterior, the reverse one."""
    betas = schedule(steps)

    def chains_of(purpose: int, number: int) -> Chains:
        return Chains(model, x, y, indices, number, 1000 * (seed + 1) + purpose)

    def from_prior(run: Chains, purpose: int) -> State:
        rows = []
        for index, label in zip(indices, y, strict=True):
            source = _generator(seed, purpose, index, y.device)
            rows.append(flat(model.draw(label.repeat(run.chains), 1.0, source)))
        return run.at(torch.stack(rows, 1).flatten(0, 1))

    sizes = torch.full((steps - 1, len(y)), FIRST_SIZE, device=y.device)
    tuning = chains_of(1, max(2, chains // 4))
    tuning.anneal(from_prior(tuning, 2), betas, sizes, tick, tune=True)
    forward = chains_of(3, chains)
    log_weights = forward.anneal(from_prior(forward, 4), betas, sizes, tick)
    found = [torch.logsumexp(log_weights, 0) - math.log(chains)]
    if exact is not None:
        reverse = chains_of(5, chains)
        start = reverse.at(exact.repeat(chains, 1))
        log_weights = reverse.anneal(start, betas[::-1], sizes.flip(0), tick)
        found.append(math.log(chains) - torch.logsumexp(log_weights, 0))
    return found


def _generator(seed: int, purpose: int, index: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed((1000 * (seed + 1) + purpose) * 1_000_003 + index)


@torch.no_grad()
def annealed(
    model: ConditionalModel,
    images: Images,
    labels: Labels,
    *,
    steps: int,
    chains: int = CHAINS,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> NDArray[np.float64]:
    """Annealed estimates of `log p(x|y)` of every image, each a lower bound in expectation.

    Arguments:
        images: as the model sees them (`fixed_binarisation`), of a model in evaluation mode.
        steps: densities T from the prior to the posterior; `LEAPFROGS` gradients each.
        chains: weighted chains an image.
        progress: told the share that is done.
    """
    parts = []
    tick = _ticker(progress, 2 * steps, len(labels))
    for start in range(0, len(labels), IMAGES_AT_ONCE):
        x, y = images[start : start + IMAGES_AT_ONCE], labels[start : start + IMAGES_AT_ONCE]
        here = list(range(start, start + len(y)))
        parts.append(_estimate(model, x, y, here, None, steps, chains, seed, tick)[0])
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def sandwiched(
    model: ConditionalModel,
    labels: Labels,
    *,
    steps: int,
    chains: int = CHAINS,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bounds (in expectation) of `log p(x|y)` of images that the model makes itself.

    An image and its latents are drawn together, so that these are an exact draw from the posterior given
    that image: one image a label, by bidirectional Monte Carlo.
    """
    parts = []
    tick = _ticker(progress, 3 * steps, len(labels))
    for start in range(0, len(labels), IMAGES_AT_ONCE):
        y = labels[start : start + IMAGES_AT_ONCE]
        here = list(range(start, start + len(y)))
        latents, images = [], []
        for index, label in zip(here, y[:, None], strict=True):
            source = _generator(seed, 6, index, y.device)
            drawn = model.draw(label, 1.0, source)
            latents.append(flat(drawn))
            images.append(model.decode(drawn, label).sample_image(source))
        x, exact = torch.cat(images), torch.cat(latents)
        parts.append(_estimate(model, x, y, here, exact, steps, chains, seed + 1, tick))
    lower, upper = (torch.cat(side).cpu().numpy() for side in zip(*parts, strict=True))
    return lower, upper


def _ticker(progress: Callable[[float], None], ticks_a_part: int, images: int) -> Callable[[], None]:
    """Called that often for every part of the images, tells the share that is done."""
    total = ticks_a_part * -(-images // IMAGES_AT_ONCE)
    count = itertools.count(1)
    return lambda: progress(next(count) / total)
