"""Files that are either whole or absent, and inputs that are never overwritten.

Invariant: at any moment, also after a kill, the path given to `atomic_path` holds the old file or the
complete new one, never a part.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (same suffix) to write to; it is renamed to `path` on success.

    On an exception the temporary file is removed and `path` stays as it was. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` (UTF-8, `\\n` line ends) by way of `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def same_file(first: Path, second: Path) -> bool:
    """Whether both paths lead to one file; a path that does not exist equals only itself."""
    return first.resolve() == second.resolve()


def protect_inputs(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> dict[Path, Path]:
    """Move every existing input that an output would overwrite to a name with a time stamp.

    Args:
        outputs: files that are about to be written.
        inputs: files that the user gave; None entries are passed over.

    Returns:
        old path -> new path of the inputs that were moved, so that callers read them from there.
    """
    given = {path.resolve(): path for path in inputs if path is not None}
    moved: dict[Path, Path] = {}
    for output in outputs:
        source = given.get(output.resolve())
        if source is None or source in moved or not source.exists():
            continue
        kept = _time_stamped(source)
        source.rename(kept)
        logger.warning("%s was given as input and would be overwritten: kept as %s", source, kept)
        moved[source] = kept
    return moved


def _time_stamped(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidate = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
    count = 1
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}.{stamp}-{count}{path.suffix}")
        count += 1
    return candidate
