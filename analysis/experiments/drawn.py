"""What evaluation plays (D9): trained agents with ρ_0 = 0, with ρ_0 drawn, and without their dynamics.

    python analysis/experiments/drawn.py runs/HalfCheetah-v4__sac_hpo_continuous__1__1763720000 [more run folders ...]
    python analysis/experiments/drawn.py RUN --output results/drawn/HalfCheetah-v4.csv
    python analysis/experiments/drawn.py --show results/drawn/*.csv         # the table of files that --output wrote

Every policy plays the same starts, a_0 the mean's in all: ρ_0 = 0 as evaluation has it; ρ_0 by training's momentum, and
by exploration's, on its schedule; and the base mean alone. Runs of readings.py are played by their arm's
agent. Differences are to ρ_0 = 0, seed by seed, with Student's 95% interval.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import records
from analysis.experiments.readings import SPACES, agent_of
from analysis.experiments.spaces import script_of
from analysis.play import CPU, START, load
from analysis.report import ends, parsed, spread, start, table
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.messages import fail

import numpy as np
import torch
import tyro

PROGRAM = "analysis/experiments/drawn.py"
COLUMNS = "environment", "script", "step", "policy", "seed", "return"


@dataclasses.dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()  # runs' folders, of sac_hpo_continuous.py or its arms
    episodes: int = 10  # episodes of each seed and policy
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    output: Path | None = None  # keep the means of each seed in this CSV
    show: tuple[Path, ...] = ()  # play nothing, print the table of these CSVs


def drawn(agent, std: float):
    """The policy whose a_0 is the mean's and ρ_0 ~ N(0, std²): obs (S, B, ds) to actions (S, B, d)."""
    generator = torch.Generator().manual_seed(0)

    def policy(obs):
        noise = torch.randn(*obs.shape[:2], agent.act_dim, generator=generator)
        x, log_prob = agent.policy.sample(obs, torch.zeros_like(noise))
        x, _ = agent.evolve(agent.critic, obs, x, noise, std)
        return script_of(agent).squash(x, log_prob)[0]

    return policy


def policies(agent) -> dict:
    """What is played, by its name; the first is what differences are to."""
    given = agent.args
    return {
        "ρ0 = 0": agent.evolved_mean,
        "ρ0 as in training": drawn(agent, given.momentum_std_train),
        "ρ0 as in exploration": drawn(agent, given.momentum_std_explore),
        "base mean alone": agent.policy.mean_action,
    }


def armed(folder: Path, env_id: str | None = None):
    """A run's agent, of its arm's class."""
    arm = records.config_of(folder)["args"].get("exp_name")
    return load(folder, env_id=env_id, kind=lambda script: agent_of(arm, script))


def played(agent, episodes: int) -> dict:
    """Mean returns (S,) of each policy."""
    args = agent.args
    seeds = range(args.seed, args.seed + args.num_seeds)
    envs = [[make_env(args.env_id, args=args) for _ in range(episodes)] for _ in seeds]
    longest, returns = args.eval_max_steps, {}
    for name, policy in policies(agent).items():
        played, _ = evaluate(lambda obs, p=policy: p(agent.sees(obs)), envs, seeds, START, CPU, longest=longest)
        returns[name] = played.mean(1)
    return returns


def means(rows: list[dict]) -> str:
    """The table: a row for each environment, arm and policy."""
    lines, curves = [], {}
    for row in rows:
        key = row["environment"], row["script"], f"{int(row['step']):,}"
        curves.setdefault(key, {}).setdefault(row["policy"], {})[row["seed"]] = float(row["return"])
    for key, found in curves.items():
        values = {name: np.array([each[seed] for seed in sorted(each)]) for name, each in found.items()}
        first = next(iter(values))
        for name, mine in values.items():
            gaps = mine - values[first]
            cells = ["", ""] if name == first else [f"{gaps.mean():+.0f}", ends(gaps)]
            lines.append([*key, len(mine), name, spread(mine), *cells])
    head = ["environment", "script", "steps", "seeds", "evaluated with", "return", "difference to ρ0 = 0"]
    return table([*head, "95 % interval"], lines)


def shown(paths: tuple[Path, ...]) -> str:
    """The table of files that --output wrote."""
    rows = [row for path in paths for row in records.read_rows(path, COLUMNS)]
    try:
        return means(rows)
    except (ValueError, KeyError) as error:  # no number, or a seed that not every policy has
        fail(f"a file of --show is broken: {error}")


def measured(folder: Path, args: Args) -> tuple[list[dict], list[str]]:
    """The rows of a run, and the comments that say whose they are."""
    config = records.config_of(folder)
    if config["script"] != "sac_hpo_continuous" or not config["args"].get("leapfrog_steps"):
        fail(f"{folder} is no run with dynamics that this can draw: name one of sac_hpo_continuous.py")
    arm = config["args"].get("exp_name")
    if SPACES.get(arm) == "unclamped":
        fail(f"{folder} is a run of the arm {arm}, whose actions the environments here would clip")
    agent = armed(folder, args.env_id)
    flags = [flag for flag in records.variant(config) if not flag.startswith("matmul-precision")]
    flags += [arm] if arm and arm != "as-is" else []
    name = " ".join([config["script"], *(f"--{flag}" for flag in flags)])  # as tables.py has it
    given, rows = agent.args, []
    for policy, values in played(agent, args.episodes).items():
        for i, value in enumerate(values):
            numbers = given.total_timesteps, policy, given.seed + i, f"{value:.3f}"
            rows.append(dict(zip(COLUMNS, (given.env_id, name, *numbers))))
    return rows, records.origin(config)


def main(args: Args) -> str:
    if args.show:
        return shown(args.show)
    if not args.folders or args.episodes < 1:
        fail("name run folders, or --show and CSVs" if args.episodes > 0 else "--episodes: choose 1 or more")
    records.check_output(args.output)
    rows, comments = [], [f"# python {PROGRAM}, {args.episodes} episodes of each seed, the agents at the end"]
    for _, (mine, whose) in records.each(list(args.folders), lambda folder: measured(folder, args)):
        rows, comments = rows + mine, comments + whose
        if args.output:  # after each, so that an interrupt loses none
            records.write_whole(args.output, records.csv_text(comments, COLUMNS, rows))
    return means(rows)


if __name__ == "__main__":
    start(lambda argv: print(main(parsed(Args, __doc__, argv))))
