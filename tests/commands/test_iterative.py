"""Rounds of pruning and fine-tuning: they end in the limit, are not done twice, leave what every run does."""

import importlib
import json
import signal

import numpy as np
import pytest

from tests.commands.test_budgets import folder
from tests.test_scripts import DATA, FILES, Fail, fail, project
from utils.commands import iterative
from utils.darknet.checkpoint import load_weights, save_weights
from utils.darknet.model import Darknet
from utils.errors import ToolkitError
from utils.profiling import count_macs, count_parameters
from utils.pruning.report import decode_mask, encode_mask
from utils.training.interruption import InterruptedTrainingError

__all__ = ["fail", "folder", "project"]  # fixtures
TAG = "prune_40pct_macs_small"
WORDS = (*FILES, *DATA, "--max-macs", "40%", "--iterative", "2", "--tune-epochs", "1", "--score", "gamma")


def slim_prune(*words: str) -> None:
    importlib.import_module("slim_prune").main(list(words))


def test_rounds_leave_the_files_of_any_run_with_all_their_checks(folder, capsys):
    slim_prune(*WORDS)
    shown = capsys.readouterr().out
    assert shown.count("next:") == 1
    assert f"next: python evaluate.py --cfg {TAG}.cfg --weights {TAG}.weights --data" in shown
    model = Darknet.from_cfg(folder / f"{TAG}.cfg")
    load_weights(model, folder / f"{TAG}.weights")
    report = json.loads((folder / f"{TAG}.json").read_text())
    assert report["after"]["parameters"] == count_parameters(model)
    names = [line["name"] for line in report["ledger"]]
    for name in ("round 1, zeroed / compact", "round 2, zeroed / compact", "compact / .weights read back"):
        assert name in names
    assert any("OpenCV" in name for name in names)
    assert all(line["passed"] for line in report["ledger"])
    kept = [int(decode_mask(section["kept"]).sum()) for section in report["sections"]]
    assert kept == [model.network.channels(section["index"]) for section in report["sections"]]
    assert list(report["per_class"]) == ["before", "last_pruned", "fine_tuned"]
    page = (folder / f"{TAG}.html").read_text()
    assert "fine_tuned" in page
    assert "price of the removed channels" not in page  # of the stage "folded", which rounds do not have


def test_masks_of_rounds_are_told_in_the_first_networks_channels():
    first = np.array([1, 0, 1, 1, 0, 1], dtype=np.bool_)  # leaves 0, 2, 3, 5
    second = np.array([0, 1, 1, 0], dtype=np.bool_)  # leaves 2, 3 of these
    rounds = [
        [{"index": 4, "filters_before": len(mask), "kept": encode_mask(mask)}] for mask in (first, second)
    ]
    (change,) = iterative._sections(rounds)
    assert change.index == 4
    assert change.mask.tolist() == [False, False, True, True, False, False]


def test_a_round_that_is_broken_off_goes_on_with_its_training(folder, monkeypatch):
    def interrupted(args, *, is_last):
        calls.append(args)
        (args.output / "last.pt").parent.mkdir(parents=True, exist_ok=True)
        (args.output / "last.pt").write_bytes(b"")
        raise InterruptedTrainingError("...; --resume last.pt", signal.SIGINT)

    calls: list = []
    monkeypatch.setattr(iterative, "run_training", interrupted)
    with pytest.raises(InterruptedTrainingError, match="round 1 of 2; saved, so the same command") as caught:
        slim_prune(*WORDS)
    assert caught.value.exit_code == 130
    monkeypatch.setattr(iterative, "within_budget", lambda _: pytest.fail("pruned again"))
    with pytest.raises(InterruptedTrainingError):
        slim_prune(*WORDS)
    assert [args.resume for args in calls] == [None, calls[0].output / "last.pt"]
    assert not list(folder.glob("prune_*.cfg"))


@pytest.mark.parametrize(("words", "images"), [((), 64), (("--recalibrate", "0"), 0)])
def test_rounds_recalibrate_unless_told_not_to(folder, monkeypatch, words, images):
    monkeypatch.setattr(iterative, "run_training", lambda _, *, is_last: None)
    with pytest.raises(ToolkitError, match="tuned"):  # nothing was trained
        slim_prune(*WORDS, *words)
    (path,) = folder.glob("*_rounds/*/1/pruned.json")
    assert json.loads(path.read_text())["arguments"]["recalibrate"] == images


def test_rounds_go_down_to_the_limit_and_are_not_done_twice(folder, monkeypatch, capsys):
    slim_prune(*WORDS)
    model, _ = Darknet.from_cfg(folder / "prune_40pct_macs_small.cfg"), capsys.readouterr()
    load_weights(model, folder / "prune_40pct_macs_small.weights")
    whole = count_macs(Darknet.from_cfg("small.cfg"), (64, 64))
    assert count_macs(model, (64, 64)) <= 0.4 * whole
    (path,) = folder.glob("prune_40pct_macs_small_rounds/*/1/pruned.json")
    first = json.loads(path.read_text())["after"]
    assert 0.4**0.5 * 0.85 * whole < first["macs"] <= 0.4**0.5 * whole
    monkeypatch.setattr(
        "utils.commands.iterative.run_training", lambda *_, **__: pytest.fail("trained again")
    )
    slim_prune(*WORDS, "--threads", "1")
    assert "round 2: " in capsys.readouterr().out
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # half of the way is another one now
        slim_prune(*WORDS, "--iterative", "3")


def test_a_least_map_is_asked_of_the_last_round_alone(folder, fail: Fail):
    words = ("--max-macs", "50%", "--min-map", "0.99", "--iterative", "2", "--tune-epochs", "1")
    message = fail("slim_prune.py", *FILES, *DATA, *words, "--score", "gamma")
    assert "--min-map 0.99: mAP@0.5 after the last round is " in message
    assert not list(folder.glob("prune_*.cfg"))
    assert len(list(folder.glob("*_rounds/*/*/round.json"))) == 2


@pytest.mark.parametrize("change", [("--score", "l1"), ("--seed", "1"), ("--iterative", "3"), ("--weights",)])
def test_rounds_of_a_run_with_other_options_or_weights_are_not_taken(folder, monkeypatch, change):
    words = list(WORDS)
    slim_prune(*words)
    trained = []
    monkeypatch.setattr("utils.commands.iterative.run_training", lambda args, **_: trained.append(args))
    if change == ("--weights",):
        save_weights(Darknet.from_cfg("small.cfg"), "small.weights")
    else:
        words += change
    with pytest.raises(ToolkitError, match="tuned"):  # nothing was trained, so there is no such file
        slim_prune(*words)
    assert len(trained) == 1
