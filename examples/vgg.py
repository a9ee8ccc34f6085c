"""VGG-16 with batch norm (Simonyan and Zisserman, "Very Deep Convolutional Networks ...", ICLR 2015).

python -m examples.vgg
"""

import torch
from torch import Tensor, nn

from examples.initialisation import he_normal
from slim import slim

# channels of the 3x3 convolutions; 0: a pool. Configuration D of the paper
_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class VGG16(nn.Module):
    """The classifier.

    Args:
        classes: outputs.
        channels: of the images.
        small: for images of about 32 px: one linear layer instead of three.
    """

    def __init__(self, classes: int = 1000, channels: int = 3, small: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = channels
        for width in _LAYERS:
            if width:
                layers += [nn.Conv2d(last, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
                last = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1 if small else 7)
        wide = [
            *(nn.Linear(last * 7 * 7, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
            nn.Linear(4096, classes),
        ]
        self.classifier = nn.Sequential(*([nn.Linear(last, classes)] if small else wide))
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, classes) logits."""
        x = self.pool(self.features(images))
        return self.classifier(x.view(x.size(0), -1))


if __name__ == "__main__":
    print(slim(VGG16(10, small=True).eval(), torch.zeros(1, 3, 32, 32), ratio=0.5).report)
