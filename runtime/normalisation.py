"""--normalize-observations: the networks see observations less their mean, over their standard deviation."""

from runtime.device import Upload
from runtime.seeds import Company, numbers

import numpy as np
import torch
import torch.nn as nn

EPSILON, LIMIT = 1e-8, 10.0  # beside the variance; of what the networks see


class Normaliser(nn.Module):
    """Mean and variance of all observations that training has received, of each seed its own.

    Like everything that a checkpoint and a file of an agent keep they are parameters, which nothing trains here. The
    moments are on the CPU; `shift` and `scale` are on the device and change in place: a CUDA graph reads them.
    """

    def __init__(self, obs_dim: int):
        super().__init__()
        empty = torch.zeros(len(Company.streams), 1, obs_dim, dtype=torch.double)
        self.count, self.mean, self.squares = (nn.Parameter(empty.clone(), False) for _ in range(3))
        self.shift, self.scale = numbers([0.0] * obs_dim, False), numbers([1.0] * obs_dim, False)
        self.upload = Upload((2, *self.shift.shape), self.shift.device)

    @torch.no_grad()
    def update(self, obs: np.ndarray, seeds: slice = slice(None)) -> None:
        """Takes in an observation of each seed, or of some; obs (S, ds) in float64. `squares` sums (s - mean)²."""
        new = obs[seeds, None]
        count, mean, squares = (x.data.numpy()[seeds] for x in (self.count, self.mean, self.squares))
        count += 1
        off = new - mean
        mean += off / count
        squares += off * (new - mean)
        std = (self.squares / self.count + EPSILON).sqrt()
        shift, scale = self.upload(torch.stack([self.mean, 1 / std]).numpy())
        self.shift.copy_(shift), self.scale.copy_(scale)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Observations (B, ds) as the networks see them."""
        return ((obs - self.shift) * self.scale).clamp(-LIMIT, LIMIT)

    def of_batches(self, sample):
        """A replay's way to draw, whose batches then hold `obs` and `next_obs` as the networks see them."""

        def seen(*inputs):
            batch = sample(*inputs)
            return batch._replace(obs=self(batch.obs), next_obs=self(batch.next_obs))

        return seen
