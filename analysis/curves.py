"""Learning curves of results/: mean and one standard deviation over seeds, smoothed as in HPO.

    python analysis/curves.py results/products/*.csv --output products.png
    python analysis/curves.py runs/Hopper-v4__* --output mine.png                 # your own runs
    python analysis/curves.py results/benchmark/laptop/Hopper-v4__*.csv --against sac_continuous --output mine.png

The first draws all scripts of an environment in one panel, the second each beside the one named. Every seed's
evaluations are smoothed by an exponential moving average of window 5 (weight 2/6 on the newest).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
from analysis.tables import load, split, table_of

import matplotlib.pyplot as plt
import numpy as np

NAMES = {"sac_continuous": "SAC", "sac_hpo_continuous": "SAC-HPO", "sac_nf_continuous": "SAC-NF"}
NAMES |= {f"baseline{i}": f"baseline-{i}" for i in (1, 2, 3)} | {"noise_only": "noise only"}


def smooth(curves: np.ndarray, window: int = 5) -> np.ndarray:
    """Exponential moving average along the last axis, (S, T) -> (S, T)."""
    out = curves.astype(float).copy()
    for t in range(1, out.shape[1]):
        out[:, t] += (1 - 2 / (window + 1)) * (out[:, t - 1] - out[:, t])
    return out


def draw(paths: list[Path], output: Path, against: str | None = None) -> None:
    """A panel for each environment, or with `against` for each other script beside that one."""
    panels = {}
    for path in paths:
        env_id, script = split(path)
        panels.setdefault((env_id, script if against else ""), []).append(path)
    for env_id, script in list(panels) if against else ():
        if script != against:
            panels[env_id, script] = panels.get((env_id, against), []) + panels[env_id, script]
    panels = {key: files for key, files in panels.items() if key[1] != against}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.4 * columns, 2.9 * rows) if against else (5.6 * columns, 3.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey="row" if against else "none")
    for axis, ((env_id, _), files) in zip(axes.flat, panels.items()):
        for path in files:
            steps, episodes = load(path)
            curves = smooth(episodes.mean(2))
            mean, deviation = curves.mean(0), curves.std(0, ddof=1) if len(curves) > 1 else 0
            script, *flags = split(path)[1].split()
            name = " ".join([NAMES.get(script, script), *flags])
            color = "gray" if split(path)[1] == against else None
            (line,) = axis.plot(steps / 1000, mean, label=f"{name}, {len(curves)} seeds", color=color)
            axis.fill_between(steps / 1000, mean - deviation, mean + deviation, alpha=0.15, color=line.get_color())
            axis.plot(steps / 1000, curves.T, color=line.get_color(), alpha=0.35, linewidth=0.6)  # every seed
        axis.set(title=env_id, xlabel="thousand environment steps")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", fontsize=8 if against else None)
    for axis in axes[:, 0]:
        axis.set_ylabel("return, noise off")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--against", help="the script beside which each other one is drawn, such as sac_continuous")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if missing := [str(path) for path in args.files if not table_of(path).is_file()]:
        print(
            f"curves: {', '.join(missing)}: no such results file or run folder (results/*.csv, runs/*)", file=sys.stderr
        )
        raise SystemExit(2)
    draw(sorted(args.files), args.output, args.against)
