"""DeepMind control tasks seen by a camera, behind Gymnasium's interface."""

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

SIZE, FRAMES = 84, 3  # height and width of a frame; frames in an observation
PREFIX = "dm_control/"


@functools.cache
def suite():
    """dm_control's suite, with MUJOCO_GL as it is set, else the first of EGL and OSMesa that draws.

    dm_control chooses once, at its import, and some failures come with the first frame: so a process apart tries.
    """
    given = os.environ.get("MUJOCO_GL")
    trial = "from dm_control import _render, suite; _render.Renderer(84, 84)"
    for name in [given] if given else ["egl", "osmesa"]:
        environment = os.environ | {"MUJOCO_GL": name}
        done = subprocess.run([sys.executable, "-c", trial], env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return importlib.import_module("dm_control.suite")
    why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    fail(f"--env-id {PREFIX}...: dm_control cannot draw with MUJOCO_GL={given or 'egl, nor with osmesa'} ({why}): "
         "pip install dm_control, and libegl1 with a driver, or libosmesa6 with MUJOCO_GL=osmesa")  # fmt: skip


class PixelEnv(gym.Env):
    """A task of dm_control by its name, dm_control/<domain>-<task>-v0: the last FRAMES frames of camera 0, RGB, as
    uint8 (3 · FRAMES, SIZE, SIZE), the newest last. An action is repeated, its rewards summed, up to the episode's end.

    `blind` steps the simulator and draws nothing; the frames stay what they are.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, env_id: str, repeat: int, render_mode: str | None = None):
        self.suite, self.repeat, self.render_mode, self.blind = suite(), repeat, render_mode, False
        names = {f"{PREFIX}{domain}-{task}-v0": (domain, task) for domain, task in self.suite.ALL_TASKS}
        if env_id not in names:
            near = difflib.get_close_matches(env_id, names, n=3, cutoff=0.3)
            fail(f"--env-id {env_id} is no task of dm_control; the nearest names are {', '.join(near) or 'none'}")
        self.task = names[env_id]
        self.spec = gym.envs.registration.EnvSpec(env_id, nondeterministic=False)
        self.env = self.suite.load(*self.task, task_kwargs={"random": 0})
        self.action_space = self.bounds()
        self.observation_space = gym.spaces.Box(0, 255, (3 * FRAMES, SIZE, SIZE), np.uint8)
        self.frames = np.zeros(self.observation_space.shape, np.uint8)

    def bounds(self) -> gym.spaces.Box:
        spec = self.env.action_spec()
        return gym.spaces.Box(spec.minimum.astype(np.float32), spec.maximum.astype(np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:  # of any size; dm_control draws an episode's start from this generator alone
            self.env.task.random.seed(np.random.SeedSequence(seed).generate_state(4))
        self.env.reset()
        if not self.blind:
            self.frames = np.tile(self.draw(), (FRAMES, 1, 1))
        return self.frames, {}

    def step(self, action):
        reward = 0.0
        for _ in range(self.repeat):
            now = self.env.step(action)
            reward += now.reward or 0.0
            if now.last():
                break
        if not self.blind:
            self.frames = np.concatenate([self.frames[3:], self.draw()])
        return self.frames, reward, now.last() and now.discount == 0, now.last() and now.discount != 0, {}

    def draw(self, size: int = SIZE) -> np.ndarray:
        return self.env.physics.render(size, size, camera_id=0).transpose(2, 0, 1)

    def render(self) -> np.ndarray:
        """A larger frame, (H, W, 3), for films."""
        return self.draw(256).transpose(1, 2, 0)
