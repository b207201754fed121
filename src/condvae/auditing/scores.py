"""From what judges say of labels to numbers: array functions, a row an image and a column a class.

`log_p` are log probabilities `log p(y|x)` from judges that haven't seen the image, and `noise` are the
probabilities `p(given|true)` by which labels come to be given. A given label is doubted by its quality
(`QUALITIES`), low where it is probably wrong; how many are wrong, and which are mistaken for which, is
estimated by confident learning (Northcutt et al. 2021), too. To add a quality, write a function here and
name it in `QUALITIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from condvae.auditing.draws import own_generator
from condvae.auditing.tables import Table, blocks, by_blocks, room

Column = NDArray[np.float64]
"""`[N]`."""
Labels = NDArray[np.int64]

FIT_ON = 20_000
"""Images that a pool's few numbers are fitted to, at most; fewer where classes are many."""
FIT_CELLS = 1 << 22
"""Numbers of a judge's table that a pool is fitted to, at most."""
ROUNDS, STEPS, ENOUGH = 30, 5, 1e-6
"""Of a fit: weights by the noise, and by the weights the noise, in steps; nats a label that a round is
to be worth."""
SURE = 4
"""Power of an image's sureness, 1 less its relative entropy, with which it counts for the noise."""
LIKE_ALL = 20.0
"""Images' worth of belief, a class, that its wrong labels are of all classes alike."""
LEAST_NOISE = 1e-3
LIMITS = [(0.0, 20.0)]
"""Of a weight."""
BOOTSTRAPS = 200


# ----------------------------------------------------------------------------------- one label's quality


def log_normalised(logs: Table) -> Table:
    """Log probabilities: every row shifted so that its exponentials sum to 1."""
    logs = np.asarray(logs, np.float64)
    logs = logs - logs.max(1, keepdims=True)
    shifted: Table = logs - np.log(np.exp(logs).sum(1, keepdims=True))
    return shifted


