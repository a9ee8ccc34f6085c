"""A module on any runtime, by way of an ONNX file that is not kept."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..runtimes.runtime import Runtime, Session
from ..runtimes.torch import Torch
from .tracing import trace_onnx


def session(module: nn.Module, example: Tensor, runtime: Runtime, opset: int = 17) -> Session:
    """Get `module` ready to run on `runtime`.

    Args:
        module: in evaluation mode, on the CPU, batch norms folded; (B, C, H, W) -> a tensor or several.
        example: (B, C, H, W) of the only size that the session takes.
        runtime: where it runs; torch takes the module as it is.
        opset: of the ONNX operators on the way.

    Raises:
        ToolkitError: the module cannot be exported, or the runtime cannot load it.
    """
    if isinstance(runtime, Torch):
        return runtime.wrap(module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        trace_onnx(module, example, path, opset)
        return runtime.load(path)


def random_images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """(B, C, H, W) float32 in 0..1: zeros and denormals would be computed at another speed."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)
