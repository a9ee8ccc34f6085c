"""Available runtimes, and the one that reads a file."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import ToolkitError
from .ncnn import Ncnn
from .onnxruntime import OnnxRuntime
from .opencv import OpenCv
from .openvino import OpenVino
from .runtime import Runtime
from .tensorrt import TensorRt
from .torch import Torch

NAMES = ("torch", "onnxruntime", "openvino", "tensorrt")  # run any module, via ONNX where needed
ALL_NAMES = (*NAMES, "opencv", "ncnn")

# Runtimes that read files of a suffix; the first is the default.
READERS: Mapping[str, tuple[str, ...]] = {
    ".onnx": ("onnxruntime", "openvino", "tensorrt"),
    ".xml": ("openvino",),
    ".engine": ("tensorrt",),
    ".ncnn.param": ("ncnn",),
    ".torchscript": ("torch",),
}


def find_runtime(name: str, precision: str = "f32") -> Runtime:
    """The runtime of that name.

    Args:
        name: one of `ALL_NAMES`.
        precision: f32; OpenVINO also takes bf16, f16 and dynamic, TensorRT f16.

    Raises:
        ToolkitError: unknown runtime or unsupported precision.
    """
    match name:
        case "openvino":
            return OpenVino(precision)
        case "tensorrt":
            return TensorRt(precision)
    plain: Mapping[str, type[Runtime]] = {
        "torch": Torch,
        "onnxruntime": OnnxRuntime,
        "opencv": OpenCv,
        "ncnn": Ncnn,
    }
    if name not in plain:
        raise ToolkitError(f"runtime {name!r}", "unknown", f"use one of {', '.join(ALL_NAMES)}")
    if precision != "f32":
        raise ToolkitError(
            f"runtime {name}", f"supports f32 only, not {precision}", "leave the precision out"
        )
    return plain[name]()


def is_exported(path: Path) -> bool:
    """Whether the suffix is one of `READERS`: a file that runs without its cfg.

    >>> is_exported(Path("best.ncnn.param")), is_exported(Path("best.weights"))
    (True, False)
    """
    return path.name.lower().endswith(tuple(READERS))


def readers(path: Path) -> tuple[str, ...]:
    """Names of the runtimes that read an exported file, the default first; empty for other files."""
    return next((names for suffix, names in READERS.items() if path.name.lower().endswith(suffix)), ())


def runtime_of(path: Path, name: str | None = None) -> Runtime:
    """The runtime that reads an exported file.

    Args:
        path: of the file; its suffix decides.
        name: of the runtime; None for the default.

    Raises:
        ToolkitError: no runtime reads it, or this one does not.
    """
    names = readers(path)
    if not names:
        fact = "unsupported kind of file"
        raise ToolkitError(path, fact, f"give one of {', '.join(READERS)}")
    if name is not None and name not in names:
        raise ToolkitError(path, f"{name} does not read this file", f"use {' or '.join(names)}")
    return find_runtime(name or names[0])
