"""Interquartile means, probabilities of improvement, intervals, verdicts.

IQM and probability of improvement are those of rliable (Agarwal et al. 2021): the mean of the middle half of all scores
(25% trimmed at either end), and the share of pairs of seeds in which X is above Y, ties half, averaged over tasks.
Their intervals are percentiles of a stratified bootstrap, which draws seeds with replacement in each task by itself.
(rliable 1.2.0 itself cannot be imported beside our pins: its dependency arch fails with pandas 3. It also draws from
NumPy's global stream, so no page would come out twice the same.) A bootstrap over a few seeds is too narrow, so
differences of means have Welch's interval, and verdicts rest on these.
"""

import dataclasses

import numpy as np
from scipy import stats

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


def welch(x: np.ndarray, y: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """x̄ - ȳ and its interval; without end where there is one seed."""
    difference = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return difference, -np.inf, np.inf
    if x.std() == y.std() == 0:
        return difference, difference, difference
    low, high = stats.ttest_ind(x, y, equal_var=False).confidence_interval(level)
    return difference, float(low), float(high)


def mean_std(curves: np.ndarray) -> np.ndarray:
    """(.., seeds, steps) -> (..): the standard deviation over seeds, averaged over steps."""
    return curves.std(-2, ddof=1).mean(-1)


def steadier(x: np.ndarray, y: np.ndarray, level: float = 0.95, repetitions: int = REPETITIONS) -> tuple:
    """How much smaller X's spread over seeds is, log(spread of Y / spread of X), from curves (seeds, steps).

    Its interval is the delete-one jackknife's, by Student's quantile: seeds drawn twice would shrink a spread."""
    if min(len(x), len(y)) < 3:
        return np.nan, -np.inf, np.inf
    values, variance = [], 0.0
    for curves in (y, x):
        without = np.log([mean_std(np.delete(curves, i, axis=0)) for i in range(len(curves))])
        values.append(np.log(mean_std(curves)))
        variance += (len(curves) - 1) * without.var()
    half = stats.t.ppf((1 + level) / 2, min(len(x), len(y)) - 1) * np.sqrt(variance)
    estimate = float(values[0] - values[1])
    return estimate, float(estimate - half), float(estimate + half)


# ------------------------------------------------------------------------------------------------------------- verdicts
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


@dataclasses.dataclass(frozen=True)
class Part:
    """What a claim says of one task: that a quantity is above zero, or within `margin` of it."""

    name: str
    estimate: object  # level -> (estimate, low, high), or None where no run is there
    margin: float = 0.0


def verdict(parts: list[Part], wanted: str) -> tuple[str, list[tuple]]:
    """What can be said at 95% of a claim, and each part's name, estimate and interval.

    `all`: every part is above zero. It holds if every 95% interval is: a conjunction needs no correction. It does not
    if one interval at 1 - 5%/n (Bonferroni) is below zero. `any`: at least one is above; the corrected intervals prove.
    `same`: every part is within its margin; it holds if every 95% interval is, and not if one, corrected, is outside.
    `differ`: one is not zero; it holds if one interval, corrected, leaves out zero, and not if all are within margins.
    A part without runs leaves the interval without ends.
    """
    none, levels = (np.nan, -np.inf, np.inf), (0.95, 1 - 0.05 / len(parts))
    plain, strict = ([part.estimate(level) if part.estimate else none for part in parts] for level in levels)
    margins = [part.margin for part in parts]
    alike = all(-m < low and high < m for (_, low, high), m in zip(plain, margins))
    if wanted == "all":
        proved, refuted = all(low > 0 for _, low, _ in plain), any(high < 0 for _, _, high in strict)
    elif wanted == "any":
        proved, refuted = any(low > 0 for _, low, _ in strict), all(high < 0 for _, _, high in plain)
    elif wanted == "same":
        proved, refuted = alike, any(low > m or high < -m for (_, low, high), m in zip(strict, margins))
    else:
        proved, refuted = any(low > 0 or high < 0 for _, low, high in strict), alike
    rows = [(part.name, *numbers) for part, numbers in zip(parts, plain)]
    return HOLDS if proved else FAILS if refuted else OPEN, rows
