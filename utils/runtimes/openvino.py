"""OpenVINO on the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ToolkitError
from ..extras import package
from .metadata import known_metadata
from .runtime import Images, Outputs, Session, Sizes, unloadable, unusable

PRECISIONS = ("f32", "bf16", "f16", "dynamic")


@dataclass(frozen=True)
class OpenVino:
    """With as many threads as torch, optimized for the latency of one image.

    Attributes:
        precision: INFERENCE_PRECISION_HINT. OpenVINO's own default is bf16 where the CPU supports it, which
            changes the outputs; hence f32 by default.
    """

    precision: str = "f32"
    name: str = "openvino"
    device: None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            fact = f"unknown precision {self.precision!r}"
            raise ToolkitError("runtime openvino", fact, f"use one of {', '.join(PRECISIONS)}")

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(package("runtime openvino", "openvino").__version__).split("-")[0]

    def load(self, path: Path) -> Session:
        """An ONNX file or an OpenVINO IR (.xml, with its .bin beside it), ready to run."""
        openvino = package("runtime openvino", "openvino")
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            core = _core(openvino)
            model = core.read_model(str(path))
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise unloadable(path, "OpenVINO", error) from error
        shape = model.input(0).partial_shape
        sizes = tuple(None if size.is_dynamic else size.get_length() for size in shape)
        return _Session(path, model, compiled.create_infer_request(), sizes, known_metadata(_metadata(model)))


@cache
def _core(openvino: Any) -> Any:
    """One for the whole process.

    With the last one OpenVINO unloads its CPU plugin, which has given signals a stack of its own in the
    thread that compiled first. Unloaded by another thread it leaves that behind, and the next signal ends
    the process.
    """
    return openvino.Core()


def _metadata(model: Any) -> dict[str, object]:
    """Metadata: at the top of an IR's rt_info; under "framework" for an ONNX file."""
    found = {name: value if isinstance(value, dict) else value.value for name, value in model.rt_info.items()}
    framework = found.get("framework")
    inner = framework if isinstance(framework, dict) else {}
    return {name: getattr(value, "value", value) for name, value in inner.items()} | found


@dataclass(frozen=True)
class _Session:
    path: Path
    model: Any
    request: Any
    sizes: Sizes
    metadata: Mapping[str, str]
    fitting: set[tuple[int, ...]] = field(default_factory=set)

    def infer(self, images: Images) -> Outputs:
        try:
            self._require_fit(images.shape)
            results = self.request.infer({0: images}, share_inputs=True)
        except RuntimeError as error:
            raise unusable(self.path, images.shape, error) from error
        found = [np.array(results[number]) for number in range(len(results))]  # its own are reused
        self._require_own(images, found)
        return found

    def bound(self, images: Images) -> Callable[[], object]:
        self.infer(images)  # reports invalid sizes; the timed calls do not check
        return lambda: self.request.infer({0: images}, share_inputs=True, share_outputs=True)

    def _require_fit(self, shape: tuple[int, ...]) -> None:
        """Reshape the model first: a request with an invalid size may fail without an error."""
        if None in self.sizes and shape not in self.fitting:
            self.model.reshape(shape)
            self.fitting.add(shape)

    def _require_own(self, images: Images, outputs: Outputs) -> None:
        """With dynamic sizes, a failed call may leave the outputs of the previous one in place."""
        if self.sizes[0] is not None:
            return
        # boxes after NMS, (n, columns), have no batch dimension
        counts = [len(output) for output in outputs if output.ndim > 2]
        if any(count != len(images) for count in counts):
            fact = f"OpenVINO returned outputs of {counts} images for images {images.shape}"
            raise ToolkitError(self.path, fact, "give a valid size, or export it again")
