"""Tables of results/: best and final returns, differences with an interval, and the readings of D9.

    python analysis/tables.py results/benchmark/laptop/Hopper-v4__*.csv
    python analysis/tables.py results/HalfCheetah-v4__*.csv --against sac_hpo_continuous
    python analysis/tables.py results/sac_nf/*.csv --steps 50000                # as if the runs had been that long
    python analysis/tables.py runs/Hopper-v4__*                                 # your own runs, finished or not
    python analysis/tables.py results/pixels/*.csv --by-step                    # every evaluation, a row a step

A return is the mean of an evaluation's episodes. "Best" follows HPO (D16): for each seed the best of its evaluations,
then mean ± sample standard deviation over seeds. Intervals are 95 %: Welch's for two scripts, Student's for pairs; a
bootstrap over 4 seeds would be too narrow. Differences are to SAC, or to the script named with --against.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.collect import variant

import numpy as np
from scipy import stats


def table_of(path: Path) -> Path:
    """The evaluations of a run's folder, or a results file itself."""
    return path / "evaluations.csv" if path.is_dir() else path


def load(path: Path, column: str = "return", until: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Steps (T,) of a results file, up to one of them, and its episodes (S, T, E) in a column."""
    with table_of(path).open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rows = [row for row in rows if until is None or int(row["step"]) <= until]
    cells = {(int(row["seed"]), int(row["step"]), int(row["episode"])): float(row[column]) for row in rows}
    seeds, steps, episodes = (sorted({key[i] for key in cells}) for i in range(3))
    return np.array(steps), np.array([[[cells[s, t, e] for e in episodes] for t in steps] for s in seeds])


def has(path: Path, column: str) -> bool:
    """Whether a results file has a column."""
    with table_of(path).open() as file:
        return column in next(line for line in file if not line.startswith("#")).strip().split(",")


def split(path: Path) -> list[str]:
    """Environment and script of a results file or a run; flags that tell arms of a script apart follow the script."""
    if path.is_dir():
        config = json.loads((path / "config.json").read_text())
        name = f" ({config['args']['exp_name']})" if config["args"].get("exp_name") else ""
        return [
            config["args"]["env_id"],
            " ".join([config["script"], *(f"--{flag}" for flag in variant(config))]) + name,
        ]
    env_id, script, *flags = path.stem.split("__")
    return [env_id, " ".join([script, *(f"--{flag}" for flag in flags)])]


def spread(values: np.ndarray, digits: int = 0) -> str:
    """Mean ± sample standard deviation over seeds; the value alone of one seed."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def interval(test, first: np.ndarray, *others, digits: int = 0, **options) -> str:
    """The 95 % interval of a t-test; of one seed there is none."""
    if min(np.size(first), *(np.size(x) for x in others if np.ndim(x)), 2) < 2:
        return "one seed"
    low, high = test(first, *others, **options).confidence_interval(0.95)
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"


def table(head: list[str], rows: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows])


def returns_table(paths: list[Path], until: int | None = None) -> str:
    rows = []
    for path in paths:
        steps, episodes = load(path, until=until)
        curve = episodes.mean(2)
        each = ", ".join(f"{value:.0f}" for value in curve.max(1))
        best, mean, last = spread(curve.max(1)), curve.mean(0).max(), spread(curve[:, -1])
        rows.append(
            [*split(path), len(curve), f"{steps[-1]:,}", best, each, f"{mean:.0f}", last, spread(curve.mean(1))]
        )
    head = ["environment", "script", "seeds", "steps", "best", "best of each seed", "best of the mean curve",
            "last evaluation", "mean of all evaluations"]  # fmt: skip
    return table(head, rows)


def differences_table(paths: list[Path], against: str = "sac_continuous", until: int | None = None) -> str:
    rows, plain = [], {split(path)[0]: load(path, until=until) for path in paths if split(path)[1] == against}
    for path in paths:
        env_id, script = split(path)
        if script == against or env_id not in plain:
            continue
        (steps, ours), (other_steps, theirs) = load(path, until=until), plain[env_id]
        if steps.tolist() != other_steps.tolist():
            print(
                f"tables: {path} and {against}'s have other steps: give runs of one length, or --steps", file=sys.stderr
            )
            raise SystemExit(2)
        ours, theirs = ours.mean(2), theirs.mean(2)
        measures = {"best": (ours.max(1), theirs.max(1)), "last evaluation": (ours[:, -1], theirs[:, -1])}
        measures["mean of all evaluations"] = ours.mean(1), theirs.mean(1)
        for name, (left, right) in measures.items():
            difference = f"{left.mean() - right.mean():+.0f}"
            rows.append([env_id, script, name, difference, interval(stats.ttest_ind, left, right, equal_var=False)])
    if len(paths) > 1 and not plain:
        print(f"tables: {against} is not among the files, so no differences to it", file=sys.stderr)
    head = ["environment", "script", "measure", f"difference to {against}", "95 % interval"]
    return table(head, rows) if rows else ""


def readings_table(paths: list[Path], until: int | None = None) -> str:
    rows = []
    for path in (path for path in paths if has(path, "return_base")):
        evolved, base = (load(path, column, until)[1] for column in ("return", "return_base"))
        gap = (evolved - base).mean(2)
        share = f"{(gap > 0).sum()} of {gap.size}"
        means = [spread(x.mean((1, 2))) for x in (evolved, base)]
        rows.append(
            [*split(path), *means, f"{gap.mean():+.1f}", interval(stats.ttest_1samp, gap.mean(1), 0, digits=1), share]
        )
    head = ["environment", "script", "leapfrog, ρ0 = 0", "base mean alone", "difference", "95 % interval",
            "evaluations where leapfrog is higher"]  # fmt: skip
    return table(head, rows) if rows else ""


def steps_table(paths: list[Path], until: int | None = None) -> str:
    """Returns at each evaluation, a column an arm."""
    arms = {tuple(split(path)): load(path, until=until) for path in paths}
    names, rows = list(dict.fromkeys(script for _, script in arms)), []
    for env_id in dict.fromkeys(env_id for env_id, _ in arms):
        curves = {name: arms[env_id, name] for name in names if (env_id, name) in arms}
        for step in sorted({step for steps, _ in curves.values() for step in steps.tolist()}):
            shown = [spread(x[:, t == step].mean((1, 2))) if step in t else "" for t, x in curves.values()]
            cells = dict(zip(curves, shown))
            rows.append([env_id, f"{step:,}", *(cells.get(name, "") for name in names)])
    return table(["environment", "step", *names], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--against", default="sac_continuous", help="script to which differences are taken")
    parser.add_argument("--steps", type=int, help="leave out evaluations after this step")
    parser.add_argument("--by-step", action="store_true", help="print the returns at each evaluation instead")
    options = parser.parse_args()
    files, until = sorted(options.files), options.steps
    if missing := [str(path) for path in files if not table_of(path).is_file()]:
        print(
            f"tables: {', '.join(missing)}: no such results file or run folder (results/*.csv, runs/*)", file=sys.stderr
        )
        raise SystemExit(2)
    if options.by_step:
        print(steps_table(files, until))
        raise SystemExit
    tables = [
        returns_table(files, until),
        differences_table(files, options.against, until),
        readings_table(files, until),
    ]
    print("\n\n".join(filter(None, tables)))
