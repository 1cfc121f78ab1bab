"""--env-workers: processes that step environments change no number, and end with the run, however it ends."""

import contextlib
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import sac_continuous as sac
from analysis import records
from analysis.checks import costs, stepping
from analysis.checks.survival import differences, last_checkpoint
from runtime import workers
from runtime.environments import Episodes, make_env
from runtime.evaluation import evaluate
from runtime.messages import Refused, out_of
from runtime.pixels import PixelEnv
from runtime.run import launch
from runtime.trial import OwnGlobals, layers
from runtime.workers import Here, Lost, Workers, players, unasked

import gymnasium as gym
import numpy as np
import pytest
import test_attacks  # noqa: F401, registers Changing-v0
import torch
from conftest import CPU, Drift, newest, quick, resume, train

PARENT = os.getpid()


class Noisy(Drift):
    """Draws from the generators that Python, NumPy and PyTorch keep for everybody."""

    def step(self, action):
        obs, reward, *_ = super().step(action)
        noise = random.random() + np.random.random() + torch.rand(()).item()
        return obs + np.float32(noise), reward + noise, noise > 2.5, False, {}


class Odd(Exception):
    """One that pickle takes and does not give back."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")


class Named(Drift):
    """Observes its name and its step. An action in `errors` raises."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    errors = {5: ValueError("it broke"), 6: Odd(1, 2), 7: OSError(errno.ENOSPC, "No space left")}  # noqa: RUF012

    def __init__(self, name):
        self.name, self.count = name, 0

    def reset(self, seed=None, options=None):
        self.count = 0
        return np.array([self.name, 0.0]), {}

    def step(self, action):
        if error := self.errors.get(int(action[0])):
            raise error
        self.count += 1
        return np.array([self.name, self.count]), 0.0, False, False, {}


class Once(Drift):
    """Does something in its 37th step, once: where a file `armed` lies, whose text says what."""

    count = 0

    def step(self, action):
        self.count += 1
        if self.count == 37:
            with contextlib.suppress(FileNotFoundError):
                what = Path("armed").read_text(encoding="utf-8")
                os.unlink("armed")
                self.do(what)
        return super().step(action)

    def do(self, what):
        if what == "raise":
            raise ValueError("the simulator broke")
        if what == "hang":
            time.sleep(1000)
        if what == "die" and os.getpid() != PARENT:
            os.kill(os.getpid(), signal.SIGKILL)
        if what.isdigit():
            os.killpg(0, int(what))


class Stillborn(Drift):
    """Ends the process that resets it, but this one."""

    def reset(self, seed=None, options=None):
        if os.getpid() != PARENT:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(seed=seed)


gym.register("Noisy-v0", Noisy, max_episode_steps=20)
gym.register("Once-v0", Once, max_episode_steps=20)
gym.register("Stillborn-v0", Stillborn, max_episode_steps=20)


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert multiprocessing.active_children() == [] and not Workers.ends


def episodes(env_id, seeds, number):
    return Episodes([make_env(env_id) for _ in seeds], seeds, number)


def follow(left, right, steps, rng, bad=None):
    """Steps both side by side, to the bit; the seed number 3 is no longer alive after `bad` steps."""
    for t in range(steps):
        if t == bad:
            left.alive[3] = right.alive[3] = False
        actions = rng.uniform(-1, 1, (len(left.seeds), left.act_dim)).astype(np.float32)
        for a, b in zip([*left.step(actions), left.returns], [*right.step(actions), right.returns], strict=True):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
        assert np.array_equal(left.over, right.over)
        for i in np.flatnonzero(left.over):
            left.begin(i), right.begin(i)
        assert left.obs.tobytes() == right.obs.tobytes()


# ----------------------------------------------------------------------------------------------------- the same numbers
@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["Hopper-v4", "Noisy-v0", "Changing-v0"])
def test_processes_play_the_same_episodes(env_id):
    """Nine seeds in three processes and in this one: 100 steps, with resets, and a seed that ends at the 60th."""
    seeds = range(5, 14)
    left, right = episodes(env_id, seeds, 3), episodes(env_id, seeds, 0)
    try:
        assert len(left.players.processes) == 3 and isinstance(right.players, Here)
        assert any(isinstance(x, OwnGlobals) for x in layers(left.envs[0])) == (env_id == "Noisy-v0")
        follow(left, right, 100, np.random.default_rng(0), 60)
        assert min(left.numbers) > 0 and left.numbers == right.numbers
    finally:
        left.close(), right.close()


