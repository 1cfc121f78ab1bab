"""What a review broke: files that are not the run's, odd spaces, streams that meet, strangers' files, poor machines."""

import csv
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import sac_continuous as sac
import sac_hpo_continuous as hpo
from analysis import play
from analysis.records import read_arms
from runtime import arguments, checkpoints, device, evaluation, home, logs, run, streams
from runtime.environments import Episodes, make_env
from runtime.evaluation import evaluate
from runtime.messages import Refused
from runtime.run import launch

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import Drift, copied, newest, quick, resume, train
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(sac.__file__).parent
CPU = torch.device("cpu")
FLAGS = "--env-id Drift-v0 --total-timesteps 60 --learning-starts 40 --batch-size 16 --eval-frequency 30"
FLAGS = f"{FLAGS} --eval-episodes 1 --no-cuda --no-compile".split()
pytestmark = pytest.mark.usefixtures("narrow")


def trained(**flags):
    before = set(Path("runs").glob("*"))
    assert train(sac, quick(sac, **flags)) == 0
    return newest(before)


def refused(capfd, argv, *messages):
    """One line, code 2."""
    assert launch(sac, argv) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and all(message in err for message in messages), err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------- lost, or silently wrong
def test_only_the_runs_own_files_are_deleted():
    folder = trained(checkpoint_frequency=20, learning_starts=110)
    own = folder / "checkpoints"
    precious = Path("precious.pt")
    precious.write_text("mine")
    (own / "best.pt").write_text("mine")
    (own / "notes").mkdir()
    (own / "step-7.pt").mkdir()  # a folder of that name
    (own / "step-3.pt").symlink_to(precious.resolve())
    (own / "step-best.pt").write_text("mine")
    (own / "rows-1-2.part").write_text("torn")
    assert resume(sac, folder, "--total-timesteps", "140") == 0
    left = {path.name for path in own.iterdir()}
    assert {"best.pt", "notes", "step-7.pt", "step-3.pt", "step-best.pt"} <= left and "rows-1-2.part" not in left
    assert precious.read_text() == "mine" and "step-100.pt" not in left and "step-140.pt" in left


def test_checkpoints_behind_a_link_are_refused(finished, capfd):
    folder = copied(finished(sac))
    precious = Path("precious")
    (folder / "checkpoints").rename(precious)
    (precious / "thesis.tex").write_text("mine")
    (precious / "step-5.pt").write_text("mine too")
    (folder / "checkpoints").symlink_to(precious.resolve())
    before = contents(Path())
    refused(capfd, ["--resume", str(folder), "--total-timesteps", "200"], "checkpoints is a link")
    assert contents(Path()) == before


@pytest.mark.parametrize("argv", [["--resume", ""], ["--resume="]])
def test_an_empty_resume(finished, capfd, monkeypatch, argv):
    refused(capfd, argv, "--resume names no folder")
    assert list(Path().iterdir()) == []
    folder = copied(finished(sac)).resolve()
    before = contents(folder)
    monkeypatch.chdir(folder)
    refused(capfd, [*argv, "--batch-size", "8"], "--resume names no folder")
    assert contents(folder) == before


class Changing(gym.Env):
    """Observes integers (or float32) at reset and floats (or float64) after; pays what it shows."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)
    first = np.int64

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([3], Changing.first), {}

    def step(self, action):
        self.x += 0.123456789123
        return np.array([self.x]), 0.0, False, False, {}


gym.register("Changing-v0", Changing, max_episode_steps=20)


@pytest.mark.parametrize("first", [np.int64, np.float32])
def test_observations_keep_their_numbers(first, monkeypatch, capfd):
    """Whatever dtype a reset has: in evaluation, and through a checkpoint."""
    monkeypatch.setattr(Changing, "first", first)
    seen = []

    def policy(obs):
        seen.append(obs[0, 0, 0].item())
        return torch.zeros(1, 1, 1)

    evaluate(policy, [[make_env("Changing-v0")]], range(1), 5, CPU)
    assert seen == pytest.approx([3.0, *(0.123456789123 * i for i in range(1, 20))])
    left, right = (Episodes([make_env("Changing-v0")], range(1)) for _ in range(2))
    for _ in range(7):
        left.step(np.zeros((1, 1)))
    right.load(left.state())
    assert np.array_equal(left.obs, right.obs) and len(right.actions[0]) == 7
    assert "not deterministic" not in capfd.readouterr().err


class Strict(gym.Env):
    """Raises when an action is not in its space."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), (action, self.action_space)
        return np.zeros(1, np.float32), 0.0, False, False, {}


