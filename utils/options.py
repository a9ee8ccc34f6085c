"""Options: frozen dataclasses whose fields say their help, range, unit and source once.

The command line is made from them, and the same ranges are checked where they are built in Python.

>>> @dataclass(frozen=True)
... class Cut:
...     percent: float = option(0.8, "share of the channels to remove", FRACTION, source="common practice")
...     def __post_init__(self) -> None:
...         check_ranges(self)
>>> parser = argparse.ArgumentParser(); add_options(parser, Cut)
>>> from_arguments(Cut, parser.parse_args(["--percent", ".5"]))
Cut(percent=0.5)
>>> Cut(1.5)
Traceback (most recent call last):
    ...
utils.errors.ToolkitError: --percent: 1.5 is out of range; give a number from 0 to 1
"""

import argparse
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Generic, TypeVar

from .errors import ToolkitError

Number = TypeVar("Number", int, float)
Options = TypeVar("Options")
Value = TypeVar("Value")
Group = argparse.ArgumentParser | argparse._ArgumentGroup  # what options are added to


@dataclass(frozen=True)
class Range(Generic[Number]):
    """The numbers that an option takes; called with a text, it reads one, as argparse wants it.

    Attributes:
        kind: int or float.
        allowed: in words, such as "a number from 0 to 1".
        holds: whether a number is in the range.

    >>> FRACTION(".8"), POSITIVE_INT("3")
    (0.8, 3)
    """

    kind: type[Number]
    allowed: str
    holds: Callable[[Number], bool]

    def __call__(self, text: str) -> Number:
        """Read a number.

        Raises:
            argparse.ArgumentTypeError: it is not a number, or out of range.
        """
        try:
            value: Number | None = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.allowed}")
        return value


FRACTION = Range(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
FRACTION_BELOW_ONE = Range(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
POSITIVE_FRACTION = Range(float, "a number above 0, up to 1", lambda value: 0 < value <= 1)
AT_LEAST_ONE = Range(float, "a number of at least 1", lambda value: 1 <= value < math.inf)
POSITIVE_FLOAT = Range(float, "a number above 0", lambda value: 0 < value < math.inf)
NON_NEGATIVE_FLOAT = Range(float, "a number of at least 0", lambda value: 0 <= value < math.inf)
POSITIVE_INT = Range(int, "a whole number of at least 1", lambda value: value >= 1)
NON_NEGATIVE_INT = Range(int, "a whole number of at least 0", lambda value: value >= 0)


UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Amount:
    """A limit: an absolute value, or a share of what the unpruned network has."""

    value: float
    is_share: bool

    def of(self, whole: float) -> float:
        """The limit in the unit of `whole`, the unpruned network's value."""
        return self.value * whole if self.is_share else self.value


def amount(text: str) -> Amount:
    """Read a limit: a number, with K, M or G behind it, or a percentage.

    >>> amount("50%"), amount("1.5G").value
    (Amount(value=0.5, is_share=True), 1500000000.0)
    """
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in {*UNITS, "%"} else (text, "")
    value = POSITIVE_FLOAT(number) * UNITS.get(unit, 0.01 if unit == "%" else 1)
    return Amount(value, unit == "%")


def option(
    default: Value,
    text: str,
    reader: Callable[[str], Any] | None = None,
    *,
    unit: str = "",
    source: str = "",
    **argparse_words: Any,
) -> Value:
    """A field of an options dataclass.

    Args:
        default: its value when not given.
        text: the help text.
        reader: a Range, or another function from text; None for text itself, and for switches.
        unit: of the value, such as "pixels"; shown in the help text.
        source: where the default comes from: "measured", a paper, the cfg; shown in the help text.
        argparse_words: for `add_argument`: choices, nargs, metavar, action, and `flags`, the spellings,
            where they are not the field's name with `--`.
    """
    metadata = {"help": text, "reader": reader, "unit": unit, "source": source, "argparse": argparse_words}
    return field(default=default, metadata=metadata)  # type: ignore[no-any-return]


def add_options(parser: Group, kind: type, names: Collection[str] | None = None) -> None:
    """Add the options of a dataclass to a parser, or only those of `names`.

    Fields without a help text are no options. A field whose default is False becomes a switch.
    """
    for each in fields(kind):
        if each.metadata.get("help") and (names is None or each.name in names):
            _add(parser, each)


def _add(parser: Group, each: "Field[Any]") -> None:
    words = dict(each.metadata["argparse"])
    flags: Sequence[str] = words.pop("flags", (f"--{each.name}",))
    default = None if each.default is MISSING or words.get("required") else each.default
    words.setdefault("default", default)
    if words.get("action") is None and default is False:
        words["action"] = "store_true"
    elif each.metadata["reader"] is not None:
        words["type"] = each.metadata["reader"]
    if flags[0].startswith("-"):  # a positional argument is called as it is spelled
        words["dest"] = each.name
    parser.add_argument(*flags, help=help_text(each), **words)


def help_text(each: "Field[Any]") -> str:
    """The help of a field: its text, unit and the source of its default."""
    remarks = [part for part in (each.metadata["unit"], each.metadata["source"]) if part]
    return each.metadata["help"] + (f" [{'; '.join(remarks)}]" if remarks else "")


def from_arguments(kind: type[Options], arguments: argparse.Namespace, **others: Any) -> Options:
    """The options that a command line gave.

    Args:
        kind: the dataclass.
        arguments: parsed; has the values under the names of the fields.
        others: fields that are no options.
    """
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return kind(**values, **others)


def check_ranges(options: Any) -> None:
    """Check every value against the range or the choices of its field; call it in `__post_init__`.

    Raises:
        ToolkitError: one is out of range, or not among the choices.
    """
    for each in fields(options):
        reader, value = each.metadata.get("reader"), getattr(options, each.name)
        if value is None or value == each.default:
            continue
        choices = each.metadata.get("argparse", {}).get("choices")
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(reader, Range) and not (isinstance(one, int | float) and reader.holds(one)):
                raise ToolkitError(f"--{each.name}", f"{one!r} is out of range", f"give {reader.allowed}")
            if choices and one not in choices:
                allowed = ", ".join(map(str, choices))
                raise ToolkitError(f"--{each.name}", f"unknown value {one!r}", f"use one of {allowed}")


def given(options: Any) -> dict[str, Any]:
    """The fields whose value is not the default, with their value."""
    values = {each.name: (getattr(options, each.name), each.default) for each in fields(options)}
    return {name: value for name, (value, default) in values.items() if value != default}
