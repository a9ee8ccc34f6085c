"""What a cfg says of training, as the options of the same meaning.

Lengths in [net] count iterations of a training of `max_batches`; here they are shares of it, so that they
mean the same in a shorter one.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from ...darknet.network import Network
from ...errors import CfgError
from ...options import (
    AT_LEAST_ONE,
    FRACTION,
    FRACTION_BELOW_ONE,
    NON_NEGATIVE_FLOAT,
    POSITIVE_FLOAT,
    POSITIVE_INT,
)
from ...training.options import TrainingOptions

Value = TypeVar("Value")
logger = logging.getLogger(__name__)

# the rates in cfgs are meant for Darknet's loss, a sum over objects; the modern one is a mean
SGD_RATE_FACTOR = 8.0
# In a Darknet training, half of the images are left alone (load_data_detection, data.c).
MIXED = 0.5
# batch=1 stands in cfgs that are prepared for testing
_TESTING = 1
# of the modern loss, which Darknet has not: a cfg may bring its own values, other programs pass them over
LOSS_READERS: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {
        **dict.fromkeys(("box_weight", "objectness_weight", "classes_weight"), NON_NEGATIVE_FLOAT),
        **dict.fromkeys(("iou_threshold", "neighbours", "balance", "iou_objectness"), FRACTION),
    }
)
COLOUR_READERS: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {"hue": FRACTION, "saturation": POSITIVE_FLOAT, "exposure": POSITIVE_FLOAT}
)
# the policy of Darknet -> our schedule; what is missing here follows the default
_POLICIES = {"steps": "steps", "sgdr": "sgdr", "constant": "constant"}


def cfg_defaults(
    network: Network, optimizer: str | None, loss: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Names of `TrainingOptions` -> values, None where the cfg says nothing.

    Args:
        network: whose [net] section and last head are read.
        optimizer, loss: as typed; None for the default.
        given: options that were typed, which decide what others mean.

    Raises:
        CfgError: a value is none that the option of that meaning could have.
    """
    rate = _net(network, "learning_rate", POSITIVE_FLOAT)
    if rate is not None and optimizer == "sgd" and loss != "darknet":
        rate *= SGD_RATE_FACTOR
    defaults: dict[str, Any] = {
        "epochs": _net(network, "max_epochs", POSITIVE_INT),
        "learning_rate": rate,
        "momentum": _net(network, "momentum", FRACTION_BELOW_ONE),
        "decay": _net(network, "decay", FRACTION),
        "image_size": (network.height, network.width),
        "burn_in_power": _net(network, "power", POSITIVE_FLOAT),
        "multi_scale": _of_last_head(network, "random", float, bool),
        "label_smoothing": _of_last_head(network, "label_smooth_eps", FRACTION),
    }
    defaults |= {key: _net(network, key, kind) for key, kind in LOSS_READERS.items()}
    epochs = given.get("epochs") or defaults["epochs"] or TrainingOptions.epochs
    return {**defaults, **_batch(network), **_course(network), **_burn_in(network, epochs)}


def augment_of(network: Network) -> dict[str, float]:
    """Fields of `Augment` -> values: of [net] and the last head's jitter.

    Darknet's jitter moves each side of the crop by up to this share; here it bounds zoom and aspect, and
    half of it the shift.
    """
    changes = {key: _net(network, key, kind) for key, kind in COLOUR_READERS.items()}
    for key in ("flip", "mosaic", "mixup"):
        changes[key] = _net(network, key, lambda text: MIXED * (float(text) > 0))
    jitter = _of_last_head(network, "jitter", FRACTION)
    if jitter is not None:
        changes |= {"scale": 1 + jitter, "aspect": 1 + jitter, "translate": jitter / 2}
    return {key: value for key, value in changes.items() if value is not None}


def _batch(network: Network) -> dict[str, int]:
    batch = _net(network, "batch", POSITIVE_INT) or _TESTING
    parts = _net(network, "subdivisions", POSITIVE_INT) or 1
    if batch <= _TESTING or batch < parts:
        return {}
    return {"batch_size": batch // parts, "accumulate": parts}


def _course(network: Network) -> dict[str, Any]:
    """The schedule, with lengths as shares of max_batches."""
    total = _net(network, "max_batches", POSITIVE_INT)
    policy = network.options.get("policy", "")
    kind = _POLICIES.get(policy)
    if policy and kind is None:
        logger.warning("%s: [net] policy=%s is not known here: a cosine instead", network.source, policy)
    if kind == "sgdr":
        cycle = _net(network, "sgdr_cycle", POSITIVE_INT)
        growth = _net(network, "sgdr_mult", AT_LEAST_ONE)
        share = min(1.0, cycle / total) if cycle and total else None
        return {"schedule": kind, "cycle": share, "cycle_growth": growth}
    if kind != "steps":
        return {"schedule": kind}
    steps = _net(network, "steps", _numbers) or ()
    scales = _net(network, "scales", _numbers) or ()
    if len(steps) != len(scales):
        fact = f"[net] has {len(steps)} steps and {len(scales)} scales"
        raise CfgError(network.source, fact, "give equally many of both")
    if not total or not steps:
        return {}
    shares = tuple(min(1.0, max(0.0, step / total)) for step in steps)
    return {"schedule": kind, "steps": shares, "scales": scales}


def _burn_in(network: Network, epochs: int) -> dict[str, float]:
    """The cfg's burn-in where it is longer than the measured one: too short a one has cost trainings."""
    total, length = (_net(network, key, POSITIVE_INT) for key in ("max_batches", "burn_in"))
    if not total or not length:
        return {}
    wanted = length / total * epochs
    return {"burn_in": wanted} if wanted > TrainingOptions.burn_in else {}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())


def _net(network: Network, key: str, kind: Callable[[str], Value]) -> Value | None:
    return _read(network.options, key, kind, f"{network.source}: [net] {key}")


def _of_last_head(
    network: Network, key: str, kind: Callable[[str], Any], then: Callable[[Any], Any] = lambda value: value
) -> Any:
    if not network.heads:
        return None
    head = network.heads[-1]
    value = _read(network[head].options, key, kind, f"{network.place(head)} {key}")
    return None if value is None else then(value)


def _read(options: Mapping[str, str], key: str, kind: Callable[[str], Value], place: str) -> Value | None:
    """The value of a key as the option of that meaning reads it."""
    if key not in options:
        return None
    try:
        return kind(options[key])
    except argparse.ArgumentTypeError as error:
        raise CfgError(place, str(error), "correct it") from None
    except ValueError:
        raise CfgError(f"{place}={options[key]}", "is not a number", "correct it") from None
