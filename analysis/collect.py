"""Gathers finished runs of one script on one environment into one CSV file under results/.

    python analysis/collect.py runs/Hopper-v4__sac_hpo_continuous__1__1795222647 [more run folders ...]
    python analysis/collect.py --unfinished runs/..        # of a run that was stopped, what it has evaluated

The file is the runs' evaluations.csv below comment lines that name each one's command, commit, machine and values. Runs
may hold different seeds of the same arguments; seeds are refused twice, and different arguments too. Values of the
method other than the script's own on that environment become part of the file's name.
"""

import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import ROOT
from analysis.records import PLACE, checkpoint_table, config_of, file_stem, origin, read_text, write_whole
from analysis.report import Parser, start
from runtime.messages import fail

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco")
VALUES = "#   values "  # before what a run was given, whatever the script's own values become


def evaluated(folder: Path, config: dict, unfinished: bool = False) -> list[list[str]]:
    """The rows of a run's evaluations, head first. The last checkpoint of a finished one has them too, and is whole."""
    args, text = config["args"], read_text(folder / "evaluations.csv")
    step, kept = checkpoint_table(folder)
    text = kept if step == args["total_timesteps"] else text
    if text and not text.endswith("\n"):
        fail(f"{folder}: the last row of evaluations.csv is torn: mend it with --resume")
    rows = list(csv.reader(text.splitlines()))
    last = max((int(row[0]) for row in rows[1:]), default=0)
    if last + args["eval_frequency"] <= args["total_timesteps"] and not unfinished:
        fail(f"{folder} stopped at step {last} of {args['total_timesteps']}: finish it with --resume")
    return rows


def collect(folders: list[Path], unfinished: bool = False) -> tuple[str, str]:
    """The name and the text of the results file, which names the step that an unfinished run has reached."""
    head, rows, columns, kinds, seeds = [], [], set(), set(), set()
    for folder in folders:
        config = config_of(folder)
        args = config["args"]
        values = {name: args[name] for name in args if name not in PLACE}
        kinds.add(json.dumps([config["script"], values]))
        own = set(range(args["seed"], args["seed"] + args["num_seeds"]))
        if len(kinds) > 1 or own & seeds:
            fail(f"{folder} differs from the other runs in its arguments, or repeats a seed: collect it by itself")
        table = evaluated(folder, config, unfinished)
        seeds |= own
        columns.add(",".join(table[0]))
        rows += table[1:]
        versions = ", ".join(f"{name} {config['packages'][name]}" for name in PACKAGES)
        last = int(table[-1][0]) if table[1:] else 0
        stopped = [f"#   stopped: evaluated up to step {last} of {args['total_timesteps']}"]
        head += origin(config, "") + (stopped if last + args["eval_frequency"] <= args["total_timesteps"] else [])
        head += [
            f"#   python {config['python']}, {versions}",
            VALUES + json.dumps({k: config[k] for k in ("form",) if k in config} | values),
        ]
    try:
        rows.sort(key=lambda row: [int(cell) for cell in row[:3]])
    except ValueError:
        fail(f"{folder}: evaluations.csv is broken: mend it with --resume")
    keys = {tuple(row[:3]) for row in rows}
    steps, episodes = ({key[i] for key in keys} for i in (0, 2))
    if not len(rows) == len(keys) == len(steps) * len(seeds) * len(episodes):
        fail("the runs were not evaluated at the same steps: collect runs of one length")
    return f"{file_stem(config)}.csv", "\n".join([*head, *columns, *(",".join(row) for row in rows)]) + "\n"


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="runs' folders")
    parser.add_argument("--unfinished", action="store_true", help="take runs that were stopped, as far as they came")
    options = parser.parse_args(argv)
    name, text = collect(options.folders, options.unfinished)
    write_whole(ROOT / "results" / name, text)
    print(f"{name}: {text.count(chr(10))} lines")


if __name__ == "__main__":
    start(main)
