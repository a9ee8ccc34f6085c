"""Train a network: from scratch, from given weights, sparsely before pruning, or again after it.

    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/yolov3.weights
    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/best.pt -sr --s 0.001 --prune 1
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights \\
        --t_cfg cfg/yolov3.cfg --t_weights weights/best.pt
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights --scratch b
    python train.py --resume

Sparse training (-sr) pushes exactly the batch-norm gammas to zero that pruning will judge: --prune 0 for
prune.py, which leaves shortcuts alone, --prune 1 for the other strategies; --classic for the narrower sets of
the published programs. Each epoch tells which share of the channels could go with no change of the outputs.
A teacher (--t_cfg, --t_weights) lets a pruned network learn from the one that it was cut from. Weights of
another class count are used but for the heads. --scratch loads none: the pruned network from random weights,
for the same epochs (e) or the same multiply-adds (b), shows whether it was worth inheriting any.

The folder --output receives last.pt (to resume, and what pruning reads), previous.pt (the one before),
best.pt (highest validation mAP@0.5), history.csv, history.png and gammas.png. A file of that name that was
given as input is renamed first. What is not given comes from the cfg ([net], and the last head's jitter and
random) or was chosen by measurement; the table at the start says which holds. --resume without a file goes
on with the newest run; Ctrl-C and SIGTERM save first.
With none of --cfg, --data, --weights the small demo network learns a generated data set.
Several processes: torchrun --nproc-per-node 2 -- train.py ... (without the -- torchrun takes --s for its own)
"""

from utils.commands.arguments import run_main
from utils.commands.train import run_training, train_parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    run_training(train_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
