"""A folder that is a page: label swaps and a drawing pad, computed in the browser by onnxruntime-web.

It is served as it is by any static server, and fetches nothing from any other place.
"""

from __future__ import annotations

import base64
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from condvae.errors import UserError
from condvae.exports.graphs import write_graphs
from condvae.files import cannot_write, write_json
from condvae.run import Run

PAGE = ("index.html", "style.css", "app.js", "arrays.js")
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web, in its `dist`."""
PLACES = ("node_modules/onnxruntime-web", "../node_modules/onnxruntime-web")


def find_runtime(given: str | Path | None) -> Path:
    """Where the npm package onnxruntime-web lies: where it is said to, or in `node_modules` nearby.

    Raises:
        UserError: it isn't there, or lacks a file.
    """
    for place in [Path(given)] if given else [Path(place) for place in PLACES]:
        for folder in (place / "dist", place, place / "node_modules/onnxruntime-web/dist"):
            if all((folder / name).is_file() for name in RUNTIME):
                return folder
    where = f"--runtime {given}: has no" if given else "no"
    raise UserError(
        f"{where} onnxruntime-web with {', '.join(RUNTIME)}; get it with: npm install onnxruntime-web, "
        "and name its folder with --runtime"
    )


def write_page(
    run: Run,
    folder: Path,
    runtime: Path,
    examples: tuple[UInt8[np.ndarray, "n c h w"], NDArray[np.int64]] | None,
    ground: int,
) -> dict[str, Path]:
    """Write the page's folder.

    Arguments:
        runtime: the folder of onnxruntime-web's files.
        examples: images that can be picked on the page, and their labels.
        ground: what is drawn on, 0 (black) to 255.

    Returns:
        Paths by name.

    Raises:
        UserError: a graph can't be written, or the folder can't.
    """
    written = write_graphs(run.model, folder)
    own = resources.files("condvae.exports").joinpath("web")
    try:
        (folder / "runtime").mkdir(exist_ok=True)
        for name in RUNTIME:
            shutil.copyfile(runtime / name, folder / "runtime" / name)
        for name in PAGE:
            (folder / name).write_bytes(own.joinpath(name).read_bytes())
            written[name] = folder / name
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_json(folder / "model.json", about(run, examples, ground, "sampler" in written))
    return written | {"model.json": folder / "model.json"}


def about(
    run: Run,
    examples: tuple[UInt8[np.ndarray, "n c h w"], NDArray[np.int64]] | None,
    ground: int,
    samples: bool,
) -> dict[str, Any]:
    """What the page is told of the model."""
    images, labels = examples or (np.zeros((0, *run.model.shape), np.uint8), np.zeros(0, np.int64))
    return {
        "name": run.path.name,
        "shape": list(run.model.shape),
        "class_names": list(run.class_names),
        "latents": run.model.latents,
        "binary": run.model.likelihood.binary,
        "uses_label": run.model.uses_label,
        "samples": samples,
        "ground": ground,
        "examples": [
            {"label": int(label), "pixels": base64.b64encode(image.tobytes()).decode()}
            for image, label in zip(images, labels, strict=True)
        ],
    }
