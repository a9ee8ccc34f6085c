"""The run that was worked on last, for whoever wants to go on with it."""

import os
from pathlib import Path

from ...errors import ToolkitError
from ...training.loop import LAST

# folders that hold no runs and may be large
_PASSED_OVER = frozenset({"data", "tests", "docs", "cfg", "utils", "benchmarks", "node_modules"})
_DEPTH = 4


def newest_run(folder: Path) -> Path:
    """The youngest last.pt in `folder` or up to four folders below it.

    Raises:
        ToolkitError: there is none.
    """
    found = []
    for path, folders, files in os.walk(folder):
        here = Path(path)
        depth = len(here.relative_to(folder).parts)
        kept = [name for name in folders if not name.startswith(".") and name not in _PASSED_OVER]
        folders[:] = kept if depth < _DEPTH else []
        if LAST in files:
            found.append(here / LAST)
    if not found:
        raise ToolkitError(
            "--resume", f"no {LAST} in {folder.resolve()} or below", "name the file: --resume FILE"
        )
    return max(found, key=lambda path: path.stat().st_mtime)
