"""The text of a cfg: sections and options as Darknet's parser splits them, without their meaning.

Invariant: `parse_cfg(format_cfg(sections)) == sections`, line numbers apart.

Darknet (read_cfg in parser.c, option_list.c) removes all whitespace from every line, takes a line that
starts with `#` or `;` as a comment, and uses the first of an option given twice. A number ends where atoi
stops, so `layers=180 ###P6` is 180; such a remark is dropped here, because other readers fail on it. Only
the words in `COMPARED_WHOLE` keep theirs: Darknet does not recognise them with it, so reading refuses them.
"""

import difflib
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ..errors import CfgError, Finding, UnsupportedSectionError

logger = logging.getLogger(__name__)

# string_to_layer_type in parser.c
ALIASES = MappingProxyType(
    {
        "network": "net",
        "conv": "convolutional",
        "max": "maxpool",
        "avg": "avgpool",
        "local_avg": "local_avgpool",
        "conn": "connected",
        "deconv": "deconvolutional",
        "soft": "softmax",
        "lrn": "normalization",
        "silence": "empty",
    }
)
# Options that decide what the network computes and that Darknet compares as whole words.
COMPARED_WHOLE = frozenset({"activation", "weights_type", "weights_normalization", "nms_kind"})
_REMARK = re.compile(r"[#;].*")
# Stricter than int() and float(), which take `1_6`, `nan` and `inf`.
_INTEGER = re.compile(r"[-+]?[0-9]{1,10}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
STOCK_CFGS = (
    "yolov3-shapes.cfg", "yolov3-spp.cfg", "yolov3-tiny.cfg", "yolov3.cfg", "yolov4-tiny.cfg", "yolov4.cfg",
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "cfg", _PACKAGE.parent / "cfg")  # of a wheel; of a checkout


@dataclass(frozen=True)
class RawSection:
    """One `[kind]` block as written, with aliases resolved.

    Attributes:
        kind: name between the brackets, an alias replaced by the full name.
        options: key -> value in the order of the file, known or not.
        line: where the block starts, counted from 1; 0 for a section made by code.
        option_lines: key -> line of that option.
    """

    kind: str
    options: Mapping[str, str]
    line: int = field(default=0, compare=False)
    option_lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def with_options(self, changes: Mapping[str, str]) -> "RawSection":
        """The same section with some values replaced; a key that was absent is appended."""
        return RawSection(self.kind, {**self.options, **changes}, self.line, self.option_lines)


def section_place(source: str, line: int, kind: str, index: int) -> str:
    """Place of a section in messages; [net] is -1.

    >>> section_place("a.cfg", 12, "yolo", 4), section_place("a.cfg", 1, "net", -1)
    ('a.cfg:12: [yolo] #4', 'a.cfg:1: [net]')
    """
    return f"{source}:{line}: [{kind}]" + (f" #{index}" if index >= 0 else "")


def parse_cfg(text: str, source: str = "<cfg>") -> list[RawSection]:
    """Split cfg text into its sections.

    Args:
        text: the whole file.
        source: its name in error messages.

    Raises:
        CfgError: a line that is neither header, option nor comment; no section at all.

    Example:
        >>> parse_cfg("[conv]\\nfilters = 8 # eight\\nfilters=9")
        [RawSection(kind='convolutional', options={'filters': '8'}, line=1)]
    """
    sections: list[RawSection] = []
    options: dict[str, str] = {}
    option_lines: dict[str, int] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        line = "".join(line.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            options, option_lines = {}, {}
            sections.append(RawSection(_header(line, f"{source}:{number}"), options, number, option_lines))
            continue
        key, value = _option(line, f"{source}:{number}")
        if not sections:
            place = f"{source}:{number}"
            raise CfgError(place, f"{line!r} comes before the first section", "begin with [net]")
        options.setdefault(key, value)
        option_lines.setdefault(key, number)
    if not sections:
        raise CfgError(source, "contains no [section]", "give a Darknet cfg file")
    return sections


def _header(line: str, place: str) -> str:
    match = re.fullmatch(r"\[([^\[\]]+)\]", line)
    if match is None:
        raise CfgError(place, f"{line!r} is not a section header", "write [name] alone on its line")
    return ALIASES.get(match[1], match[1])


def _option(line: str, place: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if key not in COMPARED_WHOLE:
        value = _REMARK.sub("", value)
    if not equals:
        raise CfgError(place, f"{line!r} has no '='", "write key=value, or # before a comment")
    if not key or not value:
        raise CfgError(place, f"{line!r} has no {'value' if key else 'key'}", "write key=value")
    return key, value


def format_cfg(sections: Iterable[RawSection]) -> str:
    """Write sections as strict `key=value` lines that Darknet and OpenCV read alike."""
    blocks = (
        "\n".join([f"[{section.kind}]", *(f"{key}={value}" for key, value in section.options.items())])
        for section in sections
    )
    return "\n\n".join(blocks) + "\n"


def read_cfg(path: Path) -> list[RawSection]:
    """Read a cfg file; a byte order mark and any 8-bit encoding of comments are accepted.

    Raises:
        CfgError: the file is missing, unreadable or binary, or `parse_cfg` refuses it.
    """
    return parse_cfg(read_text(path), str(path))


def stock_cfg(path: Path) -> Path | None:
    """The stock cfg that `cfg/NAME` names, wherever the current folder is; None for any other path.

    >>> stock_cfg(Path("cfg/yolov4.cfg")).name, stock_cfg(Path("cfg/my.cfg")), stock_cfg(Path("yolov4.cfg"))
    ('yolov4.cfg', None, None)
    """
    if path.parent != Path("cfg") or path.name not in STOCK_CFGS:
        return None
    return next((folder / path.name for folder in _FOLDERS if (folder / path.name).is_file()), None)


def read_text(path: Path) -> str:
    """The file's text; UTF-16 with a mark, UTF-8, otherwise Latin-1.

    A missing `cfg/NAME` is the stock cfg of that name, if there is one: commands work in any folder.

    Raises:
        CfgError: the file is missing, unreadable or holds binary data.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        stock = stock_cfg(path)
        if stock is None:
            raise CfgError(path, "no such file", f"check the path, relative to {Path.cwd()}") from None
        logger.info("%s: not in this folder; using the stock cfg of that name", path)
        data = stock.read_bytes()
    except OSError as error:
        raise CfgError(path, f"cannot be read ({error.strerror})", "give a cfg file") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise CfgError(path, "is binary, not text", "give the .cfg file as --cfg, not the weights")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class Options:
    """Typed access to the options of one section; every error names file, line, key and what is allowed.

    Attributes:
        index: number of the section, as references count it.
    """

    def __init__(self, section: RawSection, index: int, source: str) -> None:
        self.section = section
        self.index = index
        self._source = source
        self._asked: set[str] = set()

    def fail(self, key: str | None, fact: str, remedy: str, kind: type[CfgError] = CfgError) -> NoReturn:
        """Raise `kind` for the option `key`, or for the section where `key` is None."""
        line = self.section.line
        if key is not None and key in self.section.options:
            line = self.section.option_lines.get(key, line)
            fact = f"{key}={self.section.options[key]} {fact}"
        raise kind(section_place(self._source, line, self.section.kind, self.index), fact, remedy)

    def refuse(self, keys: Sequence[str], reason: str = "this project cannot compute it") -> None:
        """Raise UnsupportedSectionError if one of `keys` is set to anything but 0."""
        for key in keys:
            if self.section.options.get(key, "0") != "0":
                remedy = f"{reason}; use a network without it"
                self.fail(key, "is not supported", remedy, UnsupportedSectionError)

    def text(self, key: str, default: str) -> str:
        """The value as written."""
        self._asked.add(key)
        return self.section.options.get(key, default)

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        """One of several words."""
        value = self.text(key, default)
        if value not in allowed:
            self.fail(key, "is unknown", f"use one of {', '.join(allowed)}")
        return value

    def integer(self, key: str, default: int, least: int | None = None, most: int | None = None) -> int:
        """A whole number, from `least` to `most`."""
        values = self.integers(key) or (default,)
        if len(values) != 1:
            self.fail(key, "has several numbers", "give one")
        if least is not None and values[0] < least:
            self.fail(key, "is too small", f"use {least} or more")
        if most is not None and values[0] > most:
            self.fail(key, "is too large", f"use at most {most}")
        return values[0]

    def flag(self, key: str) -> bool:
        """Whether an option is set to anything but 0."""
        return self.integer(key, 0) != 0

    def integers(self, key: str) -> tuple[int, ...]:
        """A comma-separated list of whole numbers; empty if the key is absent."""
        values = self._values(key)
        if not all(_INTEGER.fullmatch(value) for value in values):
            fact = "is not a whole number or a list of them"
            self.fail(key, fact, "write whole numbers such as 3 or -1,36")
        return tuple(map(int, values))

    def number(self, key: str, default: float) -> float:
        """A number."""
        values = self.numbers(key) or (default,)
        if len(values) != 1:
            self.fail(key, "has several numbers", "give one")
        return values[0]

    def numbers(self, key: str) -> tuple[float, ...]:
        """A comma-separated list of numbers; empty if the key is absent."""
        values = self._values(key)
        # A long exponent overflows to infinity.
        if not all(_NUMBER.fullmatch(value) and math.isfinite(float(value)) for value in values):
            self.fail(key, "is not a number or a list of numbers", "write numbers such as .5 or 10,14,23,27")
        return tuple(map(float, values))

    def _values(self, key: str) -> list[str]:
        value = self.text(key, "")
        return value.split(",") if value else []

    def warn_of_typos(self) -> None:
        """Log options that Darknet ignores but that look like a misspelled known one."""
        given = self.section.options
        absent = sorted(self._asked - set(given))
        for key in given:
            close = difflib.get_close_matches(key, absent, n=1, cutoff=0.85)
            if key not in self._asked and close:
                line = self.section.option_lines.get(key, self.section.line)
                place, remedy = f"{self._source}:{line}", f"did you mean {close[0]}?"
                logger.warning(Finding("warning", place, f"{key} is ignored", remedy))