gym.register("Strict-v0", Strict)


@settings(max_examples=200, deadline=None)
@given(st.floats(-100, 100), st.floats(1e-3, 100), st.sampled_from([np.float32, np.float64]))
def test_actions_stay_in_their_box(low, width, dtype):
    """At both ends of asymmetric boxes, where the affine map rounds."""
    Strict.action_space = Box(dtype(low), dtype(low + width), (1,), dtype)
    env = make_env("Strict-v0")
    env.reset()
    for action in (-1, 1, 0.3):
        env.step(np.array([action], np.float32))


def test_numbers_that_are_not_finite_are_no_results(monkeypatch, capfd):
    """NaN weights leave agent.pt alone; a NaN return is not written; an infinite loss ends a short run with code 1."""
    folder = trained(total_timesteps=50)
    good = (folder / "agent.pt").read_bytes()
    update = sac.Agent.update

    def broken(agent, *inputs):
        seen = update(agent, *inputs)
        agent.policy.fc1.weight.data[0, 0, 0] = torch.nan
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(sac.Agent, "update", broken)
        assert resume(sac, folder, "--total-timesteps", "100") == 1
    assert (folder / "agent.pt").read_bytes() == good and "not finite" in capfd.readouterr().err

    def infinite(agent, *inputs):
        return update(agent, *inputs) | {"losses/qf1_loss": torch.full((1,), torch.inf)}

    with monkeypatch.context() as patch:
        patch.setattr(sac.Agent, "update", infinite)
        assert train(sac, quick(sac)) == 1
    assert "losses/qf1_loss of seed 1 is not finite" in capfd.readouterr().err

    step, before = Drift.step, set(Path("runs").iterdir())

    def unpaid(env, action):
        obs, reward, *rest = step(env, action)
        return obs, np.nan if env.spec.kwargs.get("film") else reward, *rest

    make = evaluation.make_env
    monkeypatch.setattr(Drift, "step", unpaid)

    def marked(*arguments):
        env = make(*arguments)
        env.unwrapped.spec.kwargs["film"] = True
        return env

    monkeypatch.setattr(evaluation, "make_env", marked)
    assert train(sac, quick(sac)) == 1
    assert "return of seed 1 is not finite" in capfd.readouterr().err
    lines = (newest(before) / "evaluations.csv").read_text().splitlines()
    assert len(lines) == 5 and all(",nan,0" in line for line in lines[1:])


