"""The command line: parses, calls one function a verb, prints."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

import condvae
from condvae.config import Config, load_recipe, recipe_names
from condvae.errors import UserError

SUSPECTS_SHOWN = 15
FAR_APART = 2
"""Times as many wrong labels by one estimate as by the other."""
DataRoot = Annotated[str, arg(metavar="DIR")]


@dataclass(frozen=True)
class Train:
    """Train a model from a recipe into a run directory."""

    config: Annotated[Config, arg(name="")]
    out: Annotated[str, arg(metavar="DIR")] = ""
    """The run directory; by default runs/ and the recipe's name."""
    data_root: DataRoot = ""
    """Where datasets are looked for before anything is downloaded (or set CONDVAE_DATA)."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with what was interrupted in --out, to the same result."""
    benchmark: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only see how fast it would be here, and where a step's time goes; takes half a minute."""


@dataclass(frozen=True)
class Swap:
    """Draw test images with their correct and with wrong labels, and what the model makes of them."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    images: Annotated[Positional[str], arg(metavar="[IMAGES]")] = ""
    """An image of your own, or a folder of them, to be drawn under other labels instead."""
    count: int = 25
    """Images in each of the two pictures."""
    data: Annotated[str, arg(metavar="SOURCE")] = ""
    """Other test images than the run's own."""
    data_root: DataRoot = ""
    """Where datasets are looked for before anything is downloaded (or set CONDVAE_DATA)."""
    to: tuple[str, ...] = ()
    """Classes, by name or number, that your own images are drawn under; all by default."""
    label: str = ""
    """The class that your own images show; by default what the model takes each for."""
    encode_with: str = "true"
    """true: the wrong label goes to the decoder alone; wrong: to the encoder as well."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Swap the whole test set, for --arrays."""
    arrays: Annotated[str, arg(metavar="FILE.npz")] = ""
    """Write image, label, given_label and output there, so that anyone can judge them."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder of the pictures; by default the run's figures/."""
    seed: int = 0
    """Which images, which wrong labels, which samples."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Evaluate:
    """Measure likelihood, latents and labels on the whole test set."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    data: Annotated[str, arg(metavar="SOURCE")] = ""
    """Other test images than the run's own."""
    data_root: DataRoot = ""
    """Where datasets are looked for before anything is downloaded (or set CONDVAE_DATA)."""
    samples: int = 50
    """Importance samples an image; the bounds get tighter with more."""
    precision: str = "fp32"
    """Of networks while bounds are taken: fp32, or bf16, which some devices are faster with."""
    train_images: int = 2_000
    """Training images scored as well, to see over-fitting; 0 for none."""
    labels: bool = True
    """Judge swaps and samples, and probe the latents; --no-labels measures the likelihood alone."""
    cas: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train a classifier on samples and test it on real images (classification accuracy score)."""
    inception: Annotated[str, arg(metavar="FILE")] = ""
    """An Inception network's weights, to measure the FID of as many samples as there are test images."""
    ais: int = 0
    """Test images scored by annealed importance sampling too, an independent check; 0 for none."""
    ais_steps: int = 1_000
    """Densities that annealing goes through; its bounds get tighter with more."""
    out: Annotated[str, arg(metavar="FILE.json")] = ""
    """Where the numbers go; by default the run's evaluation.json (with --data: evaluation-NAME.json)."""
    seed: int = 0
    """Of binarisation, noise, wrong labels and samples."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Sample:
    """Make up images by class."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    labels: tuple[str, ...] = ()
    """Class numbers or names; all by default."""
    count: int = 10
    """Images a class."""
    temperature: tuple[float, ...] = (1.0,)
    """Below 1: more typical, less varied images; one for all groups of latents, or one a group."""
    guidance: float = 0.0
    """Above 0: labels are exaggerated, for more of what tells a class from the others."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder of samples.png and samples.npz; by default the run's figures/."""
    seed: int = 0
    """Which samples."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Interpolate:
    """Draw the way from one image to another, under several labels."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    start: Annotated[Positional[str], arg(metavar="FROM")] = "0"
    """Number of a test image, or an image file."""
    end: Annotated[Positional[str], arg(metavar="TO")] = "1"
    """Number of a test image, or an image file."""
    labels: tuple[str, ...] = ()
    """Class numbers or names to draw it under; by default the two images' own."""
    steps: int = 9
    """Images in a row."""
    animation: str = "webp"
    """webp, gif or none."""
    data: Annotated[str, arg(metavar="SOURCE")] = ""
    """Other test images than the run's own."""
    data_root: DataRoot = ""
    """Where datasets are looked for before anything is downloaded (or set CONDVAE_DATA)."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder of the pictures; by default the run's figures/."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Traverse:
    """Draw what single latents do to an image."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    image: str = "0"
    """Number of a test image, or an image file."""
    latents: tuple[int, ...] = ()
    """Numbers of latents; by default the liveliest."""
    count: int = 8
    """How many latents, by default."""
    reach: float = 3.0
    """How far to either side, in standard deviations of the prior."""
    steps: int = 9
    """Images in a row."""
    animation: str = "webp"
    """webp, gif or none."""
    data: Annotated[str, arg(metavar="SOURCE")] = ""
    """Other test images than the run's own."""
    data_root: DataRoot = ""
    """Where datasets are looked for before anything is downloaded (or set CONDVAE_DATA)."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder of the pictures; by default the run's figures/."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Audit:
    """Find labels that are probably wrong, each image judged by models that haven't seen it.

    What was decided on its report.html is applied by: condvae audit apply DECISIONS --out DIR
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A dataset's name, a folder of class folders, a .zip of them, or an .npz."""
    split: str = "train"
    """train, test or all; a source that doesn't tell them apart is audited whole."""
    folds: int = 5
    """Parts that the images are divided into; each is judged by what trained on the others."""
    minutes: float = 10.0
    """How long it may take, about; less where the images are few."""
    scores: str = "combined"
    """What to rank by: combined, classifier, neighbours or generative."""
    budget: int = 200
    """Suspects of each kind that the report shows."""
    image_size: int = 0
    """Side that images are cropped and resized to; 0 keeps the source's, up to 64."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder of the results; by default runs/audit- and the source's name."""
    data_root: DataRoot = ""
    """Where datasets are looked for before anything is downloaded (or set CONDVAE_DATA)."""
    seed: int = 0
    """Of the folds and of everything that is trained."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with what was interrupted in --out."""


