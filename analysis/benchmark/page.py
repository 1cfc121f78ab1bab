"""The papers' figures, tables and claims beside ours, from the results files of the benchmark's cells.

    python analysis/benchmark/page.py page                       # docs/results.md and its figures; benchmark.sh does it
    python analysis/benchmark/page.py table5 verdicts            # a section of it
    SCALE=paper python analysis/benchmark/page.py page           # docs/results-paper.md

Measures of a seed's curve: "best", HPO's, its best evaluation (D16); "mean", the mean of all its evaluations, which
says how fast it learned; "last", its last evaluation, MCMC-PO's. Intervals and verdicts: intervals.py.
"""

import functools
import math
import os
import re
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT, curves
from analysis.benchmark import standing
from analysis.benchmark.cells import SCALES, Cell, Place, cell, chosen, held, is_done, reach, read, untimely
from analysis.benchmark.claims import CLAIMS, HPO, NAMES, PRINTED, SECTIONS, Section
from analysis.benchmark.intervals import (
    OPEN,
    Means,
    Part,
    Spreads,
    bootstrap,
    deciding,
    improvement,
    iqm,
    verdict,
)
from analysis.records import (
    LOST_COMMIT,
    Arm,
    Key,
    alike,
    check_output,
    read_arm,
    read_rows,
    read_text,
    save_figure,
    write_whole,
)
from analysis.report import Parser, counted, diverged, spread, start, table
from runtime.messages import fail

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEASURES = {"best": lambda x: x.max(-1), "mean": lambda x: x.mean(-1), "last": lambda x: x[..., -1]}
PUBLISHED = ROOT / "results" / "published" / "sac.csv"
EARLY = "too early"
MARGIN = 0.2  # "similar" and "not sensitive" say no number: within a fifth of the second's mean


class Results:
    """The curves of the cells, as far as they have run."""

    def __init__(self, place: Place, lines: Path = ROOT / "benchmark.sh"):
        self.place, self.scale = place, place.scale
        self.lines = read(lines, place.scale)
        self.cells = {c.name: c for c in chosen(self.lines, [])}
        self.papers = {c.name: c.steps for c in chosen(read(lines, "paper"), [])}
        self.curves = functools.cache(self._curves)
        self.standing = {} if self.scale == "smoke" else standing.known()  # there episodes are cut

    def cell(self, arm: tuple, env_id: str) -> Cell | None:
        return self.cells.get(cell(arm[0], env_id, 1, 1, arm[1], "").name)

    def _curves(self, arm: tuple, env_id: str, until: int | None = None) -> Arm | None:
        """The evaluations of an arm, up to a step; None if its cell has none."""
        its = self.cell(arm, env_id)
        path = its and held(its, self.place)
        if path is None:
            return None
        known = read_arm([path], Key(env_id, its.script, its.flags, its.steps))
        until = its.steps if until is None else min(until, its.steps)
        return known.up_to(until) if known.steps[0] <= until else None

    def unfinished(self, arm: tuple, env_id: str) -> bool:
        """Whether an arm has run, and not to its end."""
        return self.curves(arm, env_id) is not None and not is_done(self.cell(arm, env_id), self.place)

    def command(self, what: str) -> str:
        return f"{'' if self.scale == SCALES[0] else f'SCALE={self.scale} '}python analysis/benchmark/page.py {what}"


def short(env_id: str) -> str:
    return re.sub(r"(Env)?-v\d+$", "", env_id.split("/")[-1])


# ------------------------------------------------------------------------------------------------------------ tables
def returns(section: Section, measure: str, results: Results) -> str:
    """An arm a column: the paper's number where one is printed, and ours; last what is earned without learning."""
    printed, head, rows = PRINTED.get(section.item), [f"environment ({measure})"], []
    known = section.arms[: len(printed[section.env_ids[0]])] if printed else ()  # the arms that the paper has
    arms = (*section.arms, *section.beside)
    for arm in arms:
        head += [f"{NAMES[arm]}: printed", "ours"] if arm in known else [NAMES[arm]]
    head += standing.KINDS if results.standing else ()
    for env_id in section.env_ids:
        row = [env_id]
        for arm in arms:
            found = beside(section, arm, env_id, results)
            ours = "not run" if found is None else counted_spread(found, measure, until(section, arm, env_id, results))
            row += [printed[env_id][known.index(arm)], ours] if arm in known else [ours]
        idle = results.standing.get(env_id, {})
        row += [spread(idle[kind]) if idle else "not measured" for kind in standing.KINDS if results.standing]
        rows.append(row)
    return table(head, rows)


