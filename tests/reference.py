"""Make the parts of docs/ that come from the code. A test compares them with the code.

python -m tests.reference     writes docs/switches.md and the table in docs/recipes.md
"""

import ast
import dataclasses
import importlib
import inspect
import textwrap
from typing import Any, get_args, get_type_hints

from tests.launch import ROOT
from trainer.config import GROUPS, Config
from trainer.config import flag as flag_of
from trainer.doctor.__main__ import parser
from trainer.recipes import AUTO, CUDA_CONVNET, PAPER

SWITCHES, RECIPES = ROOT / "docs" / "switches.md", ROOT / "docs" / "recipes.md"
MARK = "<!-- made by: python -m tests.reference -->"

COMMANDS = {
    "trainer.evaluate": "trainer.evaluate",
    "trainer.watch": "trainer.watch",
    "trainer.figures": "trainer.figures.__main__",
    "trainer.predict": "trainer.predict",
    "trainer.features": "trainer.features",
    "trainer.export": "trainer.export",
    "trainer.import_weights": "trainer.import_weights",
    "trainer.timeline": "trainer.timeline",
    "trainer.scaling": "trainer.scaling",
    "trainer.experiments relu-vs-tanh": "trainer.experiments.relu_tanh",
    "trainer.experiments ablations": "trainer.experiments.ablations",
    "trainer.experiments repeat": "trainer.experiments.repeat",
}
"""Command -> the module whose `Arguments` or `Settings` has its flags."""


def helps(kind: type) -> dict[str, str]:
    """Map each field of a dataclass to its docstring: the string below it in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    above = kind.__mro__[1]
    found, name = helps(above) if dataclasses.is_dataclass(above) else {}, None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name], name = " ".join(str(node.value.value).split()), None
    return found


def plain(value: Any) -> str:
    """Format a value as in the cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def default(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; an empty tuple where it has none."""
    return () if field.default is dataclasses.MISSING else field.default


def rows(kind: type, defaults: Any) -> list[str]:
    """Make a row of a table for each field that is a flag."""
    docs, hints, lines = helps(kind), get_type_hints(kind, include_extras=True), []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type) or dataclasses.is_dataclass(hints[field.name]):
            continue
        flag = flag_of(field.name)[2:]
        positional = "Positional" in repr(hints[field.name])
        choices = [str(a) for a in get_args(hints[field.name]) if isinstance(a, str)]
        typed = flag.upper() if positional else f"--{flag}"
        if hints[field.name] is bool:
            typed += f", --no-{flag}"
        typed = f"`{typed}`" + (f" {', '.join(choices)}" if choices else "")
        text = docs[field.name].replace("|", "\\|")
        value = plain(getattr(defaults, field.name) if defaults else default(field))
        lines.append(f"| {typed} | {value} | {text} |")
    return lines


def switches() -> str:
    """Make docs/switches.md."""
    lines = [
        "# Every flag",
        "",
        MARK,
        "",
        "`--help` of each command shows the same, with the defaults of the recipe that is given. `--no-FLAG`",
        "turns a yes-or-no `--FLAG` off. `snakemake preprocess` takes its settings after `--config`;",
        "`preprocess/config.yaml` lists and explains them.",
    ]
    doctor = parser()
    head = ["", "| flag | default | |", "|---|---|---|"]

    lines += ["", "## python -m trainer.run", *head, *rows(Config, AUTO)]
    for part, group in GROUPS.items():
        lines += ["", f"**{part}**: {inspect.getdoc(group).splitlines()[0]}"]
        lines += [*head, *rows(group, getattr(AUTO, part))]
    for command, module in COMMANDS.items():
        found = importlib.import_module(module)
        kind = getattr(found, "Arguments", None) or found.Settings
        lines += ["", f"## python -m {command}", "", inspect.getdoc(kind).splitlines()[0]]
        lines += [*head, *rows(kind, None)]
    lines += ["", "## python -m trainer.doctor", "", str(doctor.description), *head]
    for action in doctor._actions[1:]:  # after --help
        text = (action.help or "").removesuffix(" (default: %(default)s)")
        lines.append(f"| `{action.option_strings[0]}` | {plain(action.default)} | {text} |")
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """Make the table of docs/recipes.md: the settings that differ between the three recipes."""
    lines = ["| | `paper` | `cuda-convnet` | `auto` | |", "|---|---|---|---|---|"]
    for part in ("network", "augment", "optim"):
        kind = type(getattr(PAPER, part))
        docs = helps(kind)
        for field in dataclasses.fields(kind):
            values = [plain(getattr(getattr(r, part), field.name)) for r in (PAPER, CUDA_CONVNET, AUTO)]
            if len(set(values)) > 1:
                flag = field.name.replace("_", "-")
                lines.append(f"| `--{flag}` | {' | '.join(values)} | {docs[field.name]} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Replace the table of docs/recipes.md, which is between the mark and the next heading."""
    before, after = page.split(MARK)
    return f"{before}{MARK}\n\n{recipes()}\n{after[after.index('## ') :]}"


if __name__ == "__main__":
    SWITCHES.write_text(switches())
    RECIPES.write_text(with_table(RECIPES.read_text()))
