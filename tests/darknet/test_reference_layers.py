"""Sections that OpenCV cannot vouch for, against plain loops written from the format's description."""

import numpy as np
import pytest
import torch

from tests.darknet.references import ACTIVATIONS, convolve_by_loops
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.weights import write_weights

NET = "[net]\nwidth={}\nheight={}\nchannels={}\n"


def run(sections: str, x: np.ndarray) -> tuple[Darknet, np.ndarray]:
    """The network of some sections with random weights, and what its last section makes of x (C, h, w)."""
    channels, height, width = x.shape
    model = Darknet(Network.from_text(NET.format(width, height, channels) + sections)).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5, generator=generator)
    seen: list[torch.Tensor] = []
    model.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(torch.from_numpy(x)[None])
    return model, seen[0][0].numpy()


def maps(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


@pytest.mark.parametrize(("channels", "stride"), [(4, 2), (12, 2), (9, 3)])
def test_reorg_is_the_old_shuffle(channels, stride):
    x = maps(channels, 3 * stride, 2 * stride)
    _, height, width = x.shape
    few = channels // stride**2
    view = x.reshape(few, height * stride, width * stride)
    out = np.empty_like(x)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                c2, off = k % few, k // few
                out[k, j, i] = view[c2, j * stride + off // stride, i * stride + off % stride]
    expected = out.reshape(channels * stride**2, height // stride, width // stride)
    np.testing.assert_array_equal(run(f"[reorg]\nstride={stride}", x)[1], expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_reorg3d_is_offset_major(stride):
    x = maps(5, 3 * stride, 2 * stride)
    parts = [x[:, off // stride :: stride, off % stride :: stride] for off in range(stride**2)]
    np.testing.assert_array_equal(run(f"[reorg3d]\nstride={stride}", x)[1], np.concatenate(parts))


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(4, 4, 3), (3, 1, 2), (2, 2, 1), (2, 1, 1), (2, 2, 0), (5, 2, 4), (3, 2, 1)],
)
def test_local_avgpool_divides_by_the_cells_inside(size, stride, padding):
    x = maps(2, 9, 8)
    _, height, width = x.shape
    rows, columns = (height + padding - size) // stride + 1, (width + padding - size) // stride + 1
    expected = np.empty((2, rows, columns))
    for c, i, j in np.ndindex(expected.shape):
        cells = [
            x[c, y, z]
            for y in range(i * stride - padding // 2, i * stride - padding // 2 + size)
            for z in range(j * stride - padding // 2, j * stride - padding // 2 + size)
            if 0 <= y < height and 0 <= z < width
        ]
        expected[c, i, j] = sum(cells) / len(cells)
    section = f"[local_avgpool]\nsize={size}\nstride={stride}\npadding={padding}"
    np.testing.assert_allclose(run(section, x)[1], expected, atol=1e-12)


def test_scale_channels_takes_a_value_for_each_channel():
    x = maps(3, 4, 5)
    found = run("[activation]\nactivation=linear\n[avgpool]\n[scale_channels]\nfrom=0\nactivation=leaky", x)[
        1
    ]
    expected = np.stack([ACTIVATIONS["leaky"](channel * channel.mean()) for channel in x])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_scale_wh_takes_a_value_for_each_cell():
    x = maps(3, 4, 5)
    gate = "[convolutional]\nfilters=1\nsize=1\nactivation=logistic\n"
    model, found = run(f"{gate}[scale_channels]\nfrom=-1\nscale_wh=1".replace("from=-1", "from=0"), x[:1])
    weight, bias = (
        tensor.detach().numpy() for tensor in (model.layers[0].conv.weight, model.layers[0].conv.bias)
    )
    cells = 1 / (1 + np.exp(-(weight[0, 0, 0, 0] * x[0] + bias[0])))
    np.testing.assert_allclose(found[0], cells * cells, atol=1e-12)


def test_sam_multiplies_element_by_element():
    x = maps(4, 3, 5)
    found = run("[activation]\nactivation=mish\n[activation]\nactivation=tanh\n[sam]\nfrom=0", x)[1]
    mish = ACTIVATIONS["mish"](x)
    np.testing.assert_allclose(found, mish * np.tanh(mish), atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
def test_connected_reads_the_flattened_map_and_its_file_order(norm, tmp_path):
    x = maps(3, 2, 4)
    model, found = run(f"[connected]\noutput=5\nactivation=leaky\nbatch_normalize={int(norm)}", x)
    write_weights(tmp_path / "x.weights", model, model.header)
    numbers = np.fromfile(tmp_path / "x.weights", "<f4", offset=20).astype(float)
    biases, matrix, rest = numbers[:5], numbers[5:125].reshape(5, 24), numbers[125:]
    total = matrix @ x.ravel()
    if norm:
        scales, mean, variance = rest.reshape(3, 5)
        total = (total - mean) / np.sqrt(variance + 1e-5) * scales
    assert len(rest) == (15 if norm else 0)
    np.testing.assert_allclose(found.ravel(), ACTIVATIONS["leaky"](total + biases), atol=1e-5)


def test_batchnorm_alone_and_its_file_order(tmp_path):
    x = maps(3, 2, 4)
    model, found = run("[batchnorm]", x)
    write_weights(tmp_path / "x.weights", model, model.header)
    numbers = np.fromfile(tmp_path / "x.weights", "<f4", offset=20).astype(float).reshape(4, 3, 1, 1)
    biases, scales, mean, variance = numbers
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5) * scales + biases, atol=1e-5)


@pytest.mark.parametrize(("groups", "temperature"), [(1, 1.0), (3, 2.0)])
def test_softmax_is_taken_over_parts_of_all_values(groups, temperature):
    x = maps(6, 2, 1)
    found = run(f"[softmax]\ngroups={groups}\ntemperature={temperature}", x)[1]
    expected = []
    for part in x.ravel().reshape(groups, -1):
        powers = [np.exp((value - part.max()) / temperature) for value in part]
        expected += [power / sum(powers) for power in powers]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-12)


def test_spatial_softmax_is_taken_over_channels():
    x = maps(3, 2, 4)
    powers = np.exp(x)
    np.testing.assert_allclose(run("[softmax]\nspatial=1", x)[1], powers / powers.sum(0), atol=1e-12)


def test_borrowed_weights_are_the_lenders_at_another_dilation():
    x = maps(4, 7, 6)
    conv = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\nactivation={}\n{}\n"
    model, found = run(conv.format("leaky", "") + conv.format("relu", "share_index=0\ndilation=2"), x)
    block = model.layers[0]
    weight = block.conv.weight.detach().numpy()
    gamma, beta, mean, variance = (
        tensor.detach().numpy()[:, None, None]
        for tensor in (block.norm.weight, block.norm.bias, block.norm.running_mean, block.norm.running_var)
    )

    def section(maps_in: np.ndarray, dilation: int, activation: str) -> np.ndarray:
        out = convolve_by_loops(maps_in, weight, (1, 1), 1, dilation, 1)
        return ACTIVATIONS[activation]((out - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

    np.testing.assert_allclose(found, section(section(x, 1, "leaky"), 2, "relu"), atol=1e-10)
