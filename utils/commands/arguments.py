"""Options shared by several commands, and their use at the start and the end of a command.

parser = Parser(__doc__, "evaluate")
add_command(parser, EvaluationOptions)
options = from_arguments(EvaluationOptions, parser.parse_args(argv))
device = prepare(options)
files = resolve(options, needs=("cfg", "weights"))
"""

import argparse
import os
import platform
import random
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cli import as_typed, program
from ..errors import ToolkitError
from ..extras import OPENCV_PACKAGES
from ..options import NON_NEGATIVE_INT, POSITIVE_INT, add_options, option
from ..runtimes.runtime import ALL_NAMES
from .inputs import InputFiles, InputOptions, Need, NetworkOptions, resolve
from .output import next_command, plain, write_json

__all__ = [  # of inputs.py and output.py too: one import serves a command
    "CommandOptions", "ImageSize", "ImageSizeOptions", "InputFiles", "InputOptions", "MachineOptions", "Need",
    "NetworkOptions", "Parser", "RuntimeOptions",
    "add_command", "add_machine", "arguments", "next_command", "prepare", "provenance", "resolve",
    "write_json",
]  # fmt: skip


class _ManualFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the manual's line breaks and shows informative defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        silent = silent or action.default in ((), argparse.SUPPRESS)
        text = as_typed(action.help or "")
        if silent or not action.option_strings or "(default" in text:
            return text
        return f"{text} (default: %(default)s)".strip()


class Parser(argparse.ArgumentParser):
    """A parser whose long options take `_` or `-`, and whose `--help` is the script's docstring.

    Options must be written out, not abbreviated. The namespace also gets `command`, the line typed.

    Args:
        manual: the help text; scripts in it are shown as the user starts them.
        command: such as "slim-prune"; None for other programs.

    >>> parser = Parser("Prune.", "prune"); _ = parser.add_argument("--img_size", type=int)
    >>> parser.parse_args(["--img-size=320"]).img_size
    320
    """

    def __init__(self, manual: str | None, command: str | None = None) -> None:
        self.program = program(command) if command else f"python {Path(sys.argv[0]).name}"
        super().__init__(
            self.program if " -m " in self.program else self.program.removeprefix("python "),
            description=as_typed(manual or ""),
            formatter_class=_ManualFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(  # type: ignore[override]  # the base is overloaded over namespace types
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, after giving every long option the spelling it was added with."""
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        spelled = [self._spelled(word) for word in words[:end]] + words[end:]
        parsed, rest = super().parse_known_args(spelled, namespace)
        parsed.command = f"{self.program} {shlex.join(words)}".rstrip()
        return parsed, rest

    def _spelled(self, word: str) -> str:
        if not word.startswith("--"):
            return word
        name, equals, value = word.partition("=")
        known = {option.replace("_", "-"): option for option in self._option_string_actions}
        return known.get(name.replace("_", "-"), name) + equals + value


class ImageSize(argparse.Action):
    """Stores one or two sizes as (height, width); for `option(None, text, POSITIVE_INT, action=ImageSize)`.

    >>> parser = argparse.ArgumentParser(); add_options(parser, ImageSizeOptions)
    >>> parser.parse_args(["--img_size", "320", "416"]).img_size
    (320, 416)
    """

    def __init__(self, *args: Any, **words: Any) -> None:
        super().__init__(*args, **{"nargs": "+", "metavar": "N"} | words)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse."""
        sizes = tuple(values or ())
        if len(sizes) > 2:
            parser.error(
                f"argument {option_string}: give one size, or height and width, not {len(sizes)} numbers"
            )
        setattr(namespace, self.dest, (sizes[0], sizes[-1]))


@dataclass(frozen=True)
class CommandOptions:
    """Options that every command has.

    Attributes:
        command: the line that was typed; empty for a call from Python.
    """

    command: str = ""


@dataclass(frozen=True)
class ImageSizeOptions:
    """The size of the network's input, (height, width)."""

    img_size: tuple[int, int] | None = option(
        None,
        "input size of the network in pixels: one number, or height and width (default: the cfg's own)",
        POSITIVE_INT,
        action=ImageSize,
    )


@dataclass(frozen=True)
class RuntimeOptions:
    """The runtime of a command that takes exported files as well."""

    runtime: str | None = option(
        None,
        "onnxruntime, openvino or tensorrt for an .onnx file; torch or opencv for cfg and weights "
        "(default: by the kind of file)",
        choices=ALL_NAMES,
    )


@dataclass(frozen=True)
class MachineOptions(CommandOptions):
    """Where a command runs."""

    seed: int = option(0, "seed of all random numbers", NON_NEGATIVE_INT)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...")
    workers: int = option(min(4, os.cpu_count() or 1), "processes that load images", NON_NEGATIVE_INT)
    threads: int | None = option(None, "CPU threads (default: chosen by torch)", POSITIVE_INT)


def add_command(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add the options of a command; those of `MachineOptions` in a group of their own, at the end."""
    machine = [each.name for each in fields(MachineOptions)]
    add_options(parser, kind, [each.name for each in fields(kind) if each.name not in machine])
    if issubclass(kind, MachineOptions):
        add_options(parser.add_argument_group("machine"), kind, machine)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options of `MachineOptions`, in a group of their own."""
    add_options(parser.add_argument_group("machine"), MachineOptions)


def prepare(options: MachineOptions) -> torch.device:
    """Seed all generators, set the thread count, and return the device that the options ask for.

    Raises:
        ToolkitError: the device is unknown or missing.
    """
    random.seed(options.seed)
    np.random.seed(options.seed % 2**32)  # libraries draw from the global state
    torch.manual_seed(options.seed % 2**63)
    if options.threads:
        torch.set_num_threads(options.threads)
    return _device(options.device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: this torch was built without the device
        fact = "torch does not find this device"
        raise ToolkitError(f"--device {name}", fact, "use auto, cpu, cuda or cuda:N") from error
    return device


def arguments(options: CommandOptions) -> dict[str, Any]:
    """The options by name, as JSON values; without the command line."""
    return {name: plain(value) for name, value in vars(options).items() if name != "command"}


def provenance(options: CommandOptions) -> dict[str, Any]:
    """Origin of a JSON result: the command line, versions of packages, and the seed if there is one."""
    versions = {"torch": _version("torch"), "numpy": _version("numpy"), "opencv": _version(*OPENCV_PACKAGES)}
    return {
        "command": options.command,
        "versions": {"python": platform.python_version(), **versions},
        "seed": options.seed if isinstance(options, MachineOptions) else None,
    }


def _version(*packages: str) -> str | None:
    """Version of the first of several packages that is installed."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return None
