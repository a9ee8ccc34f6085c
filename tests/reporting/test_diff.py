"""Two cfgs side by side."""

import pytest

from utils.reporting.diff import Line, Part, cfg_parts

NET = "[net]\nwidth=8\n\n"
CONV = "[convolutional]\nfilters={}\nsize=3\n\n"
SHORTCUT = "[shortcut]\nfrom=-2\n\n"


def conv(*filters: int) -> str:
    return "".join(CONV.format(count) for count in filters)


def test_equal_cfgs_are_one_part():
    text = NET + conv(4, 4)
    assert cfg_parts(text, text, {0: 0, 1: 1}) == (Part("same", "[net] – #1", "[net] – #1", 3),)


def test_a_changed_section_shows_all_of_its_lines():
    (_, part) = cfg_parts(NET + conv(4), NET + conv(3), {0: 0})
    assert (part.kind, part.before, part.after) == ("changed", "#0 [convolutional]", "#0 [convolutional]")
    assert part.lines == (
        Line("[convolutional]", "[convolutional]"),
        Line("filters=4", "filters=3"),
        Line("size=3", "size=3"),
    )
    assert part.changes == (Line("filters=4", "filters=3"),)


def test_sections_are_paired_by_number_not_by_likeness():
    """The removed section looks exactly like what the one behind it became."""
    before, after = NET + conv(8, 4, 8), NET + conv(8, 4)
    parts = cfg_parts(before, after, {0: 0, 2: 1})
    assert [(part.kind, part.before, part.after) for part in parts] == [
        ("same", "[net] – #0", "[net] – #0"),
        ("removed", "#1", ""),
        ("changed", "#2 [convolutional]", "#1 [convolutional]"),
    ]


def test_neighbours_that_go_are_one_part():
    before = NET + conv(8, 4, 8) + SHORTCUT + conv(2)
    parts = cfg_parts(before, NET + conv(8, 2), {0: 0, 4: 1})
    removed = parts[1]
    assert (removed.kind, removed.before, removed.sections) == ("removed", "#1 – #3", 3)
    assert all(line.after is None for line in removed.lines)
    assert [line.before for line in removed.lines][-2:] == ["[shortcut]", "from=-2"]
    assert parts[2].kind == "same"


def test_lines_that_come_and_go_stand_alone():
    before, after = NET + "[route]\nlayers=-1,0\n", NET + "[route]\nlayers=-1\ngroups=2\n"
    (_, part) = cfg_parts(before, after, {0: 0})
    assert part.changes == (Line("layers=-1,0", "layers=-1"), Line(None, "groups=2"))


def test_both_texts_can_be_put_together_again():
    before = NET + conv(8, 4, 8) + SHORTCUT
    after = "[net]\nwidth=16\n" + conv(7)
    parts = cfg_parts(before, after, {0: 0})
    for side, text in (("before", before), ("after", after)):
        lines = [getattr(line, side) for part in parts for line in part.lines]
        assert [line for line in lines if line is not None] == [line for line in text.splitlines() if line]


def test_unknown_sections_are_refused():
    with pytest.raises(ValueError, match="moved"):
        cfg_parts(NET + conv(4), NET + conv(4), {0: 0, 1: 1})
