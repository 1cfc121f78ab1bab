"""Who steps a list of environments: this process, or several beside it. Which one changes no number.

Stepping one environment holds Python's lock for some 50 to 300 microseconds, so that those of 32 seeds take longer than
a GPU's update of all of them. Processes step them beside one another, while the GPU learns.
"""

import atexit
import concurrent.futures
import contextlib
import ctypes
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import ClassVar

from runtime.messages import fail, said
from runtime.pixels import PixelEnv
from runtime.trial import OwnGlobals, layers, seed_globals

import gymnasium as gym
import numpy as np
import torch

THREADS = 4  # for simulators that step outside Python's lock
MOST = 12  # processes that a run starts unasked


def unasked(num_seeds: int, cuda: bool) -> int:
    """How many processes a run without --env-workers has; 0: it steps its environments itself. On a CPU, whose cores
    learn meanwhile, they gain nothing (docs/speed.md)."""
    return min(MOST, num_seeds // 2, cores() - 2) if cuda and num_seeds >= 8 and cores() >= 4 else 0


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def players(envs: list[gym.Env], workers: int) -> "Here | Workers":
    """Who steps these environments: so many processes, or with fewer than two this one. Frames are drawn here, on one
    thread: a renderer survives no fork and no change of threads."""
    draws = isinstance(envs[0].unwrapped, PixelEnv) or envs[0].render_mode is not None
    number = 0 if draws else min(workers, len(envs))
    return Workers(envs, number) if number > 1 else Here(envs, threads=not draws)


class Here:
    """This process, with a few threads where the simulator steps outside Python's lock."""

    def __init__(self, envs: list[gym.Env], threads: bool = True):
        self.envs = envs
        mujoco = type(envs[0].unwrapped).__module__.startswith("gymnasium.envs.mujoco")
        alone = any(isinstance(layer, OwnGlobals) for layer in layers(envs[0]))  # generators serve one at a time
        several = threads and mujoco and not alone and len(envs) > 7
        self.pool = concurrent.futures.ThreadPoolExecutor(THREADS) if several else None

    def step(self, which: Sequence[int], actions: np.ndarray) -> list[tuple]:
        """Observation, reward, terminated and truncated of each of these environments for its action."""
        pairs = list(zip(which, actions))
        if not self.pool:
            return [self.envs[i].step(action)[:4] for i, action in pairs]
        share = -(-len(pairs) // THREADS)
        parts = [pairs[i : i + share] for i in range(0, len(pairs), share)]
        done = self.pool.map(lambda part: [self.envs[i].step(action)[:4] for i, action in part], parts)
        return [outcome for part in done for outcome in part]

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> list:
        """First observations of episodes that these seeds begin."""
        return [self.envs[i].reset(seed=seed)[0] for i, seed in zip(which, seeds)]

    def close(self) -> None:
        for env in self.envs:
            env.close()


class Lost(Exception):
    """A process that has gone, though nobody told it to."""


class Workers:
    """Processes, each with a share of the environments, which they take over as they are: they are forks of this one,
    which keeps its own copies for their spaces and names. They end with it, however it ends."""

    ends: ClassVar = set()  # this process's, of all pipes: a fork closes them, to learn when it has gone

    def __init__(self, envs: list[gym.Env], number: int):
        self.envs, fork = envs, multiprocessing.get_context("fork")
        self.firsts = np.arange(number + 1) * len(envs) // number  # environment of each process, and the end
        self.pipes, self.processes = [], []
        atexit.register(self.close)  # before multiprocessing waits for them, as they heed no signal
        try:
            for first, end in itertools.pairwise(self.firsts):
                mine, theirs = fork.Pipe()
                self.pipes.append(mine), self.ends.add(mine)
                process = fork.Process(target=serve, args=(envs, range(first, end), theirs, os.getpid()), daemon=True)
                with theirs, warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # beside threads: `serve` has none
                    process.start()
                self.processes.append(process)
        except OSError as error:
            self.close()
            fail(f"{number} processes to step environments do not start ({said(error)}): choose fewer --env-workers")

    def step(self, which: Sequence[int], actions: np.ndarray) -> list[tuple]:
        return self.ask("step", which, np.asarray(actions))

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> list:
        return [obs for (obs,) in self.ask("reset", which, seeds)]

    def ask(self, what: str, which: Sequence[int], values: Sequence) -> list[tuple]:
        """What each of these environments, whose numbers rise, answers; raises the first error among them."""
        ends = np.searchsorted(which, self.firsts)
        shares = [(i, slice(a, b)) for i, (a, b) in enumerate(itertools.pairwise(ends)) if b > a]
        for i, share in shares:
            with contextlib.suppress(OSError):  # it has gone, as its answer will tell
                self.pipes[i].send_bytes(pickle.dumps((what, which[share], values[share]), pickle.HIGHEST_PROTOCOL))
        answers = [self.answer(i) for i, _ in shares]  # all of them, lest one be taken for the next question's
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [one for answer in answers for one in zip(*answer)]

    def answer(self, i: int) -> list[np.ndarray] | Exception:
        try:
            return pickle.loads(self.pipes[i].recv_bytes())
        except (EOFError, OSError):
            self.processes[i].join(1)
            code = self.processes[i].exitcode
            how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            return Lost(f"a process of --env-workers has gone ({how}; signal 9 is often a lack of memory)")

    def close(self) -> None:
        """Ends the processes. Their environments close after this process's copies, and so have the last word."""
        atexit.unregister(self.close)
        try:
            for env in self.envs:
                env.close()
        finally:
            for pipe in self.pipes:
                self.ends.discard(pipe), pipe.close()
            late = time.monotonic() + 5
            for process in self.processes:
                process.join(max(0, late - time.monotonic()))
                process.kill(), process.join()
            self.envs, self.pipes, self.processes = [], [], []


def serve(envs: list[gym.Env], own: range, pipe, parent: int) -> None:
    """Steps and resets, of its own environments, what the parent asks for, until it has closed the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, lambda *_: None)  # they are the run's; ignored, they would be for a simulator's programs
    for other in Workers.ends:
        other.close()
    with contextlib.suppress(OSError, AttributeError):  # Linux: amid a step that does not end, too
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)
    torch.set_num_threads(1)  # a fork has no others, and would wait for them
    seed_globals(random.getrandbits(64) + own.start)  # else each would draw what the others draw
    gc.freeze()  # what the parent had: no collection, which would copy its pages
    here = Here(envs, threads=False)
    with contextlib.suppress(EOFError, OSError):
        while True:
            what, which, values = pickle.loads(pipe.recv_bytes())
            try:
                outcomes = getattr(here, what)(which, values)  # as columns: a few arrays travel fast
                answer = [np.array(column) for column in (zip(*outcomes) if what == "step" else [outcomes])]
                answer = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                answer = pickle.dumps(portable(error))
            pipe.send_bytes(answer)
    for i in own:
        with contextlib.suppress(Exception):
            envs[i].close()
    with contextlib.suppress(OSError, ValueError):  # whoever read may have gone
        sys.stdout.flush()
    os._exit(0)  # what the parent would do at its end, clean up for one, is not for its forks


def portable(error: Exception) -> Exception:
    """An error that a pipe takes, with a note of where it was raised."""
    place = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.__cause__ = error.__context__ = None
    error.add_note(f"in a process of --env-workers:\n{place}")
    return error
