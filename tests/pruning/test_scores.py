"""Each score against its formula in plain float64 numpy; Taylor terms against differences of the loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.errors import PruningError
from utils.pruning.channels import ChannelTracer
from utils.pruning.policies import GlobalThreshold
from utils.pruning.scores import (
    chain_scores,
    gamma_scores,
    merged_scores,
    named_scorer,
    random_scores,
    taylor_scores,
    unit_scores,
)


@pytest.fixture
def subject():
    return ToySubject.of(randomised(ToyNet(width=6, blocks=2, size=3)))


def filters(subject, name: str) -> np.ndarray:
    weight = subject.model.get_submodule(name).weight.detach().numpy().astype(np.float64)
    return weight.reshape(len(weight), -1)


MEASURES = {
    "l1": lambda f: np.array([sum(abs(value) for value in row) for row in f]),
    "l2": lambda f: np.array([sum(value**2 for value in row) ** 0.5 for row in f]),
    "fpgm": lambda f: np.array([sum(np.linalg.norm(row - other) for other in f) for row in f]),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_of_filters_are_relative_to_their_layer(subject, name):
    scores = named_scorer(name)(subject)
    assert list(scores) == list(subject.graph.layers)
    for layer, values in scores.items():
        expected = MEASURES[name](filters(subject, layer))
        np.testing.assert_allclose(values, expected / expected.mean(), rtol=2e-5)
        assert values.dtype == np.float32


def test_a_group_score_is_the_mean_over_all_that_goes_with_a_channel(subject):
    """Rows, gammas and columns of weights, each over its layer's mean, looked up channel by channel."""
    model, graph = subject.model, subject.graph
    terms: dict[int, list[float]] = {}
    for name, layer in graph.layers.items():
        weight = np.abs(model.get_submodule(name).weight.detach().numpy().astype(np.float64))
        found = [(layer.outputs, weight.reshape(len(weight), -1).sum(1))]
        if layer.norm:
            gamma = model.get_submodule(layer.norm).weight.detach().numpy().astype(np.float64)
            found.append((layer.outputs, np.abs(gamma)))
        if not layer.depthwise:
            per_group, rows = weight.shape[1], len(weight) // layer.groups
            columns = [
                weight[number // per_group * rows :][:rows, number % per_group].sum()
                for number in range(len(layer.inputs))
            ]
            found.append((layer.inputs, np.array(columns)))
        for units, sums in found:
            for unit, term in zip(units.tolist(), sums / sums.mean(), strict=True):
                terms.setdefault(unit, []).append(term)
    assert any(layer.depthwise for layer in graph.layers.values())
    for name, values in named_scorer("group")(subject).items():
        expected = [np.mean(terms[unit]) for unit in graph.layers[name].outputs.tolist()]
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_gamma_is_its_absolute_value_where_there_is_a_norm(subject):
    scores = gamma_scores(subject)
    assert set(scores) == set(subject.graph.layers) - {"head"}
    for layer, values in scores.items():
        norm = subject.model.get_submodule(subject.graph.layers[layer].norm)
        assert values.tolist() == np.abs(norm.weight.detach().numpy()).astype(np.float32).tolist()
        assert (norm.weight < 0).any()


def test_gammas_of_a_linear_layer_count_too():
    tracer = ChannelTracer()
    tracer.layer("linear", tracer.new(3), 4, norm="norm")
    model = nn.ModuleDict({"linear": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4)})
    model["norm"].weight.data = torch.tensor([1.0, -2.0, 0.0, 3.0])
    scores = gamma_scores(SimpleNamespace(model=model, graph=tracer.finish()))
    assert scores["linear"].tolist() == [1, 2, 0, 3]


def test_products_leave_out_what_one_factor_cannot_judge(subject):
    scores = named_scorer("gamma_x_l1_x_fpgm")(subject)
    factors = [named_scorer(name)(subject) for name in ("gamma", "l1", "fpgm")]
    assert set(scores) == set(factors[0])
    for layer, values in scores.items():
        np.testing.assert_allclose(values, np.prod([factor[layer] for factor in factors], axis=0), rtol=1e-6)


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(PruningError, match=r"unknown score 'l3'; use gamma, l1, l2, fpgm, group, or several"):
        named_scorer("gamma_x_l3")


def test_random_scores_repeat_by_their_seed(subject):
    first, again, other = (random_scores(seed)(subject) for seed in (3, 3, 4))
    assert all((values == again[name]).all() for name, values in first.items())
    assert not all((values == other[name]).all() for name, values in first.items())
    assert {name: len(values) for name, values in first.items()} == {
        name: len(layer.outputs) for name, layer in subject.graph.layers.items()
    }


def loss(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images).square().mean()


def test_taylor_is_the_change_of_the_loss_when_a_gate_moves_to_zero(subject):
    """First order: difference quotient in float64, times the step from gamma to 0; the mean over batches."""
    generator = torch.Generator().manual_seed(2)
    images = [torch.rand(2, 3, 10, 10, dtype=torch.float64, generator=generator) for _ in range(2)]
    scores = taylor_scores(images, loss)(subject)
    assert set(scores) == set(subject.graph.layers)
    step = 1e-6
    for name in subject.graph.layers:
        norm = subject.graph.layers[name].norm
        gate = subject.model.get_submodule(norm or name).weight
        expected = np.zeros(len(gate))
        with torch.no_grad():
            for channel in range(len(gate)):
                whole = gate[channel].clone()
                for batch in images:
                    up, down = (
                        _at(subject.model, gate, channel, whole * (1 + s), batch) for s in (step, -step)
                    )
                    expected[channel] += abs(up - down) / (2 * step) / len(images)
                gate[channel] = whole
        np.testing.assert_allclose(scores[name], expected, rtol=1e-4, atol=1e-7)


