"""What an audit finds: everything that is known of every image, and the suspects, ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from condvae.auditing.duplicates import Duplicates, duplicates
from condvae.auditing.scores import (
    QUALITIES,
    Confusion,
    Labels,
    Pool,
    confident_learning,
    doubted,
    log_right,
    pooled,
    robust_z,
)
from condvae.auditing.tables import Table, by_blocks
from condvae.auditing.task import Testimony
from condvae.auditing.witnesses import COMBINED, OUTLIERS
from condvae.data.dataset import LabelledImages
from condvae.errors import UserError

if TYPE_CHECKING:
    import pandas

ODD = 5.0
"""An image is like no other where it is as many standard deviations of the bulk away."""
KINDS = {
    "label": "its label is probably wrong",
    "unsure": "its label may be wrong: beyond the estimated number of errors",
    "duplicate": "the same image is there under another label",
    "near-duplicate": "nearly the same image is there under another label",
    "outlier": "it is like no other image",
    "unreadable": "it can't be read as an image",
}


@dataclass(frozen=True)
class Suspect:
    """An image that a person should look at.

    Arguments:
        index: its place in the source's split; -1 for one that can't be read.
        given, suggested: labels; -1 for none.
        score: low where the label is probably wrong: the probability that it is right. Of outliers, how
            odd they are.
        rank: 1 for the most suspicious of its kind.
        kind: one of `KINDS`.
        twin: the image that it is a duplicate of, or -1.
        file: where it is from, if it is from a file.
    """

    index: int
    given: int
    suggested: int
    score: float
    rank: int
    kind: str
    twin: int = -1
    file: str = ""


@dataclass(frozen=True)
class AuditResult:
    """Arrays have a row an image, in the order in which the images were given.

    Arguments:
        labels: the given labels.
        pools: by score, the calibrated probabilities, and how they came about.
        confusion: estimated errors, and the noise matrix.
        suspects: the ranked suspects of every kind.
        extras: other columns: `log_likelihood`, `distance`, `oddness`.
        class_names: in the order of the labels.
        indices: each image's place in the source.
        files: where each image is from, if they are from files.
        score: what was ranked by.
        numbers: what there is to be said in numbers, ready for JSON.
    """

    labels: Labels
    pools: Mapping[str, Pool]
    confusion: Confusion
    suspects: tuple[Suspect, ...]
    extras: Mapping[str, NDArray[np.float64]]
    class_names: tuple[str, ...]
    indices: NDArray[np.int64]
    files: tuple[str, ...] | None
    score: str
    numbers: dict[str, Any] = field(repr=False)

    @property
    def suggested(self) -> Labels:
        """The likeliest labels, out of fold."""
        return self.pools[self.score].likeliest

    @cached_property
    def pred_probs(self) -> Table:
        """`[N, K]` out-of-fold probabilities by the score that was asked for, all in memory; they may go
        straight into `cleanlab.filter.find_label_issues`."""
        return by_blocks(probabilities, self.pools[self.score].log_p)

    def columns(self, rows: slice = slice(None)) -> dict[str, Any]:
        """`scores.parquet`: every image, or some, with every score and the class probabilities."""
        names, labels = np.array(self.class_names, dtype=object), self.labels[rows]
        table: dict[str, Any] = {
            "index": self.indices[rows],
            "file": list(self.files[rows]) if self.files else [""] * len(labels),
            "given_label": names[labels],
            "suggested_label": names[self.suggested[rows]],
        }
        for name, pool in self.pools.items():
            for quality in QUALITIES:
                table[f"{name}_{quality}"] = pool.quality(labels, quality, rows)
        table |= {name: column[rows] for name, column in self.extras.items()}
        p = by_blocks(probabilities, self.pools[self.score].log_p[rows])
        return table | {f"p({name})": p[:, label] for label, name in enumerate(self.class_names)}

    @property
    def scores(self) -> pandas.DataFrame:
        """The columns as a DataFrame.

        Raises:
            UserError: pandas isn't installed.
        """
        return needed("pandas").DataFrame(self.columns())

    @property
    def issues(self) -> pandas.DataFrame:
        """The ranked suspects as a DataFrame; scores and issues share their index and label names.

        Raises:
            UserError: pandas isn't installed.
        """
        return needed("pandas").DataFrame(self.issue_rows(), columns=ISSUE_COLUMNS)

    def issue_rows(self) -> list[tuple[Any, ...]]:
        """A row a suspect, in the order of `ISSUE_COLUMNS`."""

        def name(label: int) -> str:
            return self.class_names[label] if label >= 0 else ""

        return [
            (s.index, s.file, name(s.given), name(s.suggested), s.score, s.rank, s.kind)
            for s in self.suspects
        ]


ISSUE_COLUMNS = ("index", "file", "given_label", "suggested_label", "score", "rank", "kind")


def needed(package: str) -> Any:
    """An optional package.

    Raises:
        UserError: it isn't installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"an audit's tables need {package}: pip install 'condvae[audit]'") from error


