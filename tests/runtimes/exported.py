"""A tiny detector in every format, written without the exporters, and the metadata that go with it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from tests.detectors import mini_detector
from utils.darknet.model import Darknet
from utils.exporters.tracing import BoxesAndScores, trace_onnx
from utils.runtimes.metadata import metadata_path

NAMES = ("one", "two", "three", "four")
SIZE = (96, 64)
METADATA = {
    "names": json.dumps(NAMES),
    "strides": "[16]",
    "darknet": json.dumps(
        {"letterbox": False, "nms_kind": "greedynms", "beta_nms": 0.6, "image_size": SIZE, "channels": 3}
    ),
}
OPEN = {"dynamic_axes": {"images": {0: "b", 2: "h", 3: "w"}, "boxes": {0: "b"}, "scores": {0: "b"}}}


def tiny_detector(folder: Path) -> Darknet:
    """The mini detector at SIZE; its cfg is `folder`/net.cfg."""
    return mini_detector(folder, SIZE[0], head="nms_kind=greedynms")


def write_onnx(
    model: Darknet, path: Path, *, batch: int = 1, is_open: bool = False, metadata: bool = True
) -> Path:
    """An ONNX file at SIZE, or with open batch and size."""
    import onnx

    example = torch.zeros(batch, 3, *SIZE)
    module = BoxesAndScores(model, model.head_specs).eval()
    trace_onnx(module, example, path, 17, output_names=["boxes", "scores"], **(OPEN if is_open else {}))
    if metadata:
        proto = onnx.load(path)
        onnx.helper.set_model_props(proto, METADATA)
        onnx.save(proto, path)
    return path


def write_openvino(model: Darknet, folder: Path, *, is_open: bool = False) -> Path:
    """An OpenVINO IR at SIZE, or with open batch and size."""
    import openvino

    source = write_onnx(model, folder / "source.onnx", is_open=is_open, metadata=False)
    network = openvino.Core().read_model(source)
    for name, text in METADATA.items():
        network.set_rt_info(text, name)
    openvino.save_model(network, folder / "net.xml", compress_to_fp16=False)
    return folder / "net.xml"


def write_torchscript(model: Darknet, folder: Path) -> Path:
    """A TorchScript file."""
    module = torch.jit.trace(BoxesAndScores(model, model.head_specs).eval(), torch.zeros(1, 3, *SIZE))
    torch.jit.save(module, folder / "net.torchscript", _extra_files=METADATA)
    return folder / "net.torchscript"


def write_ncnn(model: Darknet, folder: Path) -> Path:
    """An ncnn pair and the metadata beside it."""
    import pnnx

    module = BoxesAndScores(model, model.head_specs).eval()
    before = Path.cwd()
    os.chdir(folder)  # where it leaves its files
    try:
        pnnx.export(
            module, str(folder / "net.pt"), (torch.zeros(1, 3, *SIZE),), check_trace=False, fp16=False
        )
    finally:
        os.chdir(before)
    path = folder / "net.ncnn.param"
    metadata_path(path).write_text(json.dumps(METADATA))
    return path


# by the runtime that reads it: the package that writes it, and how
WRITERS: dict[str, tuple[str, Callable[[Darknet, Path], Path]]] = {
    "onnxruntime": ("onnx", lambda model, folder: write_onnx(model, folder / "net.onnx")),
    "openvino": ("openvino", write_openvino),
    "torch": ("torch", write_torchscript),
    "ncnn": ("pnnx", write_ncnn),
}
