"""Decisions become a corrected copy, the data stays as it was, and bad decisions get a sentence."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condvae.auditing.apply import apply_decisions, read_decisions
from condvae.data import load
from condvae.errors import UserError

Maker = Callable[..., Path]


def state(path: Path) -> dict[str, str]:
    """Every file below a path, with its content's hash."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def decided(
    tmp_path: Path, where: Path | str, names: list[str], *decisions: dict[str, Any], **changes: Any
) -> Path:
    whole = {"format": 1, "source": str(where), "split": "train", "data_root": None}
    whole |= {"class_names": names, "decisions": list(decisions), **changes}
    file = tmp_path / "decisions.json"
    file.write_text(json.dumps(whole), "utf-8")
    return file


def decision(index: int, given: str, action: str, label: str = "", file: str = "") -> dict[str, Any]:
    return {"index": index, "file": file, "given": given, "action": action, "label": label or None}


PETS = (
    decision(0, "cat", "relabel", "dog", "cat/0.png"),
    decision(2, "cat", "drop", file="cat/2.png"),
    decision(3, "cat", "keep", file="cat/3.png"),
    decision(11, "dog", "relabel", "cat", "dog/1.png"),
)


def test_a_folder_becomes_a_corrected_folder(class_folder: Maker, tmp_path: Path) -> None:
    source = class_folder()
    before = state(source)
    file = decided(tmp_path, source, ["cat", "dog"], *PETS)
    done = apply_decisions(read_decisions(file), tmp_path / "new" / "copy")
    assert (done.relabelled, done.dropped, done.kept) == (2, 1, 1)
    assert state(source) == before
    after = state(done.path)
    assert len(after) == 19 and "cat/2.png" not in after
    assert after["dog/0-from-cat.png"] == before["cat/0.png"], "dog/0.png is another image's name"
    assert after["cat/1-from-dog.png"] == before["dog/1.png"]
    untouched = set(before) - {"cat/0.png", "cat/2.png", "dog/1.png"}
    assert all(after[name] == before[name] for name in untouched)
    assert not list((tmp_path / "new").glob(".*")), "nothing is left beside it"


def test_a_zip_becomes_a_corrected_zip(class_folder: Maker, tmp_path: Path) -> None:
    folder = class_folder()
    source = tmp_path / "pets.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            for split in ("train", "test"):
                archive.write(path, f"pets/{split}/{path.relative_to(folder)}")
    before = source.read_bytes()
    decisions = [item | {"file": f"pets/train/{item['file']}"} for item in PETS]
    file = decided(tmp_path, source, ["cat", "dog"], *decisions)
    done = apply_decisions(read_decisions(file), tmp_path / "copy")
    assert source.read_bytes() == before and done.path == tmp_path / "copy" / "pets.zip"
    train, test = (load(str(done.path), split=split) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [9, 10] and np.bincount(test.labels).tolist() == [
        10,
        10,
    ]
    assert train.files is not None and "pets/train/dog/0-from-cat.png" in train.files


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_an_npz_becomes_a_corrected_npz(tmp_path: Path, split: str) -> None:
    source = tmp_path / "arrays.npz"
    images = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], np.int32)
    names = np.array(["a", "b"])
    np.savez(
        source,
        images=images[:6],
        labels=labels[:6],
        test_images=images[6:],
        test_labels=labels[6:],
        class_names=names,
        note=np.array([5]),
    )
    first = {"train": 0, "test": 6, "all": 0}[split]
    last = {"train": 5, "test": 9, "all": 9}[split]
    letters = ["a", "b"]
    file = decided(
        tmp_path,
        source,
        letters,
        decision(0, letters[labels[first]], "relabel", "b"),
        decision(last - first, letters[labels[last]], "drop"),
        split=split,
    )
    done = apply_decisions(read_decisions(file), tmp_path / "copy")
    stays = np.arange(10) != last
    wanted = labels.copy()
    wanted[first] = 1
    with np.load(done.path, allow_pickle=False) as copy:
        assert copy["images"].shape[1:] == (4, 4) and copy["note"].tolist() == [5]
        assert copy["labels"].dtype == np.int32
        together = np.concatenate([copy["labels"], copy["test_labels"]])
        pixels = np.concatenate([copy["images"], copy["test_images"]])
    assert (together == wanted[stays]).all() and (pixels == images[stays]).all()


