"""Random numbers that need no saving: every stream starts from its seed and its place in the run."""

import math

import numpy as np
import torch

BLOCK = 16  # steps for which a run's random numbers are drawn at once


def random_seed(seed: int, step: int, number: int = 0, use: int = 0) -> int:
    """What each random stream starts from. The place in the run alone decides it, so no random state is ever saved,
    and a seed draws the same whichever seeds run beside it. `use` is 0 for episodes, 1 for noise, 2 for warm-up."""
    return int(np.random.SeedSequence([seed, step, number, use]).generate_state(1)[0])


class Draws:
    """The random numbers of each step, drawn for BLOCK steps at once."""

    def __init__(self, seeds: range, acting: tuple, updating: tuple, batch: int, device: torch.device):
        self.seeds, self.stream, self.block = seeds, torch.Generator(device), -1
        self.shapes, self.split = (acting, updating), math.prod(acting)
        self.normal = torch.empty(len(seeds), BLOCK, self.split + math.prod(updating), device=device)
        self.uniform = torch.empty(len(seeds), BLOCK, batch, device=device, dtype=torch.double)

    def step(self, step: int) -> list[torch.Tensor]:
        """The numbers of a step: normal (S, *acting) and (S, *updating), uniform (S, batch) in [0, 1)."""
        if self.block != step // BLOCK:
            self.block = step // BLOCK
            for seed, normal, uniform in zip(self.seeds, self.normal, self.uniform):
                self.stream.manual_seed(random_seed(seed, self.block, use=1))
                normal.normal_(generator=self.stream), uniform.uniform_(generator=self.stream)
        normal, uniform = self.normal[:, step % BLOCK], self.uniform[:, step % BLOCK]
        parts = zip((normal[:, : self.split], normal[:, self.split :]), self.shapes)
        return [part.view(-1, *shape) for part, shape in parts] + [uniform]
