"""Environments, the episodes of all seeds, which come back after a stop, and evaluation."""

import contextlib
import ctypes
import difflib
import gc
import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable

from runtime import machine
from runtime.control import PREFIX, ControlEnv
from runtime.messages import Fault, Refused, fail, note, said, tell
from runtime.pixels import PixelEnv
from runtime.spaces import acts, fitted
from runtime.streams import WARM_UP, episode, stream
from runtime.trial import NarrowSeeds, OwnGlobals, make, tried
from runtime.workers import players

import gymnasium as gym
import numpy as np
import torch

OURS = {"id", "render_mode", "max_episode_steps", "disable_env_checker", "random"}  # not for --env-kwargs


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


def make_env(env_id: str, render_mode: str | None = None, args=None) -> gym.Env:
    """An environment whose observations are vectors and whose actions are normalised to [-1, 1] (D6); refuses what the
    networks cannot serve. A script whose arguments say CAMERA sees by one."""
    options, limit = getattr(args, "env_kwargs", None) or {}, getattr(args, "max_episode_steps", 0)
    named = f"--env-id {env_id}" + (f" with --env-kwargs {json.dumps(options)}" if options else "")
    if taken := OURS & options.keys():
        fail(f"--env-kwargs: {min(taken)} is the run's own; see --max-episode-steps, --capture-video and --seed")
    sees = getattr(args, "CAMERA", False)
    if not sees and not env_id.startswith(PREFIX):
        return normalised(registered(env_id, render_mode, options, limit, named))
    if render_mode == "human":
        fail(f"{named} opens no window: film it instead, --video FOLDER or --capture-video")
    kind, repeat = (PixelEnv, args.action_repeat) if sees else (ControlEnv, 1)
    with quiet():  # dm_control warns of its own models
        env = kind(env_id, repeat, render_mode, options, limit > 0)
    acts(env.action_space, named)
    return normalised(gym.wrappers.TimeLimit(env, limit) if limit else env)


def registered(env_id: str, mode: str | None, options: dict, limit: int, named: str) -> gym.Env:
    """An environment that Gymnasium knows, or will once it has imported the module before its name's colon, which may
    lie in the working folder. It is tried first, so that what it lacks is told in a line."""
    bullet = "Bullet" in env_id
    if bullet and importlib.util.find_spec("pybullet_envs_gymnasium") is None:
        fail(f"{named} needs the package pybullet_envs_gymnasium: pip install pybullet_envs_gymnasium")
    if ":" in env_id and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    more = ({"max_episode_steps": limit} if limit else {}) | ({"render_mode": mode} if mode else {})
    try:
        with warnings.catch_warnings(), quiet():  # MuJoCo 3.17 warns of HalfCheetah's model at each environment
            warnings.simplefilter("ignore")  # that a v5 exists is no news here
            if bullet:  # registers its tasks
                importlib.import_module("pybullet_envs_gymnasium")
            needs = tried(env_id, json.dumps(options), named)
            if mode == "human" and "glfw" in sys.modules and not machine.has_screen():  # else GLFW aborts
                raise RuntimeError("no window opens here: it needs a screen")
            env = make(env_id, **options, **more)
            follow(env)
            env = NarrowSeeds(env) if needs.narrow else env
            env = OwnGlobals(env) if needs.globals else env
            if mode or bullet:  # which starts its simulator, and greets, at the first reset
                env.reset(seed=0)  # PyBullet goes back to the state of its first reset: let it be the same each time
            if mode == "rgb_array" and not isinstance(env.render(), np.ndarray):  # can this machine draw?
                raise RuntimeError("it draws no rgb_array")
    except gym.error.UnregisteredEnv:
        near = ", ".join(difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.4)) or "none"
        fail(f"--env-id {env_id} is unknown to Gymnasium; the nearest names are {near}; a task of your own is "
             "module:Name-v0 (docs/your_task.md)")  # fmt: skip
    except Refused:
        raise
    except Exception as error:  # a missing simulator, a malformed name, no way to render
        why = said(error) + advice(mode, error)
        with quiet():  # half a renderer complains when it goes
            env = error.__traceback__ = error.__context__ = error.__cause__ = None
            gc.collect()
        fail(f"{named} cannot be made{' to be drawn' if mode else ''}: {why}")
    if not needs.repeats:
        note(f"{named} does not repeat an episode from its seed: its runs do not repeat, and a resumed one parts")
    return fitted(env, named)