# ------------------------------------------------------------------------------------------ finding them


def find(
    data: LabelledImages,
    said: Mapping[str, Testimony],
    assigned: NDArray[np.int64],
    *,
    score: str,
    budget: int,
    indices: NDArray[np.int64],
    seed: int = 0,
    unreadable: tuple[str, ...] = (),
    folder: Path | None = None,
) -> AuditResult:
    """Pool what the witnesses said, and look for suspects of every kind.

    Arguments:
        data: the images, all with a label.
        said: each witness's word on every image, out of fold.
        assigned: the fold that each image was held out in.
        score: what to rank by.
        budget: suspects of wrong labels that are wanted, whatever the estimated number of errors.
        indices: each image's place in the source.
        unreadable: files that couldn't be read.
        folder: where tables are kept, if not in memory.
    """
    labels = data.labels
    logs = {name: testimony["log_p"] for name, testimony in said.items()}
    judges = {COMBINED: list(logs)} if score == COMBINED else {}
    pools = {
        name: pooled([logs[each] for each in those], labels, seed, folder, f"{name}-pooled")
        for name, those in (judges | {name: [name] for name in logs}).items()
    }
    chosen = pools[score]
    confusion = confident_learning(chosen.log_p, labels, seed)
    twins = duplicates(data.images, labels, seed)
    extras = _oddness(said, assigned)
    suspects = [
        *_labels(chosen, labels, confusion, budget),
        *_duplicates(chosen, labels, twins),
        *_outliers(labels, chosen, extras["oddness"], budget),
    ]
    suspects = [
        replace(
            suspect,
            index=int(indices[suspect.index]),
            twin=int(indices[suspect.twin]) if suspect.twin >= 0 else -1,
            file=data.files[suspect.index] if data.files else "",
        )
        for suspect in suspects
    ]
    suspects += [
        Suspect(-1, -1, -1, 0.0, rank, "unreadable", file=file)
        for rank, file in enumerate(unreadable, 1)
    ]
    return AuditResult(
        labels=labels,
        pools=pools,
        confusion=confusion,
        suspects=tuple(suspects),
        extras=extras,
        class_names=data.class_names,
        indices=indices,
        files=data.files,
        score=score,
        numbers=_numbers(data, said, pools, confusion, twins, suspects, score, assigned),
    )


def probabilities(log_p: Table) -> Table:
    """Of log probabilities; rows sum to 1 in float64."""
    p = np.exp(log_p)
    return p / p.sum(1, keepdims=True)


def _labels(chosen: Pool, labels: Labels, confusion: Confusion, budget: int) -> list[Suspect]:
    """The most doubtful labels: as many as are estimated to be wrong, and more up to the budget."""
    sure = round(confusion.errors)
    order = doubted(chosen, labels)[: max(sure, budget)]
    columns = (order, labels[order], chosen.likeliest[order], _right(chosen, labels, order))
    return [
        Suspect(index, given, suggested, score, rank, "label" if rank <= sure else "unsure")
        for rank, (index, given, suggested, score) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]


