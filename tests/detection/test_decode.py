import math

import numpy as np
import pytest
import torch

from utils.detection.decode import HeadSpec, decode_head, decode_heads

SPEC = HeadSpec(anchors=((10.0, 14.0), (23.0, 27.0)), classes=3, stride=16, scale_x_y=1.1)


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def plain_decode(head: np.ndarray, spec: HeadSpec) -> list[list[float]]:
    """Section 5 of the format, number by number."""
    rows = []
    for anchor, (width, height) in enumerate(spec.anchors):
        for row in range(head.shape[1]):
            for column in range(head.shape[2]):
                x, y, w, h, *rest = head[anchor, row, column].tolist()
                s = spec.scale_x_y
                if not spec.new_coords:
                    x, y, rest = logistic(x), logistic(y), [logistic(value) for value in rest]
                    w, h = math.exp(w), math.exp(h)
                else:
                    w, h = (2 * w) ** 2, (2 * h) ** 2
                centre = [x * s - (s - 1) / 2 + column, y * s - (s - 1) / 2 + row]
                rows.append([centre[0] * spec.stride, centre[1] * spec.stride, w * width, h * height, *rest])
    return rows


@pytest.mark.parametrize("new_coords", [False, True])
def test_decoding_is_the_formula_of_each_number(new_coords):
    spec = HeadSpec(SPEC.anchors, 3, 16, 1.1, new_coords)
    head = torch.rand(2, 2, 3, 5, 8, dtype=torch.float64) * 2 - 1
    decoded = decode_heads([head], [spec])
    for image in range(2):
        np.testing.assert_allclose(decoded[image], plain_decode(head[image].numpy(), spec), rtol=1e-12)


def test_region_is_a_softmax_over_the_classes():
    """get_region_box; anchors are given in pixels here, in cells there."""
    spec = HeadSpec(((32.0, 48.0), (80.0, 16.0)), 3, 16, kind="region")
    head = torch.rand(1, 2, 3, 5, 8, dtype=torch.float64) * 4 - 2
    expected = plain_decode(head[0].numpy(), spec)
    for row, logits in zip(expected, head[0].flatten(0, 2)[:, 5:].tolist(), strict=True):
        total = sum(math.exp(value) for value in logits)
        row[5:] = [math.exp(value) / total for value in logits]
    np.testing.assert_allclose(decode_heads([head], [spec])[0], expected, rtol=1e-12)


def test_gaussian_classes_are_weighed_by_certainty():
    """get_gaussian_yolo_detections: x, its deviation, y, its, w, its, h, its, objectness, classes."""
    spec = HeadSpec(SPEC.anchors, 3, 16, 1.1, kind="gaussian_yolo")
    assert spec.width == 12
    head = torch.rand(1, 2, 3, 5, 12, dtype=torch.float64) * 4 - 2
    plain = head[0][..., [0, 2, 4, 6, 8, 9, 10, 11]].numpy()
    expected = plain_decode(plain, SPEC)
    for row, numbers in zip(expected, head[0].flatten(0, 2).tolist(), strict=True):
        uncertainty = sum(logistic(numbers[place]) for place in (1, 3, 5, 7)) / 4
        row[5:] = [value * (1 - uncertainty) for value in row[5:]]
    np.testing.assert_allclose(decode_heads([head], [spec])[0], expected, rtol=1e-12)


def test_heads_follow_one_another_in_their_order():
    heads = [torch.randn(1, 2, 2, 2, 8), torch.randn(1, 2, 4, 4, 8)]
    specs = [SPEC, HeadSpec(SPEC.anchors, 3, 8)]
    decoded = decode_heads(heads, specs)
    assert decoded.shape == (1, 2 * 4 + 2 * 16, 8)
    assert torch.equal(decoded[:, 8:], decode_head(heads[1], specs[1]).flatten(1, 3))
    with pytest.raises(ValueError, match="zip"):
        decode_heads(heads, specs[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_stays(dtype):
    assert decode_heads([torch.zeros(1, 2, 2, 2, 8, dtype=dtype)], [SPEC]).dtype == dtype


def test_it_exports_with_open_sizes():
    class Module(torch.nn.Module):
        def forward(self, head: torch.Tensor) -> torch.Tensor:
            return decode_heads([head], [SPEC])

    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.export.export(Module(), (torch.rand(2, 2, 4, 5, 8),), dynamic_shapes=({**dims},))
    head = torch.rand(3, 2, 7, 6, 8)
    torch.testing.assert_close(program.module()(head), decode_heads([head], [SPEC]))


@pytest.mark.parametrize(
    "name, anchors, classes, size",
    [
        ("yolov3-tiny", [(81, 82), (135, 169), (344, 319)], 80, 416),
        ("yolo-fastest-1.1", [(115, 73), (119, 199), (242, 238)], 80, 320),
    ],
)
def test_probabilities_and_centres_are_the_c_programs(shared, name, anchors, classes, size):
    """Its yolo layer turns x, y, objectness and classes into probabilities in place, and leaves w and h."""
    golden = np.load(shared / f"golden/darknet_{name}.npz")
    layer = min(int(key.split("_")[1]) for key in golden.files if key.startswith("raw_"))
    raw, entered = golden[f"raw_{layer}"], golden[f"yolo_{layer}"]
    cells = raw.shape[-1]
    maps = [torch.from_numpy(array).reshape(1, 3, 5 + classes, cells, cells) for array in (raw, entered)]
    head, yolo = (array.permute(0, 1, 3, 4, 2) for array in maps)
    stride = size // cells
    decoded = decode_head(head, HeadSpec(tuple(anchors), classes, stride))
    torch.testing.assert_close(decoded[..., 4:], yolo[..., 4:], atol=1e-6, rtol=1e-5)
    columns = torch.arange(cells)
    torch.testing.assert_close(decoded[..., 0] / stride - columns, yolo[..., 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded[..., 1] / stride - columns[:, None], yolo[..., 1], atol=1e-5, rtol=0)
    sizes = yolo[..., 2:4].exp() * torch.tensor(anchors).view(3, 1, 1, 2)
    torch.testing.assert_close(decoded[..., 2:4], sizes, rtol=1e-5, atol=1e-4)
