"""Texts use the field's standard terms: none of the words that this project's texts should avoid.

The words and what to say instead: docs/style.md. A use that is right in its place is listed in ALLOWED with
the reason.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted(
    path
    for pattern in ("utils/**/*.py", "*.py", "benchmarks/*.py", "examples/*.py", "data/*.py")
    for path in ROOT.glob(pattern)
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "utils").rglob("*.html")])

# what to avoid -> what to say
WORDS = {
    r"\banew\b": "again, recomputed, re-initialized",
    r"\b(?:in|takes?|taking|took) turns\b": "interleaved",
    r"\btold\b": "reported",
    r"\bso many\b": "a number of",
    r"\bcustoms?\b": "convention",
    r"\bwhat it is to\b": "name it",
    r"\bas good as\b": "nearly, or the fact",
    r"\b(?:brings?|brought|bringing) along\b": "has, contains, inherited",
    r"\blies? (?:in|on|at|under|below|beside|behind|above|between)\b": "is in",
    r"\bfalls? short\b": "is too small, lacks",
    r"(?<!there )\bis no (?!longer\b|more\b|less\b|such\b|difference\b|need\b)": "is not a, invalid",
    r"(?<!there )\bis none\b": "is not one, missing",
    r"\bgoes with\b": "belongs to",
    r"\bhas it done\b": "name who does it",
    r"\bstands? (?:in|behind|beside|below|above|before|between|after|at the)\b": "is in, is written",
    r"\b(?:channels?|blocks?|units?|layers?|gammas?|shares?) (?:that )?go(?:es)?\b(?! into)": "is removed",
    r"\bwith distrust\b": "as untrusted input",
    r"\bno numbers\b": "NaN or inf",
}
ANY = re.compile("|".join(WORDS))
ALLOWED: dict[tuple[str, str], str] = {}  # (file, words): reason


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a Python file, joined where a sentence runs over several lines."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, source
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_texts_use_standard_terms(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = []
    for line, text in texts(path):
        flat = " ".join(text.split())
        if not ANY.search(flat):
            continue
        for word, instead in WORDS.items():
            for match in re.finditer(word, flat):
                if (name, match[0]) not in ALLOWED:
                    around = flat[max(0, match.start() - 40) : match.end() + 30]
                    found.append(f"{name}:{line}: {match[0]!r}, say: {instead} ({around})")
    assert found == []
