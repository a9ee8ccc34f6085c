"""Models of a benchmark: a cfg with its weights, a checkpoint, or an exported file."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ...darknet.checkpoint import is_checkpoint
from ...darknet.model import Darknet, fused
from ...errors import ToolkitError
from ...exporters.tracing import BoxesAndScores, module_session
from ...pruning.costs import count_macs, count_parameters
from ...runtimes.detecting import (
    DetectingNetwork,
    detecting,
    is_exported,
    of_file,
    readers,
    runtime_of,
    size_check,
)
from ...runtimes.opencv import OpenCv
from ...runtimes.runtime import OPEN, Runtime, Session, Sizes
from ..inputs import open_files

_PAIR = re.compile(r"(.+\.cfg):(.+)", re.IGNORECASE)
_DIGITS = 12  # of a digest that distinguishes files

Shape = tuple[int, ...]  # batch, channels, height, width


@dataclass(frozen=True)
class Model:
    """One of the networks that are compared.

    Attributes:
        cfg: of the network; None where the file needs none.
        path: its weights, checkpoint or exported file.
    """

    cfg: Path | None
    path: Path

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.path.name if self.cfg is None else self.path.stem

    @cached_property
    def digest(self) -> str:
        """Digest of its files."""
        digest = hashlib.sha256(b"" if self.cfg is None else self.cfg.read_bytes())
        for path in self.files:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:_DIGITS]

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the model except the cfg; formats with separate weights have two."""
        binary = self.path.with_suffix(".bin")
        is_pair = self.path.suffix in (".xml", ".param")
        return (self.path, binary) if is_pair and binary.is_file() else (self.path,)

    @cached_property
    def darknet(self) -> Darknet | None:
        """The network in torch; None for an exported file."""
        return None if is_exported(self.path) else open_files(self.cfg, self.path).eval()

    def costs(self) -> tuple[int | None, int | None]:
        """Parameters and multiply-adds at its own size; None for an exported file."""
        if self.darknet is None:
            return None, None
        network = self.darknet.network
        size = (network.height, network.width)
        return count_parameters(self.darknet), count_macs(self.darknet, size, network.channels(-1))

    def network(self, device: torch.device) -> DetectingNetwork:
        """The model ready for evaluation, an exported file on its usual runtime.

        Raises:
            ToolkitError: the file lacks information, or its runtime is missing.
        """
        if self.darknet is None:
            return of_file(self.path, runtime_of(self.path))
        return detecting(self.darknet.to(device))

    def session(self, runtime: Runtime, shape: Shape) -> Session:
        """The model on a runtime, for images of one shape; returns boxes and scores.

        Errors name no place: they become notes of a cell, which names model and runtime.

        Raises:
            ToolkitError: the runtime or the file does not support that.
        """
        if self.darknet is not None:
            return _session(self.darknet.cpu(), runtime, shape)
        if runtime.name not in readers(self.path):
            raise ToolkitError("", f"{runtime.name} does not read files of this kind")
        loaded = runtime.load(self.path)
        if any(own not in (None, given) for own, given in zip(loaded.sizes, shape, strict=True)):
            sizes = "x".join("any" if own is None else str(own) for own in loaded.sizes)
            raise ToolkitError("", f"the file has the fixed input shape {sizes}")
        size_check(loaded, self.path.name)(shape)
        return loaded


def _session(model: Darknet, runtime: Runtime, shape: Shape) -> Session:
    channels = model.network.channels(-1)
    if channels != shape[1]:
        raise ToolkitError(model.network.source, f"takes images of {channels} channels, not {shape[1]}")
    if isinstance(runtime, OpenCv):
        return runtime.wrap(model, (shape[2], shape[3]))
    if runtime.name == "ncnn":
        raise ToolkitError("ncnn", "runs only its own files", "export the network first")
    with torch.no_grad():
        model(torch.zeros(1, *shape[1:]))  # an invalid size raises the network's own error
    return module_session(BoxesAndScores(fused(model), model.head_specs).eval(), torch.zeros(shape), runtime)


def own_runtimes(models: Sequence[Model]) -> list[str]:
    """Default runtimes: an exported file on its usual runtime, others on ONNX Runtime.

    >>> own_runtimes([Model(None, Path("a.onnx")), Model(None, Path("a.xml")), Model(None, Path("a.pt"))])
    ['onnxruntime', 'openvino']
    """
    return list(dict.fromkeys((*readers(model.path), "onnxruntime")[0] for model in models))


def sizes_of_files(models: Sequence[Model]) -> list[Sizes]:
    """Input shapes of exported files; one that cannot be loaded is left out, its cells state the reason."""
    found = []
    for model in models:
        if is_exported(model.path):
            with suppress(Exception):  # each runtime's own
                found.append(runtime_of(model.path).load(model.path).sizes)
    return [sizes for sizes in found if len(sizes) == len(OPEN)]


def digest_of_all(models: Sequence[Model]) -> str:
    """Digest of names and contents of models, in order."""
    text = "\n".join(f"{model.digest} {model.name}" for model in models)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def parse_model(text: str) -> Model:
    """Parse a model as users write it.

    >>> parse_model("cfg/a.cfg:weights/b.weights").name, parse_model("weights/b.onnx").name
    ('b', 'b.onnx')

    Raises:
        ToolkitError: not a model.
    """
    pair = _PAIR.fullmatch(text)
    model = Model(Path(pair[1]), Path(pair[2])) if pair else Model(None, Path(text))
    if model.cfg is None and not (is_checkpoint(model.path) or is_exported(model.path)):
        raise ToolkitError(
            f"--models {text}", "is neither cfg:weights nor an exported file", "write a.cfg:a.weights"
        )
    return model


def open_models(texts: Sequence[str]) -> list[Model]:
    """Open all models; their names must differ.

    Raises:
        ToolkitError: as for `parse_model`, or one is named twice, or a cfg and its weights do not fit.
    """
    models = [parse_model(text) for text in texts]
    for model in models:
        for path in (model.cfg, model.path):
            if path is not None and not path.is_file():
                raise ToolkitError(
                    f"--models {path}", "not found", "give a.cfg:a.weights or an exported file"
                )
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ToolkitError("--models", f"two are called {twice}", "rename one of the files")
    for model in models:
        _ = model.darknet  # a mismatch is reported before hours of measuring
    return models