@pytest.mark.parametrize("numbers", [(2, 0), (0, 3)])
@pytest.mark.parametrize("env_id", ["Hopper-v4", "Noisy-v0"])
def test_a_state_goes_from_processes_to_none_and_back(env_id, numbers, capfd):
    left, right = (episodes(env_id, range(5), number) for number in numbers)
    try:
        rng = np.random.default_rng(1)
        for _ in range(60):
            left.step(rng.uniform(-1, 1, (5, left.act_dim)))
            for i in np.flatnonzero(left.over):
                left.begin(i)
        left.alive[1] = False
        right.load(left.state())
        assert left.obs.tobytes() == right.obs.tobytes() and not differences(left.state(), right.state())
        follow(left, right, 40, rng)
        assert "not deterministic" not in capfd.readouterr().err
    finally:
        left.close(), right.close()


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Noisy-v0"])
def test_processes_evaluate_the_same(env_id):
    """Episodes of different lengths, some cut, and a seed that is not alive; twice, as the environments go on."""
    seeds, longest = range(3, 6), 30
    rows = [[make_env(env_id) for _ in range(4)] for _ in seeds]
    stage = players([make_env(env_id) for row in rows for _ in row], 5)
    size = rows[0][0].action_space.shape[0]

    def policy(obs):
        return (obs[..., :1] * torch.linspace(1, 9, size) + torch.arange(4)[:, None] / 3).sin().float()

    try:
        for step, alive in ((10, None), (20, np.array([True, False, True]))):
            left, right = (evaluate(policy, x, seeds, step, CPU, (), longest, alive) for x in (rows, stage))
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(left, right))
            assert len(set(left[1].flat)) > 3 and np.isnan(left[0]).any() == (alive is not None)
    finally:
        stage.close()


# fmt: off
@pytest.mark.slow
def test_a_run_is_the_same_run():
    """Begun with and without processes, and gone on the other way: evaluations, weights, replay and episodes."""
    def run(number, **flags):
        before = set(Path().glob("runs/*"))
        more = {"env_id": "Noisy-v0", "num_seeds": 3, "env_workers": number, "normalize_observations": True}
        assert train(sac, quick(sac, eval_frequency=50, **more | flags)) == 0
        return newest(before)
    whole = last_checkpoint(run(0, total_timesteps=160))
    assert differences(whole, last_checkpoint(run(2, total_timesteps=160))) == []
    for first, second in ((2, 0), (0, 2)):
        folder = run(first, total_timesteps=90)
        assert resume(sac, folder, "--total-timesteps", "160", "--env-workers", str(second)) == 0
        assert differences(whole, last_checkpoint(folder)) == [] and whole["evaluations"].count("\n") == 25
# fmt: on


# -------------------------------------------------------------------------------------------- what goes wrong in a step
@pytest.mark.parametrize("number", [0, 2])
def test_errors_arrive_and_answers_keep_their_order(number):
    """Type, errno and message; what others answer next is the answer to that question."""
    stage = players([Named(i) for i in range(5)], number)
    try:
        assert np.array(stage.reset(range(5), range(5))).tolist() == [[i, 0] for i in range(5)]
        for code, kind, message in ((5, ValueError, "it broke"), (6, Odd, "1 and 2"), (7, OSError, "No space left")):
            with pytest.raises((kind, RuntimeError), match=message) as caught:
                stage.step(range(5), np.array([[0], [code], [0], [0], [0]]))
            error = caught.value
            assert type(error) is (RuntimeError if number and kind is Odd else kind)
            assert out_of(error) == ("No space left" if code == 7 else None)
            if number:
                assert "raise error\n" in error.__notes__[0] and "--env-workers" in error.__notes__[0]
            stage.reset([1, 3], [0, 0])
            seen = [obs.tolist() for obs, *_ in stage.step([0, 1, 3], np.zeros((3, 1)))]
            assert [name for name, _ in seen] == [0, 1, 3] and [count for _, count in seen[1:]] == [1, 1]
    finally:
        stage.close()


def run_of(number, **flags):
    """A function that trains in the current folder."""
    more = {"env_id": "Once-v0", "num_seeds": 4, "total_timesteps": 130, "eval_frequency": 50, "eval_episodes": 1}
    return lambda: train(sac, quick(sac, env_workers=number, **more | flags))


