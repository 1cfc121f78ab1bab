"""Tables of results files and runs: best and final returns, differences with an interval, and the readings of D9.

    python analysis/tables.py results/benchmark/paper/Hopper-v4__*.csv
    python analysis/tables.py results/sac_nf/*.csv --against sac_nf_continuous
    python analysis/tables.py results/sac_nf/*.csv --steps 50000                # as if the runs had been that long
    python analysis/tables.py runs/Hopper-v4__*                                 # your own runs, finished or not
    python analysis/tables.py results/pixels/*.csv --by-step                    # every evaluation, a row a step
    python analysis/tables.py results/sac_nf/*.csv --holm                       # p-values, corrected for their number
    python analysis/tables.py results/sac_nf/*.csv --figure differences.png     # draws the last evaluations, too

Runs of one script with the same flags and length are one arm, pooled over their seeds; flags that all arms share stand
in the head of a table. What is left out is told on stderr.

A return is the mean of an evaluation's episodes. "Best" follows HPO (D16): for each seed the best of its evaluations,
then mean ± sample standard deviation over seeds. Differences are to SAC, or to the script named with --against, over
the steps at which both were evaluated and in as many episodes. Intervals are 95 %, one at a time: Welch's for two
scripts, Student's for pairs; a bootstrap over 4 seeds would be too narrow. A seed that diverged is counted: beside the
others in the first table, as the lowest evaluation of the two in differences. With --holm each difference has
Welch's p beside its interval, and Holm's correction of it for all differences in that measure, tasks included.
"""

import contextlib
import io
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.records import Arm, alike, check_output, labels, read_arms, save_figure
from analysis.report import Parser, counted, diverged, ends, interval, spread, start, table
from runtime.messages import fail, tell

import numpy as np
import scipy.stats


def heads(arms: list[Arm]) -> tuple[str, list[str]]:
    """The head of the column of scripts, which names what all arms share, and each arm's name."""
    shared, names = labels(arms)
    return f"script, all {shared}" if shared else "script", names


def returns_table(arms: list[Arm]) -> str:
    rows, (head, names) = [], heads(arms)
    for arm, name in zip(arms, names):
        curve = arm.curve()
        whole, lost = curve[np.isfinite(curve).all(1)], diverged(curve)
        each = ", ".join("diverged" if np.isnan(seed[-1]) else f"{seed.max():.0f}" for seed in curve)
        mean = f"{whole.mean(0).max():.0f}" if len(whole) else "diverged"
        seeds = f"{len(curve)}, {lost} diverged" if lost else len(curve)
        best, last, all_of_them = spread(whole.max(1)), spread(whole[:, -1]), spread(whole.mean(1))
        rows.append([arm.env_id, name, seeds, f"{arm.steps[-1]:,}", best, each, mean, last, all_of_them])
    return table(["environment", head, "seeds", "steps", "best", "best of each seed", "best of the mean curve",
                  "last evaluation", "mean of all evaluations"], rows)  # fmt: skip


def reference(arms: list[Arm], names: list[str], arm: Arm, against: str) -> Arm | None:
    """The arm named `against` on another arm's environment: of its length if there is one, else of any."""
    those = [x for x, name in zip(arms, names) if x.env_id == arm.env_id and against in (x.name, name)]
    those = those or [x for x in arms if x.env_id == arm.env_id and x.script == against and not x.flags]
    here = [x for x in arms if x.env_id == arm.env_id]  # whose arms may all have flags that other environments' lack
    those = those or [x for x, name in zip(here, heads(here)[1]) if name == against]
    same = [x for x in those if x.length == arm.length]
    return (same or those or [None])[0]