def test_a_dataset_with_a_name_becomes_an_npz(tmp_path: Path) -> None:
    names = list("0123456789")
    file = decided(
        tmp_path, "mnist-sample", names, decision(3, "0", "relabel", "7"), decision(4, "0", "drop")
    )
    done = apply_decisions(read_decisions(file), tmp_path / "copy")
    copy = load(str(done.path), hold_out=False)
    assert len(copy) == 3999 and copy.labels[3] == 7 and copy.class_names == tuple(names)


def test_files_that_cannot_be_read_are_dropped_and_files_that_moved_are_found(
    class_folder: Maker, tmp_path: Path
) -> None:
    source = class_folder(name="before")
    (source / "cat" / "5.png").write_bytes(b"nothing")
    file = decided(tmp_path, source, ["cat", "dog"], decision(-1, "", "drop", file="cat/5.png"))
    moved = source.rename(tmp_path / "after")
    with pytest.raises(UserError, match="no longer there"):
        apply_decisions(read_decisions(file), tmp_path / "copy")
    done = apply_decisions(read_decisions(file), tmp_path / "copy", source=str(moved))
    assert len(state(done.path)) == 19 and done.dropped == 1


def test_the_data_is_never_written_to(class_folder: Maker, tmp_path: Path) -> None:
    source = class_folder()
    before = state(source)
    decisions = read_decisions(decided(tmp_path, source, ["cat", "dog"], *PETS))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for out, expected in (
        (source, "is there already"),
        (source / "copy", "inside the data"),
        (tmp_path / "full", "is there already"),
    ):
        with pytest.raises(UserError, match=expected):
            apply_decisions(decisions, out)
    assert state(source) == before


def test_decisions_about_other_data_are_refused(class_folder: Maker, tmp_path: Path) -> None:
    source, names = class_folder(), ["cat", "dog", "cow"]
    arrays = tmp_path / "arrays.npz"
    np.savez(
        arrays, images=np.zeros((4, 4, 4), np.uint8), labels=[0, 1, 0, 1], class_names=["cat", "dog"]
    )
    for where, item, expected in (
        (source, decision(1, "dog", "drop", file="cat/1.png"), "was labelled 'dog'"),
        (source, decision(1, "cat", "drop", file="cat/99.png"), "has no file 'cat/99.png'"),
        (source, decision(1, "cat", "relabel", "cow", "cat/1.png"), "no class 'cow'"),
        (arrays, decision(1, "cat", "drop"), "was labelled 'cat'"),
        (arrays, decision(4, "cat", "drop"), "has no image 4"),
        (arrays, decision(0, "cat", "relabel", "cow"), "no class 'cow'"),
    ):
        file = decided(tmp_path, where, names, item)
        with pytest.raises(UserError, match=expected):
            apply_decisions(read_decisions(file), tmp_path / "copy")
        assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".*"))


def test_bad_files_of_decisions_get_one_clear_sentence(tmp_path: Path) -> None:
    good = decision(1, "cat", "drop")
    names = ["cat", "dog"]
    bad: list[tuple[dict[str, Any] | str, str]] = [
        (good | {"action": "burn"}, "'burn' is none of keep, relabel, drop"),
        (good | {"index": "1"}, "index must be a number"),
        (good | {"index": True}, "index must be a number"),
        (good | {"index": -2}, "index must be a number"),
        (good | {"given": "cow"}, "'cow' is no class"),
        (good | {"given": 3}, "must be text"),
        (good | {"action": "relabel", "label": "cow"}, "'cow' is no class"),
        (good | {"action": "relabel"}, "'' is no class"),
        (good | {"index": -1, "file": ""}, "neither which image nor which file"),
        ("drop", "decision 1 is no table"),
    ]
    for item, expected in bad:
        with pytest.raises(UserError, match=expected):
            read_decisions(decided(tmp_path, "x.npz", names, item))  # type: ignore[arg-type]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"format": 7}, "of format 7"),
        ({"split": "best"}, "which split"),
        ({"source": None}, "which source"),
        ({"class_names": "cat"}, "list of names"),
        ({"data_root": 3}, "data_root"),
        ({"decisions": {}}, "holds no decisions"),
        ({"decisions": [good, good]}, "decision 2 is about the same image"),
    ]
    for change, expected in changes:
        with pytest.raises(UserError, match=expected):
            read_decisions(decided(tmp_path, "x.npz", names, good, **change))
    file = tmp_path / "decisions.json"
    for content in (b"", b"{", b"\xff\xfe", b"[1]", b'"x"'):
        file.write_bytes(content)
        with pytest.raises(UserError, match="save"):
            read_decisions(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_decisions(tmp_path / "nowhere.json")
