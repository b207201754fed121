"""`report.html`: the suspects as one page, which needs nothing beside it and asks no one for anything.

Everything is in the file: pictures as data, and one style and one script, which a content security
policy admits by their hashes and nothing else. Names of classes and files are text, whatever they hold.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condvae.auditing.findings import KINDS, AuditResult, Suspect
from condvae.figures.inline import data_url, png
from condvae.files import as_utf8

MATRIX_CLASSES = 30
"""With more classes than these, the commonest confusions are listed instead of the whole matrix."""
HEAT = (0.001, 0.01, 0.05, 0.2)


@dataclass(frozen=True)
class Card:
    """A suspect with its pictures.

    Arguments:
        suspect: who.
        pictures: captions, and images `[C, H, W]`; the first is the image itself.
    """

    suspect: Suspect
    pictures: Sequence[tuple[str, NDArray[np.uint8]]]


def report(result: AuditResult, cards: Sequence[Card], decisions: Mapping[str, Any]) -> str:
    """The page.

    Arguments:
        decisions: what the saved file of decisions begins with; it says which data they are about.
    """
    style, script = (_resource(f"report.{kind}") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = {"class_names": list(result.class_names), **decisions}
    about = {"key": hashlib.sha256(json.dumps(head).encode()).hexdigest()[:16], "decisions": head}
    numbers = result.numbers
    low, high = numbers["estimated_errors_interval"]
    kinds = sorted({card.suspect.kind for card in cards}, key=list(KINDS).index)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Labels of {text(numbers["source"])}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>Labels of {text(numbers["source"])}, {text(numbers["split"])}</h1>
<p>{numbers["images"]:,} images in {len(result.class_names):,} classes; about
{numbers["estimated_errors"]:,.0f} labels are wrong ({low:,.0f} to {high:,.0f}) by confident learning,
{numbers["estimated_errors_by_calibration"]:,.0f} by the judges’ calibration: if the first is far more,
it counts the judges’ own mistakes. Judged out of fold, by the score “{text(numbers["score"])}”.</p>
<p class="faint">Mark what to do, and save the decisions; <code>condvae audit apply decisions.json</code>
writes a corrected copy of the data. Keys, on a card: K keep, R relabel, D drop, arrows to move.</p>
</header>
{_confusions(result)}
<div class="bar" role="toolbar" aria-label="Filters and saving">
{_filter("kind", "Kind", [(kind, kind) for kind in kinds])}
{_filter("given", "Given label", [])}
{_filter("suggested", "Suggested label", [])}
{_filter("decided", "Decided", [("no", "not yet"), ("yes", "decided")])}
<button type="button" id="save">Save decisions</button>
<span id="state" role="status" class="faint"></span>
</div>
<main id="cards">
{"".join(_card(card, result.class_names) for card in cards)}</main>
<script type="application/json" id="about">{as_data(about)}</script>
<script>{script}</script>
</body>
</html>
"""


def text(value: object) -> str:
    """A value as text inside HTML, or in a quoted attribute."""
    return escape(as_utf8(str(value)))


def as_data(value: Any) -> str:
    """JSON that can't end the element that it is in."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return resources.files("condvae.auditing").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _filter(name: str, title: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(
        f'<option value="{text(value)}">{text(shown)}</option>' for value, shown in choices
    )
    select = f'<select data-filter="{name}"><option value="">all</option>{options}</select>'
    return f"<label>{title}{select}</label>"


def _card(card: Card, names: Sequence[str]) -> str:
    suspect = card.suspect
    given = names[suspect.given] if suspect.given >= 0 else ""
    suggested = names[suspect.suggested] if suspect.suggested >= 0 else ""
    figures = "".join(
        f'<figure><img src="{data_url(png(image))}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
        for caption, image in card.pictures
    )
    where = suspect.file or f"image {suspect.index}"
    readable = suspect.index >= 0
    labels = text(given) if given == suggested else f"{text(given)} → {text(suggested)}"
    relabel = (
        '<button type="button" data-do="relabel" aria-pressed="false">relabel</button>'
        f'<select aria-label="new label of {text(where)}"></select>'
    )
    return f"""<article class="card" tabindex="0" aria-label="{text(where)}" data-kind="{suspect.kind}"
 data-index="{suspect.index}" data-file="{text(suspect.file)}" data-given="{text(given)}"
 data-suggested="{text(suggested)}">
<div class="pictures">{figures}</div>
<p class="labels">{labels if readable else "unreadable"}</p>
<p class="faint">{text(where)}: {suspect.kind} {suspect.rank}, {KINDS[suspect.kind]}{_score(suspect)}</p>
<div class="actions">
<button type="button" data-do="keep" aria-pressed="false">keep</button>
{relabel if readable else ""}
<button type="button" data-do="drop" aria-pressed="false">drop</button>
</div>
</article>
"""


def _score(suspect: Suspect) -> str:
    if suspect.kind == "unreadable":
        return ""
    if suspect.kind == "outlier":
        return f" ({suspect.score:.1f} standard deviations away)"
    return f" (probability that its label is right: {suspect.score:.2g})"


def _confusions(result: AuditResult) -> str:
    """The noise matrix as a table, or, of many classes, the commonest confusions."""
    names, confusion = result.class_names, result.confusion
    matrix, error = confusion.noise_matrix, confusion.noise_error
    heading = "<h2>Which label is given for which</h2>"
    if len(names) > MATRIX_CLASSES:
        joint = confusion.joint * len(result.labels)
        np.fill_diagonal(joint, 0)
        rows = []
        for place in np.argsort(-joint, axis=None)[:MATRIX_CLASSES]:
            given, true = np.unravel_index(place, joint.shape)
            cells = f"<td>{text(names[true])}</td><td>{text(names[given])}</td>"
            rows.append(f"<tr>{cells}<td>{joint[given, true]:.1f}</td></tr>")
        header = "<tr><th>true</th><th>given</th><th>images, estimated</th></tr>"
        return f'{heading}<div class="scroll"><table>{header}{"".join(rows)}</table></div>'
    header = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    body = []
    for true, name in enumerate(names):
        cells = "".join(
            f'<td class="heat-{0 if given == true else np.searchsorted(HEAT, matrix[true, given])}">'
            f'{matrix[true, given]:.1%}<br><span class="faint">± {error[true, given]:.1%}</span></td>'
            for given in range(len(names))
        )
        body.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return (
        f'{heading}<p class="faint">A row a true label, estimated: the share of its images that are '
        f"given each label, and its standard error.</p>"
        f'<div class="scroll"><table><tr><td></td>{header}</tr>{"".join(body)}</table></div>'
    )