def by_holm(p: list[float]) -> np.ndarray:
    """Holm's step-down correction of p-values (n,): the chance of one false finding among all stays below each."""
    p, order = np.array(p), np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def compared(arms: list[Arm], against: str) -> Iterator[tuple[Arm, str, np.ndarray, np.ndarray]]:
    """Each arm with its name, and returns (S, T), (S', T) of it and of its reference, over what both have."""
    names = heads(arms)[1]
    found = {id(other) for arm in arms if (other := reference(arms, names, arm, against))}
    for arm, name in zip(arms, names):
        other = reference(arms, names, arm, against)
        if other is None or id(arm) in found:
            continue
        pair = alike(arm, other)
        if pair is None:
            tell(f"{arm.env_id} {name} and {against} were evaluated at no common step: their difference is left out")
            continue
        if len({len(x.steps) for x in (*pair, arm, other)}) > 1:
            tell(f"{arm.env_id} {name} less {against}: over the {len(pair[0].steps)} evaluations that both have, "
                 f"to step {pair[0].steps[-1]}")  # fmt: skip
        if len({x.values["return"].shape[2] for x in (arm, other)}) > 1:
            episodes = pair[0].values["return"].shape[2]
            tell(f"{arm.env_id} {name} less {against}: in the first {episodes} episodes of each evaluation")
        if arm.form != other.form:
            tell(f"{arm.env_id} {name} less {against}: their codes begin a run otherwise (D12), so the start is in it")
        yield arm, name, *counted(*(x.curve() for x in pair))
    if found and (without := {x.env_id for x in arms} - {x.env_id for x in arms if id(x) in found}):
        tell(f"{against} is not among the files of {', '.join(sorted(without))}, so no differences to it there")
    if len(arms) > 1 and not found:
        tell(f"{against} is not among the files, so no differences to it; --against takes one of {', '.join(names)}")


def differences_table(arms: list[Arm], against: str = "sac_continuous", holm: bool = False) -> str:
    rows, ps, head = [], [], heads(arms)[0]
    for arm, name, ours, theirs in compared(arms, against):
        measures = {"best": (ours.max(1), theirs.max(1)), "last evaluation": (ours[:, -1], theirs[:, -1])}
        measures["mean of all evaluations"] = ours.mean(1), theirs.mean(1)
        for measure, (left, right) in measures.items():
            rows.append([arm.env_id, name, measure, f"{left.mean() - right.mean():+.0f}", ends(left, right)])
            tells = np.isfinite(interval(left, right)[1])  # else there is one seed, or none that differs
            ps.append(scipy.stats.ttest_ind(left, right, equal_var=False).pvalue if tells else 1.0)
    columns = ["environment", head, "measure", f"difference to {against}", "95 % interval"]
    if holm:
        corrected = np.empty(len(ps))
        for first in range(3):  # a measure at a time
            corrected[first::3] = by_holm(ps[first::3])
        columns += ["Welch's p", "by Holm"]
        rows = [[*row, f"{p:.2g}", f"{q:.2g}"] for row, p, q in zip(rows, ps, corrected)]
    return table(columns, rows) if rows else ""


def readings_table(arms: list[Arm]) -> str:
    rows, (head, names) = [], heads(arms)
    for arm, name in zip(arms, names):
        if "return_base" not in arm.values:
            continue
        whole = np.isfinite(arm.curve()).all(1)
        evolved, base = (arm.values[column][whole] for column in ("return", "return_base"))
        if not whole.any():
            continue
        gap = (evolved - base).mean(2)
        share, means = f"{(gap > 0).sum()} of {gap.size}", [spread(x.mean((1, 2))) for x in (evolved, base)]
        rows.append([arm.env_id, name, *means, f"{gap.mean():+.1f}", ends(gap.mean(1), digits=1), share])
    head = ["environment", head, "dynamics, noise off", "base mean alone", "difference", "95 % interval",
            "evaluations where the dynamics are higher"]  # fmt: skip
    return table(head, rows) if rows else ""


