"""Ask pip-audit whether any pinned package has a known fault; say so where it can't be asked.

    python tools/advisories.py

Exit code 1 where there is a fault. Without pip-audit, or without a network, it is skipped with a word.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SECONDS = 120


def faults(told: str) -> list[str]:
    """Known faults in what pip-audit printed as JSON, a line each.

    Raises:
        ValueError: it isn't that.
    """
    found: Any = json.loads(told)
    if not isinstance(found, dict) or "dependencies" not in found:
        raise ValueError("not pip-audit's report")
    return [
        f"{package['name']} {package['version']}: {fault['id']}"
        + (f", mended in {', '.join(fault['fix_versions'])}" if fault.get("fix_versions") else "")
        for package in found["dependencies"]
        for fault in package.get("vulns", ())
    ]


def main() -> None:
    if importlib.util.find_spec("pip_audit") is None:
        print("advisories: skipped, because pip-audit is not installed (pip install pip-audit)")
        return
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS)]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        known = faults(done.stdout)
    except (ValueError, KeyError, TypeError, OSError, subprocess.TimeoutExpired):
        print("advisories: skipped, because pip-audit gave no answer; is there a network?")
        return
    if known:
        raise SystemExit("advisories:\n" + "\n".join(known))
    print("advisories: no known fault in what constraints.txt pins")


if __name__ == "__main__":
    main()
