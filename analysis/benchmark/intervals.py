"""Interquartile means, probabilities of improvement, intervals, verdicts.

IQM and probability of improvement are those of rliable (Agarwal et al. 2021): the mean of the middle half of all scores
(25% trimmed at either end), and the share of pairs of seeds in which X is above Y, ties half, averaged over tasks.
Their intervals are percentiles of a stratified bootstrap, which draws seeds with replacement in each task by itself.
(rliable 1.2.0 itself cannot be imported beside our pins: its dependency arch fails with pandas 3. It also draws from
NumPy's global stream, so no page would come out twice the same.) A bootstrap over a few seeds is too narrow, so
differences of means have Welch's interval, and verdicts rest on these.
"""

import dataclasses

from analysis.report import interval

import numpy as np
from scipy import optimize, stats

REPETITIONS = 2000


def iqm(scores: np.ndarray) -> np.ndarray:
    """(.., seeds, tasks) -> (..): the mean without the lowest and highest quarter, rounded down, of all scores."""
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(.., seeds, tasks) twice -> (..): P(X > Y) + P(X = Y)/2, averaged over tasks."""
    pairs = x[..., :, None, :] - y[..., None, :, :]
    return ((pairs > 0) + (pairs == 0) / 2).mean((-3, -2, -1))


def resample(scores: np.ndarray, rng: np.random.Generator, repetitions: int) -> np.ndarray:
    """(seeds, tasks) -> (repetitions, seeds, tasks), seeds drawn in each task by itself."""
    rows = rng.integers(len(scores), size=(repetitions, *scores.shape))
    return scores[rows, np.arange(scores.shape[1])]


def bootstrap(statistic, *scores: np.ndarray, level: float = 0.95, repetitions: int = REPETITIONS) -> tuple:
    """A statistic of arrays (seeds, tasks), and the ends of its interval; the same numbers at every call."""
    rng = np.random.default_rng(0)
    drawn = statistic(*(resample(x, rng, repetitions) for x in scores))
    return statistic(*scores), *np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])


def mean_std(curves: np.ndarray) -> np.ndarray:
    """(.., seeds, steps) -> (..): the standard deviation over seeds, averaged over steps."""
    return curves.std(-2, ddof=1).mean(-1)


def steadier(x: np.ndarray, y: np.ndarray, level: float = 0.95, repetitions: int = REPETITIONS) -> tuple:
    """How much smaller X's spread over seeds is, log(spread of Y / spread of X), from curves (seeds, steps).

    Nothing can be told of fewer than three seeds, nor where so many are the same that none differs once
    one is left out. The interval is the delete-one jackknife's, by Student's quantile: seeds drawn twice would shrink a
    spread."""
    if min(len(x), len(y)) < 3:
        return np.nan, -np.inf, np.inf
    values, variance = [], 0.0
    for curves in (y, x):
        spreads = np.array([mean_std(np.delete(curves, i, axis=0)) for i in range(len(curves))])
        if (spreads <= 1e-12 * np.abs(curves).max()).any():
            return np.nan, -np.inf, np.inf
        without = np.log(spreads)
        values.append(np.log(mean_std(curves)))
        variance += (len(curves) - 1) * without.var()
    half = stats.t.ppf((1 + level) / 2, min(len(x), len(y)) - 1) * np.sqrt(variance)
    estimate = float(values[0] - values[1])
    return estimate, float(estimate - half), float(estimate + half)


# ---------------------------------------------------------------------------------------------------------- differences
POWER = 0.8  # how often a difference is to be told from zero


def smallest(error: float, freedom: float, level: float, power: float = POWER) -> float:
    """The smallest difference that a two-sided t-test at this level tells from zero, on the right side, with this
    power, from the standard error of a difference and its degrees of freedom: by the noncentral t distribution."""
    edge = stats.t.ppf((1 + level) / 2, freedom)
    high = edge
    while stats.nct.sf(edge, freedom, high) < power:
        high *= 2
    return error * optimize.brentq(lambda shift: stats.nct.sf(edge, freedom, shift) - power, 0, high)


@dataclasses.dataclass(frozen=True)
class Means:
    """X̄ - Ȳ of two arms' seeds, (S,) each, with Welch's interval."""

    x: np.ndarray
    y: np.ndarray

    def __call__(self, level: float) -> tuple[float, float, float]:
        return interval(self.x, self.y, level)

    def could_show(self, level: float) -> float:
        """`smallest`, were the arms' true deviations those seen; NaN where these tell nothing."""
        if not np.isfinite(self(level)[1]):
            return np.nan
        counts = np.array([len(self.x), len(self.y)])
        parts = np.array([self.x.var(ddof=1), self.y.var(ddof=1)]) / counts
        return smallest(np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / (counts - 1)).sum(), level)


