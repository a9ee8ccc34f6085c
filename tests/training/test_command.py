"""train.py as a user types it, on a network and a data set of a second."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train
from utils.commands.train.options import TrainOptions
from utils.commands.train.run import train as train_network
from utils.darknet.checkpoint import read_checkpoint, save_checkpoint
from utils.darknet.model import Darknet
from utils.data.augment import Augment
from utils.data.labels import label_path
from utils.data.listing import read_data_file
from utils.data.shapes import make_shapes
from utils.errors import CfgError, DatasetError, ToolkitError
from utils.training.options import TrainingOptions

FAST = ["--workers", "0", "--batch-size", "2", "--epochs", "1"]


def start(cfg: Path, data: Path, output: Path, *more: object) -> None:
    train.main(["--cfg", str(cfg), "--data", str(data), "--output", str(output), *FAST, *map(str, more)])


def test_sparse_training_tells_the_pruning_command(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tiny_cfg, few_images, tmp_path / "out", "-sr", "--s", "0.01", "--prune", "0")
    shown = capsys.readouterr().out
    assert "on the candidates of --prune 0" in shown
    assert shown.splitlines()[-1].startswith("next: python slim_prune.py --cfg")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "last.pt", "best.pt", "history.csv", "history.png", "gammas.png",
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

    def break_off(_self: object, epoch: int, done: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("utils.commands.train.command.Display.epoch_started", break_off)
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

    monkeypatch.setattr("utils.training.loop.train", look)
    with pytest.raises(KeyboardInterrupt):
        start(tiny_cfg, few_images, tmp_path / "out", "--weights", tmp_path / "donor.pt")
    assert bool((loaded[0] == 0.5).all())
    assert "has 7 classes, the network 4" in caplog.text


def test_resume_refuses_other_options(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    start(tiny_cfg, few_images, tmp_path)
    with pytest.raises(ToolkitError, match="leave out --epochs, --s"):
        train.main(["--resume", str(tmp_path / "last.pt"), "--epochs", "9", "--s", "0.1"])


def test_a_run_killed_after_its_last_checkpoint_is_completed_by_resume(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tiny_cfg, few_images, tmp_path)
    history = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").unlink()
    before = read_checkpoint(tmp_path / "last.pt")
    capsys.readouterr()
    train.main(["--resume", str(tmp_path / "last.pt"), "--workers", "0"])
    shown = capsys.readouterr().out
    assert "all 1, only the report is left" in shown
    assert "best.pt on test of" in shown
    assert (tmp_path / "history.csv").read_text() == history
    after = read_checkpoint(tmp_path / "last.pt")
    assert all(torch.equal(tensor, after.state[name]) for name, tensor in before.state.items())


def test_a_copied_last_checkpoint_is_reported_if_no_epoch_was_better(
    tiny_cfg: Path,
    few_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = iter([0.9, 0.1])  # the first epoch is the best, and its best.pt is not copied
    monkeypatch.setattr("utils.training.loop.validate", lambda *_: SimpleNamespace(map50=next(values)))
    start(tiny_cfg, few_images, tmp_path, "--epochs", "2")
    (tmp_path / "best.pt").unlink()
    train.main(["--resume", str(tmp_path / "last.pt"), "--workers", "0"])
    assert "last.pt on valid of" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["context", "trainer", "history"])
def test_a_checkpoint_of_another_loop_is_refused(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, key: str
) -> None:
    start(tiny_cfg, few_images, tmp_path)
    training = dict(read_checkpoint(tmp_path / "last.pt").training)
    del training[key]
    save_checkpoint(tmp_path / "other.pt", Darknet.from_cfg(tiny_cfg), training)
    with pytest.raises(ToolkitError, match=r"other.pt: not a run that can be resumed"):
        train.main(["--resume", str(tmp_path / "other.pt")])


def test_a_teacher_given_relative_is_kept_under_the_name_in_the_context(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = Path("out/best.pt")
    save_checkpoint(teacher, Darknet.from_cfg(tiny_cfg))
    before = teacher.read_bytes()
    start(tiny_cfg, few_images, Path("out"), "--t_cfg", tiny_cfg, "--t_weights", teacher)
    kept = Path(read_checkpoint(Path("out/last.pt")).training["context"]["t_weights"])
    assert kept.read_bytes() == before != teacher.read_bytes()


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--s", "0.001"], "--s: without -sr"),
        (["--prune", "0"], "--prune: without -sr"),
        (["--classic"], "--classic: without -sr"),
        (["--cutoff", "3"], "--cutoff: there are no weights"),
        (["--weights-classes", "3"], "--weights_classes: there are no weights"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, words: list[str], fact: str
) -> None:
    with pytest.raises(ToolkitError, match=fact):
        start(tiny_cfg, few_images, tmp_path, *words)


def test_an_output_that_cannot_be_written_is_refused_before_training(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.training.loop.train", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match=r"file/out: cannot be written to .*; choose another folder"):
        start(tiny_cfg, few_images, tmp_path / "file/out")


@pytest.mark.parametrize(
    "line", ["momentum=1", "decay=-1", "learning_rate=0", "learning_rate=nan", "max_epochs=0"]
)
def test_numbers_of_the_cfg_are_held_to_the_options_ranges(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, line: str
) -> None:
    key, value = line.split("=")
    tiny_cfg.write_text(re.sub(rf"(?m)^{key}=.*$", line, tiny_cfg.read_text()))
    with pytest.raises(CfgError, match=rf"tiny.cfg: \[net\] {key}: '{value}' is not a"):
        start(tiny_cfg, few_images, tmp_path)


def test_momentum_of_one_is_refused(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(tiny_cfg, few_images, tmp_path, "--momentum", "1")
    assert stop.value.code == 2
    assert "'1' is not a number from 0 to below 1" in capsys.readouterr().err


def test_a_large_seed_is_taken(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    start(tiny_cfg, few_images, tmp_path, "--seed", 10**14)
    assert read_checkpoint(tmp_path / "last.pt").training["options"]["seed"] == 10**14


def test_a_batch_too_small_for_batch_norm_is_told(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"batch of 1 .*; give a larger --batch-size or --img_size"):
        start(tiny_cfg, few_images, tmp_path, "--batch-size", "1", "--img_size", "16")


def test_faults_of_the_training_list_are_counted_at_the_end(
    tiny_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_shapes(tmp_path / "data", sizes={"train": 6, "valid": 2, "test": 2})
    images = read_data_file(data).image_list("train")
    label_path(images.images[0]).write_text("9 9\n1 .5 .5 .2 .2\n")
    label_path(images.images[1]).unlink()
    images.images[2].write_bytes(b"no image")
    images.path.write_text(images.path.read_text() + "absent.png\n")
    start(tiny_cfg, data, tmp_path / "out", "--batch-size", "1")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train of ")]
    assert [line.split(": ", 1)[1].split(" ", 1) for line in told] == [
        ["1", "images of the list do not exist and were left out"],
        ["1", "images have no label file and count as empty"],
        ["1", "malformed label lines were left out"],
        ["1", "images could not be read and were left out"],
    ]


def test_a_run_that_reads_no_image_fails(tiny_cfg: Path, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", sizes={"train": 2, "valid": 2, "test": 2})
    for image in read_data_file(data).image_list("train").images:
        image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="no image of the training list could be read; correct"):
        start(tiny_cfg, data, tmp_path / "out")
    assert not (tmp_path / "out/last.pt").exists()


@pytest.mark.parametrize("name", ["best.pt", "absent.pt"])
def test_resume_needs_the_last_checkpoint_of_a_run(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, name: str
) -> None:
    start(tiny_cfg, few_images, tmp_path)
    with pytest.raises(ToolkitError, match=name):
        train.main(["--resume", str(tmp_path / name)])


def test_half_a_teacher_is_refused(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="a teacher needs weights as well"):
        start(tiny_cfg, few_images, tmp_path, "--t_cfg", tiny_cfg)


def test_checkpoints_bring_their_networks_to_training_and_resuming(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Student and teacher alike, with no cfg typed or written."""
    save_checkpoint(tmp_path / "first.pt", Darknet.from_cfg(tiny_cfg))
    files = ["--weights", tmp_path / "first.pt", "--t_weights", tmp_path / "first.pt", "--data", few_images]
    train.main([str(word) for word in (*files, "--output", tmp_path / "out", *FAST)])
    assert f"next: python export.py --weights {tmp_path}" in capsys.readouterr().out.replace("\n", " ")
    train.main(["--resume", str(tmp_path / "out/last.pt"), "--workers", "0"])
    assert not list(tmp_path.rglob("first.cfg"))
    assert read_checkpoint(tmp_path / "out/last.pt").training["history"][0]["distillation"] > 0


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


