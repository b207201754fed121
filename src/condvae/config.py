"""One frozen dataclass a part: the schema of recipes (TOML) and of the command line's flags alike.

Nothing heavy is imported here, so that `condvae --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from condvae.errors import UserError
from condvae.registry import nearest


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    source: Annotated[str, arg(name="data", prefix_name=False)] = "mnist-sample"
    """A name (see `condvae data list`), a folder of class folders, a .zip of them, an .npz, Parquet, or
    hf://user/name."""
    test_source: Annotated[str, arg(name="test-data", prefix_name=False)] = ""
    """Where test images are, if not in the same place."""
    image_size: int = 0
    """Side that images are cropped and resized to; 0 keeps the source's."""
    channels: int = 0
    """1 for grey, 3 for colour; 0 keeps the source's."""
    labels: int = 0
    """Training images whose labels are known, as many of each class; the rest count as unlabelled, for
    the objective semi-supervised. 0 for all labels that there are."""
    validation: float = 0.05
    """Share of the training images set aside to watch the training; test images never are."""
    skip_unreadable: Annotated[bool, arg(prefix_name=False)] = False
    """Leave unreadable images out and count them, instead of stopping at the first."""


@dataclass(frozen=True)
class ModelConfig:
    """What is trained. Parts are written as a name, or as name(option=value, ...)."""

    family: str = "conditional-vae"
    """conditional-vae, or ladder(groups=..., ...), which is hierarchical."""
    network: str = "conv"
    """mlp, conv or resnet."""
    likelihood: str = "bernoulli"
    """bernoulli, categorical, beta-binomial, discretised-logistic, discretised-gaussian,
    discretised-logistic-mixture; gaussian, continuous-bernoulli and grey-cross-entropy are no
    probabilities."""
    prior: str = "conditional"
    """conditional, standard-normal, mixture, vamp, autoregressive-flow or coupling-flow."""
    posterior: str = "diagonal-gaussian"
    """diagonal-gaussian, full-covariance, inverse-autoregressive-flow or coupling-flow."""
    latents: int = 32
    """Dimensions of z."""
    embedding: int = 32
    """Width of the label's embeddings."""
    label_reaches: tuple[str, ...] = ("encoder", "decoder")
    """Networks that see the label."""
    label_inference: str = ""
    """A classifier to be q(y|x), which infers labels: unnormalised, residual, plain or mixer."""


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained."""

    objective: str = "elbo"
    """What is minimised: elbo, capacity, free-bits, kl-balancing, total-correlation, factor, dip, info,
    iwae, miwae, ciwae, piwae, counterfactual or semi-supervised."""
    epochs: Annotated[float, arg(prefix_name=False)] = 0.0
    """Length in passes over the data; 0 where minutes decide."""
    minutes: Annotated[float, arg(prefix_name=False)] = 0.0
    """Length in minutes of training, if it is not ended by epochs sooner; 0 for no limit."""
    batch_size: int = 128
    """Images a step, of all processes together."""
    micro_batches: int = 1
    """Parts in which a process takes its images of a step, one after another, for less memory."""
    labelled_share: float = 0.5
    """Share of a step's images that have a label, where some have none."""
    optimiser: str = "adamw"
    """muon, adamw, adamax or adam."""
    learning_rate: float = 2e-3
    """Peak of the learning rate."""
    schedule: str = "cosine"
    """cosine (with a linear warm-up) or constant."""
    warmup_steps: int = 200
    """Steps until the learning rate is at its peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay (adamw and muon)."""
    beta1: float = 0.9
    """Decay of the running mean of gradients; 0.5 where networks compete, as model and critic do.
    The matrices that muon orthogonalises have its own."""
    beta2: float = 0.99
    """Decay of the running mean of their squares."""
    clip: float = 200.0
    """Gradient norm above which a gradient is scaled down; 0 for never."""
    skip_above: float = 100.0
    """A step is skipped when its gradient norm is this many times the usual one, or not finite."""
    ema: float = 0.06
    """Width of the average of the weights, as a share of the steps so far; 0 for no average."""
    precision: str = "auto"
    """auto (bf16 where this device is faster with it), fp32 or bf16."""
    compile: bool = False
    """Compile the steps (torch.compile): slow at first, perhaps faster later."""
    shard: bool = False
    """Of several processes, each keeps a part of the weights alone, for less memory (FSDP)."""
    device: Annotated[str, arg(prefix_name=False)] = "auto"
    """auto, cpu or cuda."""
    seed: Annotated[int, arg(prefix_name=False)] = 0
    """Seed of everything random; a CPU run of a number of epochs repeats bit for bit."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints."""
    trackers: tuple[str, ...] = ()
    """Where numbers go besides metrics.jsonl and TensorBoard: wandb, mlflow and such, by accelerate."""
    validations: int = 10
    """How often, over the run, the validation images are scored."""


