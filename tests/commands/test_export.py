"""The command line of export.py, and what the command tells a program that reads the file."""

import argparse
import json
from pathlib import Path

import pytest

from utils.commands.export import FORMATS, export_parser, run_export
from utils.commands.export_job import metadata
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.errors import ExportError

CFGS = Path(__file__).resolve().parents[1] / "cfgs"


def parsed(*words: str) -> argparse.Namespace:
    return export_parser("manual").parse_args(list(words))


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
    for wrong, named in (("onnx,pt", "'pt'"), (",", "','")):
        with pytest.raises(SystemExit):
            parsed("--format", wrong)
        assert f"{named} is not known; use some of onnx" in capsys.readouterr().err


def test_no_other_format_takes_the_suppression(tmp_path: Path) -> None:
    cfg, weights = CFGS / "residual.cfg", tmp_path / "net.weights"
    save_weights(Darknet.from_cfg(cfg), weights)
    args = parsed("--cfg", str(cfg), "--weights", str(weights), "--nms")
    args.format = ("onnx", "openvino")
    with pytest.raises(ExportError, match=r"--nms: .*which openvino cannot take over"):
        run_export(args)
    assert [path.name for path in tmp_path.iterdir()] == ["net.weights"]


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
