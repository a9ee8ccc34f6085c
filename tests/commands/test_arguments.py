"""Spelling, limits, the demo's defaults, errors and JSON."""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.cli import run_main
from utils.commands import arguments
from utils.commands.arguments import (
    ImageSizeOptions,
    InputOptions,
    MachineOptions,
    Parser,
    add_command,
    prepare,
    resolve,
    write_json,
)
from utils.commands.inputs import DemoFiles
from utils.commands.output import plain
from utils.darknet.network import Network
from utils.errors import ToolkitError
from utils.options import FRACTION, NON_NEGATIVE_FLOAT, POSITIVE_INT, from_arguments, option

DEMO = DemoFiles(Path("cfg/yolov3-shapes.cfg"), Path("data/shapes.data"), Path("weights/last.pt"))

CFG_TEXT = "[net]\nwidth=32\nheight=32\nchannels=3\n"
NETWORK_TEXT = CFG_TEXT + "[convolutional]\nfilters=4\nsize=1\nstride=1\nactivation=leaky\n"


@dataclass(frozen=True)
class FullOptions(MachineOptions, ImageSizeOptions, InputOptions):
    global_percent: float = option(0.8, "share", FRACTION)
    batch_size: int = option(8, "images", POSITIVE_INT, flags=("--batch-size",))
    sr: bool = option(False, "sparse", flags=("-sr",))
    s: float = option(0.001, "weight", NON_NEGATIVE_FLOAT)


def parsed(words: Sequence[str]) -> FullOptions:
    parser = Parser("Do it.\n\n    python it.py --cfg x.cfg\n", "it")
    add_command(parser, FullOptions)
    return from_arguments(FullOptions, parser.parse_args(words))


@pytest.mark.parametrize(
    "words",
    [
        ["--global_percent", "0.5", "--batch-size", "4"],
        ["--global-percent", "0.5", "--batch_size", "4"],
        ["--global-percent=0.5", "--batch_size=4"],
    ],
)
def test_underscore_and_dash_are_one_spelling(words: list[str]) -> None:
    args = parsed(words)
    assert (args.global_percent, args.batch_size) == (0.5, 4)


def test_values_keep_their_underscores_and_dashes() -> None:
    assert parsed(["--cfg=my_net-a=b.cfg"]).cfg == Path("my_net-a=b.cfg")
    assert parsed(["--cfg", "my_net-a.cfg"]).cfg == Path("my_net-a.cfg")


