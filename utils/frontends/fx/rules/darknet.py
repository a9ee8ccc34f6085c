"""Rules for the modules of `Darknet` that are no plain code: those of its sections in `darknet_rules`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ....darknet.modules import LocalAvgpool, RawHead, Reorg, Shortcut, Softmax
from ..call import INPUT, Call, Rule
from ..values import Labels, channels, spread
from .arithmetic import channelwise


def _shortcut(call: Call) -> Labels:
    tracer, module = call.trace.tracer, call.module
    assert isinstance(module, Shortcut)
    first, *others = (channels(tracer, value, 1, INPUT) for value in call.values)
    for other, overlap in zip(others, module.overlaps[1:], strict=True):
        tracer.tie(first[:overlap], other[:overlap])
    if module.weights is not None and module.weights.shape[1] > 1:
        tracer.follow(f"{call.name}.weights", first, axis=1)
    return spread(first, call.result.shape, 1)


def _reorg(call: Call) -> Labels:
    tracer, module, (value,) = call.trace.tracer, call.module, call.values
    assert isinstance(module, Reorg)
    ids = channels(tracer, value, 1, INPUT)
    runs = ids.reshape(-1, module.stride**2)
    for mixed in runs.T[1:]:
        tracer.tie(runs[:, 0], mixed, "joint")
    return spread(np.tile(ids, module.stride**2), call.result.shape, 1)


def _pinned(call: Call) -> Labels | None:
    (value,) = call.values
    ids = channels(call.trace.tracer, value, 1, INPUT)
    call.trace.tracer.pin(ids, f"{call.what} needs its channels")
    return spread(ids, call.result.shape, 1) if call.result.ndim == value.tensor.ndim else None


DARKNET_RULES: Mapping[Any, Rule] = MappingProxyType(
    {Shortcut: _shortcut, Reorg: _reorg, RawHead: _pinned, Softmax: _pinned, LocalAvgpool: channelwise}
)
