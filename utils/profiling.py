"""Latency of a network, and of its modules, measured; a network keeps its state."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import nn

PLAIN_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into evaluation mode; on leaving, each gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Latency:
    """Milliseconds that half (p50) and 95 % (p95) of `rounds` runs took at most, on `threads` threads."""

    p50: float
    p95: float
    threads: int
    rounds: int


def measure_latency(
    runs: Mapping[str, Callable[[], object]], rounds: int = 30, warmup: int = 5
) -> dict[str, Latency]:
    """Latency of several runs, measured interleaved.

    Args:
        runs: what to time, by name; each call is one run.
        rounds: timed calls of each.
        warmup: calls of each before the first timed one.

    Returns:
        A Latency for every name of `runs`, in its order.

    Raises:
        ValueError: `rounds` is not positive.
    """
    return {name: latency_of(values) for name, values in interleaved_times(runs, rounds, warmup).items()}


def latency_of(milliseconds: Sequence[float]) -> Latency:
    """Median and 95th percentile of timed calls, with torch's present number of threads."""
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Latency(float(p50), float(p95), torch.get_num_threads(), len(milliseconds))


def interleaved_times(
    runs: Mapping[str, Callable[[], object]],
    rounds: float,
    warmup: int = 5,
    *,
    seconds: float = math.inf,
    least: int = 1,
) -> dict[str, list[float]]:
    """Milliseconds of every timed call, the runs interleaved so that a disturbance meets all of them.

    Entry i of all lists is of the same round, so that ratios of two runs pair what the machine did to both.

    Args:
        runs: what to time, by name.
        rounds: timed calls of each, at most; may be infinite.
        warmup: calls of each before the first timed one.
        seconds: start no further round once this much time was spent in timed calls ...
        least: ... and this many rounds are done.

    Raises:
        ValueError: `rounds` is not positive.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least one is needed")
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    forward, spent = list(runs.items()), 0.0
    for turn in count(-warmup):
        if turn >= rounds or (turn >= least and spent >= seconds):
            return milliseconds
        # The order alternates, so that a rhythm of the machine does not always meet the same run.
        for name, run in forward if turn % 2 else forward[::-1]:
            elapsed = _time(run)
            if turn >= 0:
                milliseconds[name].append(1000 * elapsed)
                spent += elapsed
    raise AssertionError("count() does not end")


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the two of the values between which the true median lies with 95 %.

    The interval that belongs to the sign test: its ends are order statistics, whatever the distribution
    (Conover, Practical Nonparametric Statistics, 3rd edition, 3.2). It takes six values; the extremes of
    fewer hold it less often.

    >>> median_interval([5, 1, 4, 2, 3, 6])
    (3.5, 1, 6)
    """
    ordered, size = sorted(values), len(values)
    below, outside = 0.0, 0
    while below + math.comb(size, outside) / 2**size <= 0.025:
        below += math.comb(size, outside) / 2**size
        outside += 1
    first = max(outside - 1, 0)
    return float(np.median(ordered)), ordered[first], ordered[size - 1 - first]


def fastest(
    runs: Mapping[str, Callable[[], object]], rounds: int = 5, seconds: float = 0.0, warmup: int = 2
) -> dict[str, float]:
    """Milliseconds of each run's fastest call, the runs interleaved.

    A disturbance only ever adds time, so on a busy machine the minimum says more about the code than the
    median, and differences between two runs are preserved. What a user waits for is the median, see
    `measure_latency`.

    Args:
        runs: what to time, by name.
        rounds: timed calls of each, at least.
        seconds: continue with more rounds until this much time was spent in them.
        warmup: calls of each before the first timed one.
    """
    times = interleaved_times(runs, math.inf, warmup, seconds=seconds, least=rounds)
    return {name: min(values) for name, values in times.items()}


def measure_modules(
    runs: Mapping[str, Callable[[], object]],
    modules: Mapping[str, Sequence[nn.Module]],
    rounds: int = 20,
    warmup: int = 3,
) -> dict[str, tuple[float, ...]]:
    """Time the modules of several networks, measured interleaved as in `measure_latency`.

    Args:
        runs: one inference of each network, by name.
        modules: by the same names, the modules to time; one inside another counts in both.
        rounds: timed calls of each run.
        warmup: calls of each before the first timed one.

    Returns:
        For every name of `runs` the median milliseconds that each of its modules takes in one inference, 0
        for one that does not run. Medians do not add up exactly, and a clock is read around every module.

    Raises:
        ValueError: `rounds` is not positive.
    """
    watches = {name: [_Stopwatch() for _ in modules[name]] for name in runs}
    hooks = [
        hook
        for name in runs
        for module, watch in zip(modules[name], watches[name], strict=True)
        for hook in (module.register_forward_pre_hook(watch.start), module.register_forward_hook(watch.stop))
    ]
    laps: dict[str, list[list[float]]] = {name: [] for name in runs}

    def lap(name: str) -> None:
        runs[name]()
        laps[name].append([watch.lap() for watch in watches[name]])

    try:
        interleaved_times({name: partial(lap, name) for name in runs}, rounds, warmup)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: tuple(np.median(values[warmup:], axis=0).tolist()) for name, values in laps.items()}


class _Stopwatch:
    """Adds up the time between the two hooks of a module."""

    def __init__(self) -> None:
        self._started, self._seconds = 0.0, 0.0

    def start(self, *_: object) -> None:
        _synchronize()
        self._started = time.perf_counter()

    def stop(self, *_: object) -> None:
        _synchronize()
        self._seconds += time.perf_counter() - self._started

    def lap(self) -> float:
        """Milliseconds since the last lap."""
        seconds, self._seconds = self._seconds, 0.0
        return 1000 * seconds


def _time(run: Callable[[], object]) -> float:
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():  # a kernel launch returns before the kernel has run
        torch.cuda.synchronize()
