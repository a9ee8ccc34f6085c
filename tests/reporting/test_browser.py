"""The page in a real browser, on a screen and on a telephone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.example import example
from utils.reporting.page import write_page

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = (1280, 400)
SMALLEST_LETTERS = 11

# Every line of text as a rectangle, cut to what its scrolling containers show; `cut` has the texts that an
# ancestor hides for good or that stick out of their frame.
TEXTS = """() => {
  const texts = [], cut = [];
  let smallest = Infinity;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest(".unseen, style, title")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      if (rect.width < 1 || rect.height < 1) continue;
      let {left, top, right, bottom} = rect;
      for (let box = parent; box !== document.body; box = box.parentElement) {
        const style = getComputedStyle(box), edge = box.getBoundingClientRect();
        const framed = box.matches(".card, .panel, figure, .notes");
        if (box instanceof SVGElement || (style.overflowX === "visible" && !framed)) continue;
        const hidden = style.overflowX === "hidden" || style.overflowX === "visible";
        const inside = left > edge.left - 1 && right < edge.right + 1 && bottom < edge.bottom + 1;
        if (hidden && !inside) cut.push(node.data);
        left = Math.max(left, edge.left); right = Math.min(right, edge.right);
        top = Math.max(top, edge.top); bottom = Math.min(bottom, edge.bottom);
      }
      smallest = Math.min(smallest, parseFloat(getComputedStyle(parent).fontSize));
      const text = node.data.trim().slice(0, 30);
      if (right - left > 1 && bottom - top > 1) texts.push([text, left, top, right, bottom]);
    }
  }
  return {texts, cut, smallest};
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium, on Debian: apt install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module", params=WIDTHS)
def opened(request, browser, root, tmp_path_factory) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page with all of its parts, what the browser complained about and what it asked for."""
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, example(root))
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto(path.as_uri())
    yield page, complaints, [url for url in requests if url != path.as_uri()]
    page.close()


def open_everything(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


def overlapping(texts: list[list[Any]]) -> list[tuple[str, str]]:
    """Pairs of texts whose letters meet; the box of a line is higher than its letters."""
    boxes = sorted(
        (top + 0.15 * (bottom - top), bottom - 0.15 * (bottom - top), left + 0.5, right - 0.5, text)
        for text, left, top, right, bottom in texts
    )
    pairs = []
    for number, (_, bottom, left, right, text) in enumerate(boxes):
        for other_top, _, other_left, other_right, other in boxes[number + 1 :]:
            if other_top >= bottom:
                break
            if left < other_right and other_left < right:
                pairs.append((text, other))
    return pairs


def test_the_browser_has_nothing_to_complain_of(opened):
    _, complaints, _ = opened
    assert complaints == []


def test_nothing_is_loaded(opened):
    _, _, requests = opened
    assert [url for url in requests if not url.startswith("data:image/jpeg;base64,")] == []


def test_only_tables_scroll_sideways(opened):
    page, _, _ = opened
    open_everything(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_letters_can_be_read(opened):
    page, _, _ = opened
    open_everything(page)
    assert page.evaluate(TEXTS)["smallest"] >= SMALLEST_LETTERS


def test_no_text_is_cut_off(opened):
    page, _, _ = opened
    open_everything(page)
    assert page.evaluate(TEXTS)["cut"] == []


def test_no_text_covers_another(opened):
    page, _, _ = opened
    open_everything(page)
    texts = page.evaluate(TEXTS)["texts"]
    assert len(texts) > 500
    assert overlapping(texts) == []


def test_the_check_sees_texts_that_meet(browser):
    page = browser.new_page()
    page.set_content(
        "<p style='position:absolute;top:9px'>one</p><p style='position:absolute;top:12px'>two</p>"
    )
    assert overlapping(page.evaluate(TEXTS)["texts"]) == [("one", "two")]
    page.set_content("<div style='overflow:hidden;width:20px;white-space:nowrap'>a long text</div>")
    assert page.evaluate(TEXTS)["cut"] == ["a long text"]
    page.close()


def test_pictures_decode(opened, root):
    page, _, _ = opened
    widths = page.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert widths == [200] * len(example(root).samples)


def test_hostile_text_stays_text(opened, root):
    page, complaints, _ = opened
    assert page.evaluate("document.scripts.length") == 0
    assert page.title() == example(root).title
    assert page.locator("h1").inner_text() == example(root).title
    assert complaints == []


def test_every_part_can_be_reached_from_the_top(opened):
    page, _, _ = opened
    targets = page.evaluate("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    names = ["summary", "channels", "scores", "costs", "accuracy", "samples", "checks", "cfg"]
    assert targets == [f"#{name}" for name in names]
    assert all(page.locator(target).count() == 1 for target in targets)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser, root, tmp_path, scheme):
    """Contrast of text and soft text on page and panel at least 4.5 (WCAG 2.1, 1.4.3)."""
    write_page(tmp_path / "report.html", example(root))
    page = browser.new_page(color_scheme=scheme)
    page.goto((tmp_path / "report.html").as_uri())
    style = page.evaluate(
        "Object.fromEntries(['page','panel','ink','soft','solid','cut'].map("
        "n => [n, getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim()]))"
    )
    page.close()
    for front in ("ink", "soft", "solid", "cut"):
        for back in ("page", "panel"):
            assert contrast(style[front], style[back]) >= 4.5, (front, back)


def contrast(first: str, second: str) -> float:
    lights = sorted((luminance(first), luminance(second)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
