"""How well an audit finds wrong labels that were put in on purpose, beside other ways, in the same run.

    python benchmarks/audit.py mnist --data-root data --noise symmetric --rate 0.2 --seeds 0 1 2
    python benchmarks/audit.py cifar10-jpeg-train.zip --noise class-dependent --minutes 60

Every way ranks all images from the most doubtful label down: by the probability that it is right, as
`condvae audit` does, where nothing else is said. AUROC, average precision, and precision among as many
as there are errors are told, their mean and spread over seeds, and a JSON line is added to a log. The
classifier alone, out of fold, is trained once more with all of the audit's time (not with --no-alone),
and that is what cleanlab ranks by; the training loss has a fold's time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import logbook
import numpy as np
import torch
import tyro
from sklearn.metrics import average_precision_score, roc_auc_score

from condvae.auditing import classifier as classifying
from condvae.auditing import generative as generating
from condvae.auditing.crossfit import Plan, cross_fit
from condvae.auditing.descriptors import nearest
from condvae.auditing.duplicates import exact_groups
from condvae.auditing.neighbours import NEIGHBOURS, voted
from condvae.auditing.scores import (
    confident_learning,
    log_normalised,
    pooled,
    self_confidence,
)
from condvae.auditing.task import Task, Testimony, Witness
from condvae.auditing.witnesses import witnesses_for
from condvae.data import LabelledImages, load, noisy_labels
from condvae.errors import UserError
from condvae.evaluation.bounds import fixed_binarisation
from condvae.evaluation.judge import EPOCHS, NeuralJudge, train_classifier
from condvae.files import read_tensors
from condvae.probability.images import centred
from condvae.progress import ProgressLine
from condvae.run import choose_device, choose_precision
from condvae.run import load as load_run

HERE = Path(__file__).parent
CHUNK = 1000
Column = np.ndarray


@dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    source: tyro.conf.Positional[str]
    """A dataset's name, a folder of class folders, a .zip or an .npz, with labels that are right."""
    noise: str = "symmetric"
    """symmetric, asymmetric, class-dependent or image-dependent."""
    rate: float = 0.2
    """Share of wrong labels."""
    seeds: tuple[int, ...] = (0,)
    """Of the noise and of the audit; an audit a seed."""
    minutes: float = 10.0
    """Of an audit, without the other ways."""
    folds: int = 5
    """Of an audit."""
    images: int = 0
    """A random part of the images; 0 for all."""
    split: str = "train"
    """train, test or all."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    image_size: int = 0
    """Side that images are cropped and resized to; 0 keeps the source's."""
    alone: bool = True
    """Train the classifier once more, with all of the time."""
    device: str = "auto"
    """auto, cpu or cuda."""
    folder: Path | None = None
    """Where audits are kept, so that one that was stopped goes on; otherwise nowhere. Of one that
    went on, the seconds are of the last start."""
    log: Path = HERE / "records" / "audits.jsonl"
    """File that the line is added to."""


# ------------------------------------------------------------------ nearest neighbours in learned spaces


class LatentNeighbours:
    """Votes of the ten nearest by what a fold's network makes of images.

    Arguments:
        codes: from a task and images to `[n, D]`.
    """

    share: ClassVar[dict[int, float]] = {1: 0.0, 3: 0.0}

    def __init__(self, codes: Callable[[Task, LabelledImages], Column]) -> None:
        self.codes = codes

    def pace(self, task: Task, seconds: float, train: int, held: int) -> None:
        return None

    def testify(self, task: Task) -> Testimony:
        held, references = self.codes(task, task.held), self.codes(task, task.train)
        found = nearest(held, references, task.train.labels, NEIGHBOURS, task.seed)
        return {"log_p": voted(found.label, task.train.labels, task.train.classes)}


