"""The amortization gap: how far a trained policy's objective lies below what direct optimisation reaches, per state.

    python analysis/gap.py runs/Hopper-v4__sac_hpo_continuous__1__1763720000 [more run folders ...]
    python analysis/gap.py RUN --step 50000                    # of a run with --keep-agents
    python analysis/gap.py --show results/gap/*.csv            # the table of files that --output wrote

HPO says that the dynamics narrow the gap between a policy network's action distribution and the best one, and
measures it nowhere. Here the critics are frozen, and at STATES states of an episode that the agent plays three
numbers are taken with the same random numbers, DRAWS a state: the objective E[min(Q1, Q2)(s, a_K) - α log π] of the
policy without its dynamics; with them, as the script's own loss has it (eq. 15 without the term in ρ_K, so its
entropy is that of action and momentum together); and of a tanh-squashed Gaussian whose mean and standard deviation
Adam has fitted to each state alone, begun at the policy's, on other draws than those that judge it. Gaps are
differences to the last, in units of the return; a line gives their means over seeds with a 95% interval, and the
interval of what the dynamics add.
"""

import copy
import dataclasses
import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import records, report
from analysis.play import CPU, load
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.messages import fail

import numpy as np
import torch
import tyro

STATES, DRAWS, FITTING, STEPS, RATE = 32, 256, 64, 300, 0.03  # states, draws to judge and to fit, Adam's steps and rate
COLUMNS = "environment", "script", "seed", "without", "with", "optimal"


@dataclasses.dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()  # runs' folders
    step: int | None = None  # the agents of this step, from runs with --keep-agents; otherwise agent.pt
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    output: Path | None = None  # keep the numbers of each seed in this CSV
    show: tuple[Path, ...] = ()  # measure nothing, print the table of these CSVs


class Noise(NamedTuple):
    """Standard normal numbers (S, B, d) of an update, under the names that scripts give them."""

    next_action: torch.Tensor
    action: torch.Tensor
    momentum: torch.Tensor
    next_momentum: torch.Tensor


def visited(agent) -> torch.Tensor:
    """STATES states (S, STATES, ds) of one episode that each seed plays, evenly apart, as its networks see them."""
    policy, kept = next(iter(agent.raw_policies().values())), []

    def seen(obs):
        kept.append(obs)
        return policy(obs)

    seeds = range(agent.args.seed, agent.args.seed + agent.args.num_seeds)
    envs = [[make_env(agent.args.env_id, args=agent.args)] for _ in seeds]
    _, lengths = evaluate(seen, envs, seeds, 2**39 + 1, CPU)
    places = [np.linspace(0, length - 1, STATES).astype(int) for length in lengths[:, 0]]
    return agent.sees(torch.stack([torch.stack([kept[t][i, 0] for t in where]) for i, where in enumerate(places)]))


