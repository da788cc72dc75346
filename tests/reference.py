"""The parts of docs/ that are made from the code, so that they cannot go stale: a test compares them.

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
    "trainer.export": "trainer.export",
    "trainer.import_weights": "trainer.import_weights",
    "trainer.timeline": "trainer.timeline",
    "trainer.scaling": "trainer.scaling",
    "trainer.experiments relu-vs-tanh": "trainer.experiments.relu_tanh",
    "trainer.experiments ablations": "trainer.experiments.ablations",
}
"""Commands, and the modules whose `Arguments` or `Settings` are their flags."""


def helps(kind: type) -> dict[str, str]:
    """Each field's docstring: the string that stands below it in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found, name = {}, None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name], name = " ".join(str(node.value.value).split()), None
    return found


def plain(value: Any) -> str:
    """A value as it is typed, or as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def default(field: dataclasses.Field[Any]) -> Any:
    """What a field is without its flag; an empty tuple where it must be given."""
    return () if field.default is dataclasses.MISSING else field.default


def rows(kind: type, defaults: Any) -> list[str]:
    """A line of a table for each field that is a flag."""
    said, hints, lines = helps(kind), get_type_hints(kind, include_extras=True), []
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
        text = said[field.name].replace("|", "\\|")
        value = plain(getattr(defaults, field.name) if defaults else default(field))
        lines.append(f"| {typed} | {value} | {text} |")
    return lines


def switches() -> str:
    """docs/switches.md."""
    lines = [
        "# Every switch",
        "",
        MARK,
        "",
        "`--help` of each command shows the same, with the defaults of the recipe that is named. A yes-or-no",
        "flag is turned off by `--no-`. `snakemake preprocess` takes its settings after `--config`;",
        "`preprocess/config.yaml` lists them with what they do.",
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
        said = (action.help or "").removesuffix(" (default: %(default)s)")
        lines.append(f"| `{action.option_strings[0]}` | {plain(action.default)} | {said} |")
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """The table of docs/recipes.md: what is not the same in all three recipes."""
    lines = ["| | `paper` | `cuda-convnet` | `auto` | |", "|---|---|---|---|---|"]
    for part in ("network", "augment", "optim"):
        kind = type(getattr(PAPER, part))
        said = helps(kind)
        for field in dataclasses.fields(kind):
            values = [plain(getattr(getattr(r, part), field.name)) for r in (PAPER, CUDA_CONVNET, AUTO)]
            if len(set(values)) > 1:
                flag = field.name.replace("_", "-")
                lines.append(f"| `--{flag}` | {' | '.join(values)} | {said[field.name]} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """docs/recipes.md with its table made anew: it stands between the mark and the next heading."""
    before, after = page.split(MARK)
    return f"{before}{MARK}\n\n{recipes()}\n{after[after.index('## ') :]}"


if __name__ == "__main__":
    SWITCHES.write_text(switches())
    RECIPES.write_text(with_table(RECIPES.read_text()))
