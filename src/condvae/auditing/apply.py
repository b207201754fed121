"""A corrected copy of the data, from a file of decisions. The data itself is never touched.

Folders become a folder, zips a zip, npz files an npz; datasets with a name become an npz. What isn't
decided stays as it is, and so does the split that wasn't audited.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from condvae.data.folders import Container, Entry, Folder, Listing, Zip, listing
from condvae.data.formats import read_npz
from condvae.data.parquet import is_parquet
from condvae.data.sources import SOURCES, SPLITS, load
from condvae.errors import UserError
from condvae.files import as_utf8, cannot_write, write_arrays

FORMAT = 1
ACTIONS = ("keep", "relabel", "drop")
NO_CLASS = "(no class)"


@dataclass(frozen=True)
class Decision:
    """What is to be done with an image.

    Arguments:
        index: its place in the source's split; -1 for a file that couldn't be read.
        file: where it is from, or empty.
        given: the name of its label when it was audited.
        action: keep, relabel or drop.
        label: the name of its new label, where it is relabelled.
    """

    index: int
    file: str
    given: str
    action: str
    label: str


@dataclass(frozen=True)
class Decisions:
    """A file of decisions: which data they are about, and what they are.

    Arguments:
        source, split, data_root: as the audit was told.
        class_names: in the order of the labels.
        by_index: decisions by the image's index.
        by_file: decisions about files that couldn't be read.
    """

    source: str
    split: str
    data_root: str | None
    class_names: tuple[str, ...]
    by_index: Mapping[int, Decision]
    by_file: Mapping[str, Decision]


# ------------------------------------------------------------------------------------ reading decisions


def read_decisions(path: Path) -> Decisions:
    """Read a file that the report saved.

    Raises:
        UserError: it isn't there, is no such file, or something in it makes no sense.
    """
    try:
        whole = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON file; save the decisions from report.html again") from error
    if not isinstance(whole, dict) or not isinstance(whole.get("decisions"), list):
        raise UserError(f"{path}: holds no decisions; save them from report.html again")
    if whole.get("format") != FORMAT:
        raise UserError(f"{path}: is of format {whole.get('format')!r}, and this condvae reads {FORMAT}")
    names, root = whole.get("class_names"), whole.get("data_root")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: class_names must be a list of names")
    if not isinstance(whole.get("source"), str) or whole.get("split") not in SPLITS:
        raise UserError(f"{path}: doesn't say which source and which split it is about")
    if root is not None and not isinstance(root, str):
        raise UserError(f"{path}: data_root must be a folder's name")
    by_index: dict[int, Decision] = {}
    by_file: dict[str, Decision] = {}
    for number, item in enumerate(whole["decisions"], 1):
        decision = _decision(item, f"{path}: decision {number}", tuple(names))
        if decision.index in by_index or (decision.index < 0 and decision.file in by_file):
            raise UserError(f"{path}: decision {number} is about the same image as an earlier one")
        if decision.index < 0:
            by_file[decision.file] = decision
        else:
            by_index[decision.index] = decision
    return Decisions(whole["source"], whole["split"], root, tuple(names), by_index, by_file)


def _decision(item: Any, where: str, names: tuple[str, ...]) -> Decision:
    if not isinstance(item, dict):
        raise UserError(f"{where} is no table of index, given and action")
    index, action = item.get("index"), item.get("action")
    given, label, file = item.get("given", ""), item.get("label") or "", item.get("file") or ""
    if type(index) is not int or index < -1:
        raise UserError(f"{where}: index must be a number of 0 or more, not {index!r}")
    if action not in ACTIONS:
        raise UserError(f"{where}: action {action!r} is none of {', '.join(ACTIONS)}")
    if not all(isinstance(value, str) for value in (given, label, file)):
        raise UserError(f"{where}: given, label and file must be text")
    if index >= 0 and given not in names:
        raise UserError(f"{where}: its given label {given!r} is no class")
    if action == "relabel" and (label not in names or index < 0):
        raise UserError(f"{where}: its new label {label!r} is no class")
    if index < 0 and not file:
        raise UserError(f"{where}: says neither which image nor which file")
    return Decision(index, file, given, action, label)


# ---------------------------------------------------------------------------------------------- applying


@dataclass(frozen=True)
class Applied:
    """What was done.

    Arguments:
        path: the corrected copy.
        relabelled, dropped, kept: numbers of images.
    """

    path: Path
    relabelled: int
    dropped: int
    kept: int


def apply_decisions(
    decisions: Decisions, out: Path, source: str | None = None, data_root: str | Path | None = None
) -> Applied:
    """Write a corrected copy into a folder that is new or empty.

    Arguments:
        out: the new folder of class folders; or the folder that the new zip or npz goes into.
        source: where the data is now, if it has moved since.

    Raises:
        UserError: the data isn't what was decided about; the copy would be written into it; the folder
            can't be written.
    """
    chosen = source or decisions.source
    named = chosen in SOURCES
    path = Path(chosen).expanduser()
    if not named and not path.exists():
        raise UserError(f"{chosen}: is no longer there; say where it is with --source")
    _claim(out, None if named else path)
    if named:
        copy = _copy_named(decisions, chosen, data_root or decisions.data_root, out)
    elif path.suffix.lower() == ".npz":
        copy = _copy_npz(decisions, path, out / path.name)
    elif is_parquet(path):
        raise UserError(f"{path}: a corrected copy of Parquet can't be written; audit it as an .npz")
    elif path.is_dir():
        copy = _copy_folder(decisions, path, out)
    else:
        copy = _copy_zip(decisions, path, out / path.name)
    actions = [d.action for d in (*decisions.by_index.values(), *decisions.by_file.values())]
    return Applied(copy, actions.count("relabel"), actions.count("drop"), actions.count("keep"))


def _claim(out: Path, source: Path | None) -> None:
    """Refuse a place that holds something, or is inside the data."""
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise cannot_write(out, error) from error
    if taken:
        raise UserError(f"--out {out}: is there already; choose a new folder")
    if source is not None and source.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"--out {out}: is inside the data, which is never written to; choose another")


def _corrected(decisions: Decisions, labels: np.ndarray, names: tuple[str, ...]) -> tuple[Any, Any]:
    """New labels, and which images stay.

    Raises:
        UserError: an image isn't there, or has another label than when it was audited.
    """
    number = {name: label for label, name in enumerate(names)}
    labels, stays = labels.copy(), np.ones(len(labels), bool)
    for index, decision in decisions.by_index.items():
        now = labels[index] if index < len(labels) else None
        _check_given(decision, now if now is None else names[now] if now >= 0 else NO_CLASS)
        if decision.action == "relabel":
            if decision.label not in number:
                raise UserError(
                    f"the data has no class {decision.label!r}, which image {index} is to get"
                )
            labels[index] = number[decision.label]
        stays[index] = decision.action != "drop"
    return labels, stays


def _check_given(decision: Decision, now: str | None) -> None:
    if now is None:
        raise UserError(f"the decisions are about other data: it has no image {decision.index}")
    if now != decision.given:
        raise UserError(
            f"the decisions are about other data: image {decision.index} was labelled "
            f"{decision.given!r} when it was audited, and is labelled {now!r} now"
        )


def _copy_named(decisions: Decisions, source: str, data_root: str | Path | None, out: Path) -> Path:
    data = load(source, split=decisions.split, data_root=data_root)
    labels, stays = _corrected(decisions, data.labels, data.class_names)
    return write_arrays(
        out / f"{source}.npz",
        images=data.images[stays],
        labels=labels[stays],
        class_names=np.array(data.class_names),
    )


def _copy_npz(decisions: Decisions, path: Path, target: Path) -> Path:
    """The same arrays; images and labels of the audited split without what was dropped."""
    arrays, divided = read_npz(path, decisions.split)
    labels, stays = _corrected(decisions, arrays.labels, arrays.class_names)
    with np.load(path, allow_pickle=False) as file:
        copy = {name: file[name] for name in file.files}
    prefixes = ["test_"] if divided and decisions.split == "test" else [""]
    if divided and decisions.split == "all":
        prefixes = ["", "test_"]
    start = 0
    for prefix in prefixes:
        here = slice(start, start + len(copy[prefix + "labels"]))
        copy[prefix + "images"] = copy[prefix + "images"][stays[here]]
        copy[prefix + "labels"] = labels[here][stays[here]].astype(copy[prefix + "labels"].dtype)
        start = here.stop
    return write_arrays(target, **copy)


# ---------------------------------------------------------------------------- folders, and zips of them


def _copies(decisions: Decisions, container: Container) -> Iterator[tuple[Entry, PurePosixPath]]:
    """Every image file that stays, and its path in the copy."""
    everything = listing(container, "all")
    audited = listing(container, decisions.split)
    unknown = [d.label for d in decisions.by_index.values() if d.action == "relabel"]
    for label in sorted(set(unknown) - set(everything.class_names)):
        raise UserError(f"{container.path}: has no class {label!r}, which an image is to get")
    of_path = _by_path(decisions, audited)
    taken = {entry.path for entry in everything.entries}
    for entry in everything.entries:
        decision = of_path.get(entry.path)
        if decision is None or decision.action == "keep":
            yield entry, entry.path
        elif decision.action == "relabel":
            parts = list(entry.path.parts)
            parts[audited.depth] = decision.label
            path = _free(PurePosixPath(*parts), decision.given, taken)
            taken.add(path)
            yield entry, path


def _by_path(decisions: Decisions, audited: Listing) -> dict[PurePosixPath, Decision]:
    """Decisions by the path of the file. An index counts readable files, so that the path decides."""
    entries = {
        as_utf8(str(entry.path)): (entry.path, int(y))
        for entry, y in zip(audited.entries, audited.labels, strict=True)
    }
    found = {}
    for decision in (*decisions.by_index.values(), *decisions.by_file.values()):
        if decision.file not in entries:
            raise UserError(f"the decisions are about other data: it has no file {decision.file!r}")
        path, label = entries[decision.file]
        if decision.index >= 0:
            _check_given(decision, audited.class_names[label] if label >= 0 else NO_CLASS)
        found[path] = decision
    return found


def _free(path: PurePosixPath, given: str, taken: set[PurePosixPath]) -> PurePosixPath:
    """A path that no file has: the wanted one, or with the old label, and then numbers, in its name."""
    number, wanted = 1, path
    while path in taken:
        mark = f"-from-{given}" if number == 1 else f"-from-{given}-{number}"
        path = wanted.with_name(f"{wanted.stem}{mark}{wanted.suffix}")
        number += 1
    return path


def _copy_folder(decisions: Decisions, source: Path, out: Path) -> Path:
    container = Folder(source)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            for entry, path in _copies(decisions, container):
                target = beside / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / entry.name, target)
            beside.chmod(0o755)
            if out.exists():
                out.rmdir()
            os.rename(beside, out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    return out


def _copy_zip(decisions: Decisions, source: Path, target: Path) -> Path:
    container = Zip(source)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
                for entry, path in _copies(decisions, container):
                    archive.writestr(str(path), _content(container, entry))
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def _content(container: Container, entry: Entry) -> bytes:
    try:
        return container.read(entry)
    except (OSError, ValueError) as error:
        raise UserError(f"{container.path / entry.path}: cannot be read ({error}); drop it") from error
