"""The benchmark's runner: what is done, what is left, kills of the runner and of cells, failures, Ray."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis import ROOT
from analysis.benchmark import cells, matrix
from analysis.benchmark.cells import Attempt, Outcome, Place, chosen, is_done, read
from runtime.messages import Refused

import pytest
from conftest import fork, launch

SMALL = "--batch-size 16 --learning-starts 100 --eval-frequency {} --eval-episodes 1 --no-cuda"
SHORT = "--max-episode-steps 40"  # of Pendulum's 200, where cells run: most of their time went into evaluations


def test_the_list_that_the_page_shows(capsys):
    """Two arms and SAC on two tasks are six cells, and the list is read as it stands in the page."""
    page = (ROOT / "docs/use.md").read_text(encoding="utf-8").split("## Many arms of your own")[1]
    Path("mylist").write_text(page.split("```")[1], encoding="utf-8")
    assert matrix.main(["--lines", "mylist", "--base", "mine", "--list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^mine +6 +0 +0 ", out, re.M) and not Path("mine").exists()
    (line, other) = cells.read(Path("mylist"), "laptop")
    assert [cell.seeds * cell.steps for cell in line.cells] == [40_000] * 4 and len(other.cells) == 2


def make_list(steps=300, every=100, more="", own=""):
    """A list of three cells in two items; the second item has a cell of the first."""
    flags = f"{SMALL.format(every)} {own}"
    Path("list").write_text(
        f"# a comment\n\none | sac_continuous | Pendulum-v1 | {flags} | 2 x {steps} | 2 x {steps}\n"
        f"two | sac_continuous sac_hpo_continuous | Pendulum-v1 | {flags} | 2 x {steps} | 2 x {steps}\n{more}"
    )
    return Path("list")


PROGRAM = ROOT / "analysis/benchmark/matrix.py"


@pytest.fixture(autouse=True)
def laptop(monkeypatch):
    for name in ("SCALE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


class Runner:
    """The runner in a fork of this process, on ./list and in this folder, used as a subprocess.Popen is."""

    def __init__(self, *words):
        self.said, self.returncode = [tempfile.TemporaryFile() for _ in range(2)], None  # noqa: SIM115
        self.pid = fork(*self.said, PROGRAM, *words, "--lines", "list", "--base", ".")

    def poll(self, how=os.WNOHANG):
        if self.returncode is None and (ended := os.waitpid(self.pid, how))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self):
        self.poll(0)
        for file in self.said:
            file.seek(0)
        return [file.read().decode() for file in self.said]


def finish(*words):
    runner = Runner(*words)
    out, err = runner.communicate()
    return runner.returncode, out, err


def written(pattern="results/benchmark/laptop/*.csv"):
    """Rows of the results files, without the lines that name commit and machine."""
    return {p.name: [x for x in p.read_text().splitlines() if x[:1] != "#"] for p in Path().glob(pattern)}


def runs():
    return list(Path().glob("runs/benchmark/laptop/*/runs/*"))


# ------------------------------------------------------------------------------------------------------------ the list
def test_a_cell_is_named_once_and_by_what_is_unlike_its_script():
    lines = read(make_list(), "laptop")
    assert [line.items for line in lines] == [("one",), ("two",)]
    all_cells, two = chosen(lines, []), chosen(lines, ["two"])
    assert [c.name for c in all_cells] == [
        "Pendulum-v1__sac_continuous__learning-starts-100__batch-size-16",
        "Pendulum-v1__sac_hpo_continuous__learning-starts-100__batch-size-16",
    ]
    assert two == all_cells and chosen(lines, ["one"]) == all_cells[:1]
    command = all_cells[0].command()
    assert command[:7] == [str(ROOT / "sac_continuous.py"), *"--env-id Pendulum-v1 --seed 1 --num-seeds 2".split()]
    assert "--total-timesteps 300" in " ".join(command) and "--learning-starts 100" in " ".join(command)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("three | sac_continuos | Pendulum-v1 | | 1 x 9 | 1 x 9", "no script sac_continuos.py here or in abl"),
        ("three | sac_continuous | Pendulum-v1 | --gama 1 | 1 x 9 | 1 x 9", "sac_continuous on Pendulum-v1 --gama 1: "),
        ("three | sac_continuous | Pendulum-v1 | --gamma 2 | 1 x 9 | 1 x 9", "--gamma is 2.0: choose"),
        ("three | sac_continuous | Pendulum-v1 | 1 x 300", "a line of the list has six fields between bars: three"),
        ("three | sac_continuous | Pendulum-v1 | | 1 x 9 | many", "three: seeds x steps, such as 8 x 100,000"),
        ("three | sac_continuous | Pendulum-v1 | | 0 x 300 | 0 x 300", "three: seeds x steps, such as 8 x 100,000"),
        ("three | sac_continuous | Pendulum-v1 | | 1 x 0 | 1 x 0", "three: seeds x steps, such as 8 x 100,000"),
        ('three | sac_continuous | Pendulum-v1 | --exp-name "x | 1 x 9 | 1 x 9', "No closing quotation"),
        ("three | sac_continuous | Pendulum-v1 | --help | 1 x 9 | 1 x 9", "--help is not for the list's flags"),
        ("three | sac_continuous | Pendulum-v1 | --env-id Ant-v4 | 1 x 9 | 1 x 9", "--env-id is not for the list's"),
        ("three | | Pendulum-v1 | | 1 x 9 | 1 x 9", "a line of the list has six fields between bars"),
        (f"three | sac_continuous | Pendulum-v1 | {'x' * 200_000}", "a line of the list has six fields between bars"),
        (f"three | sac_continuous | Pendulum-v1 | {SMALL.format(100)} | 1 x 300 | 1 x 300",
         "stands there twice, with other seeds, steps or flags"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_in_one_line(more, complaint):
    with pytest.raises(Refused, match=re.escape(complaint)) as refusal:
        read(make_list(more=more), "laptop")
    assert "\n" not in str(refusal.value)


def test_comments_are_no_cells_and_an_empty_list_is_refused():
    lines = read(
        make_list(more="# figure5 | sac_hpo_continuous | Ant-v4 | | 1 x 9 | 1 x 9\n  #x | y | z | | 1 | 1"), "laptop"
    )
    assert len(lines) == 2
    for text in ("", "# nothing\n", "x <<'ITEMS'\nITEMS\n"):
        Path("list").write_text(text)
        with pytest.raises(Refused, match="list names no cell"):
            read(Path("list"), "laptop")


@pytest.mark.slow
def test_a_wrong_command_line_is_refused_in_one_line_and_nothing_is_written(monkeypatch):
    """By the script itself: exit code 2, no page, no folder."""
    for words, scale, complaint in [
        (["figure3", "tabel5"], "laptop", "no item tabel5: choose among figure3, ablations, figure4, table5, "),
        ([], "huge", "no scale 'huge': SCALE is one of laptop, paper, smoke"),
        (["--jobs", "0"], "laptop", "--jobs is 0: choose 1 or more"),
        (["--frob"], "laptop", "unrecognized arguments: --frob; see --help"),
        (["--lines", "nowhere"], "laptop", "no list nowhere"),
        (["--jobs", "many"], "laptop", "argument --jobs: invalid int value"),
    ]:
        monkeypatch.setenv("SCALE", scale)
        with pytest.raises(Refused, match=re.escape(complaint)):
            matrix.main([*words, "--base", "."])
    page = (ROOT / "docs/results.md").stat().st_mtime_ns
    command = ["bash", str(ROOT / "benchmark.sh"), "tabel5", "--base", str(Path.cwd())]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"SCALE": "laptop", "PYTHON": sys.executable}
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not list(Path().iterdir()) and (ROOT / "docs/results.md").stat().st_mtime_ns == page


@pytest.mark.slow
def test_ray_is_imported_when_it_is_asked_for_and_not_before(monkeypatch):
    code = "import sys; from analysis.benchmark import matrix, cells; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "ray", None)
    make_list()
    with pytest.raises(Refused, match=r"pip install -r requirements-ray\.txt"):
        matrix.main(["--ray", "--lines", "list", "--base", "."])


# ------------------------------------------------------------------------------------------------------ what is done
def test_done_is_a_whole_results_file():
    place, (its, _) = Place(Path.cwd(), "laptop"), chosen(read(make_list(), "laptop"), [])
    rows = [f"{step},{seed},{e},1.5,200" for step in (100, 200, 300) for seed in (1, 2) for e in (0, 1)]
    head = f"# python sac_continuous.py {' '.join(its.command()[1:])}\n{cells.VALUES}"
    head += json.dumps(cells.own_values(its)) + "\nstep,seed,episode,return,length\n"

    def holds(text):
        cells.write_whole(place.results(its), text)
        return is_done(its, place)

    assert not is_done(its, place)
    text = head + "\n".join(rows) + "\n"
    assert holds(text)
    assert not holds(head) and not holds("") and not holds(text[: len(text) // 2])
    assert not any(holds(head + "\n".join(rows[:i] + rows[i + 1 :]) + "\n") for i in range(len(rows)))
    assert not holds(head + "\n".join(rows[:-4]) + "\n")  # a run of 200 steps
    assert not holds(head + "\n".join(row for row in rows if ",2," not in row) + "\n")  # of one seed
    assert not holds(text[: -len(",200\n")] + ",\n") and not holds(text.replace("1.5", "-inf"))
    assert not holds(text + rows[0] + "\n") and not holds(text.replace("300,1,0,1.5", "300,1,0,nan"))
    assert not holds(text.replace("300,1,0,1.5", "300,1,0," + "1" * 200_000))
    lost = text.replace("300,1,0,1.5", "300,1,0,nan").replace("300,1,1,1.5", "300,1,1,nan")
    assert holds(lost)  # a seed that diverged is an outcome
    assert not holds(
        text.replace("200,1,0,1.5", "200,1,0,nan").replace("200,1,1,1.5", "200,1,1,nan")
    )  # and is so at the end
    assert not list(place.results(its).parent.glob("*.part"))


def test_results_of_other_values_are_stale():
    """Whatever changes learning counts, said or not; how often it was evaluated, or how finely computed, does not."""
    place, (its, _) = Place(Path.cwd(), "laptop"), chosen(read(make_list(), "laptop"), [])
    rows = "".join(f"{step},{seed},0,1.5,200\n" for step in (100, 200, 300) for seed in (1, 2))
    own = " ".join(its.command()[1:])

    def said(*comments):
        text = "".join(f"{line}\n" for line in comments) + "step,seed,episode,return,length\n" + rows
        cells.write_whole(place.results(its), text)
        assert is_done(its, place) == (not cells.stale(its, place.results(its)))
        assert is_done(its, Place(place.base, place.scale, keep_stale=True))
        return cells.stale(its, place.results(its))

    def ran(flags):
        values = cells.learned(vars(cells.parse(cells.module_of(its.script), flags.split())[0]))
        return said(f"# python sac_continuous.py {flags}", cells.VALUES + json.dumps({"form": 2} | values))

    assert ran(own) == ran(f"{own} --eval-max-steps 7 --matmul-precision medium --products onednn") == ""
    assert said(f"# python sac_continuous.py {own}") == "form 1 where the cell has 2"  # values came before form 2
    assert ran(f"{own} --gamma 0.5") == "gamma 0.5 where the cell has 0.99"
    assert ran(own.replace("16", "999")) == "batch_size 999 where the cell has 16"
    assert "no-such-flag" in said(f"# python sac_continuous.py {own} --no-such-flag 1")
    assert said(f"# python analysis/readings.py train still {own}") == "analysis/readings.py train still made it"
    values = {
        "form": 2,
        "gamma": 0.99,
        "batch_size": 16,
        "learning_starts": 100,
        "tau": 0.5,
    }  # what was tau's default then
    assert (
        said(f"# python sac_continuous.py {own}", cells.VALUES + json.dumps(values))
        == "tau 0.5 where the cell has 0.005"
    )
    del values["tau"], values["form"]  # as files were before
    told = said(f"# python sac_continuous.py {own}", cells.VALUES + json.dumps(values))
    assert told == "form 1 where the cell has 2"
    assert "stale: " + its.name in matrix.listing(read(Path("list"), "laptop"), place, 1)


def test_runs_of_other_values_are_not_the_cells():
    place, (its, _) = Place(Path.cwd(), "laptop"), chosen(read(make_list(), "laptop"), [])
    run = place.folder(its) / "runs" / "x__1__7"
    run.mkdir(parents=True)
    args = vars(cells.parse(cells.module_of(its.script), its.command()[1:])[0])
    config = {
        "script": its.script,
        "form": 2,
        "args": args,
        "source": dict.fromkeys(args, "default"),
        "commit": "c",
        "device": "cpu",
    }

    def found(**values):
        (run / "config.json").write_text(json.dumps(config | {"args": args | values}))
        return cells.newest_run(its, place)

    assert found() == run
    for values in ({"gamma": 0.5}, {"batch_size": 999}, {"env_id": "Ant-v4"}, {"seed": 2}, {"num_seeds": 3}):
        assert found(**values) is None, values
    config["form"] = 1
    assert found() is None
    for text in ("[]", "null", "{", '{"args": []}', "x" * 200_000):
        (run / "config.json").write_text(text)
        assert cells.newest_run(its, place) is None and cells.collected(run) is None


def test_time_left_is_that_of_cells_that_ran_here():
    """SAC's cell went at 50 steps/s; SAC-HPO's, two steps of K, takes 1.42 times as long; each has a lane."""
    place, (sac, hpo) = Place(Path.cwd(), "laptop"), chosen(read(make_list(30_000, 10_000), "laptop"), [])
    assert (sac.cost, hpo.cost) == (1, 1.42)
    for its, text in (
        (sac, "step 10000, 70 steps/s, 9 s left\nstep 15000, 50 steps/s, 300 s left, last evaluation -9\n"),
        (hpo, ""),
    ):
        place.folder(its).mkdir(parents=True)
        (place.folder(its) / "log.txt").write_text(text)
    assert cells.progress(sac, place) == (15000, 50) and cells.progress(hpo, place) == (0, None)
    seen = matrix.rates([sac, hpo], place)
    assert seen == {"sac_continuous": [0.01]}
    assert matrix.seconds(sac, seen, 1e9) == pytest.approx(600) and matrix.seconds(hpo, seen, 1e9) == pytest.approx(852)
    display = matrix.Display([sac, hpo], [sac, hpo], place, lanes=2)
    left, share, shares = display.left([sac])
    assert (left, share, shares) == (pytest.approx((300 + 852) / 2), pytest.approx(300 / 1452), [0.5])
    (place.folder(hpo) / "log.txt").write_text("done at step 30000, 25.0 steps/s: runs/x\n")
    assert matrix.seconds(hpo, matrix.rates([sac, hpo], place), 1e9) == pytest.approx(1200)  # its own script's
    text = matrix.listing(read(Path("list"), "laptop"), place, 2)
    assert "two" not in matrix.listing(read(Path("list"), "laptop"), place, 2, ["one"])
    assert "as 2 cells went here" in text and re.search(r"one +1 +0 +0 +about 5 min", text)
    assert (
        matrix.hours(59 * 60 + 31) == "1 h 00 min"
        and matrix.hours(29) == "no time"
        and matrix.hours(7500) == "2 h 05 min"
    )


WIDE = """
import gymnasium, numpy
class Wide(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1, 1, (1,), numpy.float32)
    def __init__(self, size=1):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,), numpy.float32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return numpy.zeros(self.observation_space.shape, numpy.float32), {}
    def step(self, action):
        return numpy.zeros(self.observation_space.shape, numpy.float32), 0.0, False, False, {}
