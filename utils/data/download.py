"""Downloads: resumed after an interruption, verified, unpacked inside their folder.

Invariant: a file with its final name is complete, and has the expected checksum if one is known.
"""

import hashlib
import logging
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ..errors import DatasetError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
Progress = Callable[[int, int], object]


def download(url: str, target: Path, md5: str | None = None, progress: Progress | None = None) -> Path:
    """Download `url` to `target`, unless a correct copy exists.

    An interrupted download, `target` with the suffix `.part`, is resumed if the server allows it.

    Args:
        url: http, https or file.
        target: the file.
        md5: its published checksum; without one the file's SHA-256 is logged.
        progress: called with the bytes received so far and in total (0 if unknown).

    Raises:
        DatasetError: the server cannot be reached, or the file is not the expected one.
    """
    if target.exists():
        _verify(target, md5)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(url, part, progress)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = f"run again to resume, or save the file as {target}"
        raise DatasetError(url, f"cannot be downloaded ({reason})", remedy) from None
    try:
        _verify(part, md5)
    except DatasetError:
        part.unlink()
        raise
    part.replace(target)
    return target


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # complete already
            return
        raise
    with response:
        continues = getattr(response, "status", None) == 206
        done = done if continues else 0
        length = int(response.headers.get("Content-Length") or 0)
        total = done + length if length else 0
        with part.open("ab" if continues else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if done < total:
        raise OSError("the connection ended early")


def _verify(path: Path, md5: str | None) -> None:
    digest = hashlib.md5(usedforsecurity=False) if md5 else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if md5 is None:
        logger.info("%s: no checksum is published; SHA-256 %s", path, digest.hexdigest())
    elif digest.hexdigest() != md5:
        raise DatasetError(path, f"has MD5 {digest.hexdigest()}, not {md5}", "remove it and run again")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; members that would leave `folder`, by name or link, are refused.

    Raises:
        DatasetError: not a tar archive, truncated, or with such a member.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DatasetError(archive, "unpacking it needs Python 3.11.4 or newer", "update Python")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError(archive, f"cannot be unpacked ({error})", "download it again") from None
