"""Rungs are what the pruning scripts make, are computed once, and lead to the knee."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

import ladder as script
import prune
import shortcut_prune
import slim_prune
from tests.commands.trials import WORDS, make_project
from tests.sampling import some
from utils.cli import run_main
from utils.commands.csv_results import read_rows, write_rows
from utils.commands.ladder import rungs as ladder_rungs
from utils.commands.ladder.command import ladder_options, run_ladder
from utils.commands.ladder.rungs import Ladder, Rung
from utils.commands.prune import job as pruning_job
from utils.errors import ToolkitError
from utils.pruning.knee import knee

NO_TIMES = ("--runtime", "none")


def climb(*words):
    return run_ladder(ladder_options([*WORDS, *NO_TIMES, *words]))


STRATEGIES = {
    "slim": (slim_prune, ("--global_percent", "0.6", "--layer_keep", "0.1")),
    "normal": (prune, ("--percent", "0.6")),
    "shortcut": (shortcut_prune, ("--percent", "0.6")),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("score", ["gamma", "l1", "taylor"])
def test_a_rung_is_what_the_pruning_script_makes(evaluations, strategy, score, capsys) -> None:
    words = ("--align", "4", "--score", score, *(("--layer_keep", "0.1") if strategy == "slim" else ()))
    made = climb("--strategy", strategy, "--rungs", "0.6", "--refine", "0", *words)
    (rung,) = made.rungs(score)
    module, share = STRATEGIES[strategy]
    common = (*WORDS, *share, "--score", score, "--align", "4", "--verify", "quick", "--no-report")
    module.main([*common, "--output", "out"])
    (file,) = Path("out").glob("*.json")
    report = json.loads(file.read_text())
    after = report["after"]
    assert (rung.parameters, rung.macs) == (after["parameters"], after["macs"])
    assert rung.as_cut == report["compact"]["map50"]
    assert rung.recalibrated == report["recalibrated"]["map50"]
    assert rung.filters == sum(section["filters_after"] for section in report["sections"])
    assert made.unpruned.as_cut == report["before"]["map50"]
    assert made.unpruned.parameters == report["before"]["parameters"]


def test_a_rung_that_removes_nothing_is_the_unpruned_network(evaluations) -> None:
    made = climb("--rungs", "0.3", "0.6", "--layer_keep", "1", "--refine", "0", "--score", "random")
    for rung in made.rungs("random"):
        assert (rung.parameters, rung.macs) == (made.unpruned.parameters, made.unpruned.macs)
        assert rung.as_cut == made.unpruned.as_cut
        assert rung.recalibrated == made.unpruned.recalibrated


def test_a_second_run_evaluates_nothing_and_tells_the_same(evaluations, capsys) -> None:
    climb("--score", "gamma", "random")
    first, count = capsys.readouterr().out, evaluations.count
    assert count > 40  # two for each of 1 + 2 * 10 rungs, and what refining adds
    climb("--score", "gamma", "random")
    assert evaluations.count == count
    assert capsys.readouterr().out == first


def test_only_what_is_missing_is_computed(evaluations) -> None:
    refined = ("--refine", "0")
    climb("--rungs", "0.2", "0.6", *refined)
    count = evaluations.count
    climb("--rungs", "0.2", "0.4", "0.6", *refined)
    assert evaluations.count == count + 2  # as cut and recalibrated
    climb("--rungs", "0.2", "--score", "gamma", "l1", *refined)
    assert evaluations.count == count + 4


def test_an_interrupted_run_keeps_its_rungs(evaluations, monkeypatch) -> None:
    def broken(*words, **more):
        if evaluations.count == 7:
            raise KeyboardInterrupt
        return evaluations(*words, **more)

    monkeypatch.setattr(pruning_job, "evaluate_network", broken)
    with pytest.raises(KeyboardInterrupt):
        climb("--refine", "0")
    monkeypatch.setattr(pruning_job, "evaluate_network", evaluations)
    climb("--refine", "0")
    assert (
        evaluations.count == 7 + 2 * (1 + 10) - 6
    )  # of the seven, one belonged to a rung that was not whole


@pytest.mark.parametrize(
    "words",
    some([
        ("--recalibrate", "2"), ("--eval-images", "3"), ("--layer_keep", "0.5"), ("--merge", "max"),
        ("--align", "4"), ("--seed", "1"), ("--fold", "off"), ("--strategy", "normal"),
        ("--img_size", "64"), ("--keep-sections", "0"), ("--min-channels", "3"), ("--batch-size", "2"),
    ], 3),
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_changed_option_computes_anew_and_keeps_the_rows_before(evaluations, words) -> None:
    common = ("--rungs", "0.5", "--refine", "0")
    climb(*common)
    count = evaluations.count
    climb(*common, *words)
    assert evaluations.count == 2 * count
    climb(*common)
    assert evaluations.count == 2 * count


def test_other_weights_or_lists_compute_anew(evaluations, tmp_path) -> None:
    common = ("--rungs", "0.5", "--refine", "0")
    climb(*common)
    count = evaluations.count
    weights = tmp_path / "small.weights"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    climb(*common)
    assert evaluations.count == 2 * count
    images = tmp_path / "data/shapes/valid.txt"
    images.write_text("".join(images.read_text().splitlines(keepends=True)[:3]))
    assert climb(*common).unpruned.images == 3
    assert evaluations.count == 3 * count


def test_refining_brackets_the_knee(evaluations) -> None:
    made = climb("--rungs", "0.3", "0.9", "--refine", "0.05", "--tolerance", "0.1")
    curve = made.curve("gamma")
    good = knee(curve, 0.1)
    above = [share for share in curve if share > good]
    assert len(curve) > 3
    assert not above or min(above) - good <= 0.05 + 1e-6


def test_the_next_command_prunes_at_the_knee(evaluations, capsys) -> None:
    made = climb("--tolerance", "0.2", "--score", "l1", "--align", "4", "--refine", "0")
    share = knee(made.curve("l1"), 0.2)
    assert share > 0
    line = capsys.readouterr().out.splitlines()[-1]
    words = line.split()
    assert line.startswith("next: python ")
    assert words[2].endswith("slim_prune.py")
    (row,) = [row for row in made.rungs("l1") if row.share == share]
    recalibrated = ["--recalibrate", "4"] if row.best > row.as_cut else []
    slim_prune.main([*words[3:], "--workers", "0", "--no-report", "--verify", "quick", "--output", "out"])
    (file,) = Path("out").glob("*.json")
    report = json.loads(file.read_text())
    assert report["after"]["map50"] == row.best
    assert report["after"]["parameters"] == row.parameters
    assert all(word in words for word in recalibrated)


def test_without_a_knee_sparse_training_comes_next(evaluations, monkeypatch, capsys) -> None:
    values = iter([0.9, 0.9, *[0.1] * 100])

    def falling(*words, **more):
        found = evaluations(*words, **more)
        found.map50 = next(values)
        return found

    monkeypatch.setattr(pruning_job, "evaluate_network", falling)
    climb("--rungs", "0.5", "--refine", "0")
    out = capsys.readouterr().out
    assert "no rung keeps mAP within 1 points" in out
    assert "train.py" in out.splitlines()[-1]
    assert "-sr" in out.splitlines()[-1]


@pytest.mark.parametrize("value", [0.0, math.nan])
@pytest.mark.parametrize("scores", [("gamma",), ("gamma", "l1")])
def test_a_network_that_finds_nothing_has_no_knee(evaluations, monkeypatch, capsys, value, scores) -> None:
    def nothing(*words, **more):
        found = evaluations(*words, **more)
        found.map50 = value
        return found

    monkeypatch.setattr(pruning_job, "evaluate_network", nothing)
    climb("--rungs", "0.3", "0.5", "--score", *scores)
    assert evaluations.count == 2 + 4 * len(scores)  # nowhere to look closer
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if "knee:" in line]
    assert len(found) == len(scores)
    assert not any("…" in line for line in lines)  # whole in 80 columns
    assert all("no knee: the unpruned network has mAP" in line for line in found)
    assert any(("no mAP" if len(scores) == 1 else " none ") in line for line in lines)
    assert lines[-1].endswith("train.py --cfg small.cfg --weights small.weights --data data/shapes.data")


def test_small_networks_are_shown_in_units_that_tell(evaluations, capsys) -> None:
    made = climb("--rungs", "0.5", "--refine", "0")
    out = capsys.readouterr().out
    for row in (made.unpruned, *made.rungs("gamma")):
        assert f" {row.parameters / 1e3:.3f} K " in out
        assert f" {row.macs / 1e3:.1f} K " in out
    assert 100e3 < made.unpruned.macs < 1e6
    assert "…" not in out  # whole in 80 columns


def test_auto_takes_the_latency_tables_stairs(evaluations, monkeypatch) -> None:
    asked = []

    def table(_convolutions, runtime, _path):
        asked.append(runtime.name)
        return SimpleNamespace(align=4)

    monkeypatch.setattr(pruning_job, "find_or_measure", table)
    monkeypatch.setattr(Ladder, "time", lambda *_: None)
    words = (*WORDS, "--rungs", "0.5", "--refine", "0", "--runtime", "torch", "--align")
    made = run_ladder(ladder_options([*words, "auto"]))
    assert asked == ["torch"]
    count = evaluations.count
    assert run_ladder(ladder_options([*words, "4"])).rungs("gamma") == made.rungs("gamma")
    assert evaluations.count == count  # the same trials


def test_files_hold_every_rung_and_latency(evaluations, capsys, monkeypatch) -> None:
    monkeypatch.setattr(ladder_rungs, "SECONDS", 0.0)
    pytest.importorskip("onnxruntime")
    words = ("--rungs", "0.4", "0.7", "0.9", "--refine", "0", "--output", "out")
    made = run_ladder(ladder_options([*WORDS, *words, "--runtime", "onnxruntime"]))
    rows = read_rows(Path("out/small_ladder.csv"), Rung)
    assert [row.share for row in rows] == [0.0, 0.4, 0.7, 0.9]
    for row in rows:
        assert row.ms is not None
        assert row.ms > 0
        assert row.runtime.startswith("onnxruntime-1t-")
    assert made.milliseconds(rows[0]) == rows[0].ms
    stored = json.loads(Path("out/small_ladder.json").read_text())
    assert [rung["share"] for rung in stored["scores"]["gamma"]["rungs"]] == [0.4, 0.7, 0.9]
    assert stored["command"]
    assert Path("out/small_ladder.png").read_bytes().startswith(b"\x89PNG")
    times = [row.ms for row in rows]
    capsys.readouterr()
    run_ladder(ladder_options([*WORDS, *words, "--runtime", "onnxruntime"]))
    assert [row.ms for row in read_rows(Path("out/small_ladder.csv"), Rung)] == times


def test_real_evaluations_end_well(tmp_path, monkeypatch, capsys) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    script.main([*WORDS, *NO_TIMES, "--rungs", "0.5", "--refine", "0"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: python ")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--cfg", "small.cfg", "--weights", "small.weights"), "--data: missing beside --cfg --weights"),
        ((*WORDS, "--score", "gamma", "gama"), "unknown score 'gama'"),
        ((*WORDS, "--rungs", "1"), "'1' is not a number above 0, below 1"),
        ((*WORDS, "--rungs", "0"), "'0' is not a number above 0, below 1"),
        ((*WORDS, "--data", "no.data"), "no.data"),
        (
            (*WORDS, "--strategy", "normal", "--layer-keep", "0.1"),
            "--layer_keep: no effect with --strategy",
        ),
        (
            (*WORDS, "--strategy", "shortcut", "--merge=max"),
            "--merge: no effect with --strategy shortcut",
        ),
        ((*WORDS, "--align", "auto"), "--align auto: needs a latency table; name a --runtime"),
    ],
)
def test_errors_are_one_line_before_anything_is_evaluated(evaluations, words, fact, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: script.main([*words, *NO_TIMES]))
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in line
    assert fact in line
    assert evaluations.count == 0


def test_rows_are_read_as_they_were_written(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    rows = [
        Rung("ab", "--x 1, 2", "", 0.0, 3, 1 / 3, None, 1, 2, 3),
        Rung("ab", '--x "1"', "l1", 0.1, 3, math.pi / 10, 2 / 7, 1, 2, 3, "torch", 0.1 + 0.2, 1e-9),
    ]
    assert read_rows(path, Rung) == []
    write_rows(path, rows)
    assert read_rows(path, Rung) == rows


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "{}"], ids=["empty", "other columns", "no table"])
def test_a_file_of_something_else_is_refused(tmp_path, text) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(ToolkitError, match=r"rows.csv: does not contain results of this command"):
        read_rows(path, Rung)


def test_a_damaged_row_is_refused(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, [Rung("ab", "", "", 0.0, 3, 0.5, None, 1, 2, 3)])
    path.write_text(path.read_text().replace("0.5", "half"))
    with pytest.raises(ToolkitError, match=r"does not contain results"):
        read_rows(path, Rung)
    path.write_text(path.read_text().replace(",half", ""))
    with pytest.raises(ToolkitError, match=r"does not contain results"):
        read_rows(path, Rung)
