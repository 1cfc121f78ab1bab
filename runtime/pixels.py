"""DeepMind control tasks seen by a camera."""

from runtime.control import ControlEnv

import gymnasium as gym
import numpy as np

SIZE, FRAMES = 84, 3  # height and width of a frame; frames in an observation


class PixelEnv(ControlEnv):
    """The same tasks, observed as the last FRAMES frames of camera 0, RGB, uint8 (3 · FRAMES, SIZE, SIZE), the newest
    last. `blind` steps the simulator and draws nothing; the frames stay what they are."""

    sees = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.observation_space = gym.spaces.Box(0, 255, (3 * FRAMES, SIZE, SIZE), np.uint8)
        self.frames, self.blind = np.zeros(self.observation_space.shape, np.uint8), False

    def observed(self, seen: dict, first: bool = False) -> np.ndarray:
        if not self.blind:
            frame = self.draw(SIZE)
            self.frames = np.tile(frame, (FRAMES, 1, 1)) if first else np.concatenate([self.frames[3:], frame])
        return self.frames
