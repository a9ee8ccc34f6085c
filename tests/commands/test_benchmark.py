"""benchmark.py: what it measures, keeps, says and refuses."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import benchmark as script
from tests.runtimes.exported import tiny_detector, write_onnx, write_torchscript
from utils.commands.benchmark import command
from utils.commands.benchmark import measure as benchmark_measure
from utils.commands.benchmark.measure import Benchmark, Cell, CellResult, Effort, cells_of
from utils.commands.benchmark.models import Model, open_models
from utils.commands.benchmark.tables import ModelRow, markdown, panels
from utils.commands.csv_results import read_rows
from utils.commands.inputs import open_files
from utils.darknet.checkpoint import save_weights
from utils.data.listing import read_data_file
from utils.data.shapes import make_shapes
from utils.errors import ToolkitError
from utils.options import from_arguments
from utils.pruning.costs import count_macs, count_parameters

ROW = CellResult("a", "1", "r", "01", "image", "cpu", "1.0", "torch", 1, "square", 64, 2, 64, 64)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two networks of one cfg, the second one as an ONNX file with open sizes too, and a few shapes."""
    model = tiny_detector(tmp_path)
    for name in ("one", "two"):
        save_weights(model, tmp_path / f"{name}.weights")
    write_onnx(model, tmp_path / "fixed.onnx")
    write_onnx(model, tmp_path / "open.onnx", is_open=True)
    make_shapes(tmp_path, sizes={"train": 1, "valid": 3})
    return tmp_path


def pair(project: Path, name: str) -> str:
    return f"{project / 'net.cfg'}:{project / name}.weights"


def run(project: Path, models: list[str], *more: str) -> list[CellResult]:
    out = project / "out"
    fast = ["--rounds", "6", "--workers", "0", "--threads", "1", "--output", str(out)]
    script.main(["--models", *models, *fast, *more])
    return read_rows(out / "benchmark.csv", CellResult)


