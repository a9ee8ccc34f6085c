"""Train a network: from scratch, from given weights, sparsely before pruning, or again after it.

    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/yolov3.weights
    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/best.pt -sr --s 0.001 --prune 1
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights \\
        --t_cfg cfg/yolov3.cfg --t_weights weights/best.pt
    python train.py --resume weights/last.pt

Sparse training (-sr) adds s * sign(gamma) to the gradient of exactly the batch-norm gammas that pruning will
judge: --prune 0 for prune.py, which leaves shortcuts alone, --prune 1 for the other strategies; --classic
for the narrower sets of the published programs. A teacher (--t_cfg, --t_weights) lets a pruned network learn
from the one that it was cut from. Weights of another class count are used but for the heads.

The folder --output receives last.pt (to resume, and what pruning reads), best.pt (highest validation mAP@0.5)
and history.csv and history.png (losses, mAP and gammas by epoch). A file of that name that was given as input
is renamed first. What is not given comes from the [net] section of the cfg (learning_rate, momentum,
decay, max_epochs and the input size) or was chosen by measurement; the table at the start says which holds.
With none of --cfg, --data, --weights the small demo network learns a generated data set.
Several processes: torchrun --nproc_per_node 2 train.py ...
"""

from utils.commands.arguments import run_main
from utils.commands.train import run_training, train_parser


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    run_training(train_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    run_main(main)
