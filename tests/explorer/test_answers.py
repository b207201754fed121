"""What the explorer answers, without a page: any image is fitted or refused, any label is tried."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condvae.data import load
from condvae.errors import UserError
from condvae.evaluation.judge import cached_panel
from condvae.explorer import answers
from condvae.explorer.answers import Subject
from condvae.run import load as load_run

SHAPE = (1, 28, 28)


class AlwaysThree:
    """A judge of one opinion."""

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[torch.full((len(images),), 3)]


def as_file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (400, 90), (31, 500)])
def test_images_of_any_size_and_mode_are_fitted(mode: str, size: tuple[int, int]) -> None:
    content = as_file(Image.new(mode, size), "TIFF" if mode == "CMYK" else "PNG")
    for shape in (SHAPE, (3, 16, 32)):
        image = answers.image_of(content, shape)
        assert image.shape == shape and image.dtype == np.uint8


def test_a_photo_held_upright_is_turned() -> None:
    lying = Image.new("L", (40, 40))
    lying.paste(255, (0, 0, 40, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = answers.image_of(as_file(lying, exif=exif), SHAPE)[0]
    assert turned[:, -3:].min() == 255 and turned[:, :3].max() == 0


@pytest.mark.parametrize("content", [b"", b"no image", as_file(Image.effect_noise((40, 40), 90))[:300]])
def test_what_is_no_image_is_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(UserError, match="could not be read as an image"):
        answers.image_of(content, SHAPE)
    with pytest.raises(UserError, match="at most"):
        answers.image_of(bytes(answers.MOST_BYTES + 1), SHAPE)


def test_a_drawing_is_moved_to_the_middle_of_its_ground() -> None:
    strokes = np.zeros((280, 280, 4), np.uint8)
    strokes[:40, :40] = 255
    image = answers.drawing_of(strokes, 0, SHAPE)[0]
    assert image[12:16, 12:16].min() > 200 and image[:5].max() == 0
    assert answers.drawing_of(strokes, 90, SHAPE)[0, 0, 0] == 90
    with pytest.raises(UserError, match="draw something"):
        answers.drawing_of(np.zeros_like(strokes), 0, SHAPE)


def test_an_image_under_every_label(subject: Subject) -> None:
    judged = replace(subject, judges={"three": AlwaysThree()})
    image, label = answers.numbered(subject, 500)
    found = answers.under_every_label(judged, image, label)
    assert found.images.shape == (10, *SHAPE) and found.own == label and not found.inferred
    assert found.nats is not None and np.isfinite(found.nats).all() and found.nats.max() < 0
    assert found.share is not None and found.share.sum() == pytest.approx(1)
    assert found.opinions["three"].tolist() == [3] * 10
    again = answers.under_every_label(judged, image)
    assert again.inferred and again.own == found.nats.argmax()
    assert np.allclose(again.nats, found.nats), "the same noise every time"


def test_a_loss_is_not_shown_as_a_likelihood(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = answers.numbered(subject, 0)
    monkeypatch.setattr(subject.run.model.likelihood, "is_probability", False)
    found = answers.under_every_label(subject, image, label)
    assert found.nats is None and found.share is None


def test_a_test_image_that_there_is_not(subject: Subject) -> None:
    for number in (-1, 1000):
        with pytest.raises(UserError, match=f"test image {number}"):
            answers.numbered(subject, number)
    with pytest.raises(UserError, match="not on this disk"):
        answers.numbered(replace(subject, test=None), 0)


def test_the_map_leads_back_to_latents(subject: Subject) -> None:
    study = answers.study(subject, 300)
    assert study is not None and study.means.shape == (300, 4) and study.points.shape == (300, 2)
    assert sorted(study.lively) == [0, 1, 2, 3] and np.abs(study.points).max() < study.reach
    place = study.place(*study.points[7])
    assert np.allclose((place - study.centre) @ study.axes.T, study.points[7], atol=1e-4)
    assert np.allclose(study.axes @ study.axes.T, np.eye(2), atol=1e-5)
    assert answers.decoded(subject, place[None], [3]).shape == (1, *SHAPE)
    assert answers.study(replace(subject, test=None)) is None


def test_the_latents_of_a_test_image_are_decoded_to_its_reconstruction(subject: Subject) -> None:
    image, label = answers.numbered(subject, 300)
    latents = answers.latents_of(subject, 300)
    assert latents.shape == (4,)
    found = answers.under_every_label(subject, image, label)
    made = answers.decoded(subject, np.stack([latents] * 10), range(10))
    assert (np.abs(made.astype(int) - found.images) <= 1).all()


def test_a_journey_and_samples(subject: Subject) -> None:
    (one, a), (other, b) = answers.numbered(subject, 0), answers.numbered(subject, 900)
    rows = answers.journey(subject, (one, other), (a, b), [a, b, 5], 4)
    assert rows.shape == (3, 4, *SHAPE)
    made = answers.made_up(subject, [1, 2], 3, temperature=0.5, guidance=1.0)
    assert made.shape == (2, 3, *SHAPE)
    assert (made == answers.made_up(subject, [1, 2], 3, temperature=0.5, guidance=1.0)).all()
    assert (made != answers.made_up(subject, [1, 2], 3, temperature=0.5)).any()


def test_the_hardest_images_come_first(subject: Subject) -> None:
    found = answers.hardest(subject, 5, 100)
    assert found.scored == 100 and found.images.shape == (5, *SHAPE)
    assert (np.diff(found.nats) >= 0).all() and np.nanmean(found.by_class) > found.nats[0]


def test_a_run_that_was_not_evaluated_has_no_numbers(subject: Subject) -> None:
    assert answers.evaluation_rows(subject.run) == []


def test_judges_are_shown_only_from_the_cache() -> None:
    train = load("mnist-sample").subset(np.arange(100))
    assert cached_panel(train, torch.device("cpu")) is None


def test_test_images_that_are_elsewhere(small_run: Path, tmp_path: Path) -> None:
    run = load_run(small_run, "cpu")
    with pytest.raises(UserError, match="--data"):
        answers.subject_of(run, str(tmp_path / "nowhere.npz"))
    away = replace(run, config=replace(run.config, data=replace(run.config.data, source="mnist")))
    assert answers.subject_of(away).test is None, "nothing is downloaded"


def test_an_audit_is_read_in_its_order(tmp_path: Path) -> None:
    def write(rows: list[dict[str, object]], columns: tuple[str, ...] = answers.ISSUES) -> None:
        with (tmp_path / "issues.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    Image.new("L", (30, 20), 77).save(tmp_path / "b.png")
    rows = [
        {"index": 4, "file": "gone.png", "given": "cat", "suggested": "dog", "rank": 2, "score": 0.1},
        {"index": 9, "file": "b.png", "given": "<b>", "suggested": "cat", "rank": 1, "score": 0.9},
    ]
    write(rows)
    found = answers.audit_rows(tmp_path)
    assert [row["index"] for row in found] == ["9", "4"] and found[0]["kind"] == ""
    picture = answers.audited_picture(found[0], [tmp_path], SHAPE)
    assert picture is not None and (picture == 77).all()
    assert answers.audited_picture(found[1], [tmp_path], SHAPE) is None
    assert answers.audited_picture({"file": "../b.png"}, [tmp_path / "x"], SHAPE) is None
    write(rows, answers.ISSUES[:3])
    with pytest.raises(UserError, match="no column"):
        answers.audit_rows(tmp_path)
    with pytest.raises(UserError, match="--audit"):
        answers.audit_rows(tmp_path / "nowhere")
