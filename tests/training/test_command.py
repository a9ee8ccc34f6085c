"""train.py as a user types it, on a network and a data set of a second."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from utils.darknet.checkpoint import read_checkpoint, save_checkpoint
from utils.darknet.model import Darknet
from utils.errors import ToolkitError

FAST = ["--workers", "0", "--batch-size", "2", "--epochs", "1"]


def start(cfg: Path, data: Path, output: Path, *more: object) -> None:
    train.main(["--cfg", str(cfg), "--data", str(data), "--output", str(output), *FAST, *map(str, more)])


def test_sparse_training_tells_the_pruning_command(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tiny_cfg, few_images, tmp_path / "out", "-sr", "--s", "0.01", "--prune", "0")
    shown = capsys.readouterr().out
    assert "s = 0.01 on the candidates of --prune 0" in shown
    assert shown.splitlines()[-1].startswith("next: python slim_prune.py --cfg")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "last.pt", "best.pt", "history.csv", "history.png",
    }  # fmt: skip


def test_an_input_that_would_be_overwritten_is_kept(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    save_checkpoint(output / "last.pt", Darknet.from_cfg(tiny_cfg))
    before = (output / "last.pt").read_bytes()
    start(tiny_cfg, few_images, output, "--weights", output / "last.pt")
    kept = list(output.glob("last.*.pt"))
    assert [path.read_bytes() for path in kept] == [before]
    assert read_checkpoint(output / "last.pt").training["epoch"] == 1


def test_a_teacher_that_is_moved_is_found_again_on_resume(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is <output>/best.pt; the run is broken off after its first epoch."""
    output = tmp_path / "out"
    save_checkpoint(output / "best.pt", Darknet.from_cfg(tiny_cfg))
    teacher = ["--t_cfg", tiny_cfg, "--t_weights", output / "best.pt", "--epochs", "2"]

    def break_off(_self: object, epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("utils.commands.progress.EpochBars.epoch_started", break_off)
        with pytest.raises(KeyboardInterrupt):
            start(tiny_cfg, few_images, output, *teacher)
    train.main(["--resume", str(output / "last.pt"), "--workers", "0"])
    state = read_checkpoint(output / "last.pt").training
    assert state["epoch"] == 2
    assert Path(state["context"]["t_weights"]).name.startswith("best.2")
    assert state["history"][1]["distillation"] > 0


def test_weights_of_other_classes_are_used_but_for_the_heads(
    tiny_cfg: Path,
    few_images: Path,
    tmp_path: Path,
    cfg_of: Callable[[int], Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    donor = Darknet.from_cfg(cfg_of(7))
    with torch.no_grad():
        donor.layers[0].conv.weight.fill_(0.5)
    save_checkpoint(tmp_path / "donor.pt", donor)
    loaded: list[torch.Tensor] = []

    def look(model: Darknet, *_: object, **__: object) -> None:
        loaded.append(model.layers[0].conv.weight.detach().clone())
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.commands.train.train", look)
    with pytest.raises(KeyboardInterrupt):
        start(tiny_cfg, few_images, tmp_path / "out", "--weights", tmp_path / "donor.pt")
    assert bool((loaded[0] == 0.5).all())
    assert "has 7 classes, the network 4" in caplog.text


def test_resume_refuses_other_options(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    start(tiny_cfg, few_images, tmp_path)
    with pytest.raises(ToolkitError, match="leave out --epochs, --s"):
        train.main(["--resume", str(tmp_path / "last.pt"), "--epochs", "9", "--s", "0.1"])


def test_a_finished_run_is_not_resumed(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    start(tiny_cfg, few_images, tmp_path)
    with pytest.raises(ToolkitError, match="1 epochs are done; start anew with --weights"):
        train.main(["--resume", str(tmp_path / "last.pt")])


@pytest.mark.parametrize("name", ["best.pt", "absent.pt"])
def test_resume_needs_the_last_checkpoint_of_a_run(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, name: str
) -> None:
    start(tiny_cfg, few_images, tmp_path)
    with pytest.raises(ToolkitError, match=name):
        train.main(["--resume", str(tmp_path / name)])


def test_half_a_teacher_is_refused(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="a teacher needs both"):
        start(tiny_cfg, few_images, tmp_path, "--t_cfg", tiny_cfg)


def test_options_come_from_the_command_line_then_the_cfg(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tiny_cfg, few_images, tmp_path, "--momentum", "0.8")
    options = read_checkpoint(tmp_path / "last.pt").training["options"]
    assert (options["momentum"], options["learning_rate"], options["epochs"]) == (0.8, 0.01, 1)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any("learning_rate" in words and "cfg" in words for words in shown)
    assert any("momentum" in words and "given" in words for words in shown)


def test_a_data_set_of_other_classes_is_refused(
    few_images: Path, tmp_path: Path, cfg_of: Callable[[int], Path]
) -> None:
    with pytest.raises(ToolkitError, match=r"4 classes.* 7"):
        start(cfg_of(7), few_images, tmp_path)
