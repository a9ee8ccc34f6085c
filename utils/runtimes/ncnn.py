"""ncnn on the processor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ToolkitError
from ..extras import package
from .runtime import Images, Outputs, Session, Sizes, read_texts, texts_path
from .texts import darknet_of


@dataclass(frozen=True)
class Ncnn:
    """With as many threads as torch has, one image at a time; computes in f32."""

    name: str = "ncnn"
    precision: str = "f32"
    device: None = None

    @property
    def version(self) -> str:
        """Of the package."""
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
            raise ToolkitError(path, "ncnn cannot load it", "export the network anew")
        texts = read_texts(path)
        return _Session(ncnn, net, _sizes(texts, str(texts_path(path))), texts)


def _sizes(texts: Mapping[str, str], source: str) -> Sizes:
    """Of one image; the file itself does not say of which size."""
    facts = darknet_of(texts, source)
    height, width = facts.get("image_size", (None, None))
    return 1, facts.get("channels"), height, width


@dataclass(frozen=True)
class _Session:
    ncnn: Any
    net: Any
    sizes: Sizes
    texts: Mapping[str, str]

    def infer(self, images: Images) -> Outputs:
        return [np.array(output)[None] for output in self._run(self._given(images))]  # ncnn knows no batch

    def bound(self, images: Images) -> Callable[[], object]:
        given = self._given(images)
        return lambda: self._run(given)

    def _given(self, images: Images) -> Any:
        if len(images) != 1:
            raise ToolkitError(
                "ncnn", f"takes one image at a time, not {len(images)}", "give them one by one"
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
                "ncnn", f"cannot compute {name} (status {status})", "is the image of the file's size?"
            )
        return output
