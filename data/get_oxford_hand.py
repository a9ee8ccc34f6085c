"""Fetch the Oxford hand data set and make a Darknet data set of it (one class, needs scipy).

    python data/get_oxford_hand.py
    python data/get_oxford_hand.py --output data/oxfordhand --copy

Its training, validation and test images become train, valid and test; the upright box around the four marked
corners becomes the label. A download that broke off is continued by calling again; an archive that lies in
DIR/download already is used.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started from anywhere

from utils.commands.arguments import run_main
from utils.commands.convert import hands_parser, run_hands


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, fetch and convert."""
    run_hands(hands_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
