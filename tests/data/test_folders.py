"""Class folders and zips of them: what counts as a class, the cache, and every kind of image."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condvae.data import decoding, info, load
from condvae.data.folders import Folder, natural_order
from condvae.data.images import fit, open_image
from condvae.errors import UserError

Maker = Callable[..., Path]


def zipped(folder: Path, inside: str = "") -> Path:
    """The folder as a zip beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(inside, file.relative_to(folder)))
    return path


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip in a folder of its own"])
def test_class_folders_round_trip(kind: str, class_folder: Maker) -> None:
    folder = class_folder()
    source = folder if kind == "folder" else zipped(folder, "pets" if "own" in kind else "")
    data = load(str(source), split="all")
    assert data.class_names == ("cat", "dog") and data.shape == (3, 8, 8)
    assert data.labels.tolist() == [0] * 10 + [1] * 10
    assert (data.images[13] == pixels(folder / "dog" / "3.png")).all()
    assert data.files is not None and data.files[13].endswith("dog/3.png")


def test_a_folder_without_a_test_split_sets_a_tenth_aside(class_folder: Maker) -> None:
    source = str(class_folder(number=20))
    train, test = load(source), load(source, split="test")
    assert (len(train), len(test)) == (36, 4)
    assert set(train.files or ()) | set(test.files or ()) == set(load(source, split="all").files or ())
    assert not set(train.files or ()) & set(test.files or ())
    assert np.bincount(test.labels).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["test", "val", "Testing"])
def test_folders_train_and_test_are_the_splits(name: str, class_folder: Maker, tmp_path: Path) -> None:
    class_folder(name="data/train", number=6)
    class_folder(name=f"data/{name}", number=2)
    sizes = {split: len(load(str(tmp_path / "data"), split=split)) for split in ("train", "test", "all")}
    assert sizes == {"train": 12, "test": 4, "all": 16}


def test_unlabelled_hidden_and_foreign_files(class_folder: Maker) -> None:
    folder = class_folder()
    shutil.copytree(folder / "cat", folder / "unlabelled")
    shutil.copytree(folder / "cat", folder / ".thumbnails")
    shutil.copytree(folder / "cat", folder / "__MACOSX" / "cat")
    (folder / "cat" / "._0.png").write_bytes(b"resource fork")
    (folder / "cat" / "notes.txt").write_text("not an image")
    data = load(str(folder), split="all")
    assert data.class_names == ("cat", "dog")
    assert np.bincount(data.labels + 1).tolist() == [10, 10, 10]
    assert len(data.labelled()) == 20


def test_folders_inside_a_class_and_links_in_a_circle(class_folder: Maker) -> None:
    folder = class_folder()
    (folder / "cat" / "2020").mkdir()
    (folder / "cat" / "3.png").rename(folder / "cat" / "2020" / "3.png")
    (folder / "dog" / "again").symlink_to(folder)
    data = load(str(folder), split="all")
    assert data.class_names == ("cat", "dog") and np.bincount(data.labels).tolist() == [10, 10]


def test_numbers_are_sorted_as_numbers(class_folder: Maker) -> None:
    data = load(str(class_folder(classes=("10", "9", "1", "class 2", "class 10"))), split="all")
    assert data.class_names == ("1", "9", "10", "class 2", "class 10")
    assert sorted(["a10", "a9", "B1"], key=natural_order) == ["a9", "a10", "B1"]


def test_images_are_cropped_at_the_centre_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (fit(Image.fromarray(wide), (10, 10), 3) == 200).all()
    assert fit(Image.fromarray(wide), (5, 5), 1).shape == (1, 5, 5)
    for label in ("a", "b"):
        (tmp_path / "x" / label).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / "x" / label / "wide.png")
    data = load(str(tmp_path / "x"), split="all", image_size=16, channels=1)
    assert data.shape == (1, 16, 16) and (data.images[..., 5:11] > 195).all()


# -------------------------------------------------------------------------------------------- the cache


def test_images_are_decoded_once(class_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(class_folder())
    first = load(source, split="all")
    assert isinstance(first.images, np.memmap)
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("decoded again"))
    again = load(source, split="all")
    assert again.fingerprint == first.fingerprint and (again.images == first.images).all()


def test_a_changed_file_is_decoded_again(class_folder: Maker) -> None:
    folder = class_folder()
    before = load(str(folder), split="all")
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / "cat" / "0.png")
    after = load(str(folder), split="all")
    assert (after.images[0] == 7).all() and after.fingerprint != before.fingerprint


