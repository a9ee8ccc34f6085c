"""Results of a command: JSON files, and the next command to type."""

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cli import as_typed
from ..errors import ToolkitError
from ..files import write_text


def plain(value: Any) -> Any:
    """`value` as JSON values: dataclasses become dicts, paths text, arrays lists, NaN and inf null.

    >>> plain({"map50": float("nan"), "cfg": Path("cfg/x.cfg"), 3: (1, 2)})
    {'map50': None, 'cfg': 'cfg/x.cfg', '3': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _text(value: object) -> str:
    return value.as_posix() if isinstance(value, Path) else str(value)


def write_json(path: Path, mapping: Mapping[str, Any]) -> None:
    """Write `mapping` (see `plain`) to `path` as a whole or not at all."""
    write_text(path, json.dumps(plain(mapping), indent=2) + "\n")


def read_report(path: Path, remedy: str = "give another --report") -> dict[str, Any]:
    """The JSON that a pruning run wrote.

    Raises:
        ToolkitError: it is missing or not a JSON object; with the remedy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fact = "not found; it is the JSON file of the pruning run"
        raise ToolkitError(path, fact, "name it with --report") from error
    except (OSError, ValueError) as error:
        raise ToolkitError(path, f"cannot be read as JSON ({error})", remedy) from error
    if not isinstance(content, dict):
        raise ToolkitError(path, "not the report of a pruning run", remedy)
    return content


def next_command(*parts: str) -> None:
    """Print the command to type next, also from another folder than that of the scripts.

    Args:
        parts: the line in one or more pieces, empty ones among them; the first begins "python script".
    """
    line = " ".join(filter(None, parts))
    program, script, *rest = line.split(" ", 2)
    folder = Path(sys.argv[0]).parent
    if (folder / "models.py").is_file() and (folder / script).is_file():
        line = " ".join([program, quoted(folder / script), *rest])
    print("next:", as_typed(line))


def quoted(path: Path) -> str:
    """A path as one word of a command line."""
    return shlex.quote(path.as_posix())
