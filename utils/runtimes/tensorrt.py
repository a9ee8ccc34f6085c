"""TensorRT on an NVIDIA GPU: engine files, and engines built from ONNX files, on torch's tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingPackageError, ToolkitError
from ..extras import package
from .metadata import metadata_path, read_beside, read_metadata
from .runtime import Images, Outputs, Session, Sizes

PRECISIONS = ("f32", "f16")
PACKAGES = ("tensorrt", "tensorrt_rtx")  # same interface; each reads only its own engines


@dataclass(frozen=True)
class TensorRt:
    """With inputs and outputs on the GPU: timings exclude copying the image."""

    precision: str = "f32"
    name: str = "tensorrt"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            fact = f"unknown precision {self.precision!r}"
            raise ToolkitError("runtime tensorrt", fact, f"use one of {', '.join(PRECISIONS)}")

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(_package(PACKAGES).__version__)

    @property
    def device(self) -> str:
        """Model of the GPU."""
        _package(PACKAGES)
        return torch.cuda.get_device_name()

    def load(self, path: Path) -> Session:
        """An .engine file, or an ONNX file with fixed sizes, ready to run.

        Raises:
            ToolkitError: it was built for another GPU or version, or cannot be built.
        """
        trt = _package(_builders(path))
        logger = trt.Logger(trt.Logger.ERROR)
        plan = path.read_bytes() if path.suffix == ".engine" else self._plan(trt, logger, path)
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            fact = "was built for another GPU or another version of TensorRT"
            raise ToolkitError(path, fact, "export the network again for this machine")
        return _Session(trt, engine, engine.create_execution_context(), read_metadata(path))

    def _plan(self, trt: Any, logger: Any, path: Path) -> Any:
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(path)):
            raise ToolkitError(path, f"TensorRT cannot read it: {parser.get_error(0)}", "export it again")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa would not be f32
        if self.precision == "f16":
            if not hasattr(trt.BuilderFlag, "FP16"):  # strongly typed: the ONNX file decides the precision
                raise ToolkitError(
                    path, "this TensorRT takes the precision from the file", "export it with --precision fp16"
                )
            config.set_flag(trt.BuilderFlag.FP16)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ToolkitError(path, "TensorRT cannot build an engine from it", "see its log above")
        return plan


def _builders(path: Path) -> Sequence[str]:
    """Packages that may read a file: for an engine the one that built it, named in the JSON beside it."""
    facts = read_beside(path).get("tensorrt", {})
    if not isinstance(facts, dict):
        fact = f"invalid metadata (tensorrt: {facts!r} is not an object)"
        raise ToolkitError(metadata_path(path), fact, "export the network again")
    builder = facts.get("package")
    return [name for name in PACKAGES if name == builder] or PACKAGES


def _package(names: Sequence[str]) -> Any:
    """The first installed package, on a machine with a GPU."""
    missing = []
    for name in names:
        try:
            trt = package("runtime tensorrt", name)
        except MissingPackageError as error:
            missing.append(error)
            continue
        if torch.cuda.is_available():
            return trt
        fact = "torch finds no NVIDIA GPU with a driver"
        raise ToolkitError("runtime tensorrt", fact, "use torch, onnxruntime or openvino")
    raise missing[0]


@dataclass(frozen=True)
class _Session:
    trt: Any
    engine: Any
    context: Any
    metadata: Mapping[str, str]

    @property
    def sizes(self) -> Sizes:
        (name,) = self._names(self.trt.TensorIOMode.INPUT)
        return tuple(size if size > 0 else None for size in self.engine.get_tensor_shape(name))

    def infer(self, images: Images) -> Outputs:
        outputs, run = self._prepared(images)
        run()
        return [tensor.float().cpu().numpy() for tensor in outputs]

    def bound(self, images: Images) -> Callable[[], object]:
        return self._prepared(images)[1]

    def _prepared(self, images: Images) -> tuple[list[Tensor], Callable[[], object]]:
        (name,) = self._names(self.trt.TensorIOMode.INPUT)
        given = torch.from_numpy(images).to("cuda")
        if not self.context.set_input_shape(name, tuple(given.shape)):
            fact = f"does not accept images of shape {tuple(given.shape)}"
            raise ToolkitError("TensorRT engine", fact, "give a shape that it was built for")
        self.context.set_tensor_address(name, given.data_ptr())
        outputs = []
        for name in self._names(self.trt.TensorIOMode.OUTPUT):
            outputs.append(torch.empty(tuple(self.context.get_tensor_shape(name)), device="cuda"))
            self.context.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.Stream()

        def run() -> object:
            self.context.execute_async_v3(stream.cuda_stream)
            stream.synchronize()
            return given  # kept alive during the run

        return outputs, run

    def _names(self, mode: Any) -> list[str]:
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        return [name for name in names if self.engine.get_tensor_mode(name) == mode]
