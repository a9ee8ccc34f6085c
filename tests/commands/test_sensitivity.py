"""One group at a time is cut, every cut once, and the most sensitive groups are named."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sensitivity as script
from tests.commands.trials import WORDS, make_project
from utils.cli import run_main
from utils.commands import sensitivity
from utils.commands.csv_results import read_rows
from utils.commands.inputs import open_files
from utils.commands.prune import job as pruning_job
from utils.commands.sensitivity import Cut, alone, judged_groups, run_sensitivity, sensitivity_options
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.scores import gamma_scores
from utils.pruning.surgery import prune

GROUPS = ["0", "1,3", "2", "5"]  # of the small network; 6 feeds the head


def measure(*words):
    return run_sensitivity(sensitivity_options([*WORDS, *words]))


def test_only_the_group_gets_narrower(evaluations) -> None:
    subject = DarknetSubject.of(open_files(Path("small.cfg"), Path("small.weights")))
    before = {name: len(layer.outputs) for name, layer in subject.graph.layers.items()}
    found = judged_groups(subject.graph, gamma_scores(subject))
    assert [group.layers for group in found] == [
        tuple(f"layers.{number}.conv" for number in group.split(",")) for group in GROUPS
    ]
    for group in found:
        cut = prune(subject, [alone(group, 0.5)]).compact
        after = {name: len(layer.outputs) for name, layer in cut.graph.layers.items()}
        for name, width in before.items():
            assert after[name] == (width - width // 2 if name in group.layers else width)


def test_the_worst_channels_go(evaluations) -> None:
    subject = DarknetSubject.of(open_files(Path("small.cfg"), Path("small.weights")))
    gammas = gamma_scores(subject)["layers.2.conv"]
    (group,) = [
        group
        for group in judged_groups(subject.graph, gamma_scores(subject))
        if group.layers == ("layers.2.conv",)
    ]
    keep = prune(subject, [alone(group, 0.5)]).keep[subject.graph.layers["layers.2.conv"].outputs]
    assert gammas[keep].min() >= gammas[~keep].max()


def test_every_group_and_ratio_is_measured_once(evaluations, capsys) -> None:
    ratios = ("--ratios", "0.25", "0.5", "0.75")
    found = measure(*ratios)
    assert list(found.groups) == GROUPS
    assert evaluations.count == 1 + 4 * 3
    first = capsys.readouterr().out
    measure(*ratios)
    assert evaluations.count == 1 + 4 * 3
    assert capsys.readouterr().out == first
    measure("--ratios", "0.25", "0.9")
    assert evaluations.count == 1 + 4 * 4
    measure("--ratios", "0.25", "--recalibrate", "2")
    assert evaluations.count == 1 + 4 * 4 + 1 + 4


def test_an_interrupted_run_keeps_its_cuts(evaluations, monkeypatch) -> None:
    def broken(*words, **more):
        if evaluations.count == 6:
            raise KeyboardInterrupt
        return evaluations(*words, **more)

    monkeypatch.setattr(pruning_job, "evaluate_network", broken)
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert len(read_rows(Path("small_sensitivity.csv"), Cut)) == 6
    monkeypatch.setattr(pruning_job, "evaluate_network", evaluations)
    measure()
    assert evaluations.count == 1 + 4 * 4


def test_figures_are_differences_to_the_unpruned_network(evaluations) -> None:
    found = measure("--ratios", "0.5", "--recalibrate", "0")
    drops = found.drops([0.5])
    assert drops.shape == (4, 1)
    for (_, cut), drop in zip(found.widest([0.5]), drops[:, 0], strict=True):
        assert drop == found.unpruned.map50 - cut.map50
        assert cut.removed == cut.channels // 2
        assert cut.parameters < found.unpruned.parameters
        assert cut.macs < found.unpruned.macs
    assert np.abs(drops).max() > 0


def test_files_name_the_most_sensitive_groups(evaluations, monkeypatch, capsys) -> None:
    lost = {"": 0.0, "0": 0.002, "1,3": 0.3, "2": 0.05, "5": -0.01}
    measured = sensitivity.Sensitivity.measured

    def known(self, name, ratio):
        cut = measured(self, name, ratio)
        return Cut(**vars(cut) | {"map50": 0.8 - lost[name] * ratio})

    monkeypatch.setattr(sensitivity.Sensitivity, "measured", known)
    measure("--most", "3", "--output", "out")
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("--keep-sections 1,2,3")  # 0 loses less than the tolerance
    first_cells = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert first_cells == ["5", "0", "2", "1,3"]
    assert json.loads(Path("out/small_sensitivity.json").read_text())["keep_sections"] == [1, 2, 3]
    assert Path("out/small_sensitivity.png").read_bytes().startswith(b"\x89PNG")
    measure("--output", "out")
    assert capsys.readouterr().out.splitlines()[-1].endswith("--keep-sections 1,3")  # a quarter


@pytest.mark.parametrize("count", [1, 6, 7, 12, 19])
def test_every_figure_is_printed_whole_within_80_columns(evaluations, monkeypatch, capsys, count) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    measured, known = sensitivity.Sensitivity.measured, {}

    def lossy(self, name, ratio):
        if name not in known:
            known[name] = measured(self, name, ratio)
        return Cut(**vars(known[name]) | {"ratio": ratio, "map50": 1.0 - (1.0 if name == "1,3" else 0.0)})

    monkeypatch.setattr(sensitivity.Sensitivity, "measured", lossy)
    ratios = [round((number + 1) / (count + 1), 2) for number in range(count)]
    measure("--ratios", *map(str, ratios))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    heads = [[cell.strip() for cell in line.split("┃")[1:-1]] for line in lines if line.startswith("┃")]
    assert max(len(line) for line in lines if line[:1] in {"│", "┃"}) <= 80
    figures = [cell for row in rows if row[0] == "1,3" for cell in row[2:]]
    assert figures[:-1] == ["100.0"] * (count + 1)  # the last but one is their mean
    assert figures[-1].endswith(" %")
    assert [cell for head in heads for cell in head if cell.startswith("0.")] == [f"{r:g}" for r in ratios]


def test_auto_takes_the_latency_tables_stairs(evaluations, monkeypatch, capsys) -> None:
    monkeypatch.setattr(pruning_job, "find_or_measure", lambda *_: SimpleNamespace(align=4))
    found = measure("--ratios", "0.4", "--align", "auto", "--recalibrate", "0")
    assert [cut.channels - cut.removed for cut in found.cuts([0.4])] == [8, 12, 8, 16]  # of 8, 16, 12, 24
    count = evaluations.count
    measure("--ratios", "0.4", "--align", "4", "--recalibrate", "0")
    assert evaluations.count == count  # the same trials


def test_real_evaluations_end_well(tmp_path, monkeypatch, capsys) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    script.main([*WORDS, "--ratios", "0.5"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: python ")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--cfg", "small.cfg", "--weights", "small.weights"), "--data: missing beside --cfg --weights"),
        ((*WORDS, "--score", "gama"), "unknown score 'gama'"),
        ((*WORDS, "--ratios", "0"), "'0' is not a number above 0, below 1"),
        ((*WORDS, "--data", "no.data"), "no.data"),
    ],
)
def test_errors_are_one_line_before_anything_is_evaluated(evaluations, words, fact, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: script.main(list(words)))
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in line
    assert fact in line
    assert evaluations.count == 0
