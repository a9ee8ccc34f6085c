"""torch itself, on the processor: modules as they are, channels last."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import ToolkitError
from utils.runtimes.runtime import Images, Outputs, Session


@dataclass(frozen=True)
class Torch:
    """Runs modules, not files: `wrap` stands in for `load`. Batch norms should be folded already."""

    name: str = "torch"
    precision: str = "f32"
    device: None = None

    @property
    def version(self) -> str:
        """Of torch."""
        return str(torch.__version__)

    def load(self, path: Path) -> Session:
        """Refuse: torch reads no ONNX."""
        raise ToolkitError(f"{path}: torch runs modules, not ONNX files; use onnxruntime or openvino")

    def wrap(self, module: nn.Module) -> Session:
        """A module whose output is a tensor or a sequence of them."""
        copy = deepcopy(module).cpu().float().eval()
        return _Session(copy.to(memory_format=torch.channels_last))  # type: ignore[call-overload]  # not in stub


@dataclass(frozen=True)
class _Session:
    module: nn.Module

    def infer(self, images: Images) -> Outputs:
        with torch.inference_mode():
            outputs = self.module(_channels_last(images))
        tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        return [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]

    def bound(self, images: Images) -> Callable[[], object]:
        tensor = _channels_last(images)

        def run() -> object:
            with torch.inference_mode():
                return self.module(tensor)

        return run


def _channels_last(images: Images) -> Tensor:
    return torch.from_numpy(images).to(memory_format=torch.channels_last)
