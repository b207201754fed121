"""The page's folder: whole, without a foreign address, and its arithmetic is Python's."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import condvae
from condvae.errors import UserError
from condvae.exports import web
from condvae.run import load

WEB = Path(str(resources.files("condvae.exports").joinpath("web")))


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder that looks like the npm package."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in web.RUNTIME:
        (folder / "dist" / name).write_text(name)
    return folder


def test_a_folder_is_written_that_holds_everything(
    small_run: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        web, "write_graphs", lambda model, folder: (folder.mkdir(), {"sampler": folder})[1]
    )
    out = tmp_path / "page"
    found = condvae.export(small_run, format="web", runtime=runtime, out=out)
    assert found["folder"] == str(out)
    assert {file.name for file in out.iterdir()} == {*web.PAGE, "runtime", "model.json"}
    assert {file.name for file in (out / "runtime").iterdir()} == set(web.RUNTIME)
    told = json.loads((out / "model.json").read_text("utf-8"))
    assert told["shape"] == [1, 28, 28] and told["binary"] and told["samples"] and told["ground"] == 0
    assert [example["label"] for example in told["examples"]] == list(range(10))
    assert len(base64.b64decode(told["examples"][3]["pixels"])) == 28 * 28


def test_examples_are_left_out_where_there_are_none(small_run: Path) -> None:
    told = web.about(load(small_run, "cpu"), None, 255, False)
    assert told["examples"] == [] and told["ground"] == 255 and not told["samples"]


def test_the_runtime_is_found_or_asked_for(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert web.find_runtime(runtime) == runtime / "dist" == web.find_runtime(runtime / "dist")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="npm install onnxruntime-web"):
        web.find_runtime(None)
    shutil.copytree(runtime, tmp_path / "node_modules" / "onnxruntime-web")
    assert web.find_runtime(None).is_dir() and web.find_runtime(tmp_path).is_dir()
    with pytest.raises(UserError, match="--runtime"):
        web.find_runtime(tmp_path / "nowhere")


def test_the_page_names_no_other_host_and_its_files_are_there() -> None:
    for name in web.PAGE:
        text = (WEB / name).read_text("utf-8")
        assert not re.search(r"https?://", text), name
    page = (WEB / "index.html").read_text("utf-8")
    for target in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert target.startswith("data:") or target in web.PAGE or target == f"runtime/{web.RUNTIME[0]}"
    script = (WEB / "app.js").read_text("utf-8")
    assert set(re.findall(r'at\("([a-z-]+)"\)', script)) <= set(re.findall(r'id="([a-z-]+)"', page))
    assert "innerHTML" not in script, "class names are text"


def by_node(code: str) -> object:
    """What a piece of JavaScript that knows `arrays.js` gives, by way of JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the page's arithmetic is tested with node, which isn't here")
    script = f"import * as a from {json.dumps((WEB / 'arrays.js').as_uri())};\n"
    script += f"console.log(JSON.stringify({code}));"
    command = [node, "--input-type=module", "-e", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_pixels_are_turned_as_pillow_turns_them() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    text = f"Uint8Array.of({','.join(map(str, pixels.ravel().tolist()))})"
    colour = by_node(f"[...a.planes({text}, 3)]")
    assert colour == pixels[..., :3].transpose(2, 0, 1).ravel().tolist()
    grey = np.array(by_node(f"[...a.planes({text}, 1)]"))
    pillow = np.asarray(Image.fromarray(pixels[..., :3]).convert("L"), int).ravel()
    assert np.abs(grey - pillow).max() <= 1
    there = by_node(f"[...a.rgba(a.planes({text}, 3), 3)]")
    assert np.array_equal(np.reshape(there, (5, 6, 4))[..., :3], pixels[..., :3])


def test_draws_are_the_same_every_time_and_as_they_should_be() -> None:
    drawn = by_node("[...a.binarised(new Uint8Array(20000).fill(64), 5)]")
    assert set(drawn) == {0, 255} and abs(np.mean(drawn) - 64) < 4  # type: ignore[arg-type, call-overload]
    assert drawn == by_node("[...a.binarised(new Uint8Array(20000).fill(64), 5)]")
    assert by_node("[...a.binarised(Uint8Array.of(0, 255, 0, 255))]") == [0, 255, 0, 255]
    noise = np.array(by_node("[...a.normals(20000, 1)]"))
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03 and np.isfinite(noise).all()


def test_rows_labels_and_crops() -> None:
    assert by_node("[...a.repeated(Float32Array.of(1, 2), 3)]") == [1, 2, 1, 2, 1, 2]
    assert by_node("[...a.labels(3)].map(Number)") == [0, 1, 2]
    assert by_node("a.crop(40, 20, [1, 10, 10])") == [10, 0, 20, 20]
    assert by_node("a.crop(10, 40, [3, 16, 8])") == [0, 10, 10, 20]
