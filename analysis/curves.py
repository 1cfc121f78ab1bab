"""Learning curves of results files and runs: mean and one standard deviation over seeds, smoothed as in HPO.

    python analysis/curves.py results/products/*.csv --output products.png
    python analysis/curves.py runs/Hopper-v4__* --output mine.png                 # your own runs
    python analysis/curves.py results/benchmark/paper/Hopper-v4__*.csv --against sac_continuous --output mine.png

The first draws all scripts of an environment in one panel, the third each beside the one named. Runs of one script
with the same flags and length are one curve, pooled over their seeds. Every seed's evaluations are smoothed by an
exponential moving average of window 5 (weight 2/6 on the newest), where there are 50 or more: it lags by two, which in
a curve of ten would hide how it ends.
"""

import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.records import Arm, check_output, labels, read_arms, save_figure
from analysis.report import Parser, diverged, start
from runtime.messages import fail

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAMES = {"sac_continuous": "SAC", "sac_hpo_continuous": "SAC-HPO", "sac_nf_continuous": "SAC-NF"}
NAMES |= {f"baseline{i}": f"baseline-{i}" for i in (1, 2, 3)} | {"noise_only": "noise only"}


MANY = 50  # evaluations from which a curve is drawn smoothed


def smooth(curves: np.ndarray, window: int = 5) -> np.ndarray:
    """Exponential moving average along the last axis, (S, T) -> (S, T)."""
    out = curves.astype(float).copy()
    for t in range(1, out.shape[1]):
        out[:, t] += (1 - 2 / (window + 1)) * (out[:, t - 1] - out[:, t])
    return out


def plot(axis, steps: np.ndarray, curves: np.ndarray, label: str, color=None, each: bool = False):
    """Mean and one standard deviation over the seeds of curves (S, T) that have not diverged, smoothed if they are
    long; and each seed's, if asked. Returns the line."""
    lost, curves = diverged(curves), curves[np.isfinite(curves).all(1)]
    curves = smooth(curves) if len(steps) >= MANY else curves
    label += f", {len(curves) + lost} seeds" + f", {lost} diverged" * bool(lost)
    mean = curves.mean(0) if len(curves) else np.full(len(steps), np.nan)
    deviation = curves.std(0, ddof=1) if len(curves) > 1 else 0
    (line,) = axis.plot(steps / 1000, mean, label=label, color=color, marker="o" if len(steps) == 1 else None)
    axis.fill_between(steps / 1000, mean - deviation, mean + deviation, alpha=0.15, color=line.get_color())
    if each:
        axis.plot(steps / 1000, curves.T, color=line.get_color(), alpha=0.35, linewidth=0.6)
    return line


def legend_below(figure, handles: list, names: list[str]) -> None:
    """A legend under all panels, within the figure: long names are broken, and the figure grows by what it takes."""
    width, height = figure.get_size_inches()
    wide = int(12 * width)  # characters of this size in a line
    names = ["\n".join(textwrap.wrap(name, wide, break_on_hyphens=False)) for name in names]
    longest = max(len(line) for name in names for line in name.splitlines())
    columns = max(1, min(len(names), int(wide / (longest + 8))))
    lines = sum(name.count("\n") + 1 for name in names) / columns + 1
    figure.set_size_inches(width, height + 0.17 * lines)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)


def figure_of(arms: list[Arm], against: str | None = None):
    """A panel for each environment, or with `against` for each other arm beside that one."""
    shared, names = labels(arms)
    first = {arm.env_id: arm for arm, name in zip(arms, names) if against in (arm.name, name)}
    if against and not first:
        fail(f"{against} is not among the files: --against takes one of {', '.join(dict.fromkeys(names))}")
    panels = {}
    for arm, name in zip(arms, names):
        if arm is not first.get(arm.env_id):
            panels.setdefault((arm.env_id, name if against else ""), []).append((arm, name))
    for (env_id, _), shown in panels.items() if against else ():
        shown[:0] = [(first[env_id], against)] if env_id in first else []
    panels = panels or {(arm.env_id, ""): [(arm, name)] for arm, name in zip(arms, names)}  # it stands alone
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.4 * columns, 2.9 * rows) if against else (5.6 * columns, 3.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained",
                                sharey="row" if against else "none")  # fmt: skip
    colors = {name: f"C{i % 10}" for i, name in enumerate(dict.fromkeys(names))} | {against: "gray"}
    lines = {}
    for axis, ((env_id, _), shown) in zip(axes.flat, panels.items()):
        for arm, name in shown:
            script, *rest = name.split()
            line = plot(axis, arm.steps, arm.curve(), " ".join([NAMES.get(script, script), *rest]), colors[name], True)
            lines.setdefault(line.get_label(), line)
        axis.set(title=env_id, xlabel="thousand environment steps")
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("return, noise off")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if shared:
        figure.suptitle("\n".join(textwrap.wrap(f"all {shared}", int(9 * size[0]))), fontsize=9)
    legend_below(figure, list(lines.values()), list(lines))
    return figure


def draw(paths: list[Path], output: Path, against: str | None = None) -> None:
    arms = read_arms(paths)
    if not arms:
        fail("none of these has anything to draw")
    save_figure(figure_of(arms, against), output, 110)


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="results files and runs' folders")
    parser.add_argument("--against", help="the script beside which each other one is drawn, such as sac_continuous")
    parser.add_argument("--output", type=Path, required=True, help="the picture, such as mine.png")
    args = parser.parse_args(argv)
    check_output(args.output, picture=True)
    draw(sorted(args.files), args.output, args.against)


if __name__ == "__main__":
    start(main)
