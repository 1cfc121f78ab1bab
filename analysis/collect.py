"""Gathers finished runs of one script on one environment into one CSV file under results/.

    python analysis/collect.py runs/Hopper-v4__sac_hpo_continuous__1__1795222647 [more run folders ...]

The file is the runs' evaluations.csv below comment lines that name the command, commit and machine of each. Runs
may hold different seeds of the same arguments; seeds are refused twice, and different arguments too. Values of
the method other than the script's own on that environment become part of the file's name.
"""

import csv
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import ROOT
from runtime.arguments import parse

PLACE = ("seed", "num_seeds", "cuda", "track", "wandb_project_name", "wandb_entity", "capture_video", "exp_name")
PLACE += ("compile", "cuda_graphs", "checkpoint_frequency", "resume", "keep_agents", "products")  # not the method
LENGTH = ("env_id", "total_timesteps", "eval_frequency", "eval_episodes", "eval_max_steps")  # nor tell arms apart
PACKAGES = ("torch", "numpy", "gymnasium", "mujoco")


def fail(message: str):
    print(f"collect: {message}", file=sys.stderr)
    raise SystemExit(2)


def command(config: dict) -> str:
    """The command line that gives these arguments."""
    folder = "ablations/" if (ROOT / "ablations" / f"{config['script']}.py").exists() else ""
    return " ".join(["python", f"{folder}{config['script']}.py", *given_flags(config)])


def given_flags(config: dict) -> list[str]:
    """The flags of a run's command line, and those for values that have ceased to be the script's own."""
    given = {k: v for k, v in config["args"].items() if config["source"][k] == "command line"}
    return words(given | unlike(config))


def words(values: dict) -> list[str]:
    """Values as flags."""
    out = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        out += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return out


def unlike(config: dict) -> dict:
    """Values of the method that are not the script's own on this environment."""
    args = config["args"]
    own = vars(parse(importlib.import_module(config["script"]), ["--env-id", args["env_id"]])[0])
    names = [name for name in own if name not in (*PLACE, *LENGTH) and args.get(name, own[name]) != own[name]]
    return {name: args[name] for name in names}


def variant(config: dict) -> list[str]:
    """The same as parts of a file's name."""
    flags = [(name.replace("_", "-"), value) for name, value in unlike(config).items()]
    return [name if value is True else f"no-{name}" if value is False else f"{name}-{value}" for name, value in flags]


def collect(folders: list[Path]) -> tuple[str, str]:
    """The name and the text of the results file."""
    head, rows, columns, kinds, seeds = [], [], set(), set(), set()
    for folder in folders:
        try:
            config = json.loads((folder / "config.json").read_text())
            with (folder / "evaluations.csv").open() as file:
                table = list(csv.reader(file))
        except OSError as error:
            fail(f"{folder} is no run folder: {error}")
        args = config["args"]
        kinds.add(json.dumps([config["script"], {name: args[name] for name in args if name not in PLACE}]))
        own = set(range(args["seed"], args["seed"] + args["num_seeds"]))
        if len(kinds) > 1 or own & seeds:
            fail(f"{folder} differs from the other runs in its arguments, or repeats a seed: collect it by itself")
        last = max((int(row[0]) for row in table[1:]), default=0)
        if last + args["eval_frequency"] <= args["total_timesteps"]:
            fail(f"{folder} stopped at step {last} of {args['total_timesteps']}: finish it with --resume")
        seeds |= own
        columns.add(",".join(table[0]))
        rows += table[1:]
        versions = ", ".join(f"{name} {config['packages'][name]}" for name in PACKAGES)
        head += [f"# {command(config)}", f"#   commit {config['commit']}; {config['device']}",
                 f"#   python {config['python']}, {versions}"]  # fmt: skip
    rows.sort(key=lambda row: [int(cell) for cell in row[:3]])
    keys = {tuple(row[:3]) for row in rows}
    steps, episodes = ({key[i] for key in keys} for i in (0, 2))
    if not len(rows) == len(keys) == len(steps) * len(seeds) * len(episodes):
        fail("the runs were not evaluated at the same steps: collect runs of one length")
    name = "__".join([args["env_id"].replace("/", "_"), config["script"], *variant(config)]) + ".csv"
    return name, "\n".join([*head, *columns, *(",".join(row) for row in rows)]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        fail("name at least one run folder")
    name, text = collect([Path(folder) for folder in sys.argv[1:]])
    path = ROOT / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(f"{path.name}: {text.count(chr(10))} lines")
