"""Every cfg at hand through everything, and docs/results/acceptance.md says so; of large ones a sample."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import page
from tests.acceptance.checks import COLUMNS, Candidate, check
from tests.sampling import ALL

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
CFGS = sorted(
    [
        *(ROOT / "cfg").glob("*.cfg"),
        *(ROOT / "tests/cfgs").glob("*.cfg"),
        *(SHARED / "zoo").glob("*.cfg"),
        *(SHARED / "weights").glob("*/*.cfg"),
    ]
)


LARGE = 60  # convolutions; YOLOv3 has 75


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All cfgs where the page is written, else those that are not large, and the largest one."""
    if "path" in metafunc.fixturenames:
        whole = ALL or metafunc.config.getoption("--write-table", default=False)
        paths = [
            path for path in CFGS if whole or path == ROOT / "cfg/yolov4.cfg" or _convolutions(path) < LARGE
        ]
        metafunc.parametrize("path", paths, ids=lambda path: f"{page.group_of(path)}-{path.stem}")


def _convolutions(path: Path) -> int:
    return path.read_text(encoding="utf-8", errors="replace").count("[convolutional]")


@pytest.fixture(scope="module")
def candidates() -> dict[Path, Candidate]:
    """One at a time, so that the large ones do not stand in memory together."""
    return {}


@pytest.mark.parametrize("group", COLUMNS, ids=lambda group: group.__name__)
def test_cfg_is_accepted(
    path: Path,
    group: Callable[..., None],
    candidates: dict[Path, Candidate],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if path not in candidates:
        candidates.clear()
        candidates[path] = Candidate(path)
    cells = check(candidates[path], group, tmp_path)
    page.FOUND.setdefault(path, {}).update(cells)
    assert not [cell for cell in cells.values() if cell.startswith("FAILED")]
    if not request.config.getoption("--write-table", default=False):
        said = page.read()[page.group_of(path), path.stem]
        assert cells == {name: said[name] for name in cells}


def test_only_what_is_refused_by_name_fails_to_load(shared: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-table", default=False):
        pytest.skip("the page is being written")
    refused = {row for row, cells in page.read().items() if cells["parse"] != "ok"}
    assert refused == {("zoo", "yolov3-tiny_occlusion_track")}
