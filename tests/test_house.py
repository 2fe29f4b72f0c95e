"""The rules of the layout (docs/architecture.md): floors, rooms, verbs and words."""

import ast
import collections
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import groundup

SOURCE = Path(groundup.__file__).parent
# From the ground up. A module imports from its own line and the lines above it only.
FLOORS = (
    "errors version",
    "system",
    "config",
    "display",
    "text",
    "tokenizer",
    "record",
    "data",
    "nn",
    "optim",
    "account",
    "generation",
    "train",
    "interop",
    "language_model",
    "terminal",
    "evaluation",
    "sweeps",
    "studies.tokenizer_report",
    "reports",
    "studies",
    "serve",
    "cli",
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
# The rooms above nn need torch, account only when it counts; data.batches is the one module below that does.
WITHOUT_TORCH = "errors version system config display text tokenizer account record data".split()
MOST_FILES = 15


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name without ``groundup.``, parsed."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports_of(name: str, *, at_import: bool = False) -> set[str]:
    """Modules of the package that a module imports; ``at_import`` leaves out those imported inside functions."""
    found: set[str] = set()
    skipped = set()
    for node in ast.walk(MODULES[name]):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        if at_import and (later or node in skipped):
            skipped.update(ast.iter_child_nodes(node))
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "groundup":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("groundup.")
                found.add(whole if whole in MODULES else node.module.removeprefix("groundup").lstrip("."))
        elif isinstance(node, ast.Import):
            ours = (alias.name for alias in node.names if alias.name.split(".")[0] == "groundup")
            found.update(name.removeprefix("groundup").lstrip(".") for name in ours)
    return found & MODULES.keys()


def floor_of(name: str) -> int:
    while name and name not in FLOOR_OF:
        name = name.rpartition(".")[0]
    return FLOOR_OF[name]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("", "__main__")])
def test_imports_point_down(name: str) -> None:
    above = [other for other in imports_of(name) if other and floor_of(other) > floor_of(name)]
    assert not above


def test_no_imports_run_in_a_circle() -> None:
    waiting = {name: imports_of(name, at_import=True) - {name} for name in MODULES}
    while free := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_what_lies_below_the_model_does_not_load_torch() -> None:
    names = [name for name in MODULES if name.split(".")[0] in WITHOUT_TORCH and name != "data.batches"]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module('groundup.' + name)\n"
    code += "print([name for name in ('torch',) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


VERBS = [name for name in MODULES if name.startswith("cli.")]
SHARED_BY_VERBS = {"cli.main", "cli.parse", "cli.flags", "cli.model.generating"}
MOST_LINES_OF_A_VERB = 80


@pytest.mark.parametrize("name", [name for name in VERBS if name not in SHARED_BY_VERBS])
def test_a_verb_is_thin_and_imports_no_other(name: str) -> None:
    others = {other for other in imports_of(name) if other.startswith("cli.")} - SHARED_BY_VERBS
    assert not others
    assert code_lines(MODULES[name]) < MOST_LINES_OF_A_VERB


def code_lines(tree: ast.Module) -> int:
    """Lines of code: neither blank, nor comment, nor docstring."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            continue
        if isinstance(node, ast.stmt):
            bodies = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            last = bodies[0].lineno - 1 if bodies else node.end_lineno or node.lineno
            lines.update(range(node.lineno, last + 1))
    return len(lines)


# Words that the glossary replaced, and where one of them still is what it says.
REPLACED = {
    r"\bsitting": "session",
    r"\bmatrix products?\b|\bsame.products?\b|\bproducts?, GFLOP": "matmul",
    r"\bone_pass\b|\.passes\(": "micro-batch",
    r"comes apart|come apart|is no number\b": "diverged, non-finite",
    r"\bmade when needed\b": "cached",
    r"\btext to measure on\b": "validation split",
    r"\bwhoever\b|\bnobody\b": "the reader, the user, no one",
    r"\bof its own\b": "its own",
    r"\bby the clock\b": "elapsed time",
    r"\bso many\b|\bby then\b": "the number, the time",
}


@pytest.mark.parametrize("pattern", REPLACED)
def test_words_have_one_meaning(pattern: str) -> None:
    found = []
    root = SOURCE.parents[1]
    prose = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    for path in sorted([*SOURCE.rglob("*.py"), *(root / "benchmarks").glob("*.py"), *prose]):
        if path.parts[-2] == "stories":  # the stories are told in their own words
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(pattern, line, re.IGNORECASE):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    assert not found, f"write {REPLACED[pattern]!r}:\n" + "\n".join(found)


def test_no_folder_is_too_full() -> None:
    counts = collections.Counter(str(path.parent.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize(
    ("way", "files", "switches"),
    [("a plain step", 13, 45), ("train before its first step", 39, 440), ("sweep before it trains", 39, 395)],
)
def test_the_way_through_stays_short(way: str, files: int, switches: int, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "house.py"
    done = subprocess.run(
        [sys.executable, script, "--way", way], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (0 < found["files"] <= files, 0 < found["switches"] <= switches) == (True, True), found
