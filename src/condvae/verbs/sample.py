"""`condvae sample`: images by class, made up by the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from condvae.errors import UserError
from condvae.files import write_arrays, write_picture
from condvae.models.protocol import Temperature, temperatures
from condvae.processes import Processes
from condvae.run import Run, choose_device, load
from condvae.verbs.sources import class_number
from condvae.verbs.swap import draw_samples


def sample(
    run: str | Path | Run,
    *,
    labels: Sequence[int | str] | None = None,
    count: int = 10,
    temperature: Temperature = 1.0,
    guidance: float = 0.0,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Draw images from the prior under given labels.

    Writes `samples.png`, and `samples.npz` with `images` (uint8, NCHW) and `labels`.

    Arguments:
        run: a run directory.
        labels: class numbers or names; all classes by default.
        count: images a class.
        temperature: factor of the prior's noise; below 1 gives more typical images. One for all groups
            of latents, or one a group, top group first.
        guidance: how far labels are exaggerated; 0 for not at all.
        out: folder; by default the run's `figures`.

    Returns:
        The files. Of several processes that were launched together, each draws a share of the images,
        and only the main one writes and has something to return.

    Raises:
        UserError: the run or a flag is wrong, a label out of range.
    """
    if count < 1:
        raise UserError(f"--count {count}: must be at least 1")
    each = temperatures(temperature)
    if not all(0 <= number < math.inf for number in each):
        raise UserError(f"--temperature {' '.join(map(str, each))}: must be a number of 0 or more")
    if not math.isfinite(guidance) or guidance < 0:
        raise UserError(f"--guidance {guidance}: must be a number of 0 or more")
    together = Processes(run.device if isinstance(run, Run) else choose_device(device))
    loaded = run if isinstance(run, Run) else load(run, together.device.type)
    names = loaded.class_names
    chosen = [class_number(loaded, each, "--labels") for each in labels or range(len(names))]
    folder = Path(out) if out else loaded.results / "figures"
    picture, images = draw_samples(loaded, chosen, count, temperature, seed, guidance, together)
    together.close(wait=False)
    if not together.main:
        return {}
    arrays = write_arrays(
        folder / "samples.npz",
        images=images.reshape(-1, *loaded.model.shape),
        labels=np.repeat(np.array(chosen), count),
        class_names=np.array(names),
    )
    path = write_picture(folder / "samples.png", picture)
    return {"files": {"samples.png": str(path), "samples.npz": str(arrays)}}
