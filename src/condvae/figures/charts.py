"""Charts of evaluations: how a bound tightens with samples, and runs on the rate-distortion plane."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from condvae.figures.grids import ACCENT, FAINT, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULE = "#e3e6ea"


def bound_curve(found: Mapping[str, Any], name: str) -> Image.Image:
    """The bound of `log p(x|y)` against the number of samples: level where it has converged.

    Arguments:
        found: an evaluation.
        name: what was evaluated.
    """
    curve = found["bound_curve"]
    samples, nats = curve["samples"], curve["nats"]
    error = curve["nats_stderr"][-1]
    caption = f"{found['images']:,} {found['split']} images of {found['source']}; {name}"
    figure, axes = _sheet("Bound of log p(x|y) with S samples, nats", caption)
    axes.plot(samples, nats, color=ACCENT, linewidth=1.6, marker="o", markersize=4.5, clip_on=False)
    axes.set_xscale("log")
    axes.set_xticks(samples, [f"{size:,}" for size in samples])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(f"importance samples S (standard error over images: {error:.2f} nats)")
    axes.margins(x=0.06, y=0.2)
    ends = {0: ("ELBO", 12, -6, "left"), len(samples) - 1: ("", 0, 9, "right")}
    for index, (word, right, up, side) in ends.items():
        axes.annotate(
            f"{word} {nats[index]:,.2f}".strip().replace("-", "−"),
            (samples[index], nats[index]),
            xytext=(right, up),
            textcoords="offset points",
            ha=side,
            color=INK,
        )
    return _drawn(figure)


def rate_distortion(evaluations: Mapping[str, Mapping[str, Any]]) -> Image.Image:
    """Runs as points of rate and distortion (Alemi et al. 2018); lines join points of equal ELBO.

    Down and to the left is better; along a line, latents carry more or less at the same ELBO.

    Arguments:
        evaluations: by the name that stands at the point; of one data set, and of likelihoods that
            may be compared.
    """
    rates = np.array([found["rate_nats"] for found in evaluations.values()])
    distortions = np.array([found["distortion_nats"] for found in evaluations.values()])
    sources = ", ".join(sorted({str(found["source"]) for found in evaluations.values()}))
    figure, axes = _sheet("Rate and distortion, nats an image", f"test images of {sources}")
    axes.set_xlabel("rate: KL(q(z|x,y) || p(z|y))")
    axes.set_ylabel("distortion: −E log p(x|z,y)")
    reach = max(np.ptp(rates), np.ptp(distortions), 0.1 * float(np.max(rates + distortions)), 1.0)
    for values, limit in ((rates, axes.set_xlim), (distortions, axes.set_ylim)):
        middle = float(values.min() + values.max()) / 2
        limit(max(0.0, middle - 0.75 * reach), middle + 0.75 * reach)
    _equal_elbo(axes)
    axes.plot(rates, distortions, "o", color=ACCENT, markersize=6)
    for name, rate, distortion in zip(evaluations, rates, distortions, strict=True):
        place = (rate, distortion)
        axes.annotate(name, place, xytext=(8, 5), textcoords="offset points", color=INK)
    return _drawn(figure)


def _equal_elbo(axes: Axes) -> None:
    """Faint lines of equal ELBO, at round numbers, named where they leave the chart."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(7).tick_values(left + low, right + high):
        ends = (total - left, total - right)
        axes.plot((left, right), ends, color=RULE, linewidth=1, zorder=0)
        edge = min(right, total - low)  # where the line meets the right side or the bottom
        if left + 0.12 * (right - left) < edge and total - edge < high:
            place = (edge, total - edge)
            text = f"ELBO {-total:,.0f}".replace("-", "−")
            axes.annotate(
                text,
                place,
                xytext=(-5, 5),
                textcoords="offset points",
                ha="right",
                color=FAINT,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
                fontsize=8,
            )


def _sheet(heading: str, caption: str) -> tuple[Figure, Axes]:
    """An empty chart with a heading: no frame, and as few lines as will do."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=150, facecolor=PAPER, layout="constrained")
    figure.suptitle(heading, x=0.02, ha="left", color=INK, fontsize=12, fontweight="bold")
    axes = figure.add_subplot()
    axes.set_title(caption, loc="left", color=FAINT, fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=8.5)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_axisbelow(True)
    return figure, axes


def _drawn(figure: Figure) -> Image.Image:
    file = BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file, formats=["PNG"]).convert("RGB")
