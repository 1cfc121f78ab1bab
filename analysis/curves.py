"""Learning curves of results/: mean and one standard deviation over seeds, smoothed as in HPO.

    python analysis/curves.py results/Hopper-v4__*.csv --output results/Hopper-v4.png

Every seed's evaluations are smoothed by an exponential moving average of window 5 (weight 2/6 on the newest).
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tables import load, split

NAMES = {"sac_continuous": "SAC", "sac_hpo_continuous": "SAC-HPO", "sac_nf_continuous": "SAC-NF"}
NAMES |= {f"baseline{i}": f"baseline-{i}" for i in (1, 2, 3)} | {"noise_only": "noise only"}


def smooth(curves: np.ndarray, window: int = 5) -> np.ndarray:
    """Exponential moving average along the last axis, (S, T) -> (S, T)."""
    out = curves.astype(float).copy()
    for t in range(1, out.shape[1]):
        out[:, t] += (1 - 2 / (window + 1)) * (out[:, t - 1] - out[:, t])
    return out


def draw(paths: list[Path], output: Path) -> None:
    """One panel for each environment."""
    panels = sorted({split(path)[0] for path in paths})
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 3.4), squeeze=False)
    for axis, env_id in zip(axes[0], panels):
        for path in (path for path in paths if split(path)[0] == env_id):
            steps, episodes = load(path)
            curves = smooth(episodes.mean(2))
            mean, deviation = curves.mean(0), curves.std(0, ddof=1)
            script, *flags = split(path)[1].split()
            name = " ".join([NAMES.get(script, script), *flags])
            (line,) = axis.plot(steps / 1000, mean, label=f"{name}, {len(curves)} seeds")
            axis.fill_between(steps / 1000, mean - deviation, mean + deviation, alpha=0.15, color=line.get_color())
            axis.plot(steps / 1000, curves.T, color=line.get_color(), alpha=0.35, linewidth=0.6)  # every seed
        axis.set(title=env_id, xlabel="thousand environment steps", ylabel="return, noise off")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if missing := [str(path) for path in args.files if not path.is_file()]:
        print(f"curves: {', '.join(missing)} is missing: name CSV files of results/", file=sys.stderr)
        raise SystemExit(2)
    draw(sorted(args.files), args.output)
