"""Files from the net: resumed when broken off, verified, unpacked without leaving their folder.

Invariant: a file that has its final name is complete, and has the expected checksum where one is known.
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
    """Fetch `url` into `target`, unless a right copy is there.

    What a broken-off download left, `target` with `.part` behind, is continued where the server allows it.

    Args:
        url: http, https or file.
        target: the file.
        md5: its published checksum; without one the file's SHA-256 is logged.
        progress: called with the bytes there so far and in all (0 where unknown).

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
        remedy = f"call again to go on, or put the file there yourself: {target}"
        raise DatasetError(url, f"cannot be fetched ({reason})", remedy) from None
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
        if error.code == 416 and done:  # nothing behind what is there
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
        raise DatasetError(path, f"has MD5 {digest.hexdigest()}, not {md5}", "remove it and call again")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; what would leave `folder`, by its name or a link, is refused.

    Raises:
        DatasetError: it is no tar archive, is cut off, or holds such a member.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DatasetError("", "unpacking needs Python 3.11.4 or newer", "update Python")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError(archive, f"cannot be unpacked ({error})", "download it again") from None
