"""Load and save weights by file name: `.pt` checkpoints, everything else the Darknet binary.

A checkpoint holds plain tensors, the .weights header and the cfg text, so it can be read without running
code from it (`weights_only=True`) and knows which network it belongs to. Checkpoints of the published
pruning programs (`model` with names `module_list.N.Conv2d.weight`) are read too, never written.

Invariant: .weights -> .pt -> .weights is bitwise equal.
"""

import logging
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import atomic_path, keep_previous, same_file, set_aside, writing
from .heads import Head
from .legacy import load_restricted, translate_names
from .model import Darknet, section_index
from .network import Network
from .sections import Dropout, Section
from .weights import Cutoff, WeightsHeader, read_weights, write_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a .pt file.

    Attributes:
        state: parameter and buffer name (`layers.0.conv.weight`, ...) -> tensor on the CPU.
        cfg: the network's cfg text; None in checkpoints of other programs.
        training: what the training loop stored to resume from.
    """

    state: Mapping[str, Tensor]
    header: WeightsHeader = field(default_factory=WeightsHeader)
    cfg: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def is_checkpoint(path: Path) -> bool:
    """Whether a file name means a .pt checkpoint rather than Darknet's binary."""
    return path.suffix.lower() in (".pt", ".pth")


def load_weights(model: Darknet, path: str | Path, cutoff: Cutoff = None) -> None:
    """Load weights from a .pt checkpoint or, with any other suffix, a Darknet binary.

    Args:
        model: changed in place, its header included; unchanged on an error.
        cutoff: N loads only the first N sections; "auto" finds N from the length of a Darknet binary.

    Raises:
        WeightsError: the file cannot be read or belongs to another network.
    """
    path = Path(path)
    if not is_checkpoint(path):
        model.header = read_weights(path, model, cutoff)
        return
    checkpoint = read_checkpoint(path)
    count = len(model.network)
    if isinstance(cutoff, int):
        if not 0 < cutoff <= count:
            remedy = f"{model.network.source} has {count} sections"
            raise WeightsError(path, f"cutoff={cutoff} is out of range", remedy)
        count = cutoff
    _load_state(model, checkpoint, path, count)
    model.header = checkpoint.header


def save_weights(model: Darknet, path: str | Path) -> None:
    """Write a .pt checkpoint or, with any other suffix, a Darknet binary."""
    path = Path(path)
    if is_checkpoint(path):
        save_checkpoint(path, model)
    else:
        write_weights(path, model, model.header)


