"""The built network against the C program, OpenCV, and itself under other layouts, sizes and types."""

import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.darknet.references import as_map, random_images, randomised
from utils.darknet.edit import with_filters
from utils.darknet.model import OBJECTNESS_PRIOR, Darknet
from utils.darknet.network import Network
from utils.darknet.sections import Convolutional
from utils.darknet.weights import read_weights
from utils.detection.decode import HeadSpec, decode_heads
from utils.errors import ToolkitError

ROOT = Path(__file__).parents[2]
FEATURES = sorted(path.stem for path in ROOT.glob("tests/cfgs/*.cfg"))
STOCK = ("yolov3", "yolov3-spp", "yolov3-tiny", "yolov3-shapes", "yolov4", "yolov4-tiny")
ZOO = (
    *("Gaussian_yolov3_BDD", "enet-coco", "yolov2", "yolov2-tiny-voc", "yolov4-sam-mish-csp-reorg-bfm"),
    *("csresnext50-panet-spp", "yolov3", "yolov3-spp", "yolov3-tiny", "yolov3-tiny-prn", "yolov3-tiny_3l"),
    *("yolov3-voc.yolov3-giou-40", "yolov3_5l", "yolov4", "yolov4-csp", "yolov4-tiny", "yolov4-tiny-3l"),
    "yolov7-tiny",
)
REAL = {
    "yolov3-tiny": ("yolov3-tiny/yolov3-tiny", 416),
    "yolo-fastest-1.1": ("yolo-fastest-1.1/yolo-fastest-1.1", 320),
    "mobilenetv2-yolov3-nano-voc": ("mobilenetv2-yolov3-nano-voc/MobileNetV2-YOLOv3-Nano-voc", 320),
}


def feature(name: str) -> Darknet:
    return randomised(Darknet.from_cfg(ROOT / f"tests/cfgs/{name}.cfg"))


def narrow_stock(name: str, divisor: int = 8) -> Darknet:
    """A stock network at an eighth of its width and 64 pixels, so that it is quick."""
    network = Network.from_cfg(ROOT / f"cfg/{name}.cfg")
    before_heads = {network.sources(head)[0] for head in network.heads}
    filters = {
        index: max(4, section.filters // divisor)
        for index, section in enumerate(network.sections)
        if isinstance(section, Convolutional) and index not in before_heads
    }
    small = with_filters(network, filters if name != "yolov3-shapes" else {})
    return randomised(
        Darknet(Network([small.raw[0].with_options({"width": "64", "height": "64"}), *small.raw[1:]]))
    )


@pytest.mark.parametrize("golden", REAL)
def test_raw_heads_are_those_of_the_c_program(golden, shared):
    stem, size = REAL[golden]
    model = Darknet.from_cfg(shared / f"weights/{stem}.cfg").eval()
    read_weights(shared / f"weights/{stem}.weights", model)
    image = np.random.default_rng(0).uniform(size=(3, size, size)).astype("f4")
    expected = np.load(shared / f"golden/darknet_{golden}.npz")
    with torch.no_grad():
        heads = model(torch.from_numpy(image)[None])
    assert len(heads) == len(model.network.heads) == 2
    for index, head in zip(model.network.heads, heads, strict=True):
        ours = as_map(head)
        np.testing.assert_allclose(ours.ravel(), expected[f"raw_{index}"].ravel(), atol=2e-4, rtol=0)


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        model = Darknet.from_cfg(ROOT / "cfg/yolov3.cfg")
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_949_149


@pytest.mark.parametrize("name", ZOO)
def test_zoo_cfgs_run(name, shared):
    network = Network.from_cfg(shared / f"zoo/{name}.cfg")
    with torch.device("meta"):  # shapes without the arithmetic
        model = Darknet(network)
        heads = model(torch.empty(1, 3, network.height, network.width))
    assert len(heads) == len(model.head_specs) == len(network.heads) > 0
    for index, spec, head in zip(network.heads, model.head_specs, heads, strict=True):
        assert head.shape == (1, len(spec.anchors), *network.shape(index).size, spec.width)


@pytest.mark.parametrize("name", FEATURES)
def test_shapes_are_those_that_the_network_says(name):
    model = feature(name)
    found = {}
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda module, inputs, out, index=index: found.update({index: out.shape}))
    heads = model(random_images(model))
    for index in range(len(model.network)):
        if index not in model.network.heads:
            assert tuple(found[index][1:]) == tuple(model.network.shape(index))
    for spec, head in zip(model.head_specs, heads, strict=True):
        assert (head.shape[1], head.shape[4]) == (len(spec.anchors), spec.width)


