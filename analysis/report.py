"""What programs print: Markdown tables, means and intervals over seeds, and one line for bad input."""

import argparse
import contextlib
import io
import re
import sys
import warnings
from typing import NoReturn

from runtime.messages import Fault, Refused, fail, tell

import numpy as np
from scipy import stats


# ------------------------------------------------------------------------------------------------------------ tables
def table(head: list, rows: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows])


def spread(values: np.ndarray, digits: int = 0) -> str:
    """Mean ± sample standard deviation over seeds; the value alone of one seed. Seeds that diverged are not in it."""
    values = np.asarray(values)[np.isfinite(values)]
    if len(values) == 0:
        return "diverged"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def ranged(values, format: str) -> str:
    """Mean, smallest and largest of some seeds."""
    return f"{np.mean(values):{format}} ({np.min(values):{format}} to {np.max(values):{format}})"


# --------------------------------------------------------------------------------------------------------- intervals
def interval(x: np.ndarray, y: np.ndarray | None = None, level: float = 0.95) -> tuple[float, float, float]:
    """x̄, or x̄ - ȳ, and its interval: Student's of one sample (of pairs, given their differences), Welch's of two.

    It has no ends where a sample has one seed, nor where no seed differs from another: then nothing tells how far
    another seed would lie."""
    value = float(x.mean() - (0 if y is None else y.mean()))
    samples = [x] if y is None else [x, y]
    if min(map(len, samples)) < 2 or all(np.ptp(sample) <= 1e-12 * np.abs(sample).max() for sample in samples):
        return value, -np.inf, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a sample is nearly constant, which its standard deviation tells
        test = stats.ttest_1samp(x, 0) if y is None else stats.ttest_ind(x, y, equal_var=False)
    low, high = test.confidence_interval(level)
    return value, float(low), float(high)


def ends(x: np.ndarray, y: np.ndarray | None = None, digits: int = 0) -> str:
    """The 95% interval in brackets, or why there is none."""
    _, low, high = interval(x, y)
    if np.isfinite(low):
        return f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    return "one seed" if min(len(x), len(x if y is None else y)) < 2 else "no seed differs"


def counted(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arms' curves (S, T) in which a seed that diverged, from there on, counts as the lowest evaluation of both."""
    finite = np.concatenate([x[np.isfinite(x)] for x in (left, right)])
    low = finite.min() if len(finite) else 0.0
    return tuple(np.where(np.isfinite(x), x, low) for x in (left, right))


def diverged(curve: np.ndarray) -> int:
    """How many seeds of a curve (S, T) have diverged."""
    return int((~np.isfinite(curve)).any(1).sum())


# ---------------------------------------------------------------------------------------------------------- programs
class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line. Its help is the program's docstring."""

    def __init__(self, doc: str, **options):
        first, _, rest = doc.partition("\n\n")
        super().__init__(description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False, **options)  # fmt: skip

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see --help")


def parsed(kind, doc: str, argv: list[str], texts: tuple[str, ...] = ()):
    """A dataclass of arguments from a command line; `texts` are flags whose value may begin with dashes."""
    import tyro  # half a second

    words = list(argv)
    for flag in texts:
        while flag in words[:-1]:
            i = words.index(flag)
            words[i : i + 2] = [f"{flag}={words[i + 1]}"]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, description=doc, args=words)
    except SystemExit as stop:
        if not stop.code:
            raise
    said = re.sub("[│╭╮╰╯]", "", complaint.getvalue().split("\n", 1)[-1])  # tyro draws a box
    fail(re.split("─{9,}", said)[0] + "; see --help")


def start(main) -> NoReturn:
    """Runs a program on its command line. Exit code 2 and one line for bad input, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that knows no Greek shows a question mark
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as refusal:
        tell(refusal)
        sys.exit(2)
    except Fault as fault:
        tell(f"{fault} is not finite")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(1)
