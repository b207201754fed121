"""The rooms keep to their floors, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "condvae"
FLOORS = {
    **dict.fromkeys(
        ("errors", "registry", "files", "lock", "config", "progress", "recipes", "geometry"), 0
    ),
    **dict.fromkeys(("probability", "data"), 1),
    "models": 2,
    **dict.fromkeys(("objectives", "run", "processes"), 3),
    **dict.fromkeys(("training", "figures", "exports"), 4),
    "evaluation": 5,
    "auditing": 6,
    **dict.fromkeys(("verbs", "sklearn"), 7),
    "explorer": 8,
    "cli": 9,
    "__main__": 10,
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
    measured = {"condvae.models.protocol", "condvae.models.classifier"}
    for file in (
        path for place in ("evaluation", "figures", "auditing") for path in (ROOT / place).glob("*.py")
    ):
        builds = {"condvae.models.families"} if file.parent.name == "auditing" else set()
        allowed = measured | builds
        for name in imports(file):
            if room(name) == "models":
                assert name.rsplit(".", 1)[0] in allowed, f"{file.name} imports {name}"


FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "runpy.run_path", "runpy.run_module", "torch.jit.load", "torch.hub.load"),
    *("np.fromregex", "pd.read_pickle", "joblib.load", "tempfile.mktemp", "pydoc.locate"),
    *("tarfile.TarFile.extractall", "shutil.unpack_archive", "time.time", "datetime.now"),
}
"""What would run what it is given, or write where an archive says, or trust a clock."""
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "subprocess"),
    *("code", "codeop", "runpy", "ctypes", "multiprocessing"),
}
ALLOWED = {("decoding.py", "multiprocessing"), ("memory.py", "ctypes")}
"""Bytes go to processes that were forked off, and arrays come back: nothing from a file is unpickled.
And two functions of the C library that runs already are called, with numbers that stand there."""
FORBIDDEN_METHODS = {"extractall", "extract", "read_pickle", "load_module", "exec_module"}
REQUIRED = {
    "np.load": {"allow_pickle": "False"},
    "numpy.load": {"allow_pickle": "False"},
    "read_array": {"allow_pickle": "False"},
    "torch.load": {"weights_only": "True"},
    "Image.open": {"formats": None},
}
"""Arguments that a call must be given by name, and their values, where they matter."""


def modules(node: ast.AST) -> list[str]:
    """The modules that a statement imports, whatever of them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


@pytest.mark.parametrize(
    "file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT))
)
def test_nothing_runs_what_it_loads(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        here = f"{file.name}:{getattr(node, 'lineno', 0)}"
        for module in modules(node):
            if (file.name, module) not in ALLOWED:
                assert module.split(".")[0] not in FORBIDDEN_MODULES, f"{here} imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in FORBIDDEN_CALLS, f"{here} calls {called}"
        assert called.split(".")[-1] not in FORBIDDEN_METHODS or "." not in called, f"{here}: {called}"
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert words.get("shell", "False") == "False", f"{here}: a shell"
        for name, value in REQUIRED.get(called, {}).items():
            assert name in words and value in (None, words[name]), f"{here}: {called} without {name}"
