"""The rooms keep to their floors, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "condvae"
FLOORS = {
    **dict.fromkeys(("errors", "registry", "files", "config", "progress", "recipes"), 0),
    **dict.fromkeys(("probability", "data"), 1),
    "models": 2,
    **dict.fromkeys(("objectives", "run"), 3),
    **dict.fromkeys(("training", "evaluation", "figures", "exports"), 4),
    **dict.fromkeys(("verbs", "sklearn"), 5),
    "explorer": 6,
    "cli": 7,
    "__main__": 8,
}
APART = [("data", "models"), ("data", "probability"), ("probability", "data"), ("models", "data")]
"""Rooms that know nothing of each other, whatever their floors."""


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(file: Path) -> list[str]:
    """condvae's modules that a file imports, wherever in it, but not those for types alone."""
    tree = ast.parse(file.read_text("utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.startswith("condvae.")]


@pytest.mark.parametrize(
    "file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT))
)
def test_a_room_imports_only_from_its_own_or_from_below(file: Path) -> None:
    here = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for name in imports(file):
        there = room(name)
        if there == here or there not in FLOORS:
            continue
        below = FLOORS[there] < FLOORS[here] or FLOORS[here] == 0
        assert below, f"{here} imports {name} from a floor that isn't below it"
        assert (here, there) not in APART, f"{here} is to know nothing of {there}"


def test_models_are_reached_through_the_protocol() -> None:
    allowed = {"condvae.models.protocol", "condvae.models.classifier"}
    for file in (*(ROOT / "evaluation").glob("*.py"), *(ROOT / "figures").glob("*.py")):
        for name in imports(file):
            if room(name) == "models":
                assert name.rsplit(".", 1)[0] in allowed, f"{file.name} imports {name}"


def test_nothing_unpickles() -> None:
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "pickle.load", "pickle.loads", "eval", "exec"), file
                if called in ("np.load", "numpy.load"):
                    words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert words.get("allow_pickle") == "False", f"{file}:{node.lineno}"
