"""Residual networks of CIFAR form.

Source: arXiv:1512.03385, section 4.2.
"""

import torch
from torch import nn

from nat_lib.modules import GlobalAverage


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution of every
    `stride`-th pixel.

    The pixels are taken before that convolution: on a CPU, torch 2.14's gradient of a strided 1x1
    convolution of fewer than 8 channels, channels last, writes beyond its memory.
    """

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
        match = [nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)]
        self.skip, self.stride = nn.Identity() if plain else nn.Sequential(*match), stride

    def forward(self, x):
        beside = self.skip(x[..., :: self.stride, :: self.stride])
        return torch.relu(self.body(x) + beside)


def resnet(blocks, channels, stem_stride, n_classes):
    """A 3x3 convolution, then per number of channels a stage of so many residual blocks."""
    c_in = channels[0]
    layers = [nn.Conv2d(3, c_in, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(c_in), nn.ReLU()]
    for stage, c_out in enumerate(channels):
        for block in range(blocks):
            layers.append(Residual(c_in, c_out, 2 if stage and not block else 1))
            c_in = c_out
    return nn.Sequential(*layers, GlobalAverage(), nn.Flatten(), nn.Linear(c_in, n_classes))
