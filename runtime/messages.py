"""One clear line for what cannot be. Whoever starts the program turns a `Refused` into that line and exit code 2."""

import errno
import sys
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

POOR = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # what a machine runs out of


class Refused(Exception):
    """Bad input, or a machine that lacks something: what is wrong and what to do, in one line."""


class Fault(Exception):
    """A number that is not finite: what, and of which seed, the i-th."""

    def __init__(self, what: str, seed: int, i: int = 0):
        super().__init__(f"{what} of seed {seed}")
        self.i = i


def fail(message: str) -> NoReturn:
    raise Refused(" ".join(message.split()))


def tell(message: object) -> None:
    """A line on stderr, after the program's name, and beside a progress bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)


NOTED = {}  # what is to be told once a run cannot be refused any more, and whether it has been


def note(message: str) -> None:
    """Keeps a line for `tell_notes`."""
    NOTED.setdefault(message, False)


def tell_notes() -> None:
    """Tells each note once in a process."""
    for message, told in NOTED.items():
        if not told:
            tell(message)
        NOTED[message] = True


def said(error: Exception) -> str:
    """An error's message in one line, or its type where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def out_of(error: Exception) -> str | None:
    """What the machine has run out of, in words, if that is what an error says."""
    if getattr(error, "errno", None) in POOR:
        return error.strerror
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out of memory (choose fewer --num-seeds, or a smaller --buffer-size or --batch-size)"
    return None
