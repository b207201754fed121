"""`condvae swap`: what the model makes of right and of wrong labels, as pictures and numbers."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from condvae.data import LabelledImages, wrong_labels
from condvae.errors import UserError
from condvae.evaluation.bounds import fixed_binarisation
from condvae.evaluation.outputs import partly_drawn, sampled, swapped
from condvae.figures import label_grid, pairs, sample_grid
from condvae.files import write_arrays, write_json, write_picture
from condvae.models.conditioning import guided
from condvae.models.protocol import Temperature, temperatures
from condvae.processes import Processes
from condvae.run import Run, load
from condvae.verbs.own_images import swap_own
from condvae.verbs.sources import test_images

ENCODE_WITH = ("true", "wrong")


def swap(
    run: str | Path | Run,
    *,
    count: int = 25,
    data: str | None = None,
    data_root: str | Path | None = None,
    images: str | Path | None = None,
    to: Sequence[int | str] | None = None,
    label: int | str | None = None,
    encode_with: str = "true",
    all: bool = False,
    arrays: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Draw test images with their correct and with wrong labels, and write it all down.

    Writes `correct-labels.png`, `wrong-labels.png`, `every-label.png`, `samples.png` and `swap.json`;
    for a hierarchical model `groups.png` too, what each group of latents carries.

    Arguments:
        run: a run directory.
        count: images in each of the two pictures.
        data: other test images than the run's own.
        data_root: where datasets are looked for.
        images: one's own image, or a folder of them, to be drawn under other labels instead of test
            images; see `verbs.own_images.swap_own` for what is written.
        to: the classes, by name or number, that `images` are drawn under; all by default.
        label: the class that `images` show; inferred by default.
        encode_with: "true": encode with the true label and decode with the wrong one; "wrong":
            encode with the wrong one too, as the notebooks did.
        all: swap the whole test set, for `arrays`.
        arrays: an .npz to write `image`, `label`, `given_label`, `output` (uint8, NCHW) to.
        out: folder of the pictures; by default the run's `figures`.
        seed: which images, which wrong labels, which samples.

    Returns:
        What `swap.json` holds: files, and an entry for every image shown.

    Raises:
        UserError: the run, the data or a flag is wrong.
    """
    if encode_with not in ENCODE_WITH:
        raise UserError(f"--encode-with {encode_with}: use true or wrong")
    if count < 1:
        raise UserError(f"--count {count}: must be at least 1")
    if all and not arrays:
        raise UserError("--all: give --arrays FILE.npz to say where the whole test set is to go")
    loaded = run if isinstance(run, Run) else load(run, device)
    folder = Path(out) if out else loaded.results / "figures"
    if images:
        return swap_own(loaded, images, to, label, folder, seed)
    if to or label is not None:
        raise UserError(
            "--to and --label are for images of your own; name a FILE or FOLDER of them after RUN"
        )
    return _swap_test(
        loaded, test_images(loaded, data, data_root), count, encode_with, all, arrays, folder, seed
    )