@pytest.mark.parametrize("name", FEATURES)
def test_batch_layout_and_type_change_nothing(name):
    model = feature(name).double()
    images = random_images(model, batch=2).double()
    together = model(images)
    for which in range(2):
        for whole, single in zip(together, model(images[which : which + 1]), strict=True):
            torch.testing.assert_close(whole[which : which + 1], single, atol=1e-12, rtol=0)
    model.to(memory_format=torch.channels_last)
    for first, second in zip(together, model(images.to(memory_format=torch.channels_last)), strict=True):
        torch.testing.assert_close(first, second, atol=1e-12, rtol=0)
    halves = model.bfloat16()(images.bfloat16())
    for exact, rounded in zip(together, halves, strict=True):
        assert rounded.dtype == torch.bfloat16
        assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", ["upsample", "maxpool", "odd_sizes", "depthwise", "unequal_shortcut", "spp"])
def test_export_keeps_the_function(name):
    model = feature(name)
    images = random_images(model)
    exported = torch.export.export(model, (images,)).module()
    for ours, theirs in zip(model(images), exported(images), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_export_with_any_batch_and_size():
    model = feature("upsample")
    height, width = (4 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=16), 2: height, 3: width}}
    exported = torch.export.export(model, (random_images(model, batch=2),), dynamic_shapes=shapes).module()
    images = random_images(model, (24, 40), batch=3)
    for ours, theirs in zip(model(images), exported(images), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_any_size_that_the_strides_allow():
    model = feature("upsample")
    assert [tuple(head.shape[2:4]) for head in model(random_images(model, (64, 24)))] == [(16, 6), (32, 12)]
    # 31 rows halve to 16 and 8, which enlarge to 16 again, but 8 cells of 4 pixels are 32.
    with pytest.raises(
        ToolkitError, match=r"images of 24x31 do not fit: .* cells of 4 pixels; use multiples of 4"
    ):
        model(random_images(model, (31, 24)))
    with pytest.raises(ToolkitError) as error:
        model(random_images(model, (33, 24)))
    message = str(error.value)
    assert "upsample.cfg:" in message
    assert "[route] #8: images of 24x33 do not fit: joins maps of different size, 12x18" in message
    assert message.endswith("; use multiples of 4")


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32)])
def test_images_of_another_kind_are_refused(shape):
    with pytest.raises(
        ToolkitError, match=r"images of shape .* do not fit the network; give \(batch, 3, height, width\)"
    ):
        feature("upsample")(torch.zeros(shape))


def test_heads_are_specified_for_decoding():
    model = Darknet.from_cfg(ROOT / "tests/cfgs/upsample.cfg")
    assert model.head_specs == (
        HeadSpec(anchors=((12, 14), (8, 7)), classes=2, stride=4),
        HeadSpec(anchors=((4, 5), (8, 7)), classes=2, stride=2),
    )
    (spec,) = Darknet.from_cfg(ROOT / "tests/cfgs/new_coords.cfg").head_specs
    assert (spec.scale_x_y, spec.new_coords, spec.stride, spec.nms_kind) == (2, True, 2, "default")
    (spec,) = Darknet.from_cfg(ROOT / "tests/cfgs/scale_x_y.cfg").head_specs
    assert (spec.scale_x_y, spec.nms_kind, spec.beta_nms) == (1.2, "greedynms", 0.6)


