"""The files that a command works on.

Invariant: without --cfg, --data and --weights all files are the demo's; with one of them given, the others
are derived from it or required, never taken from the demo. A checkpoint contains its network.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..darknet.cfg import read_text
from ..darknet.checkpoint import is_checkpoint, load_weights, read_checkpoint
from ..darknet.model import Darknet
from ..darknet.network import Network
from ..data.shapes import ensure_shapes
from ..errors import CfgError, ToolkitError
from ..files import same_file, write_text
from ..options import option
from ..runtimes.detecting import (
    DetectingNetwork,
    as_predict,
    detecting,
    facts_of,
    is_exported,
    of_file,
    runtime_of,
)
from ..runtimes.opencv import OpenCv
from .output import quoted

_DEMO_CFG = Path("cfg/yolov3-shapes.cfg")

Need = Literal["cfg", "data", "weights"]
NEEDS: tuple[Need, ...] = ("cfg", "data", "weights")


@dataclass(frozen=True)
class DemoFiles:
    """The files of the demo.

    Attributes:
        cfg: the stock cfg of a small network.
        data: the generated data set.
        weights: what a training of the demo writes, and pruning reads.
    """

    cfg: Path
    data: Path
    weights: Path

    @classmethod
    def here(cls) -> "DemoFiles":
        """In a checkout its own files; the same below `runs/` of any other folder."""
        folder = Path() if _DEMO_CFG.is_file() else Path("runs")
        return cls(folder / _DEMO_CFG, folder / "data/shapes.data", folder / "weights/last.pt")


def available(path: Path) -> Path:
    """The same path; the demo's cfg and data set are written first where they are missing."""
    demo = DemoFiles.here()
    if path == demo.cfg and not path.is_file():
        write_text(path, read_text(_DEMO_CFG))
    return ensure_shapes(path.parent) if same_file(path, demo.data) else path


@dataclass(frozen=True)
class NetworkOptions:
    """The files of a network."""

    cfg: Path | None = option(None, "Darknet cfg of the network", Path)
    weights: Path | None = option(None, "its .weights file or .pt checkpoint", Path)


@dataclass(frozen=True)
class InputOptions(NetworkOptions):
    """The files of a network, and a data set."""

    data: Path | None = option(None, ".data file of the data set", Path)


@dataclass(frozen=True)
class InputFiles:
    """The files that a command works on; None for one that was not given.

    Attributes:
        cfg: of the network; None where the checkpoint `weights` contains it.
        data: the .data file.
        weights: a .weights file or a .pt checkpoint.
        is_demo: whether these are the demo's files.
    """

    cfg: Path | None
    data: Path | None
    weights: Path | None
    is_demo: bool

    def needed(self, name: Need) -> Path:
        """The path of a required file.

        Raises:
            ToolkitError: it was not given.
        """
        return _required({other: getattr(self, other) for other in NEEDS}, name)

    def network(self) -> Network:
        """The network of the cfg file, or otherwise of the checkpoint.

        Raises:
            CfgError: it cannot be used.
            ToolkitError: there is neither.
        """
        if self.cfg is not None:
            return Network.from_cfg(self.cfg)
        weights = _changeable(self.needed("weights"))
        text = read_checkpoint(weights).cfg if is_checkpoint(weights) else None
        if text is None:
            raise ToolkitError(f"--weights {weights}", "does not contain the cfg of its network", "add --cfg")
        return Network.from_text(text, f"cfg in {weights}")

    def options(self, *names: Need) -> str:
        """The files as command-line options, all or those named; empty for the demo's.

        >>> InputFiles(None, Path("my.data"), Path("best.pt"), False).options("cfg", "weights")
        '--weights best.pt'
        """
        paths = {name: getattr(self, name) for name in names or ("cfg", "weights", "data")}
        given = [] if self.is_demo else [(name, path) for name, path in paths.items() if path]
        return " ".join(f"--{name} {quoted(path)}" for name, path in given)


def fresh_network(network: Network, initialise: bool = True) -> Darknet:
    """A network before training; without `initialise` its weights are not initialized.

    Raises:
        CfgError: it has no detection head.
    """
    model = Darknet(network, initialise)
    if not model.head_specs:
        fact = "has no [yolo] section or other detection head"
        raise CfgError(network.source, fact, "give the cfg of a detector")
    return model


