"""What every runtime offers.

Invariant: all of them compute the same function of the same file, up to the rounding of their precision. The
number of threads is torch's own (`torch.set_num_threads`), so that figures of several runtimes compare.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from utils.errors import ToolkitError

Images = NDArray[np.float32]  # (B, C, H, W)
Outputs = list[NDArray[np.float32]]


class Session(Protocol):
    """A network that is ready to run."""

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
        """An ONNX file, ready to run.

        Raises:
            ToolkitError: the runtime cannot load it.
        """


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
