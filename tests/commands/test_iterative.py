"""Rounds of pruning and fine-tuning: they end in the limit, are not done twice, leave what every run does."""

import importlib
import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from tests.project import DATA, FILES, Fail
from tests.sampling import some
from utils.commands.prune import iterative
from utils.commands.prune.iterative import Round
from utils.commands.prune.options import Amount, PruningOptions
from utils.darknet.checkpoint import load_weights, save_weights
from utils.darknet.model import Darknet
from utils.errors import ToolkitError
from utils.pruning.channels import decode_mask, encode_mask
from utils.pruning.costs import count_macs, count_parameters
from utils.training.processes import InterruptedTrainingError

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
    assert "due to the removed channels" not in page  # of the stage "folded", which rounds do not have


def test_masks_of_rounds_are_told_in_the_first_networks_channels():
    first = np.array([1, 0, 1, 1, 0, 1], dtype=np.bool_)  # leaves 0, 2, 3, 5
    second = np.array([0, 1, 1, 0], dtype=np.bool_)  # leaves 2, 3 of these
    rounds = [
        [{"index": 4, "filters_before": len(mask), "kept": encode_mask(mask)}] for mask in (first, second)
    ]
    (change,) = iterative.total_sections(rounds)
    assert change.index == 4
    assert change.mask.tolist() == [False, False, True, True, False, False]


def test_a_round_that_is_broken_off_goes_on_with_its_training(folder, monkeypatch):
    def interrupted(args, _observer):
        calls.append(args)
        (args.output / "last.pt").parent.mkdir(parents=True, exist_ok=True)
        (args.output / "last.pt").write_bytes(b"")
        raise InterruptedTrainingError("...", "--resume last.pt", signal.SIGINT)

    calls: list = []
    monkeypatch.setattr(iterative, "train", interrupted)
    with pytest.raises(InterruptedTrainingError, match="round 1 of 2; saved; the same command") as caught:
        slim_prune(*WORDS)
    assert caught.value.exit_code == 130
    monkeypatch.setattr(iterative, "within_budget", lambda _: pytest.fail("pruned again"))
    with pytest.raises(InterruptedTrainingError):
        slim_prune(*WORDS)
    assert [args.resume for args in calls] == [None, calls[0].output / "last.pt"]
    assert not list(folder.glob("prune_*.cfg"))


@pytest.mark.parametrize(("words", "images"), [((), 64), (("--recalibrate", "0"), 0)])
def test_rounds_recalibrate_unless_told_not_to(folder, monkeypatch, words, images):
    monkeypatch.setattr(iterative, "train", lambda *_: None)
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
    (path,) = folder.glob("small_rounds/*/1/pruned.json")
    first = json.loads(path.read_text())["after"]
    assert 0.4**0.5 * 0.85 * whole < first["macs"] <= 0.4**0.5 * whole
    monkeypatch.setattr("utils.commands.prune.iterative.train", lambda *_, **__: pytest.fail("trained again"))
    slim_prune(*WORDS, "--threads", "1")
    assert "round 2: " in capsys.readouterr().out
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # half of the way is another one now
        slim_prune(*WORDS, "--iterative", "3")


@pytest.fixture(scope="module")
def report() -> dict:
    timing = {"before": {"latency_ms": {"p50": 10.0}}, "after": {"latency_ms": {"p50": 7.0}, "map50": 0.6}}
    return timing | {"ledger": [], "sections": []}


def test_a_share_of_milliseconds_is_of_the_network_each_round_starts_from(monkeypatch, report, tmp_path):
    """Of a quarter, half after one of two rounds; it took .7 of that, so 5/7 of what is left may stay."""
    job = SimpleNamespace(options=PruningOptions(max_ms=Amount(0.25, True)))
    monkeypatch.setattr(
        iterative, "requested_shares", lambda _: {"max_ms": (20.0, 0.25), "max_macs": (8e6, 0.25)}
    )
    (tmp_path / "pruned.json").write_text(json.dumps(report))
    first = iterative.limits_of_round(job, 0.5, [])
    assert first == {"max_ms": Amount(0.5, True), "max_macs": Amount(4e6, False)}
    second = iterative.limits_of_round(job, 1.0, [Round(1, tmp_path)])
    assert second["max_ms"].value == pytest.approx(0.25 / 0.7)
    assert second["max_ms"].is_share


@pytest.mark.parametrize(
    ("tuned", "taken"), [(0.7, "tuned/best.pt"), (0.5, "pruned.weights"), (None, "tuned/best.pt")]
)
def test_a_fine_tuning_that_does_harm_is_passed_over(tmp_path, report, tuned, taken):
    (tmp_path / "pruned.json").write_text(json.dumps(report))
    assert Round(1, tmp_path, tuned).weights == tmp_path / taken


def test_a_damaged_round_is_named(tmp_path):
    (tmp_path / "pruned.json").write_text('{"after":')
    with pytest.raises(ToolkitError, match=r"pruned\.json: cannot be read as JSON .* remove the folder"):
        _ = Round(1, tmp_path).report


def test_another_least_map_takes_the_rounds_that_are_there(folder, monkeypatch, fail: Fail):
    slim_prune(*WORDS)
    monkeypatch.setattr(iterative, "train", lambda *_, **__: pytest.fail("trained again"))
    message = fail("slim_prune.py", *WORDS, "--min-map", "0.99")
    assert "--min-map 0.99: mAP@0.5 after the last round is " in message
    assert "; the rounds are in small_rounds" in message


def test_a_least_map_is_asked_of_the_last_round_alone(folder, fail: Fail):
    words = ("--max-macs", "50%", "--min-map", "0.99", "--iterative", "2", "--tune-epochs", "1")
    message = fail("slim_prune.py", *FILES, *DATA, *words, "--score", "gamma")
    assert "--min-map 0.99: mAP@0.5 after the last round is " in message
    assert not list(folder.glob("prune_*.cfg"))
    assert len(list(folder.glob("*_rounds/*/*/round.json"))) == 2


@pytest.mark.parametrize(
    "changes",
    some(
        [
            [("--score", "l1"), ("--recalibrate", "0"), ("--weights",)],
            [("--seed", "1"), ("--iterative", "3"), ("--no-eval",)],
        ]
    ),
)
def test_rounds_of_a_run_with_other_options_or_weights_are_not_taken(folder, monkeypatch, changes):
    slim_prune(*WORDS)
    trained = []
    monkeypatch.setattr("utils.commands.prune.iterative.train", lambda args, _observer: trained.append(args))
    for number, change in enumerate(changes, start=1):
        words = WORDS
        if change == ("--weights",):
            save_weights(Darknet.from_cfg("small.cfg"), "small.weights")
        else:
            words += change
        with pytest.raises(ToolkitError, match="tuned"):  # nothing was trained, so there is no such file
            slim_prune(*words)
        assert len(trained) == number


def test_a_round_that_has_nothing_to_do_passes_the_network_on(folder, monkeypatch):
    """The first round goes down to the end of the way at once."""
    monkeypatch.setattr(iterative, "limits_of_round", lambda *_: {"max_macs": Amount(5.8e5, False)})
    slim_prune(*WORDS)
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("small_rounds/*/*/pruned.json"))]
    assert reports[0]["after"]["macs"] < reports[0]["before"]["macs"]
    assert reports[1]["after"]["macs"] == reports[1]["before"]["macs"] == reports[0]["after"]["macs"]
    assert json.loads((folder / f"{TAG}.json").read_text())["after"]["macs"] == reports[0]["after"]["macs"]
