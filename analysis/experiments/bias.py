"""How far is the gradient that back-propagation gives the policy from that of its expected loss, in trained agents?

    python analysis/experiments/bias.py runs/HalfCheetah-v4__sac_hpo_continuous__1__1795572401 [more runs of SAC-HPO]

g jumps at the kinks of ReLU critics, and back-propagation cannot see that (docs/method.md). Here the loss at a state is
a mean over many a_0 and ρ_0, and its derivative in the policy's mean, before the tanh, is taken twice: by
back-propagation, and by differences of means over the same draws, shifted. A line for each run: over seeds the cosine
between the two at STATES stored states, all dimensions in one vector; the ratio of their lengths; and the cosine that
two halves of the differences have between them, which sampling alone keeps below 1.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis.experiments.readings import agent_of, hpo
from analysis.experiments.spaces import of_values
from analysis.gap import Noise
from analysis.records import config_of, each
from analysis.report import Parser, ranged, start, table
from runtime.checkpoints import read_file
from runtime.home import arguments_of, build
from runtime.messages import fail

import torch

STATES, DRAWS, SHIFT = 8, 1024, 0.05


def load(folder: Path) -> tuple[hpo.Agent, torch.Tensor]:
    """A run's last agent, and states (S, STATES, ds) from the last rows that it stored."""
    config, paths = config_of(folder), [*folder.glob("checkpoints/rows-*.pt")]
    if config["script"] != "sac_hpo_continuous" or not paths or not (folder / "agent.pt").is_file():
        fail(f"{folder} is no finished run of sac_hpo_continuous.py or of readings.py")
    rows = read_file(max(paths, key=lambda path: int(path.stem.split("-")[1])))
    saved = torch.load(folder / "agent.pt", weights_only=True, map_location="cpu")
    script = of_values(hpo, saved["args"])
    args, weights = arguments_of(script, folder / "agent.pt", saved), saved["agent"]
    obs_dim, act_dim = weights["policy.fc1.weight"].shape[-2], weights["policy.mean.bias"].shape[-1]
    agent = build(script, args, obs_dim, act_dim, agent_of(args.exp_name, script))
    agent.load_state_dict(weights)
    index = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:STATES]
    return agent, agent.sees(rows[:, index, :obs_dim])


class Shifted(torch.nn.Module):
    """A policy whose mean, before the tanh, lies elsewhere by `shift` (S, 1, d)."""

    def __init__(self, policy, shift: torch.Tensor):
        super().__init__()
        self.policy, self.shift = policy, shift

    def forward(self, obs):
        mean, log_std = self.policy(obs)
        return mean + self.shift, log_std

    def sample(self, obs, noise):
        return type(self.policy).sample(self, obs, noise)  # in action space another's


def gradients(agent: hpo.Agent, obs: torch.Tensor, noise: Noise) -> torch.Tensor:
    """(2, S, d) at one state (S, 1, ds), for noise (S, N, d): by back-propagation and by differences."""
    (seeds, draws, d), policy = noise.action.shape, agent.policy
    obs = obs.expand(-1, draws, -1)
    agent.policy = Shifted(policy, torch.zeros(seeds, 1, d, requires_grad=True))
    (ours,) = torch.autograd.grad(agent.policy_loss(obs, noise)[0].sum(), agent.policy.shift)
    differences = torch.zeros(seeds, d)
    with torch.no_grad():
        for i in range(d):
            for sign in (1, -1):
                agent.policy.shift = sign * SHIFT * torch.eye(d)[i].expand(seeds, 1, d)
                differences[:, i] += sign * agent.policy_loss(obs, noise)[0] / (2 * SHIFT)
    agent.policy = policy
    return torch.stack([ours[:, 0], differences])


def compare(folder: Path) -> list:
    """The row of a run."""
    agent, states = load(folder)
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(2):
        draws = torch.randn(len(states), 3, DRAWS, agent.act_dim, generator=generator)
        noise = Noise(*draws.unbind(1), next_momentum=None)  # which the policy's loss does not read
        found.append(torch.stack([gradients(agent, state, noise) for state in states.split(1, dim=1)], dim=2))
    ours, truth = ((found[0][i] + found[1][i]).flatten(1) for i in range(2))
    halves = torch.cosine_similarity(found[0][1].flatten(1), found[1][1].flatten(1))
    cosine, ratio = torch.cosine_similarity(ours, truth), ours.norm(dim=1) / truth.norm(dim=1)
    return [folder.name, len(states), *(ranged(x.numpy(), ".2f") for x in (cosine, ratio, halves))]


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of finished runs")
    rows = [row for _, row in each(parser.parse_args(argv).folders, compare)]
    print(table(["run", "seeds", "cosine", "back-propagated over true length", "cosine of two halves"], rows))


if __name__ == "__main__":
    start(main)
