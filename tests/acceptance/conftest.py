import pytest

from tests.acceptance import page
from tests.acceptance.checks import ALL_COLUMNS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/results/acceptance.md")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Only a whole, single-process run has all the rows."""
    if session.config.getoption("--write-table", default=False):
        page.write({path: cells for path, cells in page.FOUND.items() if len(cells) == len(ALL_COLUMNS)})