@dataclasses.dataclass(frozen=True)
class Spreads:
    """How much closer X's seeds lie together than Y's (`steadier`), from curves (seeds, steps)."""

    x: np.ndarray
    y: np.ndarray

    def __call__(self, level: float) -> tuple[float, float, float]:
        return steadier(self.x, self.y, level)

    def could_show(self, level: float) -> float:
        estimate, low, _ = self(level)
        if not np.isfinite(low):
            return np.nan
        freedom = min(len(self.x), len(self.y)) - 1
        return smallest((estimate - low) / stats.t.ppf((1 + level) / 2, freedom), freedom, level)


# ------------------------------------------------------------------------------------------------------------- verdicts
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


@dataclasses.dataclass(frozen=True)
class Part:
    """What a claim says of one task: that a quantity is above zero, or within `margin` of it."""

    name: str
    estimate: object  # level -> (estimate, low, high), as `Means` and `Spreads` are, or None where no run is there
    margin: float = 0.0


def holm(parts: list[Part], error: float = 0.05) -> list[int]:
    """Which parts are told from zero, 1 above or -1 below, with Holm's correction over those that ran.

    The furthest of n is held against 5%/n, the next against 5%/(n - 1), and so on, until one is not told: in at most 5%
    of experiments is any part told that is zero."""
    told, left = [0] * len(parts), [i for i, part in enumerate(parts) if part.estimate]
    while left:
        level, before = 1 - error / len(left), len(left)
        for i in list(left):
            _, low, high = parts[i].estimate(level)
            if low > 0 or high < 0:
                told[i] = 1 if low > 0 else -1
                left.remove(i)
        if len(left) == before:
            break
    return told


def deciding(parts: list[Part], wanted: str) -> float:
    """The level that a part has to be told at for a claim to hold, were it the furthest from zero."""
    ran = max(1, sum(bool(part.estimate) for part in parts))
    return 1 - 0.05 / ran if wanted in ("any", "differ") else 0.95


def verdict(parts: list[Part], wanted: str) -> tuple[str, list[tuple]]:
    """What can be said at 95% of a claim, and each part's name, estimate, interval, and what `holm` tells of it.

    `all`: every part is above zero. It holds if every 95% interval is: a conjunction needs no correction. It does not
    if Holm tells one below zero. `any`: at least one is above; Holm tells which.
    `same`: every part is within its margin; it holds if every 95% interval is, and not if one, corrected, is outside.
    `no more`: no part is above its margin; the same of the intervals' upper and lower ends.
    `differ`: one is not zero; it holds if Holm tells one from zero, and not if all are within margins.
    A part without runs leaves the interval without ends, and is none of those over whose number is corrected.
    """
    none, ran = (np.nan, -np.inf, np.inf), sum(bool(part.estimate) for part in parts)
    levels = 0.95, 1 - 0.05 / max(1, ran)
    plain, strict = ([part.estimate(level) if part.estimate else none for part in parts] for level in levels)
    margins, told = [part.margin for part in parts], holm(parts)
    alike = all(-m < low and high < m for (_, low, high), m in zip(plain, margins))
    if wanted == "all":
        proved, refuted = all(low > 0 for _, low, _ in plain), -1 in told
    elif wanted == "any":
        proved, refuted = 1 in told, all(high < 0 for _, _, high in plain)
    elif wanted == "same":
        proved, refuted = alike, any(low > m or high < -m for (_, low, high), m in zip(strict, margins))
    elif wanted == "no more":
        proved = all(high < m for (_, _, high), m in zip(plain, margins))
        refuted = any(low > m for (_, low, _), m in zip(strict, margins))
    else:
        proved, refuted = any(told), alike
    rows = [(part.name, *numbers, sign) for part, numbers, sign in zip(parts, plain, told)]
    return HOLDS if proved else FAILS if refuted else OPEN, rows
