"""An option that would do nothing beside the others is refused, with what it belongs to."""

import pytest
import torch

import slim_prune
from tests.project import FILES, Fail
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (
            ("--tune-epochs", "3"),
            "--tune-epochs: without --iterative nothing is fine-tuned; add --iterative K",
        ),
        (("--tune_epochs=3",), "--tune-epochs: without --iterative nothing is fine-tuned"),
        (("--runtime", "torch"), "--runtime: only used by --max-ms and --align auto"),
        (("--max-macs", "50%", "--runtime", "torch"), "--runtime: only used by --max-ms and --align auto"),
        (("--max-macs", "50%", "--global-percent", "0.5"), "--global_percent: a budget decides"),
        (("--max-macs", "50%", "--merge", "leader"), "--merge leader: a budget weighs"),
        (("--classic", "--keep-sections", "3"), "--classic: cannot be combined with --keep-sections"),
        (("--classic", "--fold", "borders"), "--classic: cannot be combined with --fold"),
    ],
)
def test_an_idle_option_is_refused(fail: Fail, words, fact):
    assert fact in fail("slim_prune.py", *FILES, *words)


@pytest.mark.parametrize("options", ["--min-channels 999", "--align 64", "--align 2 --min-channels 99"])
@pytest.mark.parametrize(
    ("script", "share"),
    [("slim_prune.py", "--global_percent"), ("prune.py", "--percent"), ("shortcut_prune.py", "--percent")],
)
def test_widths_that_bring_every_channel_back_are_refused(fail: Fail, project, script, share, options):
    model = Darknet.from_cfg("small.cfg")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.linspace(0.1, 1, len(module.weight)))
    save_weights(model, "small.weights")
    before = sorted(project.rglob("*"))
    message = fail(script, *FILES, "--no-eval", share, "0.3", *options.split())
    assert message.startswith(f"{options}: all ")
    assert message.endswith("nothing is removed; give a smaller value, or remove a larger share")
    assert sorted(project.rglob("*")) == before


def test_a_largest_share_that_an_error_names_works(fail: Fail, monkeypatch, capsys):
    message = fail("slim_prune.py", *FILES, "--global_percent", "1")
    slim_prune.main([*FILES, "--no-eval", "--verify", "quick", "--global_percent", message.split()[-1]])
    assert "written: " in capsys.readouterr().out


def test_more_blocks_than_there_are_is_answered_with_what_to_do(fail: Fail):
    message = fail("layer_prune.py", *FILES, "--shortcuts", "9")
    assert message.endswith("has 3 that can be removed; ask for fewer, or prune channels")
