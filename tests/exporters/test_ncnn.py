"""An ncnn file pair computes what the network does, or it is not there."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo_cases import randomise
from tests.exporters.networks import SPECS, TwoHeads
from utils.darknet.model import Darknet
from utils.errors import ExportError, MissingPackageError
from utils.exporters.job import Exported, exporting
from utils.exporters.ncnn import export_ncnn
from utils.exporters.tracing import BoxesAndScores
from utils.frontends.darknet.subject import usable_size

ncnn = pytest.importorskip("ncnn")
pytest.importorskip("pnnx")


def export(folder: Path, model: nn.Module, **options: Any) -> Exported:
    return export_ncnn(exporting(model, SPECS, (32, 48), **options), folder / "net.ncnn.param")


def run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(path)) == 0
    assert net.load_model(str(path.with_suffix(".bin"))) == 0
    with net.create_extractor() as extractor:  # it must end before the net does
        extractor.input("in0", ncnn.Mat(images).clone())
        return [np.array(extractor.extract(name)[1]) for name in ("out0", "out1")]


def test_files_alone_compute_what_the_network_does(tmp_path: Path) -> None:
    model = TwoHeads()
    exported = export(tmp_path, model)
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    expected = BoxesAndScores(model, SPECS).eval()(images)
    for actual, wanted in zip(run(exported.paths[0], images[0].numpy()), expected, strict=True):
        np.testing.assert_allclose(actual, wanted[0].detach().numpy(), rtol=1e-4, atol=1e-4)


def test_nothing_but_the_pair_and_its_texts_stays(tmp_path: Path) -> None:
    exported = export(tmp_path, TwoHeads(), metadata={"names": '["a", "ü"]'})
    assert sorted(path.name for path in exported.paths) == sorted(path.name for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "net.ncnn.param.json").read_text(encoding="utf-8")) == {
        "names": '["a", "ü"]'
    }


def test_fp16_stores_halves(tmp_path: Path) -> None:
    whole = export(tmp_path, TwoHeads()).paths[1].stat().st_size
    exported = export(tmp_path, TwoHeads(), precision="fp16")
    assert exported.paths[1].stat().st_size < 0.75 * whole
    assert 1e-6 < exported.parities[0].largest < 5e-2


def test_raw_heads(tmp_path: Path) -> None:
    exported = export(tmp_path, TwoHeads(), raw_heads=True)
    assert list(exported.parities[0].differences) == ["head_0", "head_1"]


class Random(TwoHeads):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [head + torch.rand_like(head) for head in super().forward(images)]


class NoLayer(TwoHeads):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.special.bessel_j0(head) for head in super().forward(images)]


class Sorted(TwoHeads):
    """Whether a batch of one is sorted, ncnn has no notion of."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(images.sort(dim=3).values)


@pytest.mark.parametrize(
    ("model", "options", "fact"),
    [
        (NoLayer(), {}, "unsupported operators: .*bessel"),
        (Sorted(), {}, "unsupported operators: .*sort"),
        (TwoHeads(), {"precision": "int8"}, "ncnn int8: .*use fp16"),
        (TwoHeads(), {"dynamic_batch": True}, "one image of one size; leave --dynamic out"),
        (TwoHeads(), {"dynamic_size": True}, "one image of one size; leave --dynamic out"),
    ],
    ids=["operator", "method", "int8", "batch", "size"],
)
def test_a_failed_export_says_why_and_leaves_what_was_there(
    model: nn.Module, options: dict[str, Any], fact: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.ncnn.param"
    path.write_bytes(b"the last good one")
    with pytest.raises(ExportError, match=fact):
        export(tmp_path, model, **options)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"the last good one"


@pytest.mark.parametrize(
    ("cfg", "fact"),
    [
        ("maxpool_padding", ""),  # is padded with minus infinity
        ("multi_shortcut", ""),
        ("reorg", "unsupported operators: Tensor.reshape"),
        ("gaussian_yolo", "unsupported operators: Tensor.slice"),
        ("softmax", "unsupported operators: aten::view_as"),
        ("upsample_scale", "pnnx failed with status"),
    ],
)
def test_sections_of_cfgs_compute_the_same_or_are_refused(
    cfg: str, fact: str, root: Path, tmp_path: Path
) -> None:
    model = randomise(Darknet.from_cfg(root / f"tests/cfgs/{cfg}.cfg"))
    size = usable_size(model.network, 2 * model.network.size_step)
    job = exporting(model, model.head_specs, size)
    if fact:
        with pytest.raises(ExportError, match=fact):
            export_ncnn(job, tmp_path / "net.ncnn.param")
        assert not list(tmp_path.iterdir())
    else:
        assert export_ncnn(job, tmp_path / "net.ncnn.param").parities[0].largest < 1e-5


def test_other_outputs_than_the_networks_are_refused(tmp_path: Path) -> None:
    """pnnx is given another network than the one that is compared with."""

    class Moving(TwoHeads):
        calls = 0

        def forward(self, images: Tensor) -> list[Tensor]:
            self.calls += 1
            return [head + self.calls for head in super().forward(images)]

    with pytest.raises(ExportError, match=r"ncnn fp32 at batch 1, 32x48: (boxes|scores) differ"):
        export(tmp_path, Moving())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ncnn", "pnnx"])
def test_a_missing_package_is_named_with_its_pip_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_without(wanted: str) -> Any:
        if wanted == name:
            raise ImportError(name)
        return builtins.__import__(wanted)

    monkeypatch.setattr("utils.extras.import_module", import_without)
    with pytest.raises(MissingPackageError, match=f"pip install {name}$"):
        export(tmp_path, TwoHeads())
    assert not list(tmp_path.iterdir())
