"""Load and save weights by file name: `.pt` checkpoints, everything else the Darknet binary.

A checkpoint holds plain tensors, the .weights header and the cfg text, so it can be read without running
code from it (`weights_only=True`) and knows which network it belongs to. Checkpoints of the published
pruning programs (`model` with names `module_list.N.Conv2d.weight`) are read too, never written.

Invariant: .weights -> .pt -> .weights is bitwise equal.
"""

import logging
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import atomic_path, keep_previous, same_file, set_aside, writing
from .heads import Head
from .model import Darknet, section_index
from .network import Network
from .sections import Dropout, Section
from .weights import Cutoff, WeightsHeader, read_weights, write_weights

_PARTS = {"Conv2d": "conv", "conv": "conv", "BatchNorm2d": "norm", "batch_norm": "norm"}
# Exceptions of torch's reader on damaged files, its own asserts included.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    AssertionError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
_NAME = re.compile(r"(?:module\.)?module_list\.(\d+)\.(Conv2d|BatchNorm2d|conv|batch_norm)(?:_\d+)?\.(\w+)")


def load_restricted(path: Path) -> Mapping[str, Any]:
    """Load the dictionary of a .pt file: only tensors, plain data and numpy numbers.

    Raises:
        WeightsError: the file is missing or damaged, or contains other objects.
    """
    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(path, "no such file", "check --weights") from None
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        fact = f"contains objects of {name[1]}, which could run code" if name else "is not a checkpoint"
        raise WeightsError(path, fact, "save a state_dict with the program that made it") from None
    except _DAMAGE as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise WeightsError(path, f"is not a checkpoint, or damaged ({reason})", "copy it again") from None
    if not isinstance(content, Mapping):
        fact = f"contains a {type(content).__name__}, not a dictionary"
        raise WeightsError(path, fact, "give a checkpoint")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return {"model": content}
    return content


def translate_names(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Translate names: `module_list.3.BatchNorm2d.weight` becomes `layers.3.norm.weight`.

    Names of this project stay as they are.

    Raises:
        WeightsError: a name of another kind of network, or a value that is not a tensor.
    """
    translated = {}
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise WeightsError(path, f"{name!r} is not a name", "give a checkpoint that train.py wrote")
        if not _is_plain(tensor):
            fact = f"{name!r} is not a tensor of real numbers"
            raise WeightsError(path, fact, "give a checkpoint that train.py wrote")
        if re.fullmatch(r"layers\.\d+\.\w+(\.\w+)?", name):
            translated[name] = tensor
            continue
        match = _NAME.fullmatch(name)
        if match is None:
            fact = f"{name!r} is not the name of a Darknet network's weights"
            raise WeightsError(path, fact, "give a checkpoint of a network built from a cfg")
        translated[f"layers.{match[1]}.{_PARTS[match[2]]}.{match[3]}"] = tensor
    return translated


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor that parameters can be copied from."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        return False
    return not (value.is_complex() or value.is_quantized)


def _numpy_numbers() -> list[Any]:
    """The classes of pickled numpy scalars and arrays, under the names of numpy 1 and 2."""
    functions = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(1).__reduce__()[0]}
    types = [type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "?")]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    named = [(function, f"{module}.{name}") for module in modules for name, function in functions.items()]
    return [np.dtype, np.ndarray, *types, *named]


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
