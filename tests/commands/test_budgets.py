"""Budgets: what is asked for is what comes out, measured or counted."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.project import DATA, FILES, Fail
from utils.commands.prune import budget_latency as budget_clock
from utils.commands.prune import job as pruning_job
from utils.commands.prune.options import Amount, amount
from utils.darknet.checkpoint import load_weights, save_weights
from utils.darknet.model import Darknet
from utils.profiling import Latency
from utils.pruning.channels import decode_mask
from utils.pruning.costs import count_macs, count_parameters
from utils.pruning.latency import Fingerprint, LatencyTable

QUICK = ("--verify", "quick", "--no-report", "--no-eval")


def slim_prune(*words: str) -> None:
    importlib.import_module("slim_prune").main(list(words))


def written(folder: Path, tag: str) -> tuple[Darknet, dict]:
    model = Darknet.from_cfg(folder / f"{tag}_small.cfg")
    load_weights(model, folder / f"{tag}_small.weights")
    return model, json.loads((folder / f"{tag}_small.json").read_text())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Amount(12, False)),
        ("50%", Amount(0.5, True)),
        ("2M", Amount(2e6, False)),
        ("1.5g", Amount(1.5e9, False)),
    ],
)
def test_amounts(text, value):
    assert amount(text) == value


@pytest.mark.parametrize("align", [1, 4])
def test_half_of_the_multiply_adds_are_met_and_used(folder, align):
    slim_prune(*FILES, "--max-macs", "50%", "--align", str(align), *QUICK)
    model, report = written(folder, "prune_50pct_macs")
    macs, before = count_macs(model, (64, 64)), report["before"]["macs"]
    assert 0.4 * before < macs <= 0.5 * before


@pytest.mark.parametrize("limit", ["60%", "45%", "30%"])
def test_channels_that_carry_constants_to_borders_are_within_the_budget(folder, limit):
    before = Darknet.from_cfg("small.cfg")
    load_weights(before, "small.weights")
    for module in before.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.fill_(0.5)
    save_weights(before, "small.weights")
    slim_prune(*FILES, "--max-macs", limit, "--fold", "borders", *QUICK)
    model, report = written(folder, f"prune_{limit[:-1]}pct_macs")
    assert any("carry the constants" in note for note in report["notes"])
    assert count_macs(model, (64, 64)) <= float(limit[:-1]) / 100 * report["before"]["macs"]


def test_limits_can_be_combined(folder):
    whole = count_parameters(Darknet.from_cfg("small.cfg"))
    slim_prune(*FILES, "--max-params", str(whole // 2), "--max-macs", "70%", "--max-mb", "0.04", *QUICK)
    (cfg,) = folder.glob("prune_*.cfg")
    model, report = written(folder, cfg.stem.removesuffix("_small"))
    assert count_parameters(model) <= whole // 2
    assert report["after"]["macs"] <= 0.7 * report["before"]["macs"]
    assert report["after"]["file_size"] <= 0.04 * 2**20
    assert report["after"]["file_size"] == (folder / f"{cfg.stem}.weights").stat().st_size


def test_milliseconds_are_measured_and_corrected(folder, monkeypatch):
    """A machine on which the table is wrong: networks take twice their multiply-adds' share, and 1 ms."""
    table = LatencyTable(Fingerprint("torch", "1", "cpu", 1, 1, "float32"))
    asked = []

    def latencies(models, runtime, size, rounds):
        def milliseconds(model: Darknet) -> float:
            return 1 + count_macs(model, (64, 64)) / 1e5

        asked.append({name: milliseconds(model) for name, model in models.items()})
        return {name: Latency(value, value, 1, rounds) for name, value in asked[-1].items()}

    monkeypatch.setattr(pruning_job, "network_latencies", latencies)
    monkeypatch.setattr(pruning_job, "find_or_measure", lambda *_: table)
    whole = 1 + count_macs(Darknet.from_cfg("small.cfg"), (64, 64)) / 1e5
    latency = Latency(whole, whole, 1, 1)
    monkeypatch.setattr(budget_clock, "calibrate", lambda *_: (lambda total: total, latency))
    monkeypatch.setattr(
        LatencyTable, "milliseconds", lambda _table, _conv, inputs, outputs: whole * inputs * outputs / 8000
    )
    limit = 0.55 * whole
    slim_prune(*FILES, "--max-ms", str(limit), "--runtime", "torch", "--align", "1", *QUICK)
    (cfg,) = folder.glob("prune_*.cfg")
    model, report = written(folder, cfg.stem.removesuffix("_small"))
    taken = 1 + count_macs(model, (64, 64)) / 1e5
    assert 0.85 * limit <= taken <= limit
    assert f"{taken:.2f} ms of at most {limit:.2f}" in " ".join(report["notes"])
    assert len(asked) > 2  # the first guess was wrong, and the last one is measured twice
    assert report["timed_on"].startswith("torch")
    assert report["after"]["latency_ms"]["rounds"] == budget_clock.LONG
    assert report["after"]["latency_ms"]["p50"] == pytest.approx(taken)
    assert report["before"]["latency_ms"]["p50"] == pytest.approx(whole)


