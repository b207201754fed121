"""`condvae doctor` finds a sound installation sound, and says what is wrong with another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import condvae
from condvae import cli
from condvae.verbs import doctor
from condvae.verbs.doctor import MATTERS, Finding


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No matter that takes seconds."""
    for name in ("known training", "determinism", "torch.compile"):
        monkeypatch.setitem(MATTERS, name, lambda _, name=name: Finding(name, "not looked at"))


@pytest.mark.slow
def test_this_installation_is_sound() -> None:
    found = condvae.doctor(quiet=True)
    assert found["healthy"], found
    assert [each["name"] for each in found["findings"]] == list(MATTERS)
    by_name = {each["name"]: each["found"] for each in found["findings"]}
    assert "torch" in by_name["packages"] and "same weights" in by_name["determinism"]
    assert "mnist-sample: inside condvae" in by_name["datasets"]


def test_it_prints_a_table_and_what_would_help(
    quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(doctor, "SPACE", 1e18)
    cli.run(["doctor"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in MATTERS)
    assert "make room, or set CONDVAE_CACHE" in printed and "condvae works here" in printed


def test_what_is_wrong_is_told_by_code_and_in_json(
    quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ill(_: object) -> Finding:
        raise ImportError("libexample.so is missing")

    monkeypatch.setitem(MATTERS, "device", ill)
    with pytest.raises(SystemExit) as ended:
        cli.run(["doctor", "--json"])
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["healthy"]
    (wrong,) = [each for each in found["findings"] if not each["fine"]]
    assert wrong["name"] == "device" and "libexample.so" in wrong["found"] and wrong["advice"]


def test_packages_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_requirements", lambda: iter([("numpy", "999.1"), ("no-such", "1")]))
    found = doctor._packages(None)
    assert not found.fine and "older than 999.1" in found.advice and "no-such is missing" in found.advice
    assert doctor._release("2.13.0+cpu") == (2, 13, 0) and doctor._release("1.10rc1") > (1, 9)


def test_a_number_that_is_not_the_known_one_is_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KNOWN_EPOCHS", 0.1)
    monkeypatch.setattr(doctor, "KNOWN_ELBO", -20.0)
    found = doctor._known_result(None)
    assert not found.fine and "trust no number" in found.advice


def test_a_cache_that_cannot_be_written_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CONDVAE_CACHE", str(tmp_path / "file"))
    found = doctor._cache(None)
    assert found.fine and "can't be written" in found.found and "CONDVAE_CACHE" in found.advice