@pytest.mark.slow
def test_a_diverged_seed_ends_alone(monkeypatch, capfd):
    """Of three seeds the second's weights become NaN: the others train on to the bit as if it had not, its evaluations
    are NaN from there on, and a resumed run is the same run; readers call it diverged, and play leaves it out."""
    update = sac.Agent.update

    def broken(agent, batch, noise):
        seen = update(agent, batch, noise)
        agent.steps = getattr(agent, "steps", 0) + 1
        if agent.steps == 30:  # in the 70th step of a new run
            agent.policy.fc1.weight.data[1, 0, 0] = torch.nan
        return seen

    whole = trained(num_seeds=3, total_timesteps=140)
    with monkeypatch.context() as patch:
        patch.setattr(sac.Agent, "update", broken)
        lone = trained(num_seeds=3, total_timesteps=140)
        part = trained(num_seeds=3, total_timesteps=120)
    said = capfd.readouterr()
    assert "action of seed 2 is not finite at step 70: it has diverged, and the other seeds go on" in said.err
    assert "done at step 140" in said.out and ", seeds 2 diverged: runs/" in said.out
    assert resume(sac, part, "--total-timesteps", "140") == 0
    agents = [torch.load(x / "agent.pt", weights_only=True)["agent"] for x in (whole, lone, part)]
    for key, value in agents[0].items():
        for other in agents[1:]:
            assert all(torch.equal(value.unflatten(0, (3, -1))[i], other[key].unflatten(0, (3, -1))[i]) for i in (0, 2))
    tables = [list(csv.DictReader((x / "evaluations.csv").open())) for x in (whole, lone, part)]
    assert tables[1] == tables[2] and [row["return"] for row in tables[1] if row["seed"] == "2"][-1] == "nan"
    for ours, theirs in zip(tables[1], tables[0]):
        gone = ours["seed"] == "2" and int(ours["step"]) > 60
        assert (ours["return"] == "nan") == gone and (gone or ours == theirs)
    (arm,) = read_arms([lone])
    assert np.isnan(arm.curve("return")[1, -1]) and np.isfinite(arm.curve("return")[[0, 2]]).all()
    rows = play.play(play.Args(lone, episodes=1))
    assert [row[0] for row in rows] == [1, 3] and "action of seed 2 is not finite: left out" in capfd.readouterr().err

    with monkeypatch.context() as patch:  # the last one ends the run
        patch.setattr(sac.Agent, "update", broken)
        patch.setattr(sac.Agent, "act", lambda agent, obs, noise: obs[..., :1] * torch.nan)
        assert train(sac, quick(sac, num_seeds=2)) == 1
    said = capfd.readouterr().err
    assert "action of seed 1 is not finite at step 40: it has diverged" in said
    assert "action of seed 2 is not finite at step 40; " in said
    (arm,) = read_arms([newest()])
    assert arm.steps.tolist() == [60, 120] and np.isnan(arm.curve("return")).all()  # an outcome, and no missing data
    with pytest.raises(Refused, match="seed 2 diverged, its weights are not finite"):
        home.load(lone, seed=2)
    flags = ["--start-from", str(lone), "--env-id", "Drift-v0", "--seed", "2", "--total-timesteps", "60"]
    assert launch(sac, [*flags, "--learning-starts", "20", "--no-cuda"]) == 2
    assert "seed 2 diverged there" in capfd.readouterr().err


def test_no_two_streams_can_meet():
    """Distinct places give distinct keys: integers for environments, Philox's keys and counters for noise."""
    rng, places = np.random.default_rng(0), set()
    for _ in range(20_000):
        limits = streams.LIMITS
        places.add(tuple(int(rng.choice([0, 1, 2, n - 1, rng.integers(n)])) for n in limits))
    keys = {streams.episode(*place) for place in places}
    assert len(keys) == len(places) and all(0 <= key < 2**128 for key in keys)
    states = set()
    for seed, step, number in list(places)[:3000]:
        for use in (1, 2):
            state = streams.stream(seed, step, number, use).bit_generator.state["state"]
            states.add((*state["counter"].tolist(), *state["key"].tolist()))
    assert len(states) == 2 * 3000
    assert len({streams.gpu_seed(seed, block) for seed in range(50) for block in range(50)}) == 2500
    a = streams.stream(1, 5, 0, 1).standard_normal(10**5)
    b = streams.stream(1, 6, 0, 1).standard_normal(10**5)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02


class Narrow(Drift):
    """A simulator with a generator that takes 32 bits."""

    def reset(self, seed=None, options=None):
        np.random.RandomState(seed)
        return super().reset(seed=seed)


