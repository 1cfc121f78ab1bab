"""Checkpoints: files that are whole or absent, two kept, the replay's rows in files of their own."""

import hashlib
import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

from runtime.messages import fail, out_of, tell

import filelock
import torch

BAD_CONTENT = ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RuntimeError, pickle.PickleError


def write_file(path: Path, content, checksum: bool = True) -> None:
    """Writes beside, syncs, renames: under its name a file is whole or absent. Its SHA-256 stands in front."""
    data, beside = io.BytesIO(), path.with_suffix(".part")
    torch.save(content, data)
    try:
        with beside.open("wb") as file:
            file.write(hashlib.sha256(data.getbuffer()).digest() if checksum else b"")
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_file(path: Path):
    """What `write_file` wrote; runs no code that a file may hold. ValueError if it is missing, cut short or altered."""
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError(f"{path} is damaged or missing")
    return torch.load(io.BytesIO(data[32:]), weights_only=True, map_location="cpu")


class Ring:
    """What a checkpoint keeps of a replay that is one tensor `rows` (S, capacity, ..), and how it comes back."""

    def __init__(self, replay):
        self.replay = replay

    def places(self, start: int, stop: int) -> torch.Tensor:
        return torch.arange(start, stop, device=self.replay.rows.device) % self.replay.rows.shape[1]

    def part(self, start: int, stop: int) -> torch.Tensor:
        return self.replay.rows[:, self.places(start, stop)].cpu()

    def put(self, start: int, stop: int, part: torch.Tensor) -> None:
        self.replay.rows[:, self.places(start, stop)] = part.to(self.replay.rows)

    def resumed(self, added: int) -> None:
        self.replay.added = added
        self.replay.size.fill_(min(added, self.replay.rows.shape[1]))


class FrameRing(Ring):
    """The same of a replay whose rows end in an observation's number and age, of `frames` (runtime/frames.py)."""

    def part(self, start: int, stop: int) -> dict:
        ring, rows, frames = self.replay.frames.ring, super().part(start, stop), []
        for i, (first, last) in enumerate(zip(rows[:, 0], rows[:, -1])):
            span = torch.arange(int(first[-2] - min(first[-1], 2)), int(last[-2]) + 2)
            frames.append(ring[i, (span % ring.shape[1]).to(ring.device)].cpu())
        return {"rows": rows, "frames": frames}

    def put(self, start: int, stop: int, part: dict) -> None:
        kept, numbers = self.replay.frames, part["rows"][..., -2].long()
        super().put(start, stop, part["rows"])
        kept.numbers[:, self.places(start, stop).cpu().numpy()] = numbers.numpy()
        for i, frames in enumerate(part["frames"]):
            kept.newest[i] = int(numbers[i, -1]) + 1
            span = torch.arange(kept.newest[i] + 1 - len(frames), kept.newest[i] + 1) % kept.ring.shape[1]
            kept.ring[i, span.to(kept.ring.device)] = frames.to(kept.ring)

    def resumed(self, added: int) -> None:
        self.replay.added = added
        self.replay.size.copy_(self.replay.frames.whole(added))


class Checkpoints:
    """The two newest checkpoints of a run, and the lock that keeps a second process out.

    A replay has `rows` (S, capacity, ..), a ring, and `added`, the rows ever put in. Rows lie in files of their own,
    each what was new at a checkpoint, so that a checkpoint writes nothing twice.
    """

    def __init__(self, folder: Path):
        self.folder, self.kept = folder / "checkpoints", []  # names and the spans of rows that they need
        if self.folder.is_symlink():
            fail(f"{self.folder} is a link: a run deletes its old checkpoints, and nothing behind a link; move it here")
        self.folder.mkdir(exist_ok=True)
        self.lock = filelock.FileLock(folder / "lock")
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            fail(f"{folder} is in use by another process: wait for it, or stop it first")

    def save(self, state: dict, replay) -> None:
        """Rows first, then the checkpoint that needs them, and only then goes what neither kept one needs."""
        rows, capacity, step = self.kept[-1][1] if self.kept else [], replay.rows.shape[1], state["step"]
        saved, oldest = rows[-1][1] if rows else 0, max(0, step - capacity)
        if step > saved:
            start = max(oldest, saved)
            write_file(self.folder / f"rows-{start}-{step}.pt", self.ring(replay).part(start, step))
            rows = [*(span for span in rows if span[1] > oldest), (start, step)]
        name = f"step-{step}.pt"
        write_file(self.folder / name, state | {"rows": rows})
        self.kept = [*(kept for kept in self.kept[-1:] if kept[0] != name), (name, rows)]
        needed = {name for name, _ in self.kept} | {f"rows-{a}-{b}.pt" for _, rows in self.kept for a, b in rows}
        for path in self.own(r"(step-\d+|rows-\d+-\d+)\.(pt|part)"):
            if path.name not in needed:
                path.unlink()

    @staticmethod
    def ring(replay):
        return FrameRing(replay) if hasattr(replay, "frames") else Ring(replay)

    def own(self, pattern: str) -> list[Path]:
        """Files of this run by their exact names: no folder, nothing behind a link, nothing that somebody put here."""
        files = (path for path in self.folder.iterdir() if path.is_file() and not path.is_symlink())
        return [path for path in files if re.fullmatch(pattern, path.name)]

    def load(self, replay, restore: Callable[[dict], None]) -> dict:
        """The newest checkpoint whose files are all whole; {} before the first one. Its rows go into the replay, and
        `restore`, which takes the rest, may raise where its content is not what it should be."""
        paths = sorted(self.own(r"step-\d+\.pt"), key=lambda path: -int(path.stem[5:]))
        for path in paths:
            try:
                state = read_file(path)
                for start, stop in state["rows"]:
                    self.ring(replay).put(start, stop, read_file(self.folder / f"rows-{start}-{stop}.pt"))
                restore(state)
            except BAD_CONTENT as error:
                if out_of(error):  # no fault of the file's
                    raise
                said = " ".join(str(error).split())[:200]
                tell(f"{said if type(error) is ValueError else repr(said)}: {path.name} cannot be used")
                continue
            self.ring(replay).resumed(state["step"])
            self.kept = [(path.name, state["rows"])]
            return state
        table = self.folder.parent / "evaluations.csv"
        if not paths and len(table.read_text().splitlines() if table.exists() else []) < 2:  # killed at its very start
            return {}
        fail(f"--resume {self.folder.parent}: no checkpoint there is whole; start the run again")
