"""`condvae interpolate` and `condvae traverse`: ways through the latents, as pictures and animations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from condvae.data import LabelledImages
from condvae.errors import UserError
from condvae.evaluation.bounds import fixed_binarisation
from condvae.figures import as_picture, label_grid
from condvae.files import write_bytes, write_picture
from condvae.models.protocol import Images, Labels, Latents, flat, grouped
from condvae.registry import check_choice
from condvae.run import Run, load
from condvae.verbs.own_images import likely_labels, read_images
from condvae.verbs.sources import class_number, test_images

ANIMATIONS = ("webp", "gif", "none")
FRAME_MS = 90
STUDIED = 500
"""Test images by which the liveliest latents are found."""


def interpolate(
    run: str | Path | Run,
    start: str,
    end: str,
    *,
    labels: Sequence[int | str] | None = None,
    steps: int = 9,
    animation: str = "webp",
    data: str | None = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Draw the way from one image to another, under several labels.

    Latents are turned from one image's to the other's (`between`), in the coordinates that all labels
    share. Writes `interpolate.png`, a row a label, and an animation of them side by side.

    Arguments:
        start, end: numbers of test images, or image files.
        labels: classes to decode with; by default the two images' own.
        steps: images in a row.
        animation: "webp", "gif" or "none".
        data, data_root: other test images than the run's own, and where datasets are looked for.
        out: folder; by default the run's `figures`.

    Raises:
        UserError: the run, an image or a flag is wrong.
    """
    check_choice("--animation", animation, ANIMATIONS)
    if steps < 2:
        raise UserError(f"--steps {steps}: must be at least 2")
    loaded = run if isinstance(run, Run) else load(run, device)
    test = None if _is_file(start) and _is_file(end) else test_images(loaded, data, data_root)
    ends = [_image(loaded, which, test, seed) for which in (start, end)]
    chosen = (
        [class_number(loaded, each, "--labels") for each in labels]
        if labels
        else list(dict.fromkeys(label for _, label in ends))
    )
    x = torch.cat([image for image, _ in ends])
    y = torch.tensor([label for _, label in ends], device=x.device)
    outputs = way(loaded, x, y, chosen, steps, seed)
    names = [loaded.class_names[label] for label in chosen]
    picture = label_grid(
        np.stack([x[0].cpu().numpy()] * len(chosen)),
        outputs,
        None,
        [f"{share:.0%}" for share in np.linspace(0, 1, steps)],
        "Between two images",
        f"a row a label: {', '.join(names)}; from the first image to the second",
    )
    folder = Path(out) if out else loaded.results / "figures"
    files = {"interpolate.png": str(write_picture(folder / "interpolate.png", picture))}
    files |= _animated(folder, "interpolate", outputs.swapaxes(0, 1), animation)
    return {"files": files, "labels": names}


