"""The page's text."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.reporting.example import HOSTILE, example
from utils.reporting.page import Box, CheckRow, Page, Sample, render, write_page

EMPTY = Page("nothing but a cfg", "[net]\nwidth=8\n[conv]\n", "[net]\nwidth=8\n[conv]\n", {0: 0})


@pytest.fixture(scope="module")
def html(root):
    return render(example(root))


def test_nothing_outside_the_file_is_named(html):
    assert re.findall(r"https?://|//[a-z]|@import|url\(", html) == []
    assert re.findall(r"<(?:script|link|iframe|object|base|form)\b", html) == []
    assert {address[:16] for address in re.findall(r'\bsrc="([^"]*)"', html)} == {"data:image/jpeg;"}
    assert all(address.startswith("#") for address in re.findall(r'\bhref="([^"]*)"', html))


def test_the_policy_forbids_scripts_and_the_network(html):
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html


def test_text_from_outside_is_escaped(html, root):
    assert HOSTILE not in html
    places = 6 + len({box.label for sample in example(root).samples for box in sample.boxes})
    assert html.count("&lt;script&gt;") >= places


class Balanced(HTMLParser):
    VOID = ("meta", "img", "rect", "line", "circle", "br", "!doctype")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_every_element_is_closed(html):
    parser = Balanced()
    parser.feed(html)
    assert parser.wrong == []
    assert parser.open == []


def test_every_section_has_its_numbers(html, root):
    text = re.sub(r"<[^>]*>", "", html)
    for row in example(root).sections:
        if row.removed:
            assert f"{row.filters_before} → removed" in text
        elif row.filters_after != row.filters_before:
            assert f"{row.filters_before} → {row.filters_after}" in text


def test_empty_parts_are_left_out():
    html = render(EMPTY)
    assert re.findall(r'<section id="(\w+)"', html) == ["cfg"]
    assert re.findall(r'href="#(\w+)"', html) == ["cfg"]


def test_times_and_accuracies_not_measured_are_not_shown_as_zero(root):
    page = example(root)
    rows = [replace(row, milliseconds=None) for row in page.sections]
    html = render(
        replace(page, sections=rows, other_milliseconds=None, stages=[("before", None)], classes=())
    )
    assert "Milliseconds" not in html
    assert 'id="accuracy"' not in html


def test_scores_that_are_not_finite_draw_nothing(root):
    assert 'id="scores"' not in render(replace(EMPTY, scores=np.array([np.inf, np.nan])))


@pytest.mark.parametrize(
    ("difference", "tolerance", "verdict"),
    [
        (1e-9, 1e-8, "passed"),
        (1e-8, 1e-8, "passed"),
        (2e-8, 1e-8, "failed"),
        (float("nan"), 1e-8, "failed"),
        (0.5, None, "information"),
        (None, 1e-8, "not measured"),
    ],
)
def test_a_verdict_is_what_the_numbers_say(difference, tolerance, verdict):
    assert CheckRow("check", difference, tolerance).verdict == verdict


def test_only_the_surest_boxes_get_a_number():
    boxes = tuple(Box((0, 0, 1, 1), str(i), i / 30, "gained" if i % 2 else "lost") for i in range(30))
    sample = Sample("a", b"", (10, 10), boxes)
    assert len(sample.changes) == 30
    assert sorted(float(box.label) for box in sample.numbered) == list(range(20, 30))
    assert [box.kind for box in sample.numbered] == ["lost"] * 5 + ["gained"] * 5
    assert len(sample.badges) == 10


def test_the_file_is_the_rendered_page(tmp_path):
    write_page(tmp_path / "new" / "report.html", EMPTY)
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == render(EMPTY)


@pytest.mark.parametrize(
    ("merge", "fact"),
    [
        ("union", "unless a shortcut ties them to one that is kept"),
        ("leader", "where the first section's score decides for all"),
        ("mean", "where the mean of the tied scores decides for all"),
    ],
)
def test_the_threshold_is_explained_as_it_was_used(root, merge, fact):
    text = " ".join(render(replace(example(root), threshold=0.1, merge=merge)).split())
    assert fact in text.replace("&#39;", "'")
