import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.random_graphs import random_graph
from utils.pruning.channels import ChannelTracer


def test_depthwise_chain_is_one_writer_and_not_coupled():
    tracer = ChannelTracer()
    image = tracer.new(3)
    first = tracer.layer("first", image, 4)
    tracer.layer("depthwise", first, 4, groups=4)
    graph = tracer.finish()
    assert graph.layers["first"].outputs.tolist() == graph.layers["depthwise"].outputs.tolist()
    assert graph.layers["first"].chains.tolist() == graph.layers["depthwise"].chains.tolist()
    assert graph.layers["depthwise"].depthwise
    assert not graph.coupled.any()
    assert graph.unit_count == 7


def test_depthwise_multiplier_ties_each_output_to_its_input():
    tracer = ChannelTracer()
    first = tracer.layer("first", tracer.new(1), 2)
    wide = tracer.layer("depthwise", first, 6, groups=2)
    graph = tracer.finish()
    unit = graph.layers["first"].outputs
    assert graph.layers["depthwise"].outputs.tolist() == np.repeat(unit, 3).tolist()
    assert len(wide) == 6


def test_shortcut_couples_and_keeps_two_writers():
    tracer = ChannelTracer()
    first = tracer.layer("first", tracer.new(3), 4)
    second = tracer.layer("second", first, 4)
    tracer.tie(first[:2], second[:2])  # only the overlap is added
    graph = tracer.finish()
    assert graph.coupled.sum() == 2
    assert (graph.layers["first"].outputs == graph.layers["second"].outputs).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert len(graph.chain_units) == 8


def test_followers_and_pins_are_renumbered_to_units():
    tracer = ChannelTracer()
    image = tracer.new(2)
    tracer.pin(image, "image")
    out = tracer.layer("conv", image, 3, norm="norm")
    tracer.pin(out[2:], "output")
    graph = tracer.finish()
    assert graph.followers["norm"].channels.tolist() == graph.layers["conv"].outputs.tolist()
    assert graph.pinned.tolist() == [True, True, False, False, True]
    assert graph.pin_reasons == {0: "image", 1: "image", 4: "output"}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t: t.tie(t.new(2), t.new(3)), "cannot tie 2 channels to 3"),
        (lambda t: t.section(t.new(5), 2), "cannot divide 5 channels"),
        (lambda t: t.layer("a", t.new(4), 6, groups=4), "groups=4 do not divide 4 -> 6"),
        (lambda t: (t.layer("a", t.new(1), 1), t.layer("a", t.new(1), 1)), "traced twice"),
    ],
)
def test_impossible_statements_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act(ChannelTracer())


def test_legal_restores_the_best_channel_of_an_emptied_layer():
    tracer = ChannelTracer()
    tracer.layer("conv", tracer.new(1), 3)
    graph = tracer.finish()
    keep = graph.legal(np.zeros(4, bool), np.array([9.0, 1.0, 3.0, 2.0]))
    assert keep.tolist() == [True, False, True, False]


def test_aligned_sections_do_not_ratchet_to_full_width():
    tracer = ChannelTracer()
    out = tracer.layer("conv", tracer.new(1), 32)
    tracer.section(out, 2)
    graph = tracer.finish()
    wish = np.zeros(33, bool)
    wish[1:6] = True  # five of the first section
    keep = graph.legal(wish, np.arange(33.0), align=8)
    assert keep[1:17].sum() == keep[17:].sum() == 8


def test_concatenation_with_an_odd_width_does_not_ratchet_to_full_width():
    tracer = ChannelTracer()
    odd, even = tracer.layer("odd", tracer.new(1), 20), tracer.layer("even", tracer.new(1), 64)
    tracer.pin(tracer.layer("head", np.concatenate([odd, even]), 1), "output")
    graph = tracer.finish()
    wish = np.ones(graph.unit_count, bool)
    wish[graph.layers["even"].outputs[8:]] = False
    keep = graph.legal(wish, np.zeros(graph.unit_count), align=8)
    assert keep[graph.layers["odd"].outputs].sum() == 20
    assert keep[graph.layers["even"].outputs].sum() == 8


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1))
def test_legal_holds_its_invariants(data, align, seed):
    graph = random_graph(data.draw)
    rng = np.random.default_rng(seed)
    wish = rng.random(graph.unit_count) < rng.random()
    scores = rng.random(graph.unit_count)
    keep = graph.legal(wish, scores, align)
    assert (keep >= wish).all(), "only adds"
    assert (graph.legal(keep, scores, align) == keep).all(), "idempotent"
    assert keep[graph.pinned].all(), "keeps pins"
    assert all(keep[tensor].any() for tensor in graph.tensors()), "empties nothing"
    for sections in graph.equal_sections:
        assert len({int(keep[ids].sum()) for ids in sections}) == 1, "equal sections"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from([2, 4, 8]))
def test_alignment_rounds_up_unless_all_is_kept(channels, kept, align):
    tracer = ChannelTracer()
    tracer.layer("conv", tracer.new(1), channels)
    graph = tracer.finish()
    wish = np.arange(channels + 1) <= kept
    count = int(graph.legal(wish, np.zeros(channels + 1), align)[1:].sum())
    assert count == channels or (count % align == 0 and count - max(1, kept) < align)