def test_a_damaged_cache_is_made_again(class_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folder()
    monkeypatch.setenv("CONDVAE_CACHE", str(folder.parent / "cache"))
    before = np.asarray(load(str(folder), split="all").images).copy()
    cached = next((folder.parent / "cache").rglob("images.npy"))
    for content in (b"", cached.read_bytes()[:300]):
        cached.write_bytes(content)
        assert (load(str(folder), split="all").images == before).all()


def test_without_a_cache_images_are_decoded_into_memory(
    class_folder: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder()
    blocked = folder.parent / "blocked"
    blocked.write_text("a file where the cache's folder would be")
    monkeypatch.setenv("CONDVAE_CACHE", str(blocked))
    data = load(str(folder), split="all")
    assert len(data) == 20 and not isinstance(data.images, np.memmap)


def test_what_was_decoded_before_a_kill_is_not_decoded_again(
    class_folder: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(name="long")
    (folder / "cat" / "1.png").write_bytes(b"no image")
    expected = load(str(folder), split="all", skip_unreadable=True)
    monkeypatch.setenv("CONDVAE_CACHE", str(folder.parent / "cache"))
    monkeypatch.setattr(decoding, "CHUNK", 3)
    monkeypatch.setattr(decoding, "NOTED_EVERY", 0.0)
    decode, asked = decoding.decode_all, []

    def dying(contents: list[bytes], shape: tuple[int, int, int]) -> decoding.Decoded:
        asked.append(len(contents))
        if len(asked) == 6:
            raise KeyboardInterrupt
        return decode(contents, shape)

    monkeypatch.setattr(decoding, "decode_all", dying)
    with pytest.raises(KeyboardInterrupt):
        load(str(folder), split="all", skip_unreadable=True)
    parts = list((folder.parent / "cache" / "decoded").iterdir())
    assert [part.suffix for part in parts] == [".part"]
    asked.clear()
    asked.extend([0] * 10)
    found = load(str(folder), split="all", skip_unreadable=True)
    assert 0 < sum(asked) < 20, "some of the twenty files were decoded before"
    assert found.fingerprint == expected.fingerprint and found.files == expected.files
    assert found.skipped == 1
    (cached,) = (folder.parent / "cache" / "decoded").iterdir()
    assert sorted(file.name for file in cached.iterdir()) == ["about.json", "images.npy", "labels.npy"]


def test_a_damaged_note_of_what_was_decoded_begins_anew(
    class_folder: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(name="noted")
    expected = load(str(folder), split="all").fingerprint
    monkeypatch.setenv("CONDVAE_CACHE", str(folder.parent / "cache"))
    load(str(folder), split="all")
    (cached,) = (folder.parent / "cache" / "decoded").iterdir()
    part = cached.with_name(f"{cached.name}.part")
    for note in (
        "",
        "[]",
        '{"done": 5}',
        '{"done": 500, "unreadable": []}',
        '{"done": -1, "unreadable": []}',
    ):
        cached.rename(part)
        (part / "about.json").unlink()
        (part / "progress.json").write_text(note)
        images = np.load(part / "images.npy", mmap_mode="r+")
        images[:] = 77
        assert load(str(folder), split="all").fingerprint == expected


def test_processes_decode_as_threads_do(class_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folder(name="many")
    (folder / "cat" / "2.png").write_bytes(b"no image")
    entries = Folder(folder).listing("all").entries
    found = []
    for many in (0, 1000):
        monkeypatch.setattr(decoding, "MANY", many)
        images, kept = decoding._decode(Folder(folder), entries, (3, 8, 8), True, None)
        found.append((images.tobytes(), tuple(kept)))
    assert found[0] == found[1] and len(found[0][1]) == 19


def test_a_disk_too_full_for_the_cache_costs_time_and_nothing_else(
    class_folder: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding.os, "posix_fallocate", full, raising=False)
    folder = class_folder(name="full")
    monkeypatch.setenv("CONDVAE_CACHE", str(folder.parent / "cache"))
    data = load(str(folder), split="all")
    assert len(data) == 20 and not isinstance(data.images, np.memmap)
    assert not list((folder.parent / "cache").rglob("*.npy"))


# ------------------------------------------------------------------------------------------ odd images


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_mode_becomes_grey_or_colour() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for content in (
        saved(red),
        saved(red.convert("P")),
        saved(red.convert("CMYK"), "TIFF"),
        saved(red, "BMP"),
        saved(red, "WEBP", lossless=True),
        saved(red.convert("RGBA")),
    ):
        opened = open_image(content)
        assert opened.mode == "RGB" and opened.getpixel((1, 1)) == (255, 0, 0)
    for mode, value in (("1", 1), ("L", 255)):
        opened = open_image(saved(Image.new(mode, (4, 4), value)))
        assert opened.mode == "L" and opened.getpixel((1, 1)) == 255


def test_sixteen_bits_are_scaled_and_transparency_lies_on_white() -> None:
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert open_image(saved(deep)).getpixel((0, 0)) in (127, 128)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(saved(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_a_rotated_photograph_is_upright() -> None:
    image = Image.new("RGB", (8, 4))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = open_image(saved(image, "TIFF", exif=exif))
    assert upright.size == (4, 8)
    assert upright.getpixel((1, 1)) == (255, 255, 255) and upright.getpixel((1, 6)) == (0, 0, 0)


# ----------------------------------------------------------------------------------------------- damage


def test_one_class_and_no_class(class_folder: Maker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one class, 'cat'"):
        load(str(class_folder(classes=("cat",))))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no class folders"):
        load(str(tmp_path / "empty"))
    flat = tmp_path / "flat.zip"
    with zipfile.ZipFile(flat, "w") as archive:
        archive.writestr("a.png", saved(Image.new("L", (4, 4))))
    with pytest.raises(UserError, match="no class folders"):
        load(str(flat))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_unreadable_image_is_named_or_skipped_and_counted(kind: str, class_folder: Maker) -> None:
    folder = class_folder()
    for name, content in (("3", b"not an image"), ("5", b"")):
        (folder / "dog" / f"{name}.png").write_bytes(content)
    source = str(folder if kind == "folder" else zipped(folder))
    with pytest.raises(UserError, match=r"dog/3\.png: not a readable image.*--skip-unreadable"):
        load(source, split="all")
    data = load(source, split="all", skip_unreadable=True)
    assert len(data) == 18 and data.skipped == 2
    assert load(source, split="all", skip_unreadable=True).skipped == 2, "from the cache as well"
    assert data.files is not None and not any(name.endswith("dog/3.png") for name in data.files)


def test_nothing_readable_at_all(class_folder: Maker) -> None:
    folder = class_folder(number=2)
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="none of its 4 images can be read"):
        load(str(folder), split="all", skip_unreadable=True)


@pytest.mark.parametrize("name", ["../evil/a.png", "/etc/a.png", "cat/../../a.png", "..\\evil\\a.png"])
def test_a_zip_that_climbs_out(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, saved(Image.new("L", (4, 4))))
    with pytest.raises(UserError, match="climbs out of the archive"):
        load(str(path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x80\x04pickle"])
def test_what_is_no_zip(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a zip file"):
        load(str(path))


def test_a_zip_made_on_windows_and_an_encrypted_one(class_folder: Maker, tmp_path: Path) -> None:
    folder = class_folder()
    windows = tmp_path / "windows.zip"
    with zipfile.ZipFile(windows, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            member = zipfile.ZipInfo("placeholder")
            member.filename = str(file.relative_to(folder)).replace("/", "\\")
            archive.writestr(member, file.read_bytes())
    assert len(load(str(windows), split="all")) == 20
    locked = tmp_path / "locked.zip"
    raw = bytearray(zipped(folder).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := raw.find(signature, start)) >= 0:
            raw[start + flags] |= 1
            start += 4
    locked.write_bytes(raw)
    with pytest.raises(UserError, match=r"can be read|not a readable image"):
        load(str(locked), split="all")


def test_a_damaged_member_of_a_zip_is_named(class_folder: Maker) -> None:
    source = zipped(class_folder(side=9))
    raw = bytearray(source.read_bytes())
    at = raw.find(b"IDAT")
    raw[at + 4 : at + 12] = b"\x00" * 8
    source.write_bytes(raw)
    with pytest.raises(UserError, match=r"cat/0\.png: not a readable image"):
        load(str(source), split="all")


def test_a_source_that_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load("minst")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"not a folder, a \.zip, an \.npz or a \.parquet"):
        load(str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match=r"--data-root .*: no such folder"):
        load("mnist", data_root=tmp_path / "nowhere")


def test_info_tells_classes_and_counts(class_folder: Maker) -> None:
    folder = class_folder()
    found = info(str(folder))
    assert found["images"] == {"all": 20, "unlabelled": 0}
    assert found["images_per_class"] == {"cat": 10, "dog": 10}
    assert found["test_split"].startswith("10%")
    assert info("mnist-sample")["found"] == "inside condvae"
