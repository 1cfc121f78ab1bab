"""What a run asks of a script, written once: its module, its agent and its replay.

A script is a module with

    Args        a dataclass of the method's flags, on top of RunArgs, each with a line of help; `batch_size` among them
    LIMITS      smallest and largest value of each number among them
    Agent       a Learner, made as Agent(args, obs_dim, act_dim)
    train       train(args, run), the loop; it asks `run` for environments and agents and plays a step for each of
                `run.steps(replay)`, where the replay is a Ring (runtime/replay.py) whose `sample` gives a NamedTuple
                with `obs` and `next_obs` in it: --normalize-observations normalises these two
    table       optional: table(env_id) gives the name of a paper's row and its values, which become the defaults; it
                may ask for another flag's value on the command line by a second parameter of that name
    FORMER      optional: flags that older runs have and the script has given up, with the value of each that it has
                kept; a run of that value goes on and its agent is played as any other, one of another value is refused
    IDLE        optional: names of flags, divided by spaces, that do nothing where the flag of their key is 0: a command
                line that gives one of them is told so
    FORM        optional: a number, by default 1, which is raised when saved weights come to mean something else: runs
                and agents of another form are refused

and it ends with `sys.exit(launch(sys.modules[__name__]))`.
"""

from collections.abc import Callable
from types import ModuleType

import torch.nn as nn
from torch import Tensor


class Learner(nn.Module):
    """An agent, written for one seed: networks of runtime/seeds.py's layers, and Adams of the same file.

    Whatever training changes is a parameter or belongs to an optimizer among the attributes: a checkpoint keeps both.
    """

    def __init__(self):
        super().__init__()
        self.normaliser = None  # with --normalize-observations runtime/normalisation.py's

    def sees(self, obs: Tensor) -> Tensor:
        """Observations (B, ds) as the networks take them; all methods below take these."""
        return self.normaliser(obs) if self.normaliser else obs

    def raw_policies(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """`policies` of observations as an environment gives them."""
        if not self.normaliser:
            return self.policies()
        return {name: lambda obs, policy=policy: policy(self.sees(obs)) for name, policy in self.policies().items()}

    def noise_shapes(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
        """Shapes of the standard normal numbers that a step needs, by name: to act, and to update."""
        raise NotImplementedError

    def act(self, obs: Tensor, noise) -> Tensor:
        """Exploration: an action (1, d) in [-1, 1] at a state (1, ds). `noise` has the numbers by name."""
        raise NotImplementedError

    def policies(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """What an evaluation plays, by name, with the noise off: (B, ds) -> (B, d). The first counts."""
        raise NotImplementedError

    def metrics(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """What updates saw, as numbers for the logs: of what they returned, names like `losses/actor_loss`."""
        return {name: value for name, value in seen.items() if "/" in name}

    def pictures(self, obs: Tensor) -> Tensor | None:
        """For TensorBoard, an image (3, H, W) in [0, 1] of eight observations from all over the replay."""
        return None


def form_of(script: ModuleType) -> int:
    """What the weights of a script's files mean: today's number."""
    return getattr(script, "FORM", 1)


def twin_metrics(losses: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Losses and mean values of twin critics, (2,) each, under CleanRL's names."""
    names = {"losses/qf_loss": losses.mean(-1)}
    for i in range(2):
        names |= {f"losses/qf{i + 1}_loss": losses[..., i], f"losses/qf{i + 1}_values": values[..., i]}
    return names
