"""The small run, with its test images and without judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from condvae.explorer.answers import Subject, subject_of
from condvae.run import load


@pytest.fixture(scope="session")
def subject(small_run: Path) -> Subject:
    return subject_of(load(small_run, "cpu"))