def _at(model: nn.Module, gate: torch.Tensor, channel: int, value: torch.Tensor, images) -> float:
    gate[channel] = value
    return float(loss(model, images))


def test_taylor_leaves_no_gradients_and_no_flags(subject):
    for number, parameter in enumerate(subject.model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    flags = [parameter.requires_grad for parameter in subject.model.parameters()]
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    with torch.no_grad():  # as a command may be in
        taylor_scores([torch.rand(1, 3, 10, 10, dtype=torch.float64)], loss)(subject)
    assert [parameter.requires_grad for parameter in subject.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())


def test_taylor_without_a_batch_is_refused(subject):
    with pytest.raises(PruningError, match="no batch to compute gradients on"):
        taylor_scores([], loss)(subject)


def two_writers(third_has_score: bool):
    """a and b are added; c writes alone, then d depthwise behind it."""
    tracer = ChannelTracer()
    image = tracer.new(1)
    a, b = tracer.layer("a", image, 3), tracer.layer("b", image, 3)
    tracer.tie(a, b)
    tracer.layer("d", tracer.layer("c", image, 3), 3, groups=3)
    scores = {"a": [1, 2, 6], "b": [3, 4, 0], "c": [5, 1, 2], "d": [4, 7, 1]}
    floats = {name: np.array(values, np.float32) for name, values in scores.items()}
    if not third_has_score:
        del floats["b"]
    return tracer.finish(), floats


@pytest.mark.parametrize(
    ("merge", "sums"),
    [("mean", [2, 3, 3]), ("max", [3, 4, 6]), ("norm", [10**0.5, 20**0.5, 6])],
)
def test_merged_scores_are_the_same_for_all_writers(merge, sums):
    graph, scores = two_writers(True)
    merged = merged_scores(graph, chain_scores(graph, scores), merge)
    for name in "ab":
        np.testing.assert_allclose(merged[graph.layers[name].chains], sums, rtol=1e-6)
    np.testing.assert_allclose(merged[graph.layers["c"].chains], [4, 1, 1], rtol=1e-6)


def test_a_writer_without_score_makes_its_unit_invaluable():
    graph, scores = two_writers(False)
    best = unit_scores(graph, scores)
    assert np.isinf(best[graph.layers["a"].outputs]).all()
    assert best[graph.layers["c"].outputs].tolist() == [4, 1, 1]
    for merge in ("mean", "max", "norm"):
        merged = merged_scores(graph, chain_scores(graph, scores), merge)
        assert np.isnan(merged[graph.layers["a"].chains]).all()


def gated(gate_is_scored: bool):
    """A layer scaled by a gate, as in squeeze-and-excitation, and a gate that scales nothing scored."""
    tracer = ChannelTracer()
    image = tracer.new(1)
    tracer.pin(image, "image")
    scaled, gate = tracer.layer("scaled", image, 4), tracer.layer("gate", image, 4)
    tracer.tie(scaled, gate, "gate")
    other, alone = tracer.layer("other", image, 2), tracer.layer("alone", image, 2)
    tracer.tie(other, alone, "gate")
    scores = {"scaled": np.array([4, 1, 3, 2], np.float32)}
    if gate_is_scored:
        scores["gate"] = np.array([1, 9, 1, 1], np.float32)
    return tracer.finish(), scores


def kept(graph, scores, merge) -> dict[str, list[bool]]:
    plan = GlobalThreshold(0.5, merge=merge)(SimpleNamespace(graph=graph), scores)
    return {name: plan.keep[layer.outputs].tolist() for name, layer in graph.layers.items()}


@pytest.mark.parametrize("merge", ["union", "leader", "mean", "max", "norm"])
def test_gate_without_score_leaves_the_vote_to_what_it_scales(merge):
    graph, scores = gated(False)
    found = kept(graph, scores, merge)
    assert found["scaled"] == found["gate"] == [True, False, False, False]
    assert found["alone"] == [True, True], "nothing that writes to it has a score"
    best = unit_scores(graph, scores)
    assert best[graph.layers["scaled"].outputs].tolist() == [4, 1, 3, 2]
    assert np.isinf(best[graph.layers["other"].outputs]).all()


def test_gate_with_a_score_votes():
    graph, scores = gated(True)
    assert kept(graph, scores, "union")["scaled"] == [True, True, True, False]
    assert not graph.coupled.any()


@pytest.mark.parametrize("merge", ["union", "leader", "mean", "max", "norm"])
def test_a_gate_without_a_score_has_no_say_in_what_units_are_worth(merge):
    tracer = ChannelTracer()
    conv = tracer.layer("conv", tracer.new(1), 2)
    tracer.tie(conv, tracer.layer("gate", conv, 2), "gate")
    lone = tracer.layer("lone", conv, 1)
    graph = tracer.finish()
    values = unit_scores(graph, {"conv": np.array([3.0, 4.0], np.float32)}, merge)
    assert values[graph.layers["conv"].outputs].tolist() == [3.0, 4.0]
    assert np.isinf(values[graph.layers["lone"].outputs]).all(), f"{len(lone)} without a score stays"


@pytest.mark.parametrize(("merge", "worth"), [("mean", 3.5), ("max", 4.0), ("norm", 5.0), ("union", 4.0)])
def test_units_are_worth_what_their_writers_come_to(merge, worth):
    tracer = ChannelTracer()
    first = tracer.layer("first", tracer.new(1), 1)
    tracer.tie(first, tracer.layer("second", first, 1))
    graph = tracer.finish()
    scores = {name: np.array([value], np.float32) for name, value in (("first", 3.0), ("second", 4.0))}
    assert unit_scores(graph, scores, merge)[graph.layers["first"].outputs] == worth
