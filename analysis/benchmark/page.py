"""The papers' figures, tables and claims beside ours, from the results files of the benchmark's cells.

    python analysis/benchmark/page.py page                       # docs/results.md and its figures; benchmark.sh does it
    python analysis/benchmark/page.py table5 verdicts            # a section of it
    SCALE=paper python analysis/benchmark/page.py page           # docs/results-paper.md

Measures of a seed's curve: "best", HPO's, its best evaluation (D16); "mean", the mean of all its evaluations, which
says how fast it learned; "last", its last evaluation, MCMC-PO's. Intervals and verdicts: intervals.py.
"""

import argparse
import functools
import math
import os
import re
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis import gap, policy_shape
from analysis.benchmark.cells import ROOT, SCALES, Cell, Place, cell, chosen, is_done, read
from analysis.benchmark.claims import CLAIMS, HPO, NAMES, PRINTED, SECTIONS, Section
from analysis.benchmark.intervals import Part, bootstrap, improvement, iqm, steadier, verdict, welch
from analysis.curves import smooth
from analysis.tables import load, spread, table
from runtime.messages import Refused, fail, tell

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEASURES = {"best": lambda x: x.max(-1), "mean": lambda x: x.mean(-1), "last": lambda x: x[..., -1]}
MARGIN = 0.2  # "similar" and "not sensitive" say no number: within a fifth of the second's mean


class Results:
    """The curves of the cells that are done."""

    def __init__(self, place: Place, lines: Path = ROOT / "benchmark.sh"):
        self.place, self.scale = place, place.scale
        self.lines = read(lines, place.scale)
        self.cells = {c.name: c for c in chosen(self.lines, [])}
        self.papers = {c.name: c.steps for c in chosen(read(lines, "paper"), [])}
        self.curves = functools.cache(self._curves)

    def cell(self, arm: tuple, env_id: str) -> Cell | None:
        return self.cells.get(cell(arm[0], env_id, 1, 1, arm[1], "").name)

    def _curves(self, arm: tuple, env_id: str, until: int | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Steps (T,) and mean returns (S, T) of an arm, up to a step; None if its cell is not done."""
        its = self.cell(arm, env_id)
        if its is None or not is_done(its, self.place):
            return None
        steps, episodes = load(self.place.results(its), until=until)
        return steps, episodes.mean(2)

    def command(self, what: str) -> str:
        return f"{'' if self.scale == SCALES[0] else f'SCALE={self.scale} '}python analysis/benchmark/page.py {what}"


def short(env_id: str) -> str:
    return re.sub(r"(Env)?-v\d+$", "", env_id.split("/")[-1])


# ------------------------------------------------------------------------------------------------------------ tables
def returns(section: Section, measure: str, results: Results) -> str:
    """An arm a column: the paper's number where one is printed, and ours."""
    printed, head, rows = PRINTED.get(section.item), [f"environment ({measure})"], []
    known = section.arms[: len(printed[section.env_ids[0]])] if printed else ()  # the arms that the paper has
    arms = (*section.arms, *section.beside)
    for arm in arms:
        head += [f"{NAMES[arm]}: printed", "ours"] if arm in known else [NAMES[arm]]
    for env_id in section.env_ids:
        row = [env_id]
        for arm in arms:
            until = results.cell(section.arms[0], env_id).steps if arm in section.beside else None
            curves = results.curves(arm, env_id, until)
            ours = "not run" if curves is None else f"{spread(MEASURES[measure](curves[1]))} ({len(curves[1])})"
            row += [printed[env_id][known.index(arm)], ours] if arm in known else [ours]
        rows.append(row)
    return table(head, rows)


def aggregates(section: Section, measure: str, results: Results) -> str:
    """IQM of each arm and its probability of improvement over the first, over the tasks that all arms have."""
    env_ids = [env_id for env_id in section.env_ids if all(results.curves(arm, env_id) for arm in section.arms)]
    if not env_ids:
        return ""
    seeds = min(len(results.curves(arm, env_id)[1]) for arm in section.arms for env_id in env_ids)
    if seeds < 2:
        return ""
    scores = {arm: [] for arm in section.arms}
    for env_id in env_ids:
        curves = {arm: results.curves(arm, env_id)[1][:seeds] for arm in section.arms}
        low, high = (f(x for curve in curves.values() for x in curve.flat) for f in (min, max))
        for arm, curve in curves.items():
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
    """level -> (X - Y, low, high) of a claim's part, and the margin of "same"; None where a cell is not done."""
    env_id, x, y, measure = part
    x, y = (results.curves(arm, env_id) for arm in (x, y))
    if x is None or y is None:
        return None, 0.0
    if measure == "spread":
        return (lambda level: steadier(smooth(x[1]), smooth(y[1]), level)), 0.0
    x, y = MEASURES[measure](x[1]), MEASURES[measure](y[1])
    return (lambda level: welch(x, y, level)), MARGIN * abs(y.mean())


def differences(section: Section, measure: str, results: Results) -> str:
    """Each arm less the first, with Welch's 95 % interval, on the tasks that have both."""
    first, arms, rows = section.arms[0], section.arms[1:], []
    for env_id in section.env_ids:
        found = [estimate((env_id, arm, first, measure), results)[0] for arm in arms]
        numbers = [(math.nan,) * 3 if f is None else f(0.95) for f in found]
        if any(math.isfinite(low) for _, low, _ in numbers):
            shown = [f"{x:+.0f} [{low:+.0f}, {high:+.0f}]" if math.isfinite(low) else "" for x, low, high in numbers]
            rows.append([env_id, *shown])
    head = [f"difference to {NAMES[first]} ({measure})", *(NAMES[arm] for arm in arms)]
    return table(head, rows) if rows else ""


def verdicts(results: Results) -> str:
    rows = []
    for claim in CLAIMS:
        parts, shown = [], []
        for part in claim.parts():
            env_id, x, y, measure = part
            many = len(claim.couples) > 1
            name = short(env_id) + f", {NAMES[x]} − {NAMES[y]}" * many
            parts.append(Part(name, *estimate(part, results)))
        said, numbers = verdict(parts, claim.wanted)
        digits = 2 if claim.measure == "spread" else 0
        for name, value, low, high in numbers:
            if parts[len(shown)].estimate is None:
                shown.append(f"{name}: not run")
            elif not np.isfinite(low):
                shown.append(f"{name}: {f'{value:+.{digits}f}, ' * bool(np.isfinite(value))}too few seeds")
            else:
                shown.append(f"{name}: {value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
        measure = {"spread": "log ratio of spreads"}.get(claim.measure, claim.measure)
        if not any(part.estimate for part in parts):
            said, shown = "not run", []
        rows.append([claim.text, claim.where, measure, f"**{said}**", "; ".join(shown)])
    return table(["claim", "where", "measure", "verdict", "differences with 95 % intervals"], rows) if rows else ""


# ------------------------------------------------------------------------------------------------------------ figures
def draw(sections: list[Section], results: Results, path: Path | None) -> bool:
    """A panel for each task of the sections of which every arm is done: mean and one standard deviation over seeds,
    smoothed. Whether there are any; without a path that is all."""
    panels = [(section, env_id) for section in sections for env_id in section.env_ids]
    panels = [(s, env_id) for s, env_id in panels if all(results.curves(arm, env_id) for arm in s.arms)]
    if not panels or path is None:
        return bool(panels)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.3 * rows), squeeze=False)
    for axis, (section, env_id) in zip(axes.flat, panels):
        for arm in section.arms:
            curves = results.curves(arm, env_id)
            steps, values = curves[0] / 1000, smooth(curves[1])
            mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0
            (line,) = axis.plot(steps, mean, label=f"{NAMES[arm]}, {len(values)} seeds")
            axis.fill_between(steps, mean - std, mean + std, alpha=0.2, color=line.get_color())
        axis.set(title=env_id, xlabel="thousand environment steps")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    return True


