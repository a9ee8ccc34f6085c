"""torch itself, on the processor: modules as they are and TorchScript files, channels last."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import ToolkitError
from utils.runtimes.runtime import OPEN, TEXTS, Images, Outputs, Session, Sizes


@dataclass(frozen=True)
class Torch:
    """Runs modules too: `wrap` stands in for `load`. Batch norms should be folded already."""

    name: str = "torch"
    precision: str = "f32"
    device: None = None

    @property
    def version(self) -> str:
        """Of torch."""
        return str(torch.__version__)

    def load(self, path: Path) -> Session:
        """A TorchScript file, ready to run.

        Raises:
            ToolkitError: it is none.
        """
        if path.suffix != ".torchscript":
            fact = "torch runs modules and .torchscript files, not this"
            raise ToolkitError(f"{path}: {fact}; use onnxruntime or openvino")
        texts = dict.fromkeys(TEXTS, "")
        try:
            module = torch.jit.load(str(path), "cpu", _extra_files=texts)
        except (RuntimeError, ValueError) as error:
            raise ToolkitError(f"{path}: torch cannot load it: {_last_line(error)}") from error
        return _Session(module.eval(), texts={name: text for name, text in _decoded(texts) if text})

    def wrap(self, module: nn.Module) -> Session:
        """A module whose output is a tensor or a sequence of them."""
        copy = deepcopy(module).cpu().float().eval()
        return _Session(copy.to(memory_format=torch.channels_last))  # type: ignore[call-overload]  # not in stub


@dataclass(frozen=True)
class _Session:
    module: nn.Module
    sizes: Sizes = OPEN
    texts: Mapping[str, str] = field(default_factory=dict)

    def infer(self, images: Images) -> Outputs:
        try:
            with torch.inference_mode():
                outputs = self.module(_channels_last(images))
        except torch.jit.Error as error:
            fact = f"cannot run images {images.shape}: {_last_line(error)}"
            raise ToolkitError(f"TorchScript file: {fact}; give the size it was made for") from error
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


def _decoded(texts: Mapping[str, str | bytes]) -> Iterator[tuple[str, str]]:
    for name, text in texts.items():  # torch fills them in as bytes
        yield name, text.decode() if isinstance(text, bytes) else text


def _last_line(error: Exception) -> str:
    """What was wrong stands at the end, below torch's own trace."""
    return (str(error).strip().splitlines() or [""])[-1]
