"""The report is one page that needs nothing, runs its own script alone, and takes names as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from condvae.auditing.findings import ISSUE_COLUMNS, AuditResult, Suspect
from condvae.auditing.report import MATRIX_CLASSES, Card, as_data, report, text
from condvae.auditing.scores import Confusion, Pool, log_normalised

NASTY = ("<script>alert(1)</script>", "a \"quoted\" & 'odd' name", "</title><b>", "plain")
DECISIONS = {"format": 1, "source": "/data/</script><x>", "split": "all", "data_root": None}


class Page(HTMLParser):
    """Notes every element with its attributes, and the text inside each."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            found for name, found in self.elements if name == tag and wanted.items() <= found.items()
        ]


def result(names: tuple[str, ...] = NASTY) -> AuditResult:
    classes = len(names)
    labels = np.arange(12) % classes
    log_p = log_normalised(np.random.default_rng(0).normal(size=(12, classes)))
    joint = np.full((classes, classes), 1 / classes**2)
    confusion = Confusion(joint, joint * classes, joint * 0.1, 3.4, (1.0, 6.2))
    numbers = {
        "source": "<i>pets</i>",
        "split": "all",
        "images": 12,
        "score": "combined",
        "estimated_errors": 3.4,
        "estimated_errors_interval": [1.0, 6.2],
        "estimated_errors_by_calibration": 2.9,
    }
    return AuditResult(
        labels,
        {"combined": Pool((1.0,), np.eye(classes), log_p, log_p.argmax(1))},
        confusion,
        (),
        {},
        names,
        np.arange(12),
        None,
        "combined",
        numbers,
    )


def cards() -> list[Card]:
    grey, colour = np.zeros((1, 8, 8), np.uint8), np.full((3, 8, 6), 200, np.uint8)
    return [
        Card(
            Suspect(3, 0, 1, 0.01, 1, "label", file='a/<img src=x onerror="f()">.png'),
            [("the image", grey)],
        ),
        Card(Suspect(4, 2, 2, 7.5, 1, "outlier"), [("the image", colour), ("as </title><b>", colour)]),
        Card(Suspect(5, 1, 0, 0.2, 1, "duplicate", twin=9), [("it", grey), ("twin", grey)]),
        Card(Suspect(-1, -1, -1, 0.0, 1, "unreadable", file="cat/broken\udce9.jpg"), ()),
    ]


def page(names: tuple[str, ...] = NASTY) -> tuple[str, Page]:
    content = report(result(names), cards(), DECISIONS)
    content.encode()
    return content, Page(content)


def test_names_are_text_whatever_they_hold() -> None:
    content, found = page()
    assert len(found.all("script")) == 2
    assert not found.all("b") and not found.all("i") and not found.all("x")
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in "".join(found.inside["p"])
    suspect = found.all("article", data_index="3")[0]
    assert suspect["data-given"] == NASTY[0] and suspect["data-suggested"] == NASTY[1]
    assert content.count("<script>alert") == 0


def test_the_policy_admits_the_pages_own_style_and_script_alone() -> None:
    content, found = page()
    policy = found.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        inside = re.findall(pattern, content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside[-1].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'", kind
    assert not [a for _, a in found.elements if "style" in a], "a policy of hashes admits none of these"
    outside = [a[k] for _, a in found.elements for k in ("src", "href", "action") if k in a]
    assert all(address.startswith("data:") for address in outside)
    assert "http:" not in content and "https:" not in content


def test_what_the_script_reads_is_there() -> None:
    content, found = page()
    about = json.loads(re.findall(r'id="about">(.*?)</script>', content, re.DOTALL)[0])
    assert (
        about["decisions"]["class_names"] == list(NASTY)
        and about["decisions"]["source"] == DECISIONS["source"]
    )
    for needed in ("save", "state", "cards"):
        assert [a for _, a in found.elements if a.get("id") == needed]
    assert {select["data-filter"] for select in found.all("select") if "data-filter" in select} == {
        "kind",
        "given",
        "suggested",
        "decided",
    }
    for card in found.all("article"):
        assert card["tabindex"] == "0" and card["aria-label"]
    assert len(found.all("button", data_do="keep")) == len(found.all("button", data_do="drop")) == 4
    assert len(found.all("button", data_do="relabel")) == 3, "what can't be read gets no label"
    assert [image["alt"] for image in found.all("img")].count("the image") == 2
    assert found.all("meta", name="viewport") and found.all("html", lang="en")


def test_many_classes_are_listed_by_confusion() -> None:
    names = tuple(f"class {index}" for index in range(MATRIX_CLASSES + 5))
    _, few = page(tuple("abcd"))
    _, many = page(names)
    assert len(few.all("tr")) == 5 and len(many.all("tr")) == MATRIX_CLASSES + 1
    assert len(many.all("td")) == 3 * MATRIX_CLASSES


def test_data_and_text_cannot_end_what_they_are_in() -> None:
    assert "</script>" not in as_data({"x": "</script><!--"})
    assert json.loads(as_data({"x": "</script>&"})) == {"x": "</script>&"}
    assert text("a\udce9<b>\"'") == "a?&lt;b&gt;&quot;&#x27;"


def test_tables_have_a_row_an_image_and_a_row_a_suspect() -> None:
    pandas = pytest.importorskip("pandas")
    suspects = tuple(replace(card.suspect, file="x.png") for card in cards())
    found = replace(result(), suspects=suspects)
    scores, issues = found.scores, found.issues
    assert isinstance(scores, pandas.DataFrame) and len(scores) == 12 and len(issues) == 4
    assert list(issues.columns) == list(ISSUE_COLUMNS)
    probabilities = scores[[f"p({name})" for name in NASTY]].to_numpy()
    assert probabilities.sum(1) == pytest.approx(1)
    chosen = probabilities[np.arange(12), found.labels]
    assert np.exp(scores["combined_self_confidence"].to_numpy()) == pytest.approx(chosen)
    assert list(issues["given_label"])[:1] == [NASTY[0]] and issues["kind"].iloc[3] == "unreadable"