# --------------------------------------------------------------------------------------------------------------- page
HEAD = """Written whole by `{page}`; edit nothing here. {done} of {cells} cells are done; `{run}` goes on with the
others. Commits and devices: {machines}. Each file in `results/benchmark/{scale}/` names its command; the command
below a title prints the section's tables. Numbers are mean ± standard deviation over seeds (their count in
parentheses) of "best", each seed's best evaluation (D16), of "mean", its mean over all evaluations, which tells
speed, or of "last", its last one. {unlike}The figures' steps are lost in HPO's text, and 1,000,000 are taken for them.
On Ant, Humanoid and HumanoidBullet HPO's Table 4 gives SAC-HPO's policy one hidden layer and SAC's two; what
that alone does on Ant is in `docs/readings.md`."""
RULES = """Differences of means have Welch's 95 % interval. A claim about several tasks holds if every interval is
on its side, and does not hold if one is on the other, corrected for their number (Bonferroni); else it cannot be
told from these runs. A claim of whose runs there are none is "not run". Claims that name no number ("about the
same", "not sensitive") take a fifth of the mean for a margin. How far seeds lie apart is compared by the logarithm of
a ratio of standard deviations, above zero where the first lie closer together, with the jackknife's interval. All of
them are about runs of this length and may differ from what longer ones show."""
SHAPE = """A thousand actions of the base policy, and where exploration's dynamics carry them, on the contours of min Q
in two action dimensions, at a state that the agent visits, near the paper's 27, 58 and 88 % of the way. Results files
hold no agents: `{train}` makes them, in a folder RUN, and `{how}` draws them."""
DRAWN = """The paper says that evolved actions lie where Q is higher, and spread wider. Over 32 states that each of
these agents visits: min Q at the actions before and after, and how far a state's actions spread (root mean square
about their mean, a dimension), with exploration's momentum and, by --momentum-std 0.1, with training's. `python
analysis/policy_shape.py --show results/shape/*.csv`:"""
GAP = """HPO says that the dynamics narrow the gap between the policy's actions and the best ones. For agents at the end
of training, at 32 states that they visit: how far the objective lies below that of a Gaussian fitted to each state
alone, without and with the dynamics, in units of return (analysis/gap.py). The entropy with them is eq. (15)'s, of
action and momentum together; that of the action alone may be lower, so what they narrow may be less. `python
analysis/gap.py --show results/gap/*.csv`:"""
AGGREGATES = """Each task's scores are scaled so that 0 is the lowest and 1 the highest evaluation of the scripts
compared. The interquartile mean and the probability of improvement over the first script are rliable's, with 95 %
percentile intervals of 2,000 stratified bootstraps over seeds in each task. Over few seeds these are too narrow, so
no verdict rests on them."""


