"""Whatever bytes a reader is given, it reads or refuses them, soon, in a sentence and in little room."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, attempt, seeds

CORPUS = Path(__file__).parents[1] / "corpus"
ROOM = 1 << 28
"""Bytes that reading a few kilobytes may take, at most."""
patient = settings(
    max_examples=60,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """A whole file of which a few places are overwritten, cut out, doubled or filled up."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 100]))
        new = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [b"\xff" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff", b"-1", b"9" * 40, b"../"]
                ),
                st.sampled_from([b"[" * 3000, b'{"a":' * 2000, b"(" * 3000, b"-" * 3000]),
                st.just(bytes(content[at : at + length]) * 3),
            )
        )
        content[at : at + length] = new
    return bytes(content[: draw(st.sampled_from([len(content)] * 3 + [len(content) // 2]))])


def little(name: str, content: bytes) -> bool:
    """An attempt that has to do with little memory."""
    tracemalloc.start()
    try:
        taken = attempt(name, content)
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()
    return taken


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_taken(name: str) -> None:
    assert any(attempt(name, content) for content in seeds(name)) or name == "npy"


@pytest.mark.parametrize("name", TARGETS)
@given(content=st.binary(max_size=200))
@patient
def test_any_bytes_are_read_or_refused(name: str, content: bytes) -> None:
    little(name, content)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@patient
def test_damaged_files_are_read_or_refused(name: str, data: st.DataObject) -> None:
    little(name, data.draw(changed(data.draw(st.sampled_from(seeds(name))))))


@pytest.mark.parametrize(
    "file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_what_once_did_harm_does_none(file: Path) -> None:
    little(file.parent.name, file.read_bytes())