def until(section: Section, arm: tuple, env_id: str, results: Results) -> int:
    """The step up to which a section shows an arm."""
    return results.cell(section.arms[0] if arm in section.beside else arm, env_id).steps


def beside(section: Section, arm: tuple, env_id: str, results: Results) -> Arm | None:
    """The evaluations of an arm that a section shows."""
    return results.curves(arm, env_id, until(section, arm, env_id, results))


def below(section: Section, measure: str, results: Results) -> str:
    """A sentence about the tasks on which standing still earns more than an arm does in the mean."""
    printed, tasks = PRINTED.get(section.item, {}), []
    for env_id in section.env_ids:
        still, less = results.standing.get(env_id, {}).get(standing.STILL, np.array([-np.inf])).mean(), []
        papers = [float(text.split()[0]) for text in printed.get(env_id, ())]
        less += [f"{NAMES[arm]} as printed ({x:.0f})" for arm, x in zip(section.arms, papers) if x < still]
        for arm in (*section.arms, *section.beside):
            if found := beside(section, arm, env_id, results):
                curve = found.curve()
                mean = MEASURES[measure](curve[np.isfinite(curve).all(1)]).mean() if len(curve) > diverged(curve) else 0
                at = f", at {found.steps[-1]:,}" if found.steps[-1] < until(section, arm, env_id, results) else ""
                less += [f"{NAMES[arm]} ({mean:.0f}{at})"] if mean < still else []
        names = " and ".join([", ".join(less[:-1]), *less[-1:]] if less[1:] else less)
        tasks += [f"on {env_id} ({still:.0f}) than {names}"] if less else []
    return f"The mean of standing still is higher {'; '.join(tasks)}." if tasks else ""


def counted_spread(arm: Arm, measure: str, steps: int) -> str:
    """Mean and deviation of the seeds that did not diverge, how many there are of both, and where they are if that is
    not at the end of their `steps`."""
    curve = arm.curve()
    whole, lost = curve[np.isfinite(curve).all(1)], diverged(curve)
    seeds = f"{len(whole)}, {lost} diverged" if lost else len(whole)
    at = f", at {arm.steps[-1]:,}" if arm.steps[-1] < steps else ""
    return f"{spread(MEASURES[measure](whole))} ({seeds}{at})"


def together(arms: list[Arm]) -> list[np.ndarray]:
    """Curves (S, T) of arms as far as all were evaluated alike; a seed that diverged counts as their lowest."""
    shared = arms[0]
    for arm in arms[1:]:
        shared, _ = alike(shared, arm)
    found = [alike(arm, shared)[0].curve() for arm in arms]
    low = min(x[np.isfinite(x)].min(initial=np.inf) for x in found)
    return [np.where(np.isfinite(x), x, low) for x in found]


def aggregates(section: Section, measure: str, results: Results) -> str:
    """IQM of each arm and its probability of improvement over the first, over the tasks where all arms are done."""
    cells = {env_id: [results.cell(arm, env_id) for arm in section.arms] for env_id in section.env_ids}
    env_ids = [env_id for env_id, its in cells.items() if all(is_done(c, results.place) for c in its)
               and any(np.isfinite(results.curves(arm, env_id).curve()).any() for arm in section.arms)]  # fmt: skip
    if not env_ids:
        return ""
    seeds = min(len(results.curves(arm, env_id).seeds) for arm in section.arms for env_id in env_ids)
    if seeds < 2:
        return ""
    scores = {arm: [] for arm in section.arms}
    for env_id in env_ids:
        found = together([results.curves(arm, env_id) for arm in section.arms])
        own = {arm: curve[:seeds] for arm, curve in zip(section.arms, found)}
        low, high = (f(x for curve in own.values() for x in curve.flat) for f in (min, max))
        for arm, curve in own.items():
            scores[arm].append((MEASURES[measure](curve) - low) / max(high - low, 1e-12))
    scores, rows = {arm: np.stack(x, axis=1) for arm, x in scores.items()}, []
    for arm in section.arms:
        row = [NAMES[arm], "{:.2f} | [{:.2f}, {:.2f}]".format(*bootstrap(iqm, scores[arm]))]
        if arm == section.arms[0]:
            row += ["", ""]
        else:
            better = bootstrap(improvement, scores[arm], scores[section.arms[0]])
            row += [f"{better[0]:.2f}", "[{:.2f}, {:.2f}]".format(*better[1:])]
        rows.append(row)
    names = NAMES[section.arms[0]]
    return table(
        [
            f"{len(env_ids)} of {len(section.env_ids)} tasks ({measure})",
            "IQM",
            "interval",
            f"P(improvement over {names})",
            "interval",
        ],
        rows,
    )


