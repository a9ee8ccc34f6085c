"""Metadata of an exported file, validated as untrusted input."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..detection.boxes import NMS_KINDS
from ..errors import ToolkitError

# Metadata of an exported file, each a text that contains JSON.
METADATA_KEYS = ("names", "strides", "anchors", "cfg_sha256", "darknet")
_SHORT = 160  # characters of a value in a message


def metadata_path(path: Path) -> Path:
    """The JSON file with the metadata of a format that cannot store them itself.

    >>> metadata_path(Path("best.engine")).name
    'best.engine.json'
    """
    return path.with_name(f"{path.name}.json")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata beside the file `path`, see `metadata_path`; empty without such a file.

    Raises:
        ToolkitError: it is not a JSON object.
    """
    return known_metadata(read_beside(path))


def read_beside(path: Path) -> dict[str, object]:
    """Content of the JSON file beside `path`; empty without such a file.

    Raises:
        ToolkitError: it is not a JSON object.
    """
    file = metadata_path(path)
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{str(found)[:_SHORT]!r} is not an object")
    except (ValueError, RecursionError) as error:
        fact = f"invalid metadata ({error})"
        raise ToolkitError(file, fact, "export the network again") from error
    return found


def known_metadata(found: Mapping[str, object]) -> dict[str, str]:
    """Those of `METADATA_KEYS` among the metadata of a file."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in found.items()
        if name in METADATA_KEYS
    }


def darknet_of(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """The text "darknet": letterbox, nms_kind, beta_nms, image_size (height, width) and channels.

    Args:
        metadata: of the file, see `METADATA_KEYS`.
        source: name of the file in messages.

    Returns:
        Those five; empty without such a text.

    Raises:
        ToolkitError: it is invalid.
    """
    if "darknet" not in metadata:
        return {}
    said = _parsed(metadata, "darknet", source)
    if not isinstance(said, dict):
        raise _refusal(source, f"darknet: {said!r} is not an object")
    for name, (wanted, fits) in _DARKNET.items():
        if name not in said:
            raise _refusal(source, f"darknet: {name} is missing")
        if not fits(said[name]):
            raise _refusal(source, f"darknet: {name} {said[name]!r} is not {wanted}")
    return {name: said[name] for name in _DARKNET} | {"image_size": tuple(said["image_size"])}


def names_of(metadata: Mapping[str, str], source: str) -> tuple[str, ...]:
    """The text "names", those of the classes; empty without such a text.

    Raises:
        ToolkitError: it is not a list of texts.
    """
    names = _parsed(metadata, "names", source) if "names" in metadata else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _refusal(source, f"names: {names!r} is not a list of texts")
    return tuple(names)


def size_step_of(metadata: Mapping[str, str], source: str) -> int | None:
    """The largest of the text "strides", in pixels; None without such a text.

    Raises:
        ToolkitError: it is not a list of whole numbers above 0.
    """
    strides = _parsed(metadata, "strides", source) if "strides" in metadata else []
    if not isinstance(strides, list) or not all(_is_count(stride) for stride in strides):
        raise _refusal(source, f"strides: {strides!r} is not a list of whole numbers above 0")
    return max(strides, default=None)


def _parsed(metadata: Mapping[str, str], name: str, source: str) -> object:
    try:
        return json.loads(metadata[name])
    except (ValueError, RecursionError) as error:
        raise _refusal(source, f"{name}: not valid JSON ({error})") from error


def _refusal(source: str, fact: str) -> ToolkitError:
    return ToolkitError(source, f"invalid metadata ({fact})", "export the network again")


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf


_DARKNET: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "letterbox": ("true or false", lambda value: isinstance(value, bool)),
    "nms_kind": (f"one of {', '.join(NMS_KINDS)}", lambda value: value in NMS_KINDS),
    "beta_nms": ("a number", _is_number),
    "image_size": ("[height, width]", _is_size),
    "channels": ("a whole number above 0", _is_count),
}
