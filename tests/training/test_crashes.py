"""A run survives what happens to it: kills, hang-ups, lost files, a wrong clock, another training."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from condvae import progress
from condvae.config import Config, to_toml
from condvae.errors import UserError
from condvae.files import read_tensors
from condvae.lock import LOCK, OnlyOne
from condvae.progress import ProgressLine
from condvae.run import CHECKPOINT, CONFIG, MODEL, load
from condvae.training.trainer import Interrupted, Trainer
from condvae.verbs.train import train

KILLS = int(os.environ.get("CONDVAE_TEST_KILLS", "20"))
"""Random moments that the slow test kills a training at."""
unix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, fork and mount are Unix's")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path / MODEL, "")[0]


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def at_step(number: int, act: Callable[[Trainer], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something after a number of steps."""
    step = Trainer.train_step

    def eventful(self: Trainer, *arguments: object) -> dict[str, float]:
        numbers = step(self, *arguments)  # type: ignore[arg-type]
        if self.step == number:
            act(self)
        return numbers

    monkeypatch.setattr(Trainer, "train_step", eventful)


# ------------------------------------------------------------------------------------------------ kills


@pytest.fixture
def recipe(small: Config, class_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A training of two dozen steps, of images that go through the cache; a checkpoint a step."""
    config = replace(
        small,
        data=replace(small.data, source=str(class_folder(number=40)), image_size=8),
        model=replace(small.model, network="resnet(width=4, blocks=1)"),
        training=replace(small.training, epochs=3.0, batch_size=8, checkpoint_seconds=0.0),
    )
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(config), "utf-8")
    return path


def lived(recipe: Path, **plan: object) -> dict[str, object]:
    """What became of trainings that were killed; their run directories are in `runs/`."""
    whole = {
        "recipe": str(recipe),
        "out": str(recipe.parent / "runs"),
        "chains": {},
        "kills": 0,
        "seed": 0,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("lives.py"))],
        input=json.dumps(whole | plan),
        env=os.environ | {"OMP_NUM_THREADS": "1", "CONDVAE_CACHE": str(recipe.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    assert told["ended"] == 0, done.stderr
    return told


def check_run(path: Path, whole: Path) -> None:
    """It is the uninterrupted run, bit for bit, and nothing of its former lives is left."""
    assert same(path, whole)
    assert load(path, "cpu").training["steps"] == load(whole, "cpu").training["steps"]
    steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    left = {file.name for file in path.rglob("*") if file.name.startswith(".")}
    assert not left, left


CHOSEN = {
    "the cache": [["before", "cache", 1], ["after", "cache", 1]],
    "the recipe, half": [["half", CONFIG, 1]],
    "the recipe": [["after", CONFIG, 1]],
    "a line of metrics": [["half", "metrics.jsonl", 2]],
    "checkpoints": [["half", "state.safetensors", n] for n in (1, 4, 2)],
    "a checkpoint, in place": [["after", "state.safetensors", 7]],
    "the model, half": [["half", MODEL, 1]],
    "the model": [["after", MODEL, 1]],
    "the card": [["half", "README.md", 1]],
    "a picture": [None, ["half", "wrong-labels.png", 1]],
}


HANDFUL = ("the cache", "a line of metrics", "the model, half")


@unix
@pytest.mark.parametrize(
    "names", [HANDFUL, pytest.param(tuple(CHOSEN), marks=pytest.mark.long)], ids=len
)
def test_a_training_killed_where_it_writes_goes_on_to_the_same_result(
    names: tuple[str, ...], recipe: Path
) -> None:
    told = lived(recipe, chains={name: CHOSEN[name] for name in names}, kills=1)
    runs = recipe.parent / "runs"
    for name, codes in told["chains"].items():  # type: ignore[attr-defined]
        wanted = [-signal.SIGKILL if moment else 0 for moment in CHOSEN[name]]
        assert codes == [*wanted, 0], name
        if name != "a picture":
            check_run(runs / name, runs / "whole")
    check_run(runs / "random-0", runs / "whole")
    if "a picture" not in names:
        return
    from condvae.verbs.swap import swap

    for picture in swap(runs / "a picture", count=2, device="cpu")["files"].values():
        if picture.endswith(".png"):
            with Image.open(picture) as image:
                image.load()


@unix
@pytest.mark.long
def test_a_training_killed_at_random_moments_goes_on_to_the_same_result(recipe: Path) -> None:
    told = lived(recipe, kills=KILLS, seed=1)
    runs = recipe.parent / "runs"
    assert told["kills"] == KILLS
    finished = list(runs.glob("random-*"))
    assert len(finished) >= KILLS / 100
    for path in finished:
        check_run(path, runs / "whole")


# --------------------------------------------------------------------------------------------- signals


@unix
def test_a_hang_up_leaves_a_run_that_resumes(
    small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run by nohup
    with monkeypatch.context() as patched:
        at_step(9, lambda _: os.kill(os.getpid(), signal.SIGHUP), patched)
        with pytest.raises(Interrupted):
            train(small, path, quiet=True)
    signal.signal(signal.SIGHUP, before)
    assert same(train(small, path, resume=True, quiet=True), small_run)


@unix
def test_a_hang_up_that_is_ignored_stays_ignored(
    small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(9, lambda _: os.kill(os.getpid(), signal.SIGHUP), monkeypatch)
        assert same(train(small, tmp_path / "run", quiet=True), small_run)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_costs_nothing_but_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        encoding = "utf-8"

        def __init__(self, error: int) -> None:
            self.error = error

        def write(self, _: str) -> int:
            raise OSError(self.error, os.strerror(self.error))

        def flush(self) -> None:
            self.write("")

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(progress, "PLAIN_EVERY", -1.0)
    for error in (errno.EIO, errno.EPIPE):
        with ProgressLine() as line:
            monkeypatch.setattr(line.console, "file", Gone(error))
            line.start("training")
            for share in (0.1, 0.5, 1.0):
                line.show(share, "[/numbers]")


# ------------------------------------------------------------------------------------- two in one place


def test_a_second_training_into_a_directory_is_refused(
    small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, refused = tmp_path / "run", []

    def again(_: Trainer) -> None:
        for resume in (False, True):
            with pytest.raises(UserError, match=rf"--out .*: process {os.getpid()} on .* is at work"):
                train(small, path, resume=resume, quiet=True)
            refused.append(resume)

    at_step(7, again, monkeypatch)
    assert same(train(small, path, quiet=True), small_run)
    assert refused == [False, True] and not (path / LOCK).exists()


def test_a_lock_that_was_left_behind_keeps_nobody_out(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 1 on a machine that is no more")
    for _ in range(2):
        with (
            OnlyOne(tmp_path, "--out"),
            pytest.raises(UserError, match="is at work"),
            OnlyOne(tmp_path, "--out"),
        ):
            pytest.fail("two at once")


def test_a_directory_that_was_hardly_begun_can_be_begun_again(
    small: Config, small_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in (LOCK, ".config.toml.123.part"):
        (tmp_path / "run" / name).write_text("[mod")
    assert same(train(small, tmp_path / "run", quiet=True), small_run)
    assert {file.name for file in (tmp_path / "run").glob(".*")} == set()


# ---------------------------------------------------------------------------------- the disk, the clock


def test_files_that_are_deleted_under_a_training_are_made_anew(
    small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    config = replace(small, training=replace(small.training, checkpoint_seconds=0.0))
    at_step(11, lambda _: shutil.rmtree(path), monkeypatch)
    train(config, path, quiet=True)
    assert same(path, small_run)
    for name in (CONFIG, CHECKPOINT, "metrics.jsonl", "README.md", "tensorboard"):
        assert (path / name).exists(), name


def test_a_clock_that_is_set_back_changes_nothing(
    small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, calls = time.time(), iter(range(1 << 40))
    monkeypatch.setattr(time, "time", lambda: started - 3600.0 * next(calls))
    path = train(small, tmp_path / "run", quiet=True)
    assert same(path, small_run)
    assert 0 < load(path, "cpu").training["seconds"] < 600


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Mounts a small disk, and when it is called makes it read-only; skips where none can be."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can't be mounted here")

    def protect() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return disk

    yield protect
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_turned_read_only_keeps_its_checkpoint(
    small: Config,
    small_run: Path,
    read_only: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "disk" / "run"
    with monkeypatch.context() as patched:
        at_step(9, lambda _: os.kill(os.getpid(), signal.SIGTERM), patched)
        with pytest.raises(Interrupted):
            train(small, path, quiet=True)
    read_only()
    for resume in (False, True):
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\)"):
            train(small, path, resume=resume, quiet=True)
    moved = shutil.copytree(path, tmp_path / "moved")
    assert same(train(small, moved, resume=True, quiet=True), small_run)


@unix
@pytest.mark.slow
def test_a_memory_limit_ends_with_a_sentence_and_the_last_checkpoint(
    small: Config, tmp_path: Path
) -> None:
    recipe, path = tmp_path / "recipe.toml", tmp_path / "run"
    config = replace(small, training=replace(small.training, epochs=9.0, checkpoint_seconds=0.0))
    recipe.write_text(to_toml(config), "utf-8")
    code = f"""
import resource, sys
from condvae import cli
from condvae.training.trainer import Trainer
step = Trainer.train_step
def greedy(self, x, y, share):
    if self.step == 5:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
    more = 1 if self.step < 5 else 4000
    return step(self, x.repeat(more, 1, 1, 1), y.repeat(more), share)
Trainer.train_step = greedy
sys.argv = ["condvae", "train", {str(recipe)!r}, "--out", {str(path)!r}]
cli.main()
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("how much memory is used is not told here")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("training ")]
    assert done.returncode == 2 and lines[-1].startswith("condvae: the memory gave out"), done.stderr
    assert "Traceback" not in done.stderr
    whole = train(config, tmp_path / "whole", quiet=True)
    assert same(train(config, path, resume=True, quiet=True), whole)
