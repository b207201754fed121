"""The logs of benchmarks: a line of JSON for everything that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def add(line: dict[str, Any], log: Path) -> None:
    """Add a line to a log, which is made where it is missing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