@dataclass(frozen=True)
class AuditApply:
    """Write a corrected copy of audited data; the data itself is never touched."""

    decisions: Annotated[Positional[str], arg(metavar="DECISIONS")]
    """The file that an audit's report.html saved."""
    out: Annotated[str, arg(metavar="DIR")]
    """A new folder: of class folders, or for the new .zip or .npz."""
    source: Annotated[str, arg(metavar="SOURCE")] = ""
    """Where the data is now, if not where it was audited."""
    data_root: DataRoot = ""
    """Where datasets are looked for, if not where the audit found them."""


@dataclass(frozen=True)
class Explore:
    """Show a run as a page in the browser, on this machine alone."""

    run: Annotated[Positional[str], arg(metavar="RUN")] = ""
    """A run directory, or the name of a model that comes along; by default the run in runs/ that was
    trained last, or else the model mnist."""
    data: Annotated[str, arg(metavar="SOURCE")] = ""
    """Other test images than the run's own."""
    data_root: DataRoot = ""
    """Where datasets are looked for (or set CONDVAE_DATA); the explorer downloads nothing."""
    audit: Annotated[str, arg(metavar="DIR")] = ""
    """An audit's folder, to be shown too."""
    host: str = "127.0.0.1"
    """Address to listen on; any other shows the page to other machines."""
    port: int = 7860
    """Port to listen on; 0 for any that is free."""
    browser: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open a browser."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Push:
    """Send a run to the Hugging Face Hub, from where hf://user/name loads it."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    to: Annotated[Positional[str], arg(metavar="USER/NAME")]
    """The repository."""
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make the repository private, if it is new."""
    license: str = ""
    """The weights' licence, by the Hub's short name, for the model card."""
    message: str = ""
    """What the commit says."""


