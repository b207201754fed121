"""Out of fold: the images are divided, and each part is judged by what trained on the others.

What a witness says of a fold is a file as soon as it is said, so that an audit which is killed goes on
where it was, and memory holds one fold at a time.
"""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from condvae.auditing.draws import own_generator
from condvae.auditing.tables import room
from condvae.auditing.task import Task, Testimony, Witness
from condvae.auditing.witnesses import shares
from condvae.data.dataset import LabelledImages
from condvae.errors import UserError
from condvae.files import write_arrays
from condvae.progress import ProgressLine

FASTEST = 1.0
"""Seconds that a witness has for a fold, at least."""
TRIAL = 1000
"""Images that a witness's pace is found with."""
LOOK_AGAIN = 0.5
"""Seconds between looks at whether another process has finished a fold."""


@dataclass(frozen=True)
class Plan:
    """How an audit is gone about.

    Arguments:
        folds: parts that the images are divided into.
        minutes: the whole of it, at most, apart from what hardly takes time.
        seed: of the folds and of everything that is trained.
        precision: of networks: fp32 or bf16.
        device: where they are trained.
        share: this process's number, and how many processes share the folds.
    """

    folds: int
    minutes: float
    seed: int
    precision: str
    device: torch.device
    share: tuple[int, int] = (0, 1)

    @property
    def turns(self) -> int:
        """Folds that a process hears one after another, at most."""
        return -(-self.folds // self.share[1])

    @property
    def seconds_a_fold(self) -> float:
        """What a fold may take, at most."""
        return self.minutes * 60 / self.turns

    def is_own(self, fold: int) -> bool:
        """Whether a fold falls to this process."""
        return fold % self.share[1] == self.share[0]


def stratified_folds(
    labels: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """A fold for every image: each class is shared out evenly, and so are all images together.

    Arguments:
        groups: for every image, the index of the first that is the same; they share a fold, because an
            image isn't to be judged by what saw its copy.

    Raises:
        UserError: there are fewer than two folds, or fewer different images than folds.
    """
    first = np.arange(len(labels)) if groups is None else groups
    different = np.unique(first)
    if not 2 <= folds <= len(different):
        raise UserError(
            f"--folds {folds}: must be at least 2, and at most the number of different images, "
            f"{len(different)}"
        )
    generator = own_generator(seed, "folds")
    order = generator.permutation(different)
    order = order[np.argsort(labels[order], kind="stable")]
    assigned = np.empty(len(labels), np.int64)
    assigned[order] = np.arange(len(order)) % folds
    return assigned[first]


def cross_fit(
    data: LabelledImages,
    witnesses: Mapping[str, Witness],
    plan: Plan,
    folder: Path,
    line: ProgressLine,
    groups: NDArray[np.int64] | None = None,
    tables: Path | None = None,
) -> tuple[dict[str, Testimony], NDArray[np.int64]]:
    """Every witness's word on every image, and the fold that each image was held out in.

    Of several processes each hears its own folds, and finds the others' in the folder.

    Arguments:
        data: images that all have a label.
        folder: where folds are kept; those that are finished are read, and not heard again.
        groups: images that are the same (`stratified_folds`).
        tables: folder for what is put together, if not in memory.

    Returns:
        By witness: an array a name, a row an image; what begins with `about_`, a row a fold.
    """
    assigned = stratified_folds(data.labels, plan.folds, plan.seed, groups)
    own = [fold for fold in range(plan.folds) if plan.is_own(fold)]
    for fold in own:
        _hear(data, assigned, fold, witnesses, plan, folder, line)
    if len(own) < plan.folds:
        line.start("waiting for the other processes")
    return {name: _assembled(name, assigned, plan, folder, tables) for name in witnesses}, assigned


def _hear(
    data: LabelledImages,
    assigned: NDArray[np.int64],
    fold: int,
    witnesses: Mapping[str, Witness],
    plan: Plan,
    folder: Path,
    line: ProgressLine,
) -> None:
    """Have every witness say what it has to say of a fold, where it hasn't said it before."""
    parts = shares(witnesses, data.shape[0])
    places = np.flatnonzero(assigned == fold)
    task: Task | None = None
    hint: NDArray[np.float32] | None = None
    for number, (name, witness) in enumerate(witnesses.items()):
        file = _file(folder, fold, name)
        testimony = read_testimony(file, places)
        if testimony is None:
            task = task or _task(data, assigned, fold, plan, file.parent, line)
            asked = replace(
                task,
                seconds=max(FASTEST, plan.seconds_a_fold * parts[name]),
                seed=task.seed + number,
                hint=hint,
            )
            with torch.random.fork_rng(devices=[]):
                testimony = witness.testify(asked)
            write_arrays(file, places=places, **testimony)
        hint = testimony["log_p"] if hint is None else hint


def _file(folder: Path, fold: int, name: str) -> Path:
    return folder / f"fold-{fold}" / f"{name}.npz"


def _heard(file: Path, places: NDArray[np.int64]) -> Testimony:
    """What a fold's witness says, once it has said it: it may be heard in another process."""
    while (testimony := read_testimony(awaited(file), places)) is None:
        time.sleep(LOOK_AGAIN)
    return testimony


def awaited(file: Path) -> Path:
    """A file that another process writes, once it is there; a launcher stops all if one fails."""
    while not file.exists():
        time.sleep(LOOK_AGAIN)
    return file


def trial_task(
    data: LabelledImages,
    plan: Plan,
    groups: NDArray[np.int64] | None,
    folder: Path,
    line: ProgressLine,
) -> Task:
    """A fold of few images, by which witnesses tell how long they will take."""
    assigned = stratified_folds(data.labels, plan.folds, plan.seed, groups)
    order = own_generator(plan.seed, "a trial").permutation(len(data))
    assigned[order[TRIAL:]] = -1
    return _task(data, assigned, int(assigned[order[0]]), plan, folder, line)


def _task(
    data: LabelledImages,
    assigned: NDArray[np.int64],
    fold: int,
    plan: Plan,
    folder: Path,
    line: ProgressLine,
) -> Task:
    """A fold's images, and everything else that its witnesses share."""
    places = np.flatnonzero(assigned == fold)
    return Task(
        train=data.subset(np.flatnonzero((assigned != fold) & (assigned >= 0)), "train"),
        held=data.subset(places, "held out"),
        places=places,
        seconds=0.0,
        folder=folder,
        seed=(plan.seed * 1000 + fold) * 10,
        precision=plan.precision,
        device=plan.device,
        line=line,
    )


def read_testimony(file: Path, places: NDArray[np.int64]) -> Testimony | None:
    """What was said of these images, or None where that isn't there, or isn't whole."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    if "log_p" not in found or not np.array_equal(found.pop("places", None), places):
        return None
    return found


def _assembled(
    name: str, assigned: NDArray[np.int64], plan: Plan, folder: Path, tables: Path | None
) -> Testimony:
    """A witness's folds put together, images in their order; one fold at a time is in memory."""
    whole: Testimony = {}
    about: dict[str, list[NDArray[Any]]] = {}
    for fold in range(plan.folds):
        places = np.flatnonzero(assigned == fold)
        for key, values in _heard(_file(folder, fold, name), places).items():
            if key.startswith("about_"):
                about.setdefault(key, []).append(values)
                continue
            if key not in whole:
                shape = (len(assigned), *values.shape[1:])
                table = values.ndim > 1
                file = f"{name}-{key}"
                whole[key] = room(tables, file, shape) if table else np.empty(shape, values.dtype)
            whole[key][places] = values
    return whole | {key: np.stack(parts) for key, parts in about.items()}
