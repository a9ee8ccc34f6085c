"""The texts of the project: links lead somewhere, commands can be typed, the README stays short."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import utils
from utils import cli
from utils.commands.arguments import Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README_BYTES = 10_000

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
COMMAND = re.compile(r"(python (?!-)|netslim )")
NAMED_FILE = re.compile(r"(utils|tests|benchmarks|examples|docs)(/[a-z_0-9]+)*(\.[a-z]+)?/?")
# Parts of messages as the code has them: docs/guides/troubleshooting.md quotes them.
MESSAGES = (
    "no such file",
    "a .weights file does not contain its network",
    "floats are left over after",
    "ends exactly after section",
    "is not a Darknet weights file",
    "is unknown",
    "unsupported section",
    "unknown section",
    "give the cfg and the data that belong together",
    "label lines that cannot be used and are skipped",
    "is outside the image; give fractions of its size",
    "has a label file",
    "lines that name no image",
    "images in both splits",
    "all channels of these sections are below the threshold; kept the best one of each",
    "blocks asked for, but this network has",
    "the smallest network that the widths allow",
    "torch does not find this device",
    "unsupported activation",
)
OPEN = "..."  # stands for what the reader fills in


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


all_pages = pytest.mark.parametrize("path", PAGES, ids=name_of)


def prose(text: str) -> str:
    """Without code."""
    return INLINE.sub("", FENCE.sub("", text))


def slug(heading: str) -> str:
    """The anchor that GitHub and mkdocs give a heading.

    >>> slug("4. to 7. Train, `make` sparse")
    '4-to-7-train-make-sparse'
    """
    kept = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
    return re.sub(r"\s", "-", kept.strip())


def anchors(path: Path) -> set[str]:
    return {slug(heading) for heading in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))}


def commands(text: str) -> Iterator[str]:
    """Every command of this project that a page shows, one line each."""
    blocks = [block.strip("`") for block in FENCE.findall(text)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text))]
    yield from (line.strip() for line in lines if COMMAND.match(line.strip()))


COMMANDS = sorted({(line, name_of(path)) for path in PAGES for line in commands(path.read_text("utf-8"))})


class Parsed(Exception):  # noqa: N818 - no error: the command line was read, and nothing is to run
    """Carries the parser."""


@pytest.fixture
def reading_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end as soon as they have read their command line; one with an open end is not read."""
    read = Parser.parse_args

    def parse_args(self: Parser, args: Any = None, namespace: Any = None) -> Any:
        if OPEN not in args:
            read(self, args, namespace)
        raise Parsed(self)

    monkeypatch.setattr(Parser, "parse_args", parse_args)


@all_pages
def test_links_lead_somewhere(path: Path) -> None:
    lost = []
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            lost.append(target)
    assert lost == []


@all_pages
def test_files_that_are_named_exist(path: Path) -> None:
    codes = INLINE.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    named = {code for code in codes if NAMED_FILE.fullmatch(code)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("message", MESSAGES)
def test_quoted_messages_are_those_of_the_code(message: str) -> None:
    page = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    assert message in page
    code = (path.read_text(encoding="utf-8") for path in (ROOT / "utils").rglob("*.py"))
    assert any(message in re.sub(r'"\s+f?"', "", text) for text in code)  # texts may be wrapped


def test_the_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    assert sorted(name.rpartition(".")[2] for name in listed) == sorted(utils.__all__)
    assert [name for name in listed if not _exists(name)] == []


def _exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(import_module(module), attribute)


def test_the_readme_stays_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def test_pages_show_commands() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(("line", "page"), COMMANDS)
def test_commands_can_be_typed(line: str, page: str, reading_only: None) -> None:
    """The script exists and its own parser takes the options; of benchmarks only the file is looked for."""
    words = shlex.split(line, comments=True)
    script = words[1] if words[0] == "python" else ""
    assert not script or (ROOT / script).is_file() or "*" in script, page
    if script.startswith("benchmarks/") or script in ("", "models.py", "slim.py"):
        words = words[1:] if not script else []
    else:
        words = [*script.removesuffix(".py").split("/"), *words[2:]]
    if not words or words[0].startswith("-") or words[0] == "COMMAND":
        return
    name = next((" ".join(words[:n]).replace("_", "-") for n in (2, 1) if _known(words[:n])), "")
    assert name, f"{page}: {line}: no such command"
    rest = words[len(name.split()) :]
    with pytest.raises(Parsed) as done:
        cli.call(name, rest)
    _require_known_options(done.value.args[0], rest, f"{page}: {line}")


def _known(words: list[str]) -> bool:
    return " ".join(words).replace("_", "-") in cli.COMMANDS


def _require_known_options(parser: Parser, words: list[str], place: str) -> None:
    """Also where the rest of the line is open."""
    manual = re.sub(r"_", "-", parser.format_help())
    for word in words:
        if word.startswith("--") and len(word) > 2:
            option = word.partition("=")[0].replace("_", "-")
            assert re.search(rf"{option}(?![\w-])", manual), f"{place}: no option {option}"
