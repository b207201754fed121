"""Which gradients are of use, and that nothing is forgotten of it in a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
import torch

from condvae.training.health import Health


def taken(health: Health, *norms: float) -> list[bool]:
    return [bool(health.take(torch.tensor(norm), 10.0)) for norm in norms]


def test_what_is_far_beyond_the_usual_or_no_number_is_of_no_use() -> None:
    health = Health(torch.device("cpu"))
    assert taken(health, math.nan, 2.0, 19.0, math.inf, -math.inf, 1e6, 2.0) == [
        *(False, True, True),
        *(False, False, False, True),
    ]
    assert health.counters() == {
        "skipped": 4,
        "skipped_in_a_row": 0,
        "usual_norm": pytest.approx(0.98 * (0.98 * 2 + 0.02 * 19) + 0.02 * 2),
    }
    taken(health, 1e6, 1e6)
    assert int(health.in_a_row) == 2 and int(health.skipped) == 6


def test_a_checkpoint_has_all_of_it() -> None:
    for norms in ((), (3.0, math.nan)):
        health, again = Health(torch.device("cpu")), Health(torch.device("cpu"))
        taken(health, *norms)
        again.restore(json.loads(json.dumps(health.counters())))
        rest = (20.0, 40.0, math.nan, 1.0)
        assert taken(again, *rest) == taken(health, *rest)
        assert again.counters() == health.counters()
