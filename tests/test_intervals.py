"""Interquartile means, probabilities of improvement, intervals and verdicts, on numbers that can be checked by hand."""

from pathlib import Path

from analysis import ROOT
from analysis.benchmark import intervals
from analysis.benchmark.intervals import (
    FAILS,
    HOLDS,
    OPEN,
    Means,
    Part,
    Spreads,
    bootstrap,
    deciding,
    holm,
    improvement,
    iqm,
    smallest,
    steadier,
    verdict,
)
from analysis.experiments import outside
from analysis.report import interval as welch

import numpy as np
import pytest
from scipy import stats


def test_interquartile_mean_by_hand_and_as_rliable_defines_it():
    """Of 1 to 8 the middle half is 3 to 6; rliable's is scipy's mean trimmed by a quarter, of all runs of all tasks."""
    assert iqm(np.array([[1, 8], [7, 2], [3, 6], [5, 4]])) == 4.5
    assert iqm(np.array([[0.0], [1.0], [2.0], [3.0], [100.0]])) == 2  # of five, one is left out at either end
    rng = np.random.default_rng(0)
    for shape in ((3, 1), (5, 3), (8, 5), (10, 1)):
        scores = rng.standard_cauchy(shape)
        assert iqm(scores) == pytest.approx(stats.trim_mean(scores, proportiontocut=0.25, axis=None), rel=1e-12)
    many = rng.normal(size=(7, 4, 3))
    assert iqm(many) == pytest.approx([iqm(x) for x in many])


def test_probability_of_improvement_by_hand_and_as_rliable_defines_it():
    """Task one: 3 of 4 pairs and a tie; task two: none of 4. rliable's is Mann-Whitney's U over pairs, by task."""
    x, y = np.array([[2, 0], [5, 1]]), np.array([[2, 9], [1, 8]])
    assert improvement(x, y) == (3.5 / 4 + 0) / 2
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, (8, 3)), rng.integers(0, 6, (5, 3))
    u = [stats.mannwhitneyu(x[:, i], y[:, i], alternative="greater")[0] / 40 for i in range(3)]
    assert improvement(x, y) == pytest.approx(np.mean(u), rel=1e-12)
    assert improvement(x, x) == 0.5


def test_the_bootstrap_of_a_mean_is_the_normal_interval():
    """By the central limit theorem x̄ ± 1.96 s/√n; of strata the variances add, whatever lies between tasks."""
    rng = np.random.default_rng(2)
    x = rng.exponential(size=(300, 1))
    value, low, high = bootstrap(lambda s: s.mean((-2, -1)), x, repetitions=20_000)
    half = 1.96 * x.std() / np.sqrt(300)
    assert value == x.mean() and [low, high] == pytest.approx([x.mean() - half, x.mean() + half], abs=0.04 * half)
    x = np.concatenate([x, 1000 + 3 * rng.exponential(size=(300, 1))], axis=1)
    _, low, high = bootstrap(lambda s: s.mean((-2, -1)), x, repetitions=20_000)
    half = 1.96 * np.sqrt((x.var(0) / 300).sum()) / 2
    assert high - low == pytest.approx(2 * half, rel=0.04)
    assert bootstrap(iqm, x[:9]) == bootstrap(iqm, x[:9])  # a page comes out the same twice


def test_the_bootstrap_draws_each_seed_of_each_task_alike():
    """Of seeds {0, 1} two draws are both 0, mixed or both 1 in the ratio 1:2:1, and independently in two tasks."""
    drawn = intervals.resample(np.array([[0, 0], [1, 1]]), np.random.default_rng(0), 40_000).sum(1)
    counts = np.histogram2d(*drawn.T, bins=[[0, 1, 2, 3]] * 2)[0] / 40_000
    assert counts == pytest.approx(np.outer([1, 2, 1], [1, 2, 1]) / 16, abs=0.01)


def test_welch_by_its_formula():
    """x̄ - ȳ = -2, variances 1 and 4: a standard error of √(5/3), (5/3)² / ((1/3)²/2 + (4/3)²/2) degrees of freedom."""
    value, low, high = welch(np.array([1.0, 2, 3]), np.array([2.0, 4, 6]))
    half = stats.t.ppf(0.975, (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)) * np.sqrt(5 / 3)
    assert [value, low, high] == pytest.approx([-2, -2 - half, -2 + half])
    assert welch(np.ones(1), np.zeros(4)) == (1, -np.inf, np.inf)  # one seed tells nothing
    assert welch(np.ones(3), np.zeros(3)) == (1, -np.inf, np.inf)  # nor do seeds of which none differs


