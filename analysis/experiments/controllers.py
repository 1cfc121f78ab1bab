"""How MCMC-PO's D̂, β, ε, σ, gate and returns went in a run: the logs' means in a small file, a table, a figure.

    python analysis/experiments/controllers.py collect RUN                    # -> results/mcmcpo/
    python analysis/experiments/controllers.py table results/mcmcpo/*.csv
    python analysis/experiments/controllers.py draw results/mcmcpo/*.csv --output docs/mcmcpo.png

A row of a file is the mean over seeds and over EVERY steps of what TensorBoard holds; `return` is an evaluation's,
where there was one. ε is the mean over action dimensions. A table's row is the last tenth of a run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT, report
from analysis.collect import collect
from analysis.records import check_output, csv_text, event_logs, read_rows, save_figure, write_whole
from runtime.messages import fail

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EVERY = 1_000
COLUMNS = {"distance": "D̂", "distance_target": "target", "beta": "β", "step_size": "ε", "policy_std": "σ",
           "gate": "gate", "move": "move", "return": "return"}  # fmt: skip


def column(tag: str) -> str | None:
    """The column that a tag of TensorBoard belongs to."""
    name = tag.removeprefix("losses/").removeprefix("charts/").rstrip("0123456789").rstrip("_")
    return "return" if tag == "eval/episodic_return" else name if name in COLUMNS else None


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """{step: {column: mean}} of a run's event files."""
    cells = {}
    for _, log in event_logs(folder):
        for tag in filter(column, log.Tags()["scalars"]):
            for x in log.Scalars(tag):
                step = -(-x.step // EVERY) * EVERY
                cells.setdefault(step, {}).setdefault(column(tag), []).append(x.value)
    return {step: {name: float(np.mean(values)) for name, values in cells[step].items()} for step in sorted(cells)}


def keep(folder: Path) -> Path:
    """Writes a run's means into results/mcmcpo/, below the comments that `collect` gives it."""
    name, text = collect([folder])
    for flag in ("matmul-precision-medium", "random-steps-1000", "learning-starts-1000"):
        name = name.replace(f"__{flag}", "")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    rows = [[step, *(f"{cells[name]:.5g}" if name in cells else "" for name in COLUMNS)]
            for step, cells in logged(folder).items()]  # fmt: skip
    path = ROOT / "results" / "mcmcpo" / name
    write_whole(path, csv_text(comments, ["step", *COLUMNS], rows))
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """Columns (T,), NaN where nothing was logged."""
    rows = read_rows(path, ("step", *COLUMNS))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in ("step", *COLUMNS)}


def title(path: Path) -> str:
    env_id, script, *flags = path.stem.split("__")
    method = {"mcmcpo_hmc_continuous": "HMC", "mcmcpo_langevin_continuous": "Langevin"}.get(script, script)
    return f"{env_id}, {method}" + "".join(f" --{flag}" for flag in flags)


def table(paths: list[Path]) -> str:
    lines = []
    for path in paths:
        data = read(path)
        late = data["step"] > 0.9 * data["step"][-1]
        mean = {name: values[late & np.isfinite(values)] for name, values in data.items()}
        shown = {name: f"{values.mean():.2g}" if len(values) else "" for name, values in mean.items()}
        returns = ", ".join(f"{x:.0f}" for x in data["return"] if np.isfinite(x))
        cells = [title(path), f"{data['step'][-1]:,.0f}", f"{shown['distance']} ({shown['distance_target']})"]
        lines.append([*cells, *(shown[x] for x in ("beta", "step_size", "policy_std", "gate", "move")), returns])
    return report.table(["run", "steps", "D̂ (its target)", "β", "ε", "σ", "gate", "move", "returns"], lines)


def draw(paths: list[Path], output: Path) -> None:
    """A panel for each quantity, a line for each run."""
    names = ["distance", "beta", "step_size", "policy_std", "gate", "return"]
    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    for axis, name in zip(axes.flat, names):
        for path in paths:
            data = read(path)
            there = np.isfinite(data[name])
            axis.plot(data["step"][there] / 1000, data[name][there], label=title(path), lw=1)
        axis.set(title=COLUMNS[name], xlabel="thousand environment steps")
        axis.set_yscale("linear" if name in ("gate", "return") else "log")
        axis.grid(alpha=0.3)
    figure.legend(*axes.flat[-1].get_legend_handles_labels(), loc="lower center", ncols=2, fontsize=8)
    figure.tight_layout(rect=(0, 0.025 * len(paths), 1, 1))
    save_figure(figure, output, 80)


def main(argv: list[str]) -> None:
    parser = report.Parser(__doc__)
    parser.add_argument("what", choices=("collect", "table", "draw"))
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or CSV files of results/mcmcpo/")
    parser.add_argument("--output", type=Path, help="the figure of draw")
    args = parser.parse_args(argv)
    if missing := [
        str(path) for path in args.paths if not (path / "config.json" if args.what == "collect" else path).is_file()
    ]:
        fail(f"{', '.join(missing)}: name {'run folders' if args.what == 'collect' else 'files of results/mcmcpo/'}")
    if args.what == "draw" and not args.output:
        fail("draw needs --output, such as --output docs/mcmcpo.png")
    if args.what == "draw":
        check_output(args.output, picture=True)
        draw(args.paths, args.output)
    else:
        print("\n".join(str(keep(path)) for path in args.paths) if args.what == "collect" else table(args.paths))


if __name__ == "__main__":
    report.start(main)
