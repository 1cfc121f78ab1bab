"""Environments, the episodes of all seeds, which come back after a stop, and evaluation."""

import concurrent.futures
import contextlib
import ctypes
import difflib
import importlib
import importlib.util
import os
import sys
import warnings

from runtime.messages import Fault, fail, tell
from runtime.streams import random_seed

import gymnasium as gym
import numpy as np
import torch


@contextlib.contextmanager
def quiet():
    """Keeps off the terminal what a library prints, in C or in Python."""

    def redirect(out: int, err: int) -> None:
        sys.stdout.flush(), sys.stderr.flush()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # C's buffers
        os.dup2(out, 1), os.dup2(err, 2)

    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        redirect(nowhere.fileno(), nowhere.fileno())
    try:
        yield
    finally:
        redirect(*kept)
        os.close(kept[0]), os.close(kept[1])


def make_env(env_id: str, render_mode: str | None = None) -> gym.Env:
    """An environment whose actions are normalised to [-1, 1] (D6); refuses what the networks cannot serve."""
    bullet = "Bullet" in env_id
    if bullet and importlib.util.find_spec("pybullet_envs_gymnasium") is None:
        fail(f"--env-id {env_id} needs the package pybullet_envs_gymnasium: pip install pybullet_envs_gymnasium")
    try:
        with warnings.catch_warnings(), quiet() if bullet else contextlib.nullcontext():
            warnings.simplefilter("ignore")  # that a v5 exists is no news here
            if bullet:  # registers its tasks
                importlib.import_module("pybullet_envs_gymnasium")
            drawn = {"render_mode": render_mode} if render_mode else {}
            env = gym.make(env_id, disable_env_checker=True, **drawn)
            if drawn or bullet:  # which starts its simulator, and greets, at the first reset
                env.reset(seed=0)  # PyBullet goes back to the state of its first reset: let it be the same each time
            if render_mode == "rgb_array" and not isinstance(env.render(), np.ndarray):  # can this machine draw?
                raise RuntimeError("it draws no rgb_array")
    except gym.error.UnregisteredEnv:
        near = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.4)
        fail(f"--env-id {env_id} is unknown to Gymnasium; the nearest names are {', '.join(near) or 'none'}")
    except Exception as error:  # a missing simulator, a malformed name, no way to render
        fail(f"--env-id {env_id} cannot be made{' with video' if render_mode else ''}: {error or type(error).__name__}")
    obs, act = env.observation_space, env.action_space
    boxes = all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in (obs, act))
    if not (boxes and act.dtype.kind == "f" and act.is_bounded()):
        fail(f"--env-id {env_id} observes {obs} and acts in {act}: choose one that observes a Box of one dimension "
             "and acts in a bounded continuous Box of one dimension")  # fmt: skip
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


