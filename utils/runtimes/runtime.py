"""The runtimes by name, and their common interface.

Invariant: all runtimes compute the same function of the same file, up to the rounding of their precision. The
number of threads is torch's (`torch.set_num_threads`), so that runtimes are compared fairly.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ToolkitError

Images = NDArray[np.float32]  # (B, C, H, W)
Outputs = list[NDArray[np.float32]]
Sizes = tuple[int | None, ...]  # batch, channels, height, width; None for a dynamic one
OPEN: Sizes = (None, None, None, None)

NAMES = ("torch", "onnxruntime", "openvino", "tensorrt")  # run any module, via ONNX where needed
ALL_NAMES = (*NAMES, "opencv", "ncnn")

_SHORT = 160  # characters of a package's message
_PLACE_IN_SOURCE = re.compile(
    r"Exception from .*:$|Check '.*' failed at .*:$|FrontEnd API failed with .*:$|While validating "
)


class Session(Protocol):
    """A network that is ready to run."""

    @property
    def sizes(self) -> Sizes:
        """Required sizes of the images; dynamic where the file does not state them."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the file, those of `METADATA_KEYS`; empty for a module."""

    def infer(self, images: Images) -> Outputs:
        """(B, C, H, W) -> the network's outputs, in their order."""

    def bound(self, images: Images) -> Callable[[], object]:
        """One inference of these images, to be timed: the images are handed over beforehand."""


class Runtime(Protocol):
    """A way to run networks."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def version(self) -> str:
        """Version of the package."""

    @property
    def precision(self) -> str:
        """Precision of the arithmetic: f32, bf16, f16."""

    @property
    def device(self) -> str | None:
        """Model of the device; None for the CPU."""

    def load(self, path: Path) -> Session:
        """A file in one of the runtime's formats, ready to run.

        Raises:
            ToolkitError: the runtime cannot load it.
        """


def find_runtime(name: str, precision: str = "f32") -> Runtime:
    """The runtime of that name.

    Args:
        name: one of `ALL_NAMES`.
        precision: f32; OpenVINO also takes bf16, f16 and dynamic, TensorRT f16.

    Raises:
        ToolkitError: unknown runtime or unsupported precision.
    """
    # Each is imported here, since it imports this module.
    match name:
        case "openvino":
            from .openvino import OpenVino

            return OpenVino(precision)
        case "tensorrt":
            from .tensorrt import TensorRt

            return TensorRt(precision)
    if name not in ALL_NAMES:
        raise ToolkitError(f"runtime {name!r}", "unknown", f"use one of {', '.join(ALL_NAMES)}")
    if precision != "f32":
        raise ToolkitError(
            f"runtime {name}", f"supports f32 only, not {precision}", "leave the precision out"
        )
    match name:
        case "torch":
            from .torch import Torch

            return Torch()
        case "onnxruntime":
            from .onnxruntime import OnnxRuntime

            return OnnxRuntime()
        case "opencv":
            from .opencv import OpenCv

            return OpenCv()
    from .ncnn import Ncnn

    return Ncnn()


def warm_up(session: Session, shape: tuple[int, ...]) -> Outputs:
    """Run once on black images of `shape`, so that later runs are at full speed; returns the outputs."""
    return session.infer(np.zeros(shape, np.float32))


def random_images(shape: tuple[int, ...], seed: int = 0) -> Images:
    """Noise (B, C, H, W) in 0..1, always the same: zeros and denormals would run at another speed."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).numpy()


def unloadable(path: Path, runtime: str, error: Exception) -> ToolkitError:
    """The error for a file that a package cannot load."""
    return ToolkitError(path, f"{runtime} cannot load it: {gist(error, path)}", "export it again")


def unusable(path: Path, shape: tuple[int, ...], error: Exception) -> ToolkitError:
    """The error for a file that a package cannot run on images of `shape`."""
    fact = f"cannot be run on images {shape}: {gist(error, path)}"
    return ToolkitError(path, fact, "give a valid size, or export it again")


def gist(error: Exception, path: Path) -> str:
    """The first informative line of a package's message, shortened, without the folder of `path`.

    >>> gist(RuntimeError("Exception from core.cpp:84:\\nNo weights in /a/net.bin!\\n"), Path("/a/net.bin"))
    'No weights in net.bin!'
    """
    lines = [line.strip() for line in str(error).replace(str(path), path.name).splitlines() if line.strip()]
    telling = [line for line in lines if not _PLACE_IN_SOURCE.match(line)]  # OpenVINO begins with these
    line = (telling or lines or [type(error).__name__])[0].rstrip(".;:")
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}..."
