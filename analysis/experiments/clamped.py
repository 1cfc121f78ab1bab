"""How much of the actions lies at the edge of the box, where the clamp holds it and the critics give no gradient?

    python analysis/experiments/clamped.py collect runs/Hopper-v4__baseline1__1__1795258535      # -> results/clamped/
    python analysis/experiments/clamped.py table results/clamped/*.csv

From TensorBoard's `charts/clamped_fraction` (coordinates of a_K that the clamp changed, in the policy's loss) and
`charts/clamped_fraction_replay` (stored coordinates at -1 or 1, so exploration's), which runs log every 500 steps.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT
from analysis.collect import command, variant

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {"training": "charts/clamped_fraction", "exploration": "charts/clamped_fraction_replay"}
BIN = 5_000  # steps whose values become one row


def collect(folders: list[Path]) -> list[Path]:
    """Means over BIN steps, seed by seed, below the commands that made them: a file for each script and its flags."""
    files = {}
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        name = "__".join([config["args"]["env_id"].replace("/", "_"), config["script"], *variant(config)])
        head, rows = files.setdefault(name, ([], {}))
        head += [f"# {command(config)}", f"#   commit {config['commit']}; {config['device']}"]
        for events in folder.glob("seed-*"):
            log, seed = EventAccumulator(str(events), size_guidance={"scalars": 0}), int(events.name[5:])
            log.Reload()
            values = {what: [(e.step, e.value) for e in log.Scalars(tag)] for what, tag in TAGS.items()}
            for stop in {-(-step // BIN) * BIN for step, _ in values["training"]}:
                some = {tag: [(n, v) for n, v in values[tag] if stop - BIN < n <= stop] for tag in TAGS}
                last, means = some["training"][-1][0], [np.mean(some[tag], axis=0)[1] for tag in TAGS]
                rows[seed, last] = ",".join([str(last), str(seed), *(f"{mean:.4f}" for mean in means)])
    paths = {ROOT / "results" / "clamped" / f"{name}.csv": content for name, content in files.items()}
    for path, (head, rows) in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "\n".join([*head, "step,seed,training,exploration", *(rows[key] for key in sorted(rows))]) + "\n"
        )
    return list(paths)


def table(paths: list[Path]) -> None:
    """Prints each file's share over all of its rows, as mean, smallest and largest seed."""
    print(
        "| environment | script | seeds | steps | clamped in training | at the edge in exploration |\n|" + " --- |" * 6
    )
    for path in sorted(paths):
        with path.open() as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        seeds, (env_id, script, *flags) = sorted({row["seed"] for row in rows}), path.stem.split("__")
        cells = []
        for what in TAGS:
            each = [np.mean([float(row[what]) for row in rows if row["seed"] == seed]) for seed in seeds]
            cells.append(f"{np.mean(each):.1%} ({min(each):.1%} to {max(each):.1%})")
        name = " ".join([script, *(f"--{flag}" for flag in flags)])
        steps = max(int(row["step"]) for row in rows)
        print(f"| {env_id} | {name} | {len(seeds)} | {steps:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["collect", "table"])
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or CSV files of results/clamped/")
    options = parser.parse_args()
    wanted = "config.json" if options.what == "collect" else ""
    if missing := [str(path) for path in options.paths if not (path / wanted).exists()]:
        print(f"clamped: {', '.join(missing)}: no {wanted or 'such file'} there", file=sys.stderr)
        raise SystemExit(2)
    if options.what == "table":
        table(options.paths)
    else:
        print(*collect(options.paths), sep="\n")
