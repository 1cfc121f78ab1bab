"""Checkpoints and what ends a run: kills, signals, damage, a full disk, failing environments, numbers gone wrong."""

import csv
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import sac_continuous as sac
import sac_hpo_continuous as hpo
from analysis.checks import survival
from runtime import checkpoints, evaluation, run
from runtime.arguments import parse
from runtime.environments import Episodes, make_env
from runtime.run import launch

import filelock
import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import Drift, copied, forked, newest, quick, resume, run_in_a_fork, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SHORT = {"num_seeds": 2, "total_timesteps": 130, "eval_frequency": 50}
pytestmark = pytest.mark.usefixtures("narrow")


class Failing(Drift):
    """Drift that raises at a given step of a given episode, as often as `budget` allows, in any of its copies."""

    where, budget, error = ("step", 0), 0, ValueError

    def fails(self, what):
        if Failing.where[0] == what and Failing.budget > 0:
            Failing.where = (what, Failing.where[1] - 1)
            if Failing.where[1] < 0:
                Failing.budget -= 1
                raise Failing.error("the simulator broke")

    def reset(self, seed=None, options=None):
        self.fails("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self.fails("step")
        return super().step(action)


class Restless(Drift):
    """A simulator with randomness of its own that no seed reaches."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs + np.float32(np.frombuffer(os.urandom(4), np.uint32)[0] / 2**40), reward, *rest


class OwnRandom(Drift):
    """A simulator with a generator of its own, which a reset's seed starts and steps use."""

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.own = np.random.default_rng(seed)
        return super().reset(seed=seed)

    def step(self, action):
        obs, *rest = super().step(action)
        return obs + np.float32(self.own.normal()), *rest


gym.register("OwnRandom-v0", OwnRandom, max_episode_steps=20)
gym.register("Failing-v0", Failing, max_episode_steps=20)
gym.register("Restless-v0", Restless, max_episode_steps=20)


def start(**flags):
    args = quick(sac, **(SHORT | flags))
    before = set(Path().glob("runs/*"))
    return lambda: train(sac, args), before


def trained(**flags):
    """The folder of a finished run."""
    go, before = start(**flags)
    assert go() == 0
    return (set(Path().glob("runs/*")) - before).pop()


@pytest.fixture
def whole(finished):
    """The folder of the run that `start` begins, as nobody disturbed it: to compare with, or to copy."""
    return finished(sac, **SHORT)


def resumed(folder, *flags):
    return resume(sac, folder, *flags)


def next_second():
    """Before a resumed run whose scalars are read: TensorBoard orders a process's files by the second."""
    time.sleep(1 - time.time() % 1)


def scalars(folder):
    """All scalars of a run but its speed, as TensorBoard shows them."""
    found = {}
    for seed in sorted(folder.glob("seed-*")):
        events = EventAccumulator(str(seed))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag != "charts/SPS":
                found[seed.name, tag] = [(e.step, e.value) for e in events.Scalars(tag)]
    return found


def same(left, right):
    left, right = survival.last_checkpoint(left), survival.last_checkpoint(right)
    return survival.differences(left, right) == []


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(monkeypatch):
    """SIGKILL at five random moments; the same comparison sees another seed and a single bit."""
    monkeypatch.setattr(survival, "run", run_in_a_fork)
    flags = "--num-seeds 2 --batch-size 16 --learning-starts 60 --total-timesteps 300 --eval-frequency 100".split()
    flags += ["--eval-episodes", "1", "--no-compile", "--checkpoint-frequency", "37"]
    killed, differ, most = survival.kill("sac_continuous", "Hopper-v4", flags, 5, 1, Path.cwd())
    assert killed >= 2 and differ == [] and most == 0
    state = survival.last_checkpoint(next(Path("runs").iterdir()))
    other = {**state, "replay": state["replay"].clone()}
    other["replay"].view(torch.int32)[0, 77, 3] ^= 1
    assert survival.differences(state, other) == ["/replay"] and survival.differences(state, state) == []


@pytest.mark.slow
def test_a_longer_run_is_the_longer_run(monkeypatch):
    """Resumed with a larger --total-timesteps: weights, replay, tables and TensorBoard equal a run that long."""
    monkeypatch.setattr(run, "LOG_EVERY", 10)
    whole = trained(total_timesteps=150, autotune=True)
    part = trained(total_timesteps=80, autotune=True)
    assert not same(whole, part)
    part = part.rename("a run")  # with a space in its name
    next_second()
    assert resumed(part, "--total-timesteps", "150") == 0
    logged = {tag: [x for x in points if x[0] != 80] for tag, points in scalars(part).items()}  # but its first end
    assert same(whole, part) and logged == {tag: [x for x in p if x[0] != 80] for tag, p in scalars(whole).items()}
    assert json.loads((part / "config.json").read_text())["args"]["total_timesteps"] == 150
    assert len(scalars(part)["seed-1", "losses/qf_loss"]) == 11


@pytest.mark.slow
def test_a_ring_that_came_round():
    """A replay smaller than the run: dropped rows leave the disk, and resuming still is the same run."""
    whole = trained(total_timesteps=150, buffer_size=60, checkpoint_frequency=7)
    part = trained(total_timesteps=80, buffer_size=60, checkpoint_frequency=7)
    assert resumed(part, "--total-timesteps", "150") == 0 and same(whole, part)
    for folder in (whole, part):
        spans = [path.stem.split("-")[1:] for path in (folder / "checkpoints").glob("rows-*")]
        assert sum(int(stop) - int(begin) for begin, stop in spans) <= 60 + 3 * 7
        assert len(list((folder / "checkpoints").glob("step-*"))) == 2


def test_a_checkpoint_writes_only_what_is_new(monkeypatch):
    written, original = [], checkpoints.write_file

    def write_file(path, content, **flags):
        written.append((path.name, content))
        original(path, content, **flags)

    monkeypatch.setattr(checkpoints, "write_file", write_file)
    trained(checkpoint_frequency=20, learning_starts=120)
    rows = {name: x.shape[1] for name, x in written if name.startswith("rows")}
    assert rows == {f"rows-{n}-{min(n + 20, 130)}.pt": min(20, 130 - n) for n in range(0, 130, 20)}
    assert [name for name, _ in written if name.startswith("step")] == [
        f"step-{n}.pt" for n in (*range(0, 130, 20), 130)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint(number, whole, monkeypatch, capfd):
    """Amid training and amid an evaluation: exit code 128 + n, the command that resumes, and the same run after it."""
    handler, original, calls = signal.getsignal(signal.SIGINT), sac.Replay.add, []

    def add(*arguments):
        calls.append(1)
        if len(calls) == 71:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # as when a machine shuts down
        return original(*arguments)

    monkeypatch.setattr(sac.Replay, "add", add)
    go, before = start()
    assert go() == 128 + number
    monkeypatch.setattr(sac.Replay, "add", original)
    folder = (set(Path().glob("runs/*")) - before).pop()
    assert f"go on with: python {os.path.relpath(sac.__file__)} --resume {folder}\n" in capfd.readouterr().out
    assert survival.last_checkpoint(folder)["step"] == 71
    evaluate = evaluation.evaluate

    def interrupted(*arguments):
        assert arguments[-3] == []  # no signal so far
        monkeypatch.setattr(evaluation, "evaluate", evaluate)
        os.kill(os.getpid(), number)
        return evaluate(*arguments)

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    assert resumed(folder) == 128 + number  # in the evaluation of step 100
    state = survival.last_checkpoint(folder)
    assert (state["step"], state["evaluated"]) == (100, 50)
    assert resumed(folder) == 0 and same(whole, folder)
    assert "step 100, 0 steps/s, ? s left" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_a_signal_does_not_wait_for_an_evaluation(whole, monkeypatch):
    """It comes in the step that an evaluation follows: not a step of that is played, and resumed it is the same run."""
    original, steps = sac.Replay.add, []

    def add(replay, *arguments):
        original(replay, *arguments)
        if replay.added == 100:
            os.kill(os.getpid(), signal.SIGTERM)
            patch.setattr(Drift, "step", lambda *a: steps.append(1))

    with monkeypatch.context() as patch:
        patch.setattr(sac.Replay, "add", add)
        go, before = start()
        assert go() == 128 + signal.SIGTERM and steps == []
    folder = (set(Path().glob("runs/*")) - before).pop()
    state = survival.last_checkpoint(folder)
    assert (state["step"], state["evaluated"]) == (100, 50)
    assert resumed(folder) == 0 and same(whole, folder)


@pytest.mark.slow
def test_a_second_ctrl_c_exits_at_once():
    code = """import os, signal, sys, conftest, sac_continuous as s
def add(*a):
    os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGINT); print("still here", flush=True)
s.Replay.add = add
sys.exit(conftest.train(s, conftest.quick(s)))"""
    Path("twice.py").write_text(code, encoding="utf-8")
    done, out, _ = forked("twice.py")
    assert done == 128 + signal.SIGINT and b"sac_continuous on" in out and b"still here" not in out


# ------------------------------------------------------------------------------------------- damage
@pytest.mark.slow
def test_every_truncation_and_flipped_bit_is_recognised(whole):
    folder, rng = copied(whole), random.Random(0)
    files = sorted((folder / "checkpoints").iterdir())
    for _ in range(100):
        path = rng.choice(files)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        for content in (bytes(bad), good[: rng.randrange(len(good))]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{path.name} is damaged or missing"):
                checkpoints.read_file(path)
        path.write_bytes(good)
        checkpoints.read_file(path)


@pytest.mark.slow
def test_the_checkpoint_before_is_used(whole, capfd):
    """Whether the newest checkpoint or the rows that it wrote are damaged; older rows that both need are refused."""
    folder = copied(whole)
    for name in ("step-130.pt", "rows-100-130.pt"):
        path = folder / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-1])
        assert resumed(folder) == 0 and same(whole, folder)
        assert f"{name} is damaged or missing: step-130.pt cannot be used" in capfd.readouterr().err
    (folder / "checkpoints" / "rows-0-50.pt").unlink()
    table = (folder / "evaluations.csv").read_text()
    assert launch(sac, ["--resume", str(folder)]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert "rows-0-50.pt is damaged or missing: step-100.pt cannot be used" in errors[1]
    assert errors[2] == f"script: --resume {folder}: no checkpoint there is whole; start the run again"
    assert (folder / "evaluations.csv").read_text() == table


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(whole, capfd):
    """Such a run has lost nothing and begins again; one that has evaluations but no checkpoint is left alone."""
    old = copied(whole).rename("old")
    part = copied(whole)
    for folder in (part, old):
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
    table = part / "evaluations.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    assert resumed(part) == 0 and same(whole, part)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert launch(sac, ["--resume", str(old)]) == 2
    assert f"--resume {old}: no checkpoint there is whole" in capfd.readouterr().err
    assert before == {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}


def test_a_stranger_file_runs_no_code(tmp_path):
    """A checkpoint with a right checksum that would call a function is refused by torch.load itself."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    checkpoints.write_file(tmp_path / "step-0.pt", {"x": Evil()})
    with pytest.raises(Exception, match="Weights only"):
        checkpoints.read_file(tmp_path / "step-0.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_full_disk(whole):
    """A limit on the size of files stands in for it: one line, code 1, the last checkpoint whole, and the same run."""
    size = min((whole / name).stat().st_size for name in ("checkpoints/step-130.pt", "agent.pt")) * 3 // 4
    code = f"""import resource, sys, conftest, sac_continuous as s
add, limits = s.Replay.add, iter([None] * 45 + [({size}, {size})])
def limited(*a):
    if limit := next(limits, None):
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    add(*a)
s.Replay.add = limited
sys.exit(conftest.launch(s))"""
    Path("full.py").write_text(code, encoding="utf-8")
    flags = "--env-id Drift-v0 --total-timesteps 130 --learning-starts 40 --batch-size 16 --eval-frequency 50"
    flags += " --eval-episodes 2 --num-seeds 2 --no-cuda --no-compile --no-autotune"
    code, _, err = forked("full.py", *flags.split())
    assert code == 1, err
    line = "full: File too large at step 50; the checkpoint of step 0 is whole"
    assert [x for x in err.decode().splitlines() if x] == [line]
    folder = newest()
    assert not list(folder.glob("checkpoints/*.part"))
    assert resumed(folder) == 0 and same(whole, folder)


# ------------------------------------------------------------------------------------------- refusals
@pytest.mark.slow
def test_one_process_for_a_folder(whole, capfd):
    folder = copied(whole)
    with filelock.FileLock(folder / "lock"):
        assert launch(sac, ["--resume", str(folder)]) == 2
    assert f"{folder} is in use by another process" in capfd.readouterr().err
    assert resumed(folder) == 0


@pytest.mark.slow
def test_what_changes_nothing_learned_may_change_on_resume(whole, capfd):
    """More episodes in an evaluation, other checkpoints, agents kept: told, kept for the next time, and the agent is
    the same to the bit."""
    folder = copied(whole)
    whole = trained(total_timesteps=200)
    flags = ["--total-timesteps", "200", "--eval-episodes", "5", "--checkpoint-frequency", "10", "--keep-agents"]
    capfd.readouterr()
    assert launch(sac, ["--resume", str(folder), *flags]) == 0
    said = capfd.readouterr().err
    assert "the run goes on with --eval-episodes 5, not 2 as before\n" in said and "--keep-agents, not False" in said
    left, right = (torch.load(x / "agent.pt", weights_only=True)["agent"] for x in (folder, whole))
    assert all(torch.equal(left[key], right[key]) for key in right)
    rows = list(csv.DictReader((folder / "evaluations.csv").open()))
    counts = [sum(row["step"] == step and row["seed"] == "1" for row in rows) for step in ("100", "150")]
    assert counts == [2, 5] and (folder / "agents" / "step-150.pt").exists()
    args = json.loads((folder / "config.json").read_text())["args"]
    assert (args["eval_episodes"], args["checkpoint_frequency"], args["keep_agents"]) == (5, 10, True)


def test_a_run_that_starts_from_anothers_agent(capfd):
    """Each seed begins with the same seed's weights, or the only one's; other networks and seeds are refused."""
    folder = trained(num_seeds=3, total_timesteps=60)
    theirs = torch.load(folder / "agent.pt", weights_only=True)["agent"]
    short = ["--total-timesteps", "30", "--env-id", "Drift-v0", "--eval-frequency", "30", "--eval-episodes", "1"]
    short += ["--learning-starts", "29", "--random-steps", "0", "--no-cuda", "--tau", "1e-9", "--q-lr", "1e-12"]
    short += ["--policy-lr", "1e-12", "--batch-size", "8"]
    before = {*Path("runs").iterdir()}
    assert launch(sac, ["--start-from", str(folder), "--seed", "2", "--num-seeds", "2", *short]) == 0
    mine = newest(before)
    assert json.loads((mine / "config.json").read_text())["args"]["start_from"] == str(folder)
    ours = torch.load(mine / "agent.pt", weights_only=True)["agent"]
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key].unflatten(0, (3, -1))[1:].flatten(0, 1), rtol=0, atol=1e-7), key
    assert resume(sac, mine, "--total-timesteps", "40") == 0  # goes on from its own checkpoint
    before = {*Path("runs").iterdir()}
    for flags, message in (
        (["--seed", "3", "--num-seeds", "2"], "has seeds 1 to 3, not 4: choose"),
        (["--policy-layers", "1"], r"policy.fc2.bias is \(1, 32\) there and none here"),
        (["--env-id", "Counter-v0"], "critic.fc1.weight is"),
    ):
        assert launch(sac, ["--start-from", str(folder), *short, *flags]) == 2
        assert re.search(message, capfd.readouterr().err) and {*Path("runs").iterdir()} == before
    assert launch(sac, ["--start-from", "nowhere", *short]) == 2
    assert "name a run's folder" in capfd.readouterr().err


def test_flags_that_contradict_the_run(whole, capfd):
    folder = copied(whole)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for flags, message in (
        (["--gamma", "0.9"], "--gamma 0.9 contradicts the run to resume, which has 0.99: leave it out"),
        (["--total-timesteps", "90"], "--total-timesteps 90 contradicts the run to resume, which has 130"),
        (["--env-id", "Hopper-v4"], "--env-id Hopper-v4 contradicts the run to resume, which has Drift-v0"),
    ):
        assert launch(sac, ["--resume", str(folder), *flags]) == 2 and message in capfd.readouterr().err
    for script, other, message in (
        (hpo, folder, "is a run of sac_continuous.py: resume it with that script"),
        (sac, "nowhere", "--resume nowhere: no run that this script can read"),
    ):
        assert launch(script, ["--resume", str(other)]) == 2
        error = capfd.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert parse(sac, ["--resume", str(folder), "--gamma", "0.99"])[0].gamma == 0.99


def test_the_last_evaluation_is_on_disk(monkeypatch):
    """No checkpoint follows it, which would put it there: the last sync of evaluations.csv has all of it."""
    synced, original = {}, os.fsync

    def fsync(number):
        path = Path(f"/proc/self/fd/{number}").resolve()
        synced[path.name] = path.read_bytes()
        original(number)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = trained(total_timesteps=110, eval_frequency=40, learning_starts=100)
    rows = (folder / "evaluations.csv").read_bytes()
    assert rows.count(b"\n110,") == 4 and synced["evaluations.csv"] == rows


# ------------------------------------------------------------------------------- numbers and simulators
@pytest.mark.slow
def test_numbers_that_go_wrong(monkeypatch, capfd):
    """NaN in the only seed's critic: the run stops by the next log with its name, finite checkpoints and code 1."""
    monkeypatch.setattr(run, "LOG_EVERY", 10)
    flags = {"checkpoint_frequency": 25, "eval_frequency": 40, "total_timesteps": 100, "num_seeds": 1}
    whole = trained(**flags)
    original = sac.Agent.update

    def update(agent, batch, noise):
        seen = original(agent, batch, noise)
        update.count += 1
        if update.count == 23:  # the update of step 63
            agent.critic.fc2.weight.data[0, 0] = torch.nan  # its first critic
        return seen

    update.count = 0
    monkeypatch.setattr(sac.Agent, "update", update)
    go, before = start(**flags)
    assert go() == 1
    folder = (set(Path().glob("runs/*")) - before).pop()
    error = capfd.readouterr().err
    line = r"[\w. ]+ of seed 1 is not finite at step (6[3-9]|70); the checkpoint of step 50 is whole"
    assert re.search(line, error), error
    state = survival.last_checkpoint(folder)
    assert state["step"] == 50 and all(x.isfinite().all() for x in state["agent"])
    rows = [list(csv.DictReader((f / "evaluations.csv").open())) for f in (whole, folder)]
    assert [r for r in rows[0] if int(r["step"]) <= 70] == [r for r in rows[1] if r["return"] != "nan"]
    assert [r["step"] for r in rows[1] if r["return"] == "nan"] == ["80"] * 2
    monkeypatch.setattr(sac.Agent, "update", original)
    assert resumed(folder) == 0 and same(whole, folder)


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_simulators_that_send_nonsense(what, monkeypatch, capfd):
    original = Drift.step

    def step(env, action):
        obs, reward, *rest = original(env, action)
        step.count += 1
        if step.count == 63:
            obs, reward = (obs * np.inf, reward) if what == "observation" else (obs, np.inf)
        return obs, reward, *rest

    step.count = 0
    monkeypatch.setattr(Drift, "step", step)
    go, _ = start(checkpoint_frequency=25, eval_frequency=100, num_seeds=1)
    assert go() == 1
    error = capfd.readouterr().err
    assert f"script: {what} of seed 1 is not finite at step 63; the checkpoint of step 50 is whole\n" in error


def test_a_reset_that_sends_nonsense(capfd, monkeypatch):
    """Its observation is refused before anything is stored or played, in warm-up and later."""
    original, add, played = Episodes.begin, sac.Replay.add, []

    def begin(episodes, i, *number):
        original(episodes, i, *number)
        episodes.obs[i] = np.nan

    monkeypatch.setattr(Episodes, "begin", begin)
    monkeypatch.setattr(sac.Replay, "add", lambda replay, *rows: played.append(rows) or add(replay, *rows))
    for learning_starts in (40, 15):
        go, _ = start(learning_starts=learning_starts, num_seeds=1)
        assert go() == 1 and np.isfinite(np.concatenate([np.ravel(x) for x in sum(played, ())])).all()
        line = "script: observation of seed 1 is not finite at step 20; the checkpoint of step 0 is whole"
        assert line in capfd.readouterr().err
    assert len(played) == 40


@pytest.mark.slow
@pytest.mark.parametrize(("where", "error"), [
    (("step", 30 * 2 + 1), ValueError), (("step", 143), ValueError), (("step", 143), TimeoutError),
    (("reset", 12), ValueError), (("evaluation", 0), ValueError),
])  # fmt: skip
def test_failures_leave_a_checkpoint_and_a_traceback(where, error, finished, monkeypatch):
    """An environment that raises in a step, in a reset, or in an evaluation: the resumed run is the same run, and no
    episode's return is missing in TensorBoard."""
    Failing.budget, Failing.error = 0, error
    whole = finished(sac, **SHORT, env_id="Failing-v0")
    go, before = start(env_id="Failing-v0")
    original = evaluation.evaluate
    if where[0] == "evaluation":

        def evaluate(*arguments):
            raise error("the simulator broke")

        monkeypatch.setattr(evaluation, "evaluate", evaluate)
    else:
        Failing.where, Failing.budget = where, 1
    with pytest.raises(error, match="the simulator broke"):
        go()
    folder = (set(Path().glob("runs/*")) - before).pop()
    monkeypatch.setattr(evaluation, "evaluate", original)
    state = survival.last_checkpoint(folder)
    assert state["step"] == 30 if where == ("step", 61) else state["step"] > 0  # amid warm-up
    assert (folder / "agent.pt").exists()
    next_second()
    assert Failing.budget == 0 and resumed(folder) == 0 and same(whole, folder)
    assert scalars(whole) == scalars(folder)


@pytest.mark.slow
def test_simulators_that_are_not_deterministic(capfd):
    """The run says so and goes on from a new episode."""
    folder = trained(env_id="Restless-v0")
    assert resumed(folder, "--total-timesteps", "150") == 0
    assert capfd.readouterr().err.count("the simulator is not deterministic; environment") == 2
    state = survival.last_checkpoint(folder)
    assert state["step"] == 150  # 130 and the 20 of an episode, so that the next one is about to begin
    assert [len(actions) for actions in state["episodes"]["actions"]] == [0, 0]


@pytest.mark.parametrize("env_id", ["Hopper-v4", "HalfCheetah-v5", "Humanoid-v4", "Pendulum-v1", "OwnRandom-v0"])
def test_episodes_come_back_to_the_bit(env_id):
    """Real simulators, and one with a generator of its own, interrupted within their first and a later episode, then
    followed for 30 steps."""
    rng = np.random.default_rng(1)
    for length in (7, 60):
        left, right = (Episodes([make_env(env_id)], range(3, 4)) for _ in range(2))
        for _ in range(length):
            left.step(rng.uniform(-1, 1, (1, *left.envs[0].action_space.shape)).astype(np.float32))
            if left.over[0] or rng.random() < 0.05:
                left.begin(0)
        right.load(left.state())
        for _ in range(30):
            actions = rng.uniform(-1, 1, (1, *left.envs[0].action_space.shape)).astype(np.float32)
            assert all(np.array_equal(a, b) for a, b in zip(left.step(actions), right.step(actions)))
            if left.over[0]:
                left.begin(0), right.begin(0)


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Drift-v0"])
def test_many_environments_step_on_threads(env_id):
    """Nine MuJoCo environments on threads equal each one alone, in their order; others stay on one thread."""
    seeds = range(5, 14)
    together = Episodes([make_env(env_id) for _ in seeds], seeds)
    assert (together.players.pool is not None) == (env_id == "Hopper-v4")
    alone = [Episodes([make_env(env_id)], range(seed, seed + 1)) for seed in seeds]
    assert all(one.players.pool is None for one in alone)
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.uniform(-1, 1, (9, *together.envs[0].action_space.shape)).astype(np.float32)
        results = together.step(actions)
        for i, one in enumerate(alone):
            assert all(np.array_equal(x[i], y[0]) for x, y in zip(results, one.step(actions[i : i + 1])))
            assert together.over[i] == one.over[0]
            if one.over[0]:
                together.begin(i), one.begin(0)
