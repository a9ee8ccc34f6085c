"""Metadata of an exported file, validated as untrusted input."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..detection.nms import NMS_KINDS
from ..errors import ToolkitError


def darknet_of(texts: Mapping[str, str], source: str) -> dict[str, Any]:
    """The text "darknet": letterbox, nms_kind, beta_nms, image_size (height, width) and channels.

    Args:
        texts: of the file, see `runtime.TEXTS`.
        source: name of the file in messages.

    Returns:
        Those five; empty without such a text.

    Raises:
        ToolkitError: it is invalid.
    """
    if "darknet" not in texts:
        return {}
    said = _parsed(texts, "darknet", source)
    if not isinstance(said, dict):
        raise _refusal(source, f"darknet: {said!r} is not an object")
    for name, (wanted, fits) in _DARKNET.items():
        if name not in said:
            raise _refusal(source, f"darknet: {name} is missing")
        if not fits(said[name]):
            raise _refusal(source, f"darknet: {name} {said[name]!r} is not {wanted}")
    return {name: said[name] for name in _DARKNET} | {"image_size": tuple(said["image_size"])}


def names_of(texts: Mapping[str, str], source: str) -> tuple[str, ...]:
    """The text "names", those of the classes; empty without such a text.

    Raises:
        ToolkitError: it is not a list of texts.
    """
    names = _parsed(texts, "names", source) if "names" in texts else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _refusal(source, f"names: {names!r} is not a list of texts")
    return tuple(names)


def size_step_of(texts: Mapping[str, str], source: str) -> int | None:
    """The largest of the text "strides", in pixels; None without such a text.

    Raises:
        ToolkitError: it is not a list of whole numbers above 0.
    """
    strides = _parsed(texts, "strides", source) if "strides" in texts else []
    if not isinstance(strides, list) or not all(_is_count(stride) for stride in strides):
        raise _refusal(source, f"strides: {strides!r} is not a list of whole numbers above 0")
    return max(strides, default=None)


def _parsed(texts: Mapping[str, str], name: str, source: str) -> object:
    try:
        return json.loads(texts[name])
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
