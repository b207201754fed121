"""The README's commands are right: all parse, and those on the package's digits run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from condvae import cli
from condvae.config import load_recipe

README = Path(__file__).parents[1] / "README.md"


def code(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    """Every `condvae ...` line of the README's shell blocks, without the first word."""
    joined = "\n".join(code("sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "condvae"]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_parses(words: list[str]) -> None:
    verb, rest = cli.verb_of(words)
    if verb == "train":
        begun = load_recipe(rest[0])
        cli.parse(cli.Train, rest[1:], "condvae train", default=cli.Train(config=begun))
    else:
        kind, _ = cli.VERBS[verb]
        cli.parse(kind, rest, f"condvae {verb}", config=(cli.OmitArgPrefixes,))


def test_every_verb_and_recipe_is_told_of() -> None:
    text = README.read_text("utf-8")
    from condvae.config import recipe_names

    assert all(f"condvae {verb}" in text for verb in cli.VERBS)
    assert all(f"`{name}`" in text for name in recipe_names())


def test_every_linked_file_is_there() -> None:
    documents = [README, *sorted((README.parent / "docs").glob("*.md"))]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_make_targets_that_are_told_of_exist() -> None:
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code("sh")))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.slow
def test_the_quick_start_runs_as_written(tmp_path: Path) -> None:
    """In an empty folder, in order: train (a minute and a half), swap, evaluate, sample, and Python."""
    short = [words for words in commands() if any("mnist-sample" in word for word in words)]
    assert {words[0] for words in short} >= {"train", "swap", "evaluate", "sample", "data"}
    for words in short:
        done = subprocess.run(
            [sys.executable, "-m", "condvae", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    for snippet in code("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    import json

    found = json.loads((tmp_path / "runs/mnist-sample/evaluation.json").read_text("utf-8"))
    assert found["swap_accuracy"] >= 0.90 and found["sample_accuracy"] >= 0.90
