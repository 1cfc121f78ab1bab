"""SAC and SAC-HPO with another start of a run, part by part, to find out which part matters (docs/lab/start.md).

    python analysis/experiments/starts.py train all sac --env-id Ant-v4 --num-seeds 4        # SAC's flags, --resume too
    python analysis/experiments/starts.py train all unclamped --env-id Ant-v4 --num-seeds 4  # SAC-HPO, unclamped
    python analysis/experiments/starts.py collect runs/Ant-v4__sac_continuous__start-all__*  # -> results/start/

A start is `all`, `none`, or parts of it joined by +:
  weights    Xavier uniform weights and zero biases in every network, instead of both uniform on ±1/√in
  log-std    the network's output clamped to [-20, 2], instead of a scaled tanh to [-5, 2]
  random     10,000 steps of random actions, instead of 5,000
  updates    an update a step from step 256 on, instead of none before the random actions end
"""

import itertools
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_continuous as sac
import sac_hpo_continuous as hpo
from analysis import ROOT
from analysis.collect import collect
from analysis.records import config_of, write_whole
from analysis.report import start as run_program
from runtime import environments
from runtime.messages import fail
from runtime.run import launch

import torch

RESULTS = ROOT / "results" / "start"
PROGRAM = "analysis/experiments/starts.py"
PARTS = "weights", "log-std", "random", "updates"
FIRST_UPDATE = 256  # step of the first update with `updates`


def xavier(original, policy):
    """Network.__init__ with weights uniform on ±√(6 / (in + out)) and zero biases. The policy's last layer holds two
    heads, the mean's and the log-std's, each a layer of its own where the bound is taken."""

    def start(network, init, twins, sizes, activate=torch.relu_):
        original(network, init, twins, sizes, activate)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            heads = 2 if isinstance(network, policy) and i == len(sizes) - 2 else 1
            weight, bias = network.layers[2 * i : 2 * i + 2]
            bias.data.zero_()
            bound = math.sqrt(6 / (n_in + n_out // heads))
            for rows, generator in zip(weight.data.split(twins), init):
                rows.uniform_(-bound, bound, generator=generator)

    return start


def clamped_log_std(policy, obs):
    """Policy.forward with the log-std as the network's output, clamped to [-20, 2]."""
    mean, log_std = super(type(policy), policy).forward(obs).mT.chunk(2, dim=-1)
    return mean, log_std.clamp(-20, 2)


def train_early(script):
    """A script's `train` that updates from step FIRST_UPDATE on, while actions are still random."""

    def train(args, run):
        envs = run.environments()
        agent = script.Agent(args, envs.obs_dim, envs.act_dim, run.device)
        capacity = min(args.buffer_size, args.total_timesteps)
        replay = script.Replay(args.num_seeds, capacity, envs.obs_dim, envs.act_dim, run.device)
        act, learn = run.fast(agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
        for step in run.steps(replay):
            acting, updating, uniform = run.numbers(step)
            actions = envs.random_actions() if step < args.learning_starts else act(envs.obs, acting)
            if step >= FIRST_UPDATE:
                run.record(learn(uniform, updating))
            replay.add(*envs.step(actions))

    return train


class Unclamped(hpo.Agent):
    """SAC-HPO in action space, where a_K goes as it is to the critics, the replay and the environment."""

    def end(self, x, log_prob):
        return x, log_prob


READINGS = {"sac": None, "hpo": hpo.Agent, "unclamped": Unclamped}


def train(start: str, reading: str, flags: list[str]) -> int:
    """A run with a start and a reading, whose names the run keeps as its --exp-name."""
    script = sac if reading == "sac" else hpo
    parts = PARTS if start == "all" else [] if start == "none" else start.split("+")
    if "weights" in parts:
        script.Network.__init__ = xavier(script.Network.__init__, script.Policy)
    if "log-std" in parts:
        script.Policy.forward = clamped_log_std
    if "updates" in parts:
        script.train = train_early(script)
    if "random" in parts:
        flags = ["--learning-starts", "10000", *flags]
    if reading == "unclamped":
        hpo.Agent = Unclamped
        environments.into_box = lambda low, high, action: action.astype(low.dtype, copy=False)
        flags = ["--leapfrog-space", "action", *flags]
    script.PROGRAM = f"{PROGRAM} train {start} {reading}"
    return launch(script, ["--exp-name", f"start-{start}__{reading}", *flags])


def keep(folders: list[Path]) -> Path:
    """Copies runs of one start and reading, of different seeds, to one file of results/start/."""
    config = config_of(folders[0])
    args, name = config["args"], str(config["args"].get("exp_name"))
    if not name.startswith("start-") or name.count("__") != 1:
        fail(f"{folders[0]} is no run of {PROGRAM}")
    start, reading = name.removeprefix("start-").split("__")
    text = collect(folders)[1]
    text = text.replace(f"python {config['script']}.py", f"python {PROGRAM} train {start} {reading}")
    text = text.replace(f" --exp-name {args['exp_name']}", "")
    tuned = ["autotune"] if args["autotune"] else []
    path = RESULTS / ("__".join([args["env_id"], config["script"], f"start-{start}", reading, *tuned]) + ".csv")
    write_whole(path, text)
    return path


def main(argv: list[str]) -> int:
    what, *rest = argv or [""]
    known = rest and all(part in (*PARTS, "all", "none") for part in rest[0].split("+"))
    if what in ("-h", "--help"):
        print(__doc__)
        return 0
    if what == "train" and known and rest[1:] and rest[1] in READINGS:
        return train(rest[0], rest[1], rest[2:])
    if what != "collect" or not rest:
        starts, readings = ", ".join((*PARTS, "all", "none")), ", ".join(READINGS)
        fail(f"name train, a start ({starts}), one of {readings} and flags; or collect and run folders")
    print(keep([Path(folder) for folder in rest]))
    return 0


if __name__ == "__main__":
    run_program(main)
