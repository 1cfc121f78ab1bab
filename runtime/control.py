"""Tasks of the DeepMind Control Suite by their names, dm_control/<domain>-<task>-v0, behind Gymnasium's interface."""

import difflib
import functools
import importlib
import os
import subprocess
import sys
from typing import ClassVar

from runtime.messages import fail

import gymnasium as gym
import numpy as np

PREFIX = "dm_control/"
TRIAL = "from dm_control import suite; suite.load('cartpole', 'balance').physics.render(84, 84)"


@functools.cache
def suite(draws: bool):
    """dm_control's suite, with MUJOCO_GL as it is set, else the first of EGL and OSMesa that draws; where none does,
    and nothing `draws`, without any.

    dm_control chooses once, at its import, and some failures come with the first frame: so a process apart tries.
    """
    given = os.environ.get("MUJOCO_GL")
    for name in [given] if given else ["egl", "osmesa"]:
        environment = os.environ | {"MUJOCO_GL": name}
        done = subprocess.run([sys.executable, "-c", TRIAL], env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return importlib.import_module("dm_control.suite")
    if not draws and importlib.util.find_spec("dm_control"):
        os.environ["MUJOCO_GL"] = "disable"
        try:
            return importlib.import_module("dm_control.suite")
        finally:
            os.environ.pop("MUJOCO_GL") if given is None else os.environ.update(MUJOCO_GL=given)
    why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    fail(f"--env-id {PREFIX}...: dm_control cannot draw with MUJOCO_GL={given or 'egl, nor with osmesa'} ({why}): "
         "pip install dm_control, and libegl1 with a driver, or libosmesa6 with MUJOCO_GL=osmesa")  # fmt: skip


def vector(seen: dict) -> np.ndarray:
    """What a task observes, one after another, (n,)."""
    return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in seen.values()])


class ControlEnv(gym.Env):
    """A task of dm_control from its state: what the suite observes, in its order, as one vector (n,) of float64. An
    action is repeated, its rewards summed, up to the episode's end; the suite's time limit is no termination.

    `options` are the task's own, as suite.load takes them, and `time_limit`, in seconds; `unlimited` is without any.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}
    sees = False  # by a camera

    def __init__(self, env_id: str, repeat: int = 1, render_mode: str | None = None, options: dict | None = None,
                 unlimited: bool = False):  # fmt: skip
        self.suite, self.repeat, self.render_mode = suite(self.sees or bool(render_mode)), repeat, render_mode
        names = {f"{PREFIX}{domain}-{task}-v0": (domain, task) for domain, task in self.suite.ALL_TASKS}
        if env_id not in names:
            near = difflib.get_close_matches(env_id, names, n=3, cutoff=0.3)
            fail(f"--env-id {env_id} is no task of dm_control; the nearest names are {', '.join(near) or 'none'}")
        self.spec = gym.envs.registration.EnvSpec(env_id, nondeterministic=False)
        kwargs = (options or {}) | ({"time_limit": float("inf")} if unlimited else {}) | {"random": 0}
        try:
            self.env = self.suite.load(*names[env_id], task_kwargs=kwargs)
            seen = self.env.reset().observation
        except Exception as error:  # an option that the task does not know
            fail(f"--env-id {env_id} with --env-kwargs {options} cannot be made: {error}")
        self.action_space = self.bounds()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, vector(seen).shape, np.float64)

    def bounds(self) -> gym.spaces.Box:
        spec = self.env.action_spec()
        return gym.spaces.Box(spec.minimum.astype(np.float32), spec.maximum.astype(np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:  # of any size; dm_control draws an episode's start from this generator alone
            self.env.task.random.seed(np.random.SeedSequence(seed).generate_state(4))
        return self.observed(self.env.reset().observation, first=True), {}

    def step(self, action):
        reward = 0.0
        for _ in range(self.repeat):
            now = self.env.step(action)
            reward += now.reward or 0.0
            if now.last():
                break
        obs = self.observed(now.observation)
        return obs, reward, now.last() and now.discount == 0, now.last() and now.discount != 0, {}

    def observed(self, seen: dict, first: bool = False) -> np.ndarray:
        return vector(seen)

    def draw(self, size: int) -> np.ndarray:
        """A picture by camera 0, (3, size, size)."""
        return self.env.physics.render(size, size, camera_id=0).transpose(2, 0, 1)

    def render(self) -> np.ndarray:
        """A frame for films, (H, W, 3)."""
        return self.draw(256).transpose(1, 2, 0)
