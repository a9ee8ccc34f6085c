"""train.py --scratch: the pruned network from random weights, as long as the unpruned one or as dear."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from utils.commands.train.command import print_comparison
from utils.commands.train.settings import RunSettings
from utils.darknet.checkpoint import save_checkpoint
from utils.darknet.model import Darknet
from utils.errors import ToolkitError
from utils.pruning.costs import count_parameters

Starter = Callable[..., dict[str, Any]]


@pytest.fixture
def weights(tiny_cfg: Path, tmp_path: Path) -> Path:
    """A pruned network of weights 0.5, and beside it the report of its pruning from 2.5 times the work."""
    model = Darknet.from_cfg(tiny_cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    save_checkpoint(tmp_path / "pruned.pt", model)
    before = {"macs": 2500, "parameters": 9, "map50": 0.75}
    after = {"macs": 1000, "parameters": count_parameters(model)}
    report = {"before": before, "after": after, "compact": {"map50": 0.25}, "image_size": [64, 64]}
    (tmp_path / "pruned.json").write_text(json.dumps(report))
    return tmp_path / "pruned.pt"


@pytest.fixture
def begin(tiny_cfg: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starter:
    """Start train.py up to its loop; gives the model and the options that the loop gets."""

    def begin(*words: object) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def look(model: Darknet, loaders: object, options: object, *_: object, **__: object) -> None:
            seen.update(model=model, options=options)
            raise KeyboardInterrupt

        monkeypatch.setattr("utils.training.loop.train", look)
        monkeypatch.setenv("COLUMNS", "250")  # so that no line of the table is broken
        files = ["--cfg", tiny_cfg, "--data", few_images, "--output", tmp_path / "out"]
        with pytest.raises(KeyboardInterrupt):
            train.main([str(word) for word in (*files, "--workers", 0, "--batch-size", 2, *words)])
        return seen

    return begin


@pytest.mark.parametrize("kind", ["e", "b"])
def test_no_weights_are_loaded_and_the_table_says_so(
    kind: str, begin: Starter, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = begin("--weights", weights, "--scratch", kind, "--seed", 3)["model"]
    shown = " ".join(capsys.readouterr().out.split())
    fresh = begin("--seed", 3)["model"].state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())
    assert f"none, from scratch (--scratch {kind});" in shown
    loaded = begin("--weights", weights)["model"]
    assert all((parameter == 0.5).all() for parameter in loaded.parameters())


def test_b_trains_as_many_multiply_adds_as_the_unpruned_network(
    begin: Starter, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--weights", weights, "--epochs", 4, "--scratch")
    assert begin(*given, "e")["options"].epochs == 4
    assert begin(*given, "b")["options"].epochs == 10
    assert "scratch b: 4 x 2.500 K / 1.000 K" in capsys.readouterr().out


def test_b_stretches_the_epochs_of_the_cfg_too(begin: Starter, weights: Path) -> None:
    """max_epochs=3 of the cfg."""
    assert begin("--weights", weights, "--scratch", "b")["options"].epochs == 8


def test_a_report_alone_is_enough(begin: Starter, weights: Path) -> None:
    report = weights.with_suffix(".json")
    assert begin("--report", report, "--epochs", 4, "--scratch", "b")["options"].epochs == 10


@pytest.mark.parametrize(
    ("words", "content", "fact"),
    [
        (["--scratch", "e"], None, "--scratch: is a control experiment for a pruning run, and none is named"),
        (["--weights", "W", "--scratch", "e", "--cutoff", "2"], None, "--cutoff: --scratch loads no weights"),
        (["--report", "nix.json", "--scratch", "b"], None, "nix.json: not found; .*name it with --report"),
        (["--weights", "W", "--scratch", "b"], "{}", "has no multiply-adds before and after"),
        (["--weights", "W", "--scratch", "b"], "nix", "cannot be read as JSON"),
        (["--weights", "W", "--scratch", "b"], "[]", "not the report of a pruning run"),
        (
            ["--weights", "W", "--scratch", "b"],
            '{"before": {"macs": 9}, "after": {"macs": 3, "parameters": 7}}',
            "is of a network of 7 parameters, the cfg's has",
        ),
        (
            ["--weights", "W", "--scratch", "b"],
            '{"before": {"macs": 9}, "after": {"macs": 0, "parameters": 7}}',
            "9 multiply-adds before, 0 after",
        ),
    ],
)
def test_what_means_nothing_is_refused(
    tiny_cfg: Path, few_images: Path, weights: Path, words: list[str], content: str | None, fact: str
) -> None:
    if content is not None:
        weights.with_suffix(".json").write_text(content)
    words = [str(weights) if word == "W" else word for word in words]
    with pytest.raises(ToolkitError, match=fact):
        train.main(["--cfg", str(tiny_cfg), "--data", str(few_images), *words])


@pytest.fixture
def ended(begin: Starter, weights: Path, few_images: Path, tmp_path: Path) -> RunSettings:
    """A run from the pruned network, judged as its pruning was, by the report."""
    options = begin("--weights", weights, "--epochs", 4, "--scratch", "b")["options"]
    path = weights.with_suffix(".json")
    judged = {"arguments": {"data": str(few_images)}, "image_size": list(options.image_size)}
    path.write_text(json.dumps(json.loads(path.read_text()) | judged))
    return RunSettings(None, few_images, None, None, path, tmp_path, 1, False, False, options, scratch="b")


def shown(
    run: RunSettings, parameters: int, capsys: pytest.CaptureFixture[str], **reached: float
) -> list[str]:
    """Words of each line that `print_comparison` prints."""
    capsys.readouterr()
    print_comparison(run, parameters, reached)
    return [" ".join(line.strip("│ ").split()) for line in capsys.readouterr().out.splitlines()]


def test_the_control_and_fine_tuning_have_a_line_below_the_pruned_network(
    ended: RunSettings, tiny_cfg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = count_parameters(Darknet.from_cfg(tiny_cfg))
    lines = shown(ended, count, capsys, valid=0.5)
    start = lines.index("unpruned │ 75.00 %")
    control = "from random weights (--scratch b), best of 10 epochs │ 50.00 %"
    assert lines[start + 1 : start + 3] == ["pruned │ 25.00 %", control]
    tuned = replace(ended, scratch=None, t_weights=Path("teacher.pt"))
    assert "fine-tuned, with a teacher, best of 10 epochs │ 50.00 %" in shown(tuned, count, capsys, valid=0.5)
    assert RunSettings.from_mapping(ended.to_mapping()).scratch == "b"  # so a resumed one tells it, too


@pytest.mark.parametrize("other", ["data", "size", "parameters", "split", "report"])
def test_a_network_that_was_judged_otherwise_is_not_beside_it(
    other: str, ended: RunSettings, tiny_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = count_parameters(Darknet.from_cfg(tiny_cfg)) + (other == "parameters")
    if other == "data":
        ended = replace(ended, data=tmp_path / "other.data")
    if other == "size":
        ended = replace(ended, options=replace(ended.options, image_size=(96, 96)))
    if other == "report":
        ended = replace(ended, report=tmp_path / "nix.json")
    assert shown(ended, count, capsys, **{"test" if other == "split" else "valid": 0.5}) == []
