"""torch: modules and TorchScript files, channels last."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ToolkitError
from .metadata import METADATA_KEYS
from .runtime import OPEN, Images, Outputs, Session, Sizes, unloadable


@dataclass(frozen=True)
class Torch:
    """Runs modules too, with `wrap`; their batch norms should be folded already.

    Attributes:
        place: torch's name of the device; on a GPU, timings exclude copying the image.
    """

    place: str = "cpu"
    name: str = "torch"
    precision: str = "f32"

    @property
    def device(self) -> str | None:
        """Model of the GPU; None for the CPU."""
        return None if self.place == "cpu" else torch.cuda.get_device_name(self.place)

    @property
    def version(self) -> str:
        """Version of torch."""
        return str(torch.__version__)

    def load(self, path: Path) -> Session:
        """A TorchScript file, ready to run.

        Raises:
            ToolkitError: it is not a valid TorchScript file.
        """
        if path.suffix != ".torchscript":
            fact = "torch runs modules and .torchscript files only"
            raise ToolkitError(path, fact, "use onnxruntime or openvino")
        metadata = dict.fromkeys(METADATA_KEYS, "")
        try:
            module = torch.jit.load(str(path), self.place, _extra_files=metadata)
        except (RuntimeError, ValueError) as error:
            raise unloadable(path, "torch", error) from error
        found = {name: text for name, text in _decoded(metadata) if text}
        return _Session(module.eval(), self.place, metadata=found)

    def wrap(self, module: nn.Module) -> Session:
        """A module whose output is a tensor or a sequence of tensors."""
        copy = deepcopy(module).to(self.place).float().eval()
        copy = copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stub
        return _Session(copy, self.place)


@dataclass(frozen=True)
class _Session:
    module: nn.Module
    place: str
    sizes: Sizes = OPEN
    metadata: Mapping[str, str] = field(default_factory=dict)

    def infer(self, images: Images) -> Outputs:
        try:
            with torch.inference_mode():
                outputs = self.module(self._given(images))
        except RuntimeError as error:
            if not isinstance(self.module, torch.jit.ScriptModule):
                raise
            fact = f"cannot run images {images.shape}: {_last_line(error)}"
            raise ToolkitError("TorchScript file", fact, "give the size that it was made for") from error
        tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        return [np.ascontiguousarray(tensor.cpu().numpy()) for tensor in tensors]

    def bound(self, images: Images) -> Callable[[], object]:
        tensor = self._given(images)

        def run() -> object:
            with torch.inference_mode():
                return self.module(tensor)

        return run

    def _given(self, images: Images) -> Tensor:
        return torch.from_numpy(images).to(self.place, memory_format=torch.channels_last)


def _decoded(metadata: Mapping[str, str | bytes]) -> Iterator[tuple[str, str]]:
    for name, text in metadata.items():  # torch fills them in as bytes
        yield name, text.decode() if isinstance(text, bytes) else text


def _last_line(error: Exception) -> str:
    """The cause is in the last line, below torch's own trace."""
    return (str(error).strip().splitlines() or [""])[-1]
