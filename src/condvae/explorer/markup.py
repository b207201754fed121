"""Images and numbers as HTML: images inside the page, words escaped, the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from condvae.figures import as_picture
from condvae.figures.inline import data_url, png

CSS = """
.cards {display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; padding: 0}
.cards figure {margin: 0; padding: .4rem; width: 7.5rem; border-radius: .5rem;
  border: 2px solid var(--border-color-primary)}
.cards figure.own {border-color: var(--color-accent)}
.cards img {width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated}
.cards figcaption {font-size: .85rem; line-height: 1.3; overflow-wrap: anywhere}
.cards small {display: block; opacity: .75}
.wide img {max-width: 100%; height: auto}
.numbers {border-collapse: collapse; width: 100%; border: 0; margin-top: 1rem}
.numbers td, .numbers th {text-align: left; border: 0; padding: .3rem .6rem; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary); overflow-wrap: anywhere}
"""


def embedded(image: Image.Image, words: str) -> str:
    """An image inside the page, as a PNG.

    Arguments:
        words: what is seen on it, for those who don't see it.
    """
    return moving(png(image), "png", words)


def moving(content: bytes, kind: str, words: str) -> str:
    """An image file inside the page: "png", or an animation, "webp" or "gif"."""
    return f'<img alt="{escape(words)}" src="{data_url(content, kind)}">'


def cards(
    images: UInt8[np.ndarray, "n c h w"],
    titles: Sequence[str],
    notes: Sequence[Sequence[str]] | None = None,
    own: int | None = None,
) -> str:
    """Images beside one another, each with a title and, below it, a few short notes.

    Arguments:
        own: the one that is framed.
    """
    shown = []
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        frame = ' class="own"' if index == own else ""
        below = "".join(f"<small>{escape(note)}</small>" for note in (notes[index] if notes else ()))
        picture = embedded(as_picture(image, image.shape[1]), title)
        shown.append(f"<figure{frame}>{picture}<figcaption>{escape(title)}{below}</figcaption></figure>")
    return f'<div class="cards">{"".join(shown)}</div>'


def wide(picture: str) -> str:
    """A large picture, which shrinks to the width that there is."""
    return f'<div class="wide">{picture}</div>'


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table of words."""

    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    above = f"<thead>{row(head, 'th')}</thead>" if head else ""
    return f'<table class="numbers">{above}<tbody>{"".join(row(r, "td") for r in rows)}</tbody></table>'


def said(sentence: str) -> str:
    """A sentence."""
    return f"<p>{escape(sentence)}</p>"
