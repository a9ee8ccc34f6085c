"""Groups partition the layers, and the best of each are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.random_graphs import random_graph
from tests.pruning.toy import ToyNet, ToySubject
from utils.pruning.policies import groups, keep_best


@settings(max_examples=100)
@given(st.data())
def test_groups_partition_layers_and_their_units(data):
    graph = random_graph(data.draw)
    found = groups(graph)
    names = [name for group in found for name in group.layers]
    assert sorted(names) == sorted(graph.layers)
    units = np.concatenate([np.empty(0, int), *(group.units for group in found)])
    assert len(set(units.tolist())) == len(units)
    written = {unit for layer in graph.layers.values() for unit in layer.outputs.tolist()}
    for group in found:
        own = {unit for name in group.layers for unit in graph.layers[name].outputs.tolist()}
        assert own <= set(group.units.tolist())
    assert written <= set(units.tolist())


def test_layers_that_a_shortcut_or_a_depthwise_layer_ties_are_one_group():
    graph = ToySubject.of(ToyNet(blocks=2)).graph
    tied = ("stem.conv", "branches.0.1.conv", "branches.1.1.conv", "depthwise.conv")
    assert [group.layers for group in groups(graph)] == [
        tied,
        ("branches.0.0.conv",),
        ("branches.1.0.conv",),
        ("head",),
    ]


@pytest.mark.parametrize(("share", "left"), [(0.0, 8), (0.5, 4), (0.55, 4), (0.99, 1)])
def test_the_best_share_is_kept_and_never_nothing(share, left):
    graph = ToySubject.of(ToyNet(width=8)).graph
    scores = np.arange(graph.unit_count, dtype=float)
    (first, *_) = groups(graph)
    keep = keep_best(graph, [first], share, scores)
    assert np.flatnonzero(keep[first.units]).tolist() == list(range(8 - left, 8))
    others = np.setdiff1d(np.arange(graph.unit_count), first.units)
    assert keep[others].all()
    first_ones = keep_best(graph, [first], share)
    assert np.flatnonzero(first_ones[first.units]).tolist() == list(range(left))


def test_pinned_units_stay_and_do_not_count_against_the_share():
    graph = ToySubject.of(ToyNet()).graph
    head = groups(graph)[-1]
    assert keep_best(graph, [head], 0.9).all()
