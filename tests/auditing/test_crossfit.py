"""No image is judged by what saw it, and an audit that is killed goes on to the same result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condvae.auditing import crossfit
from condvae.auditing.crossfit import (
    Plan,
    cross_fit,
    read_testimony,
    stratified_folds,
    trial_task,
)
from condvae.auditing.task import Pace, Task, Testimony
from condvae.data import LabelledImages
from condvae.errors import UserError
from condvae.progress import ProgressLine

Maker = Callable[..., LabelledImages]
PLAN = Plan(4, 1.0, 3, "fp32", torch.device("cpu"))


class Spy:
    """Notes what it is asked, and answers with what it was shown."""

    share: ClassVar[dict[int, float]] = {1: 1.0, 3: 1.0}

    def __init__(self, ends_after: int = 1000) -> None:
        self.tasks: list[Task] = []
        self.ends_after = ends_after

    def pace(self, task: Task, seconds: float, train: int, held: int) -> Pace:
        return Pace(0.0, 1.0, 0.0)

    def testify(self, task: Task) -> Testimony:
        if len(self.tasks) == self.ends_after:
            raise KeyboardInterrupt
        self.tasks.append(task)
        drawn = np.random.default_rng(task.seed).normal(size=(len(task.held), task.train.classes))
        first = task.held.images.reshape(len(task.held), -1)[:, 0].astype(float)
        return {
            "log_p": drawn.astype(np.float32),
            "first_pixel": first + torch.randn(1).numpy() * 0,
            "about_images": np.array(len(task.train)),
        }


def numbered(number: int = 50, classes: int = 3) -> LabelledImages:
    images = np.zeros((number, 1, 4, 4), np.uint8)
    images[:, 0, 0, 0] = np.arange(number)
    names = tuple("abcdefgh"[:classes])
    return LabelledImages(images, np.arange(number) ** 2 % classes, names, "numbers", "all")


def heard(spy: Spy, folder: Path, data: LabelledImages | None = None) -> dict[str, Testimony]:
    with ProgressLine(quiet=True) as line:
        return cross_fit(data or numbered(), {"spy": spy}, PLAN, folder, line)[0]


@given(st.integers(8, 300), st.integers(2, 8), st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_every_class_is_shared_out_evenly(number: int, folds: int, classes: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, number)
    assigned = stratified_folds(labels, folds, seed)
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for label in range(classes):
        counts = np.bincount(assigned[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_the_same_image_is_never_on_both_sides() -> None:
    groups = np.arange(60)
    groups[30:] = groups[:30]
    assigned = stratified_folds(np.arange(60) % 3, 5, 0, groups)
    assert (assigned[30:] == assigned[:30]).all() and set(assigned.tolist()) == set(range(5))


def test_impossible_folds_are_refused() -> None:
    for folds, groups in ((1, None), (7, None), (2, np.zeros(6, int))):
        with pytest.raises(UserError, match=f"--folds {folds}"):
            stratified_folds(np.arange(6) % 2, folds, 0, groups)


def test_no_image_is_judged_by_what_trained_on_it_and_every_one_is_judged_once(tmp_path: Path) -> None:
    spy = Spy()
    said = heard(spy, tmp_path)["spy"]
    judged: list[int] = []
    for task in spy.tasks:
        train, held = (set(part.images[:, 0, 0, 0].tolist()) for part in (task.train, task.held))
        assert not train & held and len(train | held) == 50
        assert (task.held.images[:, 0, 0, 0] == task.places).all()
        judged += task.held.images[:, 0, 0, 0].tolist()
    assert sorted(judged) == list(range(50))
    assert (said["first_pixel"] == np.arange(50)).all(), "put back into the images' order"
    assert said["log_p"].shape == (50, 3) and said["about_images"].shape == (4,)
    assert len({task.seed for task in spy.tasks}) == 4


def test_a_killed_audit_goes_on_to_the_same_result_and_hears_nobody_twice(tmp_path: Path) -> None:
    whole = heard(Spy(), tmp_path / "whole")["spy"]
    with pytest.raises(KeyboardInterrupt):
        heard(Spy(ends_after=2), tmp_path / "killed")
    torch.rand(7)
    rest = Spy()
    resumed = heard(rest, tmp_path / "killed")["spy"]
    assert len(rest.tasks) == 2
    assert all((resumed[name] == whole[name]).all() for name in whole)


def test_a_fold_that_is_damaged_or_of_other_images_is_heard_again(tmp_path: Path) -> None:
    heard(Spy(), tmp_path)
    file = tmp_path / "fold-1" / "spy.npz"
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"PK\x03\x04" + content[4:60]):
        file.write_bytes(damaged)
        again = Spy()
        heard(again, tmp_path)
        assert len(again.tasks) == 1
    assert read_testimony(file, np.arange(3)) is None
    more = Spy()
    heard(more, tmp_path, numbered(54))
    assert len(more.tasks) == 4


def test_a_trial_has_images_on_both_sides_however_many_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossfit, "TRIAL", 5)
    for folds in (2, 10, 50):
        with ProgressLine(quiet=True) as line:
            task = trial_task(numbered(), replace(PLAN, folds=folds), None, tmp_path, line)
        assert len(task.train) + len(task.held) == 5 and len(task.held) and len(task.train)


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    heard(Spy(), tmp_path)
    assert torch.equal(state, torch.get_rng_state())


def test_later_witnesses_get_the_first_ones_word_and_their_share_of_the_time(tmp_path: Path) -> None:
    class Quick(Spy):
        share: ClassVar[dict[int, float]] = {1: 0.0, 3: 0.0}

    class Slow(Spy):
        share: ClassVar[dict[int, float]] = {1: 3.0, 3: 1.0}

    first, second, third = Spy(), Quick(), Slow()
    witnesses = {"first": first, "second": second, "third": third}
    with ProgressLine(quiet=True) as line:
        said, _ = cross_fit(numbered(), witnesses, PLAN, tmp_path, line)
    for number, task in enumerate(third.tasks):
        assert task.hint is not None and len(task.hint) == len(task.held)
        assert (task.hint == said["first"]["log_p"][task.places]).all()
        assert first.tasks[number].hint is None
    assert [spy.tasks[0].seconds for spy in (first, second, third)] == pytest.approx([3.75, 1, 11.25])


def test_processes_share_the_folds_and_all_have_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossfit, "LOOK_AGAIN", 0.01)
    alone = heard(Spy(), tmp_path / "alone")["spy"]
    spies = [Spy() for _ in range(3)]

    def process(index: int) -> dict[str, Testimony]:
        plan = replace(PLAN, share=(index, 3))
        with ProgressLine(quiet=True) as line:
            return cross_fit(numbered(), {"spy": spies[index]}, plan, tmp_path / "shared", line)[0]

    with ThreadPoolExecutor(3) as pool:
        found = [said["spy"] for said in pool.map(process, range(3))]
    assert [len(spy.tasks) for spy in spies] == [2, 1, 1]
    assert all(spy.tasks[0].seconds == 30 for spy in spies), "two folds one after another, in a minute"
    assert all((said[name] == alone[name]).all() for said in found for name in alone)