class Episodes:
    """The environments of all seeds. Its seed and number decide how an episode starts; with the actions since, which
    a checkpoint keeps, they bring it back in any deterministic simulator."""

    def __init__(self, envs: list[gym.Env], seeds: range):
        self.envs, self.seeds, self.numbers, self.actions = envs, seeds, [0] * len(envs), [[] for _ in envs]
        self.count, self.pending = 0, None  # steps played; actions that an environment failed to play
        self.returns, self.over = np.zeros(len(envs)), np.zeros(len(envs), bool)
        self.obs_dim, self.act_dim = envs[0].observation_space.shape[0], envs[0].action_space.shape[0]
        mujoco = type(envs[0].unwrapped).__module__.startswith("gymnasium.envs.mujoco")  # it steps outside the GIL
        self.pool = concurrent.futures.ThreadPoolExecutor(4) if mujoco and len(envs) > 7 else None
        self.obs = np.array([env.reset(seed=random_seed(seed, 0))[0] for env, seed in zip(envs, seeds)])

    def random_actions(self) -> np.ndarray:
        """Uniform on [-1, 1], (S, d)."""
        streams = [np.random.default_rng(random_seed(seed, self.count, use=2)) for seed in self.seeds]
        return np.array([stream.uniform(-1, 1, self.act_dim) for stream in streams], np.float32)

    def step(self, actions) -> tuple[np.ndarray, ...]:
        """One transition a seed: s (S, ds), a (S, d), r (S,), s' (S, ds), terminated (S,). Waits for actions (S, d)
        that a GPU still computes. s' is the final observation of an episode that is `over` and waits for `begin`."""
        actions, obs = np.array(actions, np.float32), self.obs
        self.refuse(observation=obs, action=actions)
        self.pending = actions

        def play(some):
            return [self.envs[i].step(actions[i])[:4] for i in some]

        numbers = range(len(self.envs))
        parts = self.pool.map(play, np.array_split(numbers, 4)) if self.pool else [play(numbers)]
        outcomes = [outcome for part in parts for outcome in part]
        self.count, self.pending = self.count + 1, None
        for past, action in zip(self.actions, actions):
            past.append(action)
        self.obs, rewards, terminated, truncated = map(np.array, zip(*outcomes))
        self.returns, self.over = self.returns + rewards, terminated | truncated
        self.refuse(observation=self.obs, reward=rewards)
        return obs, actions, rewards, self.obs.copy(), terminated

    def refuse(self, **numbers: np.ndarray) -> None:
        """Raises Fault where a number (S, ..) is not finite."""
        for name, values in numbers.items():
            for seed, finite in zip(self.seeds, np.isfinite(values).reshape(len(values), -1).all(1)):
                if not finite:
                    raise Fault(f"{name} of seed {seed}")

    def begin(self, i: int, number: int | None = None) -> None:
        """The i-th seed's next episode, or the one with this number."""
        number = self.numbers[i] + 1 if number is None else number
        self.obs[i] = self.envs[i].reset(seed=random_seed(self.seeds[i], 0, number))[0]
        self.numbers[i], self.actions[i], self.returns[i], self.over[i] = number, [], 0, False

    def state(self) -> dict:
        """For a checkpoint: `load` of it plays the episodes in progress again."""
        actions = [torch.from_numpy(np.array(past, np.float32)) for past in self.actions]
        state = {"numbers": list(self.numbers), "actions": actions, "obs": torch.from_numpy(self.obs.copy())}
        return state | {"count": self.count, "pending": None if self.pending is None else torch.tensor(self.pending)}

    def load(self, state: dict) -> None:
        if "FlagrunHarder" in self.envs[0].spec.id:  # with its loose cube; PyBullet's other Humanoids are exact
            why = "PyBullet rounds this task's contacts differently from one simulator to the next"
            tell(f"{why}: the resumed run may part from the uninterrupted one")
        self.count, self.pending = state["count"], None if state["pending"] is None else state["pending"].numpy()
        for i, (number, actions, obs) in enumerate(zip(state["numbers"], state["actions"], state["obs"].numpy())):
            self.begin(i, number)
            for action in actions.numpy():
                self.obs[i], reward, terminated, truncated, _ = self.envs[i].step(action)
                self.returns[i], self.over[i] = self.returns[i] + reward, terminated or truncated
                self.actions[i].append(action)
            if not (same := np.array_equal(obs, self.obs[i])):
                tell(f"the simulator is not deterministic; environment {i} begins anew")
            if self.over[i] or not same:
                self.begin(i)


@torch.no_grad()
def evaluate(policy, envs: list[list[gym.Env]], seeds: range, step: int, device, signals=()) -> tuple:
    """Returns and lengths, (S, episodes) each, of one episode of a policy in each of envs[seed][episode].

    An episode's start depends on its seed, the step and its number alone: evaluating draws nothing from
    training, and all policies evaluated at one step meet the same starts. A signal cuts it short.
    """
    starts = [[random_seed(s, step, e) for e in range(len(envs[0]))] for s in seeds]
    obs = np.array([[env.reset(seed=n)[0] for env, n in zip(*row)] for row in zip(envs, starts)])
    returns, lengths, running = np.zeros(obs.shape[:2]), np.zeros(obs.shape[:2], int), np.ones(obs.shape[:2], bool)
    while running.any() and not signals:
        actions = policy(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        for i, e in np.argwhere(running):
            obs[i, e], reward, terminated, truncated, _ = envs[i][e].step(actions[i, e])
            returns[i, e] += reward
            lengths[i, e] += 1
            running[i, e] = not (terminated or truncated)
    return returns, lengths
