"""A TorchScript file computes what the network does, or it is not there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.exporters.networks import SPECS, TwoHeads
from utils.errors import ExportError
from utils.exporters.job import exporting
from utils.exporters.torchscript import export_torchscript
from utils.exporters.tracing import BoxesAndScores


def test_file_alone_computes_what_the_network_does(tmp_path: Path) -> None:
    model = TwoHeads()
    path = export_torchscript(exporting(model, SPECS, (32, 48)), tmp_path / "net.torchscript").paths[0]
    images = torch.rand(1, 3, 32, 48)
    expected = BoxesAndScores(model, SPECS).eval()(images)
    for actual, wanted in zip(torch.jit.load(path)(images), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_texts_are_extra_files(tmp_path: Path) -> None:
    texts = {"names": '["a", "ü"]', "darknet": '{"letterbox": true}'}
    job = exporting(TwoHeads(), SPECS, (32, 32), metadata=texts)
    path = export_torchscript(job, tmp_path / "net.torchscript").paths[0]
    stored = dict.fromkeys(texts, "")
    torch.jit.load(path, _extra_files=stored)
    assert {
        name: text.decode() if isinstance(text, bytes) else text for name, text in stored.items()
    } == texts


def test_open_batch_and_size_are_compared(tmp_path: Path) -> None:
    job = exporting(TwoHeads(), SPECS, (32, 48), dynamic_batch=True, dynamic_size=True)
    exported = export_torchscript(job, tmp_path / "net.torchscript")
    assert [parity.shape for parity in exported.parities] == [(1, 3, 32, 48), (3, 3, 16, 64)]
    assert max(parity.largest for parity in exported.parities) < 1e-5


def test_fp16_is_half_as_large_and_takes_and_gives_float32(tmp_path: Path) -> None:
    class Wide(TwoHeads):
        def __init__(self) -> None:
            super().__init__()
            self.down[0] = nn.Conv2d(6, 8, 2, stride=2, bias=False)
            self.stem.append(nn.Sequential(nn.Conv2d(6, 512, 3, padding=1), nn.Conv2d(512, 6, 3, padding=1)))

    job = exporting(Wide(), SPECS, (32, 32))
    whole = export_torchscript(job, tmp_path / "whole.torchscript")
    half = export_torchscript(
        exporting(Wide(), SPECS, (32, 32), precision="fp16"), tmp_path / "half.torchscript"
    )
    sizes = [export.paths[0].stat().st_size for export in (half, whole)]
    assert sizes[0] < 0.7 * sizes[1]
    assert half.infer is not None
    outputs = half.infer(np.zeros((1, 3, 32, 32), np.float32))
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
    assert 1e-6 < half.parities[0].largest < 5e-2


def test_the_model_stays_in_float32(tmp_path: Path) -> None:
    model = TwoHeads()
    export_torchscript(exporting(model, SPECS, (32, 32), precision="fp16"), tmp_path / "half.torchscript")
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_raw_heads(tmp_path: Path) -> None:
    model = TwoHeads()
    job = exporting(model, SPECS, (32, 32), raw_heads=True)
    path = export_torchscript(job, tmp_path / "net.torchscript").paths[0]
    images = torch.rand(1, 3, 32, 32)
    for actual, wanted in zip(torch.jit.load(path)(images), model.eval()(images), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


class SizeFrozen(TwoHeads):
    """Traces to a graph that holds a number computed from the traced width."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [head * (int(images.shape[3]) / 48) for head in super().forward(images)]


class Random(TwoHeads):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [head + torch.rand_like(head) for head in super().forward(images)]


class Overflowing(TwoHeads):
    """Above what half precision can hold, and back."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [head * 1e3 * 1e3 * 1e-6 for head in super().forward(images)]


@pytest.mark.parametrize(
    ("model", "precision", "fact"),
    [
        (SizeFrozen(), "fp32", "batch 3, 16x64: (boxes|scores) differ"),
        (Random(), "fp32", "differ from torch"),
        (Overflowing(), "fp16", "boxes .* contain NaN or inf"),
        (TwoHeads(), "int8", "TorchScript int8: .*use --format"),
    ],
    ids=["frozen size", "random", "overflow", "int8"],
)
def test_a_failed_export_says_why_and_leaves_what_was_there(
    model: nn.Module, precision: str, fact: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.torchscript"
    path.write_bytes(b"the last good one")
    job = exporting(model, SPECS, (32, 48), dynamic_batch=True, dynamic_size=True, precision=precision)
    with pytest.raises(ExportError, match=fact):
        export_torchscript(job, path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.torchscript"]
    assert path.read_bytes() == b"the last good one"
