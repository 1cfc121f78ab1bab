"""Random numbers that need no saving: every stream is named by its seed, its place in the run and its use.

No two of them can coincide, because a name is a key and never a hash: on a CPU it is Philox's key (seed, use) and the
upper half of its counter (step, number), on a GPU the 64-bit key (seed, step) of PyTorch's own Philox, and for an
environment one integer of 112 bits. A seed draws the same whichever seeds run beside it.
"""

import math
from collections import namedtuple
from typing import NamedTuple

import numpy as np
import torch

LIMITS = 2**32, 2**40, 2**40  # of a seed, a step and a number, so that they stand side by side in a key
NOISE, WARM_UP = 1, 2  # uses
BLOCK = 16  # steps for which a run's random numbers are drawn at once


def stream(seed: int, step: int, number: int, use: int) -> np.random.Generator:
    """2**130 random bits that belong to one use at one place."""
    return np.random.Generator(np.random.Philox(key=[seed, use], counter=[0, 0, number, step]))


def episode(seed: int, step: int, number: int = 0) -> int:
    """What an environment is reset with: a number among training's episodes (step 0) or an evaluation's (its step)."""
    return seed << 80 | step << 40 | number


def gpu_seed(seed: int, block: int) -> int:
    return seed << 32 | block


class Numbers(NamedTuple):
    """The random numbers of a step: normal ones by name, (S, ..) each, for acting; and for each update uniform ones
    (S, B) in [0, 1), which draw its batch, and normal ones."""

    acting: NamedTuple
    updates: list[tuple[torch.Tensor, NamedTuple]]


class Draws:
    """The random numbers of each step and its updates, drawn for BLOCK steps at once. `acting` and `updating` are
    shapes by name."""

    def __init__(self, seeds: range, acting: dict, updating: dict, batch: int, device: torch.device, updates: int = 1):
        self.seeds, self.block = seeds, -1
        self.stream = torch.Generator(device) if device.type == "cuda" else None
        acting, updating = (namedtuple("Noise", shapes)(*shapes.values()) for shapes in (acting, updating))
        self.kinds = [acting] + [updating] * updates
        self.sizes = [math.prod(shape) for kind in self.kinds for shape in kind]
        self.normal = torch.empty(len(seeds), BLOCK, sum(self.sizes), device=device)
        self.uniform = torch.empty(len(seeds), BLOCK, updates, batch, device=device, dtype=torch.double)

    def draw(self, block: int) -> None:
        self.block = block
        for seed, normal, uniform in zip(self.seeds, self.normal, self.uniform):
            if self.stream:
                self.stream.manual_seed(gpu_seed(seed, block))
                normal.normal_(generator=self.stream), uniform.uniform_(generator=self.stream)
            else:
                numbers, out = stream(seed, block, 0, NOISE), normal.numpy()
                numbers.standard_normal(out=out, dtype=out.dtype), numbers.random(out=uniform.numpy())

    def step(self, step: int) -> Numbers:
        if self.block != step // BLOCK:
            self.draw(step // BLOCK)
        parts = iter(self.normal[:, step % BLOCK].split(self.sizes, dim=1))
        noise = [kind._make(next(parts).view(len(self.seeds), *shape) for shape in kind) for kind in self.kinds]
        return Numbers(noise[0], list(zip(self.uniform[:, step % BLOCK].unbind(1), noise[1:])))


def windows(table: torch.Tensor, uniform: torch.Tensor, size: int) -> torch.Tensor:
    """Noise for a batch's frames, (S, B · size): windows of a table of random numbers (S, T), at places which late
    digits of uniform (S, B) choose. To draw as many anew would take longer than the network that reads them."""
    start = (uniform * 1e6 % 1 * (table.shape[1] - size)).long()  # early digits chose the replay's row
    index = start[..., None] + torch.arange(size, device=table.device)
    return table.gather(1, index.flatten(1))
