"""Write `.ci/requirements.txt`: the packages that CI installs, each with the SHA-256 of its archives.

    make lock        # after a change of constraints.txt

Versions are those of constraints.txt. The archives are those that pip would take here and now: on
another system, install by `constraints.txt`, which names versions alone. An archive that was believed
before is believed still, so that a package that comes built in two ways (PyTorch with and without
CUDA) can be locked from both.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / ".ci" / "requirements.txt"
ABOUT = "# Written by tools/lock.py (make lock): what CI installs, by pip install --require-hashes.\n"
EXTRAS = "dev,docs"
BUILD = "setuptools"
"""What condvae itself is built with, locked as well."""


def resolved() -> Mapping[str, Any]:
    """What pip would install into an empty environment."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", report.name, "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*command, BUILD, f"{ROOT}[{EXTRAS}]"], check=True)
        found: Mapping[str, Any] = json.loads(Path(report.name).read_text("utf-8"))
    return found


def locked(report: Mapping[str, Any], earlier: str = "") -> str:
    """A file of what pip reports, with the hashes too that an earlier file had of the same versions.

    Raises:
        KeyError: pip tells no hash of a package's archive.
    """
    known: dict[str, set[str]] = {}
    for name, hashes in re.findall(r"^(\S+==\S+)((?: \\\n +--hash=\S+)+)", earlier, re.MULTILINE):
        known[name] = set(re.findall(r"--hash=sha256:(\w+)", hashes))
    lines = []
    for item in report["install"]:
        if item["is_direct"]:  # condvae itself
            continue
        version = item["metadata"]["version"].partition("+")[0]
        name = f"{re.sub(r'[-_.]+', '-', item['metadata']['name']).lower()}=={version}"
        hashes = known.get(name, set()) | {item["download_info"]["archive_info"]["hashes"]["sha256"]}
        lines.append(" \\\n    ".join([name, *(f"--hash=sha256:{each}" for each in sorted(hashes))]))
    return ABOUT + "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    before = LOCK.read_text("utf-8") if LOCK.exists() else ""
    LOCK.write_text(locked(resolved(), before), "utf-8")
    print(f"wrote {LOCK.relative_to(ROOT)}")
