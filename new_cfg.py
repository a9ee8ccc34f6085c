"""Write a cfg for your own data out of a stock one, without editing by hand.

    python new_cfg.py --from cfg/yolov3.cfg --classes 3 --output cfg/my.cfg
    python new_cfg.py --from cfg/yolov3-tiny.cfg --data data/my.data --anchors auto --output cfg/my.cfg
    python new_cfg.py --from cfg/yolov4-tiny.cfg --classes 1 --width 0.5 --img_size 320 --output cfg/my.cfg

    --classes   into every head, with the filters of the convolution before it
    --anchors   auto: by k-means from the labels of --data, the small ones to the heads that mask them
    --width     that many times the filters of all other convolutions; depthwise groups follow
    --img_size  the network's input; anchors grow with it
The result is read back and checked before it is written. Weights of the stock cfg still fit as long as
--width is 1: give them to train.py, which lets the heads start anew.
"""

from utils.commands.arguments import run_main
from utils.commands.new_cfg import new_cfg_parser, run_new_cfg


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the cfg."""
    run_new_cfg(new_cfg_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
