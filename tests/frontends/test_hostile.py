"""Small networks that were written to break `slim`; each had a wrong result, a foreign error or no reason."""

import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import PruningError
from utils.frontends.module.inputs import load
from utils.frontends.module.slim import slim
from utils.frontends.module.subject import Plan, apply_plan
from utils.pruning.layers import tensors_in

EXAMPLE = torch.zeros(1, 3, 16, 16)
R = F.relu


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = conv(3, 16), conv(16, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(R(self.a(x))))


class Free(nn.Module):
    """Three convolutions and a forward of one's own."""

    def __init__(self, function: Callable[..., Any], prepare: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.a, self.b, self.h, self.function = conv(3, 16), conv(16, 16), conv(16, 4, 1), function
        if prepare is not None:
            prepare(self)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def masked(model: nn.Module, plan: Plan) -> nn.Module:
    """`model` without the weights of what the plan removes; in place."""
    with torch.no_grad():
        for name, mask in plan.kept.items():
            for parameter in model.get_submodule(name).parameters():
                parameter[torch.from_numpy(~mask)] = 0
    return model


def last_four(y: Tensor, change: Callable[[Tensor], object]) -> Tensor:
    y = y.clone()
    change(y[:, -4:])
    return y


LEAVES_16 = {  # what the code does to the channels depends on their number or order
    "the end goes to the front": lambda y: torch.cat([y[:, -4:], y[:, :-4]], 1),
    "the last are doubled": lambda y: last_four(y, lambda part: part.mul_(2)),
    "the last are zero": lambda y: last_four(y, lambda part: part.zero_()),
    "a pool over channels": lambda y: F.avg_pool3d(y.unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)).squeeze(1),
    "a pool of the last axes": lambda y: F.max_pool2d(y.permute(0, 2, 3, 1), 3, 1, 1).permute(0, 3, 1, 2),
    "times a root of their number": lambda y: y * y.shape[1] ** -0.5,
    "over their number": lambda y: y / y.shape[1],
    "over the number of values": lambda y: y / y[0].numel(),
    "plus their number": lambda y: y + y.shape[1],
    "plus a part of another": lambda y: torch.add(y, y, alpha=1 / y.shape[1]),
    "to the power of their number": lambda y: y ** (1 + y.shape[1] / 16),
    "a slope of their number": lambda y: F.leaky_relu(y - 0.5, 1 / y.shape[1]),
    "a branch on their number": lambda y: y * 2 if y.shape[1] > 12 else y * 3,
}


@pytest.mark.parametrize("case", LEAVES_16)
def test_channels_stay_where_code_depends_on_their_number(case: str) -> None:
    result = slim(Between(LEAVES_16[case]).eval(), EXAMPLE, align=4)
    assert result.model.a.out_channels == 16
    assert result.report.pins


@pytest.mark.parametrize(
    "shuffle",
    [nn.ChannelShuffle(4), lambda y: F.channel_shuffle(y, 2), lambda y: torch.native_channel_shuffle(y, 2)],
)
def test_a_channel_shuffle_is_cut_in_all_groups_alike(shuffle: Callable[[Tensor], Tensor]) -> None:
    model = Between(shuffle).double().eval()
    result = slim(model, EXAMPLE.double(), align=4, folding="off")
    assert result.model.a.out_channels == 8
    images = torch.randn(3, 3, 20, 20, dtype=torch.float64)
    expected = masked(model, result.plan)(images)
    torch.testing.assert_close(result.model(images), expected, rtol=1e-9, atol=1e-12)


class Own(dict):
    pass


class Slotted:
    __slots__ = ("feature", "out")

    def __init__(self, feature: Tensor, out: Tensor) -> None:
        self.feature, self.out = feature, out


@pytest.mark.parametrize(
    "container",
    [
        lambda y, z: Own(feature=y, out=z),
        lambda y, z: SimpleNamespace(feature=y, out=z),
        Slotted,
        lambda y, z: (each for each in (y, z)),
        lambda y, z: [SimpleNamespace(all={"both": (y, z)})],
    ],
)
def test_outputs_in_any_container_stay_whole(container: Callable[[Tensor, Tensor], Any]) -> None:
    def forward(model: Free, x: Tensor) -> Any:
        feature = R(model.a(x))
        return container(feature, model.h(R(model.b(feature))))

    result = slim(Free(forward).eval(), EXAMPLE, align=4)
    assert [each.shape[1] for each in tensors_in(result.model(EXAMPLE))] == [16, 4]
    assert result.model.b.out_channels == 8


@pytest.mark.parametrize("leave", [lambda y: y.numpy(), lambda y: y.mean((0, 2, 3)).tolist()])
def test_outputs_that_left_torch_are_compared(leave: Callable[[Tensor], object]) -> None:
    def forward(model: Free, x: Tensor) -> Any:
        feature = R(model.a(x))
        return leave(feature.detach()), model.h(R(model.b(feature)))

    with pytest.raises(PruningError, match="other shapes"):
        slim(Free(forward).eval(), EXAMPLE, align=4)


