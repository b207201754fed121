"""One's own image files, as a model takes them: a file, or a folder of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from condvae.data.folders import limited
from condvae.data.images import UNREADABLE, fit, open_image, suffixes, without_warnings
from condvae.errors import UserError
from condvae.evaluation.bounds import fixed_binarisation, weighted_bounds
from condvae.evaluation.outputs import swapped
from condvae.evaluation.probes import inferred_labels
from condvae.figures import as_picture, label_grid
from condvae.files import write_json, write_picture
from condvae.models.protocol import Images
from condvae.run import Run
from condvae.verbs.sources import class_number

MOST = 200
"""Images of a folder that are read, at most."""
SAMPLES = 16
"""Importance samples a label, where Bayes is asked what an image shows."""


def read_images(run: Run, path: str | Path) -> tuple[Images, list[str]]:
    """Images at the model's size, and their names.

    Arguments:
        path: an image file, or a folder whose image files (not those of folders in it) are taken.

    Raises:
        UserError: there is nothing there, or a file can't be read as an image.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes())
    else:
        files = [path]
    if not path.exists() or not files:
        what = "holds no image files" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {what}; give an image, or a folder of images")
    if len(files) > MOST:
        raise UserError(f"{path}: {len(files)} images; at most {MOST} are swapped at once")
    channels, height, width = run.model.shape
    read = []
    for file in files:
        try:
            with without_warnings(), file.open("rb") as opened:
                read.append(fit(open_image(limited(opened)), (height, width), channels))
        except UNREADABLE as error:
            raise UserError(f"{file}: could not be read as an image ({error})") from error
    images = torch.from_numpy(np.ascontiguousarray(np.stack(read)))
    return images.to(run.device), [file.stem for file in files]


def likely_labels(run: Run, x: Images, seed: int = 0) -> NDArray[np.int64]:
    """What the model takes images for: by `q(y|x)` where it has one, else by Bayes from `p(x|y)`."""
    observed = fixed_binarisation(run.model, x, seed)
    q = inferred_labels(run.model, observed)
    if q is not None:
        return q.argmax(1).numpy()
    found = []
    with torch.no_grad():
        for label in range(run.model.classes):
            y = torch.full((len(x),), label, device=x.device)
            found.append(weighted_bounds(run.model, observed, y, range(len(x)), sizes=[SAMPLES])[0])
    return torch.stack(found, 1).argmax(1).cpu().numpy()


def swap_own(
    run: Run,
    images: str | Path,
    to: Sequence[int | str] | None,
    label: int | str | None,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Draw one's own images under given labels; what `condvae swap RUN IMAGES` does.

    Writes `own-images.png`, every output as an image of its own under `own-images/`, and
    `own-images.json`.

    Arguments:
        to: the labels; all classes by default.
        label: what the images show; by default what the model takes each of them for.

    Raises:
        UserError: an image can't be read, or there is no such class.
    """
    model, names = run.model, run.class_names
    x, titles = read_images(run, images)
    chosen = [class_number(run, each, "--to") for each in to] if to else list(range(model.classes))
    known = label is not None
    labels = (
        np.full(len(x), class_number(run, label, "--label"))
        if label is not None
        else likely_labels(run, x, seed)
    )
    observed = fixed_binarisation(model, x, seed)
    y = torch.tensor(labels, device=x.device)
    columns = [swapped(model, observed, y, y)]
    columns += [swapped(model, observed, y, torch.full_like(y, each)) for each in chosen]
    outputs = torch.stack(columns, 1).cpu().numpy()
    taken = "given" if known else "inferred"
    picture = label_grid(
        x.cpu().numpy(),
        outputs,
        [0] * len(x),
        ["own label", *(names[each] for each in chosen)],
        "Under other labels",
        f"{Path(images).name}: the input, what the model makes of it under its own ({taken}) label, "
        "framed, and under others",
    )
    files = {"own-images.png": str(write_picture(folder / "own-images.png", picture))}
    for row, title in enumerate(titles):
        for column, each in enumerate(chosen, start=1):
            name = f"own-images/{title}-{file_name(names[each])}.png"
            pixels = as_picture(outputs[row, column], model.shape[1])
            files[name] = str(write_picture(folder / name, pixels))
    target = folder / "own-images.json"
    result: dict[str, Any] = {
        "run": str(run.path),
        "files": files,
        "images": [
            {"name": title, "label": int(own), "label_name": names[own], "label_is": taken}
            for title, own in zip(titles, labels, strict=True)
        ],
        "to": [names[each] for each in chosen],
        "seed": seed,
    }
    write_json(target, result)
    result["files"][target.name] = str(target)
    return result


def file_name(text: str) -> str:
    """A class's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)