@torch.no_grad()
def latent_means(task: Task, data: LabelledImages) -> Column:
    """The generative model's latents, every image encoded under the first label, which tells nothing."""
    model = load_run(task.folder / generating.FOLDER, task.device.type).model
    parts = []
    for start in range(0, len(data), CHUNK):
        x = torch.tensor(data.images[start : start + CHUNK], device=task.device)
        y = torch.zeros(len(x), dtype=torch.long, device=task.device)
        groups = model.encode(fixed_binarisation(model, x, 0), y)
        parts.append(torch.cat([group.flatten(1) for group in groups], 1).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def classifier_features(task: Task, data: LabelledImages) -> Column:
    """What the classifier's last layer decides by, at length 1."""
    network = classifying.untrained(task)
    weights, _ = read_tensors(task.folder / classifying.FILE, "run the benchmark again")
    network.load_state_dict(weights)
    network.eval().to(task.device)
    parts = []
    for start in range(0, len(data), CHUNK):
        x = torch.tensor(data.images[start : start + CHUNK], device=task.device)
        parts.append(torch.nn.functional.normalize(network.features(centred(x)), dim=1).cpu().numpy())
    return np.concatenate(parts)


# -------------------------------------------------------------------------------------------- other ways


def training_loss(data: LabelledImages, plan: Plan, seconds: float, line: ProgressLine) -> Column:
    """Minus the loss of a classifier on its own training images, after its training."""
    task = Task(
        data, data, np.arange(len(data)), seconds, Path(), plan.seed, plan.precision, plan.device, line
    )
    network = classifying.untrained(task)
    line.start("training on all images")
    train_classifier(
        network,
        data,
        plan.device,
        EPOCHS * len(data),
        seed=plan.seed + 1,
        degrade=False,
        seconds=seconds,
        precision=plan.precision,
        progress=line.show,
    )
    judge = NeuralJudge(network.eval().requires_grad_(False))
    parts = [
        judge.scores(torch.tensor(data.images[at : at + CHUNK], device=plan.device)).log_softmax(1).cpu()
        for at in range(0, len(data), CHUNK)
    ]
    return self_confidence(torch.cat(parts).double().numpy(), data.labels)


def cleanlab_ranking(log_p: np.ndarray, labels: np.ndarray) -> dict[str, Column]:
    """cleanlab's label quality of a classifier's out-of-fold probabilities, where it is installed."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    p = np.exp(log_p)
    return {
        f"cleanlab, {method.replace('_', ' ')}": get_label_quality_scores(
            labels, p, method=method, adjust_pred_probs=adjusted
        )
        for method, adjusted in (("self_confidence", False), ("normalized_margin", True))
    }


# ------------------------------------------------------------------------------------------- measurement


def measured(quality: Column, wrong: np.ndarray) -> dict[str, float]:
    """How well low quality tells wrong labels."""
    errors = int(wrong.sum())
    first = np.argsort(quality, kind="stable")[:errors]
    return {
        "auroc": float(roc_auc_score(wrong, -quality)),
        "average_precision": float(average_precision_score(wrong, -quality)),
        "precision_at_errors": float(wrong[first].mean()),
    }


def asked(wanted: Benchmark) -> dict[str, Any]:
    """What makes one measurement another, without the places of files."""
    where = ("log", "data_root", "folder")
    found = {name: value for name, value in asdict(wanted).items() if name not in where}
    return found | {"source": Path(wanted.source).name}


@contextmanager
def kept_in(wanted: Benchmark, seed: int) -> Iterator[Path]:
    """A seed's part of the folder, or one that is gone afterwards."""
    if wanted.folder:
        apart = asked(wanted) | {"seeds": seed, "alone": ""}
        yield wanted.folder / "-".join(str(value) for value in apart.values() if value != "")
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def one_seed(wanted: Benchmark, clean: LabelledImages, seed: int) -> dict[str, Any]:
    """An audit of noisy labels, and the other ways; by way, how well it does."""
    generator = np.random.default_rng(seed)
    labels = noisy_labels(
        wanted.noise, clean.labels, clean.classes, wanted.rate, generator, clean.images
    )
    wrong = labels != clean.labels
    data = replace(clean, labels=labels, fingerprint="")
    device = choose_device(wanted.device)
    plan = Plan(wanted.folds, wanted.minutes, seed, choose_precision("auto", device), device)
    witnesses: dict[str, Witness] = witnesses_for("combined")
    heard = list(witnesses)
    more = {
        "latents": LatentNeighbours(latent_means),
        "features": LatentNeighbours(classifier_features),
    }
    began = time.monotonic()
    with kept_in(wanted, seed) as folder, ProgressLine() as line:
        groups = exact_groups(data.images)
        cross_fit(data, witnesses, plan, folder, line, groups)
        seconds = time.monotonic() - began
        said, _ = cross_fit(data, witnesses | more, plan, folder, line, groups)
        logs = {name: testimony["log_p"] for name, testimony in said.items()}
        if wanted.alone:
            only = {"classifier": witnesses["classifier"]}
            again, _ = cross_fit(data, only, plan, folder / "alone", line, groups)
            logs["classifier alone"] = again["classifier"]["log_p"]
        loss = training_loss(data, plan, wanted.minutes * 60 / wanted.folds, line)
    pool = pooled([logs[name] for name in heard], labels, seed)
    without = pooled([logs[name] for name in heard if name != "generative"], labels, seed)
    alone = {name: pooled([table], labels, seed) for name, table in logs.items()}
    ways: dict[str, Column] = {
        "audit, combined": pool.quality(labels),
        "audit, combined, self-confidence": pool.quality(labels, "self_confidence"),
        "audit, combined, margin": pool.quality(labels, "margin"),
        "audit, without the generative model": without.quality(labels),
        "audit, generative": alone["generative"].quality(labels),
        "audit, classifier": alone["classifier"].quality(labels),
        **{
            f"{name}, all of the time": pool.quality(labels)
            for name, pool in alone.items()
            if name == "classifier alone"
        },
        "neighbours in pixel space": alone["neighbours"].quality(labels),
        "neighbours in latent space": alone["latents"].quality(labels),
        "neighbours in the classifier's features": alone["features"].quality(labels),
        "training loss": loss,
        "likelihood of the given label": _given_likelihood(said["generative"], labels),
        **cleanlab_ranking(log_normalised(logs.get("classifier alone", logs["classifier"])), labels),
    }
    samples, gain, changed = said["generative"]["about_convergence"].mean(0)
    return {
        "seed": seed,
        "errors": int(wrong.sum()),
        "seconds": round(seconds, 1),
        "weights": dict(zip(heard, np.round(pool.weights, 4).tolist(), strict=True)),
        "errors_by_confident_learning": round(confident_learning(pool.log_p, labels, seed).errors, 1),
        "errors_by_calibration": round(pool.expected_errors(labels), 1),
        "suggested_right": float((pool.log_p.argmax(1) == clean.labels)[wrong].mean()),
        "samples": float(samples),
        "nats_by_last_doubling": float(gain),
        "likeliest_labels_changed_by_it": float(changed),
        "ways": {name: measured(quality, wrong) for name, quality in ways.items()},
    }


def _given_likelihood(testimony: Testimony, labels: np.ndarray) -> Column:
    """The bound of `log p(x, y)` under the given label: how odd the pair is, whatever others say."""
    return testimony["log_likelihood"] + self_confidence(testimony["log_p"].astype(float), labels)


def benchmark(wanted: Benchmark) -> dict[str, Any]:
    """Every seed, a table, and the line for the log."""
    clean = load(
        wanted.source,
        split=wanted.split,
        data_root=wanted.data_root,
        image_size=wanted.image_size,
        skip_unreadable=True,
        hold_out=False,
    ).labelled()
    if wanted.images:
        chosen = np.random.default_rng(0).permutation(len(clean))[: wanted.images]
        clean = clean.subset(np.sort(chosen))
    seeds = [one_seed(wanted, clean, seed) for seed in wanted.seeds]
    summary = {}
    for way in seeds[0]["ways"]:
        for measure in ("auroc", "average_precision", "precision_at_errors"):
            values = [seed["ways"][way][measure] for seed in seeds]
            summary.setdefault(way, {})[measure] = [
                round(float(np.mean(values)), 4),
                round(float(np.std(values)), 4),
            ]
    line = {
        **asked(wanted),
        "images": len(clean),
        "summary": summary,
        "by_seed": seeds,
        **logbook.about(choose_device(wanted.device)),
    }
    logbook.add(line, wanted.log)
    return line


def table(line: dict[str, Any]) -> str:
    """The summary as Markdown, the best AUROC first: means over seeds, and their standard deviations."""
    rows = [
        "| way | AUROC | average precision | precision at n = errors |",
        "|---|---|---|---|",
    ]
    ways = sorted(line["summary"].items(), key=lambda way: -way[1]["auroc"][0])
    for way, found in ways:
        cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in found.values()]
        rows.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    try:
        found = benchmark(tyro.cli(Benchmark, description=__doc__))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(found))
