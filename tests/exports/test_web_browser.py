"""The exported page in a browser, from a static server: an example, a drawing, samples."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

import condvae
from condvae.errors import UserError
from condvae.exports.web import find_runtime

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library, reason="ONNX graphs need condvae[export]")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is steered by playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        runtime = find_runtime(os.environ.get("CONDVAE_ONNXRUNTIME_WEB"))
    except UserError:
        pytest.skip("no onnxruntime-web here; name its folder in CONDVAE_ONNXRUNTIME_WEB")
    folder = tmp_path_factory.mktemp("web") / "page"
    condvae.export(small_run, format="web", runtime=runtime, out=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_the_page_swaps_labels_draws_and_samples(browser: Any, address: str) -> None:
    hosts: set[Any] = set()
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.on("request", lambda asked: hosts.add(urlparse(asked.url).hostname))
    page.goto(address)
    page.get_by_text("Ready.").wait_for(timeout=60_000)
    shown = page.locator("#result figure")
    page.get_by_role("button", name="An example of 7").click()
    sync_api.expect(shown).to_have_count(11, timeout=30_000)
    assert page.locator("#result figure.own figcaption").inner_text() == "7 (its own)"
    box = page.locator("#pad").bounding_box()
    assert box
    page.mouse.move(box["x"] + 140, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 240, steps=10)
    page.mouse.up()
    page.get_by_label("What it shows").select_option("1")
    page.get_by_role("button", name="Show the drawing under every label").click()
    page.get_by_text("1 (its own)").wait_for(timeout=30_000)
    page.get_by_role("button", name="Make one of each class up").click()
    sync_api.expect(page.locator("#made figure")).to_have_count(10, timeout=30_000)
    if folder := os.environ.get("CONDVAE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder, "web.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    page.close()
    assert hosts <= {"127.0.0.1", None, ""}
