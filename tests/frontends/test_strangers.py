"""Kinds of networks that people bring: pruned as deep as asked, in their own class, for any batch."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slim import Plan, apply_plan, load, slim
from utils.errors import PruningError

ROOT = Path(__file__).resolve().parents[3] / "shared" / "cases" / "networks"
# the smallest share of the parameters that half of the channels, in multiples of 8, is to remove
SHARES = {
    "batchnorm_act": 0.70,
    "linear_subclass": 0.72,
    "frozen_bn": 0.65,
    "grouped_align": 0.70,
    "layer_norm2d": 0.40,
    "conv_attention": 0.60,
    "export_batch_baked": 0.40,
    "state_metadata": 0.49,
    "train_only_branch": 0.70,
}


def built(name: str) -> nn.Module:
    path = ROOT / f"{name}.py"
    if not path.is_file():
        pytest.skip("no ../shared/cases/networks here")
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    torch.manual_seed(0)
    network: nn.Module = module.Net()
    with torch.no_grad():
        for each in network.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.bias.normal_()
                each.running_mean.normal_()
    return network.eval()


class StochasticDepth(nn.Module):
    """Drops the branch of whole images in training and does nothing in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(0.8)
        return x * noise.div_(0.8)


class WithStochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 32, 1)
        self.drop, self.head = StochasticDepth(), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.drop(self.b(self.a(x).relu()))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", SHARES)
def test_half_of_the_channels_of_a_kind_go(name: str) -> None:
    model = built(name)
    result = slim(model, torch.rand(1, 3, 32, 32))
    before, after = result.report.parameters
    assert 1 - after / before >= SHARES[name]
    assert type(result.model) is type(model)
    assert result.report.difference <= 1e-12
    for batch, size in ((1, 32), (3, 32), (2, 48)):
        assert len(result.model(torch.rand(batch, 3, size, size))[:batch]) == batch


@pytest.mark.parametrize("name", SHARES)
def test_a_fresh_network_of_a_kind_takes_the_pruned_state(name: str) -> None:
    result = slim(built(name), torch.rand(1, 3, 32, 32))
    again = apply_plan(built(name), Plan.from_json(result.plan.to_json()))
    load(again, result.model.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), result.model(images))


def test_what_evaluation_leaves_out_trains_afterwards() -> None:
    model = slim(WithStochasticDepth().eval(), torch.rand(1, 3, 32, 32)).model
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count <= 0.32 * sum(parameter.numel() for parameter in WithStochasticDepth().parameters())
    model.train()(torch.rand(4, 3, 32, 32)).mean().backward()


@pytest.mark.parametrize("name", ["train_only_branch"])
def test_a_branch_of_training_is_narrowed_with_what_it_reads(name: str) -> None:
    model = slim(built(name), torch.rand(1, 3, 32, 32)).model.train()
    outputs = model(torch.rand(2, 3, 32, 32))
    sum(each.mean() for each in outputs).backward()
    assert model.aux.in_channels == model.a.out_channels < 32
    assert model.aux.weight.grad is not None


class Scaled(nn.Module):
    """What would be a constant channel is scaled by something that varies."""

    def __init__(self, scale: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 10, 1)
        self.gate, self.scale = nn.Conv2d(3, 1, 3), scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x)).relu()
        return self.b(self.scale(y, x if self.scale is not gated else self.gate(x)))


def gated(y: Tensor, x: Tensor) -> Tensor:
    return y * x.sigmoid()


def by_the_mean(y: Tensor, x: Tensor) -> Tensor:
    return y * x.mean((1, 2, 3), keepdim=True)


def by_the_size(y: Tensor, _: Tensor) -> Tensor:
    return y.sum((2, 3), keepdim=True) / 100


@pytest.mark.parametrize("scale", [gated, by_the_mean, by_the_size])
def test_what_only_looks_constant_is_listed_not_folded(scale: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Scaled(scale).eval()
    with torch.no_grad():
        model.norm.bias.uniform_(1, 2)
    result = slim(model, torch.rand(1, 3, 16, 16), align=1)
    assert result.report.unfolded == ("b",)
    assert torch.equal(result.model.b.bias, model.b.bias)


class OtherInDouble(nn.Module):
    """Runs another convolution on numbers of double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.c(self.b(x) if x.dtype == torch.float64 else x)


def test_a_network_that_cannot_be_compared_is_refused_not_called_equal() -> None:
    with pytest.raises(PruningError, match="runs other operations in float64"):
        slim(OtherInDouble().eval(), torch.rand(1, 3, 16, 16))


class Wrapped(nn.Module):
    """Its state has other names than its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        return {f"renamed.{name}": tensor for name, tensor in super().state_dict(*args, **kwargs).items()}


def test_folded_constants_arrive_whatever_the_state_is_called() -> None:
    torch.manual_seed(0)
    model = Wrapped().eval()
    with torch.no_grad():
        model.inner[1].bias.uniform_(1, 2)
        model.inner[0].weight[::2] = 0  # these are constants, and go
        model.inner[0].bias.zero_()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        pruned = slim(model, images[:1], align=1).model
        torch.testing.assert_close(pruned(images), model(images))


class Remembers(nn.Module):
    """Counts its runs and keeps a cache of shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shapes = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), {}
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.shapes[x.shape] = x
        self.last = x.shape
        return self.b(self.a(x).relu())


def test_the_given_network_is_as_it_was() -> None:
    model = Remembers().train()
    model.a.weight.requires_grad_(False)
    images = torch.rand(1, 3, 16, 16)
    random = torch.get_rng_state()
    slim(model, images)
    assert model.training
    assert not model.a.weight.requires_grad
    assert model.b.weight.requires_grad
    assert model.runs == 0
    assert model.shapes == {}
    assert not hasattr(model, "last")
    assert torch.equal(torch.get_rng_state(), random)
