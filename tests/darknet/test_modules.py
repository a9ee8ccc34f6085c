"""Each module against the loops of the C program."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.darknet.references import ACTIVATIONS, convolve_by_loops, pool_by_loops
from utils.darknet import modules
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.sections import Convolutional, Maxpool, Route, Shortcut, Upsample

sizes = st.integers(1, 9)
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))


def random_map(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed)).double()


@given(st.integers(1, 13), strides | st.integers(1, 3).map(lambda s: (s, s)), sizes, sizes, st.data())
def test_maxpool_is_darknets_for_any_size(size, stride, height, width, data):
    padding = data.draw(st.integers(0, size - 1) | st.just(size - 1))
    section = Maxpool(sources=(0,), size=size, stride=stride, padding=padding)
    x = random_map(2, height, width)
    expected_shape = ((height + padding - size) // stride[0] + 1, (width + padding - size) // stride[1] + 1)
    if min(expected_shape) < 1:
        return
    out = modules.Maxpool(section)(x)[0].numpy()
    assert out.shape[1:] == expected_shape
    np.testing.assert_array_equal(out, pool_by_loops(x[0].numpy(), size, stride, padding))


def test_maxpool_pads_with_minus_infinity_not_zero():
    below = -torch.ones(1, 1, 3, 3)
    for size, stride in ((2, 1), (2, 2), (3, 2), (4, 1), (4, 3)):
        section = Maxpool(sources=(0,), size=size, stride=(stride, stride), padding=size - 1)
        assert modules.Maxpool(section)(below).max() == -1


@given(
    st.integers(1, 4),
    strides,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(5, 9),
    st.data(),
)
def test_convolution_is_darknets(size, stride, dilation, groups, multiplier, height, data):
    padding = size // 2 if dilation > 1 else data.draw(st.integers(0, 3))
    if dilation > 1 and size % 2 == 0:
        dilation = 1
    section = Convolutional(
        sources=(0,),
        filters=groups * multiplier,
        size=size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        activation="linear",
    )
    block = modules.ConvBlock(section, 2 * groups).double()
    torch.nn.init.normal_(block.conv.weight)
    torch.nn.init.normal_(block.conv.bias)
    x = random_map(2 * groups, height, height + 2)
    weight = block.conv.weight.detach().numpy()
    expected = convolve_by_loops(x[0].numpy(), weight, stride, padding, dilation, groups)
    expected += block.conv.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, atol=1e-12)


def test_batch_norm_has_darknets_epsilon_inside_the_root():
    block = modules.ConvBlock(
        Convolutional(sources=(0,), batch_normalize=True, activation="linear"), 1
    ).double()
    block.conv.weight.data.fill_(1)
    block.norm.running_var.fill_(1e-5)
    assert block.eval()(torch.ones(1, 1, 1, 1).double()).item() == pytest.approx(1 / (2e-5) ** 0.5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_activations_h(name):
    x = np.linspace(-8, 8, 401)
    out = modules.ACTIVATIONS[name]()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(out, ACTIVATIONS[name](x), atol=1e-4)  # its constants have 5 digits


def test_activations_are_the_ones_that_cfgs_may_name():
    from utils.darknet.reading import ACTIVATIONS as READ

    assert set(READ) == set(modules.ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ["linear", "leaky"])
@pytest.mark.parametrize("channels", [(4, 4), (4, 2), (2, 4), (3, 5, 1, 3)])
def test_shortcuts_add_the_channels_that_both_have(channels, activation):
    section = Shortcut(sources=tuple(range(len(channels))), activation=activation)
    maps = [random_map(count, 2, 3, seed) for seed, count in enumerate(channels)]
    expected = maps[0].numpy().copy()
    for other in maps[1:]:
        for channel in range(min(channels[0], other.shape[1])):
            expected[:, channel] += other.numpy()[:, channel]
    before = [x.clone() for x in maps]
    out = modules.Shortcut(section, channels)(*maps).numpy()
    np.testing.assert_allclose(out, ACTIVATIONS[activation](expected), atol=1e-15)
    assert all(torch.equal(x, y) for x, y in zip(maps, before, strict=True))  # others may read them too


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["relu", "softmax"])
def test_weighted_shortcuts(kind, normalization):
    channels = (3, 2, 3)
    section = Shortcut(sources=(0, 1, 2), weights_type=kind, weights_normalization=normalization)
    module = modules.Shortcut(section, channels).double()
    torch.nn.init.normal_(module.weights)
    maps = [random_map(count, 2, 2, seed) for seed, count in enumerate(channels)]
    w = module.weights.detach().numpy() * np.ones((3, 3))
    w = np.maximum(w, 0.001) if normalization == "relu" else np.exp(w - w.max(0))
    w = w / (1e-4 + w.sum(0))
    expected = np.zeros((1, 3, 2, 2))
    for row, x in enumerate(maps):
        for channel in range(x.shape[1]):
            expected[:, channel] += w[row, channel] * x.numpy()[:, channel]
    np.testing.assert_allclose(module(*maps).detach().numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("groups, group_id", [(1, 0), (2, 0), (2, 1), (3, 1)])
def test_routes_take_one_part_of_each_source(groups, group_id):
    maps = [random_map(6, 2, 2, 0), random_map(12, 2, 2, 1)]
    out = modules.Route(Route(sources=(0, 1), groups=groups, group_id=group_id), (6, 12))(*maps)
    parts = [x.chunk(groups, dim=1)[group_id] for x in maps]
    assert torch.equal(out, torch.cat(parts, 1))


def test_upsample_repeats_or_sums():
    x = random_map(1, 2, 4)
    up = modules.Upsample(Upsample(sources=(0,), stride=3, scale=0.5))(x)
    assert torch.equal(up, 0.5 * x.repeat_interleave(3, 2).repeat_interleave(3, 3))
    down = modules.Upsample(Upsample(sources=(0,), stride=-2, scale=0.5))(x)
    expected = [0.5 * float(x[..., :2].sum()), 0.5 * float(x[..., 2:].sum())]
    assert down.flatten().tolist() == pytest.approx(expected)


def test_average_is_over_the_whole_map_and_dropout_only_acts_in_training():
    net = Network.from_text(
        "[net]\nwidth=4\nheight=4\nchannels=3\n[avgpool]\n[dropout]\nprobability=.5\n[yolo]\nanchors=1,1\nclasses=1"
        "".replace("[yolo]", "[conv]\nfilters=6\nactivation=linear\n[yolo]")
    )
    model = Darknet(net)
    x = random_map(3, 4, 4).float()
    assert torch.allclose(model.layers[0](x), x.mean((2, 3), keepdim=True))
    assert torch.equal(model.eval().layers[1](x), x)
    assert not torch.equal(model.train().layers[1](x), x)
