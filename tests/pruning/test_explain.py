"""Every channel has exactly one reason, "below" exactly those that went, and each reason is true."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.random_graphs import random_graph
from utils.errors import PruningError
from utils.pruning.channels import ChannelTracer
from utils.pruning.explain import WHY, Verdict, explain, writers
from utils.pruning.policies import GlobalThreshold
from utils.pruning.scores import unit_scores


def verdict_of(graph, scores, policy: GlobalThreshold, align: int = 1, carried=()) -> Verdict:
    plan = policy(SimpleNamespace(graph=graph), scores)
    carriers = np.zeros(graph.unit_count, bool)
    carriers[list(carried)] = True
    keep = graph.legal(plan.keep | carriers, unit_scores(graph, scores), align)
    return Verdict(graph, scores, plan, keep, carriers & ~plan.keep)


def kinds(verdict: Verdict, name: str) -> list[str]:
    """The reason of each channel."""
    reasons = explain(verdict, name)
    by_channel = {channel: reason.kind for reason in reasons for channel in reason.channels}
    count = len(verdict.graph.layers[name].outputs)
    assert sum(len(reason.channels) for reason in reasons) == len(by_channel) == count, "exactly one reason"
    return [by_channel[channel] for channel in range(count)]


def draw_verdict(data, merge: str, align: int, seed: int) -> Verdict | None:
    graph, rng = random_graph(data.draw), np.random.default_rng(seed)
    scores = {
        name: rng.random(len(layer.outputs)).astype(np.float32)
        for name, layer in graph.layers.items()
        if rng.random() < 0.8
    }
    layer_keep, strict = float(rng.choice([0, 0.3])), bool(rng.random() < 0.5)
    candidates = "all" if rng.random() < 0.7 else "uncoupled"
    policy = GlobalThreshold(float(rng.random()), candidates, merge, layer_keep, strict)
    carried = np.flatnonzero(~graph.pinned)[:1]
    try:
        return verdict_of(graph, scores, policy, align, carried)
    except PruningError:
        return None


@settings(max_examples=150)
@given(
    st.data(),
    st.sampled_from(["union", "leader", "mean", "max", "norm"]),
    st.sampled_from([1, 4]),
    st.integers(0, 2**32 - 1),
)
def test_every_channel_has_one_reason_that_is_true(data, merge, align, seed):
    verdict = draw_verdict(data, merge, align, seed)
    if verdict is None:
        return
    graph, plan = verdict.graph, verdict.plan
    for name, layer in graph.layers.items():
        found = kinds(verdict, name)
        assert [kind == "below" for kind in found] == (~verdict.keep[layer.outputs]).tolist()
        for kind, unit, chain in zip(found, layer.outputs, layer.chains, strict=True):
            assert kind in WHY
            assert (kind == "pinned") == graph.pinned[unit]
            if kind == "passes":
                assert plan.passes[chain]
            elif kind == "voted":
                assert plan.passes[graph.chain_units == unit].any()
                assert not plan.passes[chain]
            elif kind in ("restored", "carrier"):
                assert not plan.keep[unit]
            elif kind in ("floor", "unscored"):
                assert plan.keep[unit]
                assert not plan.passes[graph.chain_units == unit].any()
            if kind == "coupled":
                assert graph.coupled[unit]
                assert plan.candidates == "uncoupled"
            if kind == "unscored":
                writing = {n for n, other in graph.layers.items() if unit in other.outputs}
                assert writing - set(verdict.scores)
            if kind == "floor":
                assert is_among_the_best(verdict, unit)


def is_among_the_best(verdict: Verdict, unit: int) -> bool:
    """Whether the unit is one of the best of a layer that writes to it."""
    for name, values in verdict.scores.items():
        own = values[verdict.graph.layers[name].outputs == unit]
        least = max(1, int(len(values) * 0.3))  # the largest floor drawn
        if len(own) and own.max() >= np.sort(values)[-least]:
            return True
    return False


def residual():
    """stem and branch are added; a conv behind; the head is pinned."""
    tracer = ChannelTracer()
    image = tracer.new(1)
    tracer.pin(image, "image")
    stem = tracer.layer("stem", image, 6)
    branch = tracer.layer("branch", stem, 6)
    tracer.tie(branch, stem)
    conv = tracer.layer("conv", stem, 4)
    tracer.pin(tracer.layer("head", conv, 2), "output")
    return tracer.finish()


def test_each_reason_by_hand():
    graph = residual()
    scores = {
        "stem": np.array([9, 1, 1, 1, 1, 1], np.float32),
        "branch": np.array([1, 9, 1, 1, 1, 1], np.float32),
        "conv": np.array([0, 0.5, 0, 0], np.float32),
    }
    third = int(graph.layers["stem"].outputs[2])
    verdict = verdict_of(graph, scores, GlobalThreshold(0.5), align=2, carried=[third])
    # two pass and the carrier makes three, so an even width brings a fourth back
    assert kinds(verdict, "stem") == ["passes", "voted", "carrier", "restored", "below", "below"]
    assert kinds(verdict, "branch") == ["voted", "passes", "carrier", "restored", "below", "below"]
    assert kinds(verdict, "conv") == ["restored", "floor", "below", "below"]
    assert kinds(verdict, "head") == ["pinned", "pinned"]
    (voted,) = (reason for reason in explain(verdict, "stem") if reason.kind == "voted")
    assert voted.because == ("branch",)
    assert explain(verdict, "head")[0].because == ("output",)


def test_a_writer_without_score_is_named():
    graph = residual()
    scores = {"stem": np.arange(6, dtype=np.float32), "conv": np.array([4, 5, 0, 0], np.float32)}
    verdict = verdict_of(graph, scores, GlobalThreshold(0.5))
    reasons = {reason.kind: reason for reason in explain(verdict, "stem")}
    assert reasons["unscored"].because == ("branch",)
    assert not any(reason.kind == "below" for reason in reasons.values())


@pytest.mark.parametrize("gate_alone", [True, False])
def test_a_gate_without_score_is_named_only_where_nothing_else_writes(gate_alone):
    tracer = ChannelTracer()
    image = tracer.new(1)
    tracer.pin(image, "image")
    scaled, gate = tracer.layer("scaled", image, 4), tracer.layer("gate", image, 4)
    tracer.tie(scaled, gate, "gate")
    tracer.layer("conv", image, 4)
    graph = tracer.finish()
    scores = {"conv": np.array([5, 6, 7, 8], np.float32)}
    if not gate_alone:
        scores["scaled"] = np.array([1, 0, 0, 0], np.float32)
    verdict = verdict_of(graph, scores, GlobalThreshold(0.5))
    if gate_alone:
        assert kinds(verdict, "gate") == ["unscored"] * 4
    else:
        assert kinds(verdict, "gate") == kinds(verdict, "scaled") == ["floor", "below", "below", "below"]


def test_what_a_strategy_leaves_alone_says_so():
    graph = residual()
    scores = {name: np.arange(len(graph.layers[name].outputs), dtype=np.float32) for name in ("stem", "conv")}
    scores["branch"] = scores["stem"]
    verdict = verdict_of(graph, scores, GlobalThreshold(0.5, "uncoupled"))
    assert kinds(verdict, "stem") == kinds(verdict, "branch") == ["coupled"] * 6
    assert kinds(verdict, "conv") == ["below", "below", "below", "passes"]


def test_writers_share_a_unit():
    graph = residual()
    assert writers(graph, "stem") == writers(graph, "branch") == ("stem", "branch")
    assert writers(graph, "conv") == ("conv",)
