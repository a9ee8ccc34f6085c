"""What every runtime offers.

Invariant: all of them compute the same function of the same file, up to the rounding of their precision. The
number of threads is torch's own (`torch.set_num_threads`), so that figures of several runtimes compare.
"""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.errors import ToolkitError

Images = NDArray[np.float32]  # (B, C, H, W)
Outputs = list[NDArray[np.float32]]
Sizes = tuple[int | None, ...]  # batch, channels, height, width; None for one that is open
OPEN: Sizes = (None, None, None, None)

# What an exported file says of its network, each a text with JSON inside.
TEXTS = ("names", "strides", "anchors", "cfg_sha256", "darknet")


class Session(Protocol):
    """A network that is ready to run."""

    @property
    def sizes(self) -> Sizes:
        """What the images must be; a file that does not say it is taken for open."""

    @property
    def texts(self) -> Mapping[str, str]:
        """What the file says of its network, of `TEXTS`; empty for a module."""

    def infer(self, images: Images) -> Outputs:
        """(B, C, H, W) -> the network's outputs, in their order."""

    def bound(self, images: Images) -> Callable[[], object]:
        """One inference of these images, to be timed: what only hands them over is done beforehand."""


class Runtime(Protocol):
    """A way to run networks."""

    @property
    def name(self) -> str:
        """As users write it."""

    @property
    def version(self) -> str:
        """Of the package."""

    @property
    def precision(self) -> str:
        """In which it computes: f32, bf16, f16."""

    @property
    def device(self) -> str | None:
        """Model of the device that it runs on; None for the machine's processor."""

    def load(self, path: Path) -> Session:
        """A file in one of the runtime's formats, ready to run.

        Raises:
            ToolkitError: the runtime cannot load it.
        """


def warm_up(session: Session, shape: tuple[int, ...]) -> Outputs:
    """Run on black images of `shape`, which takes what only the first run takes; its outputs."""
    return session.infer(np.zeros(shape, np.float32))


def texts_path(path: Path) -> Path:
    """The JSON file beside a format that carries no texts itself.

    >>> texts_path(Path("best.engine")).name
    'best.engine.json'
    """
    return path.with_name(f"{path.name}.json")


def read_texts(path: Path) -> dict[str, str]:
    """The texts beside the file `path`, see `texts_path`; none where there is no such file.

    Raises:
        ToolkitError: it is not JSON.
    """
    file = texts_path(path)
    if not file.exists():
        return {}
    try:
        return known_texts(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise ToolkitError(
            f"{file}: is not what an export writes ({error}); export the network anew"
        ) from error


def known_texts(found: Mapping[str, object]) -> dict[str, str]:
    """Those of `TEXTS` in what a file carries; others are its runtime's business."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in found.items()
        if name in TEXTS
    }


def package(runtime: str, name: str) -> ModuleType:
    """A package that only one runtime needs.

    Raises:
        ToolkitError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        fact = f"the package {name} is missing"
        raise ToolkitError(f"runtime {runtime}: {fact}; python -m pip install {name}") from error
