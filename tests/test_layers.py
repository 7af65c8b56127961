"""Data flows one way: a module imports only from what stands above its own in this list."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import discover

ROOT = Path(discover.__file__).parent
# fmt: off
ORDER = [
    "errors", "storage", "user_files", "statistics", "choices", "schema", "config", "folder", "model", "perturb", "bank",
    "search", "steer", "contrast", "read", "audit", "report", "organisms", "inputs", "pilot", "pipeline", "bench", "verbs",
    "cli", "__main__",
]
# fmt: on


def imported(source: str) -> set[str]:
    """Dotted names below `discover` that a module imports, anywhere in its text, without the `discover.` before them."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.update([f"discover.{alias.name}" for alias in node.names] if node.module == "discover" else [node.module])
    return {name.removeprefix("discover.") for name in names if name.startswith("discover.")}


def check(modules: dict[str, set[str]]) -> None:
    """Raise where a module imports from below its own place, or where imports form a circle."""
    for module, names in modules.items():
        for name in names:
            place, own = ORDER.index(name.split(".")[0]), ORDER.index(module.split(".")[0])
            assert place < own or (place == own and "." in module), f"{module} imports {name}, which stands below it"
    TopologicalSorter(modules).prepare()


def test_imports_go_one_way():
    paths = [path for path in ROOT.rglob("*.py") if path.name != "__init__.py"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    modules = {name: imported(path.read_text(encoding="utf-8")) for name, path in zip(names, paths, strict=True)}
    assert "search.solvers" in modules and "perturb.sphere" in modules["search.solvers"]
    check(modules)


def test_the_check_sees_what_it_must():
    source = "def late():\n    from discover.read.signals import words\nfrom discover import bank\nimport discover.errors, torch"
    assert imported(source) == {"read.signals", "bank", "errors"}
    check({"read.modes": {"read.signals", "errors"}, "read.signals": {"steer.generation"}})
    with pytest.raises(AssertionError, match=r"model.hooks imports search.chunks, which stands below it"):
        check({"model.hooks": {"search.chunks"}})
    with pytest.raises(CycleError):
        check({"read.modes": {"read.signals"}, "read.signals": {"read.modes"}})


def test_packages_hold_no_code_of_their_own():
    for path in ROOT.rglob("__init__.py"):
        assert not imported(path.read_text(encoding="utf-8")), path