def folder_of(go, armed=None, expected=None):
    """The folder that a run makes, which does what `armed` says in its 37th step."""
    before = set(Path().glob("runs/*"))
    if armed:
        Path("armed").write_text(armed, encoding="utf-8")
    if isinstance(expected, type):
        with pytest.raises(expected, match="the simulator broke"):
            go()
    else:
        assert go() == (expected or 0)
    assert not Path("armed").exists()
    return newest(before)


@pytest.mark.slow
def test_a_run_whose_simulator_fails():
    """A checkpoint of its last step and a traceback, as without processes; it goes on either way to the same end."""
    whole = last_checkpoint(folder_of(run_of(0)))
    alone, beside = (folder_of(run_of(number), "raise", ValueError) for number in (0, 2))
    left, right = map(last_checkpoint, (alone, beside))
    assert left["step"] == 36 and left["episodes"]["pending"] is not None and differences(left, right) == []
    assert (beside / "agent.pt").exists()
    for folder, number in ((alone, "2"), (beside, "0")):
        assert resume(sac, folder, "--env-workers", number) == 0 and differences(whole, last_checkpoint(folder)) == []


@pytest.mark.slow
def test_a_process_that_is_killed(capfd):
    """One line, code 1, a checkpoint of the last step, and the same run after it; before the first step code 2."""
    whole = last_checkpoint(folder_of(run_of(0)))
    capfd.readouterr()
    folder = folder_of(run_of(2), "die", 1)
    what = "a process of --env-workers has gone (signal 9; signal 9 is often a lack of memory)"
    assert (
        capfd.readouterr().err.strip().splitlines()[-1]
        == f"script: {what} at step 36; the checkpoint of step 36 is whole"
    )
    assert last_checkpoint(folder)["step"] == 36
    assert resume(sac, folder) == 0 and differences(whole, last_checkpoint(folder)) == []
    before = set(Path().glob("runs/*"))
    with pytest.raises(Refused, match=r"has gone \(signal 9.*, before the first step"):
        run_of(2, env_id="Stillborn-v0")()
    assert set(Path().glob("runs/*")) == before


def test_a_question_to_a_process_that_has_gone():
    stage = Workers([Named(i) for i in range(4)], 2)
    try:
        stage.reset(range(4), range(4))
        os.kill(stage.processes[1].pid, signal.SIGKILL)
        stage.processes[1].join()
        for _ in range(2):
            with pytest.raises(Lost, match="signal 9"):
                stage.step(range(4), np.zeros((4, 1)))
        assert [obs.tolist() for obs, *_ in stage.step([0, 1], np.zeros((2, 1)))] == [[0, 3], [1, 3]]
    finally:
        stage.close()


# ---------------------------------------------------------------------------------------------------- how processes end
@contextlib.contextmanager
def beside(go):
    """The id of a process, and of its session, that runs a function and exits with its code."""
    if not (child := os.fork()):
        code = 99
        try:
            os.setsid()
            code = go()
        finally:
            os._exit(code)
    try:
        yield child
    finally:
        for pid in members(child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def members(session):
    """The processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of, *_ = path.read_text().rpartition(")")[2].split()
            found += [int(path.parent.name)] if int(of) == session and state not in "ZX" else []
    return found


def wait_until(condition, seconds=60):
    late = time.monotonic() + seconds
    while not condition() and time.monotonic() < late:
        time.sleep(0.02)
    assert condition()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes(number):
    """As SLURM's, `timeout`'s or a terminal's: the run ends after its step with a checkpoint, as without processes."""

    def go(processes):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's children ignore it
        return run_of(processes)()

    states = []
    for processes in (0, 2):
        Path("armed").write_text(str(int(number)), encoding="utf-8")
        before = set(Path().glob("runs/*"))
        with beside(lambda n=processes: go(n)) as child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number
            wait_until(lambda child=child: not members(child), 5)
        states.append(last_checkpoint(newest(before)))
    assert states[0]["step"] == 37 and differences(*states) == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["play", "hang"])
def test_processes_end_with_a_run_that_is_killed(what):
    """By SIGKILL, whether they play or hang in a step."""
    Path("armed").write_text(what, encoding="utf-8")
    with beside(run_of(2, total_timesteps=10**9, learning_starts=10**8)) as child:
        wait_until(lambda: not Path("armed").exists())
        assert len(members(child)) == 5  # with two that train and two that evaluate
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_until(lambda: not members(child), 5)


