"""Files that are made to do harm, or are merely odd: handled, or refused by name."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from condvae.config import load_recipe
from condvae.data import folders, load
from condvae.data.formats import read_cifar10, read_idx, read_npz
from condvae.data.images import open_image, without_warnings
from condvae.errors import UserError

Maker = Callable[..., Path]


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A grey PNG that declares a size, and has some rows of it, all black."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("size", [(50_000, 50_000), (9_000, 9_000), (1, 60_000_000), (0, 4)])
def test_an_image_of_absurd_size_is_refused_before_it_is_unpacked(
    size: tuple[int, int], class_folder: Maker
) -> None:
    folder = class_folder()
    (folder / "cat" / "bomb.png").write_bytes(png(*size))
    with pytest.raises(UserError, match=r"cat/bomb\.png: not a readable image"):
        load(str(folder), split="all", image_size=8)
    assert load(str(folder), split="all", image_size=8, skip_unreadable=True).skipped == 1


def test_large_photographs_want_a_size(class_folder: Maker) -> None:
    folder = class_folder()
    (folder / "cat" / "0.png").write_bytes(png(3000, 2000, 2000))
    with pytest.raises(UserError, match=r"3000 x 2000.*--data\.image-size"):
        load(str(folder), split="all")
    assert load(str(folder), split="all", image_size=8, channels=3).shape == (3, 8, 8)


def test_an_image_that_another_program_would_have_to_draw_is_not_read(
    class_folder: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript is a programming language; a suffix hides nothing from Pillow."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was run"))
    folder = class_folder()
    (folder / "cat" / "x.eps").write_bytes(saved(Image.new("RGB", (8, 8)), "EPS"))
    assert len(load(str(folder), split="all")) == 20, "not an image here"
    (folder / "cat" / "x.eps").rename(folder / "cat" / "x.png")
    with pytest.raises(UserError, match=r"cat/x\.png: not a readable image"):
        load(str(folder), split="all")


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        image = open_image(content)
        assert image.size == (6, 4) and image.getpixel((2, 2)) == (255, 0, 0), kind


def test_a_photograph_for_print_and_palettes_and_grey_with_transparency() -> None:
    printed = open_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = printed.getpixel((3, 3))
    assert red > 240 and green < 15 and blue < 15
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    assert open_image(saved(palette, "PNG")).getpixel((0, 0)) == (0, 0, 255)
    assert open_image(saved(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    faint = open_image(saved(Image.new("LA", (4, 4), (0, 51)), "PNG"))
    assert faint.mode == "L" and faint.getpixel((0, 0)) == 204


def test_numbers_that_are_none_are_black() -> None:
    values = np.array([[np.nan, 1.0], [np.inf, -np.inf]], np.float32)
    image = open_image(saved(Image.fromarray(values), "TIFF"))
    assert np.asarray(image).tolist() == [[0, 0], [255, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(orientation: int) -> None:
    upright = Image.new("RGB", (16, 32), "black")
    upright.paste((255, 255, 255), (0, 0, 8, 8))
    lying = {
        **{1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"]},
        **{5: ["TRANSPOSE"], 6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"]},
    }[orientation]
    image = upright
    for turn in lying:
        image = image.transpose(Image.Transpose[turn])
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(saved(image, "PNG", exif=exif))
    assert opened.size == (16, 32) and opened.tobytes() == upright.tobytes()


@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00", b"\xff" * 40])
def test_damaged_exif_says_nothing(exif: bytes) -> None:
    with without_warnings():
        image = open_image(saved(Image.new("RGB", (8, 4), "red"), "JPEG", exif=exif))
    assert image.size == (8, 4)


# --------------------------------------------------------------------------------------------- archives


def test_a_zip_bomb_is_not_unpacked(class_folder: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LARGEST", 1 << 20)
    folder = class_folder()
    bomb = folder.with_suffix(".zip")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        archive.writestr("dog/bomb.png", bytes(8 << 20))
    with pytest.raises(UserError, match=r"dog/bomb\.png: not a readable image \(over 1,048,576 bytes"):
        load(str(bomb), split="all")
    assert load(str(bomb), split="all", skip_unreadable=True).skipped == 1


def test_a_link_in_a_zip_is_no_image(class_folder: Maker, tmp_path: Path) -> None:
    folder = class_folder()
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        link = zipfile.ZipInfo("cat/link.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret))
    with pytest.raises(UserError, match=r"cat/link\.png: not a readable image"):
        load(str(path), split="all")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_any_kind_of_compression_is_named(
    method: int, class_folder: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDVAE_CACHE", str(tmp_path / "cache"))  # where nothing was decoded before
    folder = class_folder()
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    raw = bytearray(path.read_bytes())
    start = raw.find(b"cat/0.png") + len("cat/0.png")
    raw[start : start + 40] = b"\xff" * 40
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"cat/0\.png: not a readable image"):
        load(str(path), split="all", image_size=8, channels=3)


def test_a_zip_of_another_age(class_folder: Maker) -> None:
    path = class_folder().with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/1.png", b"")
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 6] = 99  # the version that is needed to unpack it
    path.write_bytes(raw)
    with pytest.raises(UserError, match="not a zip file"):
        load(str(path))


def archive_of(folder: Path, *members: tarfile.TarInfo, content: bytes = b"") -> Path:
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(content[: member.size]))
    return path


def test_links_and_giants_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "test_batch.bin")):
        link = tarfile.TarInfo("test_batch.bin")
        link.type, link.linkname = kind, target
        with pytest.raises(UserError, match="is not in this archive"):
            read_cifar10(archive_of(tmp_path, link), "test")
    giant = tarfile.TarInfo("test_batch.bin")
    giant.size = 70_000_000
    with pytest.raises(UserError, match="holds more than CIFAR-10's files"):
        read_cifar10(archive_of(tmp_path, giant, content=bytes(giant.size)), "test")
    many = [tarfile.TarInfo(f"{number}") for number in range(200)]
    with pytest.raises(UserError, match="holds more than CIFAR-10's files"):
        read_cifar10(archive_of(tmp_path, *many), "test")


# ----------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08\x04",
        b"\x00\x00\x08\x02ab",
        b"\x00\x00\x08\x04" + b"\xff" * 16,
        b"\x00\x00\x08\x03" + bytes(4) + b"\xff" * 8,
        b"\x80\x04\x95 a pickle",
    ],
)
def test_idx_headers_that_promise_too_much(content: bytes) -> None:
    with pytest.raises(UserError):
        read_idx(Path("x"), content)


def npy(header: str, body: bytes = b"") -> bytes:
    """An array file of any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def described(kind: str, shape: str) -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    "array",
    [
        npy(described("'|u1'", "(1000000000000,)")),
        npy(described("'|u1'", "(4294967296, 4294967296)")),
        npy(described("'<U0'", "(1000000000000,)")),
        npy(described("'|V0'", "(9,)")),
        npy(described("'<U400000000'", "(5,)")),
        npy(described("'|u1'", "(-5,)")),
        npy(described("'|u1'", "(-5, -5)"), bytes(25)),
        npy("-" * 9000 + "1"),
        npy("(" * 9000),
        npy("[]"),
        npy(described("[('a', 'O')]", "(1,)"), b"\x80\x04."),
        npy(described("'|O'", "(1,)"), b"\x80\x04."),
        npy(described("(1, 2, 3)", "(1,)")),
        b"\x93NUMPY\x03\x00\xff\xff\xff\xff{",
        b"\x80\x04\x95 a pickle",
        b"",
    ],
)
@pytest.mark.parametrize("where", ["images", "labels", "class_names"])
def test_npz_headers_that_promise_too_much(array: bytes, where: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    good = {"images": np.zeros((4, 5, 5), np.uint8), "labels": np.array([0, 1, 0, 1])}
    np.savez(path, **{name: values for name, values in good.items() if name != where})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{where}.npy", array)
    with pytest.raises(UserError, match=r"data\.npz"):
        read_npz(path, "all")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1 << 62]), "classes; there can be at most 100,000"),
        (np.array([0, (1 << 64) - 1], np.uint64), "at most 100,000"),
        (np.array([-(1 << 62), 1]), "labels run from"),
    ],
)
def test_labels_of_absurd_size(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=np.zeros((2, 5, 5), np.uint8), labels=labels)
    with pytest.raises(UserError, match=message):
        load(str(path))


