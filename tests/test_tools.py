"""What the tools say of the packages that condvae stands on."""

from __future__ import annotations

import json
import re
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


def test_ci_installs_the_pinned_versions_and_believes_no_archive_without_a_hash() -> None:
    root = TOOLS.parent
    pinned = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(), re.M
        )
    }
    blocks = re.split(r"\n(?=\S)", (root / ".ci" / "requirements.txt").read_text().strip())[1:]
    locked = {}
    for block in blocks:
        requirement, *hashes = block.split(" \\\n    ")
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
        name, version = requirement.split("==")
        locked[name] = version
    assert {"torch", "pillow", "pytest", "mkdocs", "setuptools"} <= set(locked)
    assert {name: pinned.get(name) for name in locked} == locked


def test_bars_in_a_tables_code_have_no_backslash_on_the_site() -> None:
    page = runpy.run_path(str(TOOLS / "site_tables.py"))["on_page_content"]
    html = r"<p><code>a\|b</code></p><table><td>c|d <code>p(x\|z) q(z\|x)</code></td></table>"
    assert page(html, page=None) == html.replace(r"x\|z", "x|z").replace(r"z\|x", "z|x")


def test_a_lock_keeps_the_hashes_that_were_believed_and_drops_what_is_gone() -> None:
    lock = runpy.run_path(str(TOOLS / "lock.py"))["locked"]

    def package(name: str, version: str, digest: str) -> dict[str, object]:
        archive = {"archive_info": {"hashes": {"sha256": digest}}}
        return {
            "metadata": {"name": name, "version": version},
            "is_direct": False,
            "download_info": archive,
        }

    first = lock({"install": [package("Torch", "2.1+cpu", "aa"), package("old_one", "1", "bb")]})
    assert "torch==2.1 \\\n    --hash=sha256:aa\n" in first and "old-one==1" in first
    second = lock({"install": [package("torch", "2.1", "cc")]}, first)
    assert second.splitlines()[1:] == [
        "torch==2.1 \\",
        "    --hash=sha256:aa \\",
        "    --hash=sha256:cc",
    ]
    third = lock({"install": [package("torch", "2.2", "dd")]}, second)
    assert "aa" not in third and "cc" not in third


def test_the_lowest_versions_are_those_that_the_project_names() -> None:
    lowest = runpy.run_path(str(TOOLS / "lowest.py"))["lowest"]
    project = '[project]\ndependencies = ["torch>=2.4", "a-b>=1.9"]\n[project.optional-dependencies]\n'
    found = lowest(project + 'x = ["a-b[c]>=1.10", "d>=3,<5"]\ndev = ["pytest>=8"]')
    assert found == {"a-b": "1.10", "d": "3"}
    with pytest.raises(ValueError, match="lower bound"):
        lowest(project + 'x = ["e"]')
    assert "torch" not in lowest((TOOLS.parent / "pyproject.toml").read_text())
