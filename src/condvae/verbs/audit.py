"""`condvae audit`: which labels are probably wrong, of arrays or of any source; and a corrected copy."""

from __future__ import annotations

import csv
import io
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from condvae.auditing.apply import FORMAT, apply_decisions, read_decisions
from condvae.auditing.crossfit import Plan, awaited, cross_fit, trial_task
from condvae.auditing.duplicates import exact_groups
from condvae.auditing.findings import ISSUE_COLUMNS, AuditResult, Suspect, find, needed
from condvae.auditing.generative import pictures
from condvae.auditing.report import Card, report
from condvae.auditing.tables import blocks
from condvae.auditing.task import Witness
from condvae.auditing.witnesses import COMBINED, shares, witnesses_for
from condvae.data import LabelledImages, hub, load
from condvae.data.formats import checked
from condvae.data.sources import SOURCES, native_shape, unreadable_files
from condvae.errors import UserError
from condvae.files import as_utf8, cannot_write, read_json, write_json, write_text, written_whole
from condvae.processes import apart
from condvae.progress import ProgressLine, clock
from condvae.run import choose_device, choose_precision

LARGEST = 64
"""Images with longer sides are reduced to this, unless a size is asked for."""
SETTINGS, FOLDS, GENERATIVE = "settings.json", "folds", "generative"
FEW_PASSES = 3


@dataclass(frozen=True)
class Settings:
    """What an audit that is gone on with has in common with its beginning."""

    source: str
    split: str
    image_size: int
    fingerprint: str
    scores: str
    folds: int
    minutes: float
    seed: int
    precision: str


