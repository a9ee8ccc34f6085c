"""The rules that keep the project simple, held by machine: floors, sizes, and who may print."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "utils").rglob("*.py"))
SCRIPTS = sorted([*ROOT.glob("*.py"), *(ROOT / "data").glob("*.py")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MODULE_LINES = 400
FUNCTION_LINES = 60
SCRIPT_LINES = 50
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Full names of everything a file imports: `from a.b import c` is a.b.c."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{_absolute(path, node)}.{alias.name}" for alias in node.names)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    """The module that an import names, in full: `from ..errors` in utils/pruning/fold.py is utils.errors."""
    if not node.level:
        return node.module or ""
    parts = path.relative_to(ROOT).parent.parts
    base = parts[: len(parts) - node.level + 1]
    assert base, f"{path}: the import leaves the package"
    return ".".join([*base, *([node.module] if node.module else [])])


def test_relative_imports_are_resolved() -> None:
    path = ROOT / "utils" / "pruning" / "fold.py"
    found = {name for name in imported(path) if name.startswith("utils.")}
    assert "utils.pruning.channels.ChannelGraph" in found


def calls(path: Path, name: str) -> Iterator[ast.Call]:
    """Calls of a dotted name such as `torch.load` or `print`."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            yield node


def all_files(*groups: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Check every file in one test, which names those that fail."""

    def decorated(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            failed = []
            for path in (path for group in groups for path in group):
                try:
                    check(path)
                except AssertionError as error:
                    failed.append(f"{name_of(path)}: {error}")
            assert not failed, "\n".join(failed)

        return test

    return decorated


def test_imports_go_down_only() -> None:
    """In a process of its own: import-linter sets up logging, which would silence this one's loggers."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_a_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    on_a_floor = {name.strip(" ()") for floor in floors for name in floor.split("|")}
    here = {
        path.stem
        for path in (ROOT / "utils").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {f"utils.{name}" for name in here - {"__init__"}} <= on_a_floor


@all_files(SCRIPTS)
def test_scripts_reach_only_for_the_command_line(path: Path) -> None:
    allowed = ["utils.cli."]
    if path.stem == "models":
        allowed = ["utils.darknet."]
    if path.stem == "slim":
        allowed = ["utils.frontends.", "utils.pruning."]
    own = [name for name in imported(path) if name.startswith("utils")]
    assert [name for name in own if not name.startswith(tuple(allowed))] == []


@all_files(EXAMPLES)
def test_examples_reach_only_for_slim(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert tops - sys.stdlib_module_names <= {
        "torch",
        "slim",
        "examples",
        "rich",
        "sklearn",
        "tqdm",
        "ultralytics",
    }


@all_files(SCRIPTS)
def test_scripts_are_a_manual_a_parser_and_a_call(path: Path) -> None:
    assert ast.get_docstring(parse(path))
    assert len(path.read_text().splitlines()) <= SCRIPT_LINES


@all_files(sorted((ROOT / "utils/pruning").rglob("*.py")))
def test_the_engine_knows_no_fx(path: Path) -> None:
    assert not [name for name in imported(path) if name.startswith("torch.fx")]


@all_files(PACKAGE, SCRIPTS, EXAMPLES, TESTS)
def test_names_are_imported_one_by_one(path: Path) -> None:
    assert not [name for name in imported(path) if name.endswith(".*")]


HELPERS = [path for path in TESTS if not path.name.startswith("test_")]
LONGEST_NAME = 69


@all_files(TESTS)
def test_test_names_are_short(path: Path) -> None:
    functions = (node.name for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef))
    assert [name for name in functions if name.startswith("test_") and len(name) > LONGEST_NAME] == []


@all_files(TESTS)
def test_what_tests_share_is_in_a_conftest_or_a_helper_module(path: Path) -> None:
    shared = {".".join(helper.relative_to(ROOT).with_suffix("").parts) for helper in HELPERS}
    foreign = [name for name in imported(path) if name.startswith("tests.")]
    assert [name for name in foreign if not {name, name.rpartition(".")[0]} & shared] == []
    assert [name for name in foreign if ".conftest" in name] == []


@all_files(TESTS)
def test_tests_patch_no_private_members(path: Path) -> None:
    patched = [
        str(argument.value)
        for name in ("monkeypatch.setattr", "monkeypatch.delattr")
        for call in calls(path, name)
        for argument in call.args[:2]
        if isinstance(argument, ast.Constant)
    ]
    private = re.compile(r"(?:^|\.)_(?!_)")
    assert [target for target in patched if private.search(target)] == []


def test_models_offers_just_what_users_write() -> None:
    tree = parse(ROOT / "models.py")
    values = [
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    ]
    assert [sorted(value) for value in values] == [["Darknet", "convert", "load_weights", "save_weights"]]


@all_files([path for path in PACKAGE if "commands" not in path.parts and path.stem != "cli"])
def test_only_commands_print(path: Path) -> None:
    assert not list(calls(path, "print"))


@all_files(PACKAGE, SCRIPTS, EXAMPLES)
def test_modules_are_one_idea_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


@all_files(PACKAGE, SCRIPTS, EXAMPLES)
def test_functions_fit_one_look(path: Path) -> None:
    functions = [n for n in ast.walk(parse(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno}
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


@all_files(PACKAGE, SCRIPTS, EXAMPLES)
def test_devices_come_from_tensors(path: Path) -> None:
    moves = [
        n
        for n in ast.walk(parse(path))
        if isinstance(n, ast.Attribute) and n.attr == "cuda" and ast.unparse(n) != "torch.cuda"
    ]
    assert not moves


@all_files(PACKAGE, SCRIPTS, EXAMPLES, TESTS)
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [word for word in UNFINISHED if word in text] == []


def requirements(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


def test_requirements_are_pinned_names_from_the_users_own_index() -> None:
    user, developer = requirements("requirements.txt"), requirements("requirements-dev.txt")
    assert developer[0] == "-r requirements.txt"
    assert [line for line in user + developer[1:] if line.count("==") != 1 or "/" in line] == []


def test_what_the_package_imports_is_required() -> None:
    """`make demo` must work where only requirements.txt was installed."""
    packages = {"cv2": "opencv-python-headless", "faster_coco_eval": "faster-coco-eval"}
    required = {line.split("==")[0] for line in requirements("requirements.txt")}
    own = {"utils", "__future__"} | {path.stem for path in SCRIPTS}
    tops = {name.split(".")[0] for path in (*PACKAGE, *SCRIPTS) for name in imported(path)}
    optional = {"scipy"}  # of data/get_oxford_hand.py alone, which names the pip line
    foreign = tops - own - optional - set(sys.stdlib_module_names)
    assert {packages.get(name, name) for name in foreign} <= required