def test_how_much_closer_seeds_lie():
    """Twice the spread is log 2; of many normal seeds its variance is 1/(2n) + 1/(2m), by the delta method."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 10))
    value, low, high = steadier(x, 5 + 2 * x)
    assert value == pytest.approx(np.log(2)) and low < value < high
    assert steadier(5 + 2 * x, x)[0] == pytest.approx(-np.log(2))
    x, y = rng.normal(size=(400, 1)), rng.normal(size=(300, 1))
    _, low, high = steadier(x, y)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(1 / 800 + 1 / 600), rel=0.1)
    assert steadier(x[:2], y)[1:] == (-np.inf, np.inf)


def test_what_seeds_could_have_shown_by_a_published_table_and_by_its_limits():
    """Cohen's d for 80% at 5%: 17 a group for 1, 26 for 0.8, 64 for 0.5. With many degrees of freedom z's sum."""
    for count, effect in ((17, 1.0), (26, 0.8), (64, 0.5)):
        assert smallest(np.sqrt(2 / count), 2 * count - 2, 0.95) == pytest.approx(effect, rel=0.02), count
    z = stats.norm.ppf
    assert smallest(3.0, 1e6, 0.99) == pytest.approx(3 * (z(0.995) + z(0.8)), rel=1e-3)
    x, y = np.arange(8.0), 3 * np.arange(5.0)  # variances 6 and 22.5: of the means 0.75 and 4.5
    freedom = 5.25**2 / (0.75**2 / 7 + 4.5**2 / 4)
    assert Means(x, y).could_show(0.95) == pytest.approx(smallest(np.sqrt(5.25), freedom, 0.95))
    assert Means(x + 100, y).could_show(0.99) == pytest.approx(smallest(np.sqrt(5.25), freedom, 0.99))
    assert np.isnan(Means(x[:1], y).could_show(0.95)) and np.isnan(Means(np.ones(3), np.ones(4)).could_show(0.95))
    assert np.isnan(Spreads(x[:2, None], y[:, None]).could_show(0.95))


@pytest.mark.parametrize(("seeds", "deviations", "level"), [((8, 8), (1, 1), 0.95), ((8, 4), (1, 3), 0.95),
                                                            ((8, 8), (2, 1), 0.99)])  # fmt: skip
def test_seeds_show_in_80_percent_of_experiments_what_they_could_show(seeds, deviations, level):
    """4,000 experiments at that true difference: told from zero, and above it, as often as is said."""
    rng = np.random.default_rng(8)
    z = [rng.normal(size=n) for n in seeds]
    own = [s * (x - x.mean()) / x.std(ddof=1) for s, x in zip(deviations, z)]  # deviations as they truly are
    shift = Means(*own).could_show(level)
    x, y = (s * rng.normal(size=(4000, n)) for s, n in zip(deviations, seeds))
    low, _ = stats.ttest_ind(x + shift, y, axis=1, equal_var=False).confidence_interval(level)
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.025)


@pytest.mark.slow
def test_seeds_show_in_80_percent_of_experiments_how_much_closer_they_lie():
    """The same of spreads, about which the jackknife's error is itself little known."""
    rng = np.random.default_rng(9)

    def drawn(scale=1.0):
        return scale * (rng.normal(size=(8, 1)) + rng.normal(size=(8, 10)) / 2)

    larger = np.exp(np.mean([Spreads(drawn(), drawn()).could_show(0.95) for _ in range(150)]))
    shown = [steadier(drawn(), drawn(larger))[1] > 0 for _ in range(400)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)


def test_the_level_of_what_could_be_shown():
    parts = [part(-1, 1), part(-1, 1), Part("", None)]
    assert [deciding(parts, wanted) for wanted in ("all", "same")] == [0.95] * 2
    assert [deciding(parts, wanted) for wanted in ("any", "differ")] == [0.975] * 2


def part(low, high, margin=0.0, strict=None):
    """A part with this interval at 95%, and another one at a stricter level."""
    ends = {0.95: (low, high)}
    return Part("", lambda level: (0.0, *(ends.get(level) or strict or (low, high))), margin)