gym.register("Narrow-v0", Narrow, max_episode_steps=20)


@pytest.mark.slow
def test_simulators_with_narrow_seeds(capfd):
    """They get 32 bits of the key, and a resumed run is the same run."""
    whole, part = trained(env_id="Narrow-v0", total_timesteps=100), trained(env_id="Narrow-v0", total_timesteps=70)
    assert resume(sac, part, "--total-timesteps", "100") == 0
    tables = [(folder / "evaluations.csv").read_text() for folder in (whole, part)]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_the_end_is_evaluated():
    """130 steps every 37: the last row is of step 130; extending such a run gives the longer run's table."""
    flags = {"eval_frequency": 37, "eval_episodes": 1, "learning_starts": 100}
    part, whole = trained(total_timesteps=130, **flags), trained(total_timesteps=160, **flags)
    steps = [int(row.split(",")[0]) for row in (part / "evaluations.csv").read_text().splitlines()[1:]]
    assert steps == [37, 74, 111, 130]
    assert resume(sac, part) == 0  # nothing is left to do, and nothing is doubled
    assert [int(r.split(",")[0]) for r in (part / "evaluations.csv").read_text().splitlines()[1:]] == steps
    assert resume(sac, part, "--total-timesteps", "160") == 0
    assert (part / "evaluations.csv").read_text() == (whole / "evaluations.csv").read_text()


@pytest.mark.parametrize("damage", ["missing", "short"])
@pytest.mark.slow
def test_evaluations_come_back(damage, finished):
    whole, part = finished(sac, total_timesteps=140), copied(finished(sac))
    table = part / "evaluations.csv"
    if damage == "missing":
        table.unlink()
    else:
        table.write_text(table.read_text()[:-20])
    assert resume(sac, part, "--total-timesteps", "140") == 0
    assert table.read_text() == (whole / "evaluations.csv").read_text()


# ------------------------------------------------------------------------------------------- security
def test_a_clone_with_a_quote_in_its_path(tmp_path):
    place = tmp_path / "it's; touch pwned; '"
    place.mkdir()
    config = logs.describe(place / "script.py", quick(sac), {})
    assert config["commit"] == "unknown" and not list(tmp_path.glob("**/pwned")) and not Path("pwned").exists()


