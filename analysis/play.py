"""Plays a trained agent of any script with the noise off, and tells its returns; shows or films it if asked.

    python analysis/play.py runs/Hopper-v4__sac_hpo_continuous__1__1763720000
    python analysis/play.py RUN --step 50000 --episodes 3      # of a run with --keep-agents
    python analysis/play.py RUN --best                         # each seed's best agent
    python analysis/play.py RUN --render human                 # on a screen
    python analysis/play.py RUN --video films                  # MP4 files; without a screen set MUJOCO_GL=egl

Every seed of the run plays the same number of episodes by every policy that the script evaluates (the leapfrog's action
and the base policy's mean, in SAC-HPO). Starts differ from those of the run's own evaluations, and repeat.
"""

import dataclasses
import importlib
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Literal, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.records import script_file
from analysis.report import parsed, start, table
from runtime import products
from runtime.arguments import RunArgs, in_range, misfits
from runtime.checkpoints import BAD_CONTENT
from runtime.contract import Learner
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.messages import Refused, fail, said, tell_notes
from runtime.normalisation import Normaliser
from runtime.seeds import side_by_side

import gymnasium as gym
import numpy as np
import torch
import tyro

CPU = torch.device("cpu")
START = 2**39  # a step that no run reaches, so that its episodes start otherwise


@dataclasses.dataclass
class Args:
    folder: tyro.conf.Positional[Path]  # a run's folder
    episodes: int = 10  # episodes of each seed and policy
    step: int | None = None  # the agent of this step, from a run with --keep-agents; otherwise agent.pt
    best: bool = False  # agent-best.pt: of every seed the agent of its best evaluation
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    render: Literal["human"] | None = None  # show it on a screen
    video: Path | None = None  # film it into this folder


def build(module: ModuleType, args: RunArgs, obs_dim: int, act_dim: int, kind: type | None = None):
    """A script's agent for all seeds that the arguments name, on the CPU; or another kind of object, such as its
    replay or an experiment's agent."""
    with side_by_side(range(args.seed, args.seed + args.num_seeds), CPU):
        made = (kind or module.Agent)(args, obs_dim, act_dim)
        if args.normalize_observations and isinstance(made, Learner):
            made.normaliser = Normaliser(obs_dim)
    return made


def load(folder: Path, step: int | None = None, best: bool = False, env_id: str | None = None, kind=None):
    """A run's agent, on the CPU and uncompiled, with products computed as the run computed them; `kind` takes the place
    of the script's class."""
    path = folder / (f"agents/step-{step}.pt" if step is not None else "agent-best.pt" if best else "agent.pt")
    try:
        script = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["script"])
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, *BAD_CONTENT) as error:
        kept = sorted(int(path.stem[5:]) for path in folder.glob("agents/step-*.pt"))
        fail(
            f"{path}: {said(error)}; name a run's folder"
            + (f", and one of the steps {kept}" if step is not None else "")
        )
    if script_file(script) is None:
        fail(f"{folder} is a run of {script}.py, which is not a script here")
    module = importlib.import_module(script)
    args = arguments_of(module, path, saved)
    if ":" in args.env_id and env_id != args.env_id:  # a stranger's, perhaps
        fail(f"{folder}: its environment {args.env_id} imports a module; if you trust it, give --env-id {args.env_id}")
    env = make_env(args.env_id, args=args)
    products.choose(args.matmul_precision, args.products, CPU, resumed=True)
    agent = build(module, args, env.observation_space.shape[0], env.action_space.shape[0], kind)
    agent.args = args  # which the contract does not ask an agent to keep
    try:
        agent.load_state_dict(saved["agent"])
    except BAD_CONTENT as error:
        fail(f"{path} does not fit {args.env_id}: {said(error)}")
    tell_notes()
    return agent


def arguments_of(module: ModuleType, path: Path, saved) -> RunArgs:
    """The arguments of a saved agent; Refused where they are not those of today's script, or not its weights'."""
    try:
        args, weights = module.Args(**saved["args"]), saved["agent"]
        if odd := misfits(vars(args), get_type_hints(module.Args)):
            raise ValueError(f"it lacks, or does not know, or mistakes {', '.join(odd)}")
        in_range(args, module.LIMITS)
        if not all(len(weight) and len(weight) % args.num_seeds == 0 for weight in weights.values()):
            raise ValueError(f"its weights are not those of {args.num_seeds} seeds")
        return dataclasses.replace(args, cuda=False, compile=False)
    except (Refused, *BAD_CONTENT) as error:
        fail(
            f"{path} is no agent of today's {module.__name__}.py ({said(error)}); play it with the code that trained it"
        )


def play(args: Args) -> list[tuple]:
    """A row for each seed and policy: seed, policy, returns (episodes,), lengths (episodes,)."""
    if args.episodes < 1:
        fail(f"--episodes is {args.episodes}: choose 1 or more")
    if args.best and args.step is not None:
        fail("--best and --step name two agents: choose one")
    agent = load(args.folder, args.step, args.best, args.env_id)
    mode, rows = "rgb_array" if args.video else args.render, []
    if args.video:
        try:
            args.video.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"--video {args.video}: {error.strerror}; name a folder that can be written")
    for i in range(agent.args.num_seeds):
        seed = agent.args.seed + i
        for name, policy in agent.raw_policies().items():
            env = make_env(agent.args.env_id, mode, agent.args)
            if args.video:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that the folder has films already
                    film, prefix = str(args.video.resolve()), f"seed-{seed}-{name}"
                    env = gym.wrappers.RecordVideo(env, film, lambda _: True, name_prefix=prefix)

            def alone(obs, policy=policy, i=i):  # all seeds' networks see the one observation
                return policy(obs.expand(agent.args.num_seeds, *obs.shape[1:]))[i : i + 1]

            longest, places = agent.args.eval_max_steps, range(START, START + args.episodes)
            played = [evaluate(alone, [[env]], range(seed, seed + 1), e, CPU, longest=longest) for e in places]
            env.close()
            rows.append((seed, name, *(np.concatenate(x).ravel() for x in zip(*played))))
    return rows


def main(args: Args) -> None:
    rows = []
    for seed, name, returns, lengths in play(args):
        spread = f"{returns.mean():.1f} ± {returns.std(ddof=min(1, len(returns) - 1)):.1f}"
        rows.append([seed, name, len(returns), spread, f"{lengths.mean():.1f}"])
    print(table(["seed", "policy", "episodes", "return", "length"], rows))


if __name__ == "__main__":
    start(lambda argv: main(parsed(Args, __doc__, argv)))