gymnasium.register("Wide-v0", Wide, max_episode_steps=7)
"""


def test_cells_share_memory_and_lanes(monkeypatch):
    """Hopper's replay takes 4 (2 · 11 + 3 + 2) bytes a row, pixels 24 kB. A cell waits for room, unless it is alone."""
    lines = read(ROOT / "benchmark.sh", "laptop")
    sizes = {c.name: matrix.memory(c) for c in chosen(lines, ["figure7", "figure5"])}
    assert sizes["Hopper-v4__sac_hpo_continuous"] == 0.5e9 + 1.1 * 8 * 100_000 * 108
    assert sizes["dm_control_finger-spin-v0__sac_hpo_pixels"] == 0.5e9 + 1.1 * 4 * 25_000 * 24_000
    Path("wide.py").write_text(WIDE)
    Path("list").write_text("one | sac_continuous | wide:Wide-v0 | --env-kwargs size=7 | 2 x 50000 | 2 x 50000\n")
    ((cell,),) = (line.cells for line in read(Path("list"), "laptop"))
    assert matrix.memory(cell) == 0.5e9 + 1.1 * 2 * 50_000 * 4 * (2 * 7 + 1 + 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    lanes = matrix.Lanes(None, 4)
    assert (lanes.count, lanes.threads) == (8, 1)
    lanes = matrix.Lanes(3, 4)
    assert (lanes.count, lanes.threads) == (3, 2)
    lanes.room = {None: 100}
    first, second = lanes.take(70), lanes.take(30)
    with pytest.raises(LookupError):
        lanes.take(1)
    lanes.give(first, 70)
    assert lanes.take(60) is None and second is None
    lanes = matrix.Lanes(2, 4)
    lanes.room = {None: 100}
    lanes.take(700)  # alone
    with pytest.raises(LookupError):
        lanes.take(1)


def test_on_gpus_cells_are_spread(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(matrix.torch.cuda, "device_count", lambda: 2)
    memory = type("", (), {"total_memory": 100})
    monkeypatch.setattr(matrix.torch.cuda, "get_device_properties", lambda i: memory)
    lanes = matrix.Lanes(None, 2)
    assert [lanes.take(45) for _ in range(3)] == ["0", "1", "0"]
    with pytest.raises(LookupError):
        lanes.take(46)
    assert lanes.take(45) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")  # what somebody allows is what cells get
    lanes = matrix.Lanes(3, 2)
    assert [lanes.take(1) for _ in range(3)] == ["5", "GPU-7", "5"] and lanes.count == 3


# ------------------------------------------------------------------------------------------------------------- running
@pytest.mark.slow
def test_a_failed_cell_is_told_and_stops_nothing():
    rest = f"{SMALL.format(150)} {SHORT} | 1 x 150 | 1 x 150\n"
    Path("list").write_text(f"one | noise_only | Pendulum-v1 | {rest}two | noise_only | Nowhere-v7 | {rest}")
    code, out, err = finish("--jobs", "2")
    assert code == 1
    (line,) = (line for line in err.splitlines() if line.startswith("matrix: Nowhere-v7__noise_only"))
    assert " failed: noise_only: " in line and "Nowhere" in line.split("noise_only: ")[1]
    assert len(written()) == 1 and "1 of 2 cells are done" in out
    code, out, err = finish("--list")
    assert code == 0 and re.search(r"one +1 +1 +0 +none", out) and re.search(r"all +2 +1 +0 +about", out)
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.csv")}
    assert finish()[0] == 1  # tried again, and nothing else is
    assert before == {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.csv")} and len(runs()) == 1


def processes():
    """Processes of this folder's cells, as their locks tell: held, and by whom."""
    found = []
    for path in Path().glob("runs/benchmark/laptop/*/lock"):
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                found += [int(pid) for pid in lock.read().split()]
    return found


def wait(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a cell outlives its runner")
def test_kills_of_the_runner_and_of_cells_lose_nothing():
    """SIGKILL of the runner and of its cell at several moments, from before there is a folder to late in training."""
    Path("list").write_text(f"one | sac_continuous | Pendulum-v1 | {SMALL.format(50)} {SHORT} | 2 x 400 | 2 x 400\n")
    assert finish("--jobs", "2")[0] == 0
    whole = written()
    assert len(whole) == 1
    Path("runs").rename("runs-undisturbed"), Path("results").rename("results-undisturbed")

    def furthest():
        """The newest checkpoint: moments are told by it, whatever a machine's speed."""
        steps = [[int(p.stem[5:]) for p in run.glob("checkpoints/step-*.pt")] for run in runs()]
        return min((max(run, default=-1) for run in steps), default=-1)

    rng, kills = random.Random(0), {"runner": 0, "cell": 0}
    for target, step in [("runner", -1), ("cell", 50), ("runner", 200)]:
        runner = Runner("--jobs", "2")
        ready = lambda step=step: processes() and furthest() >= step  # noqa: E731
        wait(lambda runner=runner, ready=ready: ready() or runner.poll() is not None)
        time.sleep(rng.uniform(0, 0.3))
        if target == "cell":
            for pid in processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills["cell"] += 1
            time.sleep(rng.uniform(1, 3))
        if runner.poll() is None:
            runner.kill()
            kills["runner"] += 1
        runner.communicate()
    assert kills["runner"] >= 2 and kills["cell"] >= 1
    code, _, err = finish("--jobs", "2")
    assert code == 0, err
    assert written() == whole  # to the bit, as if nobody had killed anything
    trained = [run for run in runs() if len((run / "evaluations.csv").read_text().splitlines()) > 1]
    assert len(trained) == 1 and not processes()
    assert finish("--jobs", "2")[0] == 0 and len(runs()) == len(list(Path().glob("runs/benchmark/laptop/*/runs/*")))


@pytest.mark.slow
def test_a_signal_lets_cells_write_a_checkpoint():
    make_list(3000, 100, own=SHORT)
    runner = Runner("--jobs", "2")
    wait(lambda: sum("\n100," in path.read_text() for path in Path().glob("runs/*/*/*/runs/*/evaluations.csv")) == 2)
    runner.send_signal(signal.SIGTERM)
    _, err = runner.communicate()
    assert runner.returncode == 128 + signal.SIGTERM and "2 cells are not done: the same command goes on" in err
    kept = [max(int(p.stem[5:]) for p in run.glob("checkpoints/step-*.pt")) for run in runs()]
    assert len(kept) == 2 and all(0 < step < 3000 for step in kept)
    place, its = Place(Path.cwd(), "laptop"), chosen(read(Path("list"), "laptop"), [])
    reached = [cells.reach(c, place.results(c)) for c in its]  # what has been evaluated is kept for the page
    assert all(seeds == 2 and 100 <= step < 3000 for seeds, step in reached) and not any(is_done(c, place) for c in its)
    path = place.results(its[0])  # and stays where it is more than what a later stop has
    rows = csv.DictReader(line for line in path.read_text().splitlines() if line[0] != "#")
    episodes = {int(row["episode"]) for row in rows}
    more = path.read_text() + "".join(f"2999,{s},{e},1,9\n" for s in (1, 2) for e in episodes)
    cells.write_whole(path, more)
    Attempt(its[0], place).keep(cells.newest_run(its[0], place))
    assert path.read_text() == more


def test_a_cell_whose_folder_cannot_be_used_fails_alone(monkeypatch):
    place, (first, second) = Place(Path.cwd(), "laptop"), chosen(read(make_list(), "laptop"), [])
    place.folder(first).parent.mkdir(parents=True)
    place.folder(first).write_text("a file")
    attempt = Attempt(first, place)
    assert attempt.claim() and not attempt.poll().done and "exists" in attempt.poll().said

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cells.fcntl, "flock", no_locks)
    attempt = Attempt(second, place)
    assert attempt.claim() and attempt.poll() == Outcome(False, "[Errno 37] No locks available")
    assert attempt.process is None and attempt.lock.closed


@pytest.mark.slow
def test_two_runners_share_the_cells():
    make_list(150, 150, own=SHORT)
    first, second = Runner("--jobs", "1"), Runner("--jobs", "2")
    for runner in (first, second):
        _, err = runner.communicate()
        assert runner.returncode == 0, err
    assert len(written()) == 2 == len(runs())


@pytest.mark.slow
def test_a_cell_that_is_killed_again_and_again_is_given_up():
    """After RESUMES resumptions within one attempt; the next attempt goes on from its checkpoint."""
    place, (its, _) = Place(Path.cwd(), "laptop"), chosen(read(make_list(own=SHORT), "laptop"), [])
    attempt, outcome, count = Attempt(its, place), None, 0
    assert attempt.claim() and not Attempt(its, place).claim()
    while outcome is None:
        time.sleep(0.02)
        outcome = attempt.poll()
        if attempt.process and list(place.folder(its).glob("runs/*/checkpoints/step-*.pt")):
            attempt.process.kill()
            attempt.process.wait()
            count += 1
    assert not outcome.done and outcome.said.startswith("killed 4 times: ") and count == 4 and len(runs()) == 1
    other = Attempt(its, place)
    assert other.claim()  # the lock is free again
    while not (outcome := other.poll()):
        time.sleep(0.1)
    assert outcome == Outcome(True) and len(runs()) == 1 and is_done(its, place)


def finished_run(its, place):
    """A run in the cell's folder that has ended, as by a runner which died before it collected it."""
    place.folder(its).mkdir(parents=True)
    here = Path.cwd()
    os.chdir(place.folder(its))
    module = __import__(its.script)
    assert launch(module, its.command()[1:]) == 0
    os.chdir(here)
    return next(place.folder(its).glob("runs/*"))


@pytest.mark.slow
def test_a_run_that_ended_is_collected_and_not_run_again():
    place, (its, _) = Place(Path.cwd(), "laptop"), chosen(read(make_list(150, 50, own=SHORT), "laptop"), [])
    run = finished_run(its, place)
    attempt = Attempt(its, place)
    table = run / "evaluations.csv"
    table.write_text(table.read_text()[:-2])  # a machine that lost power: its checkpoint has the rows whole
    assert attempt.claim() and attempt.poll() == Outcome(True) and attempt.process is None
    with place.results(its).open() as file:
        rows = list(csv.DictReader(line for line in file if line[0] != "#"))
    assert len(rows) == 3 * 2 and [row["step"] for row in rows[::2]] == ["50", "100", "150"]
    # of a list whose steps have grown it is another cell's: left alone, and a new run is made
    (other, _) = chosen(read(make_list(200, 50, own=SHORT), "laptop"), [])
    assert other.name == its.name and not is_done(other, place) and cells.newest_run(other, place) is None
    # damaged beyond its checkpoints it is set aside, and the cell begins anew
    place.results(its).unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "evaluations.csv").write_text("".join((run / "evaluations.csv").read_text().splitlines(True)[:-1]))
    for path in run.glob("checkpoints/*.pt"):
        path.write_bytes(b"no checkpoint")
    attempt = Attempt(its, place)
    assert attempt.claim()
    while not (outcome := attempt.poll()):
        time.sleep(0.1)
    assert outcome == Outcome(True) and config["args"]["total_timesteps"] == 150
    assert len(list(place.folder(its).glob("lost-*"))) == 1 == len(runs())


# ----------------------------------------------------------------------------------------------------------------- Ray
@pytest.mark.slow
def test_ray_begins_cells_again_where_a_node_dies(monkeypatch):
    """Two nodes of one CPU each; the second is killed amid training, and the first goes on with its cell."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from ray.cluster_utils import Cluster

    make_list(4000, 1000)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "memory": 4 * 10**9})
    second = cluster.add_node(num_cpus=1, memory=4 * 10**9)
    try:
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        command = [sys.executable, str(PROGRAM), "--ray", "--lines", "list", "--base", "."]
        runner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        steps = "runs/benchmark/laptop/*/runs/*/checkpoints/step-[1-9]*.pt"
        wait(lambda: len({p.parent for p in Path().glob(steps)}) == 2 or runner.poll() is not None, 120)
        assert runner.poll() is None, runner.communicate()
        cluster.remove_node(second, allow_graceful=False)
        out, err = runner.communicate(timeout=240)
        assert runner.returncode == 0, (out, err)
        assert len(written()) == 2 == len(runs()) and "2 of 2 cells are done" in out
        resumed = [run for run in runs() if len((run.parents[1] / "log.txt").read_text().split("sac")) > 2]
        begun = [(run.parents[1] / "log.txt").read_text().count(" on Pendulum-v1, seeds 1 to 2") for run in runs()]
        assert sorted(begun) == [1, 2] and resumed  # one cell was resumed, the other one was let alone
    finally:
        cluster.shutdown()
