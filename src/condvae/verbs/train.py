"""`condvae train`: from a recipe to a run directory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condvae import config as configuration
from condvae.config import Config
from condvae.errors import UserError
from condvae.files import cannot_write, clear_parts
from condvae.lock import LOCK, OnlyOne
from condvae.run import CARD, CHECKPOINT, CONFIG, MODEL, choose_device, describe_device
from condvae.verbs.sources import images_to_train_on

if TYPE_CHECKING:
    from condvae.processes import Processes


def train(
    recipe: str | Path | Config,
    out: str | Path | None = None,
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Train a model; returns its run directory.

    Arguments:
        recipe: the name of a shipped recipe, a TOML file, or a config.
        out: the run directory; by default `runs/` and the recipe's name.
        data_root: where datasets are looked for before anything is downloaded.
        resume: go on with what was interrupted in `out`, to the same result.
        quiet: show nothing.

    Raises:
        UserError: anything in the recipe, the data or the directory is wrong, another process is at
            work in it, or training diverged.
        condvae.training.trainer.Interrupted: Ctrl-C, or a signal to end; the run can be resumed.
    """
    config = recipe if isinstance(recipe, Config) else configuration.load_recipe(recipe)
    name = "run" if isinstance(recipe, Config) else Path(recipe).stem
    path = Path(out) if out else Path("runs") / name
    from condvae.processes import Processes
    from condvae.training.trainer import check_settings

    config = with_absolute_paths(config)
    check_settings(config.training)
    together = Processes(choose_device(config.training.device))
    with OnlyOne(path, "--out") if together.main else contextlib.nullcontext():
        _train(config, path, data_root, resume, quiet, together)
        together.close()
    return path


def _train(
    config: Config,
    path: Path,
    data_root: str | Path | None,
    resume: bool,
    quiet: bool,
    together: Processes,
) -> None:
    from condvae.verbs.card import write_card

    with together.main_first():
        if together.main:
            _prepare(config, path, resume)
        if resume and (path / MODEL).exists():
            if together.main and not (path / CARD).exists():
                write_card(path)
            return
        parts = images_to_train_on(config, data_root)
        going_on = resume and (path / CHECKPOINT).exists()

    from condvae.training.trainer import Trainer

    try:
        trainer = Trainer(config, parts, path, going_on, quiet, together)
        trainer.fit()
    except OSError as error:
        raise cannot_write(path, error) from error
    if together.main:
        write_card(path)


def benchmark(
    recipe: str | Path | Config, *, data_root: str | Path | None = None, seconds: float = 10.0
) -> dict[str, Any]:
    """Take training steps for some seconds, and say where a step's time goes; nothing is kept.

    Arguments:
        recipe: the name of a shipped recipe, a TOML file, or a config.
        data_root: where datasets are looked for before anything is downloaded.
        seconds: of steps, after a few that aren't counted.

    Returns:
        What `condvae.training.stopwatch.breakdown` does, and `device`.

    Raises:
        UserError: anything in the recipe or the data is wrong, or several processes were launched.
    """
    from condvae.processes import Processes
    from condvae.training.stopwatch import breakdown
    from condvae.training.trainer import Trainer, check_settings

    config = recipe if isinstance(recipe, Config) else configuration.load_recipe(recipe)
    check_settings(config.training)
    alone = Processes(choose_device(config.training.device))
    if alone.number > 1:
        raise UserError("--benchmark looks at one process; run it without a launcher")
    with tempfile.TemporaryDirectory() as folder:
        parts = images_to_train_on(config, data_root)
        trainer = Trainer(config, parts, Path(folder), quiet=True, processes=alone)
        found = breakdown(trainer, seconds)
        trainer.monitor.close()
    return found | {"device": describe_device(alone.device)}


def _prepare(config: Config, path: Path, resume: bool) -> None:
    """Clear what killed processes left; check that a run goes on as it began, or claim its directory."""
    for folder in (path, (path / CHECKPOINT).parent):
        clear_parts(folder)
    if resume and (path / CONFIG).exists():
        _check_same(config, configuration.load_recipe(path / CONFIG), path)
    elif not resume:
        _claim(path)


def with_absolute_paths(config: Config) -> Config:
    """The config with sources that are paths made absolute, so that a run is understood anywhere."""

    def absolute(source: str) -> str:
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"--data {source!r}: its name is no UTF-8; rename it") from error
        try:
            path = Path(source).expanduser()
        except RuntimeError:  # there is no such user
            return source
        return str(path.resolve()) if source and path.exists() else source

    from condvae.data.sources import SOURCES

    data = config.data
    source = data.source if data.source in SOURCES else absolute(data.source)
    test = data.test_source if data.test_source in SOURCES else absolute(data.test_source)
    return replace(config, data=replace(data, source=source, test_source=test))


def _claim(path: Path) -> None:
    """Make the run directory, which must hold neither a run yet nor anything that isn't one's."""
    if any((path / name).exists() for name in (MODEL, CHECKPOINT)):
        raise UserError(
            f"--out {path}: holds a run already; go on with it by --resume, or choose another --out"
        )
    try:
        foreign = any(entry.name != LOCK for entry in path.iterdir())
        if foreign and not (path / CONFIG).exists():
            raise UserError(f"--out {path}: is not empty, and no run directory; choose a new folder")
        for left_over in (path / "tensorboard", path / "metrics.jsonl"):
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _check_same(now: Config, before: Config, path: Path) -> None:
    """A resumed run goes on as it began: any setting that differs is an error, not a surprise."""
    mine, theirs = asdict(now), asdict(before)
    for table in ("data", "model", "training"):
        for field, value in mine[table].items():
            if value != theirs[table][field] and field not in (
                "device",
                "checkpoint_seconds",
                "micro_batches",
                "compile",
            ):
                raise UserError(
                    f"--resume: {path} was begun with {table}.{field} = {theirs[table][field]!r}, "
                    f"not {value!r}; a resumed run goes on as it began "
                    f"(condvae train {path / CONFIG} --out {path} --resume)"
                )
