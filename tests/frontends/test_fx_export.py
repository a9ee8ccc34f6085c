"""What torch.fx cannot trace goes by way of torch.export: same rules, same proof."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slim import Plan, apply_plan, load, slim
from tests.frontends.networks import MIDDLES, Network, network
from utils.errors import PruningError
from utils.frontends.fx import trace
from utils.frontends.fx.subject import FxSubject

EXAMPLE = torch.zeros(1, 3, 16, 16)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Loops(nn.Module):
    """As many times as the map is high: torch.fx cannot count that."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[2] // 4):
            x = x + F.relu(self.norm(self.conv(x))) * self.scale
        if x.shape[1] > 1000:
            raise ValueError("too wide")
        return x[:, x.shape[1] // 2 :].repeat(1, 2, 1, 1)


@pytest.fixture
def export_alone(monkeypatch):
    def cannot(*_given):
        raise TypeError("not today")

    monkeypatch.setattr(trace, "symbolic", cannot)


def loops(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(Loops(16)).eval()


def test_code_that_depends_on_sizes_is_pruned():
    result = slim(loops(), EXAMPLE, 0.5, align=1)
    assert result.report.difference <= 1e-12
    assert result.report.parameters[1] < 0.5 * result.report.parameters[0]
    with torch.no_grad():
        assert result.model(IMAGES).shape == (3, 10)


def test_a_fresh_network_narrowed_by_the_plan_takes_the_pruned_state():
    result = slim(loops(), EXAMPLE, 0.5, align=1)
    again = apply_plan(loops(seed=9), Plan.from_json(result.plan.to_json()))
    load(again, result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), result.model(IMAGES))


@pytest.mark.usefixtures("export_alone")
@pytest.mark.parametrize("middle", MIDDLES)
def test_both_ways_find_the_same_units(middle, monkeypatch):
    exported = FxSubject.of(network(middle), EXAMPLE)
    monkeypatch.undo()
    expected = FxSubject.of(network(middle), EXAMPLE)
    assert list(exported.graph.layers) == list(expected.graph.layers)
    for name, layer in exported.graph.layers.items():
        assert layer.inputs.tolist() == expected.graph.layers[name].inputs.tolist()
        assert layer.outputs.tolist() == expected.graph.layers[name].outputs.tolist()
        assert layer.norm == expected.graph.layers[name].norm
    assert (exported.graph.pinned == expected.graph.pinned).all()
    assert exported.not_followed == expected.not_followed


@pytest.mark.usefixtures("export_alone")
@pytest.mark.parametrize("middle", MIDDLES)
def test_what_is_exported_is_pruned_exactly_for_any_batch(middle):
    result = slim(network(middle), EXAMPLE, 0.5, score="random", align=1)
    assert result.report.difference <= 1e-12
    with torch.no_grad():
        assert result.model(IMAGES).shape == (3, 10)


class Writes(nn.Module):
    """In place, and its result unread."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        x.mul_(-2)
        return x


@pytest.mark.parametrize("way", ["fx", "export"])
def test_what_is_written_in_place_is_not_lost(way, request):
    if way == "export":
        request.getfixturevalue("export_alone")
    model = Network(Writes()).eval()
    subject = FxSubject.of(model, EXAMPLE)
    with torch.no_grad():
        torch.testing.assert_close(subject.model(IMAGES), model(IMAGES))


def test_a_graph_that_computes_something_else_is_refused(monkeypatch):
    def another(model, *_given):
        return torch.fx.symbolic_trace(network("nothing", seed=5))

    monkeypatch.setattr(trace, "symbolic", another)
    monkeypatch.setattr(trace, "exported", another)
    with pytest.raises(
        PruningError, match=r"torch\.fx: the traced graph's outputs differ from the module's by"
    ):
        FxSubject.of(network("nothing"), EXAMPLE)


class Parts(nn.Module):
    """Modules that are several operations of ATen, read several tensors, give several, or go by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.around = nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")
        self.again, self.recurrent = nn.Conv2d(16, 16, 1), nn.GRU(16, 16, batch_first=True)
        self.alias, self.bilinear = self.again, nn.Bilinear(16, 16, 16)
        self.pool, self.embedding = nn.MaxPool2d(2, return_indices=True), nn.Embedding(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(F.relu(self.again(self.around(x))))
        y = self.recurrent(self.pool(x)[0].flatten(2).transpose(1, 2))[1][0]
        y = self.bilinear(y, self.embedding(torch.zeros(len(y), dtype=torch.long)))
        return x * y[:, :, None, None]


@pytest.mark.usefixtures("export_alone")
def test_modules_that_are_no_single_operation_are_left_as_they_are():
    torch.manual_seed(0)
    model = Network(Parts()).eval()
    result = slim(model, EXAMPLE, 0.5, align=1)
    assert result.report.difference <= 1e-12
    assert {layer.name for layer in result.report.layers} == {"stem.0", "middle.again", "behind", "head"}
    assert all(
        any(name in text for text in result.report.not_followed) for name in ("conv2d", "max_pool2d_with")
    )
    with torch.no_grad():
        assert result.model(IMAGES).shape == (3, 10)
