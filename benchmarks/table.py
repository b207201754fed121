"""Prints logs as Markdown tables: `python benchmarks/table.py`, or with `audits` or `speedrun` behind.

Seeds of one recipe, trained on one kind of device, with equally many importance samples,
share a row: the mean over seeds, and in brackets the extremes. A seed that was run again, by
a later version of the recipe, counts as it was the last time.

Of audits, a table a data set, a column a kind of noise and a row a way, the best first: over seeds, of
whatever line, the mean AUROC, the mean average precision with its standard deviation, and the mean
precision among as many as are wrong. Then, by seed, what the audit estimated.

Of the speedrun, a row a target and entry: its seeds, of whatever line, and whether it holds by them.
"""

from __future__ import annotations

import json
import statistics
import sys
from itertools import chain, groupby
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


COUNTS = {
    "wrong labels": ("errors", ",.0f"),
    "by confident learning": ("errors_by_confident_learning", ",.0f"),
    "by calibration": ("errors_by_calibration", ",.0f"),
    "rightly suggested": ("suggested_right", ".2f"),
}
"""What is told of a seed, and how it is printed."""


def audits() -> None:
    """Print how well wrong labels were found, and how many they were thought to be."""
    sources: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for line in log("audits"):
        source = f"{line['source']}, {line['images']:,} images, {line['minutes']:g} minutes"
        noise = f"{line['noise']} {line['rate']:.0%}"
        column = sources.setdefault(source, {}).setdefault(noise, {})
        column.update({found["seed"]: found for found in line["by_seed"]})
    for source, columns in sources.items():
        by_noise = [[found[seed] for seed in sorted(found)] for found in columns.values()]
        ways = [[found["ways"] for found in seeds] for seeds in by_noise]
        rows = {way: [cell(column, way) for column in ways] for way in best_first(ways)}
        rows["seeds"] = [", ".join(str(found["seed"]) for found in seeds) for seeds in by_noise]
        for row, (name, style) in COUNTS.items():
            rows[row] = [
                ", ".join(told(found.get(name), style) for found in seeds) for seeds in by_noise
            ]
        print(f"\n| {source} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for row, cells in rows.items():
            print(f"| {row} | {' | '.join(cells)} |")


def best_first(columns: list[list[dict[str, Any]]]) -> list[str]:
    """Ways by their average precision, a mean over columns and seeds."""
    found: dict[str, list[float]] = {}
    for ways in chain.from_iterable(columns):
        for way, measures in ways.items():
            found.setdefault(way, []).append(measures["average_precision"])
    return sorted(found, key=lambda way: -statistics.mean(found[way]))


def told(value: float | None, style: str) -> str:
    """A number, or a dash where it wasn't noted."""
    return "-" if value is None else format(value, style)


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
