"""The logs of benchmarks: a line of JSON for everything that was measured."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import condvae
from condvae.run import describe_device


def add(line: dict[str, Any], log: Path) -> None:
    """Add a line to a log, which is made where it is missing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def tell(line: dict[str, Any], log: Path) -> None:
    """Print a line as soon as it is there, and add it to a log."""
    print(json.dumps(line), flush=True)
    add(line, log)


def commit() -> str:
    """The commit that is checked out, marked where the package differs from it; empty without git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../src")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def about(device: torch.device) -> dict[str, Any]:
    """What a line says of where, when and by which command something was measured.

    `instructions` are the widest of the processor's that PyTorch makes use of: what a processor's name
    leaves open in a virtual machine.
    """
    script = Path(sys.argv[0]).name
    return {
        "device": describe_device(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "condvae": condvae.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
    }