def test_a_strangers_config_imports_nothing(finished, capfd, tmp_path, monkeypatch):
    """An environment's module is imported on the command line's word alone."""
    (tmp_path / "evil_module.py").write_text("from pathlib import Path; Path('ran').write_text('')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = copied(finished(sac))
    config = json.loads((folder / "config.json").read_text())
    config["args"]["env_id"] = "evil_module:Drift-v0"
    (folder / "config.json").write_text(json.dumps(config))
    refused(capfd, ["--resume", str(folder)], "evil_module:Drift-v0", "give --env-id evil_module:Drift-v0")
    assert not Path("ran").exists()
    assert launch(sac, ["--resume", str(folder), "--env-id", "evil_module:Drift-v0"]) == 0 and Path("ran").exists()


def test_the_command_that_resumes_names_an_environment_that_imports_a_module():
    for env_id, more in (("Drift-v0", ""), ("my task:Drift-v0", " --env-id 'my task:Drift-v0'")):
        stopped = mock.Mock(args=quick(sac, env_id=env_id, resume=Path("runs/a")), program="sac_continuous.py")
        assert run.Run.go_on(stopped) == f"\ngo on with: python sac_continuous.py --resume runs/a{more}"


@pytest.mark.parametrize("bad", ["pickle", "keys", "shape", "episodes"])
@pytest.mark.slow
def test_bad_content_behind_a_good_checksum(bad, finished, capfd):
    """The checkpoint before is used, as for a damaged one."""
    whole = finished(sac, checkpoint_frequency=50)
    folder = copied(whole)
    path = folder / "checkpoints" / "step-120.pt"
    state = checkpoints.read_file(path)
    if bad == "pickle":
        import hashlib

        data = pickle.dumps(os.getcwd) + b"x"
        path.write_bytes(hashlib.sha256(data).digest() + data)
    else:
        if bad == "keys":
            del state["evaluated"]
        elif bad == "shape":
            state["agent"][-9] = torch.zeros(3)
        else:
            del state["episodes"]["numbers"]
        checkpoints.write_file(path, state)
    assert launch(sac, ["--resume", str(folder)]) == 0
    assert "step-120.pt cannot be used" in capfd.readouterr().err
    left, right = (torch.load(f / "agent.pt", weights_only=True)["agent"] for f in (whole, folder))
    assert all(torch.equal(left[name], right[name]) for name in left)


# ------------------------------------------------------------------------------- one line where it is due
def test_a_compiler_that_fails(capfd, monkeypatch, tmp_path):
    for broken in ("/bin/false", str(tmp_path / "nothing")):
        monkeypatch.setenv("CXX", broken)
        refused(capfd, ["--no-cuda", "--compile"], "--compile", "--no-compile")
    assert list(Path().iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_compiling(number, tmp_path):
    """To the whole group, as a terminal sends Ctrl-C: one line, 128 + n, nothing written."""
    command = [
        sys.executable,
        "-u",
        str(ROOT / "sac_continuous.py"),
        "--env-id",
        "Pendulum-v1",
        "--no-cuda",
        "--compile",
    ]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    place = tmp_path / "here"
    place.mkdir()
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    assert process.stdout.readline().startswith("compiling")
    time.sleep(1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == ""
    assert out == "stopped before the first step: nothing was written\n" and list(place.iterdir()) == []


def test_a_place_that_cannot_be_written(capfd):
    Path("runs").write_text("a file")
    refused(capfd, FLAGS, "runs", "Not a directory")
    assert Path("runs").read_text() == "a file"


def test_a_full_disk_at_the_start(capfd, monkeypatch):
    def full(*arguments, **flags):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs, "SummaryWriter", full)
    refused(capfd, FLAGS, "No space left on device")
    assert not list(Path("runs").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["import", "init"])
def test_a_wandb_that_refuses(capfd, monkeypatch, where):
    """Half installed, or refusing at the start: one line, and no folder is left."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    if where == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        import wandb

        def init(**settings):
            raise wandb.errors.CommError("the server said no")

        monkeypatch.setattr(wandb, "init", init)
    refused(capfd, [*FLAGS, "--track"], "--track", "wandb" if where == "import" else "the server said no")
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize("change", [
    {"batch_size": "many"}, {"gamma": None}, {"autotune": 3}, {"num_seeds": 1.5}, {"env_id": 7}, {"surplus": 1},
    {"tau": ...}, ...,
])  # fmt: skip
def test_a_config_that_makes_no_sense(finished, capfd, change):
    folder = copied(finished(sac))
    config = json.loads((folder / "config.json").read_text())
    if change is ...:
        config = ["a list"]
    else:
        config["args"] = {k: v for k, v in (config["args"] | change).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    before = contents(folder)
    refused(capfd, ["--resume", str(folder)], "no run that this script can read")
    assert contents(folder) == before


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), OSError(errno.EMFILE, "Too many open files"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
])  # fmt: skip
def test_out_of_memory_and_out_of_files(error, capfd, monkeypatch):
    add, calls = sac.Replay.add, []

    def failing(replay, *row):
        calls.append(1)
        if len(calls) == 70:
            raise error
        return add(replay, *row)

    monkeypatch.setattr(sac.Replay, "add", failing)
    assert train(sac, quick(sac)) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "at step" in err and "the checkpoint of step 60 is whole" in err, err


class Endless(Drift):
    pass


gym.register("Endless-v0", Endless)


def test_evaluations_of_tasks_without_a_time_limit(capfd):
    folder = trained(env_id="Endless-v0", eval_max_steps=70, learning_starts=110)
    rows = (folder / "evaluations.csv").read_text().splitlines()[1:]
    assert {row.split(",")[4] for row in rows} == {"70"}
    assert capfd.readouterr().err.count("cut at --eval-max-steps 70") == 1


def test_sighup_is_sigterm_unless_ignored(monkeypatch, capfd):
    add = sac.Replay.add
    monkeypatch.setattr(
        sac.Replay, "add", lambda r, *row: add(r, *row) or (r.added == 50 and os.kill(os.getpid(), signal.SIGHUP))
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup these tests run with it ignored
    try:
        assert train(sac, quick(sac, total_timesteps=60)) == 128 + signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        assert train(sac, quick(sac, total_timesteps=60)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_terminal_that_closes():
    """A real one: the run writes its checkpoint, and that it can say so nowhere is no failure."""
    flags = "--env-id Pendulum-v1 --total-timesteps 90000 --learning-starts 300 --batch-size 8 --no-cuda --no-compile"
    code = f"""import os, pty, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
pid, terminal = pty.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, {str(ROOT / "sac_continuous.py")!r}, *{flags.split()!r}])
seen = b""
while b"alpha 1.0" not in seen:  # the first lines; a terminal without a size shows no bar
    seen += os.read(terminal, 4096)
