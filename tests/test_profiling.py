"""Times of runs that take turns, and networks handed back as they came."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.profiling import (
    evaluating,
    fastest,
    interleaved_times,
    measure_latency,
    measure_modules,
    median_interval,
)


class Reusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(self.conv(self.conv(images))))


def test_evaluating_is_inference_for_the_time_of_the_block() -> None:
    model = Reusing().train()
    with evaluating(model) as same:
        assert same is model
        assert not any(module.training for module in model.modules())
    assert model.training


def test_runs_take_turns_and_warm_up_is_not_timed() -> None:
    calls: list[str] = []
    runs = {"original": lambda: calls.append("o"), "compact": lambda: calls.append("c")}
    result = measure_latency(runs, rounds=3, warmup=2)
    assert [sorted(calls[turn : turn + 2]) for turn in range(0, 10, 2)] == [["c", "o"]] * 5
    assert calls[::2] == ["c", "o", "c", "o", "c"]  # there and back
    assert list(result) == ["original", "compact"]
    assert result["compact"].rounds == 3
    assert result["compact"].threads == torch.get_num_threads()


def test_quantiles_come_from_the_timed_rounds_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [9.0, 0.001, 0.002, 0.003]  # seconds; the first is the warm-up
    ticks = itertools.accumulate(itertools.chain.from_iterable((0.0, duration) for duration in durations))
    monkeypatch.setattr("utils.profiling.time.perf_counter", lambda: next(ticks))
    latency = measure_latency({"run": lambda: None}, rounds=3, warmup=1)["run"]
    assert latency.p50 == pytest.approx(2.0)
    assert latency.p95 == pytest.approx(2.9)


def test_rounds_end_when_the_time_is_up_but_not_before_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("utils.profiling.time.perf_counter", lambda: float(next(ticks)))  # each call 1 s
    runs = {"one": lambda: None, "two": lambda: None}
    assert [len(values) for values in interleaved_times(runs, 9, 1, seconds=5, least=2).values()] == [3, 3]
    assert [len(values) for values in interleaved_times(runs, 9, 1, seconds=0, least=4).values()] == [4, 4]
    assert [len(values) for values in interleaved_times(runs, 2, 1).values()] == [2, 2]


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Of skewed values, at two counts; 1,000 trials have a standard error of 0.7 points."""
    rng = np.random.default_rng(0)
    for count in (6, 21):
        trials = rng.exponential(size=(1000, count))
        intervals = [median_interval(values)[1:] for values in trials.tolist()]
        held = np.mean([low <= np.log(2) <= high for low, high in intervals])
        assert 0.94 <= held <= 0.99


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        measure_latency({"run": lambda: None}, rounds=0)


def test_the_fastest_of_as_many_rounds_as_the_time_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # seconds; a and b to warm up, then b a, a b, b a
    durations = [0.9, 0.9, 0.008, 0.003, 0.002, 0.009, 0.007, 0.004]
    ticks = itertools.accumulate(itertools.chain.from_iterable((0.0, duration) for duration in durations))
    monkeypatch.setattr("utils.profiling.time.perf_counter", lambda: next(ticks))
    calls: list[str] = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    best = fastest(runs, rounds=2, seconds=0.030, warmup=1)
    assert best == pytest.approx({"a": 2.0, "b": 7.0})
    assert calls == ["a", "b", "b", "a"] * 2


def test_modules_of_several_networks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that tells 1 s more at each look: a module takes 1 s, two calls of it 2 s."""
    ticks = itertools.count()
    monkeypatch.setattr("utils.profiling.time.perf_counter", lambda: float(next(ticks)))
    model, small, idle = Reusing().eval(), nn.Conv2d(3, 1, 1), nn.Identity()
    calls: list[str] = []
    runs = {
        "reusing": lambda: (calls.append("r"), model(torch.zeros(1, 3, 2, 2))),
        "small": lambda: (calls.append("s"), small(torch.zeros(1, 3, 2, 2))),
    }
    modules = {"reusing": [model.conv, model.norm, idle], "small": [small]}
    times = measure_modules(runs, modules, rounds=2, warmup=1)
    assert calls == ["r", "s", "s", "r", "r", "s"]
    assert times == {"reusing": (2000.0, 1000.0, 0.0), "small": (1000.0,)}


def test_the_time_of_a_module_is_the_median_of_the_timed_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [9.0, 0.001, 0.5, 0.003]  # seconds; the first is the warm-up
    # the clock is read around the network and around its module
    looks = itertools.chain.from_iterable((0.0, 0.0, duration, 0.0) for duration in durations)
    ticks = itertools.accumulate(looks)
    monkeypatch.setattr("utils.profiling.time.perf_counter", lambda: next(ticks))
    layer = nn.Identity()
    times = measure_modules({"one": lambda: layer(torch.zeros(1))}, {"one": [layer]}, rounds=3, warmup=1)
    assert times["one"][0] == pytest.approx(3.0)


def test_timing_leaves_no_hook_behind() -> None:
    layer = nn.Conv2d(4, 2, 1)
    with pytest.raises(RuntimeError, match="channels"):
        measure_modules({"one": lambda: layer(torch.zeros(1, 3, 2, 2))}, {"one": [layer]})
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