def test_a_run_with_everything_switched_on_trains_and_resumes(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    """Every option of the recipe at once; the second epoch after a resume."""
    words = [
        *("-sr", "--s", "auto", "--sparsifier", "polarized", "--s-schedule", "global+local"),
        *("--loss", "darknet", "--freeze", "1", "--clip-norm", "1"),
        *("--mosaic", "1", "--mixup", "0.5", "--rotate", "5", "--shear", "2", "--multi-scale"),
        *("--rectangular", "--balanced", "--schedule", "sgdr", "--cycle", "0.5", "--burn-in", "0.5"),
        *("--precision", "bf16", "--cache", "disk", "--tensorboard"),
    ]
    start(tiny_cfg, few_images, tmp_path, *words, "--epochs", "2")
    before = Darknet.from_cfg(tiny_cfg)
    state = read_checkpoint(tmp_path / "last.pt")
    assert state.training["epoch"] == 2
    assert list((tmp_path / "tensorboard").iterdir())
    assert state.state["layers.0.conv.weight"].shape == before.state_dict()["layers.0.conv.weight"].shape


def test_frozen_sections_stay_as_they_are(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    model = Darknet.from_cfg(tiny_cfg)
    save_checkpoint(tmp_path / "first.pt", model)
    start(tiny_cfg, few_images, tmp_path, "--weights", tmp_path / "first.pt", "--freeze", "2")
    state = read_checkpoint(tmp_path / "last.pt").state
    for name, parameter in model.named_parameters():
        assert torch.equal(state[name], parameter) == (int(name.split(".")[1]) < 2), name


def test_freezing_everything_is_refused(tiny_cfg: Path, few_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="all sections are frozen"):
        start(tiny_cfg, few_images, tmp_path, "--freeze", "99")


def test_a_way_to_learn_without_a_teacher_is_refused(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match="--distill: there is no teacher"):
        start(tiny_cfg, few_images, tmp_path, "--distill", "sigmoid")


def test_feature_distillation_without_a_report_says_what_is_missing(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "t.pt", Darknet.from_cfg(tiny_cfg))
    words = ["--t_cfg", tiny_cfg, "--t_weights", tmp_path / "t.pt", "--distill", "feature"]
    with pytest.raises(ToolkitError, match=r"--distill feature: .*give --report"):
        start(tiny_cfg, few_images, tmp_path / "out", *words)


def test_a_wrong_class_count_is_refused_without_validation_images_too(
    cfg_of: Callable[[int], Path], tmp_path: Path
) -> None:
    data = make_shapes(tmp_path / "set", sizes={"train": 4, "valid": 2, "test": 2})
    data.write_text("\n".join(line for line in data.read_text().splitlines() if "valid" not in line))
    with pytest.raises(ToolkitError, match=r"has 4 classes, the network .* has 2"):
        start(cfg_of(2), data, tmp_path / "out")


def test_a_resumed_run_has_the_threads_that_it_began_with(
    tiny_cfg: Path, few_images: Path, tmp_path: Path
) -> None:
    """The order of sums depends on them, so that only then it goes on bitwise."""
    before = torch.get_num_threads()
    try:
        start(tiny_cfg, few_images, tmp_path / "out", "--threads", "3")
        torch.set_num_threads(1)
        train.main(["--resume", str(tmp_path / "out" / "last.pt"), "--workers", "0"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_training_from_python_prints_nothing_and_returns_the_figures(
    tiny_cfg: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions(
        cfg=tiny_cfg, data=few_images, output=tmp_path, epochs=2, batch_size=2, workers=0, sparsity=True
    )
    result = train_network(options)
    assert "".join(capsys.readouterr()) == ""
    assert (result.last, result.best) == (tmp_path / "last.pt", tmp_path / "best.pt")
    assert result.epochs == len(result.history.read_text().splitlines()) - 1 == 2
    assert result.best_map50 == max(record.map50 for record in result.records)
    assert result.free_share == result.records[-1].free_share
    assert result.settings.options.s == 0.001


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        ({"epochs": 0}, "--epochs: 0 is out of range; give a whole number of at least 1"),
        ({"mosaic": 2}, "--mosaic: 2 is out of range"),
        ({"save_minutes": 0}, "--save_minutes: 0 is out of range"),
        ({"s": 0.1}, "--s: without -sr"),
        ({"resume": Path("last.pt"), "flip": 0.0}, "leave out --flip"),
    ],
)
def test_options_are_checked_where_they_are_built(given: dict[str, Any], fact: str) -> None:
    with pytest.raises(ToolkitError, match=fact):
        TrainOptions(**given)


def test_every_hyper_parameter_can_be_given() -> None:
    """Apart from those that other options decide."""
    known = {field.name for kind in (TrainingOptions, Augment) for field in fields(kind)}
    derived = {"image_size", "s_auto", "augment"}
    assert known - derived <= {field.name for field in fields(TrainOptions)}
