"""The Hub, by a stand-in for its client: what is sent, what is fetched, and what is said offline."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import condvae
from condvae import cli
from condvae.config import load_recipe
from condvae.data import hub
from condvae.errors import UserError
from condvae.run import load
from condvae.verbs.push import front_matter, pack, portable


class StandIn:
    """The two calls of the client that are made, on a folder that stands for the Hub."""

    def __init__(self, place: Path) -> None:
        self.place, self.online, self.private = place, True, False

    def HfApi(self, **_: Any) -> StandIn:
        return self

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "model" and exist_ok
        self.reach()
        self.private = private

    def upload_folder(
        self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str
    ) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.place / repo_id)

    def snapshot_download(
        self,
        repo_id: str,
        *,
        repo_type: str,
        revision: str | None,
        local_dir: Path,
        allow_patterns: list[str],
    ) -> str:
        if not self.online and Path(local_dir).is_dir():
            return str(local_dir)
        self.reach()
        there = self.place / repo_id
        if not there.is_dir():
            raise OSError("404: no such repository\nmore lines")
        for file in there.rglob("*"):
            inside = file.relative_to(there)
            if file.is_file() and any(fnmatch(str(inside), each) for each in allow_patterns):
                (Path(local_dir) / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, Path(local_dir) / inside)
        return str(local_dir)

    def reach(self) -> None:
        if not self.online:
            raise ConnectionError("no network")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    client = StandIn(tmp_path / "hub")
    for name in ("HfApi", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(client, name))
    monkeypatch.setenv("CONDVAE_CACHE", str(tmp_path / "cache"))
    return client


def test_a_run_goes_to_the_hub_and_comes_back(
    small_run: Path, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["push", str(small_run), "someone/small", "--private", "--license", "apache-2.0"])
    assert "hf://someone/small" in capsys.readouterr().out and stand_in.private
    back, own = condvae.load("hf://someone/small", device="cpu"), load(small_run, "cpu")
    assert back.class_names == own.class_names and back.config == own.config
    mine, theirs = own.model.state_dict(), back.model.state_dict()  # type: ignore[attr-defined]
    assert all((mine[name] == theirs[name]).all() for name in mine)
    found = condvae.sample("hf://someone/small", count=1, device="cpu")
    assert Path(found["files"]["samples.png"]).is_file()


def test_offline_what_was_fetched_is_used_and_the_rest_is_a_sentence(
    small_run: Path, stand_in: StandIn
) -> None:
    condvae.push(small_run, "someone/small")
    condvae.load("hf://someone/small")
    stand_in.online = False
    assert condvae.load("hf://someone/small").class_names
    with pytest.raises(UserError, match="not on this disk; check its name, or go online"):
        condvae.load("hf://someone/other")
    with pytest.raises(UserError, match="could not be sent"):
        condvae.push(small_run, "someone/more")


def test_a_repository_that_there_is_not(stand_in: StandIn) -> None:
    with pytest.raises(UserError, match="404: no such repository") as told:
        condvae.load("hf://someone/nothing")
    assert "more lines" not in str(told.value)


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://name", "hf://a/b/c", "hf://a/..", "hf://a/b@", "hf://a--b/c", "hf://a/b c"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="hf://user/name"):
        hub.address_of(address)


def test_addresses() -> None:
    assert hub.address_of("hf://a/b.c-d") == hub.Address("a/b.c-d", None)
    assert hub.address_of("hf://datasets/a/b@refs/convert/parquet").revision == "refs/convert/parquet"
    assert hub.address_of("hf://a/b@v1/x").folder == "a--b@v1--x"
    assert hub.is_address("hf://x") and not hub.is_address(Path("hf:/x"))


def test_what_is_sent_is_laid_out_as_the_hub_expects(small_run: Path, tmp_path: Path) -> None:
    run = load(small_run, "cpu")
    secret = replace(run.config, data=replace(run.config.data, source="/home/me/secret/cats"))
    pack(replace(run, config=secret), tmp_path, "someone/small", "mit")
    sent = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert {"model.safetensors", "config.toml", "README.md"} <= sent
    assert not any(name.startswith(("checkpoint", "tensorboard", "metrics")) for name in sent)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "condvae"
    assert 'condvae.load("hf://someone/small")' in card.text and "## Limits" in card.text
    everything = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"secret" not in everything
    assert load_recipe(tmp_path / "config.toml").data.source == "cats"


def test_sources_with_a_name_are_sent_by_it() -> None:
    config = load_recipe("mnist")
    assert portable(config) == config
    assert "license" not in front_matter(None)
