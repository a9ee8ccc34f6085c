"""Awkward code is pruned to what it is with the removed channels at zero, or left as it is and named."""

import copy
import json
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slim import Plan, apply_plan, load, slim
from tests.frontends import awkward
from tests.frontends.awkward import MIDDLES
from tests.frontends.networks import Network, network
from utils.errors import PruningError
from utils.frontends.module.subject import ModuleSubject
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.layers import tensors_in

EXAMPLE = torch.zeros(1, 3, 16, 16)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CASES = {kind.__name__: kind for kind in MIDDLES}


def built(name: str, seed: int = 0) -> Network:
    """In evaluation mode, its norms without shifts: a channel without weights puts out 0 everywhere."""
    torch.manual_seed(seed)
    model = Network(CASES[name]())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.weight.data.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def zeroed(model: nn.Module, plan: Plan) -> nn.Module:
    """The whole network without the weights of what goes: what `slim` is not told how to do."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in plan.kept.items():
            layer = model.get_submodule(name)
            for parameter in layer.parameters():
                rows = parameter.T if isinstance(layer, nn.Embedding) else parameter
                rows[torch.from_numpy(~mask)] = 0
    return model


@pytest.mark.parametrize(("ratio", "score"), [(0.5, "l1"), (0.5, "random"), (0.97, "random")])
@pytest.mark.parametrize("name", CASES)
def test_what_is_left_is_the_network_without_the_weights_of_what_goes(name, ratio, score):
    model = built(name)
    before = copy.deepcopy(model.state_dict())
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    try:
        result = slim(model, EXAMPLE, ratio, score, align=1, folding="off")
    except PruningError:
        assert (name, ratio) == ("Squeezes", 0.97)  # the axis of one channel goes, too
        return
    expected = outputs_in_float64(zeroed(model, result.plan), IMAGES)
    assert relative_difference(outputs_in_float64(result.model, IMAGES), expected) <= 1e-12
    assert result.report.difference <= 1e-12
    after = sum(parameter.numel() for parameter in result.model.parameters())
    assert after == result.report.parameters[1] < result.report.parameters[0]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert attributes == {path: set(vars(module)) for path, module in model.named_modules()}


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_network_narrowed_by_the_plan_takes_the_pruned_state(name):
    result = slim(built(name), EXAMPLE, 0.5, "random", align=1)
    again = apply_plan(built(name, seed=9), Plan.from_json(json.loads(json.dumps(result.plan.to_json()))))
    load(again, result.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGES), result.model(IMAGES), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_what_stays_says_why(name):
    text = MIDDLES[CASES[name]]
    found = [note for note in ModuleSubject.of(built(name), EXAMPLE).not_followed if text in note]
    assert bool(found) == bool(text)


@pytest.mark.parametrize("name", ["NormsOfOneLayer", "NormWithoutGammas", "AttentionOverWindows", "Grouped"])
def test_gammas_judge_what_they_can_and_constants_are_folded(name):
    model = built(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    for score in ("gamma", "random"):
        assert slim(model, EXAMPLE, 0.5, score, align=1, folding="borders").report.difference <= 1e-12


class ReadsTwice(awkward.NormsOfOneLayer):
    """One layer reads what both norms put out."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = (F.relu(norm(self.one(x))) for norm in self.norms)
        return self.three(one) + self.three(two)


@pytest.mark.parametrize(
    ("kind", "unfolded"), [(awkward.NormsOfOneLayer, ()), (ReadsTwice, ("middle.three",))]
)
def test_constants_of_several_norms_are_folded_into_one_bias(kind, unfolded):
    torch.manual_seed(0)
    model = Network(kind()).eval()
    model.middle.two = nn.Conv2d(16, 16, 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_()
            module.running_mean.normal_()
    with torch.no_grad():  # both norms get constants of these, which have to go
        model.middle.one.weight[::2] = 0
    result = slim(model, EXAMPLE, 0.5, "l1", scope="middle.one", align=1)
    assert result.report.unfolded == unfolded
    outputs = [outputs_in_float64(each, IMAGES) for each in (result.model, model)]
    assert (relative_difference(*outputs) <= 1e-6) == (not unfolded)


def test_shared_weights_stay_shared():
    result = slim(built("TiedWeights"), EXAMPLE, 0.5, align=1).model
    assert result.middle.second.weight is result.middle.one.weight
    result = slim(built("SharedParameter"), EXAMPLE, 0.5, align=1).model
    assert result.middle.other.scale is result.middle.scale


class SharesOnePart(nn.Module):
    """Two layers or norms, each on channels of its own, that have a parameter in common."""

    def __init__(self, make: Callable[[], nn.Module], part: str) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 32, 3), nn.Conv2d(16, 32, 3)
        self.of_one, self.of_two = make(), make()
        setattr(self.of_two, part, getattr(self.of_one, part))
        self.behind = nn.Conv2d(64, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = (self.of_one(self.one(x)), torch.relu(self.of_two(self.two(x))))
        return self.behind(torch.cat(both, dim=1))


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: nn.BatchNorm2d(32), "weight"),
        (lambda: nn.GroupNorm(8, 32), "bias"),
        (lambda: nn.PReLU(32), "weight"),
        (lambda: nn.Conv2d(32, 32, 1), "bias"),
        (lambda: nn.ConvTranspose2d(32, 32, 3, groups=32), "weight"),
    ],
)
def test_channels_with_a_parameter_in_common_go_together(make, part):
    torch.manual_seed(0)
    model = Network(SharesOnePart(make, part)).eval()
    result = slim(model, EXAMPLE, 0.5, align=1, folding="off")
    middle = result.model.middle
    assert getattr(middle.of_one, part) is getattr(middle.of_two, part)
    assert len(getattr(middle.of_one, part)) == 16
    torch.testing.assert_close(result.model(IMAGES), zeroed(model, result.plan)(IMAGES))


