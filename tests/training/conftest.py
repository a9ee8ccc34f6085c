"""A network of a few thousand weights and a data set of a few images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.tiny import write_cfg
from utils.data.shapes import make_shapes


@pytest.fixture
def tiny_cfg(tmp_path: Path) -> Path:
    return write_cfg(tmp_path / "tiny.cfg")


@pytest.fixture
def cfg_of(tmp_path: Path) -> Callable[[int], Path]:
    """Make the tiny network's cfg for a number of classes."""
    return lambda classes: write_cfg(tmp_path / f"tiny{classes}.cfg", classes)


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .data file of 4 training, 2 validation and 2 test images."""
    folder = tmp_path_factory.mktemp("few")
    return make_shapes(folder, sizes={"train": 4, "valid": 2, "test": 2})