def advice(mode: str | None, error: Exception) -> str:
    if os.environ.get("MUJOCO_GL") == "osmesa" and "gl" in str(error).lower():
        return "; MUJOCO_GL=osmesa needs the library libosmesa6: install it, or set MUJOCO_GL=egl"
    drawing = mode == "rgb_array" and "gl" in str(error).lower()
    return "; on a machine without a screen set MUJOCO_GL=egl" if drawing else ""


def normalised(env: gym.Env) -> gym.Env:
    """Actions in [-1, 1] by an affine map."""
    act = env.action_space
    return gym.wrappers.TransformAction(env, in_units(act), gym.spaces.Box(-1, 1, act.shape, act.dtype))


def follow(env: gym.Env) -> None:
    """Lets a film follow MuJoCo's robots. Gymnasium 1.4 films from a free camera, and where that has no body to track,
    as on HalfCheetah, the robot soon leaves the picture."""
    renderer, own = getattr(env.unwrapped, "mujoco_renderer", None), vars(env.unwrapped)
    asked = own.get("camera_id") is not None or own.get("camera_name") is not None  # by --env-kwargs
    if renderer and not asked and "trackbodyid" not in (renderer.default_cam_config or {}):
        with contextlib.suppress(KeyError):  # the model has no such camera
            renderer.camera_id = renderer.model.camera("track").id


def in_units(act: gym.spaces.Box) -> Callable[[np.ndarray], np.ndarray]:
    """What takes actions (.., d) in [-1, 1] to a Box: an affine map, and a clip, as the map may round out of it."""
    one = act.dtype.type(1)
    _, _, affine = gym.wrappers.utils.rescale_box(act, -one, one)
    return lambda action: into_box(act.low, act.high, affine(action))


