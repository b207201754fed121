"""The explorer in a browser: every tab, an upload, a drawing, an error; and no other host is asked.

Pictures of the page are kept in the folder that CONDVAE_SCREENSHOTS names, if it names one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the explorer's page needs gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is steered by playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
FIGURES = ".cards figure"


@pytest.fixture(scope="module")
def address(small_run: Path) -> str:
    from condvae.explorer.serve import explore

    return explore(small_run, port=0, wait=False, device="cpu")


class Visit:
    """A page that notes which hosts it asks."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.hosts: set[str | None] = set()
        self.page.on("request", lambda asked: self.hosts.add(urlparse(asked.url).hostname))
        self.page.goto(address)
        self.page.get_by_role("tab", name="Wrong label").wait_for()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def shown(self, number: int) -> None:
        """Wait until so many images are visible."""
        visible = self.page.locator(f"{FIGURES}:visible")
        sync_api.expect(visible).to_have_count(number, timeout=30_000)

    def picture(self, name: str) -> None:
        if folder := os.environ.get("CONDVAE_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address)
    yield visit
    assert visit.hosts <= {"127.0.0.1", None, ""}, visit.hosts
    visit.page.close()


def test_a_test_image_is_shown_under_every_label(visit: Visit) -> None:
    visit.page.get_by_label("A test image, by number").fill("700")
    visit.page.get_by_role("button", name="Show it under every label").click()
    visit.shown(11)
    assert "log p(x|y)" in visit.page.content()
    visit.picture("wrong-label")


def test_an_upload_is_shown_and_a_wrong_one_is_refused(visit: Visit, tmp_path: Path) -> None:
    file, wrong = tmp_path / "own.png", tmp_path / "wrong.png"
    Image.fromarray(np.full((50, 90, 3), 200, np.uint8)).save(file)
    wrong.write_bytes(b"no image")
    visit.page.locator("input[type=file]").first.set_input_files(file)
    visit.shown(11)
    visit.picture("upload")
    visit.page.reload()
    visit.page.locator("input[type=file]").first.set_input_files(wrong)
    visit.page.get_by_text("could not be read as an image").first.wait_for(timeout=30_000)
    visit.picture("error")


def test_a_drawing_is_shown_under_every_label(visit: Visit) -> None:
    canvas = visit.page.locator("canvas").first
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    visit.page.mouse.move(middle[0], middle[1] - 60)
    visit.page.mouse.down()
    visit.page.mouse.move(middle[0], middle[1] + 60, steps=15)
    visit.page.mouse.up()
    visit.page.wait_for_timeout(1500)
    visit.page.get_by_role("button", name="Show the drawing under every label").click()
    visit.shown(11)
    visit.picture("drawing")


def test_a_place_on_the_map_is_decoded(visit: Visit) -> None:
    visit.tab("Latent space")
    plane = visit.page.get_by_label("Map of the test images").locator("img").first
    plane = plane if plane.count() else visit.page.locator("img:visible").first
    plane.wait_for()
    plane.click(position={"x": 120, "y": 90})
    visit.page.locator(f"{FIGURES}:visible").first.wait_for(timeout=30_000)
    visit.picture("latent-space")


@pytest.mark.parametrize(
    ("tab", "button", "images"),
    [
        ("Between", "Go from one to the other", 9),
        ("Samples", "Make images up", 60),
        ("Numbers", "Look for the hardest test images", 24),
    ],
)
def test_other_tabs_answer(visit: Visit, tab: str, button: str, images: int) -> None:
    visit.tab(tab)
    visit.page.get_by_role("button", name=button).click()
    visit.shown(images)
    visit.picture(tab.lower())


def test_there_is_no_audit_unless_one_is_given(visit: Visit) -> None:
    visit.tab("Audit")
    visit.page.get_by_text("No audit was given").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, address: str, scheme: str) -> None:
    size = {"width": 390, "height": 800}
    visit = Visit(browser, address, viewport=size, color_scheme=scheme)
    visit.page.get_by_role("button", name="Show it under every label").click()
    visit.shown(11)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 391
    assert visit.page.locator(f"{FIGURES}:visible").last.bounding_box()["width"] > 100
    visit.picture(f"phone-{scheme}")
    visit.page.close()