def _right(chosen: Pool, labels: Labels, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probabilities that some images' labels are right."""
    return np.exp(log_right(chosen.log_p[places], labels[places], chosen.noise))


def _duplicates(chosen: Pool, labels: Labels, twins: Duplicates) -> list[Suspect]:
    """Images with a twin of another label: exact ones first, the most doubtful labels first."""
    right = _right(chosen, labels, twins.index)
    found = []
    for kind, of_kind in (("duplicate", twins.exact), ("near-duplicate", ~twins.exact)):
        places = np.flatnonzero(of_kind)
        for rank, at in enumerate(places[np.argsort(right[places], kind="stable")].tolist(), 1):
            index, twin = int(twins.index[at]), int(twins.twin[at])
            score = float(right[at])
            found.append(Suspect(index, int(labels[index]), int(labels[twin]), score, rank, kind, twin))
    return found


def _oddness(
    said: Mapping[str, Testimony], assigned: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """What is known of how unlike all others an image is, and the larger of it in standard deviations.

    Folds were judged by different models, so that each fold's numbers are held against their own bulk.
    """
    extras = {"distance": said[OUTLIERS]["distance"].astype(np.float64)}
    for testimony in said.values():
        if "log_likelihood" in testimony:
            extras["log_likelihood"] = testimony["log_likelihood"].astype(np.float64)
    odd = np.full(len(assigned), -np.inf)
    for name, sign in (("distance", 1), ("log_likelihood", -1)):
        for fold in np.unique(assigned) if name in extras else ():
            here = assigned == fold
            odd[here] = np.maximum(odd[here], robust_z(sign * extras[name][here]))
    return extras | {"oddness": odd}


def _outliers(labels: Labels, chosen: Pool, oddness: NDArray[np.float64], budget: int) -> list[Suspect]:
    order = np.argsort(-oddness, kind="stable")[: max(1, budget // 4)]
    return [
        Suspect(
            index,
            int(labels[index]),
            int(chosen.likeliest[index]),
            float(oddness[index]),
            rank,
            "outlier",
        )
        for rank, index in enumerate(order.tolist(), 1)
        if oddness[index] > ODD
    ]


def _numbers(
    data: LabelledImages,
    said: Mapping[str, Testimony],
    pools: Mapping[str, Pool],
    confusion: Confusion,
    twins: Duplicates,
    suspects: list[Suspect],
    score: str,
    assigned: NDArray[np.int64],
) -> dict[str, Any]:
    counts = {kind: sum(suspect.kind == kind for suspect in suspects) for kind in KINDS}
    low, high = confusion.interval
    numbers: dict[str, Any] = {
        "source": data.name,
        "split": data.split,
        "images": len(data),
        "classes": list(data.class_names),
        "images_per_class": np.bincount(data.labels, minlength=data.classes).tolist(),
        "folds": int(assigned.max()) + 1,
        "score": score,
        "estimated_errors": round(confusion.errors, 1),
        "estimated_errors_interval": [round(low, 1), round(high, 1)],
        "estimated_error_rate": confusion.errors / len(data),
        "estimated_errors_by_calibration": round(pools[score].expected_errors(data.labels), 1),
        "noise_matrix": confusion.noise_matrix.round(5).tolist(),
        "noise_matrix_standard_error": confusion.noise_error.round(5).tolist(),
        "noise_matrix_by_calibration": pools[score].noise.round(5).tolist(),
        "suspects": counts,
        "exact_copies": twins.copies,
        "agreement": {
            name: float((pool.likeliest == data.labels).mean()) for name, pool in pools.items()
        },
        "pools": {
            name: {
                "weights": dict(
                    zip(said if len(pool.weights) > 1 else (name,), pool.weights, strict=True)
                ),
            }
            for name, pool in pools.items()
        },
    }
    for testimony in said.values():
        if "about_convergence" in testimony:
            samples, gain, changed = testimony["about_convergence"].T
            numbers["convergence"] = {
                "samples": samples.astype(int).tolist(),
                "nats_by_last_doubling": float(gain.mean()),
                "likeliest_labels_changed_by_it": float(changed.mean()),
            }
    return numbers
