"""One thread, the same random examples every time, and the shared test data where they are."""

import importlib
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
import torch
from hypothesis import settings

from tests.project import CFG, Fail
from tests.sampling import thinned
from utils.cli import prepare_environment, run_main

prepare_environment()  # before OpenCV is loaded, which takes its limits from it

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Say to all worker processes whether the whole suite runs, or what someone has named."""
    if not hasattr(config, "workerinput"):
        whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
        os.environ.setdefault("TESTS", "sample" if whole else "named")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take a sample of long tables, see `sampling.thinned`."""
    if os.environ["TESTS"] == "sample":
        items[:], left = thinned(items)
        config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real weights, data sets and golden results, kept beside the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared test data in ../shared")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with small.cfg, small.weights and data/shapes.data (four images a split)."""
    from utils.darknet.checkpoint import save_weights
    from utils.darknet.model import Darknet
    from utils.data.shapes import make_shapes

    (tmp_path / "small.cfg").write_text(CFG)
    torch.manual_seed(0)
    save_weights(Darknet.from_cfg(tmp_path / "small.cfg"), tmp_path / "small.weights")
    make_shapes(tmp_path / "data", sizes={"train": 4, "valid": 4, "test": 4})
    return tmp_path


@pytest.fixture
def fail(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fail:
    """In this process and in the project's folder: seconds less than `run` for each message."""
    monkeypatch.chdir(project)

    def fail(script: str, *words: str) -> str:
        module = importlib.import_module(script.removesuffix(".py"))
        with pytest.raises(SystemExit) as stop:
            run_main(lambda: module.main(list(words)))
        assert stop.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return fail
