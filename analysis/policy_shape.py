"""HPO Figure 8: where the dynamics carry actions, on the contours of min(Q1, Q2), in trained agents.

    python analysis/policy_shape.py RUN                              # agent.pt, the first two action dimensions
    python analysis/policy_shape.py RUN --steps 20000 60000 100000   # of a run with --keep-agents
    python analysis/policy_shape.py RUN --dimensions 0 2 --output shape.png
    python analysis/policy_shape.py --show results/shape/*.csv       # the table of files that --numbers wrote

A row for each seed shown and a column for each step: one state of an episode that the agent plays, DRAWS actions of
the base policy, and where exploration's dynamics carry them, as in the paper (--momentum-std: by another momentum, such
as training's). The other dimensions of the contours are the mean action's. Printed for all the agent's states: min Q at
the actions before and after, and how far a state's actions spread (root mean square about their mean, a dimension).
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import records
from analysis.experiments.spaces import script_of
from analysis.gap import visited
from analysis.play import load
from analysis.report import parsed, start, table
from runtime.messages import fail

import matplotlib
import torch
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DRAWS, GRID = 1000, 60
COLUMNS = "environment", "1/√β0", "step", "seed", "min Q", "min Q evolved", "spread", "spread evolved"


@dataclasses.dataclass
class Args:
    folder: tyro.conf.Positional[Path | None] = None  # a run's folder, of sac_hpo_continuous.py
    steps: tuple[int, ...] = ()  # agents of these steps, from a run with --keep-agents; otherwise agent.pt
    dimensions: tuple[int, int] = (0, 1)  # of the action
    seeds: int = 2  # how many of the run's seeds to show
    momentum_std: float | None = None  # standard deviation 1/√β0 of the momentum; by default exploration's
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    output: Path | None = None  # PNG; by default in the run's folder
    numbers: Path | None = None  # keep the numbers in this CSV
    show: tuple[Path, ...] = ()  # draw nothing, print the table of these CSVs


@torch.no_grad()
def actions(agent, obs: torch.Tensor, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Base and evolved actions, (S, DRAWS, d) each, at one state (S, 1, ds)."""
    obs = obs.expand(-1, DRAWS, -1)
    noise = torch.randn(2, len(obs), DRAWS, agent.act_dim, generator=torch.Generator().manual_seed(0))
    x, log_prob = agent.policy.sample(obs, noise[0])
    moved, _ = agent.evolve(agent.critic, obs, x, noise[1], std)
    squash = script_of(agent).squash
    return squash(x, log_prob)[0], squash(moved, log_prob)[0]


@torch.no_grad()
def tally(agent, obs: torch.Tensor, std: float) -> torch.Tensor:
    """Means over states (S, n, ds): min(Q1, Q2) and spread of base actions, then of evolved ones, (S, 2, 2)."""
    found = []
    for state in obs.split(1, dim=1):
        both, many = actions(agent, state, std), state.expand(-1, DRAWS, -1)
        values = [agent.critic.smaller(many, a).mean(1) for a in both]
        spreads = [a.var(1, correction=0).mean(-1).sqrt() for a in both]
        found.append(torch.stack([torch.stack(pair, -1) for pair in zip(values, spreads)], 1))
    return torch.stack(found).mean(0)


@torch.no_grad()
def landscape(agent, obs: torch.Tensor, dimensions: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """min(Q1, Q2), (S, GRID, GRID), over two action dimensions at one state (S, 1, ds), and their values (GRID,)."""
    axis = torch.linspace(-1, 1, GRID)
    grid = agent.policy.mean_action(obs).repeat(1, GRID * GRID, 1)
    grid[..., dimensions[0]], grid[..., dimensions[1]] = axis.repeat(GRID), axis.repeat_interleave(GRID)
    return agent.critic.smaller(obs.expand(-1, GRID * GRID, -1), grid).view(-1, GRID, GRID), axis


def shown(paths: tuple[Path, ...]) -> str:
    """The table of files that --numbers wrote."""
    return table(
        list(COLUMNS), [[row[x] for x in COLUMNS] for path in paths for row in records.read_rows(path, COLUMNS)]
    )


def main(args: Args) -> str:
    if args.show:
        return shown(args.show)
    if not args.folder:
        fail("name a run's folder, or --show and CSVs")
    records.check_output(args.output, picture=True)
    records.check_output(args.numbers)
    steps = args.steps or (None,)
    agents = [load(args.folder, step, env_id=args.env_id) for step in steps]
    given = agents[0].args
    if records.config_of(args.folder)["script"] != "sac_hpo_continuous" or not given.leapfrog_steps:
        fail(f"{args.folder} is no run of dynamics that this can draw: name one of sac_hpo_continuous.py")
    if agents[0].act_dim < 2:
        fail(f"{args.folder} acts in one dimension and the picture needs two: choose a run of another task")
    if len(set(args.dimensions)) < 2 or not all(0 <= i < agents[0].act_dim for i in args.dimensions):
        fail(f"--dimensions {args.dimensions[0]} {args.dimensions[1]}: choose two of 0 to {agents[0].act_dim - 1}")
    std = given.momentum_std_explore if args.momentum_std is None else args.momentum_std
    count, rows = min(args.seeds, given.num_seeds), []
    figure, axes = plt.subplots(count, len(agents), figsize=(4.2 * len(agents), 3.6 * count), squeeze=False)
    for column, (agent, step) in enumerate(zip(agents, steps)):
        states = visited(agent)
        obs = states[:, 16:17]
        (base, evolved), (values, axis) = actions(agent, obs, std), landscape(agent, obs, args.dimensions)
        for i, ((q, spread), (q_after, spread_after)) in enumerate(tally(agent, states, std).tolist()):
            numbers = f"{q:.2f}", f"{q_after:.2f}", f"{spread:.3f}", f"{spread_after:.3f}"
            rows.append([given.env_id, std, step or given.total_timesteps, given.seed + i, *numbers])
        for i in range(count):
            ax, (left, right) = axes[i, column], args.dimensions
            figure.colorbar(ax.contourf(axis, axis, values[i], 20, cmap="Greys", alpha=0.6), ax=ax)
            ax.scatter(*base[i][:, [left, right]].T, s=4, lw=0, color="tab:blue", alpha=0.7, label="base policy")
            ax.scatter(
                *evolved[i][:, [left, right]].T, s=4, lw=0, color="tab:red", alpha=0.7, label="after the dynamics"
            )
            ax.set(xlabel=f"action {left}", ylabel=f"action {right}", xlim=(-1, 1), ylim=(-1, 1))
            ax.set_title(f"seed {given.seed + i}" + (f", step {step:,}" if step else ""), fontsize=9)
    axes[0, 0].legend(fontsize=7, loc="lower left", markerscale=3)
    figure.tight_layout()
    path = args.output or args.folder / "policy_shape.png"
    records.save_figure(figure, path, 60)
    if args.numbers:
        comments = records.origin(records.config_of(args.folder))
        records.write_whole(args.numbers, records.csv_text(comments, COLUMNS, rows))
    return f"{table(list(COLUMNS), rows)}\n\n{path}"


if __name__ == "__main__":
    start(lambda argv: print(main(parsed(Args, __doc__, argv))))
