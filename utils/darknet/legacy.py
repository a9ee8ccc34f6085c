"""Read .pt files of other programs, without running code from them.

The published pruning programs save `{'model': {'module_list.N.Conv2d.weight': ...}, 'epoch': ...,
'best_fitness': a numpy scalar or array of one, 'training_results': text, 'optimizer': ...}`; N counts
sections as Darknet.
"""

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError

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