def save_checkpoint(
    path: Path,
    model: Darknet,
    training: Mapping[str, Any] | None = None,
    previous: Path | None = None,
) -> None:
    """Write a .pt checkpoint, atomically.

    Args:
        training: state to resume from: only tensors, numbers, strings and containers of them.
        previous: where the replaced file is kept, once the new one is complete.

    Raises:
        ToolkitError: it cannot be written.
    """
    content = {
        "cfg": model.network.to_cfg(),
        "header": asdict(model.header),
        "model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "training": dict(training or {}),
    }
    with writing(path), atomic_path(path) as temporary:
        torch.save(content, temporary)
        if previous is not None:
            keep_previous(path, previous)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .pt file of this project or of the published programs, without running code from it.

    Raises:
        WeightsError: the file is missing or damaged, contains objects that are not plain data, or no weights.
    """
    path = Path(path)
    content = load_restricted(path)
    if "model" not in content or not isinstance(content["model"], Mapping):
        raise WeightsError(path, "has no 'model' with tensors", "give a checkpoint that train.py wrote")
    state = translate_names(content["model"], path)
    if "cfg" in content:
        return _own_checkpoint(state, content, path)
    return Checkpoint(state, training={key: value for key, value in content.items() if key != "model"})


def _own_checkpoint(state: Mapping[str, Tensor], content: Mapping[str, Any], path: Path) -> Checkpoint:
    cfg, training = content["cfg"], content.get("training", {})
    remedy = "give a checkpoint that train.py wrote"
    for key, value, kind in (("cfg", cfg, str), ("training", training, Mapping)):
        if not isinstance(value, kind):
            raise WeightsError(path, f"its {key!r} is of type {type(value).__name__}", remedy)
    try:
        header = WeightsHeader(**content.get("header", {}))
        header.pack()
    except (TypeError, struct.error):
        raise WeightsError(path, "its 'header' is not that of a .weights file", remedy) from None
    return Checkpoint(state, header, cfg, training)


def convert(cfg: str | Path, weights: str | Path, output: str | Path | None = None) -> Path:
    """Convert a .pt checkpoint to .weights, or any Darknet binary to .pt.

    An existing .pt that contains more than weights, such as training state, is kept under a name with a time
    stamp.

    Args:
        output: where to; by default next to the input with the other suffix.

    Returns:
        The path written.

    Raises:
        WeightsError: the weights cannot be read, or the output would overwrite them.
    """
    source = Path(weights)
    target = Path(output) if output else source.with_suffix(".weights" if is_checkpoint(source) else ".pt")
    if same_file(source, target):
        raise WeightsError(target, "is the input itself", "give another output")
    model = Darknet.from_cfg(cfg)
    load_weights(model, source)
    if is_checkpoint(target) and target.exists() and not _holds_only_weights(target):
        kept = set_aside(target)
        logger.warning("%s contains more than weights and would be overwritten: kept as %s", target, kept)
    save_weights(model, target)
    return target


def _holds_only_weights(path: Path) -> bool:
    try:
        return not read_checkpoint(path).training
    except WeightsError:
        return False


def _load_state(model: Darknet, checkpoint: Checkpoint, path: Path, count: int) -> None:
    """Copy the first `count` sections, after a check that they are the same in both."""
    if checkpoint.cfg is not None:
        theirs = Network.from_text(checkpoint.cfg, f"cfg in {path}")
        _require_same_sections(model.network, theirs, path, count)
    state = {name: tensor for name, tensor in model.state_dict().items() if section_index(name) < count}
    given = {name: tensor for name, tensor in checkpoint.state.items() if section_index(name) < count}
    for name in sorted(dict.fromkeys([*state, *given]), key=section_index):
        found, ours = (tuple(part[name].shape) if name in part else "absent" for part in (given, state))
        # Checkpoints older than PyTorch 0.4.1 have no such counter.
        if found != ours and not name.endswith(".num_batches_tracked"):
            fact = f"{name} is {found} in the file and {ours} here"
            _refuse_pair(model.network, path, section_index(name), fact)
    with torch.no_grad():
        for name in given.keys() & state.keys():
            state[name].copy_(given[name])


def _require_same_sections(ours: Network, theirs: Network, path: Path, count: int) -> None:
    for index in range(count):
        if index >= len(theirs):
            _refuse_pair(ours, path, index, f"the checkpoint's network ends after {len(theirs)} sections")
        if not _interchangeable(ours[index], theirs[index]):
            there = f"[{theirs[index].kind}] #{index} of the checkpoint's own cfg"
            _refuse_pair(ours, path, index, f"differs from {there}{_difference(ours[index], theirs[index])}")
    if count == len(ours) < len(theirs):
        fact = f"the checkpoint's network has {len(theirs) - len(ours)} sections more after it"
        _refuse_pair(ours, path, len(ours) - 1, fact)


def _difference(ours: Section, theirs: Section) -> str:
    if type(ours) is not type(theirs):
        return ""
    keys = dict.fromkeys([*theirs.options, *ours.options])
    changed = [key for key in keys if theirs.options.get(key) != ours.options.get(key)]
    return f" ({', '.join(f'{key}={theirs.options.get(key, None)} there' for key in changed)})"


def _interchangeable(ours: Section, theirs: Section) -> bool:
    """Whether weights mean the same in both; what only training or decoding uses may differ."""
    if type(ours) is not type(theirs) or ours.sources != theirs.sources:
        return False
    return isinstance(ours, (Dropout, Head)) or ours == theirs


def _refuse_pair(network: Network, path: Path, index: int, fact: str) -> None:
    place = network.place(min(index, len(network) - 1))
    fact = f"does not fit the cfg, first at {place}: {fact}"
    raise WeightsError(path, fact, "give the cfg it was made with")
