"""The command line of export.py, and what the command tells a program that reads the file."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import export as script
from utils.commands.arguments import Parser, add_command
from utils.commands.export.job import make_job, metadata
from utils.commands.export.run import (
    FORMATS,
    ExportOptions,
    Format,
    convolutional_sections,
    export,
    require_packages,
)
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.errors import ExportError, MissingPackageError, ToolkitError
from utils.exporters.job import Accuracy, Exported, Exporting, Precision
from utils.exporters.onnx import export_onnx

CFGS = Path(__file__).resolve().parents[1] / "cfgs"


def parsed(*words: str) -> argparse.Namespace:
    parser = Parser("", "export")
    add_command(parser, ExportOptions)
    return parser.parse_args(list(words))


@pytest.mark.parametrize(
    ("words", "dynamic"),
    [
        ((), None),
        (("--dynamic",), "both"),
        (("--dynamic", "batch"), "batch"),
        (("--dynamic", "size"), "size"),
    ],
)
def test_dynamic_without_a_word_opens_both(words: tuple[str, ...], dynamic: str | None) -> None:
    assert parsed(*words).dynamic == dynamic


@pytest.mark.parametrize(
    ("text", "sections"), [("auto", "auto"), ("3,15", (3, 15)), ("3, 15,3", (3, 15)), ("7", (7,))]
)
def test_sections_to_skip_are_auto_or_numbers(text: str, sections: object) -> None:
    assert parsed("--int8-skip", text).int8_skip == sections


def test_formats_are_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("--format", "onnx").format == ("onnx",)
    assert parsed("--format", ",".join(FORMATS)).format == tuple(FORMATS)
    for wrong, named in (("onnx,pt", "'pt'"), (",", "''")):
        with pytest.raises(SystemExit):
            parsed("--format", wrong)
        assert f"unknown format {named}; use some of onnx" in capsys.readouterr().err


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a network's weights and a data set."""
    save_weights(Darknet.from_cfg(CFGS / "residual.cfg"), tmp_path / "net.weights")
    (tmp_path / "my.data").write_text("classes=1\ntrain=my.txt\nvalid=my.txt\nnames=my.names\n")
    (tmp_path / "my.names").write_text("a\n")
    return tmp_path


def run(project: Path, *words: str) -> None:
    files = ("--cfg", str(CFGS / "residual.cfg"), "--weights", str(project / "net.weights"))
    script.main([*files, *words])


INT8 = ("--precision", "int8", "--data", "DATA")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nms", "--format", "onnx,openvino"), r"--nms: openvino cannot take over ONNX's NMS"),
        (("--nms", "--opset", "12"), r"--opset 12: --nms needs operators of opset 13; use 17"),
        (("--opset", "10"), r"--opset 10: unsupported for fp32, which needs opset 11 to 20"),
        (("--opset", "12", *INT8), r"--opset 12: unsupported for int8, which needs opset 13 to 20"),
        (("--conf", "0.25"), r"--conf: applies only with --nms"),
        (("--nms-overlap", "0.45"), r"--nms-overlap: applies only with --nms"),
        (("--target", "SM86"), r"--target: applies only to --format tensorrt, not onnx"),
        ((*INT8, "--int8-skip", "auto", "--raw-heads"), r"auto: needs boxes .*leave --raw-heads out"),
        (
            (*INT8, "--int8-skip", "auto", "--format", "onnx,openvino"),
            r"auto: supports ONNX only, not openvino",
        ),
        (
            (*INT8, "--int8-skip", "0,3,99"),
            r"--int8-skip 3,99: not a convolution that can be quantized; .*0,1,2,4,",
        ),
    ],
)
def test_what_can_be_known_is_refused_before_any_file(
    words: tuple[str, ...], message: str, project: Path
) -> None:
    data = str(project / "my.data")
    before = sorted(project.iterdir())
    with pytest.raises(ExportError, match=message):
        run(project, *(data if word == "DATA" else word for word in words))
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": ("onnx", "pt")}, "--format: unknown format 'pt'; use some of onnx"),
        ({"format": ()}, "--format: unknown format"),
        ({"nms": True, "raw_heads": True}, "--nms: raw heads contain no boxes"),
        ({"opset": 0}, "--opset: 0 is out of range"),
        ({"precision": "fp8"}, "--precision: unknown value 'fp8'; use one of fp32, fp16, int8"),
    ],
)
def test_options_that_cannot_be_are_refused_when_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        ExportOptions(**options)


def test_python_gets_the_files_and_nothing_is_printed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = export(ExportOptions(cfg=CFGS / "residual.cfg", weights=project / "net.weights"))
    (made,) = result.exports
    assert made.paths == (project / "net.onnx",)
    assert (result.precision, result.outputs, result.before) == ("fp32", ("boxes", "scores"), None)
    assert max(parity.largest for parity in made.parities) < 1e-4
    assert capsys.readouterr() == ("", "")


