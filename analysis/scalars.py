"""A number that runs logged to TensorBoard, as a table: a row for each so many steps, a column an arm.

    python analysis/scalars.py charts/episodic_return runs/Hopper-v4__* --every 10000
    python analysis/scalars.py losses/alpha RUN RUN --output mine.csv    # keep the table
    python analysis/scalars.py --show mine.csv

A cell is the mean of what was logged since the row before, over all seeds of the arm: runs of one script with the same
flags and length are one. A run that has not logged the number is left out, and told.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import records
from analysis.records import Key
from analysis.report import Parser, start, table
from runtime.messages import fail, tell

import numpy as np


def logged(folder: Path, tag: str, every: int) -> dict[int, dict[int, list[float]]]:
    """{seed: {row's step: what was logged since the row before}} of a run."""
    seeds, every_tag = {}, set()
    for seed, log in records.event_logs(folder):
        known = sorted(log.Tags()["scalars"])
        every_tag |= {*known}
        if tag not in known:  # it may have diverged
            continue
        for x in log.Scalars(tag):
            seeds.setdefault(seed, {}).setdefault(-(-x.step // every) * every, []).append(x.value)
    return seeds or fail(f"{folder} has logged no {tag}: choose among {', '.join(sorted(every_tag)) or 'nothing'}")


def columns_of(folders: list[Path], tag: str, every: int) -> tuple[dict[Key, dict[int, float]], list[Path]]:
    """{arm: {step: mean over its seeds and the steps since the row before}}, and the runs that are in it.

    Of a seed that ran twice it is the newer run's. Runs that have not logged it are told; Refused if none has."""

    def read(folder: Path) -> tuple[Key, dict]:
        return records.identity(folder), logged(folder, tag, every)

    arms, taken = {}, []
    for folder, (key, seeds) in records.each(sorted(folders, key=records.begun), read):
        if again := sorted(arms.get(key, {}).keys() & seeds.keys()):
            tell(f"seed {', '.join(map(str, again))} of {key.env_id} {key.name} ran twice: {folder} is taken")
        arms.setdefault(key, {}).update(seeds)
        taken.append(folder)
    cells = {key: {} for key in arms}
    for key, seeds in arms.items():
        for step in sorted({step for rows in seeds.values() for step in rows}):
            cells[key][step] = float(np.mean([x for rows in seeds.values() for x in rows.get(step, [])]))
    return cells, taken


def shown(path: Path) -> str:
    """The table of a file that --output wrote."""
    if not path.is_file():
        fail(f"no file {path}: --show takes what --output wrote")
    rows = list(csv.reader(line for line in records.read_text(path).splitlines() if not line.startswith("#")))
    if len(rows) < 2 or ", step" not in rows[0][0] or any(len(row) != len(rows[0]) for row in rows):
        fail(f"{path} is no table of scalars.py: --show takes what --output wrote")
    return table(rows[0], rows[1:])


def main(argv: list[str]) -> str:
    parser = Parser(__doc__)
    parser.add_argument("tag", nargs="?", help="the number's name in TensorBoard")
    parser.add_argument("folders", nargs="*", type=Path, help="runs' folders")
    parser.add_argument("--every", type=int, default=1000, help="steps between rows")
    parser.add_argument("--output", type=Path, help="keep the table in this CSV")
    parser.add_argument("--show", type=Path, help="print the table of this CSV, and nothing else")
    options = parser.parse_args(argv)
    if options.show:
        if options.tag or options.folders or options.output:
            fail("--show prints a table that was kept: leave out what was logged, run folders and --output")
        return shown(options.show)
    if missing := [str(folder) for folder in options.folders if not (folder / "config.json").is_file()]:
        fail(f"no run's folder: {', '.join(missing)}")
    if not options.folders or options.every < 1:
        fail("name what was logged and run folders, and --every 1 or more; or --show and a CSV")
    records.check_output(options.output)
    runs, taken = columns_of(options.folders, options.tag, options.every)
    shared, names = records.labels(list(runs))
    names = [f"{key.env_id} {name}" for key, name in zip(runs, names)]
    head = [f"{options.tag}, step" + f", all {shared}" * bool(shared), *names]
    steps = sorted({step for run in runs.values() for step in run})
    rows = [[step, *(f"{run[step]:.4g}" if step in run else "" for run in runs.values())] for step in steps]
    if options.output:
        comments = [line for folder in taken for line in records.origin(records.config_of(folder), "")]
        records.write_whole(options.output, records.csv_text(comments, head, rows))
    return table(head, rows)


if __name__ == "__main__":
    start(lambda argv: print(main(argv)))
