"""The files that a command works on.

Invariant: with none of --cfg, --data, --weights given the demo's files apply, all of them; with one given,
the others come from that one or are asked for, never from the demo.
"""

import argparse
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.darknet.checkpoint import load_weights, read_checkpoint
from utils.darknet.model import Darknet
from utils.data.shapes import ensure_shapes
from utils.errors import CfgError, ToolkitError
from utils.files import same_file, write_text

logger = logging.getLogger(__name__)

DEMO_CFG = Path("cfg/yolov3-shapes.cfg")
DEMO_DATA = Path("data/shapes.data")
DEMO_WEIGHTS = Path("weights/last.pt")

Need = Literal["cfg", "data", "weights"]
NEEDS: tuple[Need, ...] = ("cfg", "data", "weights")


@dataclass(frozen=True)
class Project:
    """The files that a command works on; None for one that was neither given nor needed."""

    cfg: Path
    data: Path | None
    weights: Path | None
    is_demo: bool

    def needed(self, name: Need) -> Path:
        """The path of a file that the command cannot do without.

        Raises:
            ToolkitError: it was not given.
        """
        return _required({other: getattr(self, other) for other in NEEDS}, name)


def fresh_network(cfg: Path) -> Darknet:
    """The network of a cfg, as it is before training.

    Raises:
        CfgError: the file cannot be used, or the network detects nothing.
    """
    model = Darknet.from_cfg(cfg)
    if not model.head_specs:
        raise CfgError(f"{cfg}: has no [yolo] section, so it detects nothing; give the cfg of a detector")
    return model


def open_network(cfg: Path, weights: Path) -> Darknet:
    """The network of a cfg with its weights.

    Raises:
        ToolkitError: a file cannot be used, or the network detects nothing.
    """
    model = fresh_network(cfg)
    load_weights(model, weights)
    return model


def _required(files: Mapping[Need, Path | None], name: Need) -> Path:
    path = files[name]
    if path is None:
        others = " ".join(f"--{other}" for other, found in files.items() if found)
        raise ToolkitError(f"--{name}: missing beside {others}; add it, or give none of them for the demo")
    return path


def resolve(args: argparse.Namespace, needs: Collection[Need] = NEEDS) -> Project:
    """Find the command's files by the rule above; make the embedded data set where it is used.

    Args:
        args: has `cfg`, and `data` and `weights` where the command offers them.
        needs: what the command cannot do without (the cfg always).

    Raises:
        ToolkitError: a needed file is neither given nor to be derived.
    """
    cfg, data, weights = (getattr(args, name, None) for name in NEEDS)
    is_demo = not (cfg or data or weights)
    if is_demo:
        cfg, weights = DEMO_CFG, DEMO_WEIGHTS if "weights" in needs else None
        data = DEMO_DATA if hasattr(args, "data") else None
        _check_demo(cfg, weights)
    elif cfg is None and weights is not None:
        cfg = _cfg_of(weights)
    given: dict[Need, Path | None] = {"cfg": cfg, "data": data, "weights": weights}
    for name in ("cfg", *needs):
        _required(given, name)
    if data is not None and same_file(data, DEMO_DATA):
        data = ensure_shapes(DEMO_DATA.parent)
    return Project(_required(given, "cfg"), data, weights, is_demo)


def _check_demo(cfg: Path, weights: Path | None) -> None:
    if not cfg.exists():
        raise ToolkitError(f"{cfg}: not found from here; go to the project's folder, or give --cfg")
    if weights is not None and not weights.exists():
        raise ToolkitError(f"{weights}: the demo's network is not trained yet; run: python train.py")


def _cfg_of(weights: Path) -> Path:
    """The cfg that a checkpoint carries, as a file beside it."""
    remedy = "add --cfg"
    if weights.suffix != ".pt":
        raise ToolkitError(f"--weights {weights}: a .weights file says nothing of its network; {remedy}")
    text = read_checkpoint(weights).cfg
    if text is None:
        raise ToolkitError(f"--weights {weights}: this checkpoint holds no cfg; {remedy}")
    path = weights.with_suffix(".cfg")
    if not path.exists():
        write_text(path, text)
        logger.info("%s: written from the cfg that %s holds", path, weights)
    elif path.read_text(encoding="utf-8") != text:
        raise ToolkitError(f"{path}: differs from the cfg that {weights} holds; {remedy}, or remove {path}")
    return path
