"""Plays a trained agent of any script with the noise off, and tells its returns; shows or films it if asked.

    python analysis/play.py runs/Hopper-v4__sac_hpo_continuous__1__1763720000
    python analysis/play.py RUN --step 50000 --episodes 3      # of a run with --keep-agents
    python analysis/play.py RUN --best                         # each seed's best agent
    python analysis/play.py RUN --render human                 # on a screen
    python analysis/play.py RUN --video films                  # MP4 files; without a screen set MUJOCO_GL=egl
    python analysis/play.py RUN --gif agent.gif                # the first seconds of an episode, for a page

Every seed of the run plays the same number of episodes by every policy that the script evaluates (the leapfrog's action
and the base policy's mean, in SAC-HPO). Starts differ from those of the run's own evaluations, and repeat.
"""

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.experiments.spaces import of_values
from analysis.records import check_output
from analysis.report import parsed, start, table
from runtime import products
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.home import CPU, environment, filled, read, tell_changed
from runtime.messages import Fault, fail, tell, tell_notes

import gymnasium as gym
import numpy as np
import tyro
from PIL import Image

START = 2**39  # a step that no run reaches, so that its episodes start otherwise
FRAMES, EVERY, SIDE, COLOURS = 64, 2, 220, 128  # of a GIF: how many, of how many each, pixels across, and colours


@dataclasses.dataclass
class Args:
    folder: tyro.conf.Positional[Path]  # a run's folder
    episodes: int = 10  # episodes of each seed and policy
    step: int | None = None  # the agent of this step, from a run with --keep-agents; otherwise agent.pt
    best: bool = False  # agent-best.pt: of every seed the agent of its best evaluation
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    render: Literal["human"] | None = None  # show it on a screen
    video: Path | None = None  # film it into this folder
    gif: Path | None = None  # film the beginning of the first seed's first episode into this file, and play no other


def load(folder: Path, step: int | None = None, best: bool = False, env_id: str | None = None, kind=None):
    """A run's agent, on the CPU and uncompiled, with products computed as the run computed them; `kind`, of the script,
    gives the class that takes the place of its own."""
    saved = read(folder, step, best, of_values)
    if kind is None:
        tell_changed(saved)
    env = environment(saved, env_id)
    products.choose(saved.args.matmul_precision, saved.args.products, CPU, resumed=True)
    agent = filled(saved, env.observation_space.shape[0], env.action_space.shape[0], kind and kind(saved.module))
    tell_notes()
    return agent


def play(args: Args) -> list[tuple]:
    """A row for each seed and policy: seed, step, policy, returns (episodes,), lengths (episodes,)."""
    if args.episodes < 1:
        fail(f"--episodes is {args.episodes}: choose 1 or more")
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
            try:
                played = [evaluate(alone, [[env]], range(seed, seed + 1), e, CPU, longest=longest) for e in places]
            except Fault as fault:
                tell(f"{fault} is not finite: left out")
                continue
            finally:
                env.close()
            rows.append((seed, agent.steps[i], name, *(np.concatenate(x).ravel() for x in zip(*played))))
    return rows


class Film(gym.Wrapper):
    """Keeps the first frames that an environment draws."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.frames, self.count = [], 0

    def step(self, action):
        if self.count % EVERY == 0 and len(self.frames) < FRAMES:
            self.frames.append(self.env.render())
        self.count += 1
        return self.env.step(action)


def film(args: Args) -> str:
    """Writes the GIF; what it shows."""
    check_output(args.gif, "--gif")
    if args.gif.suffix.lower() != ".gif":
        fail(f"--gif {args.gif}: name a file that ends in .gif")
    if args.video or args.render:
        fail("--gif plays one episode alone: leave --video and --render out")
    agent = load(args.folder, args.step, args.best, args.env_id)
    name, policy = next(iter(agent.raw_policies().items()))
    env = Film(make_env(agent.args.env_id, "rgb_array", agent.args))

    def alone(obs):
        return policy(obs.expand(agent.args.num_seeds, *obs.shape[1:]))[:1]

    try:
        returns, _ = evaluate(alone, [[env]], [agent.args.seed], START, CPU, longest=agent.args.eval_max_steps)
    finally:
        env.close()
    frames = [Image.fromarray(frame) for frame in env.frames]
    if not frames:
        fail(f"--gif {args.gif}: {agent.args.env_id} draws nothing")
    small = [x.resize((SIDE, round(SIDE * x.height / x.width))) for x in frames]
    colours = small[0].quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # the same for all, or they would flicker
    small = [x.quantize(palette=colours, dither=0) for x in small]
    rate = EVERY * 1000 / (env.metadata.get("render_fps") or 30)
    try:
        args.gif.parent.mkdir(parents=True, exist_ok=True)
        small[0].save(
            args.gif, save_all=True, append_images=small[1:], duration=max(20, round(rate)), loop=0, optimize=True
        )
    except OSError as error:
        fail(f"--gif {args.gif}: {error.strerror}; name a file that can be written")
    size = args.gif.stat().st_size / 1e6
    what = f"of step {agent.steps[0]:,}, in an episode that returns {returns.item():.1f}"
    return f"{args.gif}: {len(small)} frames, {size:.2f} MB, policy {name} {what}"


def main(args: Args) -> None:
    if args.gif:
        print(film(args))
        return
    rows = []
    for seed, step, name, returns, lengths in play(args):
        spread = f"{returns.mean():.1f} ± {returns.std(ddof=min(1, len(returns) - 1)):.1f}"
        rows.append([seed, f"{step:,}", name, len(returns), spread, f"{lengths.mean():.1f}"])
    print(table(["seed", "step", "policy", "episodes", "return", "length"], rows))


if __name__ == "__main__":
    start(lambda argv: main(parsed(Args, __doc__, argv)))