def open_network(files: InputFiles) -> Darknet:
    """The network of the files with its weights.

    Raises:
        ToolkitError: a file is missing or cannot be used, or the network has no detection head.
    """
    weights = _changeable(files.needed("weights"))
    model = fresh_network(files.network(), initialise=False)
    load_weights(model, weights)
    return model


def open_detecting(
    files: InputFiles,
    device: torch.device,
    runtime: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> DetectingNetwork:
    """The network of the files, ready to detect: an exported file on its runtime, anything else in torch.

    Args:
        files: its weights are an exported file, or weights beside a cfg, or a checkpoint.
        device: of torch.
        runtime: one of several that read an exported file; "opencv" for a cfg with its weights.
        image_size: (height, width) for OpenCV, which needs it fixed; None for the cfg's own.

    Raises:
        ToolkitError: a file is missing or cannot be used, or the network has no detection head.
    """
    weights = files.needed("weights")
    if is_exported(weights):
        if not weights.is_file():
            raise ToolkitError(f"--weights {weights}", "not found")
        cfg = None if files.cfg is None else files.network()
        return of_file(weights, runtime_of(weights, runtime), cfg)
    if runtime not in (None, "torch", "opencv"):
        fact = f"runs exported files only, not {weights}"
        raise ToolkitError(f"--runtime {runtime}", fact, "export it first, or leave --runtime out")
    model = open_network(files)
    if runtime != "opencv":
        return detecting(model.to(device))
    size = image_size or (model.network.height, model.network.width)
    predict = as_predict(OpenCv().wrap(model, size), model.network.source)
    return DetectingNetwork(**vars(facts_of(model)), predict=predict)


def open_files(cfg: Path | None, weights: Path) -> Darknet:
    """Another network than the command's own, such as a teacher; cfg None for the one in a checkpoint.

    Raises:
        ToolkitError: as for `open_network`.
    """
    return open_network(InputFiles(cfg, None, weights, is_demo=False))


def _changeable(weights: Path) -> Path:
    """The path; refuses an exported file, which can be run but not pruned, trained or exported."""
    if is_exported(weights):
        fact = "is an exported file, for detect.py, evaluate.py and benchmark.py only"
        raise ToolkitError(f"--weights {weights}", fact, "give the .weights or .pt that it was made from")
    return weights


def _required(files: Mapping[Need, Path | None], name: Need) -> Path:
    path = files[name]
    if path is None:
        others = " ".join(f"--{other}" for other, found in files.items() if found)
        raise ToolkitError(
            f"--{name}", f"missing beside {others}", "add it, or give none of them for the demo"
        )
    return path


def resolve(options: NetworkOptions, needs: Collection[Need] = NEEDS) -> InputFiles:
    """Find the command's files by the rule above; make the generated data set where it is used.

    Args:
        options: of the command; without the field `data`, no data set is looked for.
        needs: files that the command requires (always the network: a cfg, or a checkpoint instead).

    Raises:
        ToolkitError: a required file is neither given nor can be derived.
    """
    cfg, weights = options.cfg, options.weights
    data = options.data if isinstance(options, InputOptions) else None
    is_demo = not (cfg or data or weights)
    if is_demo:
        demo = DemoFiles.here()
        cfg, weights = available(demo.cfg), demo.weights if "weights" in needs else None
        data = demo.data if isinstance(options, InputOptions) else None
        if weights is not None and not weights.exists():
            raise ToolkitError(weights, "the demo's network is not trained yet", "run: python train.py")
    given: dict[Need, Path | None] = {"cfg": cfg, "data": data, "weights": weights}
    if cfg is None and weights is not None:
        if not (is_checkpoint(weights) or is_exported(weights)):
            fact = "a .weights file does not contain its network"
            raise ToolkitError(f"--weights {weights}", fact, "add --cfg")
        needs = set(needs) - {"cfg"}
    else:
        needs = {"cfg", *needs}
    for name in NEEDS:
        if name in needs:
            _required(given, name)
    return InputFiles(cfg, data and available(data), weights, is_demo)