def estimate(part: tuple, results: Results):
    """X - Y of a claim's part (`Means` or `Spreads`), the margin of "same" and "no more", and what to say of it.

    Over what was evaluated alike, which has to reach the end of both, or of what has run of them: common steps, the
    first episodes that both have. The first is None where nothing has run, or nothing is alike."""
    env_id, x, y, measure = part
    arms = [results.curves(arm, env_id) for arm in (x, y)]
    if None in arms:
        return None, 0.0, "not run"
    goal, step = results.cell(x, env_id).steps, max({*arms[0].steps} & {*arms[1].steps}, default=0)
    short = [arm.steps[-1] < results.cell(which, env_id).steps for arm, which in zip(arms, (x, y))]
    if any(short):
        arms = [arm.up_to(step) for arm in arms if arm.steps[0] <= step]
    pair = alike(*arms) if len(arms) == 2 else None
    if pair is None or len({arm.steps[-1] for arm in (*arms, *pair)}) > 1:
        return None, 0.0, "not evaluated alike"
    lost, (x, y) = [diverged(arm.curve()) for arm in arms], counted(*(arm.curve() for arm in pair))
    notes, many = [], pair[0].values["return"].shape[2]
    if len({len(arm.steps) for arm in (*arms, *pair)}) > 1:
        notes.append(f"over {len(pair[0].steps)} common evaluations")
    if len({arm.values["return"].shape[2] for arm in arms}) > 1:
        notes.append(f"in {many} common episode{'s' * (many > 1)}")
    if any(len(arm.seeds) < results.cell(which, env_id).seeds for arm, which in zip(arms, part[1:3])):
        notes.insert(0, f"of {len(x)} and {len(y)} seeds")
    if any(short):
        notes.insert(0, f"at {step:,} of {goal:,} steps")
    if any(lost):
        notes.append(f"{lost[0]} of {len(x)} and {lost[1]} of {len(y)} seeds diverged")
    note = ", ".join(notes)
    if measure == "spread":
        return Spreads(curves.smooth(x), curves.smooth(y)), 0.0, note
    x, y = MEASURES[measure](x), MEASURES[measure](y)
    return Means(x, y), MARGIN * abs(y.mean()), note


def differences(section: Section, measure: str, results: Results) -> str:
    """Each arm less the first, with Welch's 95 % interval, on the tasks that have both."""
    first, arms, rows = section.arms[0], section.arms[1:], []
    for env_id in section.env_ids:
        found = [estimate((env_id, arm, first, measure), results) for arm in arms]
        numbers = [(math.nan,) * 3 if f is None else f(0.95) for f, _, _ in found]
        if any(math.isfinite(low) for _, low, _ in numbers):
            shown = [f"{x:+.0f} [{low:+.0f}, {high:+.0f}]" if math.isfinite(low) else "" for x, low, high in numbers]
            notes = [f", {note}" if cell and note else "" for cell, (_, _, note) in zip(shown, found)]
            rows.append([env_id, *map("".join, zip(shown, notes))])
    head = [f"difference to {NAMES[first]} ({measure})", *(NAMES[arm] for arm in arms)]
    return table(head, rows) if rows else ""


def part_text(part: Part, numbers: tuple, note: str, few: bool, digits: int, level: float | None) -> str:
    """What a verdict's row says of a task; at a `level`, what difference its seeds could have shown."""
    name, value, low, high, told = numbers
    if part.estimate is None:
        return f"{name}: {note}"
    note = f", {note}" * bool(note)
    if not np.isfinite(low):
        value = f"{value:+.{digits}f}, " if np.isfinite(value) else ""
        return f"{name}: {value}{'too few seeds' if few else 'no seed differs'}{note}"
    could = f", could show {part.estimate.could_show(level):.{digits}f}" if level else ""
    return f"{name}: {value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]{' *' * bool(told)}{could}{note}"


