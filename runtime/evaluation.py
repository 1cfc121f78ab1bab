"""Evaluation: episodes of a policy with its noise off, in environments of their own, and films of them."""

import warnings
from collections.abc import Callable
from pathlib import Path

from runtime.environments import as_numbers, make_env
from runtime.logs import Logs
from runtime.messages import Fault, tell
from runtime.streams import episode
from runtime.workers import Here, Workers, players

import gymnasium as gym
import numpy as np
import torch


@torch.no_grad()
def evaluate(
    policy, envs: list[list[gym.Env]] | Here | Workers, seeds: range, step: int, device, signals=(), longest=10**9,
    alive=None,
) -> tuple:  # fmt: skip
    """Returns and lengths, (S, episodes) each, of one episode of a policy in each of envs[seed][episode], or in those
    of `players` of them in this order.

    An episode's start depends on its seed, the step and its number alone: evaluating draws nothing from
    training, and all policies evaluated at one step meet the same starts. A signal cuts it short, and so does its
    length at `longest`. Raises Fault where an action or a return is not finite; seeds that are not `alive` (S,), if
    that is given, play nothing and return NaN.
    """
    alive = np.ones(len(seeds), bool) if alive is None else alive
    stage = Here([env for row in envs for env in row], threads=False) if isinstance(envs, list) else envs
    shape = len(seeds), len(stage.envs) // len(seeds)
    starts = [episode(s, step, e) for s in seeds for e in range(shape[1])]
    obs = as_numbers(stage.reset(range(len(starts)), starts))
    obs = obs.reshape(*shape, *obs.shape[1:])
    returns, lengths, running = np.zeros(shape), np.zeros(shape, int), np.ones(shape, bool)
    running &= alive[:, None]
    while running.any() and not signals:
        actions = policy(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        for i, _ in np.argwhere(running & ~np.isfinite(actions).all(-1)):
            raise Fault("an evaluation's action", seeds[i], i)
        places = np.argwhere(running)
        outcomes = stage.step(places @ (shape[1], 1), actions[running])
        for (i, e), (obs[i, e], reward, terminated, truncated) in zip(places, outcomes):
            returns[i, e] += reward
            lengths[i, e] += 1
            running[i, e] = not (terminated or truncated or lengths[i, e] >= longest)
    for i in np.flatnonzero(~np.isfinite(returns).all(1)):
        raise Fault("an evaluation's return", seeds[i], i)
    returns[~alive] = np.nan
    return returns, lengths


class Evaluation:
    """The environments in which a run evaluates, one for each seed and episode; the first of each seed may film."""

    def __init__(self, args, seeds: range, device: torch.device, workers: int = 0):
        self.args, self.seeds, self.device, self.cut = args, seeds, device, False
        modes = ["rgb_array" if args.capture_video and e == 0 else None for e in range(args.eval_episodes)]
        self.envs = [[make_env(args.env_id, mode, args) for mode in modes] for _ in seeds]
        self.players = players([env for row in self.envs for env in row], workers)

    def film(self, folder: Path) -> None:
        """From now on the first episode of each evaluation is filmed, into seed-<n>/videos/."""
        for seed, row in zip(self.seeds, self.envs):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a resumed run's folder has films already
                place = str(folder / f"seed-{seed}" / "videos")
                row[0] = gym.wrappers.RecordVideo(row[0], place, episode_trigger=lambda _: True)
        self.players.envs = [env for row in self.envs for env in row]

    def play(self, policies: dict[str, Callable], step: int, signals: list, logs: Logs, alive=None) -> dict:
        """`evaluate` of each policy; films go to the logs, and a cut episode is told, once."""
        results, longest = {}, self.args.eval_max_steps
        for name, policy in policies.items():
            for row in self.envs:
                row[0].name_prefix = f"step-{step}-{name}"  # of its films, if it films
            results[name] = evaluate(policy, self.players, self.seeds, step, self.device, signals, longest, alive)
            for i, row in enumerate(self.envs if self.args.capture_video else ()):
                if row[0].recording:
                    film = Path(row[0].video_folder, f"{row[0]._video_name}.mp4")
                    row[0].stop_recording()
                    if not signals:
                        logs.film(step, i, name, film)
        if not self.cut and any(lengths.max() >= longest for _, lengths in results.values()):
            self.cut = True
            tell(f"an evaluation's episode was cut at --eval-max-steps {longest}: its return counts up to there")
        return results

    def close(self) -> None:
        self.players.close()