time.sleep(0.7)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.stdout.strip() == str(128 + signal.SIGHUP), done
    steps = [int(path.stem[5:]) for path in newest().glob("checkpoints/step-*.pt")]
    assert len(steps) == 2 and max(steps) > 0


class Flat(Drift):
    action_space = Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32))


gym.register("Flat-v0", Flat)


def test_messages(capfd, monkeypatch):
    refused(capfd, ["--env-id", "Flat-v0", "--no-cuda"], "its action space has low = high in dimension 1")

    def render(self):
        raise RuntimeError("gladLoadGL error")

    monkeypatch.setattr(gym.spec("Counter-v0").entry_point, "render", render)
    refused(capfd, ["--env-id", "Counter-v0", "--capture-video"], "gladLoadGL error", "MUJOCO_GL=egl")
    folder = trained(env_id="Pendulum", total_timesteps=60, eval_frequency=100)
    config = json.loads((folder / "config.json").read_text())
    assert config["args"]["env_id"] == "Pendulum-v1" and folder.name.startswith("Pendulum-v1__")
    assert resume(sac, folder) == 0


# ------------------------------------------------------------------------------------ what users looked for
@pytest.mark.slow
def test_compiling_is_announced_and_short_runs_skip_it(capfd, monkeypatch):
    said = []
    monkeypatch.setattr(device, "warm_up", lambda *arguments: said.append(1))
    monkeypatch.setattr(device.torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(arguments, "SHORT", 50)
    for flags, expected in ((FLAGS[:-1], False), ([*FLAGS[:-1], "--compile"], True)):
        said.clear()
        before = set(Path("runs").glob("*"))
        assert launch(sac, flags) == 0
        config = json.loads((newest(before) / "config.json").read_text())
        assert (config["args"]["compile"], bool(said)) == (expected, expected)
        assert config["source"]["compile"] == ("command line" if expected else "short run")
    before = set(Path("runs").glob("*"))
    assert launch(sac, [*FLAGS[:-1], "--total-timesteps", "100"]) == 0  # 60 updates
    assert json.loads((newest(before) / "config.json").read_text())["args"]["compile"]


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.slow
def test_nothing_is_compiled_after_the_start(seeds, monkeypatch):
    """What warming up compiled serves the run: the same shapes, strides and settings."""
    compiled, during = [], []

    def backend(graph, inputs):
        compiled.append(1)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(
        device.torch, "compile", lambda function, **options: original(function, backend=backend, dynamic=False)
    )
    torch._dynamo.reset()
    args = quick(sac, num_seeds=seeds, compile=True)
    one = run.Run(sac, args, dict.fromkeys(vars(args), "command line"))
    start = one.open
    monkeypatch.setattr(one, "open", lambda replay: during.append(len(compiled)) or start(replay))
    assert one.train() == 0
    assert during[0] > 0 and len(compiled) == during[0]


@pytest.mark.slow
def test_warming_up_changes_nothing():
    """Acting and learning once before the run, as compilation does, leaves no trace."""
    tables = []
    for warm in (False, True):
        args = quick(sac)
        before = set(Path("runs").glob("*"))
        one = run.Run(sac, args)
        fast = one.fast

        def warming(agent, learn, fast=fast, one=one, warm=warm):
            act, learn = fast(agent, learn)
            if warm:
                device.warm_up(agent, one.draws, one.envs.obs.shape, act.function, learn)
            return act, learn

        one.fast = warming
        assert one.train() == 0
        tables.append((newest(before) / "evaluations.csv").read_text())
    assert tables[0] == tables[1]


def test_names_of_experiments(capfd):
    folder = trained(exp_name="tau/0.1", total_timesteps=50)
    assert folder.name.startswith("Drift-v0__sac_continuous__tau_0.1__1__")
    assert json.loads((folder / "config.json").read_text())["args"]["exp_name"] == "tau/0.1"


@pytest.mark.slow
def test_the_best_agent_is_kept(monkeypatch):
    """Seed by seed: what each seed's weights were at its best evaluation, through a resume too."""
    flags = {"num_seeds": 2, "keep_agents": True, "eval_frequency": 10, "eval_episodes": 1}
    folder = trained(total_timesteps=90, **flags)
    part = trained(total_timesteps=65, **flags)
    assert resume(sac, part, "--total-timesteps", "90") == 0
    rows = [r.split(",") for r in (folder / "evaluations.csv").read_text().splitlines()[1:]]
    best = torch.load(folder / "agent-best.pt", weights_only=True)
    for i, seed in enumerate(("1", "2")):
        returns = {int(r[0]): float(r[3]) for r in rows if r[1] == seed}
        step = max(returns, key=lambda step: (returns[step], -step))
        assert best["steps"][i] == step and best["returns"][i] == pytest.approx(returns[step])
        kept = torch.load(folder / "agents" / f"step-{step}.pt", weights_only=True)["agent"]
        for name, value in best["agent"].items():
            assert torch.equal(value.unflatten(0, (2, -1))[i], kept[name].unflatten(0, (2, -1))[i])
    (part / "agent-best.pt").write_bytes(b"damaged")  # it is written again from the checkpoint
    assert resume(sac, part) == 0
    again = torch.load(part / "agent-best.pt", weights_only=True)
    assert best["steps"] == again["steps"] and all(torch.equal(v, again["agent"][k]) for k, v in best["agent"].items())


@pytest.mark.slow
def test_films_reach_wandb(monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    seen = []
    monkeypatch.setattr(wandb, "Video", lambda path, **options: seen.append(Path(path)) or path)
    trained(env_id="Counter-v0", total_timesteps=60, learning_starts=50, track=True, capture_video=True)
    assert [path.name for path in seen] == ["step-60-base-episode-0.mp4"] and seen[0].exists()


def test_films_of_two_policies_have_two_names():
    """W&B keeps the last value of a key at a step."""
    args, kept = quick(hpo, env_id="Counter-v0", capture_video=True, eval_episodes=1), []
    films = evaluation.Evaluation(args, range(1, 2), CPU)
    films.film(Path("run"))

    class Logs:
        def film(self, step, i, name, path):
            kept.append((name, path.exists()))

    still = {name: lambda obs: torch.zeros(*obs.shape[:2], 2) for name in ("leapfrog", "base")}
    films.play(still, 7, [], Logs())
    assert kept == [("leapfrog", True), ("base", True)]
