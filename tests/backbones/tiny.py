"""Small networks of our own, of the shapes that matter: plain, residual, tokens, shared, parallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graft.backbones.contract import Backbone, Preprocess

SMALL = Preprocess(size=(16, 16), resize=16)


def classified(backbone: Backbone, pictures: Tensor) -> Tensor:
    """What the pretraining's own classifier, which the backbone has kept, makes of pictures: [B, L]."""
    assert backbone.classifier is not None
    weight, bias = backbone.classifier
    with torch.no_grad():
        found: Tensor = backbone.trunk.eval()(pictures) @ weight.T + bias
    return found


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.norm(self.conv(x)).relu())


class Cnn(nn.Module):
    """Three stages between stem and classifier, declared in the reverse order of their use."""

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(8, classes)
        self.upper = nn.Sequential(Block(8), Block(8))
        self.middle = nn.Sequential(Block(8), Block(8))
        self.lower = nn.Sequential(Block(8), Block(8))
        self.conv = nn.Conv2d(channels, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images))
        x = self.upper(self.middle(self.lower(x)))
        return self.fc(x.mean((2, 3)))


class Vit(nn.Module):
    """Tokens, with parameters held by the root and a class token that enters late, as in CaiT."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.late_token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 16, 8))
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(self._layer() for _ in range(depth))
        self.norm = nn.LayerNorm(8)
        self.spare = nn.Linear(8, 8)

    @staticmethod
    def _layer() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for number, block in enumerate(self.blocks):
            if number == len(self.blocks) - 1:
                x = torch.cat([self.late_token.expand(len(x), -1, -1), x], 1)
            x = block(x)
        return self.norm(x)[:, 0]


class Parallel(nn.Module):
    """Two branches that run side by side, so that no single tensor is handed up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.lower = nn.ModuleList([Block(8), Block(8)])
        self.middle = nn.ModuleList([Block(8), Block(8)])
        self.upper = nn.ModuleList([Block(8), Block(8)])

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        parts = [x, x * 2]
        for stage in (self.lower, self.middle, self.upper):
            parts = [block(part) for block, part in zip(stage, parts, strict=True)]
        return torch.cat(parts, 1).mean((2, 3))