def verdicts(results: Results) -> str:
    """A row a claim; below them those of which no task has runs of both sides."""
    rows, waiting = [], []
    for claim in CLAIMS:
        parts, notes, few = [], [], []
        for part in claim.parts():
            env_id, x, y, measure = part
            name = short(env_id) + f", {NAMES[x]} − {NAMES[y]}" * (len(claim.couples) > 1)
            found, margin, note = estimate(part, results)
            parts.append(Part(name, found, margin))
            notes.append(note)
            arms = [results.curves(arm, env_id) for arm in (x, y)]
            few.append(min((len(arm.seeds) for arm in arms if arm), default=0) < (3 if measure == "spread" else 2))
        said, numbers = verdict(parts, claim.wanted)
        digits = 2 if claim.measure == "spread" else 0
        level = deciding(parts, claim.wanted) if said == OPEN else None
        each = zip(parts, numbers, notes, few)
        shown = [part_text(*x, digits, level) for x in each if x[2] != "not run"]
        missing = [part.name for part, note in zip(parts, notes) if note == "not run"]
        shown += [f"not run: {', '.join(missing)}"] if missing else []
        measure = {"spread": "log ratio of spreads"}.get(claim.measure, claim.measure)
        if len(missing) == len(parts):
            tasks = ", ".join(map(short, claim.env_ids)) if len(claim.env_ids) < 3 else ""
            waiting.append(f"- {claim.text} ({', '.join(filter(None, [claim.where, tasks]))})")
            continue
        if not any(part.estimate for part in parts):
            said = OPEN
        going = any(results.unfinished(arm, env_id) for env_id, *arms, _ in claim.parts() for arm in arms)
        if (said == OPEN and missing) or (going and (said == OPEN or claim.wanted in ("same", "no more", "differ"))):
            said = EARLY
        elif going:
            said = f"{said} so far"
        rows.append([claim.text, claim.where, measure, f"**{said}**", "; ".join(shown)])
    head = ["claim", "where", "measure", "verdict", "differences with 95 % intervals"]
    parts = [table(head, rows)] if rows else []
    parts += [NOT_RUN, "\n".join(waiting)] if waiting else []
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------------------------ figures
@functools.cache
def published() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps (T,) and returns (S, T) of each task in results/published/sac.csv, which others have measured."""
    tasks = {}
    for row in read_rows(PUBLISHED, ("environment", "seed", "step", "return")):
        tasks.setdefault(row["environment"], {}).setdefault(int(row["step"]), []).append(float(row["return"]))
    return {env_id: (np.array([*steps]), np.array([*steps.values()]).T) for env_id, steps in tasks.items()}


def thin_line(axis, env_id: str, until: int) -> None:
    """The mean of published seeds up to a step, of the tasks that have any; not smoothed, as they were evaluated more
    seldom than a window of long ones of ours is wide."""
    if env_id in published():
        steps, returns = published()[env_id]
        shown, label = steps <= until, f"SAC, published, {len(returns)} seeds"
        axis.plot(steps[shown] / 1000, returns.mean(0)[shown], color="gray", linewidth=0.8, label=label, zorder=1)


def draw(sections: list[Section], results: Results, path: Path | None) -> bool:
    """A panel for each task of the sections of which every arm has run: mean and one standard deviation over seeds.
    Whether there are any; without a path that is all."""
    panels = [(section, env_id) for section in sections for env_id in section.env_ids]
    panels = [(s, env_id) for s, env_id in panels if all(results.curves(arm, env_id) for arm in s.arms)]
    if not panels or path is None:
        return bool(panels)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.3 * rows), squeeze=False)
    for axis, (section, env_id) in zip(axes.flat, panels):
        for arm in section.arms:
            found = results.curves(arm, env_id)
            curves.plot(axis, found.steps, found.curve(), NAMES[arm])
        if section.item == "figure3":
            thin_line(axis, env_id, max(results.curves(arm, env_id).steps[-1] for arm in section.arms))
        axis.set(title=env_id, xlabel="thousand environment steps")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    save_figure(figure, path, 90)
    return True


# --------------------------------------------------------------------------------------------------------------- page
HEAD = """Written whole by `{page}`; edit nothing here. {done} of {cells} cells, a script on a task with its flags, are
done; `{run}` trains the others. {begun}"""
MEASURED = """Of a seed's evaluations "best" is the highest (D16), "mean" the mean of all, which tells how fast it
learned, "last" the last. Numbers are mean ± standard deviation over seeds, whose count stands in parentheses."""
NOTES = """Each file in `results/benchmark/` names its command; the command below a title prints the section's tables.
Commits and devices: {machines}. {unlike}{idle}The figures' steps are lost in HPO's text, and 1,000,000 are taken for
them. On Ant, Humanoid and HumanoidBullet HPO's Table 4 gives SAC-HPO's policy one hidden layer and SAC's two; what that
alone does on Ant is in `docs/lab/readings-old-start.md`."""
ELSEWHERE = """What runs elsewhere have told: on HalfCheetah-v4 with 20 seeds of a GPU
([start](lab/start.md#sac-hpo-on-the-other-start-20-seeds-on-a-gpu)); other readings of the paper there, and eight seeds
more of SAC, whose mean is lower, not told, so that SAC-HPO's distance to all sixteen, of the last evaluations, is
smaller than the one to eight below ([readings](readings.md)); more tasks, Figure 8 and the gap of amortisation,
on the start that runs had before November 2026 ([old page](lab/results-old-start.md))."""
BEGUN = """Begun, and shown as far as they have run, as their counts of seeds and "at" and a step say:"""
IDLE = """"Standing still" and "random actions" are mean ± standard deviation over ten episodes without any learning:
every action the middle of its range, and actions uniform over it (`python analysis/benchmark/standing.py`). """
RULES = """\
- A difference is the first minus the second, with Welch's 95 % interval, of what both arms were evaluated in alike:
  common steps, and the first episodes that both have.
- *could show*: where a claim is not told, the smallest true difference that as many seeds, were they to vary as
  these do, would tell from zero in 80 % of experiments: two-sided, by the noncentral t distribution, at 5 %, or,
  where one task of several is enough for the claim, at 5 % divided by their number.
- *log ratio of spreads*: the logarithm of a ratio of standard deviations over seeds, the mean of smoothed curves'
  steps, above zero where the first lie closer together, with the jackknife's interval.
- A claim about several tasks holds only if all of them have run and every interval is on its side, which needs no
  correction. It does not hold if a difference on the other side has a star. One rule corrects for several tasks,
  Holm's, over the tasks that ran: the difference furthest from zero is held against 5 % divided by their number, the
  next against 5 % divided by one less, and so on; those that it tells from zero have a star.
- *too early*: not all of a claim's runs have come to their end, and those that have decide nothing. Where a run goes
  on and a claim holds or does not hold, it does so far; to look often makes false verdicts likelier.
- *cannot be told*: all have, and seeds differ too much.
- Claims that name no number ("about the same", "not sensitive", "no more") take a fifth of the mean for a margin.
- A seed that diverged is counted, from there on as the lowest evaluation of the two arms. Where no seed differs from
  another nothing is told.
- All verdicts are about runs of this length and may differ from what longer ones show.
- Some claims have no row, since no script has their other arm: that noise in every Langevin step, MCMC-PO eq. (7),
  helps exploration, as the flow of eq. (9) stands alone; that a force without T_h leads to local optima, and that large
  T_h and σ_h make learning unstable (MCMC-PO §4.2)."""
KEY = """A difference is the first minus the second, with its 95 % interval; *could show* is the smallest true one that
as many seeds would reveal in 80 % of experiments; a log ratio of spreads is above zero where the seeds of the first lie
closer together. The rest is [below](#how-to-read-this)."""
ONE_ROW = """The paper prints one row for MCMC-PO and does not say of which algorithm; the networks of its §5 are HMC's.
SAC and SAC-HPO have HPO's α."""
THIN = """The thin grey line is the mean of SAC's ten seeds as the authors of SimbaV2 published them (source and
numbers: `results/published/sac.csv`), every 16,666 steps, unsmoothed. It has settings of its own, a tuned temperature
among them, so it tells the order of size, and no verdict rests on it."""
NOT_RUN = """Not comparable yet, as on none of their tasks both sides have run:"""
WAITING = """These lack runs; `bash benchmark.sh` and a name trains what is missing. Their arms of SAC and SAC-HPO stand
above where those have run."""
SHAPE = """A thousand actions of the base policy, and where exploration's dynamics carry them, on the contours of min Q
in two action dimensions, at a state that the agent visits, near the paper's 27, 58 and 88 % of the way. Results files
hold no agents: `{train}` makes them, in a folder RUN, and `{how}` draws them."""
AGGREGATES = """Each task's scores are scaled so that 0 is the lowest and 1 the highest evaluation of the scripts
compared. The interquartile mean and the probability of improvement over the first script are rliable's, with 95 %
percentile intervals of 2,000 stratified bootstraps over seeds in each task. Over few seeds these are too narrow, so
no verdict rests on them."""


def section_text(section: Section, results: Results) -> str:
    """A section's length and tables."""
    cells = [c for arm in section.arms for env_id in section.env_ids if (c := results.cell(arm, env_id))]
    lengths = {(c.steps, results.papers[c.name]) for c in cells}
    taken = "the paper's are" if section.item in ("table1", "mcmcpo") else "for the paper's we take"  # lost in HPO
    text = "; ".join(f"{ours:,} steps, {taken} {papers:,}" for ours, papers in sorted(lengths)) + "."
    tables = [
        f(section, measure, results) for measure in section.measures for f in (returns, below, differences, aggregates)
    ]
    return "\n\n".join(filter(None, [text[:1].upper() + text[1:], *tables]))


def told(results: Results) -> tuple[list[Section], list[Section]]:
    """The sections of which something has run that none before them shows, or numbers are printed; and the others."""
    shown, here, waiting = set(), [], []
    for section in SECTIONS:
        cells = [results.cell(arm, env_id) for arm in section.arms for env_id in section.env_ids]
        new = {c.name for c in cells if c and held(c, results.place)} - shown
        (here if new or section.item in PRINTED else waiting).append(section)
        shown |= new
    return here, waiting


def page_path(place: Place) -> Path:
    if place.scale == "smoke":
        return place.base / "results" / "benchmark" / "smoke" / "results.md"
    return place.base / "docs" / ("results.md" if place.scale == SCALES[0] else f"results-{place.scale}.md")


def page(results: Results, drawing: bool = True) -> str:
    """The whole page; draws its figures beside it."""
    place, path = results.place, page_path(results.place)
    files = {c: held(c, place) for c in results.cells.values()}
    files = {c: file for c, file in files.items() if file}
    done = [c for c in files if is_done(c, place)]
    heads = [read_text(file).split("\nstep,")[0] for file in dict.fromkeys(files.values())]
    begun = [f"{c.name} ({seeds} of {c.seeds} seeds at {step:,} of {c.steps:,} steps)"
             for c, file in files.items() if c not in done for seeds, step in [reach(c, file)]]  # fmt: skip
    pattern = rf"^#   commit (\w{{7}})\w*(-dirty)?; (.*)$(\n{LOST_COMMIT})?"
    commits = {x for head in heads for x in re.findall(pattern, head, re.M)}
    machines = {f"{commit}{dirty} on {device}" + " (not in the repository)" * bool(lost)
                for commit, dirty, device, lost in commits}  # fmt: skip
    machines = "; ".join(sorted(machines)) or "none yet"
    old = [f"{c.name} ({said})" for c in results.cells.values() if (said := untimely(c, place))]
    seen = {
        "--matmul-precision medium": "round wide products to bfloat16",
        "--eval-episodes 5": "are evaluated in 5 episodes",
    }
    parts = [
        f"{n} of the files {what} (`{flag}`)" for flag, what in seen.items() if (n := sum(flag in x for x in heads))
    ]
    unlike = f"{', '.join(parts)}, which cells of benchmark.sh do not; their first lines repeat them. " if parts else ""
    title = f"at {place.scale} scale"
    words = {"page": results.command("page"), "done": len(done), "cells": len(results.cells), "machines": machines}
    if old:
        unlike += f"Stale, of other values than their cells': {'; '.join(old)}. "
    words |= {
        "begun": f"{BEGUN} {'; '.join(begun)}." if begun else "",
        "idle": IDLE if results.standing else "",
        "unlike": unlike[:1].upper() + unlike[1:],
        "run": f"{'' if place.scale == SCALES[0] else f'SCALE={place.scale} '}bash benchmark.sh",
    }
    text = [f"# The papers' benchmark, {title}", HEAD.format(**words).strip()]
    text += [ELSEWHERE, MEASURED] if place.scale == SCALES[0] else [MEASURED]
    text += ["## Verdicts", f"`{results.command('verdicts')}`", KEY]
    text += verdicts(results).split("\n\n")
    drawn, (here, waiting) = {}, told(results)
    for section in here:
        if section.item not in drawn:
            figure = path.with_suffix("") / f"{section.item}.png"
            same = [other for other in here if other.item == section.item]
            drawn[section.item] = section.item.startswith("table") or not draw(
                same, results, figure if drawing else None
            )
        text += [f"## {section.title}", f"`{results.command(section.item)}`"]
        if not drawn[section.item]:
            drawn[section.item] = True
            text.append(f"![{section.title}]({path.stem}/{section.item}.png)")
            text += [THIN] if section.item == "figure3" else []
        text += [ONE_ROW] if section.item == "table1" else []
        text += section_text(section, results).split("\n\n")
    ant = results.cell(HPO, "Ant-v4")
    steps = (
        [round(part * ant.steps / 10_000) * 10_000 for part in (0.27, 0.58, 0.88)]
        if ant.steps >= 10_000
        else [ant.steps]
    )
    train = f"python sac_hpo_continuous.py --env-id Ant-v4 --num-seeds 2 --total-timesteps {ant.steps} --keep-agents"
    figure = (path.with_suffix("") / "figure8.png").relative_to(place.base)
    how = f"python analysis/policy_shape.py RUN --steps {' '.join(map(str, steps))} --output {figure}"
    eighth = "HPO Figure 8: shape of the policy's distribution"
    if (place.base / figure).exists():
        text += [f"## {eighth}", SHAPE.format(train=train, how=how)]
        text += [f"![Actions on the critics' landscape]({path.stem}/figure8.png)"]
    else:
        waiting.append(Section("figure8", f"{eighth}; then `{how}`", (), ()))
    if waiting:
        lines = [f"- `{s.item}`: {s.title}" for s in waiting]
        text += ["## What has not run", WAITING, "\n".join(lines)]
    text += ["## How to read this", NOTES.format(**words), RULES]
    if any(aggregates(section, measure, results) for section in here for measure in section.measures):
        text.append(AGGREGATES)
    fill = functools.partial(textwrap.fill, width=118, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(x if x[0] in "|#!`-" else fill(x) for x in text) + "\n"


def main(argv: list[str]) -> int:
    names = list(dict.fromkeys(section.item for section in SECTIONS))
    parser = Parser(__doc__)
    parser.add_argument("what", nargs="+", help=f"page, verdicts, {', '.join(names)}")
    parser.add_argument("--base", type=Path, default=ROOT, help="the folder of results/ and docs/")
    parser.add_argument("--keep-stale", action="store_true", help="show results of other values than their cell's too")
    options = parser.parse_args(argv)
    options.what = ["figure6" if what == "table6" else what for what in options.what]  # which stand together
    if "figure8" in options.what:
        fail("figure8 is drawn from agents, by analysis/policy_shape.py: docs/results.md has its command; its run is "
             "under runs/benchmark/ after bash benchmark.sh figure8")  # fmt: skip
    if unknown := [what for what in options.what if what not in (*names, "page", "verdicts")]:
        fail(f"no section {', '.join(unknown)}: choose among page, verdicts, {', '.join(names)}")
    if not (options.base / "results").is_dir():
        fail(f"--base {options.base}: no results/ there; name the folder that holds it")
    results = Results(Place(options.base.absolute(), os.environ.get("SCALE", SCALES[0]), options.keep_stale))
    for what in options.what:
        if what == "page":
            path = page_path(results.place)
            check_output(path, "--base")
            text = page(results)
            write_whole(path, text)
            print(f"{os.path.relpath(path)}: {text.count('**') // 2} verdicts")
        else:
            parts = [section_text(section, results) for section in SECTIONS if section.item == what]
            print("\n\n".join(parts or [verdicts(results)]))
    return 0


if __name__ == "__main__":
    start(main)
