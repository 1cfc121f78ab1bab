"""One clear line for what cannot be. Whoever starts the program turns a `Refused` into that line and exit code 2."""

import sys
from pathlib import Path
from typing import NoReturn


class Refused(Exception):
    """Bad input, or a machine that lacks something: what is wrong and what to do, in one line."""


class Fault(Exception):
    """A number that is not finite: what, of which seed."""


def fail(message: str) -> NoReturn:
    raise Refused(" ".join(message.split()))


def tell(message: object) -> None:
    """A line on stderr, after the program's name."""
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)