@torch.no_grad()
def objective(agent, obs: torch.Tensor, noise: Noise, dynamics: bool) -> torch.Tensor:
    """Minus the script's policy loss, (S,), at states (S, n, ds), for noise (S, n · draws, d): that of the same
    networks with other arguments, which take the dynamics away if asked and what the loss has besides in any case."""
    asked, own = copy.copy(agent), {field.name for field in dataclasses.fields(agent.args)}
    other = {"momentum_term": False, "spread_weight": 0.0} | ({} if dynamics else {"leapfrog_steps": 0})
    asked.args = dataclasses.replace(agent.args, **{name: value for name, value in other.items() if name in own})
    many = obs.repeat(1, noise.action.shape[1] // obs.shape[1], 1)
    return -asked.policy_loss(many, noise)[0]


def gaussian(agent, obs, mean, log_std, noise) -> torch.Tensor:
    """E[min(Q1, Q2)(s, a) - α log π(a|s)] of tanh-squashed Gaussians (S, n, d), each state's own: (S, n).

    Of MCMC-PO E[min(Q1, Q2)(s, a)] - β D̂ instead, D̂ the divergence from its prior (MCMC-PO eq. 17 for K = 0)."""
    draws = noise.shape[1] // obs.shape[1]
    many, mean, log_std = (x.repeat(1, draws, 1) for x in (obs, mean, log_std))
    u = mean + log_std.exp() * noise
    log_slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    log_prob = (-log_std - noise.square() / 2 - log_slope).sum(-1) - u.shape[-1] * math.log(2 * math.pi) / 2
    value = agent.critic.smaller(many, u.tanh())
    if hasattr(agent, "prior"):
        with torch.no_grad():
            prior = torch.distributions.Normal(*(f(x) for f, x in zip((torch.clone, torch.exp), agent.prior(many))))
        value = value - agent.pid.beta * (log_prob + log_slope.sum(-1) - prior.log_prob(u).sum(-1))
    else:
        value = value - agent.log_alpha.exp().detach() * log_prob
    return value.unflatten(1, (draws, -1)).mean(1)


def optimum(agent, obs: torch.Tensor, fitting: torch.Tensor, judging: torch.Tensor) -> torch.Tensor:
    """The objective (S,) of Gaussians fitted to each state: the best of those met every 50 steps, by other draws."""
    with torch.no_grad():
        parameters = [x.clone().requires_grad_() for x in agent.policy(obs)]
    adam, best = torch.optim.Adam(parameters, RATE), torch.full(obs.shape[:2], -torch.inf)
    for step in range(STEPS + 1):
        mean, log_std = parameters[0], parameters[1].clamp(-5, 2)  # D12's bounds
        if step % 50 == 0:
            with torch.no_grad():
                best = torch.maximum(best, gaussian(agent, obs, mean, log_std, judging))
        loss = -gaussian(agent, obs, mean, log_std, fitting).sum()
        adam.zero_grad()
        loss.backward(inputs=parameters)
        adam.step()
    return best.mean(1)


def measure(agent, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """The three objectives, (S,) each, with common random numbers."""
    generator, (seeds, n, _), d = torch.Generator().manual_seed(0), states.shape, agent.act_dim
    noise = Noise(*torch.randn(seeds, 4, n * DRAWS, d, generator=generator).unbind(1))
    fitting = torch.randn(seeds, n * FITTING, d, generator=generator)
    parts = {name: objective(agent, states, noise, name == "with") for name in ("without", "with")}
    return parts | {"optimal": optimum(agent, states, fitting, noise.action)}


def table(rows: list[dict]) -> str:
    lines = []
    for key in dict.fromkeys((row["environment"], row["script"]) for row in rows):
        mine = [row for row in rows if (row["environment"], row["script"]) == key]
        without, with_, best = (np.array([float(row[x]) for row in mine]) for x in COLUMNS[3:])
        cells = [report.spread(x, 2) for x in (with_, best - without, best - with_)]
        added = [f"{(with_ - without).mean():+.2f}", report.ends(with_ - without, digits=2)]
        lines.append([*key, len(mine), *cells, *(added if (with_ != without).any() else ["", ""])])
    return report.table(["environment", "script", "seeds", "objective", "gap without dynamics", "gap with them",
                         "narrowed by", "95 % interval"], lines)  # fmt: skip


def shown(paths: tuple[Path, ...]) -> str:
    """The table of files that --output wrote."""
    rows = [row for path in paths for row in records.read_rows(path, COLUMNS)]
    try:
        return table(rows)
    except ValueError as error:
        fail(f"a file of --show is broken: {error}")


def measured(folder: Path, args: Args) -> tuple[list[dict], list[str]]:
    """The rows of a run, and the comments that say whose they are."""
    agent, config = load(folder, args.step, env_id=args.env_id), records.config_of(folder)
    if not hasattr(agent, "policy_loss") or not hasattr(agent.policy, "sample"):
        fail(f"{folder} is a run of {config['script']}.py, whose policy this cannot measure")
    found, given, arm = measure(agent, visited(agent)), agent.args, config["args"].get("exp_name")
    name = config["script"] + (f" {arm}" if arm and arm != "as-is" else "")  # readings.py's names
    rows = [{"environment": given.env_id, "script": name, "seed": given.seed + i}
            | {part: f"{values[i].item():.4f}" for part, values in found.items()}
            for i in range(given.num_seeds)]  # fmt: skip
    return rows, records.origin(config)


def main(args: Args) -> None:
    if args.show:
        return print(shown(args.show))
    if not args.folders:
        fail("name run folders, or --show and CSVs")
    records.check_output(args.output)
    rows, comments = [], []
    for _, (mine, whose) in records.each(list(args.folders), lambda folder: measured(folder, args)):
        rows, comments = rows + mine, comments + whose
        if args.output:  # after each, so that an interrupt loses none
            first = f"# python analysis/gap.py, {mine[0]['environment']}, the agents at the end"
            records.write_whole(args.output, records.csv_text([first, *comments], COLUMNS, rows))
    print(table(rows))


if __name__ == "__main__":
    report.start(lambda argv: main(report.parsed(Args, __doc__, argv)))
