"""The command line: `netslim COMMAND ...`, `python -m netslim COMMAND ...` and the scripts of a checkout.

All three call the same function of the same module. Texts of the package name commands as scripts,
`python slim_prune.py` or just slim_prune.py, and are translated by `as_typed` where they are shown.

This module is imported before torch and OpenCV, so it knows neither, and it is the only place that sets
environment variables and logging: a program that imports the package as a library keeps its own settings.
"""

import difflib
import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .errors import ToolkitError
from .extras import explained

INTERRUPTED = 130
_PACKAGE = Path(__file__).resolve().parent
_SCRIPT = re.compile(r"(?<![\w/.-])(?:python )?((?:data/)?[a-z_]+)\.py\b")
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # Threads sleep while they wait: spinning makes each step two to ten times slower as soon as anything
        # else (the processes that load images, for one) needs a core.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Tensors in large pages: fetching small ones for every new activation takes up to a third of the time
        # of a batch. Linux only.
        "THP_MEM_ALLOC_ENABLE": "1",
        # OpenCV refuses larger images by their headers alone. 134 million pixels are 11585 x 11585, 400 MB
        # decoded; more is a mistake or an attack, unless the user raises the limit.
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(1 << 27),
    }
)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        target: "module:function" below this package; the function takes the words after the command.
        summary: one line for the list of commands.
    """

    target: str
    summary: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "new-cfg": Command(
            "commands.new_cfg:main", "write a cfg for your own classes, anchors, width, image size"
        ),
        "doctor": Command("commands.doctor.command:main", "check cfg, data set and weights before training"),
        "train": Command(
            "commands.train.command:main", "train, sparsely with -sr, with a teacher with --t_weights"
        ),
        "ladder": Command("commands.ladder.command:main", "prune at many shares and measure each"),
        "sensitivity": Command("commands.sensitivity:main", "prune each group of layers alone"),
        "slim-prune": Command(
            "commands.prune.strategies:slim_prune", "remove channels by one threshold, or down to a budget"
        ),
        "prune": Command("commands.prune.strategies:prune", "the same, without channels that shortcuts add"),
        "shortcut-prune": Command(
            "commands.prune.strategies:shortcut_prune",
            "the same, the first layer of a shortcut group decides",
        ),
        "layer-prune": Command("commands.prune.strategies:layer_prune", "remove whole residual blocks"),
        "layer-channel-prune": Command(
            "commands.prune.strategies:layer_channel_prune", "remove channels and blocks in one run"
        ),
        "evaluate": Command("commands.evaluate.command:main", "mean average precision on a data set"),
        "detect": Command("commands.detect.command:main", "find objects on images, videos or a camera"),
        "export": Command(
            "commands.export.command:main", "write ONNX, OpenVINO, TensorRT, ncnn, TorchScript"
        ),
        "benchmark": Command(
            "commands.benchmark.command:main", "compare the speed of networks on each runtime"
        ),
        "latency": Command("commands.latency.command:main", "measure convolutions of any width on a runtime"),
        "data convert": Command(
            "commands.data.convert:convert", "make a Darknet data set of COCO or Pascal VOC"
        ),
        "data get-voc": Command("commands.data.convert:get_voc", "download Pascal VOC as a Darknet data set"),
        "data get-oxford-hand": Command(
            "commands.data.convert:get_oxford_hand", "download Oxford hand as a Darknet data set"
        ),
        "demo": Command("commands.demo:main", "train, prune, fine-tune and export a small network"),
    }
)


def main(words: Sequence[str] | None = None) -> None:
    """Run `netslim WORDS`; ends the process with the command's exit code."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0 if words else 2)
    if words[0] in ("-V", "--version"):
        print(_version())
        sys.exit(0)
    name, rest = _split(words)
    if name is None:
        print(_unknown(words), file=sys.stderr)
        sys.exit(2)
    start(name, rest)


def start(name: str, words: Sequence[str] | None = None) -> None:
    """Run a command as a program: errors become one line on stderr and exit code 2.

    Args:
        name: of the command, see COMMANDS.
        words: what was typed after it; None for sys.argv.
    """
    prepare_environment()
    run_main(lambda: call(name, words))


