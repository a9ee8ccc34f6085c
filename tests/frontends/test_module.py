"""Networks of any code: pruned they are their zeroed selves, and what was not followed is named."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from slim import Plan, apply_plan, load
from slim import slim as slim_network
from tests.frontends.networks import MIDDLES, Network, network
from utils.errors import PruningError
from utils.frontends.module.subject import ModuleSubject, prune_settled
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.policies import slim_threshold
from utils.pruning.scores import named_scorer, random_scores
from utils.pruning.surgery import prune

EXAMPLE = torch.zeros(1, 3, 16, 16)
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
# what a norm over channels pins, it has to say
NOT_FOLLOWED = {
    "channel mlp": "LayerNorm middle.norm",
    "norm of a map": "LayerNorm middle",
    "one group": "GroupNorm middle",
    "transposed grouped": "ConvTranspose2d middle",
}


@pytest.mark.parametrize("score", ["l1", "random"])
@pytest.mark.parametrize("folding", ["interior", "borders", "off"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_compact_equals_zeroed(middle, score, folding):
    subject = ModuleSubject.of(network(middle), EXAMPLE)
    scorer = named_scorer(score, {"random": random_scores(3)})
    _, result = prune_settled(
        subject, lambda each: prune(each, [slim_threshold(0.5, 0.1)], scorer, folding=folding)
    )
    assert not result.keep.all()
    outputs = [outputs_in_float64(each.model, IMAGES) for each in (result.compact, result.folded)]
    assert relative_difference(*outputs) <= 1e-12


@pytest.mark.parametrize("middle", MIDDLES)
def test_what_is_not_followed_is_named(middle):
    found = ModuleSubject.of(network(middle), EXAMPLE).not_followed
    assert bool(found) == (middle in NOT_FOLLOWED)
    assert all(NOT_FOLLOWED[middle] in text for text in found)


@pytest.mark.parametrize("middle", ["inverted residuals", "squeeze and excitation", "split sizes"])
def test_the_network_that_was_traced_is_left_as_it_is(middle):
    model = network(middle)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(IMAGES)
    prune_settled(
        ModuleSubject.of(model, EXAMPLE),
        lambda each: prune(each, [slim_threshold(0.5, 0.1)], named_scorer("l1", {})),
    )
    with torch.no_grad():
        assert torch.equal(model(IMAGES), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Unknown(nn.Module):
    """Sorts the channels: nothing that a rule could follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values


def test_an_unknown_operation_pins_what_it_reads_and_nothing_else():
    subject = ModuleSubject.of(Network(Unknown()).eval(), EXAMPLE)
    layers = subject.graph.layers
    assert subject.graph.pinned[layers["stem.0"].outputs].all()
    assert not subject.graph.pinned[layers["behind"].outputs].any()
    assert any("sort" in text for text in subject.not_followed)


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(PruningError, match="Network: does not run on a batch of shape 2x5x16x16"):
        ModuleSubject.of(network("nothing"), torch.zeros(1, 5, 16, 16))


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_code_that_looks_at_numbers_keeps_what_it_looks_at():
    subject = ModuleSubject.of(Network(Decides()).eval(), EXAMPLE)
    assert any("sum" in text for text in subject.not_followed)
    assert subject.graph.pinned[subject.graph.layers["stem.0"].outputs].all()
    assert not subject.graph.pinned[subject.graph.layers["behind"].outputs].any()


def test_channels_of_a_shuffle_go_from_the_same_place_of_each_group():
    """Else those that are left would change places."""
    middle = network("shuffles")
    graph = ModuleSubject.of(middle, EXAMPLE).graph
    assert any(np.unique(layer.outputs).size < layer.outputs.size for layer in graph.layers.values())
    assert slim_network(middle, EXAMPLE, 0.5, "random", align=1).report.difference <= 1e-12


def test_layers_called_twice_have_one_width_throughout():
    graph = ModuleSubject.of(network("called twice"), EXAMPLE).graph
    assert graph.layers["middle.conv"].inputs.tolist() == graph.layers["middle.conv"].outputs.tolist()


class Own(nn.Conv2d):
    """A convolution by another name."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=False)


class Changed(Own):
    """No convolution of its weights any more."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), padding=1)


def test_a_convolution_by_another_name_is_one():
    subject = ModuleSubject.of(Network(Own(16)).eval(), EXAMPLE)
    assert "middle" in subject.graph.layers
    assert subject.not_followed == ()


@pytest.mark.parametrize(
    ("middle", "fact"),
    [
        (Changed(16), "(mean) computes statistics"),
        (weight_norm(nn.Conv2d(16, 16, 1)), "weight_norm_interface) is not supported"),
        (spectral_norm(nn.Conv2d(16, 16, 1)), "(mv) is not supported"),
    ],
)
def test_layers_that_compute_their_weights_pin_what_they_read(middle, fact):
    model = Network(middle).eval()
    subject = ModuleSubject.of(model, EXAMPLE)
    assert any(fact in text for text in subject.not_followed)
    assert subject.graph.pinned[subject.graph.layers["stem.0"].outputs].all()
    assert not subject.graph.pinned[subject.graph.layers["behind"].outputs].any()
    assert slim_network(model, EXAMPLE, 0.5, align=1).report.difference <= 1e-12


def test_groups_of_a_norm_go_as_a_whole():
    result = slim_network(network("group norm"), EXAMPLE, 0.5, align=1)
    norm = result.model.middle[1]
    assert 1 < norm.num_groups < 8
    assert (norm.num_channels, len(norm.weight)) == (2 * norm.num_groups, 2 * norm.num_groups)
    again = apply_plan(network("group norm", seed=1), Plan.from_json(result.plan.to_json()))
    load(again, result.model.state_dict())
    assert torch.equal(again(IMAGES), result.model(IMAGES))


def test_a_transposed_depthwise_convolution_narrows_with_its_input():
    result = slim_network(network("transposed depthwise"), EXAMPLE, 0.5, align=1)
    middle = result.model.middle
    assert middle.groups == middle.in_channels == middle.out_channels == len(middle.weight) == 8
