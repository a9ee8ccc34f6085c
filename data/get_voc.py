"""Fetch Pascal VOC 2007 or 2012 and make a Darknet data set of it.

    python data/get_voc.py
    python data/get_voc.py --year 2012 --output data/voc2012

2007: train is its trainval set, valid its test set; 2012: train and val, as its test labels are not public.
A download that broke off is continued by calling again; archives that lie in DIR/download already are used.
Checksums are verified. Difficult objects are left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started from anywhere

from utils.commands.arguments import run_main
from utils.commands.convert import run_voc, voc_parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, fetch and convert."""
    run_voc(voc_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