def log_prior(labels: Labels, classes: int) -> Column:
    """Log shares of the classes, an image added to each so that none is impossible."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    prior: Column = np.log(counts / counts.sum())
    return prior


def self_confidence(log_p: Table, labels: Labels) -> Column:
    """Log probability of the given label."""
    return log_p[np.arange(len(labels)), labels].astype(np.float64)


def normalised_margin(log_p: Table, labels: Labels) -> Column:
    """`(p_given - p_best_other + 1) / 2`: 1 where the label is certain, 0 where another is."""
    rows = np.arange(len(labels))
    p = np.exp(log_p, dtype=np.float64)
    given = p[rows, labels].copy()
    p[rows, labels] = -1
    margin: Column = (given - p.max(1) + 1) / 2
    return margin


def log_right(log_p: Table, labels: Labels, noise: Table) -> Column:
    """Log probability that the given label is the true one, by the image and by the label itself.

    By Bayes, of the true label `k`: `p(k | x, given) ~ p(k|x) p(given|k)`. Where two classes are often
    taken for each other, judges come to expect it, and a wrong label is no less probable to them than a
    right one of an image that is hard to read; but only the first can be had by the noise.

    Arguments:
        noise: `p(given|true)`, `[true, given]`.
    """
    with np.errstate(divide="ignore"):
        return self_confidence(log_normalised(log_p + np.log(noise[:, labels].T)), labels)


QUALITIES: dict[str, Callable[[Table, Labels, Table], Column]] = {
    "log_right": log_right,
    "self_confidence": lambda log_p, labels, noise: self_confidence(log_p, labels),
    "margin": lambda log_p, labels, noise: normalised_margin(log_p, labels),
}
RANKED_BY = "log_right"
"""What suspects are ranked by."""


def likeliest(log_p: Table) -> Labels:
    """The likeliest label of each image."""
    found: Labels = by_blocks(lambda block: block.argmax(1), log_p)
    return found


# ---------------------------------------------------------------------------------- several judges' word


@dataclass(frozen=True)
class Pool:
    """Judges' probabilities made one: `log p = sum of weight times log p of each`, normalised.

    Arguments:
        weights: one a judge; with one judge, its inverse temperature.
        noise: `p(given|true)`, `[true, given]`, as the fit found it.
        log_p: the pooled log probabilities, float32.
        likeliest: by them, the label of each image.
    """

    weights: tuple[float, ...]
    noise: Table
    log_p: Table
    likeliest: Labels

    def quality(self, labels: Labels, name: str = RANKED_BY, rows: slice = slice(None)) -> Column:
        """Of the labels that are given to all images, or to some; low where they are probably wrong."""
        measure = QUALITIES[name]
        return by_blocks(lambda p, given: measure(p, given, self.noise), self.log_p[rows], labels)

    def expected_errors(self, labels: Labels) -> float:
        """The expected number of wrong labels."""
        return len(labels) - float(np.exp(self.quality(labels, "log_right")).sum())


def pooled(
    logs: Sequence[Table],
    labels: Labels,
    seed: int = 0,
    folder: Path | None = None,
    name: str = "pooled",
) -> Pool:
    """Pool and calibrate by the given labels, of which a share may be wrong.

    Weights and noise maximise the likelihood of the given labels, `sum over k of p(k|x) p(given|k)`, as
    with a noise layer over a classifier (Sukhbaatar et al. 2015): a judge isn't made unsure of what it
    knows well by labels that are wrong. A useless judge's weight goes to nought. The numbers are few, so
    that the images may be those that are judged.

    Arguments:
        folder, name: where the pooled table is kept, if not in memory.
    """
    most = min(FIT_ON, FIT_CELLS // logs[0].shape[1])
    chosen = np.sort(own_generator(seed, "pool").permutation(len(labels))[:most])
    some = np.stack([log_normalised(table[chosen]) for table in logs])
    weights, noise = _fitted(some, labels[chosen])
    log_p = room(folder, name, logs[0].shape)
    for rows in blocks(log_p):
        parts = np.stack([log_normalised(table[rows]) for table in logs])
        log_p[rows] = log_normalised(np.tensordot(weights, parts, 1))
    return Pool(tuple(map(float, weights)), noise, log_p, likeliest(log_p))


def _fitted(some: NDArray[np.floating], y: Labels) -> tuple[Column, Table]:
    """The weights of judges, `[judges, n, K]`, and the noise, by turns.

    Noise is found by expectation maximisation, with a Dirichlet prior around noise to all classes alike,
    which it begins with. Images that the pool is sure of count for it, because with others a judge's
    mistakes look like wrong labels. And a judge that has learned exactly which labels are given explains
    them without any noise: there may be more than is found, but what is found is where it is.
    """
    from scipy.optimize import minimize

    classes = some.shape[2]
    given = np.eye(classes)[y]
    weights, share = _fitted_alike(some, y)

    def pool(weights: Column) -> Table:
        return log_normalised(np.tensordot(weights, some, 1))

    def loss(weights: Column) -> tuple[float, Column]:
        p = np.exp(pool(weights))
        joint = p * noise[:, y].T
        told = joint.sum(1)
        posterior = joint / told[:, None]
        slope = np.einsum("nk,jnk->j", p - posterior, some) / len(y)
        return float(-np.log(told).mean()), slope

    noise = _alike(max(share, 0.02), classes)
    before = math.inf
    limits = LIMITS * len(some)
    for _ in range(ROUNDS):
        found = minimize(
            loss, weights, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 10}
        ).x
        weights = found if found.any() else weights
        log_p = pool(weights)
        p = np.exp(log_p)
        sure = (1 + (p * log_p).sum(1, keepdims=True) / math.log(classes)).clip(1e-6) ** SURE
        for _ in range(STEPS):
            posterior = p * noise[:, y].T
            posterior /= posterior.sum(1, keepdims=True)
            posterior *= sure
            wrong = 1 - float((posterior * given).sum() / sure.sum())
            counts = posterior.T @ given + LIKE_ALL * _alike(wrong * classes / (classes - 1), classes)
            noise = counts / counts.sum(1, keepdims=True)
        now, _ = loss(weights)
        if before - now < ENOUGH:
            break
        before = now
    return weights, noise


def _alike(share: float, classes: int) -> Table:
    """Noise that gives a share of the labels at random, whatever the true one."""
    share = min(max(share, LEAST_NOISE), 0.9)
    matrix: Table = (1 - share) * np.eye(classes) + share / classes
    return matrix


def _fitted_alike(some: NDArray[np.floating], y: Labels) -> tuple[Column, float]:
    """Weights, and a share of labels that were given at random, whatever the true one."""
    from scipy.optimize import minimize

    judges, number, classes = some.shape
    rows = np.arange(number)

    def loss(parameters: Column) -> tuple[float, Column]:
        weights, noise = parameters[:-1], parameters[-1]
        p = np.exp(log_normalised(np.tensordot(weights, some, 1)))
        right = p[rows, y]
        mixed = (1 - noise) * right + noise / classes
        told = (1 - noise) * right / mixed
        slope = some[:, rows, y] - (p * some).sum(2)
        gradient = np.append(-(told * slope).mean(1), -((1 / classes - right) / mixed).mean())
        return float(-np.log(mixed).mean()), gradient

    alone = [_fitted_alike(table[None], y)[0][0] for table in some] if judges > 1 else [0.5]
    start = np.array([*(max(weight, 1e-3) / judges for weight in alone), 0.1])
    limits = [*LIMITS * judges, (1e-4, 0.9)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits).x
    if not found[:-1].any():  # no judge knows anything: their word as it is, rather than none
        found[:-1] = start[:-1]
    return found[:-1], float(found[-1])


def doubted(pool: Pool, labels: Labels, quality: str = RANKED_BY) -> NDArray[np.int64]:
    """Images whose likeliest label isn't the given one, the most doubtful first."""
    values = pool.quality(labels, quality)
    others = np.flatnonzero(pool.likeliest != labels)
    order: NDArray[np.int64] = others[np.argsort(values[others], kind="stable")]
    return order


