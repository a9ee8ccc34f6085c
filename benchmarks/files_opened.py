"""How many files does one read to follow a command? Those with a function that ran, and other measures.

    python benchmarks/files_opened.py
    python benchmarks/files_opened.py --root /path/to/checkout --names

Three runs of README.md in a copy of the checkout, each in processes whose every call is looked at:
    train       python train.py -sr --s 0.001 --prune 1 --epochs 1
    slim_prune  python slim_prune.py --global_percent 0.8 --layer_keep 0.01
    slim        the call of `slim()` on MobileNetV2
Counted are files of utils/ and the scripts beside it of which at least one function ran, in any thread or
worker process. What runs because a file is imported, its body and those of its classes, counts for nothing,
nor do errors.py and files.py. Beside them, from the text alone:
    commands          .py files directly in utils/commands
    args_functions    functions in utils with a parameter `args`, or one that is an argparse.Namespace
    getattr_args      calls of getattr on such a parameter, or on an attribute of that name
    many_parameters   functions in utils with more than 8 parameters, self not counted
    readme_bytes      of README.md
A line for each commit goes to benchmarks/files_opened.csv.
"""

import argparse
import ast
import csv
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from benchmarks.checkouts import SLIM_CALL, commit_of, copy_tree, run_in

TABLE = ROOT / "benchmarks" / "files_opened.csv"
RUNS = {  # in this order: the second prunes what the first trained
    "train": shlex.split("train.py -sr --s 0.001 --prune 1 --epochs 1"),
    "slim_prune": shlex.split("slim_prune.py --global_percent 0.8 --layer_keep 0.01"),
    "slim": ["-c", SLIM_CALL],
}
MOST_PARAMETERS = 8
_PASSED_OVER = frozenset({"errors.py", "files.py"})
# Python imports a module of this name at its start, in the workers as well. The flags tell functions from the
# bodies of modules and classes; a comprehension is part of the function around it.
WITNESS = """
import os, sys, threading
_root, _log = os.environ["OPENED_ROOT"] + os.sep, os.environ["OPENED_LOG"]
_known = {}  # by id, since code of two files may be equal

def _look(frame, event, _argument):
    code = frame.f_code
    if event != "call" or id(code) in _known:
        return
    _known[id(code)] = code
    name = code.co_filename
    if code.co_flags & 2 and code.co_name not in ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"):
        name = os.path.join(os.getcwd(), name)
        if name.startswith(_root):
            with open(_log, "a", encoding="utf-8") as log:
                log.write(name[len(_root):] + chr(10))

threading.setprofile(_look)
sys.setprofile(_look)
"""


def main() -> None:
    """Count, print, write the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout (default: this one)")
    parser.add_argument("--csv", type=Path, default=TABLE, help="where the line goes")
    parser.add_argument("--names", action="store_true", help="tell the files, too")
    args = parser.parse_args()
    root = args.root.resolve()
    opened = files_opened(root)
    commit = commit_of(root)
    figures = {name: len(files) for name, files in opened.items()} | sizes(root)
    table = Table("", commit)
    table.columns[1].justify = "right"
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    for name, files in opened.items() if args.names else ():
        print(f"\n{name}:", *files, sep="\n  ")
    write(args.csv, {"commit": commit} | {name: str(value) for name, value in figures.items()})


def files_opened(root: Path) -> dict[str, list[str]]:
    """For each run the files of which a function ran, in a copy of the checkout.

    Raises:
        RuntimeError: a run fails there.
    """
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        tree, witness = folder / "tree", folder / "witness"
        copy_tree(root, tree)
        witness.mkdir()
        (witness / "sitecustomize.py").write_text(WITNESS, encoding="utf-8")
        for name, words in RUNS.items():
            log = folder / name
            log.touch()
            more = {"PYTHONPATH": str(witness), "OPENED_ROOT": str(tree), "OPENED_LOG": str(log)}
            done = run_in(tree, words, more)
            if done.returncode:
                raise RuntimeError(f"{name}: exit code {done.returncode}: {done.stderr[-2000:]}")
            found[name] = sorted(set(filter(counts, log.read_text(encoding="utf-8").splitlines())))
    return found


def counts(name: str) -> bool:
    """Whether a file is one of utils/ or a script beside it."""
    path = Path(name)
    is_ours = path.parts[0] == "utils" or len(path.parts) == 1
    # neither what Python names <string> nor a template of a page is a module
    return is_ours and path.suffix == ".py" and path.name not in _PASSED_OVER


def sizes(root: Path) -> dict[str, int]:
    """The measures that need no run."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / "utils").rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        "commands": len(list((root / "utils" / "commands").glob("*.py"))),
        "args_functions": sum(any(map(_is_namespace, parameters(one))) for one in functions),
        "getattr_args": sum(_is_getattr_args(node) for node in nodes),
        "many_parameters": sum(len(list(parameters(one))) > MOST_PARAMETERS for one in functions),
        "readme_bytes": (root / "README.md").stat().st_size,
    }


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.arg]:
    """All that a function takes by name, self and cls left out.

    >>> [one.arg for one in parameters(ast.parse("def f(self, a, /, b, *c, d): ...").body[0])]
    ['a', 'b', 'd']
    """
    given = function.args
    for one in (*given.posonlyargs, *given.args, *given.kwonlyargs):
        if one.arg not in ("self", "cls"):
            yield one


def _is_namespace(parameter: ast.arg) -> bool:
    annotation = ast.unparse(parameter.annotation) if parameter.annotation else ""
    return parameter.arg == "args" or "Namespace" in annotation


def _is_getattr_args(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and node.args and ast.unparse(node.func) == "getattr"):
        return False
    return ast.unparse(node.args[0]).split(".")[-1] == "args"


def write(path: Path, row: dict[str, str]) -> None:
    """Put a commit's line at the end of the table, in place of one that is there."""
    rows: Sequence[dict[str, str]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [one for one in csv.DictReader(file) if one["commit"] != row["commit"]]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


if __name__ == "__main__":
    main()
