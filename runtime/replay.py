"""Replays: a ring of rows on the device, filled by arrays, of which a checkpoint keeps what is new."""

from runtime.device import Upload
from runtime.seeds import rows

import numpy as np
import torch


class Ring:
    """A ring of rows (capacity, width), for each seed one; `size` of them are filled. A script adds how it draws."""

    def __init__(self, flag: str, capacity: int, width: int, dtype: torch.dtype = torch.float32):
        self.added = 0
        self.rows = rows(f"--{flag.replace('_', '-')} {capacity}", capacity, width, dtype=dtype)  # (S, capacity, width)
        self.size = torch.zeros((), dtype=torch.double, device=self.rows.device)  # a tensor: a CUDA graph reads it
        self.upload = Upload((len(self.rows), width), self.rows.device, dtype)

    def add(self, *parts: np.ndarray) -> None:
        """Stores a row a seed, its parts side by side: arrays (S, w) or (S,)."""
        row = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        self.rows[:, self.added % self.rows.shape[1]] = self.upload(row)
        self.added += 1
        self.size.fill_(min(self.added, self.rows.shape[1]))

    # ----------------------------------------------------------------------------------------------- for checkpoints
    def places(self, start: int, stop: int) -> torch.Tensor:
        return torch.arange(start, stop, device=self.rows.device) % self.rows.shape[1]

    def part(self, start: int, stop: int) -> torch.Tensor:
        """The rows from the start-th to before the stop-th ever added, on the CPU."""
        return self.rows[:, self.places(start, stop)].cpu()

    def put(self, start: int, stop: int, part: torch.Tensor) -> None:
        """Puts back what `part` took."""
        self.rows[:, self.places(start, stop)] = part.to(self.rows)

    def resumed(self, added: int) -> None:
        """Called once all is put back: rows ever added."""
        self.added = added
        self.size.fill_(min(added, self.rows.shape[1]))
