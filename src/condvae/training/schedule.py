"""How far a run is, and the learning rate there."""

from __future__ import annotations

import math


def progress(step: int, steps: int | None, seconds: float, limit: float | None) -> float:
    """Share of the run that is done, 0 to 1: the larger of its share of steps and of time.

    Arguments:
        step, steps: done, and in all (None where only time ends the run).
        seconds, limit: passed, and allowed (None where only steps end the run).
    """
    by_steps = step / steps if steps else 0.0
    by_time = seconds / limit if limit else 0.0
    return min(1.0, max(by_steps, by_time))


def learning_rate(
    peak: float, step: int, warmup_steps: int, share: float, schedule: str = "cosine"
) -> float:
    """Linear warm-up by steps, times a cosine from 1 to 0 over the run (Loshchilov and Hutter 2017)."""
    if schedule == "constant":
        return peak
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * share))
