"""onnxruntime on the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..extras import package
from .metadata import known_metadata
from .runtime import Images, Outputs, Session, Sizes, unloadable, unusable


@dataclass(frozen=True)
class OnnxRuntime:
    """With as many threads as torch; idle threads sleep instead of spinning."""

    name: str = "onnxruntime"
    precision: str = "f32"
    device: None = None

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(package("runtime onnxruntime", "onnxruntime").__version__)

    def load(self, path: Path) -> Session:
        """An ONNX file, ready to run."""
        onnxruntime = package("runtime onnxruntime", "onnxruntime")
        try:
            session = inference_session(onnxruntime, path)
        except Exception as error:  # its own types have no other public base
            raise unloadable(path, "onnxruntime", error) from error
        given = session.get_inputs()[0]
        sizes = tuple(size if isinstance(size, int) else None for size in given.shape)
        metadata = known_metadata(session.get_modelmeta().custom_metadata_map)
        return _Session(path, session, given.name, sizes, metadata)


def inference_session(onnxruntime: ModuleType, path: Path) -> Any:
    """A session on the CPU with torch's number of threads; raises onnxruntime's own errors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to others
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class _Session:
    path: Path
    session: Any
    input: str
    sizes: Sizes
    metadata: Mapping[str, str]

    def infer(self, images: Images) -> Outputs:
        try:
            return list(self.session.run(None, {self.input: images}))
        except Exception as error:  # its own types have no other public base
            raise unusable(self.path, images.shape, error) from error

    def bound(self, images: Images) -> Callable[[], object]:
        return lambda: self.infer(images)