def plain(model: Free, x: Tensor) -> Tensor:
    return model.h(R(model.b(R(model.a(x)))))


def test_a_parameter_in_a_list_is_still_the_one_of_the_module() -> None:
    def prepare(model: nn.Module) -> None:
        model.scale = nn.Parameter(torch.ones(1))
        model.held = [model.scale, model.b.weight]

    def forward(model: Free, x: Tensor) -> Tensor:
        return model.h(R(F.conv2d(R(model.a(x)), model.held[1], padding=1))) * model.held[0]

    model = Free(forward, prepare).eval()
    result = slim(model, EXAMPLE, align=4).model
    assert result.held[0] is result.scale
    assert result.held[1] is result.b.weight
    assert result.scale.data_ptr() != model.scale.data_ptr()
    assert result.b.weight.shape == (8, 8, 3, 3)


def test_inputs_may_be_changed_in_place() -> None:
    x = torch.ones(1, 3, 16, 16)
    slim(Free(lambda model, x: plain(model, x.sub_(0.5))).eval(), x, align=4)
    assert (x == 1).all()


def test_negative_inputs_are_compared() -> None:
    def forward(model: Free, x: Tensor) -> Tensor:  # nothing passes for images from 0 to 1
        return model.h(R(model.a(R(-x))) * model.a.weight.shape[0] ** -0.5)

    model = Free(forward)
    model.a.bias = None
    assert slim(model.eval(), EXAMPLE, align=4).model.a.out_channels == 16


def test_a_large_output_hides_no_difference() -> None:
    def forward(model: Free, x: Tensor) -> tuple[Tensor, Tensor]:
        y = R(model.a(x))
        return model.h(y / y.shape[1]), 1e5 * x

    assert slim(Free(forward).eval(), EXAMPLE, align=4).model.a.out_channels == 16


@pytest.mark.parametrize("kind", ["head", "norm"])
def test_weights_that_are_zero_hide_no_difference(kind: str) -> None:
    def prepare(model: nn.Module) -> None:
        model.norm = nn.BatchNorm2d(4)
        nn.init.zeros_((model.h if kind == "head" else model.norm).weight)

    def forward(model: Free, x: Tensor) -> Tensor:
        y = R(model.a(x))
        return model.norm(model.h(y / y.shape[1]))

    assert slim(Free(forward, prepare).eval(), EXAMPLE, align=4).model.a.out_channels == 16


def test_images_of_bytes_are_random() -> None:
    def forward(model: Free, x: Tensor) -> Tensor:
        y = R(model.a(x.to(model.a.weight.dtype)))
        return model.h(y / y.shape[1])

    model = Free(forward)
    model.a.bias = None
    assert slim(model.eval(), EXAMPLE.to(torch.uint8), align=4).model.a.out_channels == 16