def test_the_whole_network_is_no_result_however_fast_it_is_measured(folder, monkeypatch, fail: Fail):
    """A machine whose load goes away: from then on, all is within the limit."""

    def latencies(models, runtime, size, rounds):
        return {name: Latency(1.0, 1.0, 1, rounds) for name in models}

    monkeypatch.setattr(pruning_job, "network_latencies", latencies)
    monkeypatch.setattr(
        pruning_job, "find_or_measure", lambda *_: LatencyTable(Fingerprint("torch", "1", "cpu", 1, 1, "f32"))
    )
    monkeypatch.setattr(
        budget_clock, "calibrate", lambda *_: (lambda total: total, Latency(10.0, 10.0, 1, 1))
    )
    monkeypatch.setattr(
        LatencyTable, "milliseconds", lambda _table, _conv, inputs, outputs: inputs * outputs / 8000
    )
    slim_prune(*FILES, "--max-ms", "9", "--runtime", "torch", "--align", "1", *QUICK)
    (cfg,) = folder.glob("prune_*.cfg")
    _, report = written(folder, cfg.stem.removesuffix("_small"))
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert "inf" not in " ".join(report["notes"])


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (
            ("--max-macs", "2G"),
            "--max-macs 2,000,000,000: the unpruned network is already within the budget (1,454,080)",
        ),
        (
            ("--max-params", "10"),
            "--max-params: 10 asked for, but the smallest network that the widths allow takes",
        ),
        (("--min-map", "0.5"), "--min-map: mAP has to be measured; add --data"),
        (("--max-macs", "50%", "--classic"), "--classic: cannot be combined with --max-macs"),
        (("--max-macs", "50%", "--iterative", "2"), "--iterative: fine-tunes between the rounds; add --data"),
        (
            ("--max-ms", "5", "--latency-table", "no.json"),
            "--latency-table no.json: no such file; make it with",
        ),
    ],
)
def test_what_cannot_be_met_is_said_and_nothing_is_written(folder, fail: Fail, words, fact):
    assert fact in fail("slim_prune.py", *FILES, *words)
    assert not list(folder.glob("*prune_*"))


def test_an_unreachable_map_is_refused_with_what_was_tried(folder, fail: Fail):
    message = fail("slim_prune.py", *FILES, *DATA, "--min-map", "0.99", "--score", "gamma")
    assert "no pruned network reaches it (multiply-adds, mAP: 50%" in message
    assert not list(folder.glob("*prune_*"))


def test_multiples_of_the_table_give_way_where_nothing_could_be_removed(folder, monkeypatch):
    """The widest layer has 16 channels, so multiples of 16 would keep the whole network."""
    monkeypatch.setattr(pruning_job, "find_or_measure", lambda *_: SimpleNamespace(align=16))
    slim_prune(*FILES, "--max-macs", "50%", "--align", "auto", *QUICK)
    model, report = written(folder, "prune_50pct_macs")
    assert count_macs(model, (64, 64)) <= 0.5 * report["before"]["macs"]
    (note,) = [note for note in report["notes"] if note.startswith("widths are multiples of ")]
    align = int(note.split()[4].strip(","))
    assert note.endswith("16 cannot meet the limits")
    widths = [int(decode_mask(section["kept"]).sum()) for section in report["sections"]]
    whole = [section["filters_before"] for section in report["sections"]]
    assert align < 16
    assert all(width % align == 0 or width == full for width, full in zip(widths, whole, strict=True))


def test_the_costs_of_sections_add_up_to_the_networks(folder):
    slim_prune(*FILES, "--global_percent", "0.5", *QUICK)
    model, report = written(folder, "prune_0.5_keep_0.01")
    for number, state in enumerate(("before", "after")):
        for figure in ("parameters", "macs"):
            assert sum(row[figure][number] for row in report["costs"]) == report[state][figure]
    assert report["after"]["parameters"] == count_parameters(model)


def test_the_next_command_keeps_the_image_size_and_few_images_are_told(folder, capsys):
    slim_prune(*FILES, *DATA, "--img_size", "96", "64", "--recalibrate", "400", *QUICK)
    shown = capsys.readouterr().out
    assert "note: --recalibrate 400: the training list has 4 images" in shown
    assert " --img_size 96 64 --data " in shown.splitlines()[-1]
