"""The page: it comes up on this machine alone, asks no other host for anything, and needs gradio."""

from __future__ import annotations

import gc
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from condvae import cli
from condvae.errors import UserError
from condvae.explorer.answers import MOST_BYTES, Subject
from condvae.explorer.serve import POLICY, UPLOADS, latest


@pytest.fixture
def served(small_run: Path) -> Iterator[str]:
    """The address of an explorer in a process of its own."""
    pytest.importorskip("gradio", reason="the explorer's page needs gradio")
    command = [
        sys.executable,
        "-m",
        "condvae",
        "explore",
        str(small_run),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split(" is shown at ")[1].split()[0]
        process.terminate()


def test_without_gradio_it_says_what_to_install(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"condvae\[explore\]"):
        cli.run(["explore", str(small_run)])


def test_the_run_that_was_trained_last_is_shown(tmp_path: Path) -> None:
    assert latest(tmp_path) == "mnist", "a model that comes along, where there is no run"
    import os

    for age, name in ((5, "new"), (50, "old")):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "model.safetensors"
        file.write_bytes(b"")
        os.utime(file, (10_000 - age, 10_000 - age))
    assert latest(tmp_path) == str(tmp_path / "new")


def test_the_policy_names_no_other_host() -> None:
    assert "http" not in POLICY and "*" not in POLICY and "'self'" in POLICY


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_is_served_with_its_guard(served: str) -> None:
    assert served.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(served, timeout=30) as answer:
        assert answer.headers["content-security-policy"] == POLICY
        text = answer.read().decode()
    assert "condvae: small" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_strangers_are_refused(served: str, small_run: Path) -> None:
    def status(path: str, content: bytes | None = None, **headers: str) -> int:
        asked = urllib.request.Request(served + path, content, headers)
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200
    assert status("", Host="stranger.example") == 403, "a name that was made to mean this machine"
    join = "gradio_api/queue/join"
    assert status(join, b"{}", Origin="http://stranger.example") == 403
    assert status(join, b"{}", Origin="null") == 403
    assert status(join, b"{}", Origin=served.rstrip("/")) not in (200, 403), "refused for what it says"
    for path in ("/etc/passwd", str(small_run / "model.safetensors"), "../../../../etc/passwd"):
        assert status(f"gradio_api/file={path}") in (403, 404)

    def upload(size: int) -> int:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = head + bytes(size) + b"\r\n--x--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        return status("gradio_api/upload", body, **kind)

    assert upload(10) == 200
    assert upload(MOST_BYTES + 1) == 413
    assert 429 in [upload(10) for _ in range(UPLOADS)]


@pytest.mark.filterwarnings("ignore")
def test_every_tab_is_there_and_analytics_are_off(subject: Subject) -> None:
    pytest.importorskip("gradio", reason="the explorer's page needs gradio")
    from condvae.explorer.page import page_of

    page = page_of(subject)
    assert page.analytics_enabled is False
    labels = {part["props"].get("label") for part in page.get_config_file()["components"]}
    assert labels >= {"Wrong label", "Latent space", "Between", "Samples", "Numbers", "Audit"}
    del page
    gc.collect()  # Gradio leaves an event loop open, of which nobody needs to hear after the test
