"""Make a Darknet data set of COCO or Pascal VOC annotations; the images stay where they are.

    python data/convert.py coco --json train2017.json --images train2017 --output data/coco
    python data/convert.py coco --json val2017.json --images val2017 --split valid --output data/coco
    python data/convert.py voc --root VOCdevkit/VOC2007 --set trainval --output data/voc
    python data/convert.py voc --root labelled --output data/mine --classes cat,dog

One call makes one list (--split); a second call adds another to the same folder. What appears in it: links
to the images in JPEGImages, label files in labels, train.txt and its like, a .names and a .data file, all as
Darknet wants them. Crowd regions (coco) and difficult objects (voc) are left out; boxes are cut at the
image's border, and those without area dropped and counted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started from anywhere

from utils.commands.arguments import run_main
from utils.commands.convert import convert_parser, run_conversion


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    run_conversion(convert_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
