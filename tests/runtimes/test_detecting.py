"""Exported files on their runtimes: the same boxes as the network, and what the files say of themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.runtimes.exported import (
    METADATA,
    NAMES,
    SIZE,
    WRITERS,
    tiny_detector,
    write_onnx,
    write_openvino,
    write_torchscript,
)
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.detection.decode import decode_heads
from utils.errors import CfgError, ToolkitError
from utils.exporters.tracing import trace_onnx
from utils.runtimes.detecting import as_predict, detecting, facts_of, of_file, runtime_of
from utils.runtimes.metadata import metadata_path
from utils.runtimes.opencv import OpenCv
from utils.runtimes.runtime import Images, Session


@pytest.fixture
def model(tmp_path: Path) -> Darknet:
    return tiny_detector(tmp_path)


def images(count: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def assert_equal(found: Tensor, model: Darknet, given: Tensor) -> None:
    """Boxes to 1e-3 pixels; scores, which are objectness times class in a file, to 1e-5."""
    with torch.no_grad():
        expected = decode_heads(model(given), model.head_specs)
    assert found.shape == expected.shape
    assert (found[..., :4] - expected[..., :4]).abs().max() < 1e-3
    scores = [each[..., 4:5] * each[..., 5:] for each in (found, expected)]
    assert (scores[0] - scores[1]).abs().max() < 1e-5


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_detects_as_its_network_does_and_says_what_it_is(name: str, model: Darknet, tmp_path) -> None:
    package, write = WRITERS[name]
    pytest.importorskip(package)
    pytest.importorskip(name)
    path = write(model, tmp_path)
    runtime = runtime_of(path)
    assert runtime.name == name
    network = of_file(path, runtime)
    assert_equal(network.predict(images(3)), model, images(3))  # some take one image at a time
    assert (network.names, network.image_size, network.classes) == (NAMES, SIZE, 4)
    assert (network.nms_kind, network.letterbox, network.size_step) == ("greedynms", False, 16)


def test_openvino_finds_the_metadata_of_an_onnx_file(model: Darknet, tmp_path) -> None:
    pytest.importorskip("openvino")
    path = write_onnx(model, tmp_path / "net.onnx")
    assert runtime_of(path, "openvino").load(path).metadata == METADATA


def test_opencv_detects_as_its_network_does(model: Darknet) -> None:
    """In float32 without Winograd, at another size than the cfg's, for several images."""
    given = images(2, (64, 96))
    predict = as_predict(OpenCv(winograd=False).wrap(model, (64, 96)), "opencv")
    assert_equal(predict(given), model, given)


def test_what_opencv_runs_in_one_go_holds_the_same_scores(model: Darknet) -> None:
    """What is timed is the whole network: OpenCV's own decoding gives the best score of `infer`."""
    torch.nn.init.ones_(model.layers[0].conv.bias)  # its own decoding drops scores below 0.2
    given = images(1).numpy()
    session = OpenCv(winograd=False).wrap(model, SIZE)
    (rows,) = session.bound(given)()
    assert rows[..., 5:].max() == pytest.approx(session.infer(given)[1].max(), abs=1e-5)


def test_opencv_is_not_asked_about_what_it_reads_wrongly(tmp_path) -> None:
    tiny_detector(tmp_path)
    text = (tmp_path / "net.cfg").read_text().replace("pad=1", "pad=1\ndilation=2")
    model = Darknet(Network.from_text(text, "wide.cfg"))
    with pytest.raises(ToolkitError, match=r"wide\.cfg: OpenCV reads wrongly .*; use another runtime"):
        OpenCv().wrap(model, SIZE)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_number_of_images_is_served_in_pieces(batch: int, model: Darknet, tmp_path) -> None:
    path = write_onnx(model, tmp_path / "net.onnx", batch=batch)
    assert_equal(of_file(path, runtime_of(path)).predict(images(5)), model, images(5))


