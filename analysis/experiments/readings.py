"""SAC-HPO with one thing changed, to find out which reading of the paper does what the paper says.

    python analysis/experiments/readings.py train reflect --env-id Hopper-v4 --num-seeds 8  # and its flags
    python analysis/experiments/readings.py collect runs/HalfCheetah-v4__*__reflect__1__1795241545
    python analysis/experiments/readings.py collect --into fresh runs/HalfCheetah-v4__*  # other seeds
    python analysis/tables.py results/search/HalfCheetah-v4__*.csv  # against SAC's file among them

An arm is SAC-HPO's agent with a method or two replaced (the classes below); `as-is` replaces none, so that the flags of
`sac_hpo_continuous.py` make the arm. --leapfrog-space action puts any arm into action space (spaces.py); the two
`unclamped` arms are there already, and nothing clamps their actions. `collect` takes runs of SAC too. What the arms
find is in docs/readings.md, and what they found on an older start in docs/lab/readings-old-start.md.
"""

import functools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_hpo_continuous as hpo
from analysis import ROOT
from analysis.collect import collect
from analysis.experiments.spaces import Chain, chosen, in_action_space, script_of, unclamped
from analysis.records import config_of, program, write_whole
from analysis.report import start
from runtime.messages import fail
from runtime.run import launch

import torch
import torch.nn.functional as F
from torch import Tensor

RESULTS = ROOT / "results" / "search"
PROGRAM = "analysis/experiments/readings.py"


class Reflect(Chain):
    """Action space, where a chain is reflected at the box: it stays inside, and volume is preserved, so (13) holds."""

    def evolve(self, critic, obs, x, noise, std, with_momentum=False):
        stds, size, momentum = self.stds(std), self.args.step_size, std * noise
        f = self.force(obs, *self.direction(critic, obs, x))
        for k in range(1, len(stds)):
            momentum = momentum - size / 2 * f
            x, momentum = bounce(x + size * momentum, momentum)
            f = self.force(obs, *self.direction(critic, obs, x))
            momentum = (momentum - size / 2 * f) * (stds[k] / stds[k - 1])
        return x, momentum


