"""`python data/get_oxford_hand.py --help` is the manual; the same as `netslim data get-oxford-hand`."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started from anywhere

from utils.cli import call, start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the words `argv`, None for those that were typed; return its exit code."""
    return call("data get-oxford-hand", argv)


if __name__ == "__main__":
    start("data get-oxford-hand")
