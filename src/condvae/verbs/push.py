"""`condvae push`: a run on the Hugging Face Hub, from where `condvae.load("hf://user/name")` has it."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from condvae.config import Config, to_toml
from condvae.data.hub import sent
from condvae.files import read_tensors, write_json, write_tensors, write_text
from condvae.run import CONFIG, MODEL, Run, load
from condvae.verbs.card import card_of


def push(
    run: str | Path | Run,
    to: str,
    *,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
) -> str:
    """Send a run to the Hub: weights, recipe, evaluation, pictures and model card.

    Paths of this machine are not sent: a source that is a path goes by its last part alone.

    Arguments:
        run: a run directory.
        to: `user/name`.
        private: make the repository private, if it is new.
        license: the weights' licence, by the Hub's short name, for the card.
        message: what the commit says.

    Returns:
        Its address, `hf://user/name`.

    Raises:
        UserError: the run is wrong, nobody is signed in, or the Hub can't be reached.
    """
    loaded = run if isinstance(run, Run) else load(run, "cpu")
    with tempfile.TemporaryDirectory(prefix="condvae-") as folder:
        pack(loaded, Path(folder), to.removeprefix("hf://"), license)
        return sent(Path(folder), to, private, message or "A model trained with condvae")


def pack(run: Run, folder: Path, name: str, license: str | None = None) -> None:
    """Write what is sent of a run into a folder, laid out as the Hub and `condvae.load` expect it.

    Arguments:
        name: `user/name`, or its name in the package, which the evaluation and the card call it.
    """
    config = portable(run.config)
    weights, about = read_tensors(run.path / MODEL, "train again")
    write_tensors(folder / MODEL, weights, about | {"config": asdict(config)})
    write_text(folder / CONFIG, to_toml(config))
    try:
        found = json.loads((run.path / "evaluation.json").read_text("utf-8"))
        write_json(folder / "evaluation.json", found | {"run": name})
    except (OSError, ValueError, TypeError):
        pass  # not evaluated yet, which the card says
    for picture in sorted((run.path / "figures").glob("*.png")):
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copyfile(picture, folder / "figures" / picture.name)
    write_text(folder / "README.md", f"---\n{front_matter(license)}---\n\n{card_of(run, name)}")


def portable(config: Config) -> Config:
    """The config without this machine's paths: sources that are paths go by their last part."""
    data = config.data
    source, test = (
        Path(place).name if "/" in place and not place.startswith("hf://") else place
        for place in (data.source, data.test_source)
    )
    return replace(config, data=replace(data, source=source, test_source=test))


def front_matter(license: str | None) -> str:
    """What the Hub reads of a card: YAML."""
    from huggingface_hub import ModelCardData

    tags = ["condvae", "vae", "conditional-vae", "image-generation"]
    data = ModelCardData(license=license, library_name="condvae", tags=tags)
    return str(data.to_yaml()).rstrip() + "\n"
