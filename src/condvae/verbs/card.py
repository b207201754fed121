"""The model card: a run directory's `README.md`, written from what the run holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from condvae.config import ModelConfig
from condvae.files import write_text
from condvae.run import CARD, Run, load


def write_card(path: Path) -> None:
    """Write the card of a finished run, with its evaluation where there is one."""
    write_text(path / CARD, card_of(load(path, "cpu")))


def card_of(run: Run, name: str = "") -> str:
    """The card of a finished run.

    Arguments:
        name: `user/name`, if it is to be loaded from the Hub; a name alone, if it comes along.
    """
    training, config = run.training, run.config
    address = f"hf://{name}" if "/" in name else name or "this folder"
    lines = [
        f"# A conditional VAE trained on {cell(Path(config.data.source).name)}",
        "",
        cell(config.about) or "Trained with condvae.",
        "",
        "| | |",
        "|---|---|",
        f"| model | {_described(config.model)}, {training['parameters']:,} parameters |",
        f"| likelihood | {config.model.likelihood} |",
        f"| latents | {run.model.latents} in {len(run.model.group_shapes)} groups |",
        f"| the label reaches | {', '.join(config.model.label_reaches) or 'no network'} |",
        f"| images | {training['images']:,} of {'x'.join(map(str, run.model.shape))}, "
        f"{len(run.class_names)} classes: {cell(', '.join(run.class_names[:20]))} |",
        f"| training | {training['steps']:,} steps, {training['epochs']:.1f} epochs, "
        f"{training['seconds']:.0f} s on {training['device']}, {training['precision']} |",
        f"| objective | {config.training.objective}, seed {config.training.seed} |",
        f"| versions | condvae {training['versions']['condvae']}, "
        f"torch {training['versions']['torch']} |",
        "",
        f'Load it with `condvae.load("{address}").model`.',
        "",
        *_evaluation(run.path / "evaluation.json"),
        "## Limits",
        "",
        "It knows the classes and the kind of images that it was trained on, and nothing else. Its",
        "samples are no photographs of anything. The data's own licence goes with the weights.",
        "",
    ]
    return "\n".join(lines)


def _described(model: ModelConfig) -> str:
    """The parts that the model is made of, likelihood apart."""
    if model.family != "conditional-vae":
        return model.family
    return f"{model.family}, {model.network}, prior {model.prior}, posterior {model.posterior}"


def cell(text: str) -> str:
    """Text that stays text, and a line, inside a table of Markdown."""
    text = " ".join(text.split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _evaluation(path: Path) -> list[str]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        rows = [f"| {cell(name)} | {value} |" for name, value in table_rows(found)]
        source = cell(str(found["source"]))
        head = f"## Evaluation: {found['images']:,} {found['split']} images of {source}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ["Not evaluated yet: `condvae evaluate` with this folder.", ""]
    return [head, "", "| | |", "|---|---|", *rows, ""]


def table_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """An evaluation as rows of name and number, for the terminal and for the card."""

    def nats(key: str, numbers: dict[str, Any] = found) -> str:
        value, error = numbers.get(f"{key}_nats"), numbers.get(f"{key}_nats_stderr")
        return "no bound" if value is None else f"{value:.2f} ± {error:.2f} nats"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        ("ELBO of log p(x|y)", nats("elbo")),
        (f"log p(x|y), importance-weighted, S = {found['samples']}", nats("log_likelihood")),
        (f"log p(x), importance-weighted, S = {found['samples']}", nats("marginal_log_likelihood")),
    ]
    if found.get("bits_per_dim") is not None:
        rows.append(("bits/dim of log p(x)", f"{found['bits_per_dim']:.4f}"))
    if found.get("objective_nats_no_bound") is not None:
        rows.append(("loss, KL included (no bound)", f"{found['objective_nats_no_bound']:.2f} nats"))
    rate, distortion = found["kl_nats"], found.get("distortion_nats")
    if distortion is None:
        rows.append(("KL", f"{rate:.2f} nats"))
    else:
        rows.append(("rate (KL) and distortion", f"{rate:.2f} and {distortion:.2f} nats"))
    if "elbo_gap_nats" in (train := found.get("train") or {}):
        rows.append((f"ELBO of {train['images']:,} training images minus test", nats("elbo_gap", train)))
    if ais := found.get("ais"):
        name = f"annealed minus importance-weighted log p(x|y), {ais['images']} images"
        rows.append((name, nats("difference", ais)))
        name = f"annealed from both sides, {ais['images']} simulated images: the gap"
        rows.append((name, nats("gap", ais["simulated"])))
    if len(groups := found["kl_nats_by_group"]) > 1:
        rows.append(("KL by group, top first, nats", " ".join(f"{kl:.1f}" for kl in groups)))
    rows.append(("active units", f"{found['active_units']} of {found['latents']}"))
    if "inferred_accuracy" in found:
        rows.append(("label inferred by q(y|x)", share(found["inferred_accuracy"])))
    if "generative_accuracy" in found:
        rows.append(("label inferred by Bayes from p(x|y)", share(found["generative_accuracy"])))
    if "judges" not in found:
        return rows
    judges, probes = found["judges"], found["latent_probe_accuracy"]
    shares = found["counterfactual_shares"]
    rows.append(("counterfactual score", share(found["counterfactual_score"])))
    parts = "  ".join(f"{name} {value:.3f}" for name, value in shares.items())
    rows.append(("swaps that are each of it", parts))
    if "reconstructions_alike" in found:
        rows.append(("reconstructions that are alike", share(found["reconstructions_alike"])))
    rows += [
        (
            f"{kind}, by judge: {', '.join(judges)}",
            "  ".join(share(judge[row]) for judge in judges.values()),
        )
        for row, kind in (
            ("real", "real images read as their label"),
            ("reconstructions", "reconstructions read as the true label"),
            ("swaps", "swaps read as the given label"),
            ("swaps_kept", "swaps still read as the true label"),
            ("samples", "samples read as their label"),
        )
    ]
    told = found["realism"]["discriminator_auroc"]
    rows.append(("swaps told from reconstructions (AUROC; 0.5 is best)", share(told)))
    kept = {name: values["swaps"] for name, values in found["style"].items()}
    of = {name: values["reconstructions"] for name, values in found["style"].items()}
    rows += [
        (
            f"{name} of the input, correlation in swaps (reconstructions)",
            f"{kept[name]:.3f} ({of[name]:.3f})",
        )
        for name in kept
    ]
    rows.append((f"linear probe z to y (chance {found['chance']:.3g})", share(probes["linear"])))
    rows.append(("MLP probe z to y", share(probes["mlp"])))
    if "by_group" in probes:
        by_group = " ".join(f"{value:.2f}" for value in probes["by_group"])
        rows.append(("linear probe by group, top first", by_group))
    if fid := found.get("frechet_inception_distance"):
        rows.append((f"FID of {fid['images']:,} samples", f"{fid['fid']:.2f}"))
    if "classification_accuracy_score" in found:
        score = found["classification_accuracy_score"]
        rows.append(("classification accuracy score (trained on samples)", share(score)))
    return rows
