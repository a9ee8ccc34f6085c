"""All runtimes compute one function, and say what they lack."""

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.errors import ToolkitError
from utils.exporters.tracing import module_session
from utils.runtimes.openvino import OpenVino
from utils.runtimes.runtime import find_runtime, random_images
from utils.runtimes.torch import Torch

FILE_RUNTIMES = ("onnxruntime", "openvino")


class TwoOutputs(nn.Module):
    """Dense, depthwise and grouped; the second output has another layout in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 17, 3, stride=2, padding=1), nn.LeakyReLU(0.1))
        self.depthwise = nn.Sequential(nn.Conv2d(17, 17, 3, padding=1, groups=17), nn.Mish())
        self.head = nn.Conv2d(17, 6, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)
        return self.head(self.depthwise(x) + x), x.permute(0, 2, 3, 1)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return TwoOutputs().eval()


@pytest.mark.parametrize("name", ["torch", *FILE_RUNTIMES])
def test_every_runtime_gives_the_modules_own_outputs(name: str, module: nn.Module) -> None:
    if name != "torch":
        pytest.importorskip(name)
    images = random_images((2, 3, 20, 28))
    with torch.no_grad():
        expected = [output.numpy() for output in module(torch.from_numpy(images))]
    actual = module_session(module, torch.from_numpy(images), find_runtime(name)).infer(images)
    assert len(actual) == 2
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == np.float32
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


@pytest.mark.parametrize("name", ["torch", *FILE_RUNTIMES])
def test_outputs_stay_what_they_were_after_the_next_image(name: str, module: nn.Module) -> None:
    if name != "torch":
        pytest.importorskip(name)
    first, second = random_images((1, 3, 8, 8)), random_images((1, 3, 8, 8), seed=1)
    ready = module_session(module, torch.from_numpy(first), find_runtime(name))
    outputs = ready.infer(first)
    kept = [output.copy() for output in outputs]
    ready.infer(second)
    ready.bound(second)()
    assert all(np.array_equal(one, other) for one, other in zip(outputs, kept, strict=True))


def test_wrapping_leaves_the_module_as_it_was(module: nn.Module) -> None:
    module.train()
    Torch().wrap(module)
    assert module.training
    assert module.stem[0].weight.is_contiguous()


@pytest.mark.parametrize("name", [*FILE_RUNTIMES, "tensorrt"])
def test_a_missing_package_is_named_with_its_pip_line(
    name: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_without(package: str) -> Any:
        if package.startswith(name):  # tensorrt_rtx would do as well
            raise ImportError(package)
        return builtins.__import__(package)

    monkeypatch.setattr("utils.extras.import_module", import_without)
    with pytest.raises(ToolkitError, match=f"pip install {name}$"):
        find_runtime(name).load(tmp_path / "net.onnx")


def test_an_engine_of_tensorrt_rtx_asks_for_what_pip_calls_it(tmp_path, monkeypatch) -> None:
    def nothing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("utils.extras.import_module", nothing)
    (tmp_path / "net.engine.json").write_text('{"tensorrt": {"package": "tensorrt_rtx"}}')
    with pytest.raises(ToolkitError, match=r"pip install tensorrt-rtx-cu13$"):
        find_runtime("tensorrt").load(tmp_path / "net.engine")


def test_tensorrt_without_a_gpu_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.extras.import_module", lambda name: builtins)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ToolkitError, match="no NVIDIA GPU"):
        find_runtime("tensorrt").load(tmp_path / "net.onnx")


@pytest.mark.parametrize("name", FILE_RUNTIMES)
def test_a_file_that_is_no_network_is_named(name: str, tmp_path) -> None:
    pytest.importorskip(name)
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(ToolkitError, match=r"net.onnx: .* cannot load it"):
        find_runtime(name).load(path)


def test_names_and_precisions_that_do_not_exist_are_refused(tmp_path) -> None:
    with pytest.raises(ToolkitError, match="use one of torch, onnxruntime, openvino, tensorrt"):
        find_runtime("caffe")
    with pytest.raises(ToolkitError, match="use one of f32"):
        OpenVino("int3")
    with pytest.raises(ToolkitError, match="supports f32 only"):
        find_runtime("torch", "f16")
    with pytest.raises(ToolkitError, match="torch runs modules"):
        find_runtime("torch").load(tmp_path / "net.onnx")
