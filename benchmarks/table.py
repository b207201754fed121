"""Prints the log of records as a Markdown table: `python benchmarks/table.py`.

Seeds of one recipe, trained on one kind of device, with equally many importance samples,
share a row: the mean over seeds, and in brackets the extremes. A seed that was run again, by
a later version of the recipe, counts as it was the last time.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

LOG = Path(__file__).parent / "records" / "records.jsonl"


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


def main() -> None:
    """Print the table."""
    every = [json.loads(line) for line in LOG.read_text("utf-8").splitlines()]
    lines = {(*_kind(line), line["seed"]): line for line in every}
    names = (
        "recipe | trained on | minutes | epochs | parameters | -ELBO | -log p(x) | S | bits/dim | seeds"
    )
    print(f"| {names} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for _, group in groupby(sorted(lines.values(), key=_kind), key=_kind):
        print(row(list(group)))


def _kind(line: dict[str, Any]) -> tuple[Any, ...]:
    """What lines that share a row have in common."""
    time = line["training_seconds"] // 30
    return line["source"], line["device"], time, line["recipe"], -line["samples"]


if __name__ == "__main__":
    main()