def test_verdicts():
    up, down, wide = part(1, 9), part(-9, -1), part(-1, 1)
    barely_down = part(-9, -1, strict=(-11, 1))  # which one of many is now and then by chance
    barely_up = part(1, 9, strict=(-1, 11))
    missing = Part("", None)
    for parts, wanted, said in [
        ([up, up], "all", HOLDS),
        ([barely_up, barely_up], "all", HOLDS),  # a conjunction needs no correction
        ([up, wide], "all", OPEN),
        ([up, missing], "all", OPEN),
        ([missing], "all", OPEN),
        ([down, up, up], "all", FAILS),
        ([down, missing], "all", FAILS),
        ([barely_down, wide], "all", OPEN),
        ([barely_down, up], "all", FAILS),  # Holm: with the other told, it is held against 5%
        ([down], "all", FAILS),
        ([up, down], "any", HOLDS),
        ([barely_up, wide], "any", OPEN),
        ([barely_up, missing], "any", HOLDS),  # what did not run is not corrected for
        ([down, barely_down], "any", FAILS),
        ([down, missing], "any", OPEN),
        ([up, down], "differ", HOLDS),
        ([wide, barely_up], "differ", OPEN),
        ([part(-1, 1, 2), part(-1, 1.5, 2)], "differ", FAILS),
        ([part(-1, 1, 2), part(-1, 1.5, 2)], "same", HOLDS),
        ([part(-1, 1, 2), part(-1, 3, 2)], "same", OPEN),
        ([part(-1, 1, 2), part(3, 4, 2)], "same", FAILS),
        ([part(-1, 1, 2), part(3, 4, 2, strict=(1, 5))], "same", OPEN),
        ([part(-1, 1, 2), missing], "same", OPEN),
        ([part(-9, -3, 2), part(-1, 1.5, 2)], "no more", HOLDS),
        ([part(-9, 3, 2)], "no more", OPEN),
        ([part(-1, 1, 2), part(3, 4, 2)], "no more", FAILS),
        ([part(-1, 1, 2), part(3, 4, 2, strict=(1, 5))], "no more", OPEN),
        ([part(-1, 1, 2), missing], "no more", OPEN),
    ]:
        assert verdict(parts, wanted)[0] == said, (parts, wanted)


def test_holm_by_hand():
    """p-values 0.01, 0.02, 0.04 of three: 5%/3, 5%/2 and 5% tell all; with 0.03 for 0.02, 5%/2 tells no more."""

    def with_p(p, sign=1):
        return Part("", lambda level: (sign, *sorted((2 * sign, sign if p < 1 - level else -sign))))

    assert holm([with_p(0.04), with_p(0.01, -1), with_p(0.02), Part("", None)]) == [1, -1, 1, 0]
    assert holm([with_p(0.04), with_p(0.01, -1), with_p(0.03)]) == [0, -1, 0]
    assert holm([with_p(0.04)]) == [1] and holm([Part("", None)]) == [0]


def test_a_verdict_shows_its_intervals_at_95_percent():
    _, rows = verdict([Part("task", lambda level: (1.0, -level, level))] * 3, "all")
    assert rows == [("task", 1.0, -0.95, 0.95, 0)] * 3


@pytest.mark.slow
def test_verdicts_err_as_seldom_as_they_say():
    """Of 200 experiments on five tasks without a difference, a true "all" would be refuted in at most 5%."""
    rng, refuted = np.random.default_rng(4), 0
    for _ in range(200):
        x = rng.normal(size=(2, 5, 8))
        parts = [Part("", lambda level, a=a, b=b: welch(a, b, level)) for a, b in zip(*x)]
        said, _ = verdict(parts, "all")
        refuted += said == FAILS
        assert said != HOLDS
    assert 1 <= refuted <= 10  # one-sided: 2.5% are expected, 5 of 200


def test_beside_published_seeds(capsys):
    """Where steps are within 1%: 50,000 and 49,998, not 30,000 and 33,332; by the numbers of the file itself."""
    mine = np.array([5000.0, 6000.0, 7000.0])
    rows = [f"{t},{s + 1},0,{mine[s] + t / 1000},9" for t in (30_000, 50_000) for s in range(3)]
    path = Path("HalfCheetah-v4__published.csv")
    path.write_text("\n".join(["step,seed,episode,return,length", *rows]) + "\n")
    assert outside.main(["beside", str(path)]) == 0
    lines = [line.split(",") for line in (ROOT / "results/published/sac.csv").read_text().splitlines()]
    theirs = np.array([float(x[3]) for x in lines if (x[0], x[2:3]) == ("HalfCheetah-v4", ["49998"])])
    assert len(theirs) == 10
    low, high = stats.ttest_ind(mine + 50, theirs, equal_var=False).confidence_interval()
    row = f"| 50,000 | 6050 ± 1000 | 49,998 | {theirs.mean():.0f} ± {theirs.std(ddof=1):.0f} | "
    row += f"{6050 - theirs.mean():+.0f} [{low:+.0f}, {high:+.0f}] |"
    out = capsys.readouterr().out
    assert row in out and "30,000" not in out
    assert outside.main(["beside"]) == outside.main(["beside", str(path), str(path)]) == 2
    assert outside.main(["beside", "Pendulum-v1__mine.csv"]) == outside.main(["beside", "Hopper-v4__none.csv"]) == 2
