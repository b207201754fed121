"""The commands of all documents are right: all parse, and the README's on the package's digits run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import condvae
from condvae import cli
from condvae.config import load_recipe

README = Path(__file__).parents[1] / "README.md"
DOCS = sorted((README.parent / "docs").glob("*.md"))


def code(language: str, document: Path = README) -> list[str]:
    """A document's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text("utf-8"), re.DOTALL)


def commands(*documents: Path) -> list[list[str]]:
    """Every `condvae ...` line of documents' shell blocks, without the first word."""
    blocks = [block for document in documents or (README,) for block in code("sh", document)]
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "condvae"]


@pytest.mark.parametrize("words", commands(README, *DOCS), ids=" ".join)
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
    for document in (README, README.parent / "CONTRIBUTING.md", *DOCS):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_make_targets_that_are_told_of_exist() -> None:
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code("sh")))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(
        r"^ +- .*?([a-z-]+\.md)$", (README.parent / "mkdocs.yml").read_text("utf-8"), re.M
    )
    assert sorted(listed) == [document.name for document in DOCS]


def test_the_reference_names_what_there_is() -> None:
    from pkgutil import resolve_name

    names = re.findall(r"^::: (\S+)$", (README.parent / "docs/reference.md").read_text("utf-8"), re.M)
    assert len(names) > 15
    for name in names:
        module, _, member = name.rpartition(".")
        assert resolve_name(f"{module}:{member}").__doc__, name


def test_the_prior_that_is_added_in_the_guide_works(tmp_path: Path) -> None:
    block = code("python", README.parent / "docs/adding-a-prior.md")[0]
    check = """
from condvae.models.conditional_vae import ConditionalVAE
torch.manual_seed(0)
prior = Laplace(2, 3, spread=2.0)
line = torch.linspace(-60, 60, 4001)
density = prior.log_prob(torch.stack([line, 0 * line], 1), torch.zeros(4001, dtype=torch.int64))
at_zero = math.log(1 / (2 * prior.width))
assert abs(torch.logsumexp(density - at_zero, 0) + math.log(0.03)) < 1e-3
draws = prior.draw(torch.zeros(50_000, dtype=torch.int64), 1.0, None)
assert abs(draws.std() - 2) < 0.05
model = ConditionalVAE((1, 8, 8), 3, prior="laplace(spread=2.0)", network="mlp(widths=[16])", latents=2)
x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
assert model.elbo(x, torch.arange(4) % 3).value.isfinite().all()
"""
    done = subprocess.run([sys.executable, "-c", block + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_guides_python_runs_as_written(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "runs" / "mnist-sample")
    condvae.evaluate(tmp_path / "runs" / "mnist-sample", samples=1, labels=False, quiet=True)
    for document in DOCS:
        for block in code("python", document):
            done = subprocess.run(
                [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{document.name}: {done.stderr}"


@pytest.mark.long
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
