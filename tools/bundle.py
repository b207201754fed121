"""Put a trained run into the package, to come along with it: its weights in 16 bits, and its card.

    python tools/bundle.py runs/mnist mnist
    condvae evaluate mnist --data-root ../data          # -> results/mnist/evaluation.json
    python tools/bundle.py runs/mnist mnist results/mnist/evaluation.json

The evaluation is of the weights as they come along, so it is taken after the first call. The run's own
data give way to those of the recipe that has the model's name, which everybody can find.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from condvae.config import load_recipe
from condvae.files import read_tensors, write_json, write_tensors, write_text
from condvae.run import BUNDLED, CARD, MODEL, bundled, load
from condvae.verbs.card import card_of
from condvae.verbs.push import pack

MOST_BYTES = 12_000_000


def main(run: str, name: str, evaluation: str = "") -> None:
    """Write `src/condvae/bundled/NAME`."""
    folder = BUNDLED / name
    shutil.rmtree(folder, ignore_errors=True)
    trained = load(run, "cpu")
    recipe = load_recipe(name)
    about = f"{recipe.about}; trained on {Path(trained.config.data.source).name}"
    config = replace(trained.config, data=recipe.data, about=about)
    pack(replace(trained, config=config), folder, name)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    weights, described = read_tensors(folder / MODEL, "")
    halves = {key: w.half() if w.is_floating_point() else w for key, w in weights.items()}
    write_tensors(folder / MODEL, halves, described)
    (folder / "evaluation.json").unlink(missing_ok=True)
    if evaluation:
        found = json.loads(Path(evaluation).read_text("utf-8"))
        write_json(folder / "evaluation.json", found | {"run": name})
    write_text(folder / CARD, card_of(load(folder, "cpu"), name))
    size = sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file())
    print(f"{', '.join(bundled())}: {size:,} bytes together, of at most {MOST_BYTES:,}")
    if size > MOST_BYTES:
        sys.exit("too large")


if __name__ == "__main__":
    main(*sys.argv[1:])