def into_box(low: np.ndarray, high: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.clip(action, low, high).astype(low.dtype, copy=False)


def as_numbers(observations) -> np.ndarray:
    """Observations as float64, which holds every dtype that an environment may send, and may change between reset and
    step; frames stay what they are."""
    out = np.array(observations)
    return out if out.dtype == np.uint8 and out.ndim > 3 else out.astype(np.float64)


class Episodes:
    """The environments of all seeds. Its seed and number decide how an episode starts; with the actions since, which
    a checkpoint keeps, they bring it back in any deterministic simulator."""

    def __init__(self, envs: list[gym.Env], seeds: range, workers: int = 0):
        self.envs, self.seeds, self.numbers, self.actions = envs, seeds, [0] * len(envs), [[] for _ in envs]
        self.count, self.pending = 0, None  # steps played; actions that an environment failed to play
        self.alive = np.ones(len(envs), bool)  # not the seeds that have diverged, which play no more
        self.returns, self.over = np.zeros(len(envs)), np.zeros(len(envs), bool)
        self.normaliser = None  # takes in each new observation: not what `load` plays again
        self.obs_dim, self.act_dim = envs[0].observation_space.shape[0], envs[0].action_space.shape[0]
        self.players = players(envs, workers)
        try:
            self.obs = as_numbers(self.players.reset(range(len(envs)), [episode(seed, 0) for seed in seeds]))
        except BaseException:
            self.close()
            raise

    def random_actions(self) -> np.ndarray:
        """Uniform on [-1, 1], (S, d)."""
        streams = [stream(seed, self.count, 0, WARM_UP) for seed in self.seeds]
        return np.array([stream.uniform(-1, 1, self.act_dim) for stream in streams], np.float32)

    def step(self, actions) -> tuple[np.ndarray, ...]:
        """One transition a seed: s (S, ds), a (S, d), r (S,), s' (S, ds), terminated (S,). Waits for actions (S, d)
        that a GPU still computes. s' is the final observation of an episode that is `over` and waits for `begin`."""
        actions, obs = np.array(actions, np.float32), self.obs
        self.refuse(observation=obs, action=actions)
        self.pending = actions
        which = np.flatnonzero(self.alive)
        outcomes = [(x, 0.0, False, False) for x in obs]
        for i, outcome in zip(which, self.players.step(which, actions[which])):
            outcomes[i] = outcome
        self.count, self.pending = self.count + 1, None
        for i in which:
            self.actions[i].append(actions[i])
        obs_list, *others = zip(*outcomes)
        self.obs, (rewards, terminated, truncated) = as_numbers(obs_list), map(np.array, others)
        self.returns, self.over = self.returns + rewards, terminated | truncated
        self.refuse(observation=self.obs, reward=rewards)
        self.over &= self.alive
        if self.normaliser:
            self.normaliser.update(self.obs)
        return obs, actions, rewards, self.obs.copy(), terminated

    def refuse(self, **numbers: np.ndarray) -> None:
        """Calls `fault` where a number (S, ..) of a seed that is alive is not finite."""
        for name, values in numbers.items():
            for i in np.flatnonzero(self.alive & ~np.isfinite(values).reshape(len(values), -1).all(1)):
                self.fault(Fault(name, self.seeds[i], i))

    def fault(self, fault: Fault) -> None:
        """What becomes of a Fault; a run lets the other seeds go on."""
        raise fault

    def begin(self, i: int, number: int | None = None) -> None:
        """The i-th seed's next episode, or again the one with this number."""
        new, number = number is None, self.numbers[i] + 1 if number is None else number
        (self.obs[i],) = self.players.reset([i], [episode(self.seeds[i], 0, number)])
        self.numbers[i], self.actions[i], self.returns[i], self.over[i] = number, [], 0, False
        if self.normaliser and new:
            self.normaliser.update(self.obs, slice(i, i + 1))

    def state(self) -> dict:
        """For a checkpoint: `load` of it plays the episodes in progress again."""
        actions = [torch.from_numpy(np.array(past, np.float32)) for past in self.actions]
        state = {"numbers": list(self.numbers), "actions": actions, "obs": torch.from_numpy(self.obs.copy())}
        state |= {"returns": self.returns.tolist(), "alive": self.alive.tolist()}
        return state | {"count": self.count, "pending": None if self.pending is None else torch.tensor(self.pending)}

    def load(self, state: dict) -> None:
        if "FlagrunHarder" in self.envs[0].spec.id:  # with its loose cube; PyBullet's other Humanoids are exact
            why = "PyBullet rounds this task's contacts differently from one simulator to the next"
            tell(f"{why}: the resumed run may part from the uninterrupted one")
        self.count, self.pending = state["count"], None if state["pending"] is None else state["pending"].numpy()
        self.alive[:] = state["alive"]
        for i, (number, actions, obs) in enumerate(
            zip(state["numbers"], state["actions"], state["obs"].numpy(), strict=True)
        ):
            if not self.alive[i]:
                self.numbers[i], self.actions[i], self.obs[i] = number, list(actions.numpy()), obs
                self.returns[i] = state["returns"][i]
                continue
            camera = self.envs[i].unwrapped if isinstance(self.envs[i].unwrapped, PixelEnv) else None
            if camera:  # drawing is not exact from process to process: the frames are the checkpoint's
                camera.blind, camera.frames = True, obs.copy()
            self.begin(i, number)
            for action in actions.numpy():
                ((self.obs[i], reward, terminated, truncated),) = self.players.step([i], [action])
                self.returns[i], self.over[i] = self.returns[i] + reward, terminated or truncated
                self.actions[i].append(action)
            same = np.array_equal(obs, self.obs[i])
            if camera:
                camera.blind, same = False, self.returns[i] == state["returns"][i]
            if not same:
                tell(f"the simulator is not deterministic; environment {i} begins anew")
            if self.over[i] or not same:
                self.begin(i)

    def close(self) -> None:
        self.players.close()
