"""Print the licences of everything that condvae is installed with, as a Markdown table.

    python tools/licences.py            # what condvae needs, and what that needs in turn
    python tools/licences.py fid dev    # with these extras

A package's licence is read from its own metadata; one that says nothing ends with exit code 1.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator

UNTOLD = "UNKNOWN"


def needed(name: str, extras: tuple[str, ...] = ()) -> Iterator[str]:
    """Packages that are needed by one that is installed, as far as they are there themselves."""
    seen: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        name, wanted = waiting.pop()
        for text in importlib.metadata.requires(name) or ():
            requirement, _, condition = text.partition(";")
            extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", condition)
            read = re.match(r"\s*([\w.-]+)\s*(?:\[([\w., -]+)\])?", requirement)
            if read is None or (extra and extra[1] not in wanted):
                continue
            child = re.sub(r"[-_.]+", "-", read[1]).lower()
            if child in seen or not is_installed(child):
                continue
            seen.add(child)
            yield child
            waiting.append((child, tuple(re.split(r"\s*,\s*", read[2])) if read[2] else ()))


def is_installed(name: str) -> bool:
    """Whether a package is there; some are wanted on other systems alone."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def licence(name: str) -> str:
    """What a package says of its licence, in a few words."""
    about = importlib.metadata.metadata(name).json
    classified = [
        line.rsplit(" :: ", 1)[1]
        for line in about.get("classifier", ())
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    text = str(about.get("license", "")).strip()
    first = text.splitlines()[0] if text and text != UNTOLD else ""
    if expression := about.get("license_expression"):
        return str(expression)
    return ", ".join(classified) or (first[:60] if first else "") or UNTOLD


def main() -> None:
    names = sorted(set(needed("condvae", tuple(sys.argv[1:]))))
    print("| package | version | licence |\n|---|---|---|")
    for name in names:
        print(f"| {name} | {importlib.metadata.version(name)} | {licence(name)} |")
    untold = [name for name in names if licence(name) == UNTOLD]
    if untold:
        raise SystemExit(f"no licence is told by: {', '.join(untold)}")


if __name__ == "__main__":
    main()
