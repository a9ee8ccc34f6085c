"""docs/results/acceptance.md: written from the cells that the tests found, and read back for comparison."""

from collections.abc import Mapping
from pathlib import Path

from tests.acceptance.checks import ALL_COLUMNS, OK, Cells

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "acceptance.md"
FOUND: dict[Path, Cells] = {}  # the rows of this session
GROUPS = {
    "zoo": "Stock Darknet cfgs",
    "weights": "Cfgs with real weights",
    "cfg": "The project's own",
    "tests": "One feature each (`tests/cfgs`)",
}
INTRODUCTION = """# Which cfgs are supported

Made by `python -m pytest tests/acceptance --write-table`; the tests hold this page to what they find. Every
network runs with random weights at a few cells of its coarsest map.

| column | what was done |
|---|---|
| parse, round trip | read, written and read again: equal |
| build, two sizes | built; run at two input sizes, maps as large as the description says |
| prune | by `slim_prune.py`'s rule at random gammas |
| compact = zeroed | the small network equals the large one with the removed channels at 0, float64, 1e-12 |
| write, reload | the pruned cfg and .weights read again: equal to the last bit |
| OpenCV, and pruned | `cv2.dnn` has the same raw heads, to 1e-3 of the largest value, of both networks |

OpenCV reads variances that are larger by 9e-6, since its epsilon is not Darknet's. `n/a` with a letter: the
reason is below the tables.
"""


def group_of(path: Path) -> str:
    """Key of GROUPS that a cfg belongs to."""
    return next(part for part in reversed(path.parts) if part in GROUPS)


def write(rows: Mapping[Path, Cells]) -> None:
    """Write the page from all rows; a table without any, as its cfgs are absent here, keeps those it has."""
    found = {(group_of(path), path.stem): cells for path, cells in rows.items()}
    groups = {group for group, _ in found}
    found |= {row: cells for row, cells in read().items() if row[0] not in groups}
    reasons: dict[str, str] = {}
    lines = [INTRODUCTION]
    for group, title in GROUPS.items():
        ours = {name: cells for (other, name), cells in found.items() if other == group}
        lines.append(f"## {title}\n\n| cfg | {' | '.join(ALL_COLUMNS)} |\n|{'---|' * (len(ALL_COLUMNS) + 1)}")
        for name, cells in sorted(ours.items(), key=lambda row: f"{row[0]}.cfg"):
            shown = [_shown(cells[column], reasons) for column in ALL_COLUMNS]
            lines.append(f"| {name} | {' | '.join(shown)} |")
        lines.append("")
    lines.append("## Reasons\n\n| | |\n|---|---|")
    lines += [f"| {letter} | {reason} |" for reason, letter in reasons.items()]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read() -> dict[tuple[str, str], Cells]:
    """(group, cfg) -> cells with their reasons, as the page has them."""
    text = PAGE.read_text(encoding="utf-8")
    tables, _, below = text.partition("## Reasons")
    reasons = dict(
        _fields(line) for line in below.splitlines() if line.startswith("| ") and "---" not in line
    )
    titles = {title: group for group, title in GROUPS.items()}
    rows: dict[tuple[str, str], Cells] = {}
    group = ""
    for line in tables.splitlines():
        if line.startswith("## "):
            group = titles[line[3:]]
        elif group and line.startswith("| ") and not line.startswith("| cfg "):
            name, *cells = _fields(line)
            full = (cell if cell == OK else f"n/a: {reasons[cell.split()[-1]]}" for cell in cells)
            rows[group, name] = dict(zip(ALL_COLUMNS, full, strict=True))
    return rows


def _fields(line: str) -> list[str]:
    return [part.strip() for part in line.strip().strip("|").split(" | ")]


def _shown(cell: str, reasons: dict[str, str]) -> str:
    if not cell.startswith("n/a: "):
        return cell
    reason = cell.removeprefix("n/a: ")
    return f"n/a {reasons.setdefault(reason, _letter(len(reasons)))}"


def _letter(number: int) -> str:
    """a .. z, aa, ab, ..."""
    first, second = divmod(number, 26)
    return (chr(96 + first) if first else "") + chr(97 + second)