def test_single_dash_option_beside_its_namesake() -> None:
    args = parsed(["-sr", "--s", "0.01"])
    assert (args.sr, args.s) == (True, 0.01)


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--global_percent", "1.01"], "'1.01' is not a number from 0 to 1"),
        (["--global_percent", "nan"], "'nan' is not a number from 0 to 1"),
        (["--global_percent", "80%"], "'80%' is not a number from 0 to 1"),
        (["--s", "-1"], "'-1' is not a number of at least 0"),
        (["--s", "inf"], "'inf' is not a number of at least 0"),
        (["--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["--batch-size", "1.5"], "'1.5' is not a whole number"),
        (["--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["--img_size", "1", "2", "3"], "not 3 numbers"),
        (["--global"], "unrecognized arguments: --global"),
        (["--no-such_option"], "unrecognized arguments: --no-such_option"),
    ],
)
def test_wrong_words_end_with_code_2_and_the_fact(
    words: list[str], fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed(words)
    assert stop.value.code == 2
    assert fact in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "size"),
    [([], None), (["--img-size", "416"], (416, 416)), (["--img_size", "320", "416"], (320, 416))],
)
def test_image_size_is_height_and_width(words: list[str], size: tuple[int, int] | None) -> None:
    assert parsed(words).img_size == size


def test_help_is_the_manual_with_the_defaults_that_say_something(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["--help"])
    text = capsys.readouterr().out
    assert "Do it.\n\n    python it.py --cfg x.cfg\n" in text
    assert "(default: 0.8)" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text


def test_the_same_seed_gives_the_same_numbers() -> None:
    def draw() -> tuple[float, ...]:
        prepare(parsed(["--seed", "7"]))
        return random.random(), float(np.random.random()), float(torch.rand(()))

    assert draw() == draw()


def test_thread_count_is_set_when_asked() -> None:
    before = torch.get_num_threads()
    try:
        prepare(parsed(["--threads", "2"]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "99", "meta"])
def test_a_device_that_is_not_there_is_refused_with_what_may_be_said(name: str) -> None:
    with pytest.raises(ToolkitError, match=f"--device {name}: .*cpu"):
        prepare(parsed(["--device", name]))


def test_cpu_is_the_cpu() -> None:
    assert prepare(parsed(["--device", "cpu"])) == torch.device("cpu")


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the demo leaves it; the data set is made by a stand-in."""
    monkeypatch.chdir(tmp_path)
    for path in (DEMO.cfg, DEMO.weights):
        path.parent.mkdir(parents=True)
        path.write_text(CFG_TEXT)
    monkeypatch.setattr("utils.commands.inputs.ensure_shapes", lambda folder: folder / "made.data")
    return tmp_path


def test_with_nothing_given_all_is_the_demos(demo: Path) -> None:
    found = resolve(parsed([]))
    assert found == arguments.InputFiles(DEMO.cfg, Path("data/made.data"), DEMO.weights, is_demo=True)


def test_demo_training_starts_without_weights(demo: Path) -> None:
    assert resolve(parsed([]), needs=("cfg", "data")).weights is None


def test_untrained_demo_says_how_to_train(demo: Path) -> None:
    DEMO.weights.unlink()
    with pytest.raises(ToolkitError, match=r"not trained yet; run: python train\.py"):
        resolve(parsed([]))


def test_in_any_other_folder_the_demos_files_are_below_runs(demo: Path) -> None:
    DEMO.cfg.unlink()
    elsewhere = resolve(parsed([]), needs=("cfg", "data"))
    assert elsewhere == arguments.InputFiles(
        Path("runs/cfg/yolov3-shapes.cfg"), Path("runs/data/made.data"), None, is_demo=True
    )
    assert elsewhere.network().heads
    with pytest.raises(ToolkitError, match=r"weights.last\.pt: the demo's network is not trained yet"):
        resolve(parsed([]))


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["--cfg", "x.cfg"], "--data: missing beside --cfg"),
        (["--cfg", "x.cfg", "--data", "x.data"], "--weights: missing beside --cfg --data"),
        (["--data", "x.data"], "--cfg: missing beside --data"),
        (["--weights", "x.weights"], "x.weights: a .weights file does not contain its network; add --cfg"),
    ],
)
def test_with_one_file_given_the_demo_never_fills_in(demo: Path, words: list[str], missing: str) -> None:
    with pytest.raises(ToolkitError) as error:
        resolve(parsed(words))
    assert missing in str(error.value)


def test_what_a_command_can_do_without_is_none(demo: Path) -> None:
    found = resolve(parsed(["--cfg", "x.cfg"]), needs=("cfg",))
    assert found == arguments.InputFiles(Path("x.cfg"), None, None, is_demo=False)


def test_the_embedded_set_is_made_when_named(demo: Path) -> None:
    words = ["--cfg", "x.cfg", "--data", str(DEMO.data)]
    assert resolve(parsed(words), needs=("cfg", "data")).data == Path("data/made.data")


@dataclass
class Checkpoint:
    cfg: str | None


@pytest.fixture
def stored(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Sets the cfg that checkpoints hold."""

    def store(text: str | None) -> None:
        monkeypatch.setattr("utils.commands.inputs.read_checkpoint", lambda path: Checkpoint(text))

    return store


def test_a_checkpoint_brings_its_own_network_and_nothing_is_written(
    stored: Callable[[str | None], None],
) -> None:
    stored(NETWORK_TEXT)
    Path("weights/best.cfg").write_text("[net]\n# another\n")
    before = sorted(Path().rglob("*"))
    found = resolve(parsed(["--weights", "weights/best.pt"]), needs=("weights",))
    network = found.network()
    assert (found.cfg, network.source) == (None, f"cfg in {Path('weights/best.pt')}")
    assert network.to_cfg() == Network.from_text(NETWORK_TEXT).to_cfg()
    assert sorted(Path().rglob("*")) == before


def test_a_cfg_that_is_given_goes_before_the_checkpoints(stored: Callable[[str | None], None]) -> None:
    stored(NETWORK_TEXT)
    Path("x.cfg").write_text(NETWORK_TEXT.replace("filters=4", "filters=5"))
    words = ["--cfg", "x.cfg", "--weights", "weights/best.pt"]
    network = resolve(parsed(words), needs=("weights",)).network()
    assert (network.source, network.channels(0)) == ("x.cfg", 5)


def test_a_checkpoint_without_cfg_asks_for_one(stored: Callable[[str | None], None]) -> None:
    stored(None)
    found = resolve(parsed(["--weights", "weights/best.pt"]), needs=("weights",))
    with pytest.raises(ToolkitError, match="does not contain the cfg of its network; add --cfg"):
        found.network()


@pytest.mark.parametrize(
    ("files", "names", "typed"),
    [
        ((None, Path("a b.data"), Path("x.pt"), False), (), "--weights x.pt --data 'a b.data'"),
        (
            (Path("x.cfg"), Path("y.data"), Path("x.pt"), False),
            ("cfg", "weights"),
            "--cfg x.cfg --weights x.pt",
        ),
        ((DEMO.cfg, DEMO.data, DEMO.weights, True), (), ""),
    ],
)
def test_files_as_they_would_be_typed(files: tuple, names: tuple, typed: str) -> None:
    assert arguments.InputFiles(*files).options(*names) == typed


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ToolkitError("x.cfg:3", "fact", "remedy"), 2, "error: x.cfg:3: fact; remedy\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.json"),
            2,
            "error: x.json: No such file or directory\n",
        ),
        (OSError("disk full"), 2, "error: file system: disk full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(main)


def test_a_reader_that_leaves_early_is_no_error(root: Path) -> None:
    chatty = "run_main(lambda: [print('x' * 99) for _ in range(9999)])"
    code = f"from utils.cli import run_main; {chatty}"
    command = f'"{sys.executable}" -c "{code}" | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "x" * 99 + "\n"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_every_result_says_how_it_came_to_be() -> None:
    options = parsed(["--cfg", "my net.cfg", "--batch_size=4"])
    record = arguments.provenance(options)
    assert record["command"] == "python it.py --cfg 'my net.cfg' --batch_size=4"
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["seed"] == 0
    assert arguments.arguments(options) == {
        "cfg": "my net.cfg", "weights": None, "data": None, "img_size": None, "seed": 0, "device": "auto",
        "workers": options.workers, "threads": None, "global_percent": 0.8, "batch_size": 4, "sr": False,
        "s": 0.001,
    }  # fmt: skip


@dataclass(frozen=True)
class Stage:
    map50: float
    sizes: tuple[int, int]


def test_json_is_strict_whatever_goes_in(tmp_path: Path) -> None:
    stage = Stage(float("nan"), (320, 416))
    values = {"stage": stage, "score": np.float32(0.5), "mask": np.array([True, False]), "count": np.int64(3)}
    path = tmp_path / "folder" / "result.json"
    write_json(
        path, values | {"worst": float("inf"), "name": Path("a/b"), 7: {"set"}, "tensor": torch.ones(2)}
    )
    read = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert read == {
        "stage": {"map50": None, "sizes": [320, 416]}, "score": 0.5, "mask": [True, False], "count": 3,
        "worst": None, "name": "a/b", "7": ["set"], "tensor": [1.0, 1.0],
    }  # fmt: skip


def test_truth_values_stay_truth_values() -> None:
    assert plain([True, np.True_, None]) == [True, True, None]


def test_next_command_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments.next_command("python evaluate.py")
    assert capsys.readouterr().out == "next: python evaluate.py\n"
    arguments.next_command("python evaluate.py", "", "--data x.data")
    assert capsys.readouterr().out == "next: python evaluate.py --data x.data\n"


def test_parsers_of_the_standard_kind_take_the_common_options() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_machine(parser)
    assert vars(parser.parse_args([])).keys() == {"seed", "device", "workers", "threads"}
