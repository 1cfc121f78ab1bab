"""Convolutions with a weight for each seed, used as PyTorch's (runtime/seeds.py)."""

from collections.abc import Iterable

from runtime.seeds import Company, as_pytorch, initialise

import torch
import torch.nn as nn
import torch.nn.functional as F


class Conv2d(nn.Module):
    """PyTorch's convolution with square filters, (.., B, in, H, W) -> (.., B, out, H', W'), with a weight for each
    seed. It computes in its input's dtype.

    Each seed has a call of its own, with channels last in memory: one call in groups took longer. The bias is added
    apart: its gradient inside the call took as long as the weight's.
    """

    def __init__(self, n_in: int, n_out: int, size: int, **options):
        super().__init__()
        self.options = options
        self.weight = nn.Parameter(torch.empty(len(Company.streams), *self.filters(n_in, n_out), size, size))
        self.bias = nn.Parameter(torch.empty(len(Company.streams), n_out))
        self.to(Company.device)
        initialise(self, as_pytorch)

    def filters(self, n_in: int, n_out: int) -> tuple[int, int]:
        return n_out, n_in

    def convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, **self.options)

    def one(self, x: torch.Tensor, seed: int) -> torch.Tensor:
        """The convolution of one seed, (B, in, H, W) -> (B, out, H', W')."""
        out = self.convolve(x.contiguous(memory_format=torch.channels_last), self.weight[seed].to(x.dtype))
        return out + self.bias[seed].to(x.dtype)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return one_by_one([self], x)

    def like_pytorch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (S, out, in, size, size) and biases (S, out), as PyTorch has them."""
        return self.weight, self.bias


class ConvTranspose2d(Conv2d):
    """PyTorch's transposed convolution in the same manner; its weights are (S, in, out, size, size)."""

    def filters(self, n_in: int, n_out: int) -> tuple[int, int]:
        return n_in, n_out

    def convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose2d(x, weight, **self.options)


class Sequential(nn.Sequential):
    """PyTorch's sequence, of convolutions and activations. All of it is computed for one seed after the other: layer by
    layer, compiled code laid every layer's output anew, and took a fifth longer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return one_by_one(self, x)


def one_by_one(layers: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """What layers make of (.., B, in, H, W), seed by seed."""
    parts = []
    for seed, part in enumerate(x):
        for layer in layers:
            part = layer.one(part, seed) if isinstance(layer, Conv2d) else layer(part)
        parts.append(part.movedim(-3, -1))  # as it lies in memory, and shall
    return torch.stack(parts).movedim(-1, -3)