def steps_table(arms: list[Arm]) -> str:
    """Returns at each evaluation, a column an arm."""
    (shared, names), rows = labels(arms), []
    columns = list(dict.fromkeys(names))
    for env_id in dict.fromkeys(arm.env_id for arm in arms):
        own = {name: arm for arm, name in zip(arms, names) if arm.env_id == env_id}
        for step in sorted({step for arm in own.values() for step in arm.steps.tolist()}):
            seen = {name: arm.curve()[:, arm.steps == step] for name, arm in own.items() if step in arm.steps}
            lost = {name: diverged(curve) for name, curve in seen.items()}
            cells = {name: spread(curve[:, 0]) + f", {lost[name]} diverged" * (0 < lost[name] < len(curve))
                     for name, curve in seen.items()}  # fmt: skip
            rows.append([env_id, f"{step:,}", *(cells.get(name, "") for name in columns)])
    return table([f"environment, all {shared}" if shared else "environment", "step", *columns], rows)


def figure_of(arms: list[Arm], against: str):
    """A panel a task: last evaluations less the mean of the reference's, which is the first row. A point is a seed, a
    diamond an arm's mean, a line the 95 % interval of the difference."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels: dict[str, list] = {}
    with contextlib.redirect_stderr(io.StringIO()):  # the tables have told what is left out
        for arm, name, ours, theirs in compared(arms, against):
            rows = panels.setdefault(arm.env_id, [(against, theirs[:, -1], theirs[:, -1])])
            rows.append((name, ours[:, -1], theirs[:, -1]))
    if not panels:
        fail(f"nothing here differs from {against}: there is nothing to draw")
    tall = 1.2 + 0.36 * max(map(len, panels.values()))
    figure, axes = plt.subplots(1, len(panels), figsize=(8 * len(panels), tall), squeeze=False, layout="constrained")
    for axis, (env_id, rows) in zip(axes.flat, panels.items()):
        rows[1:] = sorted(rows[1:], key=lambda row: row[2].mean() - row[1].mean())
        for y, (_, ours, theirs) in enumerate(rows):
            color, (value, *low_high) = f"C{min(y, 1)}", interval(ours, theirs)
            axis.plot(ours - theirs.mean(), np.full(len(ours), y), "o", color=color, alpha=0.35, markersize=4)
            if y:
                axis.plot(value, y, "D", color=color, markersize=5)
                axis.plot(low_high if np.isfinite(value + sum(low_high)) else [value] * 2, [y, y], color=color)
        ticks = [textwrap.fill(f"{name}, {len(ours)} seeds", 44, break_on_hyphens=False) for name, ours, _ in rows]
        axis.set_yticks(range(len(rows)), ticks, fontsize=8)
        axis.invert_yaxis()
        axis.axvline(0, color="gray", linewidth=1)
        axis.set(title=env_id, xlabel=f"last evaluation, less the mean of {against}'s")
        axis.grid(axis="x", alpha=0.3)
    return figure


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="results files and runs' folders")
    parser.add_argument("--against", help="script to which differences are taken, instead of sac_continuous")
    parser.add_argument("--steps", type=int, help="leave out evaluations after this step")
    parser.add_argument("--holm", action="store_true", help="add p-values, as they are and by Holm's correction")
    parser.add_argument("--by-step", action="store_true", help="print the returns at each evaluation instead")
    parser.add_argument("--figure", type=Path, help="a picture of the differences in the last evaluation to write")
    options = parser.parse_args(argv)
    check_output(options.figure, "--figure", picture=True)
    if options.figure and options.by_step:
        parser.error("--figure draws the differences, which --by-step does not print: leave one out")
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps is {options.steps}: choose 1 or more")
    arms = read_arms(sorted(options.files), options.steps)
    if not arms:
        fail("none of these has anything to show")
    if options.by_step:
        print(steps_table(arms))
        return
    against, names = options.against or "sac_continuous", heads(arms)[1]
    if options.against and not any(reference(arms, names, arm, against) for arm in arms):
        fail(f"{against} is not among the files: --against takes one of {', '.join(dict.fromkeys(names))}")
    differences = differences_table(arms, against, options.holm)
    if not differences and (options.holm or options.figure):
        fail(f"nothing here differs from {against}: there is nothing to correct or to draw")
    print("\n\n".join(filter(None, [returns_table(arms), differences, readings_table(arms)])))
    if options.figure:
        save_figure(figure_of(arms, against), options.figure, 100, "--figure")


if __name__ == "__main__":
    start(main)
