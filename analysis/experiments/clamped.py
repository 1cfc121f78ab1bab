"""How much of the actions lies at the edge of the box, where the clamp holds it and the critics give no gradient?

    python analysis/experiments/clamped.py collect runs/Hopper-v4__baseline1__1__1795258535      # -> results/clamped/
    python analysis/experiments/clamped.py table results/clamped/*.csv

From TensorBoard's `charts/clamped_fraction` (coordinates of a_K that the clamp changed, in the policy's loss) and
`charts/clamped_fraction_replay` (stored coordinates at -1 or 1, so exploration's), which runs log every 500 steps.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT
from analysis.records import config_of, csv_text, each, event_logs, file_stem, origin, read_rows, write_whole
from analysis.report import Parser, ranged, start, table
from runtime.messages import fail

import numpy as np

TAGS = {"training": "charts/clamped_fraction", "exploration": "charts/clamped_fraction_replay"}
COLUMNS = "step", "seed", *TAGS
BIN = 5_000  # steps whose values become one row


def binned(folder: Path) -> dict[tuple[int, int], list]:
    """{(seed, last step): a row} of a run: means over BIN steps."""
    rows = {}
    for seed, log in event_logs(folder):
        if not {*TAGS.values()} <= {*log.Tags()["scalars"]}:
            fail(f"{folder} has logged no {' or no '.join(TAGS.values())}")
        values = {what: [(e.step, e.value) for e in log.Scalars(tag)] for what, tag in TAGS.items()}
        for stop in {-(-step // BIN) * BIN for step, _ in values["training"]}:
            some = {tag: [(n, v) for n, v in values[tag] if stop - BIN < n <= stop] for tag in TAGS}
            last, means = some["training"][-1][0], [np.mean(some[tag], axis=0)[1] for tag in TAGS]
            rows[seed, last] = [last, seed, *(f"{mean:.4f}" for mean in means)]
    return rows


def collect(folders: list[Path]) -> list[Path]:
    """Means over BIN steps, seed by seed, below the commands that made them: a file for each script and its flags."""
    files = {}
    for folder, mine in each(folders, binned):
        config = config_of(folder)
        comments, rows = files.setdefault(file_stem(config), ([], {}))
        comments += origin(config, "")
        rows |= mine
    paths = {ROOT / "results" / "clamped" / f"{name}.csv": content for name, content in files.items()}
    for path, (comments, rows) in paths.items():
        write_whole(path, csv_text(comments, COLUMNS, [rows[key] for key in sorted(rows)]))
    return list(paths)


def shares(paths: list[Path]) -> str:
    """Each file's share over all of its rows: mean, smallest and largest seed."""
    lines = []
    for path in sorted(paths):
        rows = read_rows(path, COLUMNS)
        seeds, (env_id, script, *flags) = sorted({row["seed"] for row in rows}), path.stem.split("__")
        each_seed = {what: [np.mean([float(row[what]) for row in rows if row["seed"] == seed]) for seed in seeds]
                     for what in TAGS}  # fmt: skip
        name, steps = " ".join([script, *(f"--{flag}" for flag in flags)]), max(int(row["step"]) for row in rows)
        lines.append([env_id, name, len(seeds), f"{steps:,}", *(ranged(x, ".1%") for x in each_seed.values())])
    return table(
        ["environment", "script", "seeds", "steps", "clamped in training", "at the edge in exploration"], lines
    )


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("what", choices=["collect", "table"])
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or CSV files of results/clamped/")
    options = parser.parse_args(argv)
    print(shares(options.paths) if options.what == "table" else "\n".join(map(str, collect(options.paths))))


if __name__ == "__main__":
    start(main)
