"""An audit from a source to its files and back to a corrected copy, and from arrays to DataFrames."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import condvae
from condvae import cli
from condvae.auditing import generative
from condvae.auditing.findings import KINDS
from condvae.config import Config
from condvae.data import LabelledImages, load, noisy_labels
from condvae.errors import UserError
from condvae.evaluation import judge
from condvae.verbs import audit as verb

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
Maker = Callable[..., LabelledImages]
Folders = Callable[..., Path]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, small: Config) -> None:
    """Networks that are trained in a second or two."""
    monkeypatch.setattr(generative, "EPOCHS", 4)
    monkeypatch.setattr(generative, "STEPS", 60)
    monkeypatch.setattr(judge, "LEAST_STEPS", 40)
    quick = replace(small, model=replace(small.model, network="mlp(widths=[32])", latents=2))
    monkeypatch.setattr(generative, "load_recipe", lambda name: quick)
    monkeypatch.setattr(verb, "choose_precision", lambda *_: "fp32")


def saved(tmp_path: Path, data: LabelledImages, labels: np.ndarray) -> Path:
    file = tmp_path / "data.npz"
    np.savez(file, images=data.images, labels=labels, class_names=np.array(data.class_names))
    return file


def files_of(out: Path) -> dict[str, bytes]:
    names = ("issues.csv", "report.html", "scores.parquet")
    return {name: (out / name).read_bytes() for name in names}


def test_arrays_in_and_frames_out(stripes: Maker, hasty: None) -> None:
    data = stripes(90)
    labels = noisy_labels("symmetric", data.labels, 3, 0.1, np.random.default_rng(0))
    labels[5] = -1
    result = condvae.audit(
        data.images[:, 0], labels, class_names=["a", "b", "c"], folds=3, quiet=True, device="cpu"
    )
    assert result.indices.tolist() == [index for index in range(90) if index != 5]
    kept = result.indices
    wrong = labels[kept] != data.labels[kept]
    scores = result.scores
    assert len(scores) == 89 and set(result.pools) == {
        "combined",
        "classifier",
        "generative",
        "neighbours",
    }
    assert roc_auc_score(wrong, -scores["combined_self_confidence"]) > 0.9
    assert result.pred_probs.shape == (89, 3) and result.pred_probs.sum(1) == pytest.approx(1)
    first = result.issues.iloc[0]
    assert first["kind"] == "label" and wrong[list(kept).index(first["index"])]
    assert first["suggested_label"] == "abc"[data.labels[first["index"]]]
    assert 0 < result.confusion.errors < 30


def test_probabilities_go_straight_into_cleanlab(stripes: Maker, hasty: None) -> None:
    cleanlab = pytest.importorskip("cleanlab.filter", reason="cleanlab isn't installed")
    data = stripes(90)
    labels = noisy_labels("symmetric", data.labels, 3, 0.1, np.random.default_rng(0))
    result = condvae.audit(data.images, labels, folds=3, scores="neighbours", quiet=True, device="cpu")
    found = cleanlab.find_label_issues(labels, result.pred_probs)
    wrong = labels != data.labels
    assert found[wrong].mean() > 0.7 and found[~wrong].mean() < 0.1


def test_the_command_writes_its_files_and_goes_on_where_it_was_killed(
    stripes: Maker,
    hasty: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = stripes(90)
    labels = noisy_labels("symmetric", data.labels, 3, 0.1, np.random.default_rng(0))
    file = saved(tmp_path, data, labels)
    common = ["audit", str(file), "--folds", "3", "--budget", "12", "--device", "cpu"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cli.run([*common, "--out", str(whole)])
    printed = capsys.readouterr()
    assert "passes a fold" in printed.err and "about 0:" in printed.err, "an estimate of time first"
    assert str(whole / "report.html") in printed.out and "label" in printed.out
    numbers = json.loads((whole / "audit.json").read_text())
    assert f"wrong labels: about {numbers['estimated_errors']:,.0f} (" in printed.out
    assert f"{numbers['estimated_errors_by_calibration']:,.0f} by calibration" in printed.out
    assert numbers["images"] == 90 and numbers["folds"] == 3 and set(numbers["suspects"]) == set(KINDS)
    assert np.array(numbers["noise_matrix"]).sum(1) == pytest.approx(1, abs=1e-3)
    assert numbers["convergence"]["samples"] == [16] * 3

    table = pandas.read_parquet(whole / "scores.parquet")
    assert table["index"].tolist() == list(range(90))
    assert (table["given_label"] == np.array(data.class_names)[labels]).all()
    with (whole / "issues.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    suspects = [row for row in rows if row["kind"] in ("label", "unsure")]
    assert [int(row["rank"]) for row in suspects] == list(range(1, len(suspects) + 1))
    assert [float(row["score"]) for row in suspects] == sorted(float(row["score"]) for row in suspects)
    page = (whole / "report.html").read_text("utf-8")
    assert page.count("<article") == len([row for row in rows if int(row["rank"]) <= 12])
    assert "to the model" in page, "what the model makes of it"

    testify = generative.GenerativeWitness.testify
    asked: list[int] = []

    def until_the_second(self: generative.GenerativeWitness, task: object) -> object:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return testify(self, task)  # type: ignore[arg-type]

    monkeypatch.setattr(generative.GenerativeWitness, "testify", until_the_second)
    with pytest.raises(SystemExit) as ended:
        cli.run([*common, "--out", str(killed)])
    assert ended.value.code == 130 and "--resume" in capsys.readouterr().out
    with pytest.raises(UserError, match="--resume"):
        cli.run([*common, "--out", str(killed)])
    with pytest.raises(UserError, match=r"begun with seed = 0"):
        cli.run([*common, "--out", str(killed), "--resume", "--seed", "1"])
    cli.run([*common, "--out", str(killed), "--resume"])
    assert len(asked) == 4, "the first fold isn't asked about again"
    assert files_of(killed) == files_of(whole)


def test_estimates_that_are_far_apart_come_with_a_warning() -> None:
    found = {
        "estimated_errors": 344,
        "estimated_errors_interval": [318, 370],
        "estimated_errors_by_calibration": 19,
    }
    said, warning = cli.errors_thought(found)
    assert said == "wrong labels: about 344 (318 to 370) by confident learning, 19 by calibration"
    assert "far apart" in warning and "--minutes" in warning
    assert len(cli.errors_thought(found | {"estimated_errors_by_calibration": 159})) == 1


def test_a_folder_with_all_that_can_be_wrong_and_its_corrected_copy(
    class_folder: Folders, hasty: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folder(classes=("cat", "<b>dog", "sea [red]lion"), number=14, side=20)
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    (folder / "unlabelled").mkdir()
    (folder / "unlabelled" / "x.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    (folder / "cat" / "copy.png").write_bytes((folder / "sea [red]lion" / "3.png").read_bytes())
    out = tmp_path / "out"
    cli.run(["audit", str(folder), "--folds", "2", "--out", str(out), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "sea [red]lion" in printed.replace("\n", " ")
    numbers = json.loads((out / "audit.json").read_text())
    assert numbers["suspects"]["unreadable"] == 1 and numbers["suspects"]["duplicate"] == 2
    assert numbers["unlabelled"] == 1 and numbers["exact_copies"] == 1
    issues = pandas.read_csv(out / "issues.csv")
    assert set(issues[issues["kind"] == "duplicate"]["file"]) == {"cat/copy.png", "sea [red]lion/3.png"}
    page = (out / "report.html").read_text("utf-8")
    assert "<b>dog" not in page

    about = json.loads(page.split('id="about">')[1].split("</script>")[0])["decisions"]
    copy = issues[issues["file"] == "cat/copy.png"].iloc[0]
    about["decisions"] = [
        {"index": int(copy["index"]), "file": "cat/copy.png", "given": "cat", "action": "drop"},
        {"index": -1, "file": "cat/broken.png", "given": "", "action": "drop"},
    ]
    (tmp_path / "decisions.json").write_text(json.dumps(about))
    corrected = tmp_path / "corrected"
    cli.run(["audit", "apply", str(tmp_path / "decisions.json"), "--out", str(corrected)])
    assert "2 dropped" in capsys.readouterr().out
    assert not (corrected / "cat" / "broken.png").exists() and (folder / "cat" / "broken.png").exists()
    assert len(load(str(corrected), split="all").labelled()) == 3 * 14


def test_large_images_are_reduced_and_a_split_is_chosen(class_folder: Folders, tmp_path: Path) -> None:
    folder = class_folder(number=6, side=70, name="pets/train")
    class_folder(number=4, side=70, name="pets/test")
    for split, number in (("train", 12), ("test", 8), ("all", 20)):
        result = verb.audit_source(
            str(folder.parent),
            split=split,
            folds=2,
            scores="neighbours",
            out=tmp_path / split,
            quiet=True,
            device="cpu",
        )
        assert len(result.labels) == number and result.numbers["settings"]["image_size"] == 64
        assert result.files is not None and result.files[0].startswith(("test", "train"))
        assert "to the model" not in (tmp_path / split / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("number", "classes"), [(12, 2), (9, 3)])
def test_very_few_images(number: int, classes: int, stripes: Maker, hasty: None) -> None:
    data = stripes(number, classes)
    result = condvae.audit(data.images, data.labels, folds=3, quiet=True, device="cpu", budget=5)
    assert result.pred_probs.shape == (number, classes) and np.isfinite(result.pred_probs).all()


def test_classes_of_very_different_sizes(stripes: Maker, hasty: None) -> None:
    data = stripes(150)
    chosen = np.concatenate([np.flatnonzero(data.labels == 0), np.flatnonzero(data.labels > 0)[:9]])
    labels = data.labels[chosen].copy()
    assert np.bincount(labels).tolist() == [50, 5, 4]
    result = condvae.audit(
        data.images[chosen], labels, folds=4, scores="neighbours", quiet=True, device="cpu"
    )
    assert np.isfinite(result.confusion.noise_matrix).all() and result.confusion.errors < 15
    alone = np.append(labels[:50], 1)
    few = condvae.audit(
        np.concatenate([data.images[chosen][:50], data.images[1:2]]),
        alone,
        scores="neighbours",
        quiet=True,
        device="cpu",
    )
    assert few.pred_probs.shape == (51, 2), (
        "a class of one, which is held out from those that it would teach"
    )


def test_what_cannot_be_audited(stripes: Maker, tmp_path: Path) -> None:
    data = stripes(20)
    for images, labels, changes, expected in (
        (data.images, data.labels[:5], {}, "20 integers"),
        (data.images.astype(float), data.labels, {}, "must be uint8"),
        (data.images, data.labels * 0, {"class_names": ["a", "b"]}, "two classes or more"),
        (data.images, data.labels, {"folds": 1}, "--folds 1"),
        (data.images, data.labels, {"folds": 21}, "--folds 21"),
        (data.images, data.labels, {"minutes": 0}, "--minutes 0"),
        (data.images, data.labels, {"minutes": float("inf")}, "--minutes inf"),
        (data.images, data.labels, {"budget": 0}, "--budget 0"),
        (data.images, data.labels, {"scores": "combine"}, "did you mean 'combined'"),
    ):
        with pytest.raises(UserError, match=expected):
            condvae.audit(images, labels, quiet=True, device="cpu", **changes)  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    file = saved(tmp_path, data, data.labels)
    with pytest.raises(UserError, match="choose a new folder"):
        verb.audit_source(str(file), out=tmp_path / "out", quiet=True, device="cpu")
    (tmp_path / "out" / verb.SETTINGS).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        verb.audit_source(str(file), out=tmp_path / "out", quiet=True, device="cpu", resume=True)


@pytest.mark.slow
def test_wrong_digits_are_found(tmp_path: Path) -> None:
    """A tenth of the labels of 1,000 digits is wrong, one is no digit, and the audit has a minute."""
    data = load("mnist-sample", split="test")
    generator = np.random.default_rng(0)
    labels = noisy_labels("symmetric", data.labels, 10, 0.1, generator)
    images = data.images.copy()
    images[123] = generator.integers(0, 256, images[0].shape)
    data, out = replace(data, images=images), tmp_path / "out"
    cli.run(["audit", str(saved(tmp_path, data, labels)), "--minutes", "1", "--out", str(out)])
    issues = pandas.read_csv(out / "issues.csv")
    assert issues[issues["kind"] == "outlier"]["index"].tolist()[:1] == [123], "it is no digit at all"
    table = pandas.read_parquet(out / "scores.parquet")
    wrong = labels != data.labels
    assert roc_auc_score(wrong, -table["combined_self_confidence"]) > 0.97
    found = (table["suggested_label"].astype(int) == data.labels)[wrong]
    assert found.mean() > 0.8
    numbers = json.loads((out / "audit.json").read_text())
    for estimate in ("estimated_errors", "estimated_errors_by_calibration"):
        assert 60 < numbers[estimate] < 160