@pytest.mark.slow
def test_nothing_is_left(capfd):
    """After a normal end, a refused start, a folder that cannot be made and an error before the first step; nor any
    file handle."""

    def handles():
        return len(os.listdir("/proc/self/fd"))

    flags = "--env-id Once-v0 --num-seeds 4 --env-workers 2 --no-cuda --no-compile --eval-episodes 1".split()
    short = [*flags, *"--total-timesteps 30 --learning-starts 29 --batch-size 4 --eval-frequency 30".split()]
    assert launch(sac, short) == 0
    before, told = handles(), capfd.readouterr().err
    assert launch(sac, short) == 0 and multiprocessing.active_children() == [] and handles() == before
    assert launch(sac, [*flags, "--buffer-size", "9999999999", "--total-timesteps", "9999999999"]) == 2
    assert "--buffer-size" in capfd.readouterr().err
    assert multiprocessing.active_children() == [] and handles() == before, told
    Path("runs").rename("others")
    Path("runs").touch()
    assert launch(sac, short) == 2 and "cannot be written" in capfd.readouterr().err
    assert multiprocessing.active_children() == [] and handles() == before


@pytest.mark.parametrize("first", [1, 3, 6])  # of the training's three processes, its last, of the evaluation's
def test_a_machine_without_processes(first, monkeypatch, capfd):
    """One line, code 2, nothing written, and those that had started are gone."""
    original, forks = os.fork, []

    def fork():
        forks.append(1)
        if len(forks) >= first:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return original()

    monkeypatch.setattr(os, "fork", fork)
    flags = "--env-id Once-v0 --num-seeds 4 --env-workers 3 --no-cuda --no-compile --eval-episodes 1".split()
    assert launch(sac, flags) == 2 and not Path("runs").exists() and len(forks) == first
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "3 processes to step environments do not start ([Errno 11] Resource" in err
    assert "choose fewer --env-workers" in err


def test_the_order_of_closing_is_free():
    """Processes of the second do not hold the pipes of the first open."""
    first, second = (Workers([Named(i) for i in range(4)], 2) for _ in range(2))
    codes = []
    for stage in (first, second):
        processes = stage.processes
        stage.close(), stage.close()
        codes += [process.exitcode for process in processes]
    assert codes == [0] * 4  # none had to be killed


# ----------------------------------------------------------------------------------------------- what a process is like
class Inside(Named):
    """Observes what its process is like."""

    def reset(self, seed=None, options=None):
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        return np.array(
            [torch.get_num_threads(), child.wait(10), np.random.random(), torch.rand(()).item(), random.random()]
        ), {}

    def close(self):
        Path(f"closed-{self.name}-{os.getpid() == PARENT}").touch()


def test_a_process_of_its_own():
    """One thread, as more would wait for those that a fork lacks; programs that end when told; and generators that
    are not those of the others."""
    torch.set_num_threads(2)
    try:
        stage = Workers([Inside(i) for i in range(6)], 3)
        seen = np.array(stage.reset(range(6), range(6)))
        stage.close()
    finally:
        torch.set_num_threads(1)
    assert seen[:, 0].tolist() == [1] * 6 and seen[:, 1].tolist() == [-signal.SIGTERM] * 6
    assert all(len(set(column)) == 6 for column in seen[:, 2:].T)
    assert {path.name for path in Path().glob("closed-*")} == {
        f"closed-{i}-{x}" for i in range(6) for x in (True, False)
    }


def test_an_environment_that_fails_to_close(monkeypatch):
    """Its error is raised, and the processes have ended."""
    stage = Workers([Named(i) for i in range(4)], 2)
    monkeypatch.setattr(stage.envs[1], "close", lambda: 1 / 0)
    processes = stage.processes
    with pytest.raises(ZeroDivisionError):
        stage.close()
    assert [process.exitcode for process in processes] == [0, 0]


def test_frames_are_drawn_here_on_one_thread():
    class Hopper(Drift):
        __module__ = "gymnasium.envs.mujoco.hopper_v4"

    for mode, several in ((None, True), ("rgb_array", False)):
        envs = [Hopper() for _ in range(9)]
        envs[0].render_mode = mode  # as an evaluation's first films
        for stage in (players(envs, 0), players(envs, 1)):
            assert isinstance(stage, Here) and (stage.pool is not None) == several
        stage = players(envs, 4)
        assert isinstance(stage, Workers) == several
        stage.close()
    camera = object.__new__(PixelEnv)
    assert isinstance(players([camera] * 9, 4), Here)


