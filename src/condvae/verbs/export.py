"""`condvae export`: a run as ONNX graphs, or as a page that runs in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from condvae.errors import UserError
from condvae.exports.graphs import write_graphs
from condvae.exports.web import find_runtime, write_page
from condvae.registry import check_choice
from condvae.run import Run, load
from condvae.verbs.sources import on_this_disk, test_images

FORMATS = ("onnx", "web")
EXAMPLES = 20
"""Test images on the page, at most; one a class."""


def export(
    run: str | Path | Run,
    *,
    format: str = "onnx",
    runtime: str | Path | None = None,
    examples: bool = True,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Write a run as files that need no condvae.

    `onnx` writes `encoder.onnx`, `decoder.onnx` and `sampler.onnx`, which are checked against PyTorch.
    `web` writes a folder around them that any static server serves: label swaps and a drawing pad,
    computed in the browser.

    Arguments:
        run: a run directory.
        format: "onnx" or "web".
        runtime: the folder of the npm package onnxruntime-web, for "web"; by default it is looked for
            in `node_modules`.
        examples: put a test image a class on the page, where test images are on this disk.
        data_root: where datasets are looked for.
        out: folder; by default the run's `onnx` or `web`.

    Raises:
        UserError: the run or a flag is wrong, a library or the npm package is missing, or the model has
            a part that ONNX can't express.
    """
    check_choice("--format", format, FORMATS)
    if runtime and format != "web":
        raise UserError("--runtime is for --format web")
    loaded = run if isinstance(run, Run) else load(run, "cpu")
    folder = Path(out) if out else loaded.results / format
    if format == "onnx":
        written = write_graphs(loaded.model, folder)
    else:
        place = find_runtime(runtime)
        source = loaded.config.data.test_source or loaded.config.data.source
        test = test_images(loaded, None, data_root) if on_this_disk(source, data_root) else None
        shown = None
        if test is not None and examples:
            first = [np.flatnonzero(test.labels == label)[:1] for label in range(test.classes)]
            chosen = np.concatenate(first)[:EXAMPLES]
            shown = (np.asarray(test.images[chosen]), test.labels[chosen])
        written = write_page(loaded, folder, place, shown, 0 if test is None else test.ground)
    return {"files": {name: str(path) for name, path in written.items()}, "folder": str(folder)}
