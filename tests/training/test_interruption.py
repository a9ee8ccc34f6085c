"""Runs that are killed or asked to end, and what resuming makes of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from tests.sampling import some
from tests.training.tiny import TINY_CFG
from utils.commands.train.run import newest_run
from utils.darknet.checkpoint import read_checkpoint
from utils.data.shapes import make_shapes
from utils.errors import ToolkitError

WORDS = [
    "--workers", "0", "--threads", "1", "--batch-size", "2", "--accumulate", "2", "--epochs", "3", "-sr",
    "--s", "0.01", "--s-schedule", "local", "--mosaic", "0.5", "--multi-scale", "--save-minutes", "0.00001",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("set"), sizes={"train": 16, "valid": 2, "test": 2})


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout, so that torch's own random state matters, too."""
    dropout = "[dropout]\nprobability=.2\n"
    text = TINY_CFG.format(classes=4, filters=18)
    first, *rest = text.split("[convolutional]")
    path = tmp_path_factory.mktemp("cfg") / "tiny.cfg"
    path.write_text("[convolutional]".join([first, rest[0] + dropout, *rest[1:]]))
    return path


def words(cfg: Path, data: Path, output: Path) -> list[str]:
    return ["--cfg", str(cfg), "--data", str(data), "--output", str(output), *WORDS]


@pytest.fixture(scope="module")
def whole(cfg: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole")
    train.main(words(cfg, data, output))
    return output


def start(root: Path, arguments: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(root / "train.py"), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root,
        start_new_session=True,
    )


def wait_for_step(output: Path, step: int) -> None:
    """Until the checkpoint of this step, or a later one, is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (output / "last.pt").exists() and read_checkpoint(output / "last.pt").training["trainer"][
            "step"
        ] >= step:
            return
        time.sleep(0.002)
    pytest.fail("the run did not get that far")


def assert_equal_runs(one: Path, two: Path) -> None:
    """Everything that a run leaves is bitwise the same, times apart."""
    for name in ("last.pt", "best.pt"):
        first, second = (read_checkpoint(folder / name) for folder in (one, two))
        assert_equal(first.state, second.state, name)
        if name == "last.pt":
            assert_equal(first.training["trainer"], second.training["trainer"], "trainer")
            for records in zip(first.training["history"], second.training["history"], strict=True):
                told = [
                    {k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in records
                ]
                assert repr(told[0]) == repr(told[1])


def assert_equal(one: object, two: object, place: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), place  # type: ignore[arg-type]
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), place  # type: ignore[attr-defined]
        for key in one:
            assert_equal(one[key], two[key], f"{place}.{key}")  # type: ignore[index]
    elif isinstance(one, (list, tuple)):
        for number, pair in enumerate(zip(one, two, strict=True)):  # type: ignore[call-overload]
            assert_equal(*pair, f"{place}.{number}")
    else:
        assert one == two, place


@pytest.mark.parametrize("step", some([7, 2]))
def test_a_killed_run_resumed_ends_bitwise_as_the_undisturbed_one(
    cfg: Path, data: Path, whole: Path, root: Path, tmp_path: Path, step: int
) -> None:
    """Four steps an epoch: one kill inside the first epoch, one inside the second."""
    running = start(root, words(cfg, data, tmp_path))
    wait_for_step(tmp_path, step)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert read_checkpoint(tmp_path / "last.pt").training["epoch"] < 3
    train.main(["--resume", str(tmp_path / "last.pt"), "--workers", "0", "--threads", "1"])
    assert_equal_runs(whole, tmp_path)


@pytest.mark.parametrize(("number", "code"), some([(signal.SIGTERM, 143), (signal.SIGINT, 130)]))
def test_a_run_that_is_asked_to_end_saves_and_says_how_to_go_on(
    cfg: Path, data: Path, whole: Path, root: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = words(cfg, data, tmp_path)
    arguments[arguments.index("--save-minutes") + 1] = "60"  # nothing is saved but what the signal asks for
    running = start(root, arguments)
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("epoch 1/3"):
            break
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == code
    assert f"--resume {tmp_path / 'last.pt'}" in errors
    assert "Traceback" not in errors
    state = read_checkpoint(tmp_path / "last.pt").training
    assert state["trainer"]["step"] > 4 or state["epoch"] == 1
    train.main(["--resume", str(tmp_path / "last.pt"), "--workers", "0", "--threads", "1"])
    assert_equal_runs(whole, tmp_path)


def test_a_signal_to_the_whole_group_reaches_the_state_too(
    cfg: Path, data: Path, root: Path, tmp_path: Path
) -> None:
    """As systemd and batch systems send it: the processes that load images get it as well."""
    arguments = words(cfg, data, tmp_path)
    arguments[arguments.index("--workers") + 1] = "2"
    arguments[arguments.index("--epochs") + 1] = "99"
    running = start(root, arguments)
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("epoch  1/99"):
            break
    os.killpg(running.pid, signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert "Traceback" not in errors
    assert read_checkpoint(tmp_path / "last.pt").training["epoch"] >= 1


def test_a_damaged_last_checkpoint_is_passed_over_for_the_one_before(
    cfg: Path, data: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("last.pt", "previous.pt", "best.pt"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    (tmp_path / "last.pt").write_bytes(b"half of a checkpoint")
    train.main(["--resume", str(tmp_path / "last.pt"), "--workers", "0", "--threads", "1"])
    assert "continuing from" in caplog.text
    assert_equal_runs(whole, tmp_path)


def test_resume_finds_the_newest_run(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no last.pt in .*--resume FILE"):
        newest_run(tmp_path)
    for number, name in enumerate(("weights", "runs/one", "runs/two", ".hidden", "data/x")):
        path = tmp_path / name / "last.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        os.utime(path, (1000 + number, 1000 + number))
    assert newest_run(tmp_path) == tmp_path / "runs/two/last.pt"


LISTENS = """
import signal, time
from utils.training.processes import listening

def send():
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.01)  # its handler runs a moment later

with listening() as interruption:
    send()
    interruption.at += 60
    send()  # the group's and the parent's: one request
    assert interruption.signal == signal.SIGTERM
    print("noted", flush=True)
    if {again}:
        interruption.at -= 120
        send()
print("left", flush=True)
send()
print("survived", flush=True)
"""


@pytest.mark.parametrize(("again", "said"), [(False, ["noted", "left"]), (True, ["noted"])])
def test_a_second_signal_ends_at_once_and_handlers_are_restored(
    root: Path, again: bool, said: list[str]
) -> None:
    command = [sys.executable, "-c", LISTENS.format(again=again)]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGTERM, said), ended.stderr
