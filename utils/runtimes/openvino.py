"""OpenVINO on the processor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import ToolkitError
from utils.runtimes.runtime import Images, Outputs, Session, package

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
            raise ToolkitError(f"runtime openvino: {fact}; use one of {', '.join(PRECISIONS)}")

    @property
    def version(self) -> str:
        """Of the package."""
        return str(package(self.name, "openvino").__version__).split("-")[0]

    def load(self, path: Path) -> Session:
        """An ONNX file, ready to run."""
        openvino = package(self.name, "openvino")
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            raise ToolkitError(f"{path}: OpenVINO cannot load it: {error}") from error
        return _Session(compiled.create_infer_request())


@dataclass(frozen=True)
class _Session:
    request: Any

    def infer(self, images: Images) -> Outputs:
        results = self.request.infer({0: images}, share_inputs=True)
        return [np.array(results[number]) for number in range(len(results))]  # its own are reused

    def bound(self, images: Images) -> Callable[[], object]:
        return lambda: self.request.infer({0: images}, share_inputs=True, share_outputs=True)
