"""Prints logs as Markdown tables: `python benchmarks/table.py`, or with `audits` or `speedrun` behind.

Seeds of one recipe, trained on one kind of device, with equally many importance samples,
share a row: the mean over seeds, and in brackets the extremes. A seed that was run again, by
a later version of the recipe, counts as it was the last time.

Of audits, a column a kind of noise and a row a way: over seeds, of whatever line, the mean AUROC, the
mean average precision with its standard deviation, and the mean precision among as many as are wrong.

Of the speedrun, a row a target and entry: its seeds, of whatever line, and whether it holds by them.
"""

from __future__ import annotations

import json
import statistics
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"
FIVE = (0, 1, 2, 3, 4)
"""Seeds that an entry of the speedrun holds by."""


def spread(numbers: list[float | None], digits: int) -> str:
    """The mean, and the extremes where there are several values; a dash where there is none."""
    values = [number for number in numbers if number is not None]
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def negative(value: float | None) -> float | None:
    """The other way round, or none: what is no probability has no bound."""
    return None if value is None else -value


def row(lines: list[dict[str, Any]]) -> str:
    """One recipe's seeds."""
    first = lines[0]
    cells = [
        f"`{first['recipe']}`",
        first["device"].split(",")[0],
        f"{first['training_seconds'] / 60:.3g}",
        spread([line["epochs"] for line in lines], 1),
        f"{first['parameters'] / 1e6:.2f} M",
        spread([negative(line["elbo_nats"]) for line in lines], 2),
        spread([negative(line["log_p_x_nats"]) for line in lines], 2),
        f"{first['samples']}",
        spread([line["bits_per_dim"] for line in lines], 3),
        ", ".join(str(line["seed"]) for line in lines),
    ]
    return f"| {' | '.join(cells)} |"


def log(name: str) -> list[dict[str, Any]]:
    """The lines of a log, the oldest first."""
    return [json.loads(line) for line in (RECORDS / f"{name}.jsonl").read_text("utf-8").splitlines()]


def records() -> None:
    """Print what recipes reach."""
    lines = {(*_kind(line), line["seed"]): line for line in log("records")}
    names = (
        "recipe | trained on | minutes | epochs | parameters | -ELBO | -log p(x) | S | bits/dim | seeds"
    )
    print(f"| {names} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for _, group in groupby(sorted(lines.values(), key=_kind), key=_kind):
        print(row(list(group)))


def audits() -> None:
    """Print how well wrong labels were found."""
    columns: dict[str, dict[int, dict[str, Any]]] = {}
    for line in log("audits"):
        noise = f"{line['source']} ({line['images']:,}), {line['noise']} {line['rate']:.0%}"
        columns.setdefault(noise, {}).update({found["seed"]: found["ways"] for found in line["by_seed"]})
    tried = {
        f"{noise}, seeds {', '.join(map(str, sorted(column)))}": list(column.values())
        for noise, column in columns.items()
    }
    print(f"| way | {' | '.join(tried)} |")
    print(f"|---|{'---|' * len(tried)}")
    for way in dict.fromkeys(way for seeds in tried.values() for ways in seeds for way in ways):
        print(f"| {way} | {' | '.join(cell(seeds, way) for seeds in tried.values())} |")


def cell(seeds: list[dict[str, Any]], way: str) -> str:
    """One way under one noise; a dash where it wasn't tried."""
    found = [ways[way] for ways in seeds if way in ways]
    if not found:
        return "-"
    mean = {name: statistics.mean(each[name] for each in found) for name in found[0]}
    deviation = statistics.pstdev(each["average_precision"] for each in found)
    error = f" ± {deviation:.4f}" if len(found) > 1 else ""
    return (
        f"{mean['auroc']:.4f}, {mean['average_precision']:.4f}{error}, {mean['precision_at_errors']:.3f}"
    )


def holds(tries: list[dict[str, Any]]) -> bool:
    """Whether an entry of the speedrun was tried by all five seeds, and every one counts."""
    return set(FIVE) <= {each["seed"] for each in tries} and all(each["reached"] for each in tries)


def speedrun() -> None:
    """Print what the speedrun's entries reached, sittings of one entry together."""
    entries: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for line in log("speedrun"):
        if line["target"] != "others":
            entry = line["target"], line["recipe"], line["device"], round(line["seconds"])
            entries.setdefault(entry, {}).update({tried["seed"]: tried for tried in line["tries"]})
    print("| target | recipe | run on | seconds | nats | seeds | holds |")
    print("|---|---|---|---|---|---|---|")
    for (target, recipe, device, _), found in entries.items():
        tries = [found[seed] for seed in sorted(found)]
        cells = [
            f"{target} | `{recipe}` | {device.split(',')[0]}",
            f"{statistics.mean(each['seconds'] for each in tries):.1f}",
            spread([each["nats"] for each in tries], 3),
            ", ".join(str(each["seed"]) for each in tries),
            "yes" if holds(tries) else "no",
        ]
        print(f"| {' | '.join(cells)} |")


def _kind(line: dict[str, Any]) -> tuple[Any, ...]:
    """What lines that share a row have in common."""
    time = line["training_seconds"] // 30
    return line["source"], line["device"], time, line["recipe"], -line["samples"]


if __name__ == "__main__":
    tables = {"records": records, "audits": audits, "speedrun": speedrun}
    asked = (sys.argv[1:] or ["records"])[0]
    if asked not in tables:
        sys.exit(f"{asked}: no such table; use {' or '.join(tables)}")
    tables[asked]()
