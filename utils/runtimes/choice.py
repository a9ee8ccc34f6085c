"""Which runtimes there are."""

from utils.errors import ToolkitError
from utils.runtimes.onnxruntime import OnnxRuntime
from utils.runtimes.openvino import OpenVino
from utils.runtimes.runtime import Runtime
from utils.runtimes.tensorrt import TensorRt
from utils.runtimes.torch import Torch

NAMES = ("torch", "onnxruntime", "openvino", "tensorrt")


def find_runtime(name: str, precision: str = "f32") -> Runtime:
    """The runtime of that name.

    Args:
        name: one of `NAMES`.
        precision: f32; OpenVINO also takes bf16, f16 and dynamic, TensorRT f16.

    Raises:
        ToolkitError: there is no such runtime or precision here.
    """
    match name:
        case "openvino":
            return OpenVino(precision)
        case "tensorrt":
            return TensorRt(precision)
        case "torch" | "onnxruntime":
            if precision != "f32":
                raise ToolkitError(
                    f"{name}: computes in f32 here, not in {precision}; leave the precision out"
                )
            return Torch() if name == "torch" else OnnxRuntime()
    raise ToolkitError(f"runtime {name!r}: is not known; use one of {', '.join(NAMES)}")
