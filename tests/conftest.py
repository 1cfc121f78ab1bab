"""Small environments and shared fixtures. Everything runs on one CPU thread and in double precision where it counts."""

import contextlib
import gc
import importlib
import io
import os
import pty
import re
import runpy
import select
import shutil
import signal
import sys
import tempfile
import termios
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import mcmcpo_hmc_continuous
import mcmcpo_langevin_continuous
import sac_continuous
import sac_hpo_continuous
import sac_nf_continuous
from analysis import gap
from analysis.experiments.spaces import of_values
from runtime.arguments import parse
from runtime.run import Run, launch
from runtime.seeds import optimizers, side_by_side

import baseline1
import baseline2
import baseline3
import gymnasium as gym
import noise_only
import numpy as np
import pytest
import torch

torch.set_num_threads(1)
gc.collect(), gc.freeze()  # of a million objects that imports leave, each collection would look at every one again
CPU = torch.device("cpu")
SCRIPTS = {"sac": sac_continuous, "hpo": sac_hpo_continuous}
ABLATIONS = {"b1": baseline1, "b2": baseline2, "b3": baseline3, "noise": noise_only}
FAMILY = SCRIPTS | {"nf": sac_nf_continuous} | ABLATIONS


class Drift(gym.Env):
    """A point in [-1, 1] moved by a/4 and paid -x² before it moves: only bootstrapping tells an action's worth."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 1)
        return self.x.astype(np.float32), {}

    def step(self, action):
        reward = -float(self.x[0] ** 2)
        self.x = np.clip(self.x + action / 4, -1, 1)
        return self.x.astype(np.float32), reward, False, False, {}


class Counter(gym.Env):
    """Observes the number of its step; odd episodes terminate at step 3, even ones are cut at step 5.

    Its action box is [2, 6] × [-1, 3]; it remembers the actions that reach it and draws a picture.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(np.array([2, -1], np.float32), np.array([6, 3], np.float32))

    def __init__(self, render_mode=None):
        self.render_mode, self.episode, self.actions = render_mode, 0, []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return np.array([0.0, self.episode]), {}

    def step(self, action):
        self.count += 1
        self.actions.append(np.array(action))
        terminated = self.episode % 2 == 1 and self.count == 3
        return np.array([self.count, self.episode], float), 1.0, terminated, self.count == 5, {}

    def render(self):
        return np.full((32, 32, 3), 10 * self.count, np.uint8)


class Unbounded(Counter):
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Image(Counter):
    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Mapping(Counter):
    observation_space = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (2,), np.float32)})


for name, cls in (("Counter", Counter), ("Unbounded", Unbounded), ("Image", Image), ("Mapping", Mapping)):
    gym.register(f"{name}-v0", cls)
gym.register("Drift-v0", Drift, max_episode_steps=20)


@pytest.fixture(params=SCRIPTS.values(), ids=SCRIPTS)
def script(request):
    """Each of the two scripts in turn."""
    return request.param


@pytest.fixture(params=FAMILY.values(), ids=FAMILY)
def member(request):
    """Each script that shares SAC's form in turn."""
    return request.param


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py"])  # the name before every refusal


@contextlib.contextmanager
def narrow_networks():
    """Hidden layers of 32 units: where a run is tested and no network, its updates take half the time."""
    with pytest.MonkeyPatch.context() as patch:
        narrow_by(patch)
        yield


def narrow_by(patch):
    for script in (*FAMILY.values(), mcmcpo_hmc_continuous, mcmcpo_langevin_continuous):
        patch.setattr(script, "HIDDEN", 32)


@pytest.fixture
def narrow(monkeypatch):  # whose undoing ends all that a test has set, in the right order
    narrow_by(monkeypatch)


@pytest.fixture
def captured(monkeypatch):
    """Compiles as far as graphs of PyTorch's own operations: seconds, where C++ takes the better part of a minute."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiler(function, backend="aot_eager", dynamic=False))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run of a script by `quick`'s flags, with narrow networks: trained once for all tests
    that only look at it, or take a copy."""
    folders = {}

    def finished(script, **flags):
        key = script.__name__, *sorted(flags.items())
        if key not in folders:
            place, quiet = tmp_path_factory.mktemp("finished"), contextlib.redirect_stdout(io.StringIO())
            with contextlib.chdir(place), narrow_networks(), quiet:
                assert train(script, quick(script, **flags)) == 0
                folders[key] = newest().resolve()
        return folders[key]

    return finished


def copied(folder):
    """A copy of a run's folder among the runs of a test, which may change it."""
    return Path(shutil.copytree(folder, Path("runs") / folder.name))


def train(script, args, source=None):
    """The exit code of a run."""
    return Run(script, args, source).train()


def newest(before=()):
    """The folder of the newest run."""
    return max(set(Path("runs").iterdir()) - set(before), key=lambda folder: folder.stat().st_mtime_ns)


def resume(script, folder, *flags):
    """The exit code of a run that goes on."""
    return train(script, *parse(script, ["--resume", str(folder), *flags]))


