"""What the tools say of the packages that condvae stands on."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def test_every_package_tells_its_licence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["licences.py"])
    runpy.run_path(str(TOOLS / "licences.py"), run_name="__main__")
    rows = capsys.readouterr().out.splitlines()[2:]
    names = {row.split(" | ")[0].strip("| ") for row in rows}
    assert {"torch", "numpy", "pillow", "safetensors", "typing-extensions"} <= names
    assert all(row.count("|") >= 4 and "UNKNOWN" not in row for row in rows)


def test_known_faults_are_told_with_what_mends_them() -> None:
    faults = runpy.run_path(str(TOOLS / "advisories.py"))["faults"]
    report = {
        "dependencies": [
            {"name": "sound", "version": "1", "vulns": []},
            {"name": "ill", "version": "2", "vulns": [{"id": "PYSEC-0", "fix_versions": ["2.1"]}]},
            {"name": "unread", "skip_reason": "not on the index"},
        ]
    }
    assert faults(json.dumps(report)) == ["ill 2: PYSEC-0, mended in 2.1"]
    for nothing in ("", "[]", "no network"):
        with pytest.raises(ValueError):
            faults(nothing)


def test_advisories_are_skipped_with_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    runpy.run_path(str(TOOLS / "advisories.py"), run_name="__main__")
    assert "skipped" in capsys.readouterr().out


def test_the_fuzzer_knows_its_targets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz.py"])
    runpy.run_path(str(TOOLS / "fuzz.py"), run_name="__main__")
    assert {"idx", "npz", "zip", "image", "recipe", "run"} <= set(capsys.readouterr().out.split())
