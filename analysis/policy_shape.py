"""HPO Figure 8: where the dynamics carry actions, on the contours of min(Q1, Q2), in trained agents.

    python analysis/policy_shape.py RUN                              # agent.pt, the first two action dimensions
    python analysis/policy_shape.py RUN --steps 20000 60000 100000   # of a run with --keep-agents
    python analysis/policy_shape.py RUN --dimensions 0 2 --output shape.png

A row for each seed shown and a column for each step: one state of an episode that the agent plays, DRAWS actions of the
base policy, and where the training's dynamics end. The other dimensions of the contours are the mean action's.
"""

import dataclasses
import sys
from pathlib import Path

import matplotlib
import torch
import tyro
from gap import visited
from play import load  # which finds runtime/ too

from runtime.messages import Refused, fail, tell  # isort: skip

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DRAWS, GRID = 100, 60


@dataclasses.dataclass
class Args:
    folder: tyro.conf.Positional[Path]  # a run's folder, of a script with dynamics
    steps: tuple[int, ...] = ()  # agents of these steps, from a run with --keep-agents; otherwise agent.pt
    dimensions: tuple[int, int] = (0, 1)  # of the action
    seeds: int = 2  # how many of the run's seeds to show
    output: Path | None = None  # PNG; by default in the run's folder


@torch.no_grad()
def actions(agent, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Base and evolved actions, (S, DRAWS, d) each, at one state (S, 1, ds)."""
    obs = obs.expand(-1, DRAWS, -1)
    noise = torch.randn(2, len(obs), DRAWS, agent.act_dim, generator=torch.Generator().manual_seed(0))
    x, log_prob = agent.start(obs, noise[0])
    moved, _ = agent.evolve(agent.critic, agent.critic.share(obs), obs, x, noise[1], agent.args.momentum_std_train)
    return agent.end(x, log_prob)[0], agent.end(moved, log_prob)[0]


@torch.no_grad()
def landscape(agent, obs: torch.Tensor, dimensions: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """min(Q1, Q2), (S, GRID, GRID), over two action dimensions at one state (S, 1, ds), and their values (GRID,)."""
    axis = torch.linspace(-1, 1, GRID)
    grid = agent.policy.mean_action(obs).repeat(1, GRID * GRID, 1)
    grid[..., dimensions[0]], grid[..., dimensions[1]] = axis.repeat(GRID), axis.repeat_interleave(GRID)
    return agent.critic(obs.expand(-1, GRID * GRID, -1), grid).amin(1).view(-1, GRID, GRID), axis


def main(args: Args) -> Path:
    steps = args.steps or (None,)
    agents = [load(args.folder, step) for step in steps]
    if not hasattr(agents[0], "start") or not agents[0].args.leapfrog_steps:
        fail(f"{args.folder} is no run of dynamics that this can draw: name one of sac_hpo_continuous.py")
    if len(set(args.dimensions)) < 2 or not all(0 <= i < agents[0].act_dim for i in args.dimensions):
        fail(f"--dimensions {args.dimensions[0]} {args.dimensions[1]}: choose two of 0 to {agents[0].act_dim - 1}")
    count = min(args.seeds, agents[0].args.num_seeds)
    figure, axes = plt.subplots(count, len(agents), figsize=(4 * len(agents), 3.6 * count), squeeze=False)
    for column, (agent, step) in enumerate(zip(agents, steps)):
        obs = visited(agent)[:, 16:17]
        (base, evolved), (values, axis) = actions(agent, obs), landscape(agent, obs, args.dimensions)
        for i in range(count):
            ax, (left, right) = axes[i, column], args.dimensions
            ax.contourf(axis, axis, values[i], 20, cmap="viridis")
            ax.scatter(*base[i][:, [left, right]].T, s=9, color="white", label="base policy")
            ax.scatter(*evolved[i][:, [left, right]].T, s=9, color="tab:red", label="after the dynamics")
            lines = torch.stack([base[i], evolved[i]])[..., [left, right]]
            ax.plot(*lines.permute(2, 0, 1), color="white", lw=0.4, alpha=0.6)
            ax.set(xlabel=f"action {left}", ylabel=f"action {right}", xlim=(-1, 1), ylim=(-1, 1))
            ax.set_title(f"seed {agent.args.seed + i}" + (f", step {step:,}" if step else ""), fontsize=9)
    axes[0, 0].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    path = args.output or args.folder / "policy_shape.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path


if __name__ == "__main__":
    try:
        print(main(tyro.cli(Args, description=__doc__)))
    except Refused as refusal:
        tell(refusal)
        sys.exit(2)
