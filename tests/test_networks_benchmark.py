"""What benchmarks/networks.py writes, on the smallest of its networks."""

import sys

import pytest

from benchmarks.networks import CASES, main, measured
from benchmarks.networks_page import page
from utils.commands.csv_results import read_rows, write_rows
from utils.errors import MissingPackageError, ToolkitError


@pytest.fixture(scope="module")
def row():
    return measured("lenet", CASES["lenet"], 0.5, 0.01)


def test_a_line_is_of_the_network(row):
    assert (row.parameters, row.macs) == (61_706, 416_520)
    assert row.parameters_after < row.parameters
    assert row.difference <= 1e-12
    assert row.onnx <= 1e-5
    assert row.units == 1 + 6 + 16 + 120 + 84 + 10
    assert row.pinned == 1 + 10
    assert row.not_followed == ""
    assert all(getattr(row, f"torch_{batch}{name}") > 0 for batch in (1, 8, 64) for name in ("", "_after"))


def test_lines_are_read_as_they_were_written(row, tmp_path):
    write_rows(tmp_path / "rows.csv", [row])
    assert read_rows(tmp_path / "rows.csv", type(row)) == [row]


def test_the_page_has_a_line_of_each_table(row):
    text = page([row])
    assert text.count("| lenet | 0.5 |") == 3
    assert "61,706 → 17,838" in text
    assert "10 an output of the network" in text


def test_a_name_of_no_network_is_refused(tmp_path):
    with pytest.raises(
        ToolkitError, match=r"--only mobilnet: is in no network's name; they are lenet; vgg16"
    ):
        main(["--only", "mobilnet", "--output", str(tmp_path / "rows.csv")])
    assert not (tmp_path / "rows.csv").exists()


def test_without_onnx_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        MissingPackageError, match="ONNX export: the package onnx is missing; python -m pip install onnx"
    ):
        measured("lenet", CASES["lenet"], 0.5, 0.01)
