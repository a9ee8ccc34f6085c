"""Reading .pt files written elsewhere, without running code from them.

The published pruning programs save `{'model': {'module_list.N.Conv2d.weight': ...}, 'epoch': ...,
'best_fitness': a numpy scalar, 'training_results': text, 'optimizer': ...}`; N counts sections as Darknet.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import WeightsError

_PARTS = {"Conv2d": "conv", "conv": "conv", "BatchNorm2d": "norm", "batch_norm": "norm"}
_NAME = re.compile(r"(?:module\.)?module_list\.(\d+)\.(Conv2d|BatchNorm2d|conv|batch_norm)(?:_\d+)?\.(\w+)")


def load_restricted(path: Path) -> Mapping[str, Any]:
    """The dictionary in a .pt file: tensors, plain data and numpy scalars only.

    Raises:
        WeightsError: the file is missing, damaged, or holds other objects.
    """
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; check --weights") from None
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        fact = f"holds objects of {name[1]}, which could run code" if name else "is no checkpoint"
        raise WeightsError(f"{path}: {fact}; save a state_dict with the program that made it") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{path}: is no checkpoint, or damaged ({reason}); copy it again") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, no dictionary; give a checkpoint")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return {"model": content}
    return content


def translate_names(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """`module_list.3.BatchNorm2d.weight` -> `layers.3.norm.weight`, and so on.

    Names of this project stay as they are.

    Raises:
        WeightsError: a name of another kind of network, or a value that is no tensor.
    """
    translated = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise WeightsError(f"{path}: {name!r} is no tensor; give a checkpoint that train.py wrote")
        if re.fullmatch(r"layers\.\d+\.\w+(\.\w+)?", name):
            translated[name] = tensor
            continue
        match = _NAME.fullmatch(name)
        if match is None:
            fact = f"holds {name!r}, which is no name of a Darknet network's weights"
            raise WeightsError(f"{path}: {fact}; give a checkpoint of a network built from a cfg")
        translated[f"layers.{match[1]}.{_PARTS[match[2]]}.{match[3]}"] = tensor
    return translated


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy number consists of, under the names of numpy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "?")]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *types, *((scalar, name) for name in names)]
