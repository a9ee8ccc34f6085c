"""A budget is met, by a legal mask that is worth at least as much as cutting in order until it fits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.random_graphs import random_graph
from utils.errors import PruningError
from utils.pruning.budget import Removals, fits_all, removals
from utils.pruning.channels import ChannelGraph, ChannelTracer, WidthLimits
from utils.pruning.costs import Costs, Work


def costs_of_graph(graph: ChannelGraph, seed: int = 0) -> Costs:
    """Kernels and maps of some size for every layer."""
    rng = np.random.default_rng(seed)
    work = {
        name: Work(int(rng.choice([1, 9])), int(rng.choice([4, 16, 64])), bool(rng.random() < 0.5))
        for name in graph.layers
    }
    return Costs(graph, work, {}, 0)


def planned(graph: ChannelGraph, costs: Costs, widths: WidthLimits, seed: int) -> Removals:
    values = np.random.default_rng(seed).random(graph.unit_count)
    return removals(graph, values, costs.layer_macs, widths)


def all_widths() -> st.SearchStrategy[WidthLimits]:
    return st.builds(
        WidthLimits,
        align=st.sampled_from([1, 2, 4]),
        min_channels=st.integers(1, 3),
        layer_keep=st.sampled_from([0.0, 0.3, 1.0]),
    )


@settings(max_examples=100)
@given(st.data(), all_widths(), st.integers(0, 99))
def test_every_mask_is_legal_and_keeps_pins_and_floors(data, widths, seed):
    graph = random_graph(data.draw)
    plan = planned(graph, costs_of_graph(graph, seed), widths, seed)
    removed = np.concatenate([np.empty(0, int), *plan.chunks])
    assert len(set(removed.tolist())) == len(removed), "nothing goes twice"
    for count in range(len(plan.chunks) + 1):
        keep = plan.mask(range(count))
        assert keep[graph.pinned].all()
        assert (graph.legal(keep, plan.values, widths.align, widths.min_channels) == keep).all()
        for layer in graph.layers.values():
            assert keep[layer.outputs].sum() >= min(widths.min_channels, len(layer.outputs))
    if widths.layer_keep == 1.0:
        assert plan.mask(range(len(plan.chunks))).all()


@settings(max_examples=100)
@given(st.data(), all_widths(), st.integers(0, 99))
def test_budget_is_met_by_the_most_worth(data, widths, seed):
    graph = random_graph(data.draw)
    costs = costs_of_graph(graph, seed)
    plan = planned(graph, costs, widths, seed)
    whole = costs.macs(np.ones(graph.unit_count, bool))
    least = costs.macs(plan.mask(range(len(plan.chunks))))
    for share in np.linspace(0, 1, 7):
        limit = least + share * (whole - least)
        keep = plan.within(fits_all([(costs.macs, limit)]))
        assert costs.macs(keep) <= limit
        in_order = (plan.mask(range(count)) for count in range(len(plan.chunks) + 1))
        shortest = next(mask for mask in in_order if costs.macs(mask) <= limit)
        assert plan.values[keep].sum() >= plan.values[shortest].sum() - 1e-9
    assert keep.all()


def test_budget_below_the_floors_is_refused():
    tracer = ChannelTracer()
    image = tracer.new(3)
    tracer.pin(image, "image")
    tracer.pin(tracer.layer("head", tracer.layer("conv", image, 8), 4), "output")
    graph = tracer.finish()
    costs = costs_of_graph(graph)
    plan = planned(graph, costs, WidthLimits(min_channels=2), 0)
    fewest = costs.macs(plan.mask(range(len(plan.chunks))))
    assert plan.mask(range(len(plan.chunks)))[graph.layers["conv"].outputs].sum() == 2
    assert plan.within(fits_all([(costs.macs, fewest)])).sum() == 3 + 4 + 2
    with pytest.raises(PruningError, match="smaller than the smallest network"):
        plan.within(fits_all([(costs.macs, fewest - 1)]))


def test_what_is_worth_least_for_what_it_saves_goes_first():
    """Two layers of equal worth: the one with the larger map is cut down first."""
    tracer = ChannelTracer()
    image = tracer.new(3)
    tracer.pin(image, "image")
    large, small = tracer.layer("large", image, 4), tracer.layer("small", image, 4)
    tracer.pin(tracer.layer("head", np.concatenate([large, small]), 2), "output")
    graph = tracer.finish()
    work = {"large": Work(1, 100, False), "small": Work(1, 1, False), "head": Work(1, 1, False)}
    plan = removals(graph, np.ones(graph.unit_count), Costs(graph, work, {}, 0).layer_macs, WidthLimits())
    order = np.concatenate(plan.chunks)
    assert set(order[:3]) < set(graph.layers["large"].outputs)
    assert set(order[3:]) < set(graph.layers["small"].outputs)


def test_several_limits_hold_together():
    tracer = ChannelTracer()
    image = tracer.new(3)
    tracer.pin(image, "image")
    tracer.pin(tracer.layer("head", tracer.layer("conv", image, 16), 4), "output")
    graph = tracer.finish()
    costs = costs_of_graph(graph)
    plan = planned(graph, costs, WidthLimits(), 0)
    whole = np.ones(graph.unit_count, bool)
    for macs, parameters in ((0.9, 0.4), (0.4, 0.9)):
        limits = [
            (costs.macs, macs * costs.macs(whole)),
            (costs.parameters, parameters * costs.parameters(whole)),
        ]
        keep = plan.within(fits_all(limits))
        assert all(cost(keep) <= limit for cost, limit in limits)
        assert any(
            cost(plan.mask(range(count))) > limit
            for cost, limit in limits
            for count in [int((~keep).sum()) - 1]
        )
