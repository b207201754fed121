"""Downloads, from a server on this machine: mirrors, hashes, and what is said when all fail."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from condvae.data import load, sources
from condvae.data.download import Remote, fetch, is_whole
from condvae.data.sources import SOURCES
from condvae.errors import UserError

CONTENT = b"\x00\x00\x08\x01\x00\x00\x00\x04abcd"
SUM = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of an empty folder: its address, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/", folder
        listening.shutdown()
        thread.join()


def test_the_second_mirror_serves_where_the_first_fails(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = server
    (folder / "good").mkdir()
    (folder / "good" / "x-ubyte.gz").write_bytes(gzip.compress(CONTENT))
    remote = Remote("x-ubyte.gz", (f"{address}missing/", f"{address}good/"), SUM)
    path = fetch(remote, tmp_path / "cache", "x", "do something")
    assert gzip.decompress(path.read_bytes()) == CONTENT
    (folder / "good" / "x-ubyte.gz").unlink()
    assert fetch(remote, tmp_path / "cache", "x", "do something") == path, "kept, not fetched again"


def test_a_wrong_hash_is_not_believed_and_not_kept(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    (folder / "x-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    remote = Remote("x-ubyte.gz", (address,), SUM)
    with pytest.raises(UserError, match="wrong SHA-256, and was removed"):
        fetch(remote, tmp_path / "cache", "x", "do something")
    assert not list((tmp_path / "cache").iterdir())


def test_a_half_downloaded_file_is_fetched_again(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    (folder / "x-ubyte.gz").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x-ubyte.gz").write_bytes(gzip.compress(CONTENT)[:10])
    path = fetch(Remote("x-ubyte.gz", (address,), SUM), tmp_path / "cache", "x", "do something")
    assert is_whole(path, SUM)


def test_a_dataset_that_no_mirror_has_is_a_sentence(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remotes = tuple(replace(remote, mirrors=(server[0],)) for remote in SOURCES["mnist"].remotes)
    monkeypatch.setitem(sources.SOURCES, "mnist", replace(SOURCES["mnist"], remotes=remotes))
    monkeypatch.setenv("CONDVAE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        load("mnist")
    message = str(caught.value)
    assert "could not be downloaded" in message and "--data-root" in message and "\n" not in message


def test_a_cache_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CONDVAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set CONDVAE_CACHE"):
        load("mnist")