def test_an_unknown_gpu_is_refused_before_any_file(project: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = sorted(project.iterdir())
    with pytest.raises(ExportError, match=r"--target SM1: unsupported; use some of .*SM86"):
        run(project, "--format", "onnx,tensorrt", "--target", "sm86,sm1")
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "precision", "missing"),
    [("onnx", "fp32", "onnxslim"), ("openvino", "int8", "nncf"), ("ncnn", "fp32", "pnnx")],
)
def test_packages_of_all_formats_are_looked_for_first(
    name: str, precision: Precision, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_without(module: str) -> None:
        if module == missing:
            raise ImportError(module)

    monkeypatch.setattr("utils.extras.import_module", import_without)
    require_packages(("torchscript",), precision)
    with pytest.raises(MissingPackageError, match=rf"--format {name}: .*pip install {missing}$"):
        require_packages(("torchscript", name), precision)


@pytest.mark.parametrize("name", ["residual", "depthwise", "local_avgpool", "messy"])
def test_sections_known_before_are_those_that_onnx_quantises(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from utils.exporters.onnx_int8 import convolutions

    model = Darknet.from_cfg(CFGS / f"{name}.cfg").eval()
    job = make_job(model, None, (model.network.height, model.network.width), 0)
    graph = onnx.load(export_onnx(job, tmp_path / "net.onnx").paths[0]).graph
    assert convolutional_sections(model) == sorted(convolutions(graph))


def test_gpus_may_be_in_lower_case() -> None:
    assert parsed("--target", "sm86, SM75").target == ("SM86", "SM75")


def test_what_was_written_is_told_when_a_later_format_fails(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(job: Exporting, path: Path) -> Exported:
        raise ExportError("torch", "cannot", "do not")

    formats = dict(FORMATS) | {"torchscript": Format(".torchscript", fails)}
    monkeypatch.setattr("utils.commands.export.run.FORMATS", formats)
    with pytest.raises(ExportError, match="torch: cannot"):
        run(project, "--format", "torchscript,onnx")
    assert "net.onnx" in capsys.readouterr().out
    assert (project / "net.onnx").exists()


def writing(name: str, **facts: Any) -> Callable[[Exporting, Path], Exported]:
    """An export that puts down an empty file."""

    def export(job: Exporting, path: Path) -> Exported:
        path.touch()
        return Exported((path,), name, job.precision, **facts)

    return export


@pytest.mark.parametrize(
    ("precision", "remedy"), [("fp16", "export fp32"), ("int8", "--int8-skip auto, with --format onnx,")]
)
@pytest.mark.parametrize("measured_before_its_report", [True, False])
def test_a_loss_above_a_point_is_warned_of_in_every_format(
    precision: Precision,
    remedy: str,
    measured_before_its_report: bool,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def with_accuracy(*positions: Any, **options: Any) -> Exporting:
        return replace(make_job(*positions, **options), accuracy=Accuracy(0.8, lambda infer: 0.771))

    facts = {"accuracy": 0.771} if measured_before_its_report else {"infer": lambda images: []}
    formats = {
        "openvino": Format(".xml", writing("openvino", **facts)),
        "torchscript": Format(".torchscript", writing("torchscript", accuracy=0.7901)),
    }
    monkeypatch.setattr("utils.commands.export.run.FORMATS", formats)
    monkeypatch.setattr("utils.commands.export.run.require_possible", lambda *_: None)
    monkeypatch.setattr("utils.commands.export.run.make_job", with_accuracy)
    run(project, "--precision", precision, "--format", "openvino,torchscript")
    told = capsys.readouterr().out
    assert f"openvino: WARNING: loses 2.9 points of mAP; {remedy}" in told
    assert "torchscript: WARNING" not in told


@pytest.mark.parametrize(
    ("chosen", "after"),
    [("tensorrt", ""), ("onnx,tensorrt", "net.onnx"), ("tensorrt,torchscript", "net.torchscript")],
)
def test_an_engine_that_cannot_run_here_is_not_what_comes_next(
    chosen: str,
    after: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    formats = {name: Format(kind.suffix, writing(name)) for name, kind in FORMATS.items()}
    monkeypatch.setattr("utils.commands.export.run.FORMATS", formats)
    monkeypatch.setattr("utils.commands.export.run.require_possible", lambda *_: None)
    run(project, "--format", chosen)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next:")]
    wanted = f"next: python detect.py --weights {project / after} --source IMAGE"
    assert lines == ([wanted] if after else [])


def test_metadata_stands_in_for_the_cfg() -> None:
    model = Darknet.from_cfg(CFGS / "residual.cfg")
    stored = metadata(model, ["a", "ü"], (64, 96))
    assert len(stored["cfg_sha256"]) == 64
    texts = {name: json.loads(text) for name, text in stored.items() if name != "cfg_sha256"}
    assert texts["names"] == ["a", "ü"]
    assert texts["strides"] == [spec.stride for spec in model.head_specs]
    assert texts["anchors"] == [[list(anchor) for anchor in spec.anchors] for spec in model.head_specs]
    assert texts["darknet"] == {
        "letterbox": False,
        "nms_kind": "default",
        "beta_nms": 0.6,
        "image_size": [64, 96],
        "channels": 3,
    }
