"""A number that runs logged to TensorBoard, as a table: a row for each so many steps, a column a run.

    python analysis/scalars.py charts/episodic_return runs/Hopper-v4__* --every 10000
    python analysis/scalars.py losses/alpha RUN RUN --output mine.csv    # keep the table
    python analysis/scalars.py --show mine.csv

A cell is the mean of what was logged since the row before, over all seeds of the run.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.collect import command
from analysis.tables import split, table
from runtime.messages import Refused, fail, tell

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def logged(folder: Path, tag: str, every: int) -> dict[int, float]:
    """{step: mean over seeds and over the steps since the one before} of a run."""
    cells = {}
    for events in folder.glob("seed-*"):
        log = EventAccumulator(str(events), size_guidance={"scalars": 0})
        log.Reload()
        if tag not in log.Tags()["scalars"]:
            fail(f"{folder} has logged no {tag}: choose among {', '.join(sorted(log.Tags()['scalars'])) or 'nothing'}")
        for x in log.Scalars(tag):
            cells.setdefault(-(-x.step // every) * every, []).append(x.value)
    return {step: float(np.mean(values)) for step, values in sorted(cells.items())}


def main(argv: list[str]) -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("tag", nargs="?", help="the number's name in TensorBoard")
    parser.add_argument("folders", nargs="*", type=Path, help="runs' folders")
    parser.add_argument("--every", type=int, default=1000, help="steps between rows")
    parser.add_argument("--output", type=Path, help="keep the table in this CSV")
    parser.add_argument("--show", type=Path, help="print the table of this CSV")
    options = parser.parse_args(argv)
    if options.show:
        if not options.show.is_file():
            fail(f"no file {options.show}: --show takes what --output wrote")
        head, *rows = csv.reader(line for line in options.show.open() if line[0] != "#")
        return table(head, rows)
    if missing := [str(folder) for folder in options.folders if not (folder / "config.json").is_file()]:
        fail(f"no run's folder: {', '.join(missing)}")
    if not options.folders or options.every < 1:
        fail("name what was logged and run folders, and --every 1 or more; or --show and a CSV")
    runs = [logged(folder, options.tag, options.every) for folder in options.folders]
    head = [f"{options.tag}, step", *(" ".join(split(folder)) for folder in options.folders)]
    steps = sorted({step for run in runs for step in run})
    rows = [[step, *(f"{run[step]:.4g}" if step in run else "" for run in runs)] for step in steps]
    if options.output:
        configs = [json.loads((folder / "config.json").read_text()) for folder in options.folders]
        comments = [f"# {command(c)}\n#   commit {c['commit']}; {c['device']}\n" for c in configs]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with options.output.open("w") as file:
            file.writelines(comments)
            csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return table(head, rows)


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except Refused as refusal:
        tell(refusal)
        sys.exit(2)