def audit(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    folds: int = 5,
    minutes: float = 10.0,
    scores: str = COMBINED,
    budget: int = 200,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> AuditResult:
    """Find the labels that are probably wrong.

    Arguments:
        images: uint8 `[N,H,W]`, `[N,H,W,C]` or `[N,C,H,W]`.
        labels: integers, 0 to K - 1; -1 for images without a label, which are left out: the rows of the
            result are the others, `indices` says which.
        class_names: K names.
        folds: parts that the images are divided into; each is judged by what trained on the others.
        minutes: how long it may take, about; less where the images are few.
        scores: what to rank by: combined, classifier, generative or neighbours.
        budget: suspects of wrong labels that are wanted, whatever the estimated number of errors.
        seed: of the folds and of everything that is trained.
        quiet: show no progress.

    Returns:
        The result; its `scores` and `issues` are DataFrames, its `pred_probs` an array for cleanlab.

    Raises:
        UserError: the arrays or an argument are not as described.
    """
    names = None if class_names is None else np.array([str(name) for name in class_names])
    arrays = checked("images and labels", np.asarray(images), np.asarray(labels), names)
    everything = LabelledImages(*arrays, "arrays", "all")
    witnesses = _checked_flags(minutes, budget, scores)
    where = choose_device(device)
    plan = Plan(folds, minutes, seed, choose_precision("auto", where), where)
    with tempfile.TemporaryDirectory() as folder, ProgressLine(quiet) as line:
        return _audited(everything, witnesses, plan, scores, budget, Path(folder), None, line)[0]


def audit_source(
    source: str,
    *,
    split: str = "train",
    folds: int = 5,
    minutes: float = 10.0,
    scores: str = COMBINED,
    budget: int = 200,
    image_size: int = 0,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    quiet: bool = False,
) -> AuditResult:
    """Audit a source, and write `scores.parquet`, `issues.csv`, `audit.json` and `report.html`.

    Of several processes that were launched together, each hears its share of the folds; all have the
    result, and the main one alone writes it.

    Arguments:
        source: a name, a folder of class folders, a .zip of them, or an .npz.
        split: "train", "test" or "all"; a source that doesn't tell them apart is audited whole.
        image_size: side that images are cropped and resized to; by default their own, or 64.
        out: folder of the results; by default `runs/audit-` and the source's name.
        data_root: where datasets are looked for.
        resume: go on with what was interrupted in `out`.

    Raises:
        UserError: the source, the folder or a flag is wrong.
        condvae.training.trainer.Interrupted: Ctrl-C; the audit can be resumed.
    """
    needed("pyarrow")
    witnesses = _checked_flags(minutes, budget, scores)
    named = source in SOURCES or hub.is_address(source)
    absolute = source if named else str(Path(source).expanduser().resolve())
    path = Path(out) if out else Path("runs") / f"audit-{Path(absolute).stem}"
    with apart() as share, ProgressLine(quiet or share[0] > 0) as line:
        main = share[0] == 0
        if not main:
            awaited(path / SETTINGS)  # the main process is then done with decoding
        where = choose_device(device)
        size = image_size or (LARGEST if max(native_shape(source)[1:]) > LARGEST else 0)
        everything, unreadable = _loaded(source, split, data_root, size)
        settings = Settings(
            source=absolute,
            split=split,
            image_size=size,
            fingerprint=everything.fingerprint,
            scores=scores,
            folds=folds,
            minutes=minutes,
            seed=seed,
            precision=choose_precision("auto", where),
        )
        settings = _claim(path, settings, resume or not main)
        plan = Plan(folds, minutes, seed, settings.precision, where, share)
        began = time.monotonic()
        folds_kept = path / FOLDS
        tables = folds_kept / (f"tables-{share[0]}" if share[1] > 1 else "tables")
        result, assigned = _audited(
            everything, witnesses, plan, scores, budget, folds_kept, tables, line, unreadable
        )
        result.numbers["unlabelled"] = len(everything) - len(result.labels)
        result.numbers["settings"] = asdict(settings)
        if not main:
            return result
        line.start("drawing the report")
        cards = _cards(result, everything, assigned, plan, folds_kept, budget)
    decisions = {
        "format": FORMAT,
        "source": absolute,
        "split": split,
        "data_root": str(Path(data_root).resolve()) if data_root else None,
    }
    result.numbers["seconds"] = round(time.monotonic() - began, 1)
    result.numbers["files"] = _write(path, result, cards, decisions)
    return result


def _loaded(
    source: str, split: str, data_root: str | Path | None, size: int
) -> tuple[LabelledImages, tuple[str, ...]]:
    """All images of a source, and the files that can't be read."""
    everything = load(
        source,
        split=split,
        data_root=data_root,
        image_size=size,
        skip_unreadable=True,
        hold_out=False,
    )
    unreadable = tuple(map(as_utf8, unreadable_files(source, everything)))
    readable = replace(
        everything,
        class_names=tuple(map(as_utf8, everything.class_names)),
        files=everything.files and tuple(map(as_utf8, everything.files)),
    )
    return readable, unreadable


def apply(
    decisions: str | Path,
    out: str | Path,
    *,
    source: str | None = None,
    data_root: str | Path | None = None,
) -> dict[str, Any]:
    """Write a corrected copy of audited data; never in place.

    Arguments:
        decisions: the file that the report saved.
        out: a new folder: of class folders, or for the new .zip or .npz.
        source: where the data is now, if not where it was audited.

    Raises:
        UserError: the decisions make no sense, are about other data, or the copy can't be written.
    """
    done = apply_decisions(read_decisions(Path(decisions)), Path(out), source, data_root)
    return asdict(done) | {"path": str(done.path)}


# ------------------------------------------------------------------------------------------- the work


def _checked_flags(minutes: float, budget: int, scores: str) -> dict[str, Witness]:
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes {minutes}: must be a number above 0")
    if budget < 1:
        raise UserError(f"--budget {budget}: must be at least 1")
    return witnesses_for(scores)


def _audited(
    everything: LabelledImages,
    witnesses: dict[str, Witness],
    plan: Plan,
    scores: str,
    budget: int,
    folder: Path,
    tables: Path | None,
    line: ProgressLine,
    unreadable: tuple[str, ...] = (),
) -> tuple[AuditResult, NDArray[np.int64]]:
    """The result, and the fold that each labelled image was held out in."""
    data = everything.labelled()
    if len(np.unique(data.labels)) < 2:
        raise UserError(f"{data.name}: an audit needs labelled images of two classes or more")
    groups = exact_groups(data.images)
    _estimate(data, witnesses, plan, groups, folder, line)
    said, assigned = cross_fit(data, witnesses, plan, folder, line, groups, tables)
    line.start("looking for suspects")
    result = find(
        data,
        said,
        assigned,
        score=scores,
        budget=budget,
        indices=np.flatnonzero(everything.labels >= 0),
        seed=plan.seed,
        unreadable=unreadable,
        folder=tables,
    )
    return result, assigned


def _estimate(
    data: LabelledImages,
    witnesses: dict[str, Witness],
    plan: Plan,
    groups: NDArray[np.int64],
    folder: Path,
    line: ProgressLine,
) -> None:
    """Say how long it will take, by short trials, and what there will be time for."""
    task = trial_task(data, plan, groups, folder, line)
    held = -(-len(data) // plan.folds)
    parts = shares(witnesses, data.shape[0])
    total, told = 0.0, []
    for name, witness in witnesses.items():
        limit = plan.seconds_a_fold * parts[name]
        pace = witness.pace(task, limit, len(data) - held, held)
        if pace is None:
            continue
        total += min(limit, pace.seconds) * plan.turns
        passes = pace.passes_within(limit)
        short = passes < min(FEW_PASSES, pace.passes)
        told.append(
            f"{name}: {passes:.3g} passes a fold{' (few; more --minutes help)' if short else ''}"
        )
    line.console.print(
        f"{len(data):,} images in {plan.folds} folds: about {clock(total)}, at most "
        f"{clock(plan.minutes * 60)}; {'; '.join(told) or 'nothing to train'}",
        soft_wrap=True,
    )


def _claim(path: Path, settings: Settings, resume: bool) -> Settings:
    """The folder's settings: these, or those that it was begun with.

    Raises:
        UserError: it holds something else, or was begun with other settings.
    """
    file = path / SETTINGS
    try:
        holds_something = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise cannot_write(path, error) from error
    if holds_something and not (resume and file.exists()):
        hint = "go on by --resume, or choose another" if file.exists() else "choose a new folder"
        raise UserError(f"--out {path}: is not empty; {hint}")
    if not holds_something:
        write_json(file, asdict(settings))
        return settings
    before = read_json(file, "audit into another --out")
    for name, value in asdict(settings).items():
        then = before.get(name) if isinstance(before, dict) else None
        if name == "precision" and then in ("fp32", "bf16"):
            continue
        if then != value:
            raise UserError(
                f"--resume: {path} was begun with {name} = {then!r}, not {value!r}; "
                "an audit goes on as it began, or into another --out"
            )
    return replace(settings, precision=str(before["precision"]))


# --------------------------------------------------------------------------------------- what is written


def _write(
    path: Path, result: AuditResult, cards: Sequence[Card], decisions: dict[str, Any]
) -> list[str]:
    scores, issues = path / "scores.parquet", path / "issues.csv"
    page, numbers = path / "report.html", path / "audit.json"
    _write_scores(scores, result)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerows([ISSUE_COLUMNS, *result.issue_rows()])
    write_text(issues, rows.getvalue())
    write_text(page, report(result, cards, decisions))
    write_json(numbers, result.numbers)
    return [str(file) for file in (scores, issues, page, numbers)]


def _write_scores(path: Path, result: AuditResult) -> None:
    """`scores.parquet`, some rows at a time: it may have a million of them, and a thousand columns."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    writer: ParquetWriter | None = None
    with written_whole(path) as file:
        for rows in blocks(result.pools[result.score].log_p):
            part = pyarrow.table(result.columns(rows))
            writer = writer or ParquetWriter(file, part.schema)
            writer.write_table(part)
        if writer:
            writer.close()


def _cards(
    result: AuditResult,
    everything: LabelledImages,
    assigned: NDArray[np.int64],
    plan: Plan,
    folds: Path,
    budget: int,
) -> list[Card]:
    """As many suspects of each kind as the budget, with their pictures."""
    shown = [suspect for suspect in result.suspects if suspect.rank <= budget]
    row = {int(index): number for number, index in enumerate(result.indices)}
    readable = [suspect for suspect in shown if suspect.index >= 0]
    asked = sorted({(s.index, label) for s in readable for label in (s.given, s.suggested)})
    made: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for fold in range(plan.folds) if GENERATIVE in result.pools else ():
        here = [pair for pair in asked if assigned[row[pair[0]]] == fold]
        if here:
            images = everything.images[[index for index, _ in here]]
            labels = np.array([label for _, label in here])
            drawn = pictures(folds / f"fold-{fold}", images, labels, plan.device, plan.seed)
            made |= dict(zip(here, drawn, strict=True))

    def card(suspect: Suspect) -> Card:
        if suspect.index < 0:
            return Card(suspect, ())
        shows = [("the image", everything.images[suspect.index])]
        if suspect.twin >= 0:
            label = result.class_names[everything.labels[suspect.twin]]
            shows.append((f"image {suspect.twin}, labelled {label}", everything.images[suspect.twin]))
        for label in dict.fromkeys((suspect.given, suspect.suggested)):
            if (suspect.index, label) in made:
                name = result.class_names[label]
                shows.append((f"as {name}, to the model", made[suspect.index, label]))
        return Card(suspect, shows)

    return [card(suspect) for suspect in shown]