def _swap_test(
    loaded: Run,
    images: LabelledImages,
    count: int,
    encode_with: str,
    all: bool,
    arrays: str | Path | None,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    names = images.class_names
    generator = np.random.default_rng(seed)
    given = wrong_labels(images.labels, images.classes, generator)
    shown = _spread(images, min(count, len(images)), generator)

    right = _outputs(loaded, images, shown, images.labels[shown], "true", seed)
    wrong = _outputs(loaded, images, shown, given[shown], encode_with, seed)
    inputs = np.asarray(images.images[shown])
    label_names = [names[label] for label in images.labels[shown]]
    given_names = [names[label] for label in given[shown]]
    what = f"{images.name}, {images.split} images"
    how = "the same label" if encode_with == "wrong" else "its true label"
    figures = {
        "correct-labels.png": pairs(
            inputs,
            right,
            label_names,
            "With their correct labels",
            f"{what}: the input, and beside it what the model makes of it under that label",
        ),
        "wrong-labels.png": pairs(
            inputs,
            wrong,
            [f"{a} → {b}" for a, b in zip(label_names, given_names, strict=True)],
            "With wrong labels",
            f"{what}: the input (encoded with {how}), and what the model makes of it under the "
            "label after the arrow",
        ),
        "every-label.png": _every_label(loaded, images, encode_with, seed),
        "samples.png": draw_samples(loaded, range(len(names))[:20], 10, 1.0, seed)[0],
    }
    if len(loaded.model.group_shapes) > 1:
        figures["groups.png"] = _groups(loaded, images, seed)
    paths = {name: write_picture(folder / name, picture) for name, picture in figures.items()}
    error = ((inputs.astype(float) - wrong) ** 2).mean((1, 2, 3)) / 255**2
    result: dict[str, Any] = {
        "run": str(loaded.path),
        "source": images.name,
        "split": images.split,
        "encode_with": encode_with,
        "seed": seed,
        "files": {name: str(path) for name, path in paths.items()},
        "images": [
            {
                "index": int(index),
                "label": int(images.labels[index]),
                "given_label": int(given[index]),
                "label_name": label_name,
                "given_name": given_name,
                "mean_squared_change": round(float(change), 6),
            }
            for index, label_name, given_name, change in zip(
                shown, label_names, given_names, error, strict=True
            )
        ],
    }
    if arrays:
        chosen = np.arange(len(images)) if all else shown
        output = wrong if not all else _outputs(loaded, images, chosen, given, encode_with, seed)
        target = write_arrays(
            Path(arrays),
            image=np.asarray(images.images[chosen]),
            label=images.labels[chosen],
            given_label=given[chosen],
            output=output,
            class_names=np.array(images.class_names),
        )
        result["arrays"] = str(target)
    write_json(folder / "swap.json", result)
    result["files"]["swap.json"] = str(folder / "swap.json")
    return result


def _outputs(
    run: Run,
    images: LabelledImages,
    chosen: NDArray[np.integer],
    given: NDArray[np.int64],
    encode_with: str,
    seed: int,
) -> NDArray[np.uint8]:
    x = torch.tensor(images.images[chosen], device=run.device)
    y = torch.tensor(images.labels[chosen], device=run.device)
    observed = fixed_binarisation(run.model, x, seed)
    to = torch.tensor(given, device=run.device)
    return swapped(run.model, observed, y, to, encode_with).cpu().numpy()


def _spread(images: LabelledImages, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Indices of a number of images at random, all classes alike as far as it goes."""
    order = generator.permutation(len(images))
    rank = np.empty(len(images), dtype=np.int64)
    for label in np.unique(images.labels):
        members = order[images.labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.argsort(rank[order], kind="stable")[:count]]
    return generator.permutation(chosen)


def _every_label(run: Run, images: LabelledImages, encode_with: str, seed: int) -> Image.Image:
    """One image a class (at most 20 of each), under every label."""
    classes = min(20, images.classes)
    rows = _first_of_each_class(images, classes)
    columns = np.tile(np.arange(classes), len(rows))
    outputs = _outputs(run, images, np.repeat(rows, classes), columns, encode_with, seed)
    return label_grid(
        np.asarray(images.images[rows]),
        outputs.reshape(len(rows), classes, *images.shape),
        [int(label) for label in images.labels[rows]],
        images.class_names[:classes],
        "Every label",
        f"{images.name}, {images.split} images: a row an image, a column a label; "
        "its true label is framed",
    )


def _first_of_each_class(images: LabelledImages, classes: int) -> NDArray[np.int64]:
    return np.concatenate([np.flatnonzero(images.labels == label)[:1] for label in range(classes)])


def _groups(run: Run, images: LabelledImages, seed: int) -> Image.Image:
    """Images of which ever more groups of latents are kept, from the top, and the rest drawn."""
    groups = len(run.model.group_shapes)
    keep = sorted({round(number) for number in np.linspace(0, groups, min(groups + 1, 10))})
    rows = _first_of_each_class(images, min(10, images.classes))
    x = torch.tensor(images.images[rows], device=run.device)
    y = torch.tensor(images.labels[rows], device=run.device)
    outputs = partly_drawn(run.model, fixed_binarisation(run.model, x, seed), y, keep, seed=seed)
    sides = [f"{shape[-2]}×{shape[-1]}" for shape in run.model.group_shapes]
    titles = ["none", *(f"{number}, to {sides[number - 1]}" for number in keep[1:-1]), "all"]
    return label_grid(
        np.asarray(images.images[rows]),
        outputs.cpu().numpy(),
        None,
        titles,
        "What each group of latents carries",
        f"{images.name}, {images.split} images: the number of groups kept, from the top; the others are "
        "drawn from their priors",
    )


def draw_samples(
    run: Run,
    labels: Sequence[int],
    count: int,
    temperature: Temperature,
    seed: int,
    guidance: float = 0.0,
    processes: Processes | None = None,
) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Samples from the prior, a row a label; the picture, and the images `[K, N, C, H, W]`."""
    y = torch.tensor(np.repeat(np.array(labels), count), device=run.device)
    with guided(typing.cast(nn.Module, run.model), guidance):
        drawn = sampled(run.model, y, temperature, seed, processes).cpu().numpy()
    grid = drawn.reshape(len(labels), count, *run.model.shape)
    names = [run.class_names[label] for label in labels]
    source = Path(run.config.data.source).name
    caption = f"{source}: images that the model made up, a row a label"
    if not run.model.uses_label:
        caption += " (which doesn't reach it)"
    each = temperatures(temperature)
    if any(factor != 1 for factor in each):
        caption += f"; temperature {' '.join(f'{factor:g}' for factor in each)}"
    if guidance:
        caption += f"; guidance {guidance:g}"
    return sample_grid(grid, names, "Samples", caption), grid
