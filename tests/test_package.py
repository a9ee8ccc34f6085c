"""The package as users install it, under its own name and beside their own packages.

The wheel is built once a session, from the tracked files alone. Installed, the package is `netslim`; here it
is `utils`. One process uses one of the names, so `netslim` is tested in processes of its own.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.project import CFG, DATA, FILES
from utils import cli, extras
from utils.darknet.cfg import STOCK_CFGS
from utils.errors import CfgError

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = PROJECT["tool"]["setuptools"]
SCRIPTED = [name for name in cli.COMMANDS if name != "demo"]


def tracked(*patterns: str) -> list[str]:
    """Files that a clean clone has, as paths below the project's folder."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone, which knows its tracked files")
    done = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def leftovers() -> set[str]:
    return {path.name for name in ("build", "dist", "*.egg-info") for path in ROOT.glob(name)}


def install(base: Path) -> None:
    """Build the wheel from a copy of the tracked files and install it into `base`/site."""
    source = base / "clone"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    words = ["--no-build-isolation", "--no-deps", "--no-index", "--no-compile", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *words]
    subprocess.run([*pip, "--target", str(base / "site"), str(source)], cwd=base, check=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed in, by the first of several test processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    base = base / "wheel"
    try:
        base.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 120
        while not (base / "done").exists():
            assert time.monotonic() < deadline, "another test process did not build the wheel"
            time.sleep(0.2)
    else:
        before = leftovers()
        install(base)
        assert leftovers() == before
        (base / "done").touch()
    return base / "site"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A user's folder whose packages have the names of a checkout's folders."""
    for name in ("utils", "models", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "models/networks.py").write_text(
        "from torch import nn\n"
        "def network():\n"
        "    body = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()\n"
        "    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))\n"
    )
    return tmp_path


def python(folder: Path, *words: str, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with these folders to import from."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def printed(folder: Path, *words: str, path: tuple[Path, ...] = (), code: int = 0) -> str:
    """What a process prints that ends with this exit code."""
    done = python(folder, *words, path=path)
    assert done.returncode == code, done.stderr
    return done.stdout


# --- what the wheel holds


def test_packages_and_data_are_listed_whole() -> None:
    found = {Path(name).parent for name in tracked("utils") if name.endswith("__init__.py")}
    packages = {".".join(["netslim", *path.parts[1:]]) for path in found}
    assert sorted(SETTINGS["packages"]) == sorted([*packages, "netslim.cfg"])
    cfgs = [Path(name).name for name in tracked("cfg")]
    assert sorted(SETTINGS["package-data"]["netslim.cfg"]) == sorted(STOCK_CFGS) == sorted(cfgs)


def test_the_wheel_holds_the_tracked_files_of_the_package_and_no_other(site: Path) -> None:
    installed = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    own = {name for name in installed if name.startswith("netslim/") and "__pycache__" not in name}
    names = [re.sub("^utils", "netslim", name) for name in tracked("utils")]
    assert own == {*names, *(f"netslim/{name}" for name in tracked("cfg"))}
    assert {name.split("/")[0] for name in installed} - {"bin", "Scripts"} == {
        "netslim", f"netslim-{cli_version()}.dist-info"
    }  # fmt: skip


def cli_version() -> str:
    source = (ROOT / "utils/__init__.py").read_text()
    return re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE)[0]


# --- beside a user's own packages


def test_a_network_is_pruned_beside_packages_of_the_same_names(site: Path, foreign: Path) -> None:
    (foreign / "prune_mine.py").write_text(
        "import torch, data, models, utils\n"
        "from models.networks import network\n"
        "from netslim import Plan, apply_plan, load, slim\n"
        "images = torch.rand(2, 3, 16, 16)\n"
        "result = slim(network().eval(), images[:1], ratio=0.5, score='l1', align=1)\n"
        "again = apply_plan(network().eval(), Plan.from_json(result.plan.to_json()))\n"
        "load(again, result.model.state_dict())\n"
        "assert torch.equal(again(images), result.model(images))\n"
        "assert data.MINE and models.MINE and utils.MINE\n"
        "print(again[0].out_channels, again[3].out_channels)\n"
    )
    assert printed(foreign, "prune_mine.py", path=(site,)) == "8 4\n"


def test_the_program_lists_its_commands(site: Path, foreign: Path) -> None:
    program = shutil.which("netslim", path=os.pathsep.join([str(site / "bin"), str(site / "Scripts")]))
    assert program
    environment = os.environ | {"PYTHONPATH": str(site)}

    def answer(*words: str) -> str:
        line = [program, *words]
        return subprocess.run(
            line, cwd=foreign, env=environment, capture_output=True, text=True, check=True
        ).stdout

    listed = answer("--help")
    assert all(name in listed for name in cli.COMMANDS)
    assert answer("slim-prune", "--help").startswith("usage: netslim slim-prune [-h]")
    assert printed(foreign, "-m", "netslim", "--version", path=(site,)) == f"netslim {cli_version()}\n"


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    answers = {
        "slim-prun": "did you mean 'slim-prune'?",
        "data get_vok": "did you mean 'data get-voc'?",
        "xyz": "netslim --help lists the commands",
    }
    for typed, answer in answers.items():
        with pytest.raises(SystemExit) as stop:
            cli.main(typed.split())
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"error: {typed}: unknown command; {answer}\n"
    with pytest.raises(SystemExit):
        cli.main(["data"])
    assert "use one of data convert, data get-voc, data get-oxford-hand" in capsys.readouterr().err


# --- the public names


def test_every_public_name_is_the_same_after_all_modules_are_imported(site: Path, foreign: Path) -> None:
    code = (
        "import importlib, pkgutil, sys, types, netslim\n"
        "assert set(netslim.__all__) <= set(dir(netslim))\n"
        "first = {name: getattr(netslim, name) for name in netslim.__all__}\n"
        "for module in pkgutil.walk_packages(netslim.__path__, 'netslim.'):\n"
        "    importlib.import_module(module.name)\n"
        "for name, value in first.items():\n"
        "    again = getattr(netslim, name)\n"
        "    assert again is value and not isinstance(value, types.ModuleType), name\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'utils'))\n"
        "from netslim import *\n"
    )
    assert printed(foreign, "-c", code, path=(site,)) == "[]\n"


def test_public_names_are_the_same_for_readers_checkers_and_the_import() -> None:
    tree = ast.parse((ROOT / "utils/__init__.py").read_text())
    typed = {
        f".{node.module}": {alias.name for alias in node.names}
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert {f".{home}": set(names) for home, names in values["_HOMES"].items()} == typed
    assert sorted(values["__all__"]) == sorted(name for names in typed.values() for name in names)
    beside = {path.stem for path in (ROOT / "utils").iterdir()} | {"cfg"}
    assert beside.isdisjoint(values["__all__"])


def test_importing_changes_nothing_in_the_process(site: Path, foreign: Path) -> None:
    code = (
        "import logging, os, signal, sys, warnings\n"
        "import cv2, matplotlib, numpy, onnx, onnxruntime, rich, torch, tqdm\n"
        "def state():\n"
        "    root = logging.getLogger()\n"
        "    return (dict(os.environ), root.handlers[:], root.level, warnings.filters[:], sys.path[:],\n"
        "            sys.excepthook, signal.getsignal(signal.SIGTERM), torch.get_num_threads(),\n"
        "            cv2.getNumThreads(), torch.random.initial_seed(), torch.get_default_dtype())\n"
        "before, modules = state(), set(sys.modules)\n"
        "import netslim\n"
        "print({name for name in set(sys.modules) - modules if name != 'netslim'})\n"
        "[getattr(netslim, name) for name in netslim.__all__]\n"
        "print([one == other for one, other in zip(before, state())].count(False))\n"
    )
    assert printed(foreign, "-c", code, path=(site,)) == "set()\n0\n"


def test_a_second_name_in_one_process_is_refused(site: Path, foreign: Path) -> None:
    (foreign / "link").mkdir()
    (foreign / "link" / "netslim").symlink_to(ROOT / "utils")  # as an editable installation finds it
    shutil.rmtree(foreign / "utils")
    for folder in (site, foreign / "link"):
        for first, second in (("netslim", "utils"), ("utils", "netslim")):
            done = python(foreign, "-c", f"import {first}, {second}", path=(folder, ROOT))
            last = done.stderr.splitlines()[-1]
            assert last.startswith(f"ImportError: {second}: already imported as {first!r} from ")
            assert last.endswith("; use one of the two names in a process")


# --- without the extras


@pytest.fixture
def bare(site: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Folders to import from in which no package of an extra is found."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {sorted(extras.EXTRAS)}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return tmp_path / "bare", site


def test_any_network_is_pruned_with_numpy_and_torch_alone(bare: tuple[Path, Path], foreign: Path) -> None:
    code = (
        "import torch, netslim\n"
        "from models.networks import network\n"
        "result = netslim.slim(network().eval(), torch.zeros(1, 3, 16, 16), 0.5, score='l1', align=1)\n"
        "print(result.model[0].out_channels, netslim.Darknet.__name__)\n"
    )
    assert printed(foreign, "-c", code, path=bare) == "8 Darknet\n"


def test_a_command_without_its_extra_says_the_pip_line(bare: tuple[Path, Path], project: Path) -> None:
    source = bare[1].parent / "clone"
    for command in ("doctor", "evaluate"):
        done = python(project, "-m", "netslim", command, *FILES, path=bare)
        assert done.returncode == 2
        assert re.fullmatch(
            rf"error: \w+: not installed; pip install '{re.escape(str(source))}\[darknet\]'\n", done.stderr
        )


def test_a_public_name_without_its_extra_says_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: an import of the module that defines the name fails as without OpenCV."""
    import utils

    def fail(name: str, package: str) -> None:
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    monkeypatch.setattr("utils.import_module", fail)
    monkeypatch.delitem(vars(utils), "Darknet", raising=False)
    with pytest.raises(ImportError, match=rf"^cv2: not installed; pip install '{ROOT}\[darknet\]'$"):
        _ = utils.Darknet


def test_extras_and_requirements_name_the_same_packages() -> None:
    def names(lines: list[str]) -> set[str]:
        found = (re.match(r"[\w.-]+", line) for line in lines)
        return {match[0].lower() for match in found if match}

    def required(file: str) -> set[str]:
        return names((ROOT / file).read_text().splitlines())

    options = PROJECT["project"]["optional-dependencies"]
    darknet, export, dev = (names(options[extra]) for extra in ("darknet", "export", "dev"))
    assert required("requirements.txt") == names(PROJECT["project"]["dependencies"]) | darknet
    assert required("requirements-dev.txt") - {"-r"} == (dev - {"netslim"}) | export
    packages = {"cv2": "opencv-python-headless", "tensorrt_rtx": "tensorrt-rtx-cu13"}
    found = {
        packages.get(module, module.replace("_", "-")): extra
        for module, extra in extras.EXTRAS.items()
        if module != "tensorrt"  # of NVIDIA's own installer, or of the package for all GPUs
    }
    assert found == dict.fromkeys(darknet, "darknet") | dict.fromkeys(export, "export")


# --- one set of commands under two names


@pytest.fixture(params=["script", "module"])
def command(request: pytest.FixtureRequest, site: Path) -> Callable[..., str]:
    """Runs a command in a folder, as a script of the checkout or of the installed wheel."""

    def run(folder: Path, name: str, *words: str, code: int = 0) -> str:
        if request.param == "script":
            return printed(folder, str(ROOT / (name.replace("-", "_") + ".py")), *words, code=code)
        return printed(folder, "-m", "netslim", name, *words, path=(site,), code=code)

    return run


Command = Callable[..., str]


def test_the_doctor_finds_the_same_under_both_names(command: Command, project: Path) -> None:
    (project / "odd.cfg").write_text(CFG.replace("pad=1", "pad=1\npaddding=1", 1))
    command(project, "doctor", "--cfg", "odd.cfg", "--json", "doctor.json", code=1)
    findings = json.loads((project / "doctor.json").read_text())["findings"]
    assert [found["place"] for found in findings if "paddding" in str(found)] == ["odd.cfg:11"]


def test_a_run_of_pruning_is_the_same_under_both_names(
    command: Command, project: Path, digests: dict[str, bytes]
) -> None:
    text = command(project, "slim-prune", *FILES, *DATA, "--global_percent", "0.5", "--layer_keep", "0.1")
    stem = "prune_0.5_keep_0.1_small"
    found = json.loads((project / f"{stem}.json").read_text())
    start = found["command"].split(" --cfg ")[0]
    assert start in ("python slim_prune.py", "python -m netslim slim-prune")
    assert found["strategy"] == "slim_prune"
    following = text.splitlines()[-1]
    program = r"python -m netslim train" if "netslim" in start else r"python \S*/train\.py"
    assert re.match(f"next: {program} --cfg ", following)
    weights = (project / f"{stem}.weights").read_bytes()
    assert digests.setdefault("weights", weights) == weights


@pytest.fixture(scope="module")
def digests() -> dict[str, bytes]:
    """What the first of two runs left, for the second to equal."""
    return {}


@pytest.mark.parametrize("name", SCRIPTED)
def test_the_manual_is_the_same_but_for_the_programs_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def manual(program: str) -> str:
        monkeypatch.setattr(sys, "argv", [program])
        with pytest.raises(SystemExit) as stop:
            cli.call(name, ["--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    script = manual(name.replace(" ", "/").replace("-", "_") + ".py")
    installed = manual("/usr/bin/netslim")
    assert installed.startswith(f"usage: netslim {name} [-h]")
    expected = cli.as_typed(script.replace("usage: ", "usage: python ", 1))
    assert " ".join(expected.split()) == " ".join(installed.split())


# --- in a folder that is no checkout


def contents(site: Path) -> Mapping[str, bytes]:
    files = (path for path in (site / "netslim").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if "__pycache__" not in path.parts}


def test_the_demo_stays_below_runs_and_out_of_the_installation(site: Path, project: Path) -> None:
    before = contents(site)
    (project / "runs").mkdir()
    (project / "data").rename(project / "runs/data")  # four images, or the demo would make 460
    own = {path.name for path in project.iterdir()}
    machine = ("--workers", "0", "--device", "cpu")

    def run(*words: str) -> str:
        return printed(project, "-m", "netslim", *words, *machine, path=(site,)).splitlines()[-1]

    assert run("train", "--epochs", "1", "-sr").startswith("next: python -m netslim slim-prune --global")
    run("slim-prune", "--global_percent", "0.5")
    run("evaluate")
    assert {path.name for path in project.iterdir()} == own
    assert len(list((project / "runs/cfg").glob("prune_*.cfg"))) == 1
    assert contents(site) == before


def test_stock_cfgs_are_found_from_any_folder(
    site: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--from", "cfg/yolov3-tiny.cfg", "--classes", "3", "--output")
    printed(foreign, "-m", "netslim", "new-cfg", *options, "my.cfg", path=(site,))
    monkeypatch.chdir(foreign)
    cli.call("new-cfg", [*options, "same.cfg"])
    assert Path("my.cfg").read_text() == Path("same.cfg").read_text()
    assert {path.name for path in foreign.iterdir()} == {"utils", "models", "data", "my.cfg", "same.cfg"}
    with pytest.raises(CfgError, match=r"yolov9\.cfg: no such file"):
        cli.call("new-cfg", [*options[:1], "cfg/yolov9.cfg", *options[2:], "other.cfg"])


# --- texts


def test_no_text_names_the_package() -> None:
    """Installed, it has another name; cli.py alone knows both."""
    found = []
    for path in sorted((ROOT / "utils").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            if node.body and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{path.name}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and re.search(r"\butils\.|\bnetslim\b", node.value)
        ]
    assert [line for line in found if not line.startswith("cli.py: ")] == []
