"""`condvae doctor`: does this installation do on this machine what it should, and what would help it?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import condvae
from condvae import config as configuration
from condvae.config import Config
from condvae.data import info, list_sources
from condvae.data.download import cache_folder
from condvae.errors import UserError
from condvae.files import read_tensors, write_bytes
from condvae.progress import ProgressLine
from condvae.run import (
    MODEL,
    choose_device,
    choose_precision,
    describe_device,
    load,
    precision_times,
)
from condvae.training.compilation import why_not
from condvae.verbs.train import train

KNOWN_EPOCHS, KNOWN_ELBO, TOLERANCE = 6.0, -148.2, 4.0
"""Nats that the training of `_tiny` reaches on its validation images, and by how much rounding on other
machines may move them."""
OLDEST_PYTHON = (3, 11)
SPACE = 2e9
"""Bytes that the cache may need for the datasets that have a name."""


@dataclass(frozen=True)
class Finding:
    """What was seen of one matter.

    Arguments:
        name: the matter.
        found: what is there, in a line.
        fine: whether condvae works with it.
        advice: what would make it better; empty where nothing would.
    """

    name: str
    found: str
    fine: bool = True
    advice: str = ""


def doctor(*, data_root: str | Path | None = None, quiet: bool = False) -> dict[str, Any]:
    """Examine the installation, in about ten seconds.

    Arguments:
        data_root: where datasets are looked for.
        quiet: show nothing meanwhile.

    Returns:
        `healthy`, `findings` (dicts of name, found, fine and advice) and `seconds`.
    """
    began = time.monotonic()
    findings: list[Finding] = []
    with ProgressLine(quiet) as line:
        line.start("examining")
        for index, (name, look) in enumerate(MATTERS.items()):
            line.show(index / len(MATTERS), name)
            try:
                findings += [look(data_root)]
            except Exception as error:  # a patient too ill to be examined is not well
                said = f"{type(error).__name__}: {error}"
                findings += [Finding(name, said, False, "install condvae anew, in a new environment")]
    return {
        "healthy": all(finding.fine for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "seconds": round(time.monotonic() - began, 1),
    }


# -------------------------------------------------------------------------------- what can be looked at


def _python(_: object) -> Finding:
    fine = tuple(map(int, platform.python_version_tuple()[:2])) >= OLDEST_PYTHON
    found = f"Python {platform.python_version()}, condvae {condvae.__version__}, {platform.platform()}"
    advice = "" if fine else "condvae needs Python " + ".".join(map(str, OLDEST_PYTHON))
    return Finding("versions", found, fine, advice)


def _packages(_: object) -> Finding:
    found, wanting = [], []
    for name, least in _requirements():
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wanting.append(f"{name} is missing")
            continue
        found.append(f"{name} {there}")
        if _release(there) < _release(least):
            wanting.append(f"{name} {there} is older than {least}")
    advice = f"pip install --upgrade condvae ({', '.join(wanting)})" if wanting else ""
    return Finding("packages", ", ".join(found), not wanting, advice)


def _requirements() -> Iterator[tuple[str, str]]:
    """Names and lowest versions of what condvae needs, extras left out."""
    for text in importlib.metadata.requires("condvae") or ():
        if "extra ==" not in text and (read := re.match(r"([\w.-]+) *>= *([\d.]+)", text)):
            yield read[1], read[2]


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", version)[0])))


def _devices(_: object) -> Finding:
    device = choose_device("auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, advice = torch.get_num_threads(), ""
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        advice = "there is a GPU's driver, but this PyTorch can't use it: install its CUDA build"
    elif threads > cores:
        advice = f"{threads} threads for {cores} cores: set OMP_NUM_THREADS={cores}"
    elif device.type == "cpu" and threads < cores // 2:
        advice = f"{threads} threads for {cores} cores: set OMP_NUM_THREADS to use more of them"
    return Finding("device", f"{device.type}: {describe_device(device)}, {cores} cores", True, advice)


def _precision(_: object) -> Finding:
    device = choose_device("auto")
    times = precision_times(device)
    ratio = times["fp32"] / times["bf16"]
    chosen = choose_precision("auto", device)
    return Finding("precision", f"bf16 is {ratio:.2f} times as fast as fp32; auto takes {chosen}")


def _compilation(_: object) -> Finding:
    """No training needs it; `--training.compile` asks for it."""
    reason = why_not(choose_device("auto"))
    found = f"not available: {reason} (it is not needed)" if reason else "available"
    return Finding("torch.compile", found)


def _determinism(_: object) -> Finding:
    runs = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            path = train(_tiny(0.5, "cpu"), Path(folder) / "run", quiet=True)
            runs.append(read_tensors(path / MODEL, "")[0])
    same = all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    found = "two trainings on the processor gave the same weights" if same else "the weights differ"
    advice = "" if same else "resumed runs won't equal uninterrupted ones; try OMP_NUM_THREADS=1"
    return Finding("determinism", found, same, advice)


def _known_result(_: object) -> Finding:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = load(train(_tiny(KNOWN_EPOCHS, "auto"), Path(folder) / "run", quiet=True))
        elbo = run.training["validation_elbo"]
    fine = elbo is not None and abs(elbo - KNOWN_ELBO) <= TOLERANCE
    reached = "no number" if elbo is None else f"{elbo:.1f} nats"
    found = f"{reached}, of {KNOWN_ELBO:.1f} ± {TOLERANCE:.1f}, in {time.monotonic() - began:.1f} s"
    advice = "" if fine else "trust no number from this machine; try other versions of the packages"
    return Finding("known training", found, fine, advice)


def _tiny(epochs: float, device: str) -> Config:
    """A training of seconds on the digits in the package."""
    base = configuration.load_recipe("mnist-sample")
    model = replace(base.model, network="conv(width=8, patch=4, hidden=32)", latents=4)
    training = replace(
        base.training,
        minutes=0.0,
        epochs=epochs,
        warmup_steps=5,
        validations=1,
        device=device,
        precision="fp32",
    )
    return replace(base, model=model, training=training)


def _datasets(data_root: str | Path | None) -> Finding:
    found = []
    for source in list_sources():
        place = str(info(source.name, data_root=data_root)["found"])
        found.append(f"{source.name}: {place.split(';')[0]}")
    missing = any("not on this disk" in text for text in found)
    advice = (
        "what is not on this disk is looked for under --data-root or CONDVAE_DATA" if missing else ""
    )
    return Finding("datasets", "; ".join(found), True, advice)


def _cache(_: object) -> Finding:
    folder = cache_folder()
    trial = folder / ".trial"
    try:
        write_bytes(trial, b"")
        trial.unlink()
    except (UserError, OSError):
        advice = "set CONDVAE_CACHE to a folder that can be written; without one, all takes longer"
        return Finding("cache", f"{folder} can't be written", True, advice)
    free = shutil.disk_usage(folder).free
    advice = f"make room, or set CONDVAE_CACHE: datasets may need {SPACE / 1e9:g} GB"
    return Finding("cache", f"{folder}, {free / 1e9:.1f} GB free", True, advice if free < SPACE else "")


MATTERS: dict[str, Callable[[str | Path | None], Finding]] = {
    "versions": _python,
    "packages": _packages,
    "device": _devices,
    "precision": _precision,
    "torch.compile": _compilation,
    "determinism": _determinism,
    "known training": _known_result,
    "datasets": _datasets,
    "cache": _cache,
}