class SharesWithAnother(nn.Module):
    """The weights of a layer are those of one that reads them the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.back = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 16, 3, padding=1)
        self.back.weight = self.one.weight
        self.behind = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(torch.relu(self.back(torch.relu(self.one(x)))))


def test_weights_that_another_module_reads_otherwise_are_narrowed_once():
    result = slim(Network(SharesWithAnother()).eval(), EXAMPLE, 0.5, align=1)
    middle = result.model.middle
    assert middle.back.weight is middle.one.weight
    assert middle.one.weight.shape[:2] == (8, 8)
    assert result.report.difference <= 1e-12


class SharedReader(nn.Module):
    """One layer reads twice; what is removed puts out 0 the first time, and 0.5 the second."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, 1, bias=False), nn.Conv2d(16, 16, 1, bias=False)
        self.reader = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.reader(self.one(x)), self.reader(torch.sigmoid(self.two(x)))
        return torch.cat((first, second), dim=1)


def test_a_constant_of_a_second_call_alone_is_said_to_be_lost():
    result = slim(Network(SharedReader()).eval(), EXAMPLE, 0.5, scope=("middle.one", "middle.two"), align=1)
    assert result.report.unfolded == ("middle.reader",)


def test_modes_of_all_modules_are_kept():
    for name in ("DecidesByWidth", "NormsOfOneLayer"):
        model = built(name).train()
        model.stem[1].eval()
        found = slim(model, EXAMPLE, 0.5, align=1).model
        modes = {path: module.training for path, module in model.named_modules()}
        assert {path: modes.get(path, True) for path, _ in found.named_modules()} == {
            path: module.training for path, module in found.named_modules()
        }


def test_a_network_that_trains_otherwise_keeps_its_class_and_trains():
    model = slim(built("TrainsOtherwise"), EXAMPLE, align=1).model
    assert type(model) is Network
    model.train()(EXAMPLE.repeat(2, 1, 1, 1)).mean().backward()


Pair = namedtuple("Pair", "map scores")


@dataclass
class Record:
    map: Tensor
    scores: Tensor
    count: int = 2


OUTPUTS = {
    "dict": lambda x, y: {"map": x, "scores": y},
    "ordered": lambda x, y: OrderedDict(scores=y, map=x),
    "none": lambda x, y: (x, None, y),
    "nested": lambda x, y: [x, {"scores": (y, 3)}],
    "named": Pair,
    "record": Record,
    "boolean": lambda x, y: (x > 0, y),
}


class Outputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.one, self.two, self.kind = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), kind
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor):
        x = F.relu(self.two(F.relu(self.one(x))))
        return OUTPUTS[self.kind](x, self.head(x.mean((2, 3))))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_networks_may_put_out_anything(kind):
    torch.manual_seed(0)
    model = Outputs(kind).eval()
    result = slim(model, EXAMPLE, 0.5, align=1, folding="off")
    assert {layer.name: layer.after for layer in result.report.layers} == {"one": 8, "two": 16, "head": 4}
    found, expected = result.model(IMAGES), zeroed(model, result.plan)(IMAGES)
    assert type(found) is type(expected)
    assert len(tensors_in(found)) == 2
    for one, other in zip(tensors_in(found), tensors_in(expected), strict=True):
        torch.testing.assert_close(one, other)


class Words(nn.Module):
    """Kim's convolutions over words: whole numbers go in."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.convolutions = nn.ModuleList([nn.Conv1d(12, 16, size) for size in (2, 3)])
        self.head = nn.Linear(32, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words).transpose(1, 2)
        return self.head(torch.cat([F.relu(layer(x)).amax(2) for layer in self.convolutions], dim=1))


def test_inputs_may_be_whole_numbers():
    torch.manual_seed(0)
    words = torch.randint(0, 50, (4, 9))
    model = Words().eval()
    result = slim(model, words, 0.5, align=1, folding="off")
    assert result.report.parameters[1] < result.report.parameters[0]
    torch.testing.assert_close(result.model(words), zeroed(model, result.plan)(words))
    again = apply_plan(Words().eval(), Plan.from_json(result.plan.to_json()))
    load(again, result.model.state_dict())
    assert torch.equal(again(words), result.model(words))


def test_multiply_adds_count_every_call_and_all_windows():
    twice = slim(network("called twice"), EXAMPLE, 0.0).report
    middle = 16 * 16 * 9 * 8 * 8
    rest = 16 * 3 * 9 * 64 + 16 * 16 * 9 * 64 + 64 * 10
    assert twice.macs[0] == 2 * middle + rest
    windows = slim(built("AttentionOverWindows"), EXAMPLE, 0.0).report
    assert windows.macs[0] == 2 * 16 * 24 * 64 + rest


def test_a_forward_of_the_users_own_stays_and_its_module_too():
    model = network("nothing")
    model.behind.forward = own = lambda x: F.conv2d(x, torch.ones(16, 16, 1, 1).to(x))
    result = slim(model, EXAMPLE, 0.5)
    assert model.behind.forward is own
    assert "Conv2d behind (convolution)" in result.report.not_followed[0]
    assert torch.equal(result.model(IMAGES), model(IMAGES))


def test_a_network_in_a_parallel_wrapper_is_that_network():
    result = slim(nn.DataParallel(network("nothing")), EXAMPLE, 0.5)
    assert set(result.model.state_dict()) == set(network("nothing").state_dict())
    again = apply_plan(nn.DataParallel(network("nothing", seed=5)), result.plan)
    load(again, result.model.state_dict())
    assert torch.equal(again(IMAGES), result.model(IMAGES))