def test_how_many_processes(monkeypatch):
    """None but on a GPU, with eight seeds and four cores; else half as many as seeds, two cores left, at most 12."""
    for cores, seeds, cuda, number in (
        (16, 60, False, 0), (16, 7, True, 0), (3, 60, True, 0), (4, 8, True, 2), (8, 8, True, 4), (16, 8, True, 4),
        (16, 20, True, 10), (64, 60, True, 12), (8, 60, True, 6),
    ):  # fmt: skip
        monkeypatch.setattr(workers, "cores", lambda cores=cores: cores)
        assert unasked(seeds, cuda) == number
    stage = players([Named(i) for i in range(3)], 8)  # no more than environments
    assert len(stage.processes) == 3
    stage.close()


def test_the_table_of_stepping_names_the_slower_side(tmp_path, capsys):
    """analysis/checks/stepping.py: a row a combination, as its file has it; the slower is the limit."""
    path = tmp_path / "stepping.csv"
    slow = stepping.Args(env_ids=("Drift-v0",), num_seeds=(1, 2), workers=(0, 2), update_ms=0, steps=10, output=path)
    assert stepping.main(slow) == 0
    rows = records.read_rows(path, stepping.COLUMNS)
    assert [(row["seeds"], row["workers"]) for row in rows] == [("1", "0"), ("2", "0"), ("2", "2")]
    assert all(float(row["own_ms"]) > 0 and 1e3 / float(row["steps_per_s"]) >= float(row["step_ms"]) for row in rows)
    capsys.readouterr()
    assert stepping.main(stepping.Args(show=path)) == 0
    text = capsys.readouterr().out
    assert text.count("| the environments |") == 3 and "an update of 0 ms" in text
    assert "the update" in stepping.show([row | {"update_ms": "10000"} for row in rows])
    with pytest.raises(Refused, match="--steps at 10"):
        stepping.main(stepping.Args(steps=3))
    with pytest.raises(Refused, match="--update-ms begins at 0"):
        stepping.main(stepping.Args(update_ms=float("nan")))
    for nothing in ({"env_ids": ()}, {"workers": ()}, {"num_seeds": (1,), "workers": (2,)}):  # no row to show
        with pytest.raises(Refused, match="--env-ids names one or more"):
            stepping.main(stepping.Args(**nothing))
    path.write_text(path.read_text().replace(rows[0]["step_ms"], "x"))
    with pytest.raises(Refused, match="is broken: could not convert"):
        stepping.main(stepping.Args(show=path))


def test_costs_are_ratios_of_turns(tmp_path, monkeypatch, capsys):
    """analysis/checks/costs.py: the median of turns of both sides, by whatever the machine drifts."""
    drift = iter([9.0, 9.0, *[1.0, 1.0, 3.0, 3.0, 0.5, 0.5] * 9])  # of calls: two that compile, then turns
    monkeypatch.setattr(costs, "ready", lambda cell: lambda count: 2.0 * cell["K"] * next(drift))
    base = costs.BASE | {"precision": "highest"}
    assert costs.measure(base | {"K": 3}, base) == (pytest.approx(1.5), pytest.approx(2.0))
    named = {(name, cell[name], *((cell["seeds"],) if name == "precision" else ())) for name, cell, _ in costs.cells()}
    assert {("K", 0), ("seeds", 32), ("batch", 4096), ("observation", 376), ("precision", "medium", 8)} <= named
    assert all({k for k in cell if cell[k] != against[k]} == {name} for name, cell, against in costs.cells())
    about = {"device": "d", "torch": "t", "date": "now"}
    rows = [{"changed": "K", **base, "K": 4, "cost": "1.300", "against_ms": "10.0"} | about]
    rows += [{"changed": "precision", **base, "precision": "medium", "cost": "0.500", "against_ms": "9.0"} | about]
    path = tmp_path / "costs.csv"
    path.write_text(records.csv_text([], costs.COLUMNS, rows))
    assert costs.main(costs.Args(show=path, figure=tmp_path / "costs.png")) == 0
    for figure, said in (("costs.png/a.png", "nothing can be written"), ("a.pdf", "ends in [.]png")):
        with pytest.raises(Refused, match=said):
            costs.main(costs.Args(show=path, figure=tmp_path / figure))
    (tmp_path / "broken.csv").write_text(path.read_text().replace("1.300", "x"))
    with pytest.raises(Refused, match="is broken: could not convert"):
        costs.main(costs.Args(show=tmp_path / "broken.csv"))
    text = capsys.readouterr().out
    assert "| K | 2 | 4 |" in text and "| cost | 1.00 | 1.30 |" in text and "1 is about 10.0 ms, d" in text
    assert "| medium's speed over highest's | 2.00 |" in text and (tmp_path / "costs.png").stat().st_size > 5000