def section_text(section: Section, results: Results) -> str:
    """A section's length and tables."""
    cells = [c for arm in section.arms for env_id in section.env_ids if (c := results.cell(arm, env_id))]
    lengths = {(c.steps, results.papers[c.name]) for c in cells}
    text = "; ".join(f"{ours:,} steps, the paper's are {papers:,}" for ours, papers in sorted(lengths)) + "."
    tables = [f(section, measure, results) for measure in section.measures for f in (returns, differences, aggregates)]
    return "\n\n".join(filter(None, [text[:1].upper() + text[1:], *tables]))


def page_path(place: Place) -> Path:
    if place.scale == "smoke":
        return place.base / "results" / "benchmark" / "smoke" / "results.md"
    return place.base / "docs" / ("results.md" if place.scale == SCALES[0] else f"results-{place.scale}.md")


def page(results: Results, drawing: bool = True) -> str:
    """The whole page; draws its figures beside it."""
    place, path = results.place, page_path(results.place)
    done = [c for c in results.cells.values() if is_done(c, place)]
    heads = [place.results(c).read_text().split("\nstep,")[0] for c in done]
    commits = {x for head in heads for x in re.findall(r"^#   commit (\w{7})\w*(-dirty)?; (.*)$", head, re.M)}
    machines = "; ".join(sorted(f"{commit}{dirty} on {device}" for commit, dirty, device in commits)) or "none yet"
    seen = {
        "--matmul-precision medium": "round wide products to bfloat16",
        "--eval-episodes 5": "are evaluated in 5 episodes",
    }
    parts = [f"{n} of them {what} (`{flag}`)" for flag, what in seen.items() if (n := sum(flag in x for x in heads))]
    unlike = f"{', '.join(parts)}; their files' first lines say which. " if parts else ""
    title = f"at {place.scale} scale"
    words = {"page": results.command("page"), "done": len(done), "cells": len(results.cells), "machines": machines}
    words |= {
        "unlike": unlike[:1].upper() + unlike[1:],
        "run": f"{'' if place.scale == SCALES[0] else f'SCALE={place.scale} '}bash benchmark.sh",
    }
    text = [f"# The papers' benchmark, {title}", HEAD.format(**words, scale=place.scale)]
    text += ["## Verdicts", f"`{results.command('verdicts')}`", RULES, verdicts(results)]
    drawn = {}
    for section in SECTIONS:
        if section.item not in drawn:
            figure = path.with_suffix("") / f"{section.item}.png"
            same = [other for other in SECTIONS if other.item == section.item]
            drawn[section.item] = section.item.startswith("table") or not draw(
                same, results, figure if drawing else None
            )
        text += [f"## {section.title}", f"`{results.command(section.item)}`"]
        if not drawn[section.item]:
            drawn[section.item] = True
            text.append(f"![{section.title}]({path.stem}/{section.item}.png)")
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
    text += ["## HPO Figure 8: shape of the policy's distribution", SHAPE.format(train=train, how=how)]
    if (place.base / figure).exists():
        text += [f"![Actions on the critics' landscape]({path.stem}/figure8.png)"]
    laptop = place.scale == SCALES[0]  # of whose agents these two tell
    if laptop and (numbers := sorted((ROOT / "results" / "shape").glob("*.csv"))):
        text += [DRAWN, policy_shape.shown(numbers)]
    if laptop and (measured := sorted((ROOT / "results" / "gap").glob("*.csv"))):
        text += ["## The amortization gap, which neither paper measures", GAP, gap.shown(measured)]
    text += ["## How aggregates are made", AGGREGATES]
    return "\n\n".join(x if x[0] in "|#!`" else textwrap.fill(x, 118, break_long_words=False) for x in text) + "\n"


def main(argv: list[str]) -> int:
    names = list(dict.fromkeys(section.item for section in SECTIONS))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("what", nargs="+", help=f"page, verdicts, {', '.join(names)}")
    parser.add_argument("--base", type=Path, default=ROOT, help="the folder of results/ and docs/")
    options = parser.parse_args(argv)
    if unknown := [what for what in options.what if what not in (*names, "page", "verdicts")]:
        fail(f"no section {', '.join(unknown)}: choose among page, verdicts, {', '.join(names)}")
    results = Results(Place(options.base.absolute(), os.environ.get("SCALE", SCALES[0])))
    for what in options.what:
        if what == "page":
            path, text = page_path(results.place), page(results)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"{os.path.relpath(path)}: {text.count('**') // 2} verdicts")
        else:
            parts = [section_text(section, results) for section in SECTIONS if section.item == what]
            print("\n\n".join(parts or [verdicts(results)]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as refusal:
        tell(refusal)
        sys.exit(2)
