"""The method at work: actions that K leapfrog steps carry up a critic's landscape, a picture a step.

    python analysis/landscape.py --output landscape.png          # no agent needed: a critic of two hills
    python analysis/landscape.py --run RUN --output mine.png     # a trained agent, a run of sac_hpo_continuous.py
    python analysis/landscape.py --run RUN --dimensions 0 2 --output mine.png

Every dot is an action, its tail the way it came; darker ground is a higher Q. The hills are Gaussians in two action
dimensions, so their critic is exact; the force is their gradient's direction alone (σ_h = 1), and K, ε and 1/√β0 are
of the papers' size. With --run: the base policy's actions at one state of an episode that the run's first seed plays,
its critics, force and flags, and the momentum of training; dimensions that are not drawn are the mean action's.
`Agent.evolve` of sac_hpo_continuous.py, with its `leapfrog` and `momentum_stds`, moves the actions. Printed: their mean
Q, step by step.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import sac_hpo_continuous as hpo
from analysis import records
from analysis.report import parsed, start, table
from runtime.messages import fail

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GRID = 80  # points of a contour along each axis


@dataclasses.dataclass
class Args:
    output: Path  # PNG
    run: Path | None = None  # a run's folder, of sac_hpo_continuous.py
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    dimensions: tuple[int, int] = (0, 1)  # of the action
    actions: int = 50  # how many actions to follow
    leapfrog_steps: int = 3  # K, without an agent
    step_size: float = 0.2  # ε, without an agent
    momentum_std: float = 0.2  # standard deviation 1/√β0 of the momentum, without an agent


class Hills(torch.nn.Module):
    """An exact critic of two action dimensions: a hill of height 1, and one of height 0.6."""

    def smaller(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Q, (B,), at actions (B, 2)."""
        high, low = action.new_tensor([0.55, 0.5]), action.new_tensor([-0.55, -0.45])
        return (-(action - high).square().sum(-1) / 0.3).exp() + 0.6 * (-(action - low).square().sum(-1) / 0.3).exp()


class Direction(torch.nn.Module):
    """F = g: a force that is the gradient's direction and nothing else."""

    def forward(self, obs: torch.Tensor, action: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g


def of_hills(args: Args) -> tuple:
    """Agent, state, mean action, x_0 and the momentum's standard deviation, of SAC-HPO on the two hills."""
    agent = hpo.Agent(hpo.Args(leapfrog_steps=args.leapfrog_steps, step_size=args.step_size), 1, 2)
    agent.critic, agent.force = Hills(), Direction()
    x = 0.6 * torch.randn(1, args.actions, 2)  # as of a base policy that knows nothing yet
    return agent, torch.zeros(1, 1, 1), torch.zeros(1, 1, 2), x, args.momentum_std


def of_run(args: Args) -> tuple:
    """The same of a trained agent."""
    from analysis.gap import visited  # which need a simulator
    from analysis.play import load

    agent = load(args.run, env_id=args.env_id)
    if records.config_of(args.run)["script"] != hpo.__name__ or not agent.args.leapfrog_steps:
        fail(f"{args.run} is no run of dynamics that this can draw: name one of sac_hpo_continuous.py")
    obs = visited(agent)[:, 16:17]
    shape = len(obs), args.actions, agent.act_dim
    x, _ = agent.policy.sample(obs.expand(-1, args.actions, -1), torch.randn(shape))
    return agent, obs, agent.policy.mean_action(obs), x, agent.args.momentum_std_train


def ways(agent, obs: torch.Tensor, x: torch.Tensor, std: float) -> list[torch.Tensor]:
    """The actions a_0 to a_K, (S, n, d) each, that `Agent.evolve` comes by: the force looks at each of them."""
    seen = []
    hook = agent.force.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    agent.evolve(agent.critic, obs.expand(-1, x.shape[1], -1), x, torch.randn(x.shape), std, with_momentum=True)
    hook.remove()
    return [action.clamp(-1, 1) for action in seen]


@torch.no_grad()
def main(args: Args) -> str:
    records.check_output(args.output, picture=True)
    torch.manual_seed(0)
    agent, obs, mean, x, std = of_run(args) if args.run else of_hills(args)
    left, right = args.dimensions
    if agent.act_dim < 2:
        fail(f"{args.run} acts in one dimension and the picture needs two: choose a run of another task")
    if left == right or not all(0 <= i < agent.act_dim for i in args.dimensions):
        fail(f"--dimensions {left} {right}: choose two of 0 to {agent.act_dim - 1}")
    actions = ways(agent, obs, x, std)
    axis = torch.linspace(-1, 1, GRID)
    grid = mean.repeat(1, GRID * GRID, 1)
    grid[..., left], grid[..., right] = axis.repeat(GRID), axis.repeat_interleave(GRID)
    ground = agent.critic.smaller(obs.expand(-1, GRID * GRID, -1), grid)[0].view(GRID, GRID)
    values = [agent.critic.smaller(obs.expand(-1, a.shape[1], -1), a)[0].mean().item() for a in actions]

    size = 3 * len(actions), 3.6
    figure, axes = plt.subplots(1, len(actions), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for k, ax in enumerate(axes[0]):
        ax.contourf(axis, axis, ground, 16, cmap="Greys", alpha=0.5)
        path = torch.stack(actions[: k + 1])[:, 0][..., [left, right]]  # (k + 1, n, 2)
        ax.plot(*path.permute(2, 0, 1), lw=0.8, color="tab:red", alpha=0.6)
        ax.scatter(*path[-1].T, s=14, lw=0, color="tab:red" if k else "tab:blue", zorder=3)
        said = "drawn by the policy" if k == 0 else f"after {k} leapfrog step{'s' * (k > 1)}"
        ax.set_title(f"{said}\nmean Q {values[k]:.2f}", fontsize=10)
        ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal")
        ax.set_xlabel(f"action {left}", fontsize=9)
    axes[0, 0].set_ylabel(f"action {right}", fontsize=9)
    records.save_figure(figure, args.output, 80)
    return f"{table(['leapfrog steps', 'mean Q'], [[k, f'{q:.3f}'] for k, q in enumerate(values)])}\n\n{args.output}"


if __name__ == "__main__":
    start(lambda argv: print(main(parsed(Args, __doc__, argv))))
