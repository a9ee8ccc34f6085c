"""A network of a few thousand weights and a data set of a few images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from utils.data.shapes import make_shapes

TINY_CFG = """
[net]
width=64
height=64
channels=3
learning_rate=0.01
momentum=0.9
decay=0.0005
max_epochs=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=1
activation=leaky

[shortcut]
from=-2
activation=linear

[convolutional]
filters={filters}
size=1
activation=linear

[yolo]
mask=0,1
anchors=12,12, 28,28
classes={classes}
num=2
"""


def write_cfg(path: Path, classes: int = 4) -> Path:
    """Write the tiny network for `classes` classes."""
    path.write_text(TINY_CFG.format(classes=classes, filters=2 * (5 + classes)))
    return path


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
