"""Which runtimes there are, and which of them reads a file."""

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

NAMES = ("torch", "onnxruntime", "openvino", "tensorrt")  # run any module, by way of ONNX where need be
ALL_NAMES = (*NAMES, "opencv", "ncnn")

# Who reads files of a suffix; the first unless another is asked for.
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
        ToolkitError: there is no such runtime or precision here.
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
        raise ToolkitError(f"runtime {name!r}", "is not known", f"use one of {', '.join(ALL_NAMES)}")
    if precision != "f32":
        raise ToolkitError(name, f"computes in f32 here, not in {precision}", "leave the precision out")
    return plain[name]()


def is_exported(path: Path) -> bool:
    """Whether the suffix is one of `READERS`: a file that runs without its cfg.

    >>> is_exported(Path("best.ncnn.param")), is_exported(Path("best.weights"))
    (True, False)
    """
    return path.name.lower().endswith(tuple(READERS))


def readers(path: Path) -> tuple[str, ...]:
    """Names of the runtimes that read an exported file, the usual one first; none for another file."""
    return next((names for suffix, names in READERS.items() if path.name.lower().endswith(suffix)), ())


def runtime_of(path: Path, name: str | None = None) -> Runtime:
    """The runtime that reads an exported file.

    Args:
        path: of the file; its suffix decides.
        name: another one than the usual.

    Raises:
        ToolkitError: none reads it, or not that one.
    """
    names = readers(path)
    if not names:
        fact = "no runtime reads files of this kind"
        raise ToolkitError(path, fact, f"give one of {', '.join(READERS)}")
    if name is not None and name not in names:
        raise ToolkitError(path, f"{name} does not read this", f"use {' or '.join(names)}")
    return find_runtime(name or names[0])
