"""What bccd.py, unstructured.py, peers.py, digits.py, torch_pruning.py of benchmarks compare, made tiny."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import bccd, bccd_report, digits, peer, peer_networks, peers, unstructured
from benchmarks.rows import Row, Rows
from benchmarks.unstructured import variants, zeros
from examples.digits import Course, Outcome
from examples.resnet import BasicBlock, ResNet
from utils.commands.benchmark.models import Model
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.errors import MissingPackageError
from utils.pruning.costs import count_parameters

CFG = Path(__file__).parent / "cfgs/upsample.cfg"


@pytest.fixture
def model() -> Darknet:
    """Random weights and gammas, none of them 0."""
    torch.manual_seed(0)
    model = Darknet.from_cfg(CFG).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1)
    return model


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_masks_zero_their_share_and_keep_every_size(model: Darknet, share: float) -> None:
    found = dict(variants(model, share))
    assert set(found) == {
        ("l1_unstructured", "convolutions"), ("ln_structured", "convolutions"),
        ("global_unstructured", "convolutions"), ("l1_unstructured", "batch norms"),
        ("global_unstructured", "batch norms"), ("slim", "channels"),
    }  # fmt: skip
    kinds = {"convolutions": nn.Conv2d, "batch norms": nn.BatchNorm2d}
    for (method, layers), network in found.items():
        if method == "slim":
            assert count_parameters(network) < count_parameters(model)
            continue
        assert count_parameters(network) == count_parameters(model)
        weights = [module.weight for module in network.modules() if isinstance(module, kinds[layers])]
        values = torch.cat([weight.flatten() for weight in weights])
        assert (values == 0).float().mean() == pytest.approx(share, abs=0.05)
        assert not any(name.endswith("_mask") for name, _ in network.named_buffers())  # for good


def test_structured_masks_take_whole_filters(model: Darknet) -> None:
    network = dict(variants(model, 0.5))["ln_structured", "convolutions"]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            empty = (module.weight == 0).flatten(1).float().mean(1)
            assert set(empty.tolist()) <= {0.0, 1.0}


def test_zeros_are_counted_over_all_parameters() -> None:
    layer = nn.Linear(3, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert zeros(layer) == 1 / 4


def test_the_page_is_made_from_the_rows() -> None:
    same = ("net", "unpruned", "-", 0.0, 1000, 2 * 10**9, 0.0, 0.5, "torch", 1, 20.0, 1.0, 1.0, 1.0)
    half = ("net", "slim", "channels", 0.5, 400, 10**9, 0.0, 0.25, "torch", 1, 10.0, 2.0, 1.9, 2.1)
    text = unstructured.page([unstructured.Row(*same), unstructured.Row(*half)])
    assert "## net, torch, threads 1\n" in text
    assert "| slim | channels | 50% | 0% | 400 | 1.00 G | 25.0% | 10.0 | 2.00 (1.90 to 2.10) |\n" in text
    assert text.count("\n| unpruned |") == 1


@pytest.mark.parametrize(("high", "slower"), [(0.9, True), (1.1, False)])
def test_peers_fails_only_where_all_of_the_interval_is_below_one(high, slower, tmp_path, capsys) -> None:
    rows = Rows(tmp_path / "x.csv")
    rows.add(Row("ratio", "case", "OpenCV / the fastest", 1, 0.8, 0.7, high))
    model = Model(CFG, tmp_path / "unread.weights")
    assert peers.measure(model, (1, 3, 32, 32), 6, "case", rows) is slower


def test_peers_measures_all_in_the_same_rounds(tmp_path) -> None:
    pytest.importorskip("openvino")
    save_weights(Darknet.from_cfg(CFG), tmp_path / "net.weights")
    table = tmp_path / "x.csv"
    words = ["--cfg", str(CFG), "--weights", str(tmp_path / "net.weights"), "--csv", str(table)]
    with suppress(SystemExit):  # on so small a network anyone may win
        peers.main([*words, "--batch", "1", "2", "--threads", "1", "--rounds", "6"])
    lines = table.read_text().splitlines()
    assert len(lines) == 1 + 2 * (4 + 3 + 1)


def outcome(seed: int, stage: str, ratio: float, digit: float, sr: float = 0.02) -> Outcome:
    return Outcome("Net", seed, sr, stage, ratio, digit, 0.5, 0.25, 1000 + seed, 5000, 7)


def test_the_digits_page_has_means_and_paired_differences() -> None:
    rows = [
        outcome(seed, stage, ratio, digit + 0.1 * seed)
        for seed in (0, 1)
        for stage, ratio, digit in (
            ("baseline", 0.0, 0.8),
            ("fine-tuned", 0.5, 0.6),
            ("scratch-e", 0.5, 0.65),
        )
    ]
    text = digits.page([*rows, outcome(0, "sparse", 0.0, 0.1, sr=digits.KNOWN)])
    assert "deviation of 2 seeds" in text
    assert "\n| baseline |  |  | 85.0 ± 7.1 | 50.0 ± 0.0 | 25.0 ± 0.0 | 1,000 | 5,000 | 7 |\n" in text
    assert "\n| fine-tuned | 0.02 | 0.5 | 65.0 ± 7.1 |" in text
    assert "scratch-e at 0.5: 5.0 ± 0.0 points." in text
    assert "\n| sparse | 0.0001 |  | 10.0 |" in text


def test_digits_courses_that_are_there_are_not_run_again(tmp_path, monkeypatch) -> None:
    ran: list[tuple[str, int, float]] = []

    def run(course: Course) -> list[Outcome]:
        ran.append((course.network, course.seed, course.sr))
        return [Outcome(*ran[-1], "baseline", 0.0, 0.5, 0.5, 0.5, 10, 10, 1)]

    monkeypatch.setattr(Course, "run", run)
    digits.run(tmp_path / "x.csv", 1)
    assert len(ran) == 4
    digits.run(tmp_path / "x.csv", 2)
    assert len(ran) == len(set(ran)) == 8


@pytest.fixture
def small() -> tuple[nn.Module, torch.Tensor]:
    """ResNet with two blocks, an image, and a classifier of weights as large as 1."""
    torch.manual_seed(0)
    model = ResNet(BasicBlock, (1, 1), 5, width=16, small=True).eval()
    nn.init.normal_(model.classifier.weight)
    return model, torch.rand(1, 3, 16, 16)


def test_a_cut_network_is_compared_with_the_full_one_at_zero(small) -> None:
    found = peer_networks.by_slim(*small, 0.5)
    assert count_parameters(found.model) < count_parameters(small[0])
    assert peer_networks.difference_of(found, *small) < 1e-12
    wrong = {**found.inputs, "classifier": (found.inputs["classifier"] + 1) % 32}
    assert peer_networks.difference_of(peer.PeerResult(found.model, wrong), *small) > 1e-6


def test_torch_pruning_gets_the_same_share_and_leaves_the_outputs(small) -> None:
    pytest.importorskip("torch_pruning")
    assert peer_networks.output_layers(*small) == [small[0].classifier]
    found = peer_networks.by_peer(*small, 0.5)
    assert peer_networks.difference_of(found, *small) < 1e-12
    assert found.model.classifier.weight.shape == (5, 16)


def test_both_programs_are_timed_in_turns_once(tmp_path) -> None:
    pytest.importorskip("torch_pruning")
    words = argparse.Namespace(only=["LeNet"], ratio=0.5, seconds=60, threads=1, rounds=3)
    for _ in range(2):  # the second finds its rows
        peer_networks.measure_time(words, Rows(tmp_path / "x.csv"))
    rows = Rows(tmp_path / "x.csv")
    case = "LeNet, 0.5, threads 1"
    ours, theirs, ratio = (rows.get("time", case, way) for way in ("slim", "Torch-Pruning", "ratio"))
    assert 0 < ours.low <= ours.figure <= ours.high
    assert ratio.figure == pytest.approx(theirs.figure / ours.figure, rel=1)
    assert (tmp_path / "x.csv").read_text().count(case) == 3


def test_a_network_that_cannot_be_cut_is_a_row_with_its_error(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not this one")

    monkeypatch.setattr(peer_networks, "METHODS", {"slim": refuse})
    rows = Rows(tmp_path / "x.csv")
    words = argparse.Namespace(only=["ResNet-20"], ratio=0.5, seconds=60)
    peer_networks.compare_networks(words, rows)
    found = rows.get("networks", "ResNet-20, 0.5", "slim")
    assert (found.parameters, found.note) == (0, "ValueError: not this one")
    assert found.figure != found.figure


def test_a_trial_on_blood_cells_starts_from_one_before_it_of_its_seed() -> None:
    before: set[str] = set()
    for trial in bccd.trials():
        assert {f"{name}/{trial.seed}" for name in (trial.parent, trial.teacher) if name} <= before, trial.key
        assert trial.key not in before
        before.add(trial.key)
    groups = [pattern.rstrip("*") for _, pattern in bccd_report.GROUPS]
    assert all(any(key.startswith(group) for group in groups) for key in before)  # so each has its line


@pytest.mark.parametrize(
    "run", [lambda: digits.main(["--seeds", "1"]), lambda: peer_networks.measure_digits(None, None)]
)
def test_without_scikit_learn_the_pip_line_is_told(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match="python -m pip install scikit-learn"):
        run()
