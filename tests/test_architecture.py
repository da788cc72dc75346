"""Who may import whom: the drawing in docs/how-it-works.md, held by the imports in the sources."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.launch import ROOT

# A room may import itself and the rooms named here. Files of a package that are not named are commands.
TRAINER = {
    "errors": set(),
    "config": {"errors"},
    "recipes": {"config"},
    "hardware": set(),
    "kernels": {"config", "errors"},
    "model": {"config", "kernels"},
    "parallel": {"errors", "kernels", "model"},
    "data": {"config", "errors", "kernels"},
    "runs": {"config", "data", "errors", "parallel"},
    "evaluation": {"config", "data", "errors", "model", "parallel", "runs"},
    "interchange": {"config", "data", "errors", "evaluation", "model", "recipes", "runs"},
    "training": {"config", "data", "errors", "evaluation", "kernels", "model", "parallel", "recipes", "runs"},
    "cli": {"config", "errors", "evaluation", "parallel", "recipes", "runs"},
    "figures": {"cli", "config", "data", "errors", "evaluation", "model", "runs"},
    "doctor": set(),
}
PREPROCESS = {
    "shared": set(),
    "errors": set(),
    "plan": {"errors", "shared"},
    "containers": {"errors", "plan", "shared"},
    "sources": {"containers", "errors", "plan", "shared"},
    "pictures": {"errors", "plan", "shared"},
    "shards": {"errors", "plan", "shared"},
    "workers": {"containers", "errors", "pictures", "plan", "shards", "shared"},
    "miniature": {"shared"},
    "page": {"shared"},
}
ROOMS = {"trainer": TRAINER, "preprocess": PREPROCESS}
DOORS = {"store", "pictures", "shared"}
"""The parts of preprocess that the trainer may import."""


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for package in ROOMS for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path, *, when_run: bool = False) -> Iterator[str]:
    """The modules that a file imports; `when_run`: without those for type checkers alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if when_run and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                extension = (ROOT / inner.replace(".", "/")).with_suffix(".pyi")
                yield inner if inner in FILES or extension.exists() else node.module


def room(module: str) -> str | None:
    """The room of a module of either package; None for a command."""
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    return first if first in ROOMS[package] else None


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_the_rooms_below_them(package):
    wrong = []
    for module, path in FILES.items():
        own = room(module)
        if not module.startswith(f"{package}.") or own is None:
            continue
        for found in imports(path):
            if found.startswith(f"{package}."):
                theirs = room(found)
                if theirs != own and theirs not in ROOMS[package][own]:
                    wrong.append(f"{module} imports {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ROOMS)
def test_the_rooms_have_an_order(package):
    TopologicalSorter(ROOMS[package]).prepare()  # raises CycleError


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {found for found in imports(path, when_run=True) if found in FILES and found != module}
        for module, path in FILES.items()
    }
    TopologicalSorter(graph).prepare()


def test_preprocessing_knows_nothing_of_training():
    found = [
        f"{module} imports {name}"
        for module, path in FILES.items()
        if module.startswith("preprocess")
        for name in imports(path)
        if name.split(".")[0] == "trainer"
    ]
    assert not found, "\n".join(found)


def test_the_trainer_enters_preprocessing_by_its_doors():
    found = [
        f"{module} imports {name}"
        for module, path in FILES.items()
        if module.startswith("trainer")
        for name in imports(path)
        if name.split(".")[0] == "preprocess" and name.split(".")[1] not in DOORS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("mpi4py", {"parallel"}),  # the doctor looks at it in a process of its own
        ("numba", {"kernels"}),
        ("triton", {"kernels"}),
    ],
)
def test_a_library_is_imported_by_one_room(library, rooms):
    found = {
        room(module) or module
        for module, path in FILES.items()
        if module.startswith("trainer") and library in {name.split(".")[0] for name in imports(path)}
    }
    assert found == rooms


def test_the_model_imports_the_kernels_door_and_no_backend():
    of_model = [name for m, path in FILES.items() if m.startswith("trainer.model") for name in imports(path)]
    assert {name for name in of_model if "kernels" in name} == {"trainer.kernels"}


def test_commands_are_few():
    """The tree is the map: a file directly in a package is a command, configuration or a door."""
    assert len(list((ROOT / "trainer").glob("*.py"))) <= 20
    assert len(list((ROOT / "preprocess").glob("*.py"))) <= 13
