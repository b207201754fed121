"""Tables on the disk give what tables in memory give, whatever the size of the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from condvae.auditing import tables
from condvae.auditing.scores import (
    Pool,
    confident_labels,
    confident_learning,
    doubted,
    log_normalised,
    pooled,
)
from condvae.errors import UserError


@pytest.fixture
def logs() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [log_normalised(3 * generator.normal(size=(90, 7))).astype(np.float32) for _ in range(2)]


def test_blocks_on_the_disk_give_what_memory_gives(
    logs: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = logs[0].argmax(1)
    labels[::9] = (labels[::9] + 1) % 7
    whole = pooled(logs, labels)
    monkeypatch.setattr(tables, "CELLS", 7 * 4)
    assert [len(whole.log_p[rows]) for rows in tables.blocks(whole.log_p)] == [4] * 22 + [2]
    parts = pooled(logs, labels, folder=tmp_path / "tables", name="both")
    assert isinstance(parts.log_p, np.memmap) and (tmp_path / "tables" / "both.npy").exists()
    assert parts.weights == whole.weights and (parts.log_p == whole.log_p).all()
    assert (parts.likeliest == whole.likeliest).all()
    assert (confident_labels(parts.log_p, labels) >= -1).all()
    monkeypatch.undo()
    assert (doubted(parts, labels) == doubted(whole, labels)).all()
    found, expected = (confident_learning(pool.log_p, labels) for pool in (parts, whole))
    assert found.errors == pytest.approx(expected.errors)


def test_confidence_is_the_same_in_blocks(
    logs: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(90) % 7
    pool = Pool((1.0,), np.full((7, 7), 1 / 7), logs[0], logs[0].argmax(1))
    before = confident_labels(logs[0], labels), doubted(pool, labels, "margin")
    monkeypatch.setattr(tables, "CELLS", 1)
    after = confident_labels(logs[0], labels), doubted(pool, labels, "margin")
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_no_room_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        tables.room(tmp_path / "taken", "table", (3, 2))
