"""What comes in from outside: the command line, a machine's limits, odd environments, strangers' agents."""

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mcmcpo_hmc_continuous as hmc
import mcmcpo_langevin_continuous as langevin
import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_hpo_pixels as px
from analysis import play
from runtime import arguments, flags, logs, machine, messages, products, signals
from runtime import run as running
from runtime.arguments import parse
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.messages import Refused
from runtime.run import launch

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import Drift, forked, narrow_networks, newest, on_a_terminal, quick
from gymnasium.spaces import Box
from test_pixels import drawn
from tqdm import tqdm

ROOT = Path(sac.__file__).parent
FLAGS = "--env-id Drift-v0 --total-timesteps 60 --learning-starts 40 --batch-size 16 --eval-frequency 30"
FLAGS = f"{FLAGS} --eval-episodes 1 --no-cuda --no-compile".split()
pytestmark = pytest.mark.usefixtures("narrow")


def refused(capfd, argv, *messages, script=sac):
    """One line, code 2, nothing written."""
    before = set(Path().rglob("*"))
    assert launch(script, argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and all(message in err for message in messages), err
    assert set(Path().rglob("*")) == before


# ----------------------------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize("value", ["arm--env-id=Ant-v4", "arm--resume=3", "--resume=3", "x --seed 9", "--help"])
def test_a_value_that_looks_like_a_flag_is_a_value(value):
    args, source = parse(hpo, ["--exp-name=" + value, "--env-id", "Hopper-v4"])
    assert args == hpo.Args(exp_name=value)
    assert {name for name, origin in source.items() if origin == "command line"} == {"exp_name", "env_id"}


def test_numbers_and_switches_as_people_write_them():
    written = "--total-timesteps 1e6 --buffer-size 1_000 --gamma 1 --autotune True --compile=false --no-cuda".split()
    args, _ = parse(sac, written)
    assert (args.total_timesteps, args.buffer_size, args.gamma) == (10**6, 1000, 1.0)
    assert type(args.total_timesteps) is int and type(args.gamma) is float
    assert (args.autotune, args.compile, args.cuda) == (True, False, False)
    assert parse(sac, ["--autotune", "--seed", "3"])[0].autotune and parse(sac, ["--seed", "4294967290"])[0].seed
    assert parse(sac, ["--seed", "1", "--seed", "2"])[0].seed == 2
    assert parse(sac, ["--exp-name", "None"])[0].exp_name is None


@pytest.mark.parametrize(("written", "said"), [
    ("--total-timesteps 1.5", "--total-timesteps '1.5' is no whole number"),
    ("--total-timesteps 1e400", "no whole number"), ("--total-timesteps nan", "no whole number"),
    ("--gamma much", "--gamma 'much' is no number"), ("--autotune maybe", "--autotune 'maybe' is neither True nor"),
    ("--products fast", "--products 'fast' is none of auto, default, onednn"), ("stray", "stray is no flag"),
    ("--sed 1", "--sed is no flag of this script (did you mean --seed?)"), ("--leapfrog-steps 2", "is no flag"),
    ("--exp-name " + 300 * "x", "--exp-name has 300 characters"), ("--env-id --seed 1", "--env-id expected one"),
])  # fmt: skip
def test_what_cannot_be_read(written, said, capfd):
    refused(capfd, written.split(), said)


@pytest.mark.parametrize("script", [sac, hpo, px, langevin])
def test_help_has_the_method_first_and_every_range(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert_stops = pytest.raises(SystemExit)
    with assert_stops as stop:
        parse(script, ["--seed", "3", "--help"])
    text = capsys.readouterr().out
    titles = re.findall(r"^(\w+):$", text, re.M)
    assert stop.value.code == 0 and titles == ["method", "run", "logging", "machine"]
    assert max(map(len, text.splitlines())) <= 100
    parts = dict(zip(titles, re.split(r"^\w+:$", text, flags=re.M)[1:]))
    own = {field.name for field in dataclasses.fields(script.Args)} - {f.name for f in dataclasses.fields(sac.RunArgs)}
    assert set(re.findall(r"^  --([\w-]+)", parts["method"], re.M)) == {name.replace("_", "-") for name in own}
    assert set(re.findall(r"^  --([\w-]+)", text, re.M)) == {n.replace("_", "-") for n in vars(script.Args())}
    for name, span in (arguments.LIMITS | script.LIMITS).items():
        entry = re.split(r"\n  -", text.split(f"\n  --{name.replace('_', '-')} ")[1])[0]
        assert f"[{' to '.join(map(flags.shown, span))}]" in " ".join(entry.split()), (name, entry)
    assert all(flags.comments(script.Args).get(name) for name in vars(script.Args()))  # a line for each


# ---------------------------------------------------------------------------------------------------------- the machine
@pytest.mark.parametrize(("group", "files", "limit"), [
    ("0::/jobs/mine\n", {"jobs/memory.max": "3000", "jobs/mine/memory.max": "5000"}, 3000),
    ("0::/\n", {"memory.max": "4000"}, 4000),  # inside a container
    ("0::/jobs\n", {"jobs/memory.max": "max"}, None),
    ("5:cpu:/a\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000", "cpu/a/memory.max": "1"}, 2000),
])  # fmt: skip
def test_memory_is_what_the_control_group_allows(tmp_path, group, files, limit):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert machine.memory(tmp_path) == (limit or machine.memory(tmp_path / "nowhere"))


@pytest.mark.parametrize(("value", "count"), [("", 7), ("2,1", 2), (" 3", 3), ("many", 7), ("0", 1), (None, 7)])
def test_threads_by_any_environment(monkeypatch, value, count):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert machine.threads(7) == count


def test_windows_is_refused_in_a_line():
    code = "import sys; sys.platform = 'win32'; sys.argv = ['x.py']; import runtime"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("x: Windows") and done.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------------- odd environments
class Odd(gym.Env):
    """An environment of which a test replaces a part."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, raises=None, **parts):
        if raises:
            raise raises
        vars(self).update(parts)

    def reset(self, seed=None, options=None):
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        return self.observation_space.sample() * 0, 0.0, False, False, {}


class Seedless(Odd):
    def reset(self):
        return np.zeros(3), {}


class Bare(Odd):
    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32)


class Quiet(Exception):
    pass


def odd(name, entry=Odd, **kwargs):
    gym.register(name + "-v0", entry, kwargs=kwargs)
    return name + "-v0"


def pays(reward):
    return lambda action: (np.zeros(3, np.float32), reward, False, False, {})


def ends(terminated, truncated):
    return lambda action: (np.zeros(3, np.float32), 0.0, terminated, truncated, {})


def shows(obs):
    return lambda seed=None, options=None: (obs, {})


ODD = [
    (odd("Raises", raises=Quiet()), "cannot be made: Quiet"),
    (odd("Seedless", Seedless), "reset fails (", "seed"),
    (odd("Bare", Bare), "reset fails (", "return an observation and a dict"),
    (odd("Nothing", observation_space=Box(-1, 1, (0,))), "observes Box", "which is nothing"),
    (odd("Still", action_space=Box(-1, 1, (0,))), "acts in Box", "n > 0"),
    (odd("Matrix", action_space=Box(-1, 1, (2, 2))), "acts in Box", "of shape (n,)", "TransformAction"),
    (odd("Narrowest", action_space=Box(np.zeros(2, np.float32), np.array([1, 1e-45], np.float32))), "dimension 1"),
    (odd("Thin", action_space=Box(np.float32(1), np.nextafter(np.float32(1), np.float32(2)), (1,))), "dimension 0"),
    (odd("Widest", action_space=Box(-1e10, 1e10, (1,))), "not bounded to any use", "TransformAction"),
    (odd("Text", observation_space=gym.spaces.Text(9)), "observes Text", "not numbers"),
    (odd("Sight", observation_space=gym.spaces.Dict(a=Box(0, 255, (8, 8), np.uint8))), "observes Dict", "an image"),
    (odd("Choices", observation_space=gym.spaces.Discrete(10**9)), "observes Discrete", "not numbers"),
    (odd("Vector", step=pays(np.zeros(1))), "pays a reward of shape (1,)"),
    (odd("Unpaid", step=pays(None)), "pays a reward of NoneType"),
    (odd("Words", step=pays("3")), "pays a reward of str"),
    (odd("Short", reset=shows(np.zeros(2, np.float32))), "an observation of shape (2,)", "(3,)"),
    (odd("Column", reset=shows(np.zeros((3, 1), np.float32))), "an observation of shape (3, 1)"),
    (odd("Told", reset=shows("abc")), "an observation of type str"),
    (odd("Number", step=ends(0.0, False)), "step returns terminated 0.0: let it be True or False"),
    (odd("Null", step=ends(False, None)), "step returns truncated None"),
    (odd("Array", step=ends(np.array([False]), False)), "step returns terminated of shape (1,)"),
    (odd("Four", step=lambda action: (np.zeros(3), 0.0, False, {})), "step fails", "truncated"),
]


@pytest.mark.parametrize("case", ODD, ids=[case[0] for case in ODD])
def test_an_odd_environment_gets_a_line(case, capfd):
    env_id, *said = case
    refused(capfd, [*FLAGS, "--env-id", env_id], f"--env-id {env_id}", *said)


class Scaled(gym.wrappers.NormalizeObservation):
    pass


class Own(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.obs_rms = 0.0


@pytest.mark.parametrize("wrapper", [gym.wrappers.NormalizeObservation, gym.wrappers.NormalizeReward, Scaled, Own])
def test_running_statistics_are_refused(wrapper, capfd):
    name = odd(wrapper.__name__ + "Drift", lambda: gym.wrappers.ClipReward(wrapper(Drift()), -9, 9))
    refused(capfd, [*FLAGS, "--env-id", name], f"its {wrapper.__name__} normalises", "--normalize-observations")


class Shared(Drift):
    """Draws from generators that all share."""

    def step(self, action):
        _, *rest = super().step(action)
        shift = random.random() + np.random.rand() + torch.rand(()).item() - 1.5
        self.x = np.clip(self.x + 0.1 * shift, -1, 1)
        return self.x.astype(np.float32), *rest


class Clock(Drift):
    """Repeats nothing."""

    numbers = np.random.default_rng(1)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = Clock.numbers.uniform(-1, 1, 1)
        return self.x.astype(np.float32), {}


gym.register("Shared-v0", Shared, max_episode_steps=15)
gym.register("Clock-v0", Clock, max_episode_steps=15)


def run(*argv, script=sac):
    """A run's folder."""
    before = set(Path("runs").glob("*"))
    assert launch(script, [*FLAGS, *argv]) == 0
    return newest(before)


def weights(folder):
    return torch.load(folder / "agent.pt", weights_only=True)["agent"]


def same(left, right):
    left, right = weights(left), weights(right)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_generators_that_all_share(capfd):
    """A seed's run repeats whatever else draws, evaluations or not, and alone or in company; a resumed one is it."""
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = run("--env-id", "Shared-v0", "--seed", "2")
    random.seed(6), np.random.seed(6), torch.manual_seed(6)
    assert same(first, run("--env-id", "Shared-v0", "--seed", "2", "--eval-frequency", "7"))
    company = run("--env-id", "Shared-v0", "--seed", "1", "--num-seeds", "2")
    tables = [(folder / "evaluations.csv").read_text().splitlines() for folder in (first, company)]
    alone, beside = ([float(row.split(",")[3]) for row in rows if ",2,0," in row] for rows in tables)
    assert alone == pytest.approx(beside, abs=1e-4) and len(alone) == 2
    part = run("--env-id", "Shared-v0", "--seed", "2", "--total-timesteps", "47")
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    assert launch(sac, ["--resume", str(part), "--total-timesteps", "60"]) == 0 and same(first, part)
    assert "does not repeat" not in capfd.readouterr().err
    refused(capfd, ["--env-id", "Clock-v0", "--buffer-size", "0"], "--buffer-size")
    run("--env-id", "Clock-v0")
    assert capfd.readouterr().err.count("--env-id Clock-v0 does not repeat an episode from its seed") == 1


class Parts(Drift):
    """Observes a Dict of a vector, a matrix, a number and a choice."""

    observation_space = gym.spaces.Dict(
        at=Box(-1, 1, (1,), np.float32), grid=Box(-9, 9, (2, 3)), n=gym.spaces.Discrete(3), t=Box(0, 99, ())
    )

    def seen(self, x):
        return {"at": x, "grid": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": 1, "t": np.float32(7)}

    def reset(self, seed=None, options=None):
        return self.seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        x, *rest = super().step(action)
        return self.seen(x), *rest


gym.register("Parts-v0", Parts, max_episode_steps=20)


def test_observations_are_flattened_and_that_is_told(capfd):
    messages.NOTED.clear()
    env = make_env("Parts-v0")
    obs, _ = env.reset(seed=3)
    x = Drift().reset(seed=3)[0]
    assert obs.tolist() == [x[0], 0, 1, 2, 3, 4, 5, 0, 1, 0, 7] and env.step(np.zeros(1, np.float32))[0].shape == (11,)
    whole = run("--env-id", "Parts-v0")
    part = run("--env-id", "Parts-v0", "--total-timesteps", "47")
    assert launch(sac, ["--resume", str(part), "--total-timesteps", "60"]) == 0 and same(whole, part)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "--env-id Parts-v0 observes Dict(" in err and "flattened to 11 numbers" in err


# ------------------------------------------------------------------------------------------------ environments by flags
def test_a_window_where_there_is_no_screen(monkeypatch):
    """GLFW would abort the process."""
    monkeypatch.setattr(machine, "has_screen", lambda: False)
    with pytest.raises(Refused, match="--env-id Hopper-v4 cannot be made to be drawn: no window opens here"):
        make_env("Hopper-v4", "human")


@pytest.mark.parametrize(("backend", "said"), [("osmesa", "libosmesa6"), ("glfw", "set MUJOCO_GL=egl")])
@pytest.mark.slow
def test_a_film_by_a_library_that_is_not_here(backend, said):
    environment = os.environ | {"MUJOCO_GL": backend, "OMP_NUM_THREADS": "1"}
    for name in ("DISPLAY", "PYOPENGL_PLATFORM"):
        environment.pop(name, None)
    command = [sys.executable, str(ROOT / "sac_continuous.py"), *FLAGS, "--env-id", "Hopper-v4", "--capture-video"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip(f"{backend} draws here")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


class Sized(Drift):
    """Drift whose arguments a run gives; pays `bonus` more."""

    def __init__(self, bonus=0.0, name="", flag=False):
        self.bonus, self.name, self.flag = bonus, name, flag

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + self.bonus, *rest


gym.register("Sized-v0", Sized, max_episode_steps=20)


@pytest.mark.parametrize(("words", "expected"), [
    (['{"bonus": 2, "flag": true}'], {"bonus": 2, "flag": True}),
    (["bonus=2", "flag=True"], {"bonus": 2, "flag": True}),
    (["bonus=1e1", "name=arm=3"], {"bonus": 10.0, "name": "arm=3"}),
    (["name=", "flag=false"], {"name": "", "flag": False}),
    (["bonus=[1, 2]", '{"name": null}'], {"bonus": [1, 2], "name": None}),
])  # fmt: skip
def test_env_kwargs_are_read(words, expected):
    assert parse(sac, ["--env-kwargs", *words, "--seed", "2"])[0].env_kwargs == expected
    assert parse(sac, [f"--env-kwargs={word}" for word in words])[0].env_kwargs == expected


def test_env_kwargs_and_a_time_limit_hold_in_evaluation_on_resume_and_in_play(capfd):
    own = ["--env-id", "Sized-v0", "--env-kwargs", "bonus=100", "--max-episode-steps", "8"]
    whole, part = run(*own), run(*own, "--total-timesteps", "47")
    rows = [row.split(",") for row in (whole / "evaluations.csv").read_text().splitlines()[1:]]
    assert all(row[4] == "8" and 792 <= float(row[3]) <= 800 for row in rows) and len(rows) == 2
    args = json.loads((part / "config.json").read_text())["args"]
    assert (args["env_kwargs"], args["max_episode_steps"]) == ({"bonus": 100}, 8)
    assert launch(sac, ["--resume", str(part), "--total-timesteps", "60"]) == 0 and same(whole, part)
    ((*_, returns, lengths),) = play.play(play.Args(part, episodes=2))
    assert (lengths == 8).all() and (returns > 790).all()
    capfd.readouterr()
    refused(capfd, ["--resume", str(part), "--env-kwargs", "bonus=5"], "--env-kwargs {'bonus': 5} contradicts the run")
    refused(capfd, ["--resume", str(part), "--max-episode-steps", "5"], "--max-episode-steps 5 contradicts")
    config = json.loads((part / "config.json").read_text())  # of before there were such flags
    for name in ("env_kwargs", "max_episode_steps"):
        del config["args"][name], config["source"][name]
    (part / "config.json").write_text(json.dumps(config))
    assert parse(sac, ["--resume", str(part)])[0].max_episode_steps == 0


@pytest.mark.parametrize(("words", "said"), [
    ("colour=red", "--env-id Sized-v0 with --env-kwargs {\"colour\": \"red\"} cannot be made"),
    ("nonsense", "--env-kwargs nonsense: give key=value, or a JSON object"), ("{broken", "give key=value, or a JSON"),
    ("render_mode=human", "--env-kwargs: render_mode is the run's own"), ("", "--env-kwargs : give key=value"),
    ("=3", "give key=value"),
])  # fmt: skip
def test_bad_env_kwargs(words, said, capfd):
    refused(capfd, [*FLAGS, "--env-id", "Sized-v0", "--env-kwargs", words], said)


MINE = """
import gymnasium, numpy
class Mine(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), numpy.float32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return numpy.zeros(1, numpy.float32), {}
    def step(self, action):
        return action, 0.0, False, False, {}
gymnasium.register("Mine-v0", Mine, max_episode_steps=7)
"""


@pytest.mark.slow
def test_a_task_in_the_working_folder(monkeypatch):
    """As docs/your_task.md has it: from another folder than the script's, which is on no path."""
    monkeypatch.setattr(sac, "HIDDEN", 256)
    Path("mytask.py").write_text(MINE)
    assert not {"", ".", str(Path.cwd())} & set(sys.path)
    code, _, err = forked(ROOT / "sac_continuous.py", *FLAGS[2:], "--env-id", "mytask:Mine-v0")
    assert (code, err) == (0, b"")
    code, out, err = forked(ROOT / "analysis/play.py", newest(), "--env-id", "mytask:Mine-v0")
    assert code == 0 and b"| 7.0 |" in out, err
    code, out, err = forked(
        ROOT / "analysis/keep.py", newest(), "kept", "--episodes", "2", "--env-id", "mytask:Mine-v0"
    )
    assert code == 0 and b"returns 0.0 over 2 episodes" in out, err


# ---------------------------------------------------------------------------- the DeepMind Control Suite from its state
def test_dm_control_from_state():
    """What the suite observes, in its order, its rewards, its own seeds; its time limit stops no bootstrap."""
    from dm_control import suite

    env, twin = (make_env("dm_control/cheetah-run-v0") for _ in range(2))
    theirs = suite.load("cheetah", "run", task_kwargs={"random": 0})
    theirs.task.random.seed(np.random.SeedSequence(2**100).generate_state(4))
    now, (obs, _) = theirs.reset(), env.reset(seed=2**100)
    assert obs.shape == (17,) and np.array_equal(obs, twin.reset(seed=2**100)[0])
    for step in range(1000):
        assert np.array_equal(obs, np.concatenate([now.observation["position"], now.observation["velocity"]]))
        action = np.sin(step + np.arange(6)).astype(np.float32)
        now, (obs, reward, terminated, truncated, _) = theirs.step(action), env.step(action)
        assert reward == now.reward and not terminated and truncated == (step == 999)
    assert not np.array_equal(env.reset(seed=1)[0], twin.reset(seed=2)[0])


def test_dm_control_by_flags():
    args = sac.Args(env_kwargs={"time_limit": 0.2})
    lengths = []
    for more in ({}, {"max_episode_steps": 5}, {"max_episode_steps": 30}):
        env, over = make_env("dm_control/cheetah-run-v0", None, dataclasses.replace(args, **more)), False
        env.reset(seed=1)
        lengths.append(0)
        while not over:
            *_, terminated, over, _ = env.step(np.zeros(6, np.float32))
            lengths[-1] += 1
            assert not terminated
    assert lengths == [20, 5, 30]  # 0.2 s by steps of 0.01 s


@pytest.mark.slow
def test_dm_control_from_state_goes_on_to_the_bit(script, capfd):
    own = ["--env-id", "dm_control/finger-spin-v0", "--max-episode-steps", "25"]
    whole, part = run(*own, script=script), run(*own, "--total-timesteps", "47", script=script)
    assert launch(script, ["--resume", str(part), "--total-timesteps", "60"]) == 0 and same(whole, part)
    assert (whole / "evaluations.csv").read_text() == (part / "evaluations.csv").read_text()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("flags", "said"), [
    ("--env-id dm_control/cheeta-run-v0", "nearest names are dm_control/cheetah-run-v0"),
    ("--env-id dm_control/lqr-lqr_2_1-v0", "not bounded to any use"),
    ("--env-id dm_control/cheetah-run-v0 --env-kwargs colour=red", "--env-kwargs {'colour': 'red'} cannot be made"),
])  # fmt: skip
def test_dm_control_refuses(flags, said, capfd):
    refused(capfd, [*FLAGS, *flags.split()], said)


@drawn
@pytest.mark.slow
def test_dm_control_from_state_is_filmed():
    """By a run and by play.py: a frame a step, which move; there is no window."""
    folder = run("--env-id", "dm_control/finger-spin-v0", "--max-episode-steps", "12", "--capture-video")
    play.play(play.Args(folder, episodes=1, video=Path("films")))
    films = [*folder.rglob("*.mp4"), *Path("films").glob("*.mp4")]
    assert len(films) == 3
    for film in films:
        frames = iio.imread(film, plugin="FFMPEG")
        assert len(frames) in (12, 13) and frames.std() > 5 and np.ptp(frames, axis=0).any()
    with pytest.raises(Refused, match="opens no window"):
        play.play(play.Args(folder, render="human"))


@pytest.mark.slow
def test_dm_control_from_state_where_nothing_draws():
    """A state needs no OpenGL; a film does, and a line says so."""
    environment = os.environ | {"MUJOCO_GL": "glfw", "OMP_NUM_THREADS": "1"}
    environment.pop("DISPLAY", None)
    command = [sys.executable, str(ROOT / "sac_continuous.py"), *FLAGS, "--env-id", "dm_control/cartpole-swingup-v0"]
    command += ["--max-episode-steps", "25"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    done = subprocess.run([*command, "--capture-video"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot draw with MUJOCO_GL=glfw" in done.stderr and done.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------- playing what was saved
SAVED = [
    {"num_seeds": 10**12}, {"num_seeds": 1024}, {"num_seeds": 0}, {"num_seeds": "2"}, {"num_seeds": None}, {"seed": -1},
    {"leapfrog_hidden": 10**9}, {"leapfrog_steps": 2.5}, {"step_size": "big"}, {"alpha": float("nan")}, {"env_id": 7},
    {"leapfrog_space": "sideways"}, {"eval_max_steps": 0}, {"policy_layers": 7}, {"policy_layers": True}, {"more": 1},
    {"env_kwargs": [1]}, {"env_kwargs": {1: 2}}, {"env_kwargs": {"a": torch.zeros(1)}},
    {"max_episode_steps": -3}, {"products": "slow"}, {"matmul_precision": None}, {1: 2},
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two seeds of SAC-HPO."""
    with contextlib.chdir(tmp_path_factory.mktemp("trained")), narrow_networks():
        return run("--num-seeds", "2", "--eval-episodes", "3", script=hpo).resolve()


def copied(folder, **parts):
    """A run's folder with another agent.pt."""
    Path("copy").mkdir()
    (Path("copy") / "config.json").write_text((folder / "config.json").read_text())
    torch.save(torch.load(folder / "agent.pt", weights_only=True) | parts, "copy/agent.pt")
    return Path("copy")


@pytest.mark.parametrize("wrong", SAVED, ids=map(str, SAVED))
def test_play_refuses_arguments_of_no_agent(wrong, trained):
    args = torch.load(trained / "agent.pt", weights_only=True)["args"]
    with pytest.raises(Refused, match=r"copy/agent.pt is no agent of today's sac_hpo_continuous.py \(.+\); play"):
        play.load(copied(trained, args=args | wrong))


@pytest.mark.parametrize("form", [None, 1, 3, "2"])
def test_files_of_another_form_are_refused(form, trained, capfd):
    """Whose weights mean something else: to play, to resume, to start from. Files before there were forms have none."""
    folder = copied(trained)
    saved, config = torch.load(folder / "agent.pt", weights_only=True), json.loads((folder / "config.json").read_text())
    assert saved["form"] == config["form"] == hpo.FORM == 2
    shutil.copytree(trained / "checkpoints", folder / "checkpoints")
    for content in (saved, config):
        content |= {"form": form}
        if form is None:
            del content["form"]
    torch.save(saved, folder / "agent.pt")
    (folder / "config.json").write_text(json.dumps(config))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(Refused, match=r"no agent of today's .*meant something else\); play it with the code"):
        play.load(folder)
    assert launch(hpo, ["--resume", str(folder)]) == 2
    said = "an older sac_hpo_continuous.py, whose weights meant something else: resume it with the code of commit"
    assert said in capfd.readouterr().err
    assert launch(hpo, ["--start-from", str(folder), *FLAGS]) == 2
    assert "meant something else; start with one of today's" in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("parts", [{"args": None}, {"args": {}}, {"agent": None}, {"agent": [1]}, {"agent": {"w": 3}}])
def test_play_refuses_what_is_no_agent(parts, trained):
    with pytest.raises(Refused, match=r"copy/agent.pt (is no agent of|does not fit)"):
        play.load(copied(trained, **parts))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("agent.pt", b"", "copy/agent.pt: EOFError|copy/agent.pt: .*Ran out"),
    ("agent.pt", b"PK\3\4torn", "copy/agent.pt: ."),
    ("config.json", b"[]", "copy/agent.pt: ."), ("config.json", b"null", "copy/agent.pt: ."),
    ("config.json", b'{"script": "../evil"}', "not a script here"), ("config.json", b'{"script": 3}', "not a script"),
])  # fmt: skip
def test_play_refuses_damaged_files(name, content, said, trained):
    folder = copied(trained)
    (folder / name).write_bytes(content)
    with pytest.raises(Refused, match=said) as refusal:
        play.load(folder)
    assert ": ;" not in str(refusal.value)


def test_an_agent_with_a_flipped_bit_is_refused_or_the_same(trained, capfd):
    """torch.load itself takes altered weights without a word; where a bit means nothing, the weights are the same."""
    folder, stream, refused = copied(trained), np.random.default_rng(0), 0
    whole = (folder / "agent.pt").read_bytes()
    weights = torch.load(folder / "agent.pt", weights_only=True)["agent"]
    for place in [*stream.integers(0, len(whole), 40), *range(len(whole) - 40, len(whole))]:
        data = bytearray(whole)
        data[place] ^= 1 << stream.integers(8)
        (folder / "agent.pt").write_bytes(data)
        try:
            found = play.read(folder).content["agent"]
        except Refused:
            refused += 1
        else:
            assert all(torch.equal(value, found[name]) for name, value in weights.items())
    assert refused > 30
    data = bytearray(whole)
    data[len(data) // 2] ^= 64  # a weight's, of which most of the file consists
    (folder / "agent.pt").write_bytes(data)
    with pytest.raises(Refused, match=r"agent.pt: it is damaged in \w+/data/\d+; name a run's folder"):
        play.read(folder)
    assert launch(hpo, ["--start-from", str(folder), *FLAGS]) == 2
    assert re.search(r"--start-from .*: it is damaged in \w+/data/\d+; name a run's", capfd.readouterr().err)


def test_play_films_into_folders_alone(trained):
    Path("films").write_text("mine")
    with pytest.raises(Refused, match=r"--video films: .*exists"):
        play.play(play.Args(trained, video=Path("films")))


@pytest.mark.parametrize("flags", [["--matmul-precision", "medium"], []])
def test_play_computes_products_as_the_run_did(flags):
    """So that the episodes of an evaluation, played again, have the same returns to the last bit."""
    folder = run("--num-seeds", "2", "--eval-episodes", "3", *flags, script=hpo)
    inside = torch.get_float32_matmul_precision(), products.half
    products.choose("highest" if flags else "medium", "default", torch.device("cpu"))
    agent = play.load(folder)
    assert (torch.get_float32_matmul_precision(), products.half) == inside
    envs = [[make_env("Drift-v0") for _ in range(3)] for _ in range(2)]
    returns, _ = evaluate(agent.policies()["leapfrog"], envs, range(1, 3), 60, torch.device("cpu"))
    rows = [row.split(",") for row in (folder / "evaluations.csv").read_text().splitlines()[1:]]
    assert [float(row[3]) for row in rows if row[0] == "60"] == returns.flatten().tolist()


# --------------------------------------------------------------------------------------------------------- the terminal
def test_the_start_of_a_run_is_short_and_says_what_auto_chose(capfd):
    run("--products", "auto", "--exp-name", 90 * "x")
    lines = capfd.readouterr().out.splitlines()
    head = lines[1 : next(i for i, line in enumerate(lines) if line.startswith("step"))]
    assert all(len(line) <= 100 for line in head) and re.fullmatch(r"  default: the other \d+ values, .*", head[-1])
    (auto,) = [line for line in head if line.startswith("  auto: ")]
    assert auto in ("  auto: products default", "  auto: products onednn")
    assert not any("products" in line for line in head if line != auto)


def test_the_time_left_is_that_of_learning_steps(capsys, monkeypatch):
    """100 random steps of 0.01 s, then 1 s each: 100 left take 100 s."""
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    args = vars(quick(sac, total_timesteps=300, learning_starts=100))
    Path("run").mkdir()
    log = logs.Logs(Path("run"), {"args": args, "source": {}}, range(1, 2), [], 0, "")
    for step in range(301):
        log.progress(step, step % 100 == 0)
        now[0] += 0.01 if step < 100 else 1.0
    out = capsys.readouterr().out
    assert "step 100, 100 steps/s, ? s left" in out and "step 200, 1 steps/s, 100 s left" in out
    assert log.speed() == ", 1.5 steps/s"
    log.close()


def test_a_line_beside_a_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with tqdm(total=3, file=screen) as bar:
        bar.update(1), bar.refresh()
        messages.tell("look")
        assert re.search(r"\r *\rscript: look\n\r *33%", screen.getvalue())


def test_a_finished_run_resumed_claims_no_speed(capfd):
    folder = run()
    capfd.readouterr()
    assert launch(sac, ["--resume", str(folder)]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"done at step 60: {folder}"


@pytest.mark.slow
def test_a_header_and_lines_beside_a_bar():
    """On a pseudo-terminal neither the first lines nor a warning stand in the bar's line."""
    code, screen = on_a_terminal(sac, [*FLAGS, "--eval-max-steps", "5"])
    assert code == 0, screen
    lines = [line.split("\r")[-1] for line in screen.replace("\r\n", "\n").split("\n")]
    lines = [re.sub(r"\x1b\[[A-Z]", "", line) for line in lines]
    assert lines[0].startswith("sac_continuous on Drift-v0") and "%|" not in "".join(lines[:4])
    cut = "script: an evaluation's episode was cut at --eval-max-steps 5.*"
    assert any(re.fullmatch(cut, line) for line in lines), lines


# -------------------------------------------------------------------------------------------------------------- signals
def test_a_signal_amid_a_long_step(monkeypatch, capfd):
    """The step is given up, the last checkpoint is whole, agent.pt is of no half step, and resuming is exact."""
    whole, update, calls = run(), sac.Agent.update, []

    def slow(agent, *inputs):
        seen = update(agent, *inputs)
        calls.append(1)
        if len(calls) == 8:  # in step 47
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(2000):  # as many operations, none of them long
                time.sleep(0.01)
        return seen

    before = set(Path("runs").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(sac.Agent, "update", slow)
        patch.setattr(signals, "GRACE", 0.05)
        assert launch(sac, [*FLAGS, "--checkpoint-frequency", "15"]) == 128 + signal.SIGTERM
    part, err = newest(before), capfd.readouterr().err
    assert "a step did not end within 0 s of the signal at step 47; the checkpoint of step 45 is whole" in err
    assert err.count("\n") == 1 and not (part / "agent.pt").exists()
    assert launch(sac, ["--resume", str(part)]) == 0 and same(whole, part)


def test_a_signal_that_a_step_survives(monkeypatch, capfd):
    """A step that ends in time ends the run as ever, however long the checkpoint then takes."""
    add, save = sac.Replay.add, running.Run.save
    monkeypatch.setattr(signals, "GRACE", 0.3)
    monkeypatch.setattr(
        sac.Replay, "add", lambda r, *row: add(r, *row) or (r.added == 50 and os.kill(os.getpid(), signal.SIGTERM))
    )
    monkeypatch.setattr(running.Run, "save", lambda one: (one.signals and time.sleep(0.5), save(one)))
    assert launch(sac, FLAGS) == 128 + signal.SIGTERM
    assert "stopped at step 50" in capfd.readouterr().out and (newest() / "checkpoints/step-50.pt").exists()


def test_what_cannot_fit_is_refused(capfd, monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: 5e8)
    monkeypatch.setattr(sac, "HIDDEN", 256)
    refused(capfd, [*FLAGS, "--batch-size", "1000000"], "--batch-size 1000000 takes at least 8.2 GB with 1 seeds")
    flags = [*FLAGS, "--total-timesteps", "100000000", "--buffer-size", "100000000"]
    refused(capfd, flags, "--buffer-size 100000000: 2.0 GB for all seeds do not fit on cpu")


def test_learning_starts_alone_sets_the_random_steps(member, capfd):
    """As it did when there was one flag; both may be given, and a resumed run has its own."""
    for argv, expected in (
        ("--learning-starts 70", (70, 70)),
        ("--random-steps 300 --learning-starts 70", (300, 70)),
        ("--random-steps 300", (300, member.Args().learning_starts)),
    ):
        args, source = parse(member, ["--env-id", "Drift-v0", *argv.split()])
        assert (args.random_steps, args.learning_starts) == expected
    assert source["random_steps"] == "command line" and source["learning_starts"] == "default"
    args, source = parse(member, ["--env-id", "Drift-v0", "--learning-starts", "70"])
    assert source["random_steps"] == "as --learning-starts"
    argv = "--env-id Drift-v0 --total-timesteps 100 --learning-starts 10 --random-steps 100".split()
    assert launch(member, argv) == 2 and "must exceed --random-steps 100" in capfd.readouterr().err


@pytest.mark.parametrize(
    "script, flags",
    [
        (hpo, "--step-size 0.3 --momentum-std-train 2 --momentum-std-explore 2 --leapfrog-hidden 8 --no-leapfrog-state"
              " --momentum-term --evolve-target --eval-base"),
        (hmc, "--dynamics-lr 0.1 --step-size 0.3 --step-unit absolute --leapfrog-hidden 8 --no-leapfrog-state"
              " --normalize-gradient --evolve-target --eval-base"),
        (langevin, "--dynamics-lr 0.1 --step-size 0.3 --langevin-hidden 8 --no-normalize-gradient --prior-updates 3"
                   " --distance-target 2 --beta 9 --beta-max 99 --pid-p 2 --pid-i 2 --pid-d 2 --pid-bound 9"
                   " --eval-base"),
    ],
    ids=["hpo", "hmc", "langevin"],
)  # fmt: skip
def test_flags_that_do_nothing_without_a_step_are_told(script, flags, capfd, monkeypatch):
    """And they do change nothing: critics and policy learn the same to the bit."""
    monkeypatch.setattr(messages, "NOTED", {})
    ((switch, names),) = script.IDLE.items()
    agents = []
    for more in ([], flags.split()):
        assert launch(script, [*FLAGS, f"--{switch}", "0", *more]) == 0
        told = re.findall(rf"--(\S+) does nothing at --{switch.replace('_', '-')} 0", capfd.readouterr().err)
        assert sorted(told) == sorted(names.replace("_", "-").split() if more else [])
        weights = torch.load(newest() / "agent.pt", weights_only=True)["agent"]
        agents.append({name: x for name, x in weights.items() if name.startswith(("critic", "policy", "target."))})
    left, right = agents
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    parse(script, [*FLAGS, *flags.split()])
    assert len(messages.NOTED) == len(names.split())  # no more of them with a step
