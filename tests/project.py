"""A user's folder: a small network of 20 sections, its weights, a data set; and what its user types.

The fixtures `project` and `fail` of conftest.py make and use it.
"""

from typing import Protocol

CONVOLUTION = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\nactivation=leaky\n"
HEAD = (
    "[convolutional]\nfilters=18\nsize=1\nstride=1\npad=1\nactivation=linear\n"
    "[yolo]\nmask={}\nanchors=10,10, 20,20, 30,30, 40,40\nclasses=4\nnum=4\n"
)


def residual(wide: int, narrow: int) -> str:
    """Four sections: down by 2, then a block."""
    block = CONVOLUTION.format(narrow, 1, 1) + CONVOLUTION.format(wide, 3, 1)
    return CONVOLUTION.format(wide, 3, 2) + block + "[shortcut]\nfrom=-3\nactivation=linear\n"


CFG = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n"
    + CONVOLUTION.format(8, 3, 2)  # 0
    + residual(16, 8)  # 1 .. 4
    + residual(24, 8)  # 5 .. 8
    + residual(32, 16)  # 9 .. 12
    + HEAD.format("2,3")  # 13, 14
    + "[route]\nlayers=-3\n[upsample]\nstride=2\n[route]\nlayers=-1,8\n"  # 15 .. 17
    + HEAD.format("0,1")  # 18, 19
)
FILES = ("--cfg", "small.cfg", "--weights", "small.weights")
DATA = ("--data", "data/shapes.data", "--workers", "0")


class Fail(Protocol):
    """Runs a script that must end with code 2; returns the one line that tells its user what is wrong."""

    def __call__(self, script: str, *words: str) -> str: ...
