"""ncnn on the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ToolkitError
from ..extras import package
from .metadata import darknet_of, metadata_path, read_metadata
from .runtime import Images, Outputs, Session, Sizes


@dataclass(frozen=True)
class Ncnn:
    """With as many threads as torch, one image at a time, in f32."""

    name: str = "ncnn"
    precision: str = "f32"
    device: None = None

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(package("runtime ncnn", "ncnn").__version__)

    def load(self, path: Path) -> Session:
        """A .ncnn.param file with its .ncnn.bin beside it, ready to run."""
        ncnn = package("runtime ncnn", "ncnn")
        binary = path.with_suffix(".bin")
        for file in (path, binary):
            if not file.is_file():
                raise ToolkitError(file, "not found", f"ncnn needs both {path.name} and {binary.name}")
        net = ncnn.Net()
        net.opt.num_threads = torch.get_num_threads()
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        if net.load_param(str(path)) or net.load_model(str(binary)):
            raise ToolkitError(path, "ncnn cannot load it", "export the network again")
        metadata = read_metadata(path)
        return _Session(ncnn, net, _sizes(metadata, str(metadata_path(path))), metadata)


def _sizes(metadata: Mapping[str, str], source: str) -> Sizes:
    """Sizes of a batch of one image; only the metadata state them."""
    facts = darknet_of(metadata, source)
    height, width = facts.get("image_size", (None, None))
    return 1, facts.get("channels"), height, width


@dataclass(frozen=True)
class _Session:
    ncnn: Any
    net: Any
    sizes: Sizes
    metadata: Mapping[str, str]

    def infer(self, images: Images) -> Outputs:
        return [
            np.array(output)[None] for output in self._run(self._given(images))
        ]  # ncnn has no batch dimension

    def bound(self, images: Images) -> Callable[[], object]:
        given = self._given(images)
        return lambda: self._run(given)

    def _given(self, images: Images) -> Any:
        if len(images) != 1:
            raise ToolkitError(
                "ncnn", f"accepts one image at a time, not {len(images)}", "give them one by one"
            )
        return self.ncnn.Mat(np.ascontiguousarray(images[0])).clone()

    def _run(self, given: Any) -> list[Any]:
        with self.net.create_extractor() as extractor:
            extractor.input(self.net.input_names()[0], given)
            return [self._extracted(extractor, name) for name in self.net.output_names()]

    def _extracted(self, extractor: Any, name: str) -> Any:
        status, output = extractor.extract(name)
        if status:
            raise ToolkitError(
                "ncnn", f"cannot compute {name} (status {status})", "give an image of the file's size"
            )
        return output