def traverse(
    run: str | Path | Run,
    *,
    image: str = "0",
    latents: Sequence[int] | None = None,
    count: int = 8,
    reach: float = 3.0,
    steps: int = 9,
    animation: str = "webp",
    data: str | None = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Draw what single latents do to an image.

    A latent is set from `-reach` to `reach`, in standard deviations of its prior, and all others stay
    as they are. Writes `traverse.png`, a row a latent, and an animation.

    Arguments:
        image: number of a test image, or an image file.
        latents: numbers of latents, all groups in a row; by default the liveliest, whose posterior
            means vary most over test images.
        count: how many, by default.
        animation: "webp", "gif" or "none".

    Raises:
        UserError: the run, the image or a flag is wrong.
    """
    check_choice("--animation", animation, ANIMATIONS)
    if steps < 2 or count < 1 or not 0 < reach < math.inf:
        raise UserError("--steps must be at least 2, --count at least 1, and --reach above 0")
    loaded = run if isinstance(run, Run) else load(run, device)
    model = loaded.model
    for each in latents or ():
        if not 0 <= each < model.latents:
            raise UserError(f"--latents {each}: there are {model.latents}, from 0 on")
    needs_test = not _is_file(image) or not latents
    test = test_images(loaded, data, data_root) if needs_test else None
    x, label = _image(loaded, image, test, seed)
    chosen = list(latents or ()) or liveliest(loaded, _some(test), count, seed)
    y = torch.tensor([label], device=x.device)
    values = torch.linspace(-reach, reach, steps, device=x.device)
    with torch.no_grad():
        groups = model.encode(fixed_binarisation(model, x, seed), y)
        point = flat(groups)
        rows = []
        for each in chosen:
            moved = point.repeat(steps, 1)
            moved[:, each] = values
            rows.append(_decoded(loaded, grouped(moved, loaded.model.group_shapes), y.expand(steps)))
    outputs = np.stack(rows)
    picture = label_grid(
        np.stack([x[0].cpu().numpy()] * len(chosen)),
        outputs,
        None,
        [f"{value:+.2g}" for value in values.tolist()],
        "Along single latents",
        f"under the label {loaded.class_names[label]}; a row a latent: {', '.join(map(str, chosen))}; "
        "its value in standard deviations of the prior above",
    )
    folder = Path(out) if out else loaded.results / "figures"
    files = {"traverse.png": str(write_picture(folder / "traverse.png", picture))}
    files |= _animated(folder, "traverse", outputs.swapaxes(0, 1), animation)
    return {"files": files, "latents": chosen}


@torch.no_grad()
def way(
    run: Run, x: Images, y: Labels, under: Sequence[int], steps: int, seed: int = 0
) -> UInt8[np.ndarray, "k steps c h w"]:
    """The way from the first of two images to the second, under each of several labels."""
    latents = run.model.encode(fixed_binarisation(run.model, x, seed), y)
    shares = torch.linspace(0, 1, steps, device=x.device)
    turned = tuple(between(group[0], group[1], shares) for group in latents)
    return np.stack([_decoded(run, turned, torch.full((steps,), label)) for label in under])


def between(
    a: Float[Tensor, "*group"], b: Float[Tensor, "*group"], shares: Float[Tensor, "steps"]
) -> Float[Tensor, "steps *group"]:
    """From one group of latents to another along a great circle (White 2016), lengths changing evenly.

    A straight line would lead through the middle, where a standard normal has next to none of its
    draws. Where the two have one direction, it is a straight line.
    """
    one, other = a.flatten().double(), b.flatten().double()
    lengths = one.norm(), other.norm()
    cosine = (one @ other / (lengths[0] * lengths[1]).clamp(min=1e-12)).clamp(-1, 1)
    angle = cosine.acos()
    t = shares.double()[:, None]
    if min(lengths) < 1e-6 or angle.sin() < 1e-3:
        way = (1 - t) * one + t * other
    else:
        turned = ((1 - t) * angle).sin() * one / lengths[0] + (t * angle).sin() * other / lengths[1]
        way = turned / angle.sin() * ((1 - t) * lengths[0] + t * lengths[1])
    return way.to(a.dtype).unflatten(1, a.shape)


def liveliest(run: Run, images: LabelledImages, count: int, seed: int) -> list[int]:
    """Numbers of the latents whose posterior means vary most over images, the liveliest first."""
    part = images.subset(np.linspace(0, len(images) - 1, min(STUDIED, len(images))).astype(int))
    x = torch.tensor(part.images, device=run.device)
    y = torch.tensor(part.labels, device=run.device)
    with torch.no_grad():
        groups = run.model.encode(fixed_binarisation(run.model, x, seed), y)
    spread = flat(groups).var(0)
    order: list[int] = spread.argsort(descending=True)[:count].tolist()
    return order


def _decoded(run: Run, latents: Latents, y: Labels) -> Any:
    return run.model.decode(latents, y.to(run.device)).mean_image().cpu().numpy()


def _is_file(which: str) -> bool:
    return not which.isdecimal()


def _some(test: LabelledImages | None) -> LabelledImages:
    assert test is not None
    return test


def _image(run: Run, which: str, test: LabelledImages | None, seed: int) -> tuple[Tensor, int]:
    """An image `[1, C, H, W]` and its label: a test image's own, or what the model takes a file for."""
    if _is_file(which):
        x, _ = read_images(run, which)
        return x[:1], int(likely_labels(run, x[:1], seed)[0])
    images, number = _some(test), int(which)
    if number >= len(images):
        raise UserError(f"test image {number}: there are {len(images)}, from 0 on")
    x = torch.tensor(images.images[number : number + 1], device=run.device)
    return x, int(images.labels[number])


def _animated(folder: Path, name: str, frames: Any, kind: str) -> dict[str, str]:
    if kind == "none":
        return {}
    file = folder / f"{name}.{kind}"
    write_bytes(file, animation_of(frames, kind))
    return {file.name: str(file)}


def animation_of(frames: UInt8[np.ndarray, "t n c h w"], kind: str) -> bytes:
    """An animation there and back as a "webp" or a "gif"; the n images of a frame are side by side."""
    height = frames.shape[3] * max(1, round(128 / frames.shape[3]))
    pictures = []
    for frame in (*frames, *frames[-2:0:-1]):
        row = [as_picture(image, height) for image in frame]
        sheet = Image.new("RGB", (sum(part.width for part in row) + 6 * (len(row) - 1), height), "white")
        left = 0
        for part in row:
            sheet.paste(part, (left, 0))
            left += part.width + 6
        pictures.append(sheet)
    buffer = BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(
        buffer,
        kind.upper(),
        save_all=True,
        append_images=pictures[1:],
        duration=FRAME_MS,
        loop=0,
        **options,
    )
    return buffer.getvalue()