def count_measured(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that are measured from now on."""
    measured: list[Cell] = []
    original = Benchmark.measured
    monkeypatch.setattr(
        Benchmark, "measured", lambda self, cell, *rest: measured.append(cell) or original(self, cell, *rest)
    )
    return measured


def test_rows_are_all_combinations_with_the_inputs_that_users_know(project: Path) -> None:
    """The stand-in is 4:3, so the short side of 128 is 96; square inputs are square."""
    pytest.importorskip("openvino")
    models = [pair(project, "one"), str(project / "open.onnx")]
    sizes = ["--img_size", "64", "128", "--batch", "1", "2", "--runtime", "onnxruntime", "openvino"]
    rows = run(project, models, *sizes)
    assert len(rows) == 2 * 2 * 2 * 2 * 2
    assert {(row.shape, row.width, row.height) for row in rows} == {
        ("square", 64, 64), ("square", 128, 128), ("rect", 64, 64), ("rect", 128, 96),
    }  # fmt: skip
    for row in rows:
        assert row.rounds == 6
        assert row.p50 <= row.p95
        assert row.low <= row.faster <= row.high
        assert row.prepare > 0
        assert row.suppress > 0
    assert all(row.faster == 1 for row in rows if row.model == "one")


@pytest.mark.parametrize("runtime", ["torch", "opencv"])
def test_a_cfg_runs_as_it_is(runtime: str, project: Path) -> None:
    rows = run(project, [pair(project, "one"), pair(project, "two")], "--img_size", "64", "--batch", "2",
               "--shape", "square", "--runtime", runtime)  # fmt: skip
    assert [(row.runtime, row.rounds, row.note) for row in rows] == [(runtime, 6, "")] * 2


def test_what_cannot_be_served_has_its_reason_and_stops_nothing(project: Path, capsys) -> None:
    """A tall image: its rectangular input is the file's size, the square one is not."""
    cv2.imwrite(str(project / "tall.png"), np.zeros((96, 64, 3), np.uint8))
    models = [pair(project, "one"), str(project / "fixed.onnx")]
    rows = run(project, models, "--img_size", "96", "--batch", "1", "--source", str(project / "tall.png"),
               "--runtime", "onnxruntime", "ncnn", "torch")  # fmt: skip
    assert all(row.rounds == 6 for row in rows if (row.shape, row.runtime) == ("rect", "onnxruntime"))
    notes = {(row.model, row.runtime): row.note for row in rows if row.shape == "square"}
    assert notes["fixed.onnx", "onnxruntime"] == "the file has the fixed input shape 1x3x96x64"
    assert notes["fixed.onnx", "torch"] == "torch does not read files of this kind"
    assert "ncnn" in notes["one", "ncnn"]  # its package is missing, or it runs files alone
    assert notes["one", "onnxruntime"] == notes["one", "torch"] == ""
    told = capsys.readouterr().out
    assert "fixed.onnx on onnxruntime: the file has the fixed input shape 1x3x96x64" in told
    assert "n/a" in told


def test_a_size_that_the_strides_do_not_divide_has_its_reason(project: Path) -> None:
    pytest.importorskip("openvino")
    rows = run(project, [str(project / "open.onnx")], "--img_size", "100", "96", "--batch", "1",
               "--shape", "square", "--runtime", "onnxruntime", "openvino")  # fmt: skip
    assert {(row.size, row.rounds) for row in rows} == {(100, 0), (96, 6)}
    assert all("use multiples of 16" in row.note for row in rows if row.size == 100)


def test_what_fails_while_boxes_are_suppressed_stops_nothing(project: Path, monkeypatch) -> None:
    def failing(*_: object) -> float:
        raise ValueError("no boxes")

    monkeypatch.setattr(benchmark_measure, "suppress_milliseconds", failing)
    rows = run(project, [pair(project, "one")], "--img_size", "64", "--batch", "1", "--runtime", "torch")
    assert {row.note for row in rows} == {"ValueError: no boxes"}


def test_a_runtime_that_is_not_there_is_one_reason(project: Path, monkeypatch, capsys) -> None:
    def missing(name: str) -> object:
        raise ToolkitError(f"runtime {name}", "the package is missing", f"python -m pip install {name}")

    monkeypatch.setattr(benchmark_measure, "find_runtime", missing)
    run(project, [pair(project, "one")], "--img_size", "64", "--batch", "1", "2")
    assert capsys.readouterr().out.count("pip install onnxruntime") == 1


def test_nothing_is_measured_twice(project: Path, monkeypatch) -> None:
    models = [pair(project, "one"), pair(project, "two")]
    inputs = ["--img_size", "64", "--shape", "square", "--runtime", "torch"]
    first = run(project, models, *inputs, "--batch", "1")
    measured = count_measured(monkeypatch)
    assert run(project, models, *inputs, "--batch", "1", "2")[:2] == first
    assert measured == [Cell("torch", 1, "square", 64, 2)]
    save_weights(tiny_detector(project), project / "two.weights")  # the same network, so the same digest
    run(project, models, *inputs, "--batch", "1")
    assert len(measured) == 1
    (project / "net.cfg").write_text((project / "net.cfg").read_text() + "\n# another file\n")
    run(project, models, *inputs, "--batch", "1")
    assert len(measured) == 2


def test_an_interruption_keeps_the_rows(project: Path, monkeypatch) -> None:
    calls = iter(range(9))
    original = Benchmark.measured

    def until_the_second(self: Benchmark, *args: object) -> list[CellResult]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Benchmark, "measured", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(project, [pair(project, "one")], "--img_size", "64", "--runtime", "torch", "--shape", "square")
    assert [row.batch for row in read_rows(project / "out/benchmark.csv", CellResult)] == [1]


@pytest.mark.parametrize(
    ("low", "high", "rounds", "verdict"),
    [
        (1.01, 1.2, 21, "faster"),
        (0.8, 0.99, 21, "slower"),
        (0.99, 1.2, 21, ""),
        (1.0, 1.2, 21, ""),  # 1 is in the interval
        (1.01, 1.2, 5, ""),  # so few rounds do not give 95 %
    ],
)
def test_faster_is_said_where_the_interval_leaves_out_one(low, high, rounds, verdict) -> None:
    row = replace(ROW, low=low, high=high, rounds=rounds, p50=1.0, p95=1.0, faster=1.1)
    assert row.verdict == verdict
    models = [ModelRow(name, digest, "", "", None, 1, 1, 1) for name, digest in (("r", "0"), ("a", "1"))]
    reference = replace(ROW, model="r", digest="0", p50=2.0, p95=2.0)
    page = markdown(models, [reference, row])
    assert [word for word in (") faster", ") slower") if word in page] == (
        [f") {verdict}"] if verdict else []
    )


def test_ratios_pair_the_rounds(project: Path, monkeypatch) -> None:
    """Played times: in every round the second takes half of what the first takes, whatever that is."""
    first = [10.0, 30.0, 20.0, 50.0, 40.0, 60.0]
    times = {"one": first, "two": [value / 2 for value in first]}
    monkeypatch.setattr(benchmark_measure, "interleaved_times", lambda *args, **options: times)
    models = open_models([pair(project, "one"), pair(project, "two")])
    image = np.zeros((48, 64, 3), np.uint8)
    rows = Benchmark(models, image, "x", project / "x.csv", Effort()).run(
        cells_of(["torch"], [1], ["square"], [64], [1])
    )
    assert (rows[1].faster, rows[1].low, rows[1].high) == (2, 2, 2)
    assert (rows[0].p50, rows[1].p50) == (35, 17.5)


def test_models_are_described_and_evaluated_once(project: Path, monkeypatch) -> None:
    models = [pair(project, "one"), str(project / "fixed.onnx")]
    inputs = ["--img_size", "64", "--shape", "square", "--batch", "1", "--runtime", "torch"]
    data = ["--data", str(project / "shapes.data")]
    run(project, models, *inputs, *data)
    rows = read_rows(project / "out/benchmark_models.csv", ModelRow)
    network = open_files(project / "net.cfg", project / "one.weights")
    assert (rows[0].parameters, rows[0].macs) == (count_parameters(network), count_macs(network, (96, 64)))
    assert rows[0].size == (project / "one.weights").stat().st_size
    assert (rows[1].parameters, rows[1].size) == (None, (project / "fixed.onnx").stat().st_size)
    assert rows[0].map50 == pytest.approx(rows[1].map50, abs=1e-3)
    monkeypatch.setattr("utils.commands.benchmark.command.evaluate_network", None)
    run(project, models, *inputs, *data)  # would fail if it evaluated again
    assert (project / "out/benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert (project / "out/benchmark.md").read_text().startswith("# Benchmark\n\n## Models\n\n|  | model |")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["x.weights"], r"--models x\.weights: is neither cfg:weights nor an exported file; write a\.cfg"),
        (["x.cfg:x.weights"], r"--models x\.cfg: not found"),
        (["a/x.onnx", "b/x.onnx"], r"--models: two are called x\.onnx; rename one"),
    ],
)
def test_models_that_are_none_are_told(texts: list[str], message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.onnx").touch()
    with pytest.raises(ToolkitError, match=message):
        open_models(texts)


def test_formats_of_two_files_count_both(tmp_path: Path) -> None:
    (tmp_path / "x.ncnn.param").write_bytes(b"12")
    (tmp_path / "x.ncnn.bin").write_bytes(b"345")
    assert sum(path.stat().st_size for path in Model(None, tmp_path / "x.ncnn.param").files) == 5


def test_too_few_rounds_are_refused(project: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        script.main(["--models", pair(project, "one"), "--rounds", "5"])
    assert "at least 6, since fewer give no interval" in capsys.readouterr().err


TORCH = ["--img_size", "64", "--shape", "square", "--batch", "1", "--runtime", "torch"]


def test_a_row_without_figures_is_tried_again_with_the_others(project: Path, monkeypatch) -> None:
    """While it still fails the others' figures stand; once it runs, the cell is measured as a whole."""
    models = [pair(project, "one"), pair(project, "two")]
    session = Model.session

    def failing(self: Model, *args: object) -> object:
        if self.name == "two":
            raise ToolkitError("", "out of memory")
        return session(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "session", failing)
        first = run(project, models, *TORCH)
        assert [(row.rounds, row.note) for row in first] == [(6, ""), (0, "out of memory")]
        measured = count_measured(patch)
        assert run(project, models, *TORCH) == first
        assert measured == []
    second = run(project, models, *TORCH)
    assert [(row.rounds, row.note) for row in second] == [(6, ""), (6, "")]
    assert second[0].p50 != first[0].p50  # the time of another call, to the last bit


def test_rows_of_different_rounds_are_not_put_together(project: Path, monkeypatch) -> None:
    """All three have figures beside the first one, but the second and the third never took turns."""
    save_weights(tiny_detector(project), project / "three.weights")
    models = [pair(project, name) for name in ("one", "two", "three")]
    run(project, models[:2], *TORCH)
    run(project, models[::2], *TORCH)
    measured = count_measured(monkeypatch)
    rows = run(project, models, *TORCH)
    assert len(measured) == 1
    together = [row for row in rows if row.together == rows[-1].together]
    assert [row.model for row in together] == ["one", "two", "three"]
    run(project, models, *TORCH)
    assert len(measured) == 1


def test_map_follows_the_list_and_errors_are_not_kept(project: Path, monkeypatch) -> None:
    evaluated = []
    original = command.evaluate_network

    def counting(*args: object, **options: object) -> object:
        evaluated.append(1)
        if len(evaluated) == 1:
            raise ToolkitError("", "out of memory")
        return original(*args, **options)

    monkeypatch.setattr(command, "evaluate_network", counting)

    def scores() -> list[ModelRow]:
        run(project, [pair(project, "one")], *TORCH, "--data", str(project / "shapes.data"))
        return read_rows(project / "out/benchmark_models.csv", ModelRow)

    assert [(row.map50, row.note) for row in scores()] == [(None, "out of memory")]
    assert [row.note for row in scores()] == [""]
    scores()
    assert len(evaluated) == 2
    listed = read_data_file(project / "shapes.data").valid
    listed.write_text("\n".join(listed.read_text().split()[:2]) + "\n")
    assert len(scores()) == 2
    assert len(evaluated) == 3


def test_models_of_equal_content_are_told_apart(project: Path) -> None:
    save_weights(tiny_detector(project), project / "copy.weights")
    assert open_models([pair(project, "one")])[0].digest == open_models([pair(project, "copy")])[0].digest
    rows = run(project, [pair(project, "one"), pair(project, "copy")], *TORCH)
    page = (project / "out/benchmark.md").read_text()
    assert "| #1 | one |" in page
    assert "| #2 | copy |" in page
    assert f"| {rows[1].faster:.2f} (" in page


def test_inputs_of_one_size_have_bars_of_their_own() -> None:
    """A square image has a rectangular input of the same width and height."""
    rows = [replace(ROW, shape=shape, p50=1.0, p95=1.0) for shape in ("square", "rect")]
    places = [bar.place for bar in panels(rows)[0].bars]
    assert len(set(places)) == 2


def test_only_what_was_made_is_told(project: Path, capsys) -> None:
    models = [str(project / "fixed.onnx")]
    run(project, models, *TORCH)
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("written:"))
    assert "benchmark.md" in told
    assert "png" not in told
    assert not (project / "out/benchmark.png").exists()


def test_weights_that_do_not_fit_are_refused_before_measuring(project: Path, monkeypatch) -> None:
    (project / "other.cfg").write_text((project / "net.cfg").read_text().replace("size=5", "size=7"))
    measured = count_measured(monkeypatch)
    with pytest.raises(ToolkitError, match=r"one\.weights"):
        run(project, [pair(project, "two"), f"{project / 'other.cfg'}:{project / 'one.weights'}"], *TORCH)
    assert measured == []
    assert not (project / "out").exists()


def test_a_fixed_file_is_measured_at_what_it_takes(project: Path) -> None:
    """The short way: no input is named, and the file has figures; the image is as tall as the file."""
    cv2.imwrite(str(project / "tall.png"), np.zeros((96, 64, 3), np.uint8))
    rows = run(project, [pair(project, "one"), str(project / "fixed.onnx")], "--source",
               str(project / "tall.png"))  # fmt: skip
    assert [(row.model, row.runtime, row.shape, row.size, row.batch, row.rounds) for row in rows] == [
        ("one", "onnxruntime", "rect", 96, 1, 6), ("fixed.onnx", "onnxruntime", "rect", 96, 1, 6),
    ]  # fmt: skip


def test_an_exported_file_runs_where_it_is_read(project: Path) -> None:
    file = write_torchscript(tiny_detector(project), project)
    rows = run(project, [str(file)], "--img_size", "96", "--shape", "square", "--batch", "1")
    assert [(row.runtime, row.note) for row in rows] == [("torch", "")]


def test_open_files_leave_the_usual_inputs(project: Path) -> None:
    arguments = ["--models", str(project / "open.onnx"), pair(project, "one"), "--threads", "1"]
    args = command.benchmark_parser().parse_args(arguments)
    options = from_arguments(command.BenchmarkOptions, args)
    cells = command.cells_to_measure(options, open_models(options.models))
    assert cells == cells_of(["onnxruntime"], [1], ["square", "rect"], [320, 416, 608], [1, 4, 8, 16])
