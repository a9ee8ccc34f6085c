"""OpenVINO on the processor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ToolkitError
from ..extras import package
from .runtime import Images, Outputs, Session, Sizes, known_texts, unloadable, unusable

PRECISIONS = ("f32", "bf16", "f16", "dynamic")


@dataclass(frozen=True)
class OpenVino:
    """With as many threads as torch has, one image at a time.

    Attributes:
        precision: the hint INFERENCE_PRECISION_HINT. OpenVINO itself would take bf16 where the processor
            has it, and its outputs would no longer be those of the other runtimes; hence f32 unless asked.
    """

    precision: str = "f32"
    name: str = "openvino"
    device: None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            fact = f"precision {self.precision!r} is not known"
            raise ToolkitError("runtime openvino", fact, f"use one of {', '.join(PRECISIONS)}")

    @property
    def version(self) -> str:
        """Of the package."""
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
            core = openvino.Core()
            model = core.read_model(str(path))
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise unloadable(path, "OpenVINO", error) from error
        shape = model.input(0).partial_shape
        sizes = tuple(None if size.is_dynamic else size.get_length() for size in shape)
        return _Session(path, model, compiled.create_infer_request(), sizes, known_texts(_texts(model)))


def _texts(model: Any) -> dict[str, object]:
    """Of an IR they are at the top; those of an ONNX file OpenVINO puts under "framework"."""
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
    texts: Mapping[str, str]
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
        self.infer(images)  # tells what does not fit, which the timed calls have no time for
        return lambda: self.request.infer({0: images}, share_inputs=True, share_outputs=True)

    def _require_fit(self, shape: tuple[int, ...]) -> None:
        """Let the model itself be told a new shape: a request that fails inside may not say so."""
        if None in self.sizes and shape not in self.fitting:
            self.model.reshape(shape)
            self.fitting.add(shape)

    def _require_own(self, images: Images, outputs: Outputs) -> None:
        """Where sizes are open, OpenVINO may leave the outputs of the call before where one fails."""
        if self.sizes[0] is not None:
            return
        # rows of suppressed boxes, (n, columns), know no batch
        counts = [len(output) for output in outputs if output.ndim > 2]
        if any(count != len(images) for count in counts):
            fact = f"OpenVINO gave outputs of {counts} images for images {images.shape}"
            raise ToolkitError(self.path, fact, "give a size that fits, or export it again")
