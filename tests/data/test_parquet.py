"""Parquet as the Hub lays it out: columns, classes and splits are found, and images decoded."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import condvae
from condvae.data import hub, info, load
from condvae.errors import UserError

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs condvae[parquet]")

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["zebra", "ant / bee"], "_type": "ClassLabel"},
}


def png(value: int, side: int = 8, mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new(mode, (side, side), value if mode == "L" else (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, labels: list[Any], features: Any = None, start: int = 0, **columns: Any) -> Path:
    """A Parquet file of images, number i being of the colour i, two rows a group."""
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    files = [{"bytes": png(start + i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pyarrow.table({"image": files, "label": labels} | columns)
    if features:
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(told)
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def test_splits_classes_and_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "d/data/train-00000-of-00002.parquet", [0, 1, -1], FEATURES)
    write(tmp_path / "d/data/train-00001-of-00002.parquet", [1, None], FEATURES, 3)
    write(tmp_path / "d/data/test-00000-of-00001.parquet", [1, 0], FEATURES, 100)
    write(tmp_path / "d/data/validation-00000-of-00001.parquet", [1], FEATURES, 200)
    train = condvae.load_dataset(str(tmp_path / "d"))
    assert train.class_names == ("zebra", "ant / bee") and train.shape == (3, 8, 8)
    assert train.labels.tolist() == [0, 1, -1, 1, -1]
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    test = load(str(tmp_path / "d"), split="test", channels=1, image_size=4)
    assert test.labels.tolist() == [1, 0] and test.shape == (1, 4, 4)
    assert len(load(str(tmp_path / "d"), split="all")) == 7
    told = info(str(tmp_path / "d"))
    assert told["images"] == {"all": 7, "unlabelled": 2} and "own" in told["test_split"]


def test_the_second_time_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from condvae.data.parquet import Parquet

    file = write(tmp_path / "x.parquet", [0, 1] * 10)
    first = load(str(file), split="all", image_size=8, channels=3)
    monkeypatch.setattr(Parquet, "read", lambda self, entry: b"never")
    again = load(str(file), split="all", image_size=8, channels=3)
    assert again.fingerprint == first.fingerprint and (again.images == first.images).all()


def test_a_single_file_is_divided_as_a_folder_is(tmp_path: Path) -> None:
    file = str(write(tmp_path / "pets.parquet", ["dog", "cat"] * 20))
    train, test = load(file), load(file, split="test")
    assert train.class_names == ("cat", "dog") and (len(train), len(test)) == (36, 4)
    folder = write(tmp_path / "c/default/train/0000.parquet", ["b", "a"])
    write(tmp_path / "c/default/test/0000.parquet", ["c"])
    assert load(str(folder.parents[2])).class_names == ("a", "b", "c")


def test_columns_are_found_by_their_types(tmp_path: Path) -> None:
    import pyarrow.parquet

    table = pyarrow.table({"jpg": [png(i, mode="L") for i in range(4)], "cls": [0, 1, 2, 0]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    found = load(str(tmp_path / "x.parquet"), split="all")
    assert found.class_names == ("0", "1", "2") and found.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"PAR1"), "no Parquet file"),
        (
            lambda p: write(p, [0, 0], FEATURES | {"label": {"names": ["a"], "_type": "ClassLabel"}}),
            "two",
        ),
        (lambda p: write(p, [0, 7], FEATURES), "a label of 7"),
        (lambda p: write(p, ["a", "b"], image=[{"path": "a.png"}] * 2), "no column of image files"),
        (lambda p: write(p, [0, 1], image=[{"bytes": b"x", "path": ""}] * 2), "can be read"),
        (lambda p: write(p, [0, 1], image=[1, 2]), "no column of image files"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "x.parquet"), split="all")


def test_several_columns_may_be_the_labels(tmp_path: Path) -> None:
    import pyarrow.parquet

    table = pyarrow.table({"image": [png(1)] * 2, "coarse": [0, 1], "fine": [1, 0]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="coarse, fine may all be the labels"):
        load(str(tmp_path / "x.parquet"))


def test_unreadable_images_are_skipped_if_asked(tmp_path: Path) -> None:
    files = [{"bytes": png(i) if i else b"x", "path": ""} for i in range(4)]
    write(tmp_path / "x.parquet", [0, 1, 0, 1], image=files)
    found = load(str(tmp_path / "x.parquet"), split="all", skip_unreadable=True)
    assert found.skipped == 1 and found.labels.tolist() == [1, 0, 1]


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.parquet", [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    with pytest.raises(UserError, match=r"condvae\[parquet\]"):
        load(str(tmp_path / "x.parquet"))


def test_a_dataset_on_the_hub_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(repo_id: str, *, repo_type: str, local_dir: Path, **_: Any) -> None:
        asked.append((repo_id, repo_type))
        write(Path(local_dir) / "data/train.parquet", [0, 1] * 10, FEATURES)
        write(Path(local_dir) / "data/test.parquet", [0, 1], FEATURES)

    monkeypatch.setenv("CONDVAE_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    train = load("hf://someone/animals")
    assert train.name == "someone/animals" and len(train) == 20
    assert len(load("hf://someone/animals", split="test")) == 2
    assert asked == [("someone/animals", "dataset")]
    assert (hub.folder_of("hf://someone/animals", "dataset") / hub.WHOLE).is_file()
    assert np.unique(train.labels).tolist() == [0, 1]