@dataclass(frozen=True)
class Export:
    """Write a run as ONNX graphs, or as a page that runs in the browser."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run directory, or the name of a model that comes along."""
    format: str = "onnx"
    """onnx: encoder, decoder and sampler; web: a folder for any static server."""
    runtime: Annotated[str, arg(metavar="DIR")] = ""
    """The npm package onnxruntime-web, for --format web; by default looked for in node_modules."""
    examples: bool = True
    """Put a test image a class on the page."""
    data_root: DataRoot = ""
    """Where datasets are looked for (or set CONDVAE_DATA)."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder; by default onnx or web in the run's."""


@dataclass(frozen=True)
class DataList:
    """The datasets that have a name."""

    data_root: DataRoot = ""
    """Where datasets are looked for (or set CONDVAE_DATA)."""


@dataclass(frozen=True)
class DataInfo:
    """What is known of a source: classes, sizes, counts, where it lies."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A dataset's name, a folder of class folders, a .zip of them, an .npz, Parquet, or hf://user/name."""
    data_root: DataRoot = ""
    """Where datasets are looked for (or set CONDVAE_DATA)."""


@dataclass(frozen=True)
class Data:
    """List datasets, or describe one."""

    verb: (
        Annotated[DataList, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[DataInfo, tyro.conf.subcommand("info", prefix_name=False)]
    )


@dataclass(frozen=True)
class Recipes:
    """The recipes that ship with condvae, and what each is for."""


@dataclass(frozen=True)
class Doctor:
    """Examine this installation on this machine, and say what would help it."""

    data_root: DataRoot = ""
    """Where datasets are looked for (or set CONDVAE_DATA)."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was found as JSON."""


# ------------------------------------------------------------------------------------------ the verbs


def run_train(command: Train, recipe: str, begun: Config) -> None:
    """Train, and say where the result is."""
    from condvae.training.trainer import Interrupted
    from condvae.verbs.train import train

    config = one_length(begun, command.config)
    if command.benchmark:
        return show_benchmark(config, command.data_root)
    out = Path(command.out) if command.out else Path("runs") / Path(recipe).stem
    try:
        path = train(config, out, data_root=command.data_root or None, resume=command.resume)
    except Interrupted:
        say(f"stopped; go on with: condvae train {out / 'config.toml'} --out {out} --resume")
        raise SystemExit(130) from None
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        say(f"trained: {path}\nsee it:  condvae swap {path}\nmeasure: condvae evaluate {path}")


def show_benchmark(config: Config, data_root: str) -> None:
    """Print how fast training is, and where a step's time goes."""
    from rich.console import Console
    from rich.table import Table

    from condvae.verbs.train import benchmark

    found = benchmark(config, data_root=data_root or None)
    whole = sum(found["milliseconds"].values())
    table = Table(
        title=f"{found['images_per_second']:,.0f} images/s in {found['precision']}, "
        f"batches of {found['batch_size']:,}",
        caption=f"{found['device']}; {found['steps']} steps; {found['operations_per_image'] / 1e9:.3g} "
        f"GFLOP an image, {found['operations_per_second'] / 1e9:,.0f} GFLOP/s: "
        f"{found['share_of_peak']:.0%} of what large matrix products reach",
    )
    for column in ("part of a step", "ms", "share"):
        table.add_column(column, justify="left" if column.startswith("part") else "right")
    for name, spent in found["milliseconds"].items():
        table.add_row(name, f"{spent:.2f}", f"{spent / whole:.0%}")
    Console(highlight=False).print(table)


def one_length(begun: Config, config: Config) -> Config:
    """Where only --epochs was given, the recipe's minutes no longer end the run, and vice versa."""
    before, now = begun.training, config.training
    if now.epochs != before.epochs and now.minutes == before.minutes:
        now = replace(now, minutes=0.0)
    elif now.minutes != before.minutes and now.epochs == before.epochs:
        now = replace(now, epochs=0.0)
    return replace(config, training=now)


def run_swap(command: Swap) -> None:
    """Draw the pictures, and say where they are."""
    result = condvae.swap(command.run, **_given(command))
    for path in result["files"].values():
        say(path)
    if "arrays" in result:
        say(result["arrays"])


def run_evaluate(command: Evaluate) -> None:
    """Measure, and print a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from condvae.verbs.card import table_rows

    found = condvae.evaluate(command.run, **_given(command))
    if not found:  # of several processes, one speaks
        return
    table = Table(
        title=escape(
            f"{found['run']}: {found['images']:,} {found['split']} images of {found['source']}"
        ),
        caption=f"{found['weights']} weights; binarisation: {found['binarisation'] or 'none'}; "
        f"networks in {found['precision']}; "
        f"seconds: {', '.join(f'{k} {v:g}' for k, v in found['seconds'].items())}",
        show_header=False,
    )
    for name, value in table_rows(found):
        table.add_row(name, value)
    Console(highlight=False).print(table)
    say(found["file"])
    if "picture" in found:
        say(found["picture"])


def run_sample(command: Sample) -> None:
    """Draw samples, and say where they are."""
    found = condvae.sample(command.run, **_given(command))
    for path in found.get("files", {}).values():  # of several processes, one speaks
        say(path)


def run_interpolate(command: Interpolate) -> None:
    """Draw the way between two images, and say where it is."""
    for path in condvae.interpolate(command.run, **_given(command))["files"].values():
        say(path)


def run_traverse(command: Traverse) -> None:
    """Draw what latents do, and say where it is."""
    for path in condvae.traverse(command.run, **_given(command))["files"].values():
        say(path)


def run_audit(command: Audit) -> None:
    """Audit, and print the numbers and the first suspects."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from condvae.training.trainer import Interrupted
    from condvae.verbs.audit import audit_source

    try:
        result = audit_source(**_given(command))
    except (Interrupted, KeyboardInterrupt):
        say("stopped; go on with the same command and --resume")
        raise SystemExit(130) from None
    found = result.numbers
    if "files" not in found:  # of several processes, one speaks
        return
    table = Table(
        title=escape(f"{found['source']}, {found['split']}: {found['images']:,} images"),
        caption="; ".join(f"{kind}: {count:,}" for kind, count in found["suspects"].items() if count),
    )
    for column in ("kind", "rank", "image", "given", "suggested", "score"):
        table.add_column(column)
    for index, file, given, suggested, score, rank, kind in result.issue_rows()[:SUSPECTS_SHOWN]:
        cells = (kind, str(rank), file or str(index), given, suggested, f"{score:.2g}")
        table.add_row(*(escape(cell) for cell in cells))
    Console(highlight=False).print(table)
    for line in (*errors_thought(found), *found["files"]):
        say(line)


def errors_thought(found: dict[str, Any]) -> list[str]:
    """How many are thought to be wrong, and a word of warning where two estimates are far apart."""
    low, high = found["estimated_errors_interval"]
    calibrated = found["estimated_errors_by_calibration"]
    said = (
        f"wrong labels: about {found['estimated_errors']:,.0f} ({low:,.0f} to {high:,.0f}) by confident "
        f"learning, {calibrated:,.0f} by calibration"
    )
    if low <= FAR_APART * calibrated:
        return [said]
    return [
        said,
        "they are far apart: the first counts the judges' own mistakes; more --minutes or images help",
    ]


def run_audit_apply(command: AuditApply) -> None:
    """Write the corrected copy, and say what was done."""
    from condvae.verbs.audit import apply

    done = apply(**_given(command))
    say(f"{done['relabelled']:,} relabelled, {done['dropped']:,} dropped, {done['kept']:,} kept")
    say(done["path"])


def run_explore(command: Explore) -> None:
    """Serve the page until Ctrl-C."""
    condvae.explore(command.run or None, **_given(command))


def run_export(command: Export) -> None:
    """Write the files, and say where they are."""
    found = condvae.export(command.run, **_given(command))
    for path in found["files"].values():
        say(path)
    if command.format == "web":
        say(f"see it: python -m http.server --bind 127.0.0.1 --directory {found['folder']}")


def run_push(command: Push) -> None:
    """Send the run, and say how it is loaded."""
    address = condvae.push(command.run, **_given(command))
    say(f'{address}\nload it: condvae.load("{address}")')


def run_data(command: Data) -> None:
    """List the datasets, or describe one as JSON."""
    from condvae.data import info, list_sources

    root = command.verb.data_root or None
    if isinstance(command.verb, DataInfo):
        say(json.dumps(info(command.verb.source, data_root=root), indent=2, ensure_ascii=False))
        return
    for source in list_sources():
        say(f"{source.name:14} {source.about}; {info(source.name, data_root=root)['found']}")
    say("... or a folder of class folders, a .zip of them, an .npz with images and labels, Parquet,")
    say("or hf://user/name, a dataset of images on the Hugging Face Hub")


def run_recipes(command: Recipes) -> None:
    """List the recipes."""
    for name in recipe_names():
        say(f"{name:17} {load_recipe(name).about}")


def run_doctor(command: Doctor) -> None:
    """Print a table and what would help; exit code 1 where something doesn't work."""
    found = condvae.doctor(data_root=command.data_root or None)
    if command.json:
        say(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(show_header=False)
        for each in found["findings"]:
            table.add_row(each["name"], "fine" if each["fine"] else "NOT FINE", escape(each["found"]))
        Console(highlight=False).print(table)
        for each in found["findings"]:
            if each["advice"]:
                say(f"{each['name']}: {each['advice']}")
        say("condvae works here" if found["healthy"] else "condvae does not work here as it should")
    if not found["healthy"]:
        raise SystemExit(1)


def _given(command: Any) -> dict[str, Any]:
    """A command's fields as keyword arguments; an empty text is one that was not given."""
    return {
        field.name: getattr(command, field.name) or None
        if isinstance(getattr(command, field.name), str)
        else getattr(command, field.name)
        for field in dataclasses.fields(command)
        if field.name != "run"
    }


def say(text: object) -> None:
    """Print a line of the result."""
    print(text, flush=True)


VERBS: dict[str, tuple[type, Callable[..., None]]] = {
    "train": (Train, run_train),
    "swap": (Swap, run_swap),
    "evaluate": (Evaluate, run_evaluate),
    "sample": (Sample, run_sample),
    "interpolate": (Interpolate, run_interpolate),
    "traverse": (Traverse, run_traverse),
    "audit": (Audit, run_audit),
    "audit apply": (AuditApply, run_audit_apply),
    "explore": (Explore, run_explore),
    "export": (Export, run_export),
    "push": (Push, run_push),
    "data": (Data, run_data),
    "recipes": (Recipes, run_recipes),
    "doctor": (Doctor, run_doctor),
}

HELP = """\
usage: condvae VERB ...

Conditional variational autoencoders on labelled images.

  condvae train RECIPE   train a model from a recipe into a run directory
  condvae swap RUN       test images with their correct and with wrong labels, as pictures
  condvae evaluate RUN   likelihood, latents, and whether the model listens to its label
  condvae sample RUN     make up images by class
  condvae interpolate RUN FROM TO   the way from one image to another, under several labels
  condvae traverse RUN   what single latents do to an image
  condvae audit SOURCE   find labels that are probably wrong (and audit apply: correct them in a copy)
  condvae explore [RUN]  all of it, and a drawing pad, as a page in the browser
  condvae export RUN     as ONNX graphs, or as a page that runs in the browser (--format web)
  condvae push RUN USER/NAME   the run on the Hugging Face Hub, to be loaded as hf://user/name
  condvae data           list datasets (data list), or describe one (data info SOURCE)
  condvae recipes        list the recipes
  condvae doctor         examine this installation, and say what would help it

Try:   condvae train mnist-sample && condvae swap runs/mnist-sample
More:  condvae VERB --help
"""


def run(arguments: Sequence[str]) -> None:
    """Parse the arguments and carry out the verb.

    Raises:
        UserError: something is wrong that the user can put right.
        SystemExit: after help, and after flags that can't be parsed (code 2).
    """
    verb, rest = verb_of(arguments or ["--help"])
    if verb in ("-h", "--help"):
        say(HELP)
        return
    if verb == "--version":
        say(f"condvae {condvae.__version__}")
        return
    if verb not in VERBS:
        from condvae.registry import nearest

        raise UserError(
            f"{verb!r} is no verb{nearest(verb, list(VERBS))} (there are: {', '.join(VERBS)})"
        )
    kind, act = VERBS[verb]
    program = f"condvae {verb}"
    if verb != "train":
        act(parse(kind, rest, program, config=(OmitArgPrefixes,)))
        return
    if not rest or rest[0] in ("-h", "--help"):
        say(f"usage: {program} RECIPE [flags]\n\nRECIPE is a recipe's name or a TOML file:")
        run_recipes(Recipes())
        say("\nA recipe's flags and their values: condvae train mnist-sample --help")
        if not rest:
            raise UserError("condvae train: name a recipe first")
        return
    if rest[0].startswith("-"):
        raise UserError(f"condvae train: the recipe comes first, before {rest[0]}")
    begun = load_recipe(rest[0])
    command = parse(Train, rest[1:], f"{program} {rest[0]}", default=Train(config=begun))
    act(command, rest[0], begun)


def verb_of(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and what follows it. (A source called apply is written ./apply.)"""
    verb, *rest = arguments
    if rest and f"{verb} {rest[0]}" in VERBS:
        return f"{verb} {rest[0]}", rest[1:]
    return verb, rest


def parse(kind: type, arguments: Sequence[str], program: str, **options: Any) -> Any:
    """Arguments as a dataclass, by tyro; its complaints, which are boxes, as a sentence.

    Raises:
        UserError: a flag is unknown (the nearest is suggested), or its value can't be read.
        SystemExit: after help.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=program, **options)
    except SystemExit as ended:
        if not ended.code:
            raise
    sections: list[list[str]] = [[]]
    for line in said.getvalue().splitlines()[1:-1]:
        text = line.strip(" │")
        sections.append([]) if text.startswith("─") else sections[-1].append(text)
    wrong = " ".join(sections[0])
    if len(sections) > 1 and sections[1][0].startswith("Perhaps you meant"):
        wrong += f"; did you mean {sections[1][1]}?"
    raise UserError(f"{wrong} (see {program} --help)")


def one_line(error: Exception) -> str:
    """The sentence; names that files gave themselves can do nothing to the terminal."""
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory gave out, Python's, the processor's or a GPU's; PyTorch has no one type for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def main() -> None:
    """The `condvae` command: exit code 2 and one line for what the user can put right."""
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"condvae: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "condvae: the memory gave out; use smaller batches, models or images "
            "(a training goes on from its last checkpoint with --resume)",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("condvae: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    except OSError as error:  # a file that may not be read, or whose name is too long
        print(f"condvae: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