def test_open_sizes_take_any_image(model: Darknet, tmp_path) -> None:
    path = write_onnx(model, tmp_path / "net.onnx", is_open=True)
    network = of_file(path, runtime_of(path))
    for size in (SIZE, (64, 160)):
        network.try_size(size)
        assert_equal(network.predict(images(2, size)), model, images(2, size))


OPEN_FILES: dict[str, tuple[str, Callable[[Darknet, Path], Path]]] = {
    "onnxruntime": (
        "onnxruntime",
        lambda model, folder: write_onnx(model, folder / "net.onnx", is_open=True),
    ),
    "openvino": ("openvino", lambda model, folder: write_onnx(model, folder / "net.onnx", is_open=True)),
    "openvino-ir": ("openvino", lambda model, folder: write_openvino(model, folder, is_open=True)),
    "torch": ("torch", write_torchscript),
}


@pytest.mark.parametrize("name", OPEN_FILES)
def test_open_sizes_that_the_strides_do_not_divide_are_refused(name: str, model: Darknet, tmp_path) -> None:
    runtime, write = OPEN_FILES[name]
    pytest.importorskip(runtime)
    path = write(model, tmp_path)
    network = of_file(path, runtime_of(path, runtime))
    network.try_size(SIZE)
    with pytest.raises(ToolkitError, match=rf"{path.name}: .* 96x100 .*; use multiples of 16$"):
        network.try_size((96, 100))


def test_a_cfg_says_the_strides_of_a_file_that_does_not(model: Darknet, tmp_path) -> None:
    path = write_onnx(model, tmp_path / "net.onnx", is_open=True, metadata=False)
    with pytest.raises(ToolkitError, match=r"; use multiples of 16$"):
        of_file(path, runtime_of(path), model.network).try_size((100, 96))


CALLS: dict[str, Callable[[Session, Images], object]] = {
    "infer": lambda session, given: session.infer(given),
    "bound": lambda session, given: session.bound(given)(),
}


class Merging(torch.nn.Module):
    """Two maps that meet at sizes whose halves are even, and nowhere else."""

    def forward(self, images: Tensor) -> Tensor:
        half = torch.nn.functional.max_pool2d(images, 2)
        again = torch.nn.functional.interpolate(torch.nn.functional.max_pool2d(half, 2), scale_factor=2.0)
        return torch.cat((half, again), 1).flatten(2)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("call", CALLS)
def test_what_a_runtime_cannot_run_is_an_error_and_never_the_call_before(
    name: str, call: str, tmp_path
) -> None:
    """22 pixels give maps of 11 and 10; the session says so each time, and serves what fits after it."""
    pytest.importorskip(name)
    path, axes = tmp_path / "net.onnx", {"images": {0: "b", 2: "h", 3: "w"}, "found": {0: "b"}}
    trace_onnx(Merging().eval(), torch.zeros(1, 3, 16, 16), path, 17, output_names=["found"],
               dynamic_axes=axes)  # fmt: skip
    session = runtime_of(path, name).load(path)
    fitting, other = (images(2, (side, side)).numpy() for side in (16, 22))
    expected = session.infer(fitting)
    for count in (2, 1, 2):
        with pytest.raises(ToolkitError, match=r"net\.onnx: [^\n]+; give a valid size"):
            CALLS[call](session, other[:count])
    assert np.array_equal(session.infer(fitting)[0], expected[0])


def test_another_size_than_the_files_is_refused(model: Darknet, tmp_path) -> None:
    path = write_onnx(model, tmp_path / "net.onnx")
    with pytest.raises(
        ToolkitError, match=r"net\.onnx: accepts only images of 3x96x64 .* not 3x64x64; give that size"
    ):
        of_file(path, runtime_of(path)).try_size((64, 64))


