"""Export to TorchScript: traced, frozen, and compared with torch.

Freezing folds the batch norms and turns all parameters into constants, so the file can be run, not trained.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..files import atomic_path
from ..pruning.layers import shared_copy
from ..runtimes.torch import Torch
from .job import Exported, Exporting, Limits, verify
from .tracing import Wrapper

LIMITS = Limits(
    "TorchScript",
    refused={
        "int8": ("torch's quantized operators lack what detectors use", "use --format onnx or openvino"),
    },
)


class HalfInside(nn.Module):
    """A detector that computes in float16; its images and raw heads are float32.

    Args:
        model: images (B, C, H, W) -> raw heads; converted to half precision.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) -> for each head (B, A, h, w, width)."""
        return [head.float() for head in self.model(images.half())]


def half_inside(wrapper: Wrapper) -> nn.Module:
    """A copy of `wrapper` that computes in float16 up to the heads."""
    copy = shared_copy(wrapper)
    copy.model = HalfInside(shared_copy(wrapper.model))
    return copy.eval()


def export_torchscript(job: Exporting, path: Path) -> Exported:
    """Write a `.torchscript` file; its metadata are torch.jit's `_extra_files`.

    Args:
        job: fp32 or fp16. Where batch and size are not dynamic, the file may accept others nevertheless;
            they are not compared.
        path: of the file.

    Raises:
        ExportError: int8 is requested, the network cannot be traced, or the outputs differ from torch's.
    """
    LIMITS.check(job.precision, job.dynamic_batch or job.dynamic_size)
    module = job.module if job.precision == "fp32" else half_inside(job.module)
    with atomic_path(path) as temporary:
        traced(module, torch.zeros(job.shapes[0])).save(str(temporary), _extra_files=dict(job.metadata))
        infer = Torch().load(temporary).infer
        parities = verify(job, infer, "TorchScript")
    return Exported((path,), "torchscript", job.precision, parities, infer)


def traced(module: nn.Module, example: Tensor) -> Any:
    """`module` as a frozen graph.

    Args:
        module: in evaluation mode; (B, C, H, W) -> a tensor or several.
        example: images to run it on; values that depend on them or on their size become constants.

    Raises:
        ExportError: the module cannot be traced.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes that may become constants
        warnings.simplefilter("ignore", DeprecationWarning)
        module(example)  # an invalid size raises the model's own error; traced, models do not check
        try:
            return torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
        except RuntimeError as error:
            raise ExportError("torch.jit.trace", str(error), "nothing was written") from error
