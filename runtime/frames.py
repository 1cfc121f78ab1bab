"""A replay of what a camera sees: each frame once, of which stacks of three are made as they are drawn."""

from runtime.pixels import FRAMES, SIZE
from runtime.replay import Ring
from runtime.seeds import rows, take

import numpy as np
import torch

ROW = FRAMES + 1  # frames of a row: its observation is all but the last of them, the next observation all but the first


class FrameRing(Ring):
    """A ring of rows that end in the numbers of their ROW frames, counted from the first ever kept.

    Frame n lies at n % F of `frames` (F, 3, SIZE, SIZE), of uint8. An episode's first frame stands for those before it,
    so an episode has one more than steps: F is a tenth more than the rows, and where episodes are too short for that,
    the oldest rows go earlier.
    """

    def __init__(self, flag: str, capacity: int, width: int):
        super().__init__(flag, capacity, width + ROW, torch.double)  # in which any number is exact
        size, name = (capacity + capacity // 10 + 8, 3, SIZE, SIZE), f"--{flag.replace('_', '-')} {capacity}"
        self.frames = rows(name, *size, dtype=torch.uint8)  # (S, F, 3, SIZE, SIZE)
        self.numbers = np.full((len(self.rows), capacity, ROW), -1)  # the same as in the rows, for the CPU
        self.newest, self.seen = np.full(len(self.rows), -1), [None] * len(self.rows)  # frame; observation
        self.oldest, self.start = 0, torch.zeros_like(self.size)  # the oldest row that is whole; for a CUDA graph

    def add(self, obs, action, reward, next_obs, terminated) -> None:
        """Stores a row a seed: arrays (S, 9, SIZE, SIZE), (S, d), (S,), (S, 9, SIZE, SIZE), (S,)."""
        row = self.added % self.rows.shape[1]
        self.numbers[:, row, :-1] = self.numbers[:, row - 1, 1:]
        for i, numbers in enumerate(self.numbers[:, row]):
            if not np.array_equal(obs[i], self.seen[i]):  # an episode's first
                numbers[:] = self.keep(i, obs[i, -3:])
            numbers[-1], self.seen[i] = self.keep(i, next_obs[i, -3:]), next_obs[i]
        super().add(action, reward, terminated, self.numbers[:, row])
        self.find_oldest()

    def keep(self, i: int, frame: np.ndarray) -> int:
        """Keeps a frame of the i-th seed; its number."""
        self.newest[i] += 1
        self.frames[i, self.newest[i] % self.frames.shape[1]] = torch.from_numpy(frame)
        return self.newest[i]

    def find_oldest(self) -> None:
        """Counts the rows whose frames are all still here."""
        capacity, gone = self.rows.shape[1], self.newest - self.frames.shape[1]
        self.oldest = max(self.oldest, self.added - capacity)
        while self.oldest < self.added and (self.numbers[:, self.oldest % capacity, 0] <= gone).any():
            self.oldest += 1
        self.start.fill_(self.oldest), self.size.fill_(self.added - self.oldest)

    def draw(self, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Observations (B, 9, SIZE, SIZE), the columns before the numbers (B, width) and the observations after, by
        uniform numbers (B,) in [0, 1)."""
        drawn = take(self.rows, (self.start + (uniform * self.size).floor()).long() % self.rows.shape[1])
        places = drawn[..., -ROW:].long() % self.frames.shape[1]
        frames = take(self.frames.flatten(2), places.flatten(-2)).unflatten(-1, self.frames.shape[2:])
        frames = frames.unflatten(-4, (-1, ROW))  # (B, ROW, 3, SIZE, SIZE)
        obs, next_obs = frames[..., :-1, :, :, :].flatten(-4, -3), frames[..., 1:, :, :, :].flatten(-4, -3)
        return obs, drawn[..., :-ROW].float(), next_obs

    # ----------------------------------------------------------------------------------------------- for checkpoints
    def part(self, start: int, stop: int) -> dict:
        """The rows from the start-th to before the stop-th ever added and those of their frames that are here, on the
        CPU."""
        rows, frames = super().part(start, stop), []
        for own, numbers in zip(self.frames, rows[..., -ROW:].long()):
            end = int(numbers[-1, -1]) + 1
            span = torch.arange(max(int(numbers[0, 0]), end - len(own)), end)
            frames.append(own[span % len(own)].cpu())
        return {"rows": rows, "frames": frames}

    def put(self, start: int, stop: int, part: dict) -> None:
        """Puts back what `part` took."""
        super().put(start, stop, part["rows"])
        self.numbers[:, self.places(start, stop).cpu().numpy()] = part["rows"][..., -ROW:].numpy()
        for i, frames in enumerate(part["frames"]):
            self.newest[i] = part["rows"][i, -1, -1]
            span = torch.arange(self.newest[i] + 1 - len(frames), self.newest[i] + 1)
            self.frames[i, span % self.frames.shape[1]] = frames.to(self.frames)

    def resumed(self, added: int) -> None:
        """Called once all is put back: rows ever added."""
        super().resumed(added)
        for i, numbers in enumerate(self.numbers[:, (added - 1) % self.rows.shape[1], 1:]):
            self.seen[i] = self.frames[i, numbers % self.frames.shape[1]].flatten(0, 1).cpu().numpy()
        self.find_oldest()