# ------------------------------------------------------------------------------------ confident learning


@dataclass(frozen=True)
class Confusion:
    """How many labels are wrong, and which are mistaken for which.

    Arguments:
        joint: `[given, true]`, the estimated shares of images; they sum to 1.
        noise_matrix: `[true, given]`, the estimated `p(given|true)`; rows sum to 1.
        noise_error: standard errors of that.
        errors: estimated number of wrong labels.
        interval: of that number, 95%: of the sampling of images, the judges being as they are.
    """

    joint: Table
    noise_matrix: Table
    noise_error: Table
    errors: float
    interval: tuple[float, float]


def confident_labels(log_p: Table, labels: Labels) -> Labels:
    """The label that each image has with confidence, or -1.

    A class is believed where its probability is at least the mean that it has among the images that are
    given it; of several such classes, the likeliest.
    """
    classes = log_p.shape[1]
    counts = np.bincount(labels, minlength=classes)
    confidence = np.exp(by_blocks(self_confidence, log_p, labels))
    own = np.bincount(labels, weights=confidence, minlength=classes)
    thresholds = np.where(counts > 0, own / np.maximum(counts, 1), np.inf)

    def believed(block: Table) -> Labels:
        p = np.exp(block)
        enough = np.where(p >= thresholds - 1e-12, p, -1)
        return np.where(enough.max(1) >= 0, enough.argmax(1), -1)

    found: Labels = by_blocks(believed, log_p)
    return found


def calibrated_joint(table: Table) -> Table:
    """Shares from counts `[given, confident label, last column: none]`; rows sum to the given labels'.

    A label that no image has with confidence is taken to be right.
    """
    confident, given = table[:, :-1], table.sum(1)
    total = confident.sum(1, keepdims=True)
    shares = np.where(total > 0, confident / np.maximum(total, 1e-300), np.eye(len(table)))
    joint: Table = shares * given[:, None] / given.sum()
    return joint


def noise_of(joint: Table) -> Table:
    """`p(given|true)` of a joint `[given, true]`; a class that no image has keeps its label."""
    true = joint.sum(0)[:, None]
    matrix: Table = np.where(true > 0, joint.T / np.maximum(true, 1e-300), np.eye(len(joint)))
    return matrix


def confident_learning(log_p: Table, labels: Labels, seed: int = 0) -> Confusion:
    """Estimate the joint distribution of given and true labels, with intervals by the bootstrap.

    Drawing images with replacement, thresholds as they are, is drawing the counts of the table from a
    multinomial distribution: it takes no longer for a million images.
    """
    number, classes = log_p.shape
    believed = confident_labels(log_p, labels)
    cells = labels * (classes + 1) + np.where(believed < 0, classes, believed)
    places, counts = np.unique(cells, return_counts=True)

    def joint_of(numbers: NDArray[np.integer]) -> Table:
        table = np.zeros(classes * (classes + 1))
        table[places] = numbers
        return calibrated_joint(table.reshape(classes, classes + 1))

    joint = joint_of(counts)
    generator = own_generator(seed, "bootstrap")
    total, squares = np.zeros((classes, classes)), np.zeros((classes, classes))
    errors = []
    for _ in range(BOOTSTRAPS):
        drawn = joint_of(generator.multinomial(number, counts / number))
        errors.append(number * (1 - np.trace(drawn)))
        matrix = noise_of(drawn)
        total += matrix
        squares += matrix**2
    spread = np.sqrt(np.maximum(squares / BOOTSTRAPS - (total / BOOTSTRAPS) ** 2, 0))
    low, high = np.quantile(errors, [0.025, 0.975])
    wrong = max(0.0, float(number * (1 - np.trace(joint))))
    return Confusion(joint, noise_of(joint), spread, wrong, (max(0.0, float(low)), float(high)))


# ----------------------------------------------------------------------------------------- odd ones out


def robust_z(values: Column) -> Column:
    """How far each value is above the median, in standard deviations of a normal bulk."""
    middle = np.median(values)
    width = 1.4826 * float(np.median(np.abs(values - middle)))
    if not math.isfinite(width) or width <= 0:
        return np.zeros(len(values))
    distance: Column = (values - middle) / width
    return distance