def run_main(main: Callable[[], int | None]) -> None:
    """Run a program's main function: errors become one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A table's frame must not end a run on a console that lacks the characters.
            stream.reconfigure(errors="replace")
    handler = logging.StreamHandler()
    handler.setFormatter(_AsTyped("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        code = main()
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Or the flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ToolkitError as error:
        _fail(f"{'error: ' if error.exit_code == ToolkitError.exit_code else ''}{error}", error.exit_code)
    except ImportError as error:
        explanation = explained(error)
        if explanation is None:
            raise
        _fail(f"error: {explanation}", explanation.exit_code)
    except OSError as error:
        _fail(f"error: {error.filename or 'file system'}: {error.strerror or error}", 2)
    else:
        if code:
            sys.exit(code)


def call(name: str, words: Sequence[str] | None = None) -> int:
    """Run a command inside this process.

    Returns:
        Its exit code.

    Raises:
        ToolkitError: something given cannot be used.
    """
    module, function = COMMANDS[name].target.split(":")
    code: int | None = getattr(importlib.import_module(f".{module}", __package__), function)(words)
    return code or 0


def prepare_environment() -> None:
    """Set the variables of ENVIRONMENT that are not set; call it before torch or OpenCV is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def program(command: str) -> str:
    """The words that start a command: "slim-prune" is `python slim_prune.py` or `netslim slim-prune`."""
    installed = _installed()
    if installed:
        return f"{installed} {command}"
    if command == "demo":  # has no script
        return f"python -m {__package__}.commands.demo"
    return f"python {_script(command)}"


def child(command: str) -> list[str]:
    """The words that start a command in another process, with the same Python and the same package."""
    installed = _installed()
    if installed is None:
        return [sys.executable, str(_PACKAGE.parent / _script(command))]
    console = shutil.which(sys.argv[0]) if installed == "netslim" else None
    start = [console] if console else [sys.executable, "-m", __package__ or ""]
    return [*start, *command.split()]


def as_typed(text: str) -> str:
    """A text in which every script is written as this process was started.

    >>> as_typed("use slim_prune.py, or run: python slim_prune.py --cfg my.cfg")  # in a checkout
    'use slim_prune.py, or run: python slim_prune.py --cfg my.cfg'
    """
    if not _installed():
        return text

    def translated(match: re.Match[str]) -> str:
        command = match[1].replace("/", " ").replace("_", "-")
        return program(command) if command in COMMANDS else match[0]

    # torchrun starts modules and scripts, no other programs.
    return _SCRIPT.sub(translated, text.replace(" -- train.py", f" -m -- {__package__} train"))


class _AsTyped(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return as_typed(super().format(record))


def _script(command: str) -> str:
    """The script of a command: "data get-voc" is data/get_voc.py."""
    return command.replace(" ", "/").replace("-", "_") + ".py"


def _installed() -> str | None:
    """The words that start the installed program, or None for a script of a checkout."""
    start = Path(sys.argv[0])
    if start.name in ("netslim", "netslim.exe"):
        return "netslim"
    if start.name == "__main__.py" and start.resolve().parent == _PACKAGE:
        return f"python -m {__package__}"
    return None


def _split(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The command, of one or two words, and the words after it; `_` and `-` are the same."""
    for count in (2, 1):
        name = " ".join(word.replace("_", "-").removesuffix(".py") for word in words[:count])
        if name in COMMANDS:
            return name, words[count:]
    return None, words


def _unknown(words: Sequence[str]) -> str:
    typed = " ".join(words[:2]) if words[0] == "data" else words[0]
    if typed == "data":
        names = ", ".join(name for name in COMMANDS if name.startswith("data "))
        return f"error: data: is not a command alone; use one of {names}"
    close = difflib.get_close_matches(typed.replace("_", "-"), COMMANDS, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else "netslim --help lists the commands"
    return f"error: {typed}: unknown command; {remedy}"


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"    {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    head = (
        "usage: netslim COMMAND [options]\n\nPrune networks, Darknet detectors first, and prove the result."
    )
    return "\n".join([head, "", *lines, "", "netslim COMMAND --help is the manual of a command."])


def _version() -> str:
    return f"netslim {importlib.import_module(__package__ or '').__version__}"


def _fail(message: str, code: int) -> None:
    sys.stdout.flush()
    print(as_typed(message), file=sys.stderr)
    sys.exit(code)
