"""Checkpoints: files that are whole or absent, two kept, the replay's rows in files of their own."""

import hashlib
import io
import os
import pickle
import re
import zipfile
import zlib
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


def read_agent(path: Path):
    """What `write_file` wrote without its SHA-256. The archive has a CRC of each part, at which torch.load does not
    look: without it an altered weight would load like any other. ValueError where one is wrong."""
    data = io.BytesIO(path.read_bytes())
    try:
        altered = zipfile.ZipFile(data).testzip() if zipfile.is_zipfile(data) else None
    except (zipfile.BadZipFile, zlib.error) as error:
        altered = error
    if altered:
        raise ValueError(f"it is damaged in {altered}")
    data.seek(0)
    return torch.load(data, weights_only=True, map_location="cpu")


class Checkpoints:
    """The two newest checkpoints of a run, and the lock that keeps a second process out.

    The replay is a Ring (runtime/replay.py). Rows lie in files of their own,
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
            write_file(self.folder / f"rows-{start}-{step}.pt", replay.part(start, step))
            rows = [*(span for span in rows if span[1] > oldest), (start, step)]
        name = f"step-{step}.pt"
        write_file(self.folder / name, state | {"rows": rows})
        self.kept = [*(kept for kept in self.kept[-1:] if kept[0] != name), (name, rows)]
        needed = {name for name, _ in self.kept} | {f"rows-{a}-{b}.pt" for _, rows in self.kept for a, b in rows}
        for path in self.own(r"(step-\d+|rows-\d+-\d+)\.(pt|part)"):
            if path.name not in needed:
                path.unlink()

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
                    replay.put(start, stop, read_file(self.folder / f"rows-{start}-{stop}.pt"))
                restore(state)
            except BAD_CONTENT as error:
                if out_of(error):  # no fault of the file's
                    raise
                said = " ".join(str(error).split())[:200]
                tell(f"{said if type(error) is ValueError else repr(said)}: {path.name} cannot be used")
                continue
            replay.resumed(state["step"])
            self.kept = [(path.name, state["rows"])]
            return state
        table = self.folder.parent / "evaluations.csv"
        if (
            not paths and len(table.read_text(encoding="utf-8").splitlines() if table.exists() else []) < 2
        ):  # killed at its very start
            return {}
        fail(f"--resume {self.folder.parent}: no checkpoint there is whole; start the run again")
