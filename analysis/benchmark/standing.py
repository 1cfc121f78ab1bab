"""What an agent earns that does nothing, and one whose actions are random, on every task of the benchmark.

    python analysis/benchmark/standing.py                       # a minute; writes results/benchmark/standing.csv
    python analysis/benchmark/standing.py Ant-v4 Hopper-v4 --output mine.csv

Doing nothing is the middle of each action's range, at every step; random actions are uniform over that range. Ten
episodes each, on the same starts. docs/results.md shows both beside what was learned: where a simulator pays for being
alive, standing still may earn more than an agent.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT
from analysis.benchmark.claims import PIXELS, SECTIONS
from analysis.play import CPU, START
from analysis.records import check_output, csv_text, module_of, read_rows, write_whole
from analysis.report import Parser, spread, start, table
from runtime.arguments import parse
from runtime.control import ControlEnv
from runtime.environments import make_env, normalised, quiet
from runtime.evaluation import evaluate
from runtime.messages import fail

import numpy as np
import torch

PROGRAM = "analysis/benchmark/standing.py"
OUTPUT = ROOT / "results" / "benchmark" / "standing.csv"
STILL, RANDOM = KINDS = "standing still", "random actions"
COLUMNS = "environment", "actions", "episode", "return", "length"
EPISODES = 10


def environment(env_id: str):
    """A task; those that the benchmark sees by a camera without it, with its repeats of an action."""
    if env_id not in PIXELS:
        return make_env(env_id)
    args, _ = parse(module_of("sac_hpo_pixels"), ["--env-id", env_id])
    with quiet():  # dm_control warns of its own models
        return normalised(ControlEnv(env_id, args.action_repeat))


def played(env_id: str) -> list[tuple]:
    """Rows of COLUMNS."""
    envs, generator, rows = [environment(env_id) for _ in range(EPISODES)], torch.Generator().manual_seed(0), []
    dimensions = envs[0].action_space.shape[0]
    policies = {  # obs (S, B, ds) to actions (S, B, d) in [-1, 1]
        STILL: lambda obs: torch.zeros(*obs.shape[:2], dimensions),
        RANDOM: lambda obs: 2 * torch.rand(*obs.shape[:2], dimensions, generator=generator) - 1,
    }
    for name, policy in policies.items():
        (returns,), (lengths,) = evaluate(policy, [envs], range(1, 2), START, CPU)
        rows += [(env_id, name, i, round(x, 3), n) for i, (x, n) in enumerate(zip(returns.tolist(), lengths.tolist()))]
    for env in envs:
        env.close()
    return rows


def known(path: Path = OUTPUT) -> dict[str, dict[str, np.ndarray]]:
    """The returns (E,) of a file that this wrote, by environment and kind of actions; none where there is no file."""
    returns = {}
    try:
        for row in read_rows(path, COLUMNS) if path.exists() else ():
            returns.setdefault(row["environment"], {}).setdefault(row["actions"], []).append(float(row["return"]))
    except ValueError as error:
        fail(f"{path} is broken: {error}")
    return {env_id: {name: np.array(x) for name, x in kinds.items()} for env_id, kinds in returns.items()}


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("env_ids", nargs="*", help="tasks; without any all of the benchmark's")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="CSV to write")
    options = parser.parse_args(argv)
    if options.env_ids and options.output == OUTPUT:
        fail("some of the tasks need an --output of their own: that of all is results/benchmark/standing.csv")
    check_output(options.output)
    rows, all_of_them = [], dict.fromkeys(env_id for section in SECTIONS for env_id in section.env_ids)
    for env_id in options.env_ids or all_of_them:
        rows += played(env_id)
    write_whole(options.output, csv_text([f"# python {' '.join([PROGRAM, *options.env_ids])}"], COLUMNS, rows))
    found = known(options.output)
    print(table(["environment", *KINDS], [[env_id, *(spread(x[k]) for k in KINDS)] for env_id, x in found.items()]))


if __name__ == "__main__":
    start(main)
