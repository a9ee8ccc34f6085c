"""Find the share of channels to prune: rungs from 0.1 to 0.95, each measured, with the knee marked.

    python ladder.py --cfg cfg/my.cfg --weights weights/last.pt --data data/my.data
    python ladder.py ... --score gamma l1 taylor random     # which score climbs highest?

The network is pruned at every rung, evaluated on a sample of the validation images as it was cut, and again
with batch-norm statistics of its own (--recalibrate). Between the last good rung and the first bad one, and
where mAP falls most steeply, more rungs are measured until they are --refine apart. The knee is the largest
share that keeps mAP within --tolerance of the unpruned network's, by the better of the two figures. At the
end the rungs' latencies are measured, in turns with the unpruned network.

Files: <weights>_ladder.csv, .png and .json. A run that is broken off, or one with more rungs or scores,
computes only what the CSV file lacks; a changed option computes anew.

    --strategy  slim, normal (as prune.py) or shortcut (as shortcut_prune.py)
"""

from utils.commands.arguments import run_main
from utils.commands.ladder import ladder_parser, run_ladder


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and climb."""
    run_ladder(ladder_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
