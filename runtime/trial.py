"""A task tried before the run, in an environment of its own: what it must do, and what its random numbers need."""

import contextlib
import functools
import json
import random
from typing import NamedTuple

from runtime.messages import fail, said
from runtime.spaces import check

import gymnasium as gym
import numpy as np
import torch

STEPS = 5  # that a trial plays


def make(env_id: str, **options) -> gym.Env:
    return gym.make(env_id, disable_env_checker=True, **options)


class NarrowSeeds(gym.Wrapper):
    """For a simulator whose own generator takes 32 bits: a hash of the key, so that two episodes might start alike."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        narrow = None if seed is None else int(np.random.SeedSequence(seed).generate_state(1)[0])
        return self.env.reset(seed=narrow, options=options)


# ----------------------------------------------------------------------------------- generators that all programs share
def seed_globals(seed: int) -> None:
    """Seeds, with any integer, the generators that Python, NumPy and PyTorch keep for everybody."""
    words = np.random.SeedSequence(seed).generate_state(4)
    random.seed(seed), np.random.seed(words), torch.default_generator.manual_seed(int(words[0]))


def global_states() -> tuple:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_globals(states: tuple) -> None:
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])


class OwnGlobals(gym.Wrapper):
    """For an environment that draws from those: states of its own, which an episode's seed decides, so that
    nothing else that draws changes it, nor it them."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.states = None

    @contextlib.contextmanager
    def own(self, seed: int | None = None):
        others = global_states()
        if seed is not None:
            seed_globals(seed)
        elif self.states:
            set_globals(self.states)
        try:
            yield
        finally:
            self.states = global_states()
            set_globals(others)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        with self.own(seed):
            return self.env.reset(seed=seed, options=options)

    def step(self, action):
        with self.own():
            return self.env.step(action)


# ----------------------------------------------------------------------------------------------------------- the trial
class Needs(NamedTuple):
    """What an environment's random numbers need."""

    narrow: bool  # seeds of 32 bits
    globals: bool  # generators that all share, given to it alone
    repeats: bool  # or nothing that we can give


@functools.lru_cache
def tried(env_id: str, options: str, named: str) -> Needs:
    """Plays a few steps; Refused, in a line, where the task does not keep to Gymnasium's interface.

    `options` are its keyword arguments as JSON."""
    env = make(env_id, **json.loads(options))
    others = global_states()
    try:
        check(env, named)
        refuse_statistics(env, named)
        narrow = not takes(env, 2**100)
        if narrow:
            env = NarrowSeeds(env)
        seed_globals(0)
        before = global_states()
        first, again = (episode(env, named) for _ in range(2))
        drew = any(not equal(a, b) for a, b in zip(before, global_states()))
        if drew:
            env = OwnGlobals(env)
            first, again = (episode(env, named) for _ in range(2))
        return Needs(narrow, drew, equal(first, again))
    finally:
        set_globals(others)
        env.close()


def equal(left, right) -> bool:
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(map(equal, left, right))
    return np.array_equal(np.asarray(left), np.asarray(right))


def takes(env: gym.Env, seed: int) -> bool:
    try:
        env.reset(seed=seed)
        return True
    except Exception:
        return False


def episode(env: gym.Env, named: str) -> list:
    """The first steps of an episode, (observation, reward) each; Refused where they are not as Gymnasium has them."""
    act, stream, seen = env.action_space, np.random.Generator(np.random.Philox(0)), []
    try:
        obs, _ = env.reset(seed=1)
    except Exception as error:
        fail(f"{named}: reset fails ({said(error)}): it must be reset(self, *, seed=None, options=None) and return an "
             "observation and a dict")  # fmt: skip
    for _ in range(STEPS):
        seen.append((check_observation(env, obs, named), 0.0))
        try:
            obs, reward, terminated, truncated, _ = env.step(stream.uniform(act.low, act.high).astype(act.dtype))
        except Exception as error:
            fail(f"{named}: step fails ({said(error)}): it must take an action of {act} and return an observation, a "
                 "reward, terminated, truncated and a dict")  # fmt: skip
        kind = type(reward).__name__ if np.ndim(reward) == 0 else f"shape {np.shape(reward)}"
        if np.ndim(reward) or np.asarray(reward).dtype.kind not in "fiub":
            fail(f"{named} pays a reward of {kind}: let it pay one number")
        for name, ended in (("terminated", terminated), ("truncated", truncated)):
            if np.ndim(ended) or np.asarray(ended).dtype.kind not in "biu":
                what = f"of shape {np.shape(ended)}" if np.ndim(ended) else repr(ended)
                fail(f"{named}: step returns {name} {what}: let it be True or False")
        seen.append((check_observation(env, obs, named), float(reward)))
        if terminated or truncated:
            break
    return seen


def check_observation(env: gym.Env, obs, named: str) -> np.ndarray:
    """An observation as a vector; Refused where it does not have its space's shape."""
    space = env.observation_space
    try:
        flat = np.array(gym.spaces.flatten(space, obs))
        right = flat.shape == gym.spaces.flatten_space(space).shape and flat.dtype.kind in "fiub"
        right = right and (not isinstance(space, gym.spaces.Box) or np.shape(obs) == space.shape)
    except Exception:
        right = False
    if not right:
        what = f"shape {np.shape(obs)}" if isinstance(obs, np.ndarray) else f"type {type(obs).__name__}"
        fail(f"{named}: an observation of {what} where its space says {space}: mend the environment")
    if not np.isfinite(flat).all():
        fail(f"{named}: an observation among its first ones holds numbers that are not finite: mend the environment")
    return flat


def layers(env: gym.Env) -> list[gym.Env]:
    """An environment's wrappers from the outermost on, and itself."""
    return [env, *(layers(env.env) if isinstance(env, gym.Wrapper) else [])]


def refuse_statistics(env: gym.Env, named: str) -> None:
    """Refuses wrappers that normalise by what they have seen: evaluation and a resumed run would see another task."""
    for layer in layers(env):
        running = gym.wrappers.utils.RunningMeanStd
        if any(isinstance(value, running) or name.endswith("_rms") for name, value in vars(layer).items()):
            fail(f"{named}: its {type(layer).__name__} normalises by running statistics, which evaluations and a "
                 "resumed run would not share: register the task without it and start with --normalize-observations, "
                 "or scale by constants (gymnasium.wrappers.TransformObservation, TransformReward)")  # fmt: skip
