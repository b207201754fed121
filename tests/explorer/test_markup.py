"""What is put into the page is escaped, and every image says what it shows."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image

from condvae.explorer import answers, markup
from condvae.explorer.answers import Subject
from condvae.explorer.page import hardest_markup, labels_markup, strokes_of

EVIL = '<script>alert("1")</script>'


def test_words_are_escaped() -> None:
    images = np.zeros((1, 3, 4, 4), np.uint8)
    for made in (
        markup.cards(images, [EVIL], [[EVIL]]),
        markup.table([[EVIL]], [EVIL]),
        markup.said(EVIL),
        markup.embedded(Image.new("L", (2, 2)), EVIL),
    ):
        assert "<script" not in made and "&lt;script&gt;" in made and 'alert("' not in made


def test_images_are_in_the_page_itself() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    made = markup.cards(images, ["one"], own=0)
    content = re.search(r'src="data:image/png;base64,([^"]+)"', made)
    assert content and 'class="own"' in made and 'alt="one"' in made
    with Image.open(BytesIO(base64.b64decode(content[1]))) as picture:
        assert (np.asarray(picture).transpose(2, 0, 1) == images[0]).all()
    assert "http" not in made + markup.CSS


def test_class_names_are_escaped_wherever_they_are_shown(subject: Subject) -> None:
    names = (EVIL, *subject.names[1:])
    evil = replace(subject, run=replace(subject.run, class_names=names))
    image, label = answers.numbered(evil, 0)
    for made in (
        labels_markup(evil, image, label),
        labels_markup(evil, image, None),
        hardest_markup(evil),
    ):
        assert EVIL not in made
    assert labels_markup(evil, image, label).count("<figure") == 11


def test_strokes_are_those_of_the_pads_layer() -> None:
    layer = np.full((5, 5, 4), 9, np.uint8)
    assert (strokes_of({"background": None, "layers": [layer], "composite": None}) == 9).all()
    for nothing in (None, {}, {"layers": []}):
        assert not strokes_of(nothing).any()
