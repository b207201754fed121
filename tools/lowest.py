"""Print, as pip's constraints, the lowest versions that pyproject.toml says condvae works with.

    make test-lowest     # installs them in an environment of their own, and runs the tests

PyTorch's is left to constraints.txt unless `--torch` names one: on Linux older ones bring gigabytes of
CUDA with them. Tools of development (pytest, ruff, mypy and the like) are left alone.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_OURS = ("dev", "docs")
"""Extras that no user of condvae needs."""


def lowest(pyproject: str, torch: str = "") -> dict[str, str]:
    """Lowest version of each package that is needed, or that an extra needs.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"].items()
    wanted = [
        *project["dependencies"],
        *(each for name, own in extras if name not in NOT_OURS for each in own),
    ]
    found: dict[str, str] = {}
    for requirement in wanted:
        read = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)(?:,.*)?", requirement)
        if read is None:
            raise ValueError(f"{requirement} has no lower bound")
        found[read[1]] = max(found.get(read[1], "0"), read[2], key=_parts)
    del found["torch"]
    return found | ({"torch": torch} if torch else {})


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch", default="", help="version of PyTorch")
    for package, version in lowest(
        (ROOT / "pyproject.toml").read_text("utf-8"), parser.parse_args().torch
    ).items():
        print(f"{package}=={version}")
