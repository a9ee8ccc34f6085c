"""Atomic writing of files, and protection of inputs from being overwritten.

Invariant: at any moment, also after a kill, the path given to `atomic_path` is the old file or the complete
new one, never a part.
"""

import errno
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ToolkitError

logger = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """`atomic_paths` for one file."""
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(*paths: Path) -> Iterator[list[Path]]:
    """Yield a temporary sibling of each path (same suffix) to write to; all are renamed on success.

    Files are moved into place only after all are on the disk; the first one, which users name, is moved
    last. On an exception the temporary files are removed and `paths` stay as they were. Missing folders
    are created, and temporary files of killed processes removed.
    """
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_parts(path)
    temporaries = [path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}") for path in paths]
    pairs = list(zip(temporaries, paths, strict=True))
    try:
        yield temporaries
        for temporary, path in pairs:
            if not temporary.exists():
                raise FileNotFoundError(errno.ENOENT, "was not written", str(path))
            if temporary.is_file():
                _flush(temporary)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        for temporary, path in reversed(pairs):
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into an error with a remedy: torch raises RuntimeError on a full disk.

    Raises:
        ToolkitError: the file cannot be written; the old one is kept.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or f"is the disk full? {error}".splitlines()[0]
        remedy = "free some space or choose another folder; the old file is kept"
        raise ToolkitError(path, f"cannot be written ({reason})", remedy) from error


def keep_previous(path: Path, previous: Path) -> None:
    """Keep the current file at `path` as `previous` too, before a new one replaces it."""
    if not path.exists():
        return
    with atomic_path(previous) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copy2(path, temporary)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8, `\\n` line ends)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def same_file(first: Path, second: Path) -> bool:
    """Whether both paths lead to one file; a path that does not exist equals only itself."""
    return first.resolve() == second.resolve()


def require_writable(folder: Path, remedy: str) -> None:
    """Refuse a folder that cannot be written to, before any work is done; leaves no file.

    Args:
        folder: where files will go; need not exist.
        remedy: what the user can do, the end of the message.

    Raises:
        ToolkitError: no file can be created there, or in the parent where the folder would be created.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        # permissions alone do not show a full or read-only file system
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ToolkitError(folder, f"cannot be written to ({error.strerror})", remedy) from error


def protect_inputs(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> dict[Path, Path]:
    """Move every existing input that an output would overwrite to a name with a time stamp.

    Args:
        outputs: files that are about to be written.
        inputs: files that the user gave; None entries are ignored.

    Returns:
        resolved old path -> new path of the inputs that were moved, so that callers read them from there.
    """
    given = {path.resolve() for path in inputs if path is not None}
    moved: dict[Path, Path] = {}
    for output in outputs:
        source = output.resolve()
        if source not in given or source in moved or not source.exists():
            continue
        # the output's name, not the input's: one may be a link to the other
        kept = set_aside(output)
        logger.warning("%s was given as input and would be overwritten: kept as %s", output, kept)
        moved[source] = kept
    return moved


def set_aside(path: Path) -> Path:
    """Rename an existing file to a name with a time stamp and return that name."""
    kept = _time_stamped(path)
    path.rename(kept)
    return kept


def _flush(path: Path) -> None:
    """Wait until a file is on the disk: if renamed before, a power failure could leave it empty."""
    with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows flushes only what it may write
        os.fsync(file.fileno())


def _remove_stale_parts(path: Path) -> None:
    # Windows has no signal 0: os.kill would end the process there.
    if os.name == "nt":
        return
    name = re.compile(rf"\.{re.escape(path.stem)}\.([0-9]{{1,9}})\.part{re.escape(path.suffix)}")
    for sibling in path.parent.iterdir():
        match = name.fullmatch(sibling.name)
        if match and not _is_running(int(match[1])):
            sibling.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _time_stamped(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidate = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
    count = 1
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}.{stamp}-{count}{path.suffix}")
        count += 1
    return candidate
