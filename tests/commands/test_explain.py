"""Questions that write nothing: their answers name sections as the cfg does, and heed the options given."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from tests.project import CFG, FILES, Fail
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.pruning.costs import count_parameters


@pytest.fixture
def ask(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a script in the project's folder; returns what it prints on one line, without frames."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "200")

    def ask(script: str, *words: str) -> str:
        before = sorted(project.rglob("*"))
        importlib.import_module(script).main(list(words))
        assert sorted(project.rglob("*")) == before
        return re.sub(r"[\s│]+", " ", capsys.readouterr().out)

    return ask


def line_of(section: int) -> int:
    """Number of a section's line in CFG."""
    heads = [number for number, line in enumerate(CFG.splitlines(), 1) if line.startswith("[")]
    return heads[section + 1]


def test_layers_are_named_with_their_kind(ask):
    text = ask("prune", *FILES, "--explain", "3")
    assert f"writes to the same channels as small.cfg:{line_of(1)}: [convolutional] #1" in text


def test_the_section_that_pins_is_named_with_its_kind(ask):
    assert "pinned: never removed: #14 [yolo] needs its channels" in ask(
        "slim_prune", *FILES, "--explain", "13"
    )


@pytest.mark.parametrize(
    ("script", "merge", "removed"),
    [
        ("slim_prune", (), "no layer that writes to it passes the threshold"),
        ("slim_prune", ("--merge", "mean"), "the merged score of all layers that write to it does not pass"),
        ("shortcut_prune", (), "the score of the first layer that writes to it does not pass"),
    ],
)
def test_the_reason_says_whose_score_decided(ask, project, script, merge, removed):
    model = Darknet.from_cfg("small.cfg")
    share = ("--percent", "0.6") if script == "shortcut_prune" else ("--global_percent", "0.6")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.linspace(0.1, 1, len(module.weight)))
    save_weights(model, "small.weights")
    assert f"removed: {removed}" in ask(script, *FILES, *share, *merge, "--explain", "3")


def test_what_if_leaves_kept_sections_whole(ask):
    def left(*words: str) -> int:
        text = ask("slim_prune", "--cfg", "small.cfg", "--what-if", "0.5", *words)
        before, after = re.search(r"parameters ([\d,]+) ([\d,]+)", text).groups()
        assert int(before.replace(",", "")) == count_parameters(Darknet.from_cfg("small.cfg"))
        return int(after.replace(",", ""))

    assert left("--keep-sections", "3,7") > left()


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--what-if", "0.5", "--align", "auto"), "--align auto: needs a latency table"),
        (("--what-if", "0.5", "--classic"), "no effect: --classic; leave one of them out"),
        (("--what-if", "0.5", "--max-macs", "50%", "--score=l1"), "no effect: --max-macs, --score; leave"),
        (("--what-if", "0.5", "--min_map", "0.5"), "no effect: --min-map; leave"),
        (("--what-if", "0.5", "--merge", "max"), "no effect: --merge; leave"),
        (("--what-if", "0.5", "--global-percent", "0.5"), "no effect: --global_percent; leave"),
        (("--what-if", "0.5", "--recalibrate", "8"), "no effect: --recalibrate; leave"),
        (("--what-if", "0.5", "--no-report"), "no effect: --no-report; leave"),
        (("--explain", "99"), "--explain 99: not a convolution"),
        (("--explain", "3", "--iterative", "2", "--max-macs", "50%"), "--explain: explains a single pruning"),
    ],
)
def test_what_cannot_be_answered_is_said(fail: Fail, words, fact):
    assert fact in fail("slim_prune.py", *FILES, *words)


@pytest.mark.parametrize("script", ["layer_prune.py", "layer_channel_prune.py"])
def test_what_if_of_blocks_is_answered_with_the_script_to_ask(fail: Fail, script):
    text = fail(script, *FILES, "--what-if", "0.5")
    fact = "--what-if: is about channels, and this strategy removes whole blocks"
    assert text == f"{fact}; use slim_prune.py --what-if 0.5"


def test_what_if_takes_what_it_heeds_and_where_it_runs(ask):
    words = ("--min-channels", "2", "--keep_sections", "3", "--img-size", "96", "--align", "4")
    machine = ("--seed", "1", "--device", "cpu", "--threads", "1", "--workers", "0")
    assert "with 50% of every layer removed" in ask("prune", *FILES, "--what-if", "0.5", *words, *machine)