def test_whole_numbers_that_show_little_are_named() -> None:
    model = nn.Sequential(nn.Embedding(9, 16, padding_idx=0), nn.Linear(16, 3)).eval()
    (limit,) = slim(model, torch.zeros(1, 5, dtype=torch.long), align=4).report.limits
    assert "all the same" in limit
    assert slim(model, torch.arange(5).view(1, 5), align=4).report.limits == ()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.q, self.k, self.o = (
            nn.Linear(6, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )
        self.position = nn.Parameter(torch.randn(1, 5, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.e(x) + self.position
        q, k = self.q(y), self.k(y)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        return self.o(R(scores.softmax(-1) @ y))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.p, self.o = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(R(self.p(self.r(x)[0])))


@pytest.mark.parametrize(("model", "example"), [(Attention, (1, 5, 6)), (Recurrent, (1, 5, 8))])
def test_networks_of_tokens_are_pruned(model: type[nn.Module], example: tuple[int, ...]) -> None:
    network = model().eval()
    result = slim(network, torch.zeros(example), align=4)
    assert result.report.parameters[1] < result.report.parameters[0]
    again = apply_plan(model(), Plan.from_json(json.loads(json.dumps(result.plan.to_json()))))
    load(again, result.model.state_dict())
    x = torch.rand(3, *example[1:])
    assert torch.equal(again.eval()(x), result.model(x))


def test_the_given_network_is_unchanged_by_norms_of_weights() -> None:
    spectral = nn.Sequential(nn.utils.parametrizations.spectral_norm(conv(3, 16)), nn.ReLU(), conv(16, 4))
    embedding = nn.Sequential(nn.Embedding(9, 16, max_norm=1.0), nn.Linear(16, 3))
    for model, example in ((spectral, EXAMPLE), (embedding, torch.arange(5).view(1, 5))):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        result = slim(model.train(), example, align=4)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(module.training for module in (*model.modules(), *result.model.modules()))


def test_another_function_in_training_mode_is_named() -> None:
    def forward(model: Free, x: Tensor) -> Tensor:
        y = R(model.b(R(model.a(x))))
        return model.h(y / y.shape[1] if model.training else y)

    result = slim(Free(forward).eval(), EXAMPLE, align=4)
    assert any(text.startswith("in training mode it differs") for text in result.report.limits)


def slots(name: str) -> type[nn.Module]:
    def forward(model: Any, x: Tensor) -> Tensor:
        return model.b(R(model.a(x))) * model.extra

    return type(name, (Between,), {"__slots__": ("extra",), "forward": forward})


def test_slots_and_computed_weights_are_copied() -> None:
    model = slots("Slots")(None).eval()
    model.extra = 2.0
    assert slim(model, EXAMPLE, align=4).model.extra == 2.0
    weighted = Free(plain, lambda model: nn.utils.weight_norm(model.b)).eval()
    assert slim(weighted, EXAMPLE, align=4).report.difference < 1e-12


class Itself(Between):
    def __deepcopy__(self, memo: object) -> "Itself":
        return self


@pytest.mark.parametrize(
    ("model", "fact"),
    [
        (
            lambda: Free(plain, lambda model: setattr(model, "lock", threading.Lock())),
            "lock: cannot be copied",
        ),
        (
            lambda: Free(plain, lambda model: setattr(model, "z", nn.LazyConv2d(4, 3))),
            "z.weight: has no shape",
        ),
        (lambda: Itself(R), "its __deepcopy__ returns itself"),
    ],
)
def test_networks_that_cannot_be_copied_are_refused(model: Callable[[], nn.Module], fact: str) -> None:
    network = model().eval()
    before = [each.clone() for each in network.parameters() if not nn.parameter.is_lazy(each)]
    with pytest.raises(PruningError, match=fact):
        slim(network, EXAMPLE, align=4)
    after = [each for each in network.parameters() if not nn.parameter.is_lazy(each)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("example", [EXAMPLE.to_sparse(), EXAMPLE.to("meta")])
def test_tensors_that_hold_no_plain_numbers_are_refused(example: Tensor) -> None:
    with pytest.raises(PruningError, match="sparse or on the device meta"):
        slim(Free(plain).eval(), example)


class Split(nn.Module):
    """Its other method computes the same, by a number that `forward` does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 32), conv(16, 16), 16

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return first + self.b(R(second))

    def forward_split(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split((self.c, self.c), 1)
        return first + self.b(R(second))


def test_methods_that_stand_for_forward_fit_too() -> None:
    model = nn.Sequential(Split(), nn.ReLU(), conv(16, 4)).eval()
    result = slim(model, EXAMPLE, align=4).model
    images = torch.rand(2, 3, 16, 16)
    expected = result(images)
    result[0].forward = result[0].forward_split
    assert result[0].a.out_channels < 32
    torch.testing.assert_close(result(images), expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_a_recurrent_layer_reads_becomes_narrow(kind: type[nn.RNNBase]) -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.r, self.o = nn.Linear(8, 16), kind(16, 12, 2, batch_first=True), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.r(R(self.e(x)))[0])

    model = Behind().eval()
    result = slim(model, torch.rand(1, 5, 8), align=4, folding="off")
    assert result.model.e.out_features == result.model.r.input_size == 8
    x = torch.rand(3, 7, 8, dtype=torch.float64)
    expected = masked(model.double(), result.plan)(x)
    torch.testing.assert_close(result.model.double()(x), expected, rtol=1e-9, atol=1e-12)


class Area(nn.Module):
    """Attention whose scale multiplies queries of the layout (B, heads, width, N)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = conv(3, 32, 1), nn.Conv2d(32, 96, 1, bias=False), conv(32, 4, 1)
        self.heads, self.width = 2, 16

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, _, height, width = x.shape
        qkv = self.qkv(x).flatten(2).view(batch, self.heads, 3 * self.width, height * width)
        q, k, v = qkv.split([self.width, self.width, self.width], 2)
        scores = (q * self.width**-0.5).transpose(-2, -1) @ k
        found = v @ scores.softmax(-1).transpose(-2, -1)
        return self.out(found.reshape(batch, -1, height, width))


def test_a_scale_of_queries_is_corrected_whatever_the_weights() -> None:
    model = Area().eval()
    result = slim(model, torch.rand(1, 3, 8, 8), align=4, folding="off")
    assert result.model.width == 8
    for network in (model, result.model):  # as after training
        with torch.no_grad():
            network.stem.weight.mul_(20)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    expected = masked(model.double(), result.plan)(images)
    torch.testing.assert_close(result.model.double()(images), expected, rtol=1e-5, atol=1e-6)
