"""A small data set on disk, in the layout that most users have: images/ and labels/ side by side."""

from pathlib import Path

import pytest

from tests.data.files import write_image, write_label


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Six images of different sizes with one object each, two classes, one list for both splits."""
    folder = tmp_path / "set"
    lines = []
    for number in range(6):
        write_image(folder / f"images/{number}.png", 30 + number, 50 - number, seed=number)
        write_label(folder / f"labels/{number}.txt", f"{number % 2} 0.5 0.5 0.{number + 1} 0.25\n")
        lines.append(f"images/{number}.png\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "x.names").write_text("one\ntwo\n")
    path = folder / "x.data"
    path.write_text("classes=2\ntrain=list.txt\nvalid=list.txt\nnames=x.names\n")
    return path
