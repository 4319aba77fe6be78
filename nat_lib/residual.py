"""Residual networks of CIFAR form.

Source: arXiv:1512.03385, section 4.2.
"""

import torch
from torch import nn

SMALL = 64  # pixels: below, a stem does not halve the image


class Planes(nn.Module):
    """Channels first.  With channels last, torch 2.14's gradient of convolutions of fewer than 8
    channels writes beyond its memory on a CPU."""

    def forward(self, x):
        return x.contiguous(memory_format=torch.contiguous_format)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a strided 1x1 convolution."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        plain = stride == 1 and c_in == c_out
        match = [nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)]
        self.skip = nn.Identity() if plain else nn.Sequential(*match)

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def resnet(blocks, n_classes, side, width=1.0):
    """A ResNet of CIFAR form: a 3x3 convolution, three stages of 16, 32 and 64 channels."""
    channels = [max(1, round(c * width)) for c in (16, 32, 64)]
    stem = 2 if side >= SMALL else 1
    layers = [Planes()] if channels[0] < 8 else []
    layers += [
        nn.Conv2d(3, channels[0], 3, stem, 1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    c_in = channels[0]
    for stage, c_out in enumerate(channels):
        for block in range(blocks):
            layers.append(Residual(c_in, c_out, 2 if stage and not block else 1))
            c_in = c_out
    tail = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, n_classes)
    return nn.Sequential(*layers, *tail)
