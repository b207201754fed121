"""The judges of labels, by name. To add one, write a class with `testify` and give it a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from condvae.auditing.classifier import ClassifierWitness
from condvae.auditing.generative import GenerativeWitness
from condvae.auditing.neighbours import NeighboursWitness
from condvae.auditing.task import Witness
from condvae.registry import check_choice

WITNESSES: dict[str, Callable[[], Witness]] = {
    "classifier": ClassifierWitness,
    "neighbours": NeighboursWitness,
    "generative": GenerativeWitness,
}
"""In the order in which they are heard."""

COMBINED = "combined"
OUTLIERS = "neighbours"
"""Heard in every audit: it takes hardly any time, and knows images that are like no other."""


def score_names() -> list[str]:
    """What labels may be ranked by: any witness, or all of them together."""
    return [COMBINED, *WITNESSES]


def witnesses_for(scores: str) -> dict[str, Witness]:
    """The witnesses that a score needs.

    Raises:
        UserError: there is no such score.
    """
    check_choice("--scores", scores, score_names())
    return {
        name: build()
        for name, build in WITNESSES.items()
        if scores in (COMBINED, name) or name == OUTLIERS
    }


def shares(witnesses: Mapping[str, Witness], channels: int) -> dict[str, float]:
    """Each witness's part of the time; the parts sum to 1, unless nobody needs any."""
    wanted = {name: witness.share[channels] for name, witness in witnesses.items()}
    total = sum(wanted.values()) or 1.0
    return {name: part / total for name, part in wanted.items()}