def bounce(x: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
    """Position and momentum of a particle that walls at -1 and 1 have thrown back as often as it met them."""
    place = (x + 1) % 4  # a round trip is 4 long
    return 1 - (place - 2).abs(), torch.where(place < 2, momentum, -momentum)


class Blind(Chain):
    """A force that does not see g: (1 - σ_h) T_h alone, with no jumps for the gradient to miss."""

    def direction(self, critic, obs, x):
        action = self.place(x)
        return action, torch.zeros_like(action)


class Straight(Chain):
    """No gradient through the chain: the forces are held constant in a, so ∂a_K/∂a_0 = 1 and h learns by their sum."""

    def direction(self, critic, obs, x):
        return super().direction(critic, obs, x.detach())


class Around(Chain):
    """An agent with four places around the origin, two by two on either side, 0.2 away in each dimension on average."""

    def __init__(self, args, obs_dim, act_dim):
        super().__init__(args, obs_dim, act_dim)
        draws = 0.2 * torch.randn(2, act_dim, generator=torch.Generator().manual_seed(0))
        self.around = torch.stack([draws[0], -draws[0], draws[1], -draws[1]]).to(self.log_alpha.device)


class Smooth(Around):
    """g of a smoother critic: of the mean of ∇_a Q over four actions around a."""

    def slope(self, critic, obs, action):
        slope = sum(hpo.action_gradient(critic, obs, action + offset) for offset in self.around) / len(self.around)
        return slope if self.in_action_space() else slope * (1 - action.square())


class Averaged(Around):
    """The mean of g at four positions around x: shorter where they disagree."""

    def direction(self, critic, obs, x):
        every = super().direction  # which generators do not know
        g = sum(every(critic, obs, x + offset)[1] for offset in self.around) / len(self.around)
        return self.place(x), g


class Prior(Chain):
    """Pre-tanh space with the potential of a uniform prior over the box: U(u) = -Q/α - Σ log(1 - tanh²(u))."""

    def slope(self, critic, obs, action):
        return super().slope(critic, obs, action) / self.log_alpha.exp().detach().unsqueeze(-1) - 2 * action


class FirstSlope(Chain):
    """The policy's loss has log π(a_0|s), as (15) writes it: the tanh's slope at u_0, not at u_K."""

    def policy_loss(self, obs, noise):
        loss, seen = super().policy_loss(obs, noise)
        _, log_prob = script_of(self).squash(*self.policy.sample(obs, noise.action))
        loss = loss + (self.log_alpha.exp().detach() * (log_prob - seen["log_prob"])).mean(-1)
        return loss, seen | {"losses/actor_loss": loss, "losses/entropy": -log_prob.mean(-1), "log_prob": log_prob}


class BatchNorm(Chain):
    """g divides by the L2 norm of the whole batch's gradients in the policy's loss, where it is 1/√B long. To act, to
    evaluate and in the critics' target each sample has its own norm, as ever."""

    whole = False  # while the policy's loss is computed

    def policy_loss(self, obs, noise):
        self.whole = True
        try:
            return super().policy_loss(obs, noise)
        finally:
            self.whole = False

    def direction(self, critic, obs, x):
        if not self.whole:
            return super().direction(critic, obs, x)
        action = self.place(x)
        return action, -self.scaled(self.slope(critic, obs, action))

    def scaled(self, slope: Tensor) -> Tensor:
        """A batch's gradients (B, d) over the norm of all their numbers."""
        return F.normalize(slope.flatten(-2), dim=-1).view_as(slope)


class BatchScale(BatchNorm):
    """The same over the root mean square of the samples' norms, so that g is 1 long on average of squares."""

    def scaled(self, slope):
        return super().scaled(slope) * math.sqrt(slope.shape[-2])


class First(NamedTuple):
    """The first of twin critics in the place of the smaller one."""

    critic: torch.nn.Module

    def smaller(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.critic(obs, action)[..., 0, :]


class FirstCritic(Chain):
    """U from Q1 alone (D7). The loss and the targets value actions by the smaller critic, as ever."""

    def slope(self, critic, obs, action):
        return super().slope(First(critic), obs, action)


class Online(Chain):
    """With --evolve-target the critics themselves, not their targets, evolve the targets' next action, as if the
    leapfrog stood inside `Policy.sample`."""

    def evolve(self, critic, obs, x, noise, std, with_momentum=False):
        return super().evolve(self.critic, obs, x, noise, std, with_momentum)


def still(noise):
    """Noise whose ρ_0 is zero, if it has one."""
    return noise._replace(momentum=torch.zeros_like(noise.momentum)) if "momentum" in noise._fields else noise


class Still:
    """No momentum noise in training: ρ_0 = 0 in the policy's loss. Exploration keeps its own."""

    def policy_loss(self, obs, noise):
        return super().policy_loss(obs, still(noise))


class StillBoth(Still):
    """No momentum noise at all: ρ_0 = 0 in exploration too."""

    def act(self, obs, noise):
        return super().act(obs, still(noise))


class Plain:
    """Exploration by the base policy, as in baseline-3: the chain optimises alone."""

    @torch.no_grad()
    def act(self, obs, noise):
        return script_of(self).squash(*self.policy.sample(obs, noise.action))[0]


ARMS = {"as-is": None, "reflect": Reflect, "blind": Blind, "straight": Straight, "smooth": Smooth}
ARMS |= {"averaged": Averaged, "prior": Prior, "still": Still, "still-both": StillBoth, "plain": Plain}
ARMS |= {"first-slope": FirstSlope, "batch-norm": BatchNorm, "batch-scale": BatchScale, "first-critic": FirstCritic}
ARMS |= {"unclamped": None, "unclamped-online": Online}
SPACES = {"reflect": "action", "prior": "pre-tanh", "first-slope": "pre-tanh"}  # where an arm has a meaning, if not in
SPACES |= {"unclamped": "unclamped", "unclamped-online": "unclamped"}  # both; action space has log π(a_0|s) anyway
FLAGS = {"unclamped-online": ["--evolve-target"]}  # that an arm needs


@functools.cache
def agent_of(arm: str | None, script: ModuleType = hpo) -> type:
    """The agent of an arm, of SAC-HPO or of its copy in action space; of any other name the script's own."""
    script = in_action_space(hpo, clamp=False) if SPACES.get(arm) == "unclamped" else script
    changed = ARMS.get(arm)
    return type(changed.__name__, (changed, script.Agent), {"__module__": script.__name__}) if changed else script.Agent


def train(arm: str, flags: list[str]) -> int:
    """A run of SAC-HPO with the arm's agent, whose name the run keeps as its --exp-name."""
    if SPACES.get(arm) == "unclamped":
        script = unclamped(hpo)
    else:
        script, flags = chosen(hpo, [*(["--leapfrog-space", SPACES[arm]] if arm in SPACES else []), *flags])
    resumed = any(flag.split("=")[0] == "--resume" for flag in flags)  # whose values are its own
    flags = ["--exp-name", arm, *(FLAGS.get(arm, []) if not resumed else []), *flags]
    return launch(script, flags, agent=agent_of(arm, script), program=f"{PROGRAM} train {arm}")


def keep(folder: Path, into: str = "") -> Path:
    """Copies a run's evaluations, of SAC or of an arm, to results/search/, below the command that made them.

    Refuses to write over a file of another run; `into` names a folder in results/search/ for such runs.
    """
    config = config_of(folder)
    arm = config["args"].get("exp_name")
    name, text = collect([folder])
    name = name.replace("__matmul-precision-medium", "")  # which every run of the comparison has
    if arm:
        name = name if arm == "as-is" else name.replace(".csv", f"__{arm}.csv")
        text = text.replace(f"python {program(config)}", f"python {PROGRAM} train {arm}", 1)
        text = text.replace(f" --exp-name {arm}", "", 1)
    path = RESULTS / into / name
    if path.exists() and path.read_text(encoding="utf-8") != text:
        fail(f"{path} is of another run than {folder}: delete it first, or collect --into another folder")
    write_whole(path, text)
    return path


def main(argv: list[str]) -> int:
    what, *rest = argv or [""]
    if what in ("-h", "--help"):
        print(__doc__)
        return 0
    if what == "train" and rest and rest[0] in ARMS:
        return train(rest[0], rest[1:])
    into, rest = (rest[1], rest[2:]) if what == "collect" and rest[:1] == ["--into"] and rest[1:] else ("", rest)
    if what != "collect" or not rest:
        arms = ", ".join(ARMS)
        fail(f"name train and an arm ({arms}) and SAC-HPO's flags; or collect [--into FOLDER] and run folders")
    for folder in rest:
        print(keep(Path(folder), into))
    return 0


if __name__ == "__main__":
    start(main)
