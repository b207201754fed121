"""The report in a real browser, where playwright and Chromium are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import DECISIONS, cards, page


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    path.write_text(page()[0], "utf-8")
    return path.as_uri()


def test_decisions_by_mouse_and_by_keyboard_are_saved(browser: Any, file: str) -> None:
    tab = browser.new_page()
    wrong: list[str] = []
    asked: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file)
    shown = tab.locator("article")
    assert shown.count() == len(cards())
    shown.nth(0).focus()
    tab.keyboard.press("r")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("k")
    shown.nth(3).get_by_role("button", name="drop").click()
    assert tab.locator("#state").inner_text() == "4 of 4 shown, 3 decided"
    tab.locator("[data-filter=decided]").select_option("no")
    assert tab.locator("article:visible").count() == 1
    with tab.expect_download() as download:
        tab.locator("#save").click()
    saved = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert saved["source"] == DECISIONS["source"]
    actions = [(item["index"], item["action"]) for item in saved["decisions"]]
    assert actions == [(3, "relabel"), (4, "keep"), (-1, "drop")]
    assert not wrong
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(browser: Any, file: str, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    tab.goto(file)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[scheme]