# -------------------------------------------------------------------------------------------- all in one


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_real_bombs_in_a_gibibyte(tmp_path: Path) -> None:
    """Everything at its true size, by a process that may have so much memory and not more."""
    zeros = bytes(400 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("a/1.png", "b/1.png"):
            archive.writestr(name, zeros)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("images", "labels"):
            archive.writestr(f"{name}.npy", npy(described("'|u1'", f"({len(zeros)},)"), zeros))
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    packed = gzip.compress(b"\x00\x00\x08\x01" + struct.pack(">I", len(zeros)) + zeros, 1)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz").write_bytes(packed)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "1.png").write_bytes(png(7_000, 7_000, 7_000))
        (tmp_path / "pictures" / name / "2.png").write_bytes(png(50_000, 50_000, 100))
    code = """
    import resource, sys
    from pathlib import Path
    from condvae.data import load
    from condvae.errors import UserError
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    folder = Path(sys.argv[1])
    for source in ("bomb.zip", "bomb.npz"):
        try:
            load(str(folder / source), split="all")
            print("taken:", source)
        except UserError as error:
            print("refused:", error)
    try:
        load("mnist", data_root=folder)
    except UserError as error:
        print("refused:", error)
    images = load(str(folder / "pictures"), split="all", image_size=8, skip_unreadable=True)
    assert (len(images), images.skipped) == (2, 2)
    # ru_maxrss would count the process that began this one.
    status = Path("/proc/self/status").read_text()
    print("peak", status.split("VmHWM:")[1].split()[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *said, peak = done.stdout.splitlines()
    assert len(said) == 3 and all(line.startswith("refused:") for line in said), said
    assert int(peak.split()[1]) < 1 << 20, "kibibytes"


# ------------------------------------------------------------------------------------- recipes and names


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"a = " + b"[" * 50_000,
        b"about = " + b"9" * 5_000,
        b"[training]\nepochs = 1e999999999999\nseed = 0x" + b"f" * 20_000,
        b"\xff\xfe about",
        b"about = '\x00'",
        b"model = 3",
        b"#" * 300_000,
        b".".join([b"a"] * 20_000) + b" = 1",
    ],
)
def test_recipes_of_all_kinds_of_wrong(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    try:
        load_recipe(path)
    except UserError as error:
        assert "recipe.toml" in str(error)
    else:
        assert text == b""


def test_names_that_are_no_utf8_are_shown_by_their_bytes(class_folder: Maker) -> None:
    folder = class_folder()
    try:
        os.rename(folder / "cat", os.fsencode(folder) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system has no such names")
    data = load(str(folder), split="all")
    assert data.class_names == ("caf\\xe9", "dog") and len(data) == 20
    assert data.files is not None and data.files[0] == "caf\\xe9/0.png"


def test_names_of_thousands_of_digits_and_none(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("1" * 5000 + "/a.png", "2/b.png", "", "."):
            member = zipfile.ZipInfo("placeholder")
            member.filename = name
            archive.writestr(member, saved(Image.new("L", (4, 4)), "PNG"))
    assert len(load(str(path), split="all").class_names) == 2


def test_text_stays_text_in_a_card() -> None:
    from condvae.verbs.card import cell

    shown = cell("<script>|\n# a heading")
    assert "<" not in shown and "\n" not in shown and "\\|" in shown