@dataclass(frozen=True)
class Config:
    """A recipe: everything that decides what a training does."""

    about: Annotated[str, arg(prefix_name=False)] = ""
    """What the recipe is for, what it reaches, on what hardware and in what time."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


# ------------------------------------------------------------------------------------- TOML, and back


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """A config from nested tables.

    Raises:
        UserError: a field is unknown (the nearest name is suggested) or has the wrong type.
    """
    return typing.cast(Config, _build(Config, values, where, ""))


def _build(cls: type, values: Mapping[str, Any], where: str, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: holds no recipe, which is a table of tables")
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(
                f"{where}: unknown field {path + key!r}{nearest(key, list(hints))} "
                f"(there are: {', '.join(hints)})"
            )
        arguments[key] = _typed(hints[key], value, where, path + key)
    return cls(**arguments)


def _typed(hint: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {path!r} is a table: write it as [{path}]")
        return _build(hint, value, where, path + ".")
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise UserError(f"{where}: {path!r} is a number of too many digits")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise UserError(f"{where}: {path!r} must be a list of strings, not {value!r}")
        return tuple(value)
    if isinstance(hint, types.UnionType):
        raise TypeError(f"no union fields: {path}")
    right = isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    if hint is float and type(value) is int:
        return float(value)
    if not right:
        raise UserError(f"{where}: {path!r} must be of type {hint.__name__}, not {value!r}")
    return value


def to_toml(config: Config) -> str:
    """The config as TOML that `load_recipe` reads back to an equal one."""
    lines = [f"about = {_toml(config.about)}"]
    for part in dataclasses.fields(config):
        table = getattr(config, part.name)
        if dataclasses.is_dataclass(table):
            lines += ["", f"[{part.name}]"]
            lines += [
                f"{item.name} = {_toml(getattr(table, item.name))}" for item in dataclasses.fields(table)
            ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        special = {"\\": "\\\\", '"': '\\"'} | {chr(c): f"\\u{c:04x}" for c in (*range(32), 127)}
        return '"' + "".join(special.get(letter, letter) for letter in value) + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


# ---------------------------------------------------------------------------------------------- recipes


def recipe_names() -> list[str]:
    """Names of the recipes that ship with condvae."""
    folder = resources.files("condvae.recipes")
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


LARGEST = 1 << 18
"""Bytes of a recipe, at most."""


def load_recipe(recipe: str | Path) -> Config:
    """A shipped recipe by name, or a TOML file by path.

    Raises:
        UserError: there is no such recipe; the file is not TOML; a field is unknown or ill-typed.
    """
    names = recipe_names()
    path = Path(recipe)
    if str(recipe) in names:
        text = resources.files("condvae.recipes").joinpath(f"{recipe}.toml").read_text("utf-8")
    elif path.is_file():
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise UserError(f"{path}: over {LARGEST:,} bytes, which no recipe has")
            text = content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: could not be read as a recipe: {error}") from error
    else:
        raise UserError(
            f"recipe {str(recipe)!r}: no such file and no shipped recipe of that name"
            f"{nearest(str(recipe), names)} (there are: {', '.join(names)})"
        )
    try:
        return from_dict(tomllib.loads(text), str(recipe))
    except (ValueError, RecursionError) as error:  # of TOML, of overlong numbers, of lists in lists
        raise UserError(f"{recipe}: not a TOML file: {error}") from error
