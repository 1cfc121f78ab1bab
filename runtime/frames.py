"""What a replay from pixels keeps apart from its rows: each frame once, of which stacks are made as they are drawn."""

from runtime.device import allocate

import numpy as np
import torch


class Frames:
    """A ring (S, F, 3, H, W) of uint8; frame n, counted from the first, lies at n % F.

    An observation is three frames on end, known by the number of its newest and by its age, the steps of its episode
    before it: an episode's first frame stands for those before it. An episode has a frame more than steps. F is a tenth
    more than the rows, and where episodes are too short for that, the oldest rows go earlier.
    """

    def __init__(self, num_seeds: int, capacity: int, envs, device: torch.device):
        shape = num_seeds, capacity + capacity // 10 + 8, 3, *envs.obs.shape[-2:]
        self.ring = allocate(f"--buffer-size {capacity}", *shape, device=device, dtype=torch.uint8)
        self.numbers, self.newest = np.zeros((num_seeds, capacity), int), np.full(num_seeds, -1)
        self.seeds, self.envs, self.oldest = torch.arange(num_seeds, device=device), envs, 0

    def add(self, row: int, obs: np.ndarray, next_obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keeps what is new of a row's two observations (S, 9, H, W): the number and the age (S,) of the first."""
        ages = np.array([len(past) - 1 for past in self.envs.actions])
        for i, age in enumerate(ages):
            for frame in [next_obs[i, -3:]] if age else [obs[i, -3:], next_obs[i, -3:]]:
                self.newest[i] += 1
                self.ring[i, self.newest[i] % self.ring.shape[1]] = torch.from_numpy(frame)
        self.numbers[:, row % self.numbers.shape[1]] = self.newest - 1
        return self.newest - 1, ages

    def whole(self, added: int) -> torch.Tensor:
        """Of so many rows ever added, the oldest whose frames are still here, and their number."""
        capacity, gone = self.numbers.shape[1], self.newest - self.ring.shape[1]
        self.oldest = max(self.oldest, added - capacity)
        while self.oldest < added and (self.numbers[:, self.oldest % capacity] - 2 <= gone).any():
            self.oldest += 1
        return torch.tensor([self.oldest, added - self.oldest])

    def stacks(self, newest: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        """Observations (S, B, 9, H, W) by their numbers and ages (S, B, 1)."""
        back = torch.arange(2, -1, -1, device=newest.device)
        numbers = (newest - torch.minimum(back, age)).long() % self.ring.shape[1]
        return self.ring[self.seeds[:, None, None], numbers].flatten(2, 3)
