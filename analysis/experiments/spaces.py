"""SAC-HPO, its ablations and its pixels in action space: the chain moves a itself, and a_K is clamped to the box (D6).

    python analysis/experiments/spaces.py sac_hpo_continuous --env-id Hopper-v4 --num-seeds 4    # the script's flags
    python analysis/experiments/spaces.py noise_only --resume runs/Hopper-v4__noise_only__1__1795258535

The scripts move u, whose tanh is the action. The paper's letters move a, with log π(a_0|s), and say nothing of an a
outside the box. Here a_K alone is clamped, before a critic, the environment or the replay sees it, and a clamped
coordinate gets no gradient from Q. The a_k in between are not, or the map would lose its inverse and its determinant.
A run has `leapfrog_space` action among its values. readings.py, starts.py and distance.py, beside this one, take
--leapfrog-space action too; gap.py, play.py and what else reads runs knows such a run by that value.
"""

import dataclasses
import functools
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis.report import start
from runtime import environments
from runtime.home import module_of
from runtime.messages import fail
from runtime.run import launch

import torch.nn.functional as F
from torch import Tensor

PROGRAM = "analysis/experiments/spaces.py"
SPACES = "pre-tanh", "action"


@dataclasses.dataclass
class Values:
    leapfrog_space: Literal["action"] = "action"  # where the chain lives: in a itself, clamped at its end (D6)


def script_of(agent) -> ModuleType:
    """The script, or its copy in action space, that an agent is of."""
    return sys.modules[type(agent).__module__]


# -------------------------------------------------------------------------------------------------------------- chains
class Chain:
    """SAC-HPO's dynamics in either space, part by part. It stands before a script's Agent among a class's bases."""

    def in_action_space(self) -> bool:
        return getattr(self.args, "leapfrog_space", "pre-tanh") == "action"

    def place(self, x: Tensor) -> Tensor:
        """The action at a position, (B, d)."""
        return x if self.in_action_space() else x.tanh()

    def slope(self, critic, obs: Tensor, action: Tensor) -> Tensor:
        """∇_x min(Q1, Q2) at an action, (B, d)."""
        slope = script_of(self).action_gradient(critic, obs, action)
        return slope if self.in_action_space() else slope * (1 - action.square())

    def direction(self, critic, obs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """a at x, and g there, (B, d) each."""
        action = self.place(x)
        return action, -F.normalize(self.slope(critic, obs, action), dim=-1)

    def evolve(self, critic, obs, x, noise, std, with_momentum=False) -> tuple:
        def force(x):
            return self.force(obs, *self.direction(critic, obs, x))

        return script_of(self).leapfrog(force, x, std * noise, self.args.step_size, self.stds(std), with_momentum)

    def stds(self, std: float) -> list[float]:
        return script_of(self).momentum_stds(std, self.args.leapfrog_steps)


class Training(Chain):
    """Baseline-3's."""

    def evolve(self, obs, x, noise, std) -> Tensor:
        return super().evolve(self.critic, obs, x, noise, std)[0]


class Conventional(Chain):
    """Baseline-1's and baseline-2's: HPO eq. (12)."""

    def evolve(self, obs, x, noise, std) -> Tensor:
        def force(x):
            slope = -self.slope(self.critic, obs, self.place(x))
            if self.args.normalize_gradient:
                return F.normalize(slope, dim=-1)
            return slope / self.log_alpha.exp().detach().unsqueeze(-1)

        leapfrog = script_of(self).leapfrog
        return leapfrog(force, x, std * noise, self.args.step_size, self.stds(std), with_momentum=False)[0]


CHAINS = {"sac_hpo_continuous": Chain, "sac_hpo_pixels": Chain, "baseline1": Conventional, "baseline2": Conventional,
          "baseline3": Training, "noise_only": None}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- copies
@functools.cache
def in_action_space(script: ModuleType, clamp: bool = True) -> ModuleType:
    """A copy of a script where the policy gives a_0 and log π(a_0|s), the force looks at a, and a_K is clamped."""
    name = f"{script.__name__}_{'in_action_space' if clamp else 'unclamped'}"
    spec = importlib.util.spec_from_file_location(name, script.__file__)
    copy = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    sample, squash = copy.Policy.sample, copy.squash
    copy.Policy.sample = lambda policy, obs, noise: squash(*sample(policy, obs, noise))
    copy.squash = lambda a, log_prob: (a.clamp(-1, 1) if clamp else a, log_prob)
    chain = CHAINS[script.__name__]
    copy.Agent = type("Agent", (chain, copy.Agent), {"__module__": name}) if chain else copy.Agent
    copy.Args = dataclasses.dataclass(type("Args", (Values, copy.Args), {"__module__": name}))
    copy.FORMER = {}  # of the values that it gives up, action is the one that is left
    return copy


def unclamped(script: ModuleType) -> ModuleType:
    """The copy whose a_K goes as it is to critics, replay and environment, which clips no action from here on."""
    environments.into_box = lambda low, high, action: action.astype(low.dtype, copy=False)
    return in_action_space(script, clamp=False)


def of_values(script: ModuleType, values) -> ModuleType:
    """The script, or its copy, that a run of these values, or of what a file has in their place, is of."""
    acts = isinstance(values, dict) and values.get("leapfrog_space") == "action" and script.__name__ in CHAINS
    return in_action_space(script) if acts else script


def chosen(script: ModuleType, flags: list[str]) -> tuple[ModuleType, list[str]]:
    """The script, or its copy, as --leapfrog-space says or the run that is resumed; and the other flags."""
    space, kept, words = None, [], iter(flags)
    for word in words:
        name, sign, value = word.partition("=")
        if name.replace("_", "-") == "--leapfrog-space":
            space = value if sign else next(words, "")
        else:
            kept.append(word)
    if space is None:
        return of_values(script, resumed(kept)), kept
    if space not in SPACES or script.__name__ not in CHAINS:
        fail(f"--leapfrog-space {space}: choose {' or '.join(SPACES)}, of a script with dynamics")
    return of_values(script, {"leapfrog_space": space}), kept


def resumed(flags: list[str]):
    """The values of the run that --resume names among flags; {} where there is none, which the script tells."""
    words = iter([part for flag in flags for part in (flag.split("=", 1) if flag.startswith("--resume=") else [flag])])
    folder = next(words, None) if "--resume" in words else None  # which takes the words up to it
    try:
        return json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["args"] if folder else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def main(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not argv or argv[0] not in CHAINS:
        fail(f"name one of {', '.join(CHAINS)}, and its flags")
    return launch(in_action_space(module_of(argv[0])), argv[1:], program=f"{PROGRAM} {argv[0]}")


if __name__ == "__main__":
    start(main)