def test_a_cfg_replaces_missing_metadata(model: Darknet, tmp_path) -> None:
    path = write_onnx(model, tmp_path / "net.onnx", is_open=True, metadata=False)
    with pytest.raises(ToolkitError, match=r"net\.onnx: has no metadata.*; add --cfg"):
        of_file(path, runtime_of(path))
    network = of_file(path, runtime_of(path), model.network)
    assert (network.image_size, network.nms_kind, network.names) == (SIZE, "greedynms", ())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"darknet": "{"}, r"net\.torchscript: invalid metadata .darknet: not valid JSON"),
        ({"darknet": "{}"}, r"net\.torchscript: invalid metadata .darknet: letterbox is missing"),
        (METADATA | {"names": '["one"]'}, r"net\.torchscript: has 1 class names, but 4 classes"),
        (
            METADATA | {"darknet": METADATA["darknet"].replace('"channels": 3', '"channels": 5')},
            r"TorchScript file: cannot run images \(1, 5, 96, 64\)",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(metadata, message: str, model: Darknet, tmp_path) -> None:
    module = torch.jit.load(write_torchscript(model, tmp_path))
    path = tmp_path / "net.torchscript"
    torch.jit.save(module, path, _extra_files=metadata)
    with pytest.raises(ToolkitError, match=message):
        of_file(path, runtime_of(path))


def test_a_file_that_takes_no_images_is_refused(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    trace_onnx(torch.nn.Linear(3, 4).eval(), torch.zeros(1, 3), tmp_path / "net.onnx", 17)
    with pytest.raises(ToolkitError, match=r"net\.onnx: input is not images \(B, C, H, W\)"):
        of_file(tmp_path / "net.onnx", runtime_of(tmp_path / "net.onnx"))


def test_what_a_runtime_says_of_a_run_is_passed_on(model: Darknet, tmp_path) -> None:
    """A file whose images are float16."""
    onnx = pytest.importorskip("onnx")
    path = write_onnx(model, tmp_path / "net.onnx")
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    cast = onnx.helper.make_node("Cast", ["images"], ["as_float"], to=onnx.TensorProto.FLOAT)
    for node in proto.graph.node:
        node.input[:] = ["as_float" if name == "images" else name for name in node.input]
    proto.graph.node.insert(0, cast)
    onnx.save(proto, path)
    with pytest.raises(ToolkitError, match=r"net\.onnx: cannot be run on images \(1, 3, 96, 64\): .*float"):
        of_file(path, runtime_of(path))


def test_a_file_that_is_no_detector_is_refused(tmp_path) -> None:
    module = torch.jit.trace(torch.nn.Conv2d(3, 4, 1).eval(), torch.zeros(1, 3, 8, 8))
    torch.jit.save(module, tmp_path / "net.torchscript", _extra_files=METADATA)
    path = tmp_path / "net.torchscript"
    with pytest.raises(ToolkitError, match=r"net\.torchscript: its outputs .* are not boxes"):
        of_file(path, runtime_of(path))


def test_a_darknet_and_its_deployed_copy_agree(model: Darknet) -> None:
    network = detecting(model)
    assert_equal(network.predict(images(2)), model, images(2))
    assert detecting(network) is network
    assert facts_of(model).image_size == network.image_size == SIZE


def test_heads_of_different_classes_are_refused(model: Darknet, tmp_path) -> None:
    text = (tmp_path / "net.cfg").read_text()
    other = "\n[route]\nlayers=0\n\n[convolutional]\nfilters=16\n\n[yolo]\nmask=0,1\nanchors=1,1,2,2\n"
    mixed = Darknet(Network.from_text(f"{text}{other}classes=3\nnum=2\n", "mixed.cfg"))
    with pytest.raises(CfgError, match=r"mixed\.cfg: its heads have 4, 3 classes"):
        facts_of(mixed)


@pytest.mark.parametrize(
    ("name", "reader", "message"),
    [
        ("net.bin", None, r"net\.bin: unsupported kind of file; give one of \.onnx, \.xml"),
        ("net.xml", "onnxruntime", r"net\.xml: onnxruntime does not read this file; use openvino"),
    ],
)
def test_who_reads_what_is_told(name: str, reader: str | None, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        runtime_of(Path(name), reader)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.torchscript"])
def test_a_broken_file_is_named(name: str, tmp_path) -> None:
    path = tmp_path / name
    path.write_bytes(b"not a network")
    runtime = runtime_of(path)
    pytest.importorskip(runtime.name)
    with pytest.raises(ToolkitError, match=rf"{name}: .* cannot load it: [^\n]{{1,170}}; export it again$"):
        runtime.load(path)


def test_ncnn_needs_both_of_its_files(tmp_path) -> None:
    pytest.importorskip("ncnn")
    (tmp_path / "net.ncnn.param").write_text("7767517\n0 0\n")
    with pytest.raises(ToolkitError, match=r"net\.ncnn\.bin: not found"):
        runtime_of(tmp_path / "net.ncnn.param").load(tmp_path / "net.ncnn.param")


@pytest.mark.parametrize("text", ["{", "[]", '{"darknet": "x"}', '{"darknet": {"image_size": 416}}'])
def test_invalid_metadata_beside_a_file_is_named(text: str, tmp_path) -> None:
    pytest.importorskip("ncnn")
    path = tmp_path / "net.ncnn.param"
    path.write_text("7767517\n1 1\nInput in0 0 1 in0\n")
    path.with_suffix(".bin").write_bytes(b"")
    metadata_path(path).write_text(text)
    with pytest.raises(ToolkitError, match=r"net\.ncnn\.param\.json: invalid metadata"):
        runtime_of(path).load(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"tensorrt": []}'])
def test_invalid_metadata_beside_an_engine_is_named(text: str, tmp_path) -> None:
    path = tmp_path / "net.engine"
    path.write_bytes(b"plan")
    metadata_path(path).write_text(text)
    with pytest.raises(ToolkitError, match=r"net\.engine\.json: invalid metadata"):
        runtime_of(path).load(path)


class _Engine:
    """What a driver would give: an engine with one input of a profile of at most two images."""

    num_io_tensors = 3
    names = ("images", "boxes", "scores")

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3, *SIZE)


def test_an_engine_says_which_sizes_are_open(tmp_path, monkeypatch) -> None:
    """Without a GPU: the package's answers are played, the reading of them is ours."""
    path = tmp_path / "net.engine"
    path.write_bytes(b"plan")
    metadata_path(path).write_text(json.dumps(METADATA))
    engine = _Engine()
    monkeypatch.setattr(engine, "create_execution_context", lambda: None, raising=False)

    class Package:
        Logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
        TensorIOMode = type("Mode", (), {"INPUT": "in", "OUTPUT": "out"})
        Runtime = type(
            "Runtime",
            (),
            {"__init__": lambda self, log: None, "deserialize_cuda_engine": lambda self, plan: engine},
        )

    monkeypatch.setattr("utils.extras.import_module", lambda name: Package)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    session = runtime_of(path).load(path)
    assert session.sizes == (None, 3, *SIZE)
    assert session.metadata == METADATA
    monkeypatch.setattr(Package.Runtime, "deserialize_cuda_engine", lambda self, plan: None)
    with pytest.raises(ToolkitError, match=r"net\.engine: was built for another GPU"):
        runtime_of(path).load(path)


def test_black_images_fill_up_a_batch_and_are_cut_off_again() -> None:
    """Three images to a session that takes two: what it was given, and what comes back."""
    seen = []

    class Session:
        sizes = (2, 3, None, None)
        metadata: ClassVar[dict[str, str]] = {}

        def infer(self, given: np.ndarray) -> list[np.ndarray]:
            seen.append(given)
            return [np.zeros((2, 1, 4), np.float32), given[:, :1, :1, 0]]

    given = torch.rand(3, 3, 8, 8)
    found = as_predict(Session(), "x")(given)
    assert [len(each) for each in seen] == [2, 2]
    assert not seen[1][1].any()
    assert torch.equal(found[:, 0, 5], given[:, 0, 0, 0])