@pytest.mark.parametrize("name", STOCK)
def test_strides_are_found(name):
    model = (
        Darknet(Network.from_cfg(ROOT / f"cfg/{name}.cfg")) if name == "yolov3-shapes" else narrow_stock(name)
    )
    expected = {"yolov3-tiny": [32, 16], "yolov4-tiny": [32, 16], "yolov4": [8, 16, 32]}.get(
        name, [32, 16, 8]
    )
    assert [spec.stride for spec in model.head_specs] == expected


def test_outputs_are_freed_once_nobody_reads_them():
    model = feature("residual")
    alive: dict[int, set[int]] = {}
    references: dict[int, weakref.ref] = {}

    def watch(index):
        def hook(module, inputs, out):
            references[index] = weakref.ref(out)
            alive[index] = {i for i, reference in references.items() if reference() is not None}

        return hook

    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(watch(index))
    with torch.no_grad():
        heads = model(random_images(model))
    del heads
    for index, found in alive.items():
        needed = {i for i in range(index + 1) if any(reader >= index for reader in model.network.readers(i))}
        assert found <= needed | {index}


def test_a_fresh_network_predicts_its_priors():
    torch.manual_seed(0)
    model = Darknet.from_cfg(ROOT / "cfg/yolov3-shapes.cfg").train()
    with torch.no_grad():
        heads = model(random_images(model, batch=4))
    for head in heads:
        probabilities = head[..., 4:].sigmoid()
        assert float(probabilities[..., 0].median()) == pytest.approx(OBJECTNESS_PRIOR, rel=0.5)
        assert float(probabilities[..., 1:].median()) == pytest.approx(0.25, rel=0.3)


def test_building_and_tracing_a_network_imports_no_sympy(root):
    build = "from utils.darknet.model import Darknet; Darknet.from_cfg('tests/cfgs/residual.cfg')"
    script = f"import sys; {build}; sys.exit('sympy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


@pytest.mark.parametrize("initialise", [True, False])
def test_a_network_takes_the_type_and_device_around_it(initialise):
    network = Network.from_cfg(ROOT / "tests/cfgs/residual.cfg")
    with torch.device("meta"):
        assert all(tensor.is_meta for tensor in Darknet(network, initialise).state_dict().values())
    torch.set_default_dtype(torch.float64)
    try:
        model = Darknet(network, initialise)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_names_of_parameters_follow_the_section_numbers():
    names = set(feature("residual").state_dict())
    assert {"layers.0.conv.weight", "layers.0.norm.running_var", "layers.12.conv.bias"} <= names
    assert not any(name.startswith("layers.3.") for name in names)
    assert "layers.0.conv.bias" not in names


HEAD = "[conv]\nfilters=6\nactivation=linear\n[yolo]\nmask=0\nanchors=4,4\nclasses=1\n"
HALVE = "[conv]\nfilters=2\nsize=3\nstride=2\npad=1\nactivation=leaky\n"


@pytest.mark.parametrize("width, height", [(80, 80), (80, 96), (96, 64)])
def test_centres_are_darknets_even_if_the_size_is_no_multiple(width, height):
    text = f"[net]\nwidth={width}\nheight={height}\nchannels=3\n" + 5 * HALVE + HEAD
    model = Darknet(Network.from_text(text))
    (head,) = model(torch.zeros(1, 3, height, width))
    boxes = decode_heads([torch.zeros_like(head)], model.head_specs)
    rows, columns = head.shape[2:4]
    expected = [  # get_yolo_box: (column + 0.5) / grid width, times the network's width
        [(column + 0.5) / columns * width, (row + 0.5) / rows * height]
        for row in range(rows)
        for column in range(columns)
    ]
    torch.testing.assert_close(boxes[0, :, :2], torch.tensor(expected))


def test_an_image_that_would_displace_the_boxes_is_refused():
    text = "[net]\nwidth=96\nheight=96\nchannels=3\n" + 5 * HALVE + HEAD
    model = Darknet(Network.from_text(text, "a.cfg"))
    assert model(torch.zeros(1, 3, 64, 160))[0].shape[2:4] == (2, 5)
    with pytest.raises(ToolkitError, match=r"a.cfg:\d+: \[yolo\] #6: images of 80x96 .*multiples of 32"):
        model(torch.zeros(1, 3, 96, 80))