def fork(out, err, path, *argv, encoding="utf-8", cwd="."):
    """Starts a program in a fork of this process, which has imported torch: its number. Two files take what it says."""
    sys.stdout.flush(), sys.stderr.flush()
    if not (child := os.fork()):
        code = 1
        try:
            sys.stdout, sys.stderr = (io.TextIOWrapper(f, encoding) for f in (out, err))
            os.chdir(cwd)
            sys.argv = [str(path), *map(str, argv)]
            runpy.run_path(str(path), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return child


def forked(path, *argv, encoding="utf-8", cwd="."):
    """Exit code, output and errors (bytes) of a program in a fork of this process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = fork(out, err, path, *argv, encoding=encoding, cwd=cwd)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        return code, out.read(), err.read()


def run_in_a_fork(script, flags, folder, kill_after=None):
    """analysis/checks/survival.py's `run`, of a fork of this process in place of a new interpreter."""
    sys.stdout.flush(), sys.stderr.flush()
    output, theirs = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            sys.stdout = sys.stderr = os.fdopen(theirs, "w", encoding="utf-8")
            os.chdir(folder)
            code = launch(importlib.import_module(script), flags)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(theirs)
    with os.fdopen(output, encoding="utf-8") as lines:
        head, start = next((line for line in lines if " runs/" in line), ""), time.monotonic()
        if kill_after is not None:
            select.select([os.pidfd_open(child)], [], [], kill_after)
            os.kill(child, signal.SIGKILL)
        rest = lines.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), head + rest
    return code, re.search(r"runs/\S+", head).group(), time.monotonic() - start


def on_a_terminal(script, argv, columns=160):
    """Exit code of a run in a fork of this process that has a terminal of its own, and all that was drawn there."""
    sys.stdout.flush(), sys.stderr.flush()
    child, terminal = pty.fork()
    if not child:
        code = 1
        try:
            termios.tcsetwinsize(1, (24, columns))
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
            code = launch(script, argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    screen = b""
    with contextlib.suppress(OSError):  # the terminal closes with its last process
        while chunk := os.read(terminal, 4096):
            screen += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen.decode()


def script_name(script):
    return Path(script.__file__).stem


def quick(script, **flags):
    """Arguments of a run of a second or two."""
    small = {
        "env_id": "Drift-v0",
        "total_timesteps": 120,
        "random_steps": flags.get("learning_starts", 40),
        "learning_starts": 40,
        "batch_size": 16,
        "cuda": False,
        "compile": False,
    }
    return script.Args(**(small | {"eval_frequency": 60, "eval_episodes": 2} | flags))


def built(args, kind, *inputs, device=CPU):
    """An agent or a replay of as many seeds as the arguments say."""
    with side_by_side(range(args.seed, args.seed + args.num_seeds), device):
        return kind(args, *inputs)


def agent_of(script, obs_dim=11, act_dim=3, double=True, leapfrog_space="pre-tanh", **flags):
    """An agent on the CPU. In double precision log α is exact, and the targets differ from the critics."""
    script = of_values(script, {"leapfrog_space": leapfrog_space})
    args = script.Args(cuda=False, **flags)
    agent = built(args, script.Agent, obs_dim, act_dim)
    if double:
        doubled(agent).log_alpha.data.fill_(np.log(args.alpha))
        for i, parameter in enumerate(agent.target.parameters()):
            parameter.data += 0.05 * normals(*parameter.shape, seed=i)
    return agent


def pre_tanh(agent):
    """Whether an agent's chain moves u, as the scripts have it, and not a (analysis/experiments/spaces.py)."""
    return not hasattr(agent.args, "leapfrog_space")


def end_of(agent, obs, noise):
    """Where the policy's loss ends a chain, (S, B, d): u_K, or a_K before the clamp."""
    return gap.dynamics_of(agent, obs, noise).end


def doubled(agent):
    """An agent in double precision, what its optimizers keep included."""
    agent.double()
    for optimizer in optimizers(agent):
        (group,) = optimizer.param_groups
        optimizer.__init__(optimizer.trained, group["lr"], group["betas"])
    return agent


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def batch_of(seeds, batch, obs_dim=11, act_dim=3, seed=0):
    """A batch of made-up transitions in double precision."""
    actions = normals(seeds, batch, act_dim, seed=seed + 1).tanh()
    terminated = (normals(seeds, batch, seed=seed + 4) > 1).double()
    rewards = normals(seeds, batch, seed=seed + 2)
    obs, next_obs = normals(seeds, batch, obs_dim, seed=seed), normals(seeds, batch, obs_dim, seed=seed + 3)
    return sac_continuous.Batch(obs, actions, rewards, next_obs, terminated)


class Noise(NamedTuple):
    """What acting and updating draw in any script of the family, by name."""

    next_action: torch.Tensor
    action: torch.Tensor
    momentum: torch.Tensor
    next_momentum: torch.Tensor


def noise_of(*shape, seed=0):
    """Standard normal numbers (S, B, d) in double precision, under every name."""
    return Noise(*normals(4, *shape, seed=seed).unbind())


def mapped(function, numbers):
    """A batch or noise with a function applied to each of its parts."""
    return type(numbers)(*map(function, numbers))


def floats(numbers):
    return mapped(torch.Tensor.float, numbers)
