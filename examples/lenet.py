"""LeNet-5 (LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998), with ReLU.

    python -m examples.lenet

The last map is flattened: a channel of it is a run of columns of the first linear layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim import slim


class LeNet(nn.Module):
    """The classifier of images of 32 px.

    Args:
        classes: outputs.
        channels: of the images.
    """

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, 32, 32) -> (B, classes) logits."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


if __name__ == "__main__":
    print(slim(LeNet().eval(), torch.zeros(1, 1, 32, 32), ratio=0.5, align=1).report)
