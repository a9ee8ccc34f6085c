"""TensorRT on an NVIDIA GPU: builds an engine from the ONNX file and runs it on torch's tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import ToolkitError
from utils.runtimes.runtime import Images, Outputs, Session, package

PRECISIONS = ("f32", "f16")


@dataclass(frozen=True)
class TensorRt:
    """With inputs and outputs on the GPU: figures are without the copy of the image."""

    precision: str = "f32"
    name: str = "tensorrt"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            fact = f"precision {self.precision!r} is not known"
            raise ToolkitError(f"runtime tensorrt: {fact}; use one of {', '.join(PRECISIONS)}")

    @property
    def version(self) -> str:
        """Of the package."""
        return str(self._package().__version__)

    @property
    def device(self) -> str:
        """Model of the GPU."""
        self._package()
        return torch.cuda.get_device_name()

    def load(self, path: Path) -> Session:
        """An ONNX file with fixed sizes, as an engine."""
        trt = self._package()
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(path)):
            raise ToolkitError(f"{path}: TensorRT cannot read it: {parser.get_error(0)}")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa would not be f32
        if self.precision == "f16":
            config.set_flag(trt.BuilderFlag.FP16)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ToolkitError(f"{path}: TensorRT cannot build an engine of it; its log says why")
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        return _Session(trt, engine, engine.create_execution_context())

    def _package(self) -> Any:
        trt = package(self.name, "tensorrt")
        if not torch.cuda.is_available():
            fact = "torch finds no NVIDIA GPU with its driver here"
            raise ToolkitError(f"runtime tensorrt: {fact}; use torch, onnxruntime or openvino")
        return trt


@dataclass(frozen=True)
class _Session:
    trt: Any
    engine: Any
    context: Any

    def infer(self, images: Images) -> Outputs:
        outputs, run = self._prepared(images)
        run()
        return [tensor.float().cpu().numpy() for tensor in outputs]

    def bound(self, images: Images) -> Callable[[], object]:
        return self._prepared(images)[1]

    def _prepared(self, images: Images) -> tuple[list[Tensor], Callable[[], object]]:
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        given = torch.from_numpy(images).to("cuda")
        outputs = []
        for name in names:
            if self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT:
                self.context.set_tensor_address(name, given.data_ptr())
                continue
            outputs.append(torch.empty(tuple(self.engine.get_tensor_shape(name)), device="cuda"))
            self.context.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.Stream()

        def run() -> object:
            self.context.execute_async_v3(stream.cuda_stream)
            stream.synchronize()
            return given  # kept as long as the run that reads it

        return outputs, run
