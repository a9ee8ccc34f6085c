"""The acceptance table of the formats: what was measured is what is shown."""

from pathlib import Path

import pytest

from benchmarks.exports import _version
from benchmarks.exports_page import Row, _table, page
from benchmarks.zoo_cases import randomise
from utils.commands.csv_results import read_rows, write_rows
from utils.darknet.model import Darknet
from utils.errors import PruningError

ROWS = [
    Row("net", "unpruned", "onnx", "fp32", "ok", 1.2e-6, 3.4e-6, 1_500_000, 2.5),
    Row("net", "unpruned", "tensorrt", "fp32", "built", None, None, 2_500_000, 0.5),
    Row("net", "unpruned", "ncnn", "int8", "refused: ncnn int8: has none; use fp16"),
    Row("net", "layers", "ncnn", "int8", "refused: ncnn int8: has none; use fp16"),
    Row("net", "layers", "onnx", "fp32", "none: no block; prune channels"),
]


def test_rows_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS)
    assert read_rows(tmp_path / "rows.csv", Row) == ROWS


def test_a_cell_is_the_larger_difference_or_the_letter_of_a_reason() -> None:
    for name in ("nncf", "openvino", "tensorrt_rtx", "ncnn", "pnnx"):
        pytest.importorskip(name)
    text = page(ROWS, 320)
    assert "| net | unpruned | 3.4e-06 | built | a |" in text
    assert "| net | layers | b |  | a |" in text
    assert "| a | ncnn int8: has none; use fp16 |" in text
    assert "| b | no block; prune channels |" in text


def test_a_format_without_any_file_has_no_column_of_figures() -> None:
    lines = _table(ROWS, lambda row: f"{row.bytes / 1e6:.1f}" if row.bytes else "")
    assert lines[0] == "| network | version | onnx fp32 | tensorrt fp32 |"
    assert lines[2:] == ["| net | unpruned | 1.5 | 2.5 |", "| net | layers |  |  |"]


def test_versions_are_smaller_or_refused(root: Path) -> None:
    residual = randomise(Darknet.from_cfg(root / "tests/cfgs/residual.cfg"))
    for strategy in ("slim", "layers"):
        assert _parameters(_version(residual, strategy)) < _parameters(residual)
    with pytest.raises(PruningError, match="blocks asked for"):
        _version(randomise(Darknet.from_cfg(root / "tests/cfgs/spp.cfg")), "layers")


def _parameters(model: Darknet) -> int:
    return sum(tensor.numel() for tensor in model.parameters())
