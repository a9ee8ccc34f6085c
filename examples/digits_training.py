"""Networks with three heads, and their training on the digits: plain, sparse, or with a teacher."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from examples.digits_data import HEADS, PIXELS, Digits
from examples.initialisation import he_normal
from examples.mobilenetv2 import InvertedResidual, MobileNetV2
from examples.resnet import BasicBlock, ResNet
from slim import KLSoftLoss, gamma_penalty, taught_loss

BATCH = 32
LONGEST = 5.0  # gradient norm over all weights; without clipping a bad start ruins such a short run
TUNING = 0.2  # factor on the learning rate in fine-tuning
TEMPERATURE = 5.0
EXAMPLE = torch.zeros(1, 1, PIXELS, PIXELS)
_OUTPUTS = sum(HEADS.values())


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained.

    Attributes:
        build: gives it with random weights.
        rate: the highest learning rate.
    """

    build: Callable[[], nn.Module]
    rate: float


NETWORKS = {
    "MobileNetV2": Recipe(lambda: MobileNetV2(_OUTPUTS, width=0.5, channels=1), rate=0.05),
    "ResNet": Recipe(
        lambda: ResNet(BasicBlock, (1, 1, 1), _OUTPUTS, width=16, channels=1, small=True), rate=0.1
    ),
}


class ThreeHeads(nn.Module):
    """A classifier whose outputs are divided into the heads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """(B, 1, 32, 32) -> for each head (B, answers) logits."""
        return self.network(images).split(list(HEADS.values()), dim=1)


def fresh(name: str, seed: int) -> ThreeHeads:
    """A network of NETWORKS with random weights."""
    torch.manual_seed(seed)
    return ThreeHeads(NETWORKS[name].build())


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """`model` re-initialized for its widths, in place."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    he_normal(model)
    return model


def hidden_layers(model: nn.Module) -> list[str]:
    """Layers whose channels only their own block reads: the ones that Network Slimming prunes.

    In an inverted residual these are the expanding and the depthwise convolution, one group; in a residual
    block the first convolution.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, BasicBlock):
            found.append(f"{name}.conv1")
        if isinstance(module, InvertedResidual):
            layers = [part for part, layer in module.branch.named_children() if isinstance(layer, nn.Conv2d)]
            if len(layers) == 3:  # a block without expansion has no hidden width
                found += [f"{name}.branch.{part}" for part in layers[:-1]]
    return found


def fit(
    model: nn.Module,
    data: Digits,
    epochs: int,
    rate: float,
    *,
    seed: int,
    title: str = "training",
    sr: float = 0.0,
    teacher: nn.Module | None = None,
) -> None:
    """Train in place: SGD with momentum, a short warm-up, then a cosine down to 0.

    Args:
        model: gives logits of each head.
        data: to learn.
        epochs: passes over it.
        rate: the highest learning rate.
        seed: of the order of the images.
        title: of the progress bar.
        sr: weight of the penalty on the gammas of the hidden layers.
        teacher: a network with the same heads, of any architecture.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of dropout
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    steps = epochs * (len(data) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
    penalty = gamma_penalty(model, EXAMPLE, sr, hidden_layers(model)) if sr else None
    # Gammas stay free to hold out against the penalty.
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    model.train()
    for _ in trange(epochs, desc=title, leave=False, disable=None):
        order = torch.randperm(len(data), generator=generator)
        for chosen in order[: len(data) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            _loss(model, data[chosen], teacher).backward()
            nn.utils.clip_grad_norm_(weights, LONGEST)
            if penalty:
                penalty.add_to_gradients()
            optimizer.step()
            schedule.step()


def accuracies(model: nn.Module, data: Digits) -> tuple[float, ...]:
    """Accuracy of each head, 0..1."""
    model.eval()
    with torch.no_grad():
        outputs = model(data.images)
    return tuple(
        float((logits.argmax(1) == answer).float().mean())
        for logits, answer in zip(outputs, data.answers, strict=True)
    )


def _loss(model: nn.Module, batch: Digits, teacher: nn.Module | None) -> Tensor:
    heads = model(batch.images)
    if teacher is None:
        losses = map(functional.cross_entropy, heads, batch.answers)
        return torch.stack(list(losses)).sum()
    with torch.no_grad():
        taught = teacher.eval()(batch.images)
    return taught_loss(heads, taught, batch.answers, KLSoftLoss(TEMPERATURE))


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min((step + 1) / warm, (1 + math.cos(math.pi * step / steps)) / 2)
