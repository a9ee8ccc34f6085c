"""Decoded images on disk, for data sets larger than memory: reading pixels is faster than decoding them.

Invariant: reading gives the same as `read_image`; a damaged file, or one of an image that has changed, is
decoded again.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_path
from .images import read_image

FOLDER_NAME = "darknet-pruning"  # of all caches, below the temporary files or the user's cache folder


def default_folder() -> Path:
    """This user's folder among the temporary files of the system."""
    # by number: in a container the user may have no name. Windows has none, but a folder for each user
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"{FOLDER_NAME}-{user}"


class DiskCache:
    """Decoded images as .npy files in a folder.

    Attributes:
        folder: where they are, spread over subfolders: `atomic_path` looks at every file beside a new one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Store images in `folder`; None: `default_folder`."""
        self.folder = folder or default_folder()

    def size(self) -> int:
        """Bytes stored so far, including other data sets."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                try:
                    total += (Path(folder) / name).stat().st_size
                except OSError:  # renamed or removed by another process just now
                    continue
        return total

    def read(self, path: Path) -> NDArray[np.uint8]:
        """The RGB image (h, w, 3) of a file, decoded and stored if not cached.

        Raises:
            DatasetError: as for `read_image`.
        """
        key = _key(path)
        if key is None:
            return read_image(path)
        kept = self.folder / key[:2] / f"{key}.npy"
        try:
            image = np.load(kept, mmap_mode="r", allow_pickle=False)
            if image.dtype == np.uint8 and image.ndim == 3:
                return np.asarray(image)
        except (OSError, ValueError, EOFError):
            pass
        image = read_image(path)
        try:
            # readable to this user alone, as the images may be
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_path(kept) as temporary:
                np.save(temporary, image)
        except OSError:  # a full disk makes it slow, not wrong
            pass
        return image


def _key(path: Path) -> str | None:
    """A name that changes with the file; None if there is no file."""
    try:
        state = path.stat()
    except OSError:  # read_image will say what is wrong
        return None
    text = f"{path.resolve()}|{state.st_mtime_ns}|{state.st_size}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
