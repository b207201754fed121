"""Print the evaluations of runs as one Markdown table, a column a run: the README's results.

python tools/results_table.py runs/mnist runs/mnist-notebook runs/cifar10 runs/cifar10-notebook
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def column(run: Path) -> dict[str, str]:
    """A run's numbers, by the name of their row."""
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text("utf-8"))
    training = found["training"]

    def number(key: str, form: str) -> str:
        return "no bound" if found.get(key) is None else format(found[key], form)

    def share(key: str) -> str:
        return format(found[key], ".3f") if key in found else "-"

    loss = number("objective_nats_no_bound", ",.2f") if found["elbo_nats"] is None else "-"
    return {
        "": f"`{run.name}`",
        "training, minutes (epochs)": f"{training['seconds'] / 60:.1f} ({training['epochs']:.1f})",
        "parameters": f"{training['parameters'] / 1e6:.2f} M",
        "latents, and of them active": f"{found['latents']}, {found['active_units']}",
        "ELBO of log p(x\\|y), nats": number("elbo_nats", ",.2f"),
        "log p(x\\|y), nats": number("log_likelihood_nats", ",.2f"),
        "**log p(x), nats**": number("marginal_log_likelihood_nats", ",.2f"),
        "bits/dim of log p(x)": number("bits_per_dim", ".3f") if found["bits_per_dim"] else "-",
        "importance samples S": "-" if found["elbo_nats"] is None else str(found["samples"]),
        "loss, KL included": loss,
        "judge on real images": share("judge_accuracy"),
        "judge on reconstructions": share("reconstruction_accuracy"),
        "**swap accuracy**": share("swap_accuracy"),
        "swaps still read as the true label": share("swap_kept_accuracy"),
        "**sample accuracy**": share("sample_accuracy"),
        "**counterfactual score**": share("counterfactual_score"),
        "classification accuracy score": share("classification_accuracy_score"),
        "linear probe z to y": format(found["latent_probe_accuracy"]["linear"], ".3f"),
        "MLP probe z to y": format(found["latent_probe_accuracy"]["mlp"], ".3f"),
    }


def main() -> None:
    columns = [column(Path(run)) for run in sys.argv[1:]]
    if not columns:
        raise SystemExit(__doc__)
    for index, row in enumerate(columns[0]):
        print("| " + " | ".join([row, *(each[row] for each in columns)]) + " |")
        if index == 0:
            print("|---" * (len(columns) + 1) + "|")


if __name__ == "__main__":
    main()
