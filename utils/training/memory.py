"""Memory that training frees and needs again at once stays with the process.

A step allocates and frees maps of tens of megabytes. The C library gives such blocks back to the system
each time, and gets them back page by page: a third of the time of a step of a small network on a CPU.
"""

import ctypes
import sys

# mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1
_PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Tell the C library's allocator to keep what is freed; returns whether it listens, as glibc's does."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, _PAD))
    answers = [mallopt(key, value) for key, value in settings]
    return all(answer == 1 for answer in answers)
