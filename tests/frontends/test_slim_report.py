"""What a report of `slim` says of all weights, and faults of a network that are told before pruning."""

import json

import pytest
import torch
from torch import Tensor, nn

from slim import Plan, apply_plan, load, slim
from tests.frontends.networks import network
from utils.errors import PruningError

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Sequence(nn.Module):
    """Parts with weights that belong to no layer of the graph: an embedding, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.places = nn.Parameter(torch.rand(7, 32))
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(x) + self.places).mean(1))


def test_what_stays_beyond_the_asked_share_is_told_by_its_reason():
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)).eval()
    report = slim(model, EXAMPLE, 0.5, align=1).report
    # 3x8 and 8x4 become 3x4 and 4x4; halves of both axes would be 6 and 8
    assert report.parameters == (56, 28)
    found = {each.reason: each.parameters for each in report.rest}
    assert found == {"an output of the network": 8, "the input of the network": 6}
    text = str(report).splitlines()
    assert "asked for 50% of the channels: 50.0% of the parameters are removed" in text[-4]
    assert text[-2:] == [
        "   14.3% of the parameters: an output of the network",
        "   10.7% of the parameters: the input of the network",
    ]


def test_every_weight_of_the_network_has_a_line():
    model = Sequence().eval()
    report = slim(model, torch.zeros(1, 7, dtype=torch.long), 0.5).report
    lines = {layer.name for layer in report.layers}
    weights = [name for name, tensor in model.named_parameters() if tensor.ndim > 1]
    layers = [name.removesuffix(".weight").removesuffix(".in_proj_weight") for name in weights]
    assert [name for name, layer in zip(weights, layers, strict=True) if not {name, layer} & lines] == []
    assert report.rest[0].reason == "LayerNorm (native_layer_norm) computes statistics over channels"


def test_excluded_layers_and_those_that_do_not_run_are_reasons():
    class Spare(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x))

    model = Spare(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3)).eval()
    report = slim(model, EXAMPLE, 0.5, exclude=["0"], align=1).report
    found = {each.reason: each.parameters for each in report.rest}
    assert found["excluded"] > 0
    assert found["they do not run on the example"] == 4 * 4 * 9 * 3 // 4 + 4 // 2
    assert {layer.name: layer.pinned for layer in report.layers}["2.weight"] == 4


def poisoned(name: str, value: float) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: poisoned("2.weight", float("nan")), "2.weight: has NaN or infinite values"),
        (lambda: poisoned("1.running_var", float("inf")), "1.running_var: has NaN or infinite values"),
        (lambda: network("nothing").to("meta"), "is on the device meta"),
        (lambda: torch.jit.trace(poisoned("2.bias", 0), EXAMPLE), "is a TorchScript module"),
        (
            lambda: nn.Sequential(torch.jit.trace(nn.Conv2d(3, 8, 1), EXAMPLE), nn.Conv2d(8, 4, 1)),
            "0: is a TorchScript module",
        ),
        (
            lambda: nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)),
            r"0: is quantized \(Conv2d\)",
        ),
    ],
    ids=["nan", "infinite", "meta", "script", "scripted part", "quantized part"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fault_of_the_network_is_told_by_its_place(model, said):
    with pytest.raises(PruningError, match=said):
        slim(model(), EXAMPLE)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network("nothing")

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + torch.rand_like(x))


class NoisyInside(nn.Module):
    """Random numbers for each channel: fewer channels draw others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x)
        return self.last(found + torch.rand_like(found))


def test_random_numbers_in_evaluation_are_told():
    with pytest.raises(PruningError, match="draws random numbers in evaluation mode too"):
        slim(NoisyInside().eval(), EXAMPLE, align=1)
    assert slim(Noisy().eval(), EXAMPLE).report.difference <= 1e-12  # of the input, so both draw the same


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_is_a_whole_number_from_0(seed):
    with pytest.raises(PruningError, match=f"seed {seed}: invalid value; give a whole number from 0"):
        slim(network("nothing"), EXAMPLE, score="random", seed=seed)


class Compiled(nn.Module):
    """What torch.compile returns holds the network so."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x)


def test_a_compiled_network_is_unwrapped_and_so_is_its_state():
    result = slim(Compiled(network("nothing")), EXAMPLE)
    assert type(result.model) is type(network("nothing"))
    fresh = apply_plan(Compiled(network("nothing", seed=9)), result.plan)
    state = {f"_orig_mod.module.{name}": tensor for name, tensor in result.model.state_dict().items()}
    load(fresh, state)
    assert all(
        torch.equal(tensor, result.model.state_dict()[name]) for name, tensor in fresh.state_dict().items()
    )


def test_a_plan_names_the_attributes_that_it_changes() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.widths, self.kernel = (
                nn.Conv2d(3, 32, 3),
                nn.Conv2d(32, 4, 1),
                [16, 16],
                16,
            )

        def forward(self, x):
            one, other = self.first(x).split(self.widths, 1)
            return self.last(torch.cat((other, one), 1))

    result = slim(Halves().eval(), torch.rand(1, 3, 16, 16), align=4)
    assert result.plan.attributes == {"widths": ([16, 16], [8, 8])}
    assert result.model.kernel == 16
    assert Plan.from_json(json.loads(json.dumps(result.plan.to_json()))).attributes == result.plan.attributes
    plain = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 1))
    assert slim(plain, torch.rand(1, 3, 8, 8)).plan.attributes == {}
    rounds = slim(Halves().eval(), torch.rand(1, 3, 16, 16), align=4, iterative=2, tune=lambda model: None)
    assert rounds.plan.attributes == {"widths": ([16, 16], rounds.model.widths)}
