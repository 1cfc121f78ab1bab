"""The benchmark's cells: one script, one environment, one set of flags, all its seeds in one process.

`benchmark.sh` lists items, a line each: names | scripts | environments | flags | the papers' seeds x steps |
a laptop's. A line is every script on every environment. A cell that several lines name is run once. Its folder is
`runs/benchmark/<scale>/<name>/`: the run's own folder below `runs/`, `log.txt` and `errors.txt`. It is done when its
results file `results/benchmark/<scale>/<name>.csv` is whole, and by nothing else.
"""

import contextlib
import csv
import dataclasses
import fcntl
import functools
import importlib
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from analysis import ROOT
from analysis.collect import LENGTH, PLACE, collect, unlike, variant, words
from runtime.arguments import check, parse
from runtime.messages import Refused, fail

SCALES = ("laptop", "paper", "smoke")
SMOKE = {  # everything end to end, and nothing learned; from pixels a step takes half a second
    False: (2, 400, "--learning-starts 200 --eval-frequency 200 --eval-episodes 2 --eval-max-steps 50"),
    True: (2, 24, "--learning-starts 16 --eval-frequency 12 --eval-episodes 1 --eval-max-steps 4 --batch-size 16"),
}
KEEP = "--keep-agents"  # changes no number: a cell has it if one of its lines does
RESUMES = 3  # times that an attempt resumes a process which something killed
LEASH = """import ctypes, os, sys
if ctypes.CDLL(None).prctl(1, 15) == 0 and os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"""  # SIGTERM to a cell whose runner has died (Linux)


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str  # of its folder and its results file: environment, script, what is unlike the script's own
    script: str
    env_id: str
    seeds: int
    steps: int
    flags: tuple[str, ...]  # all but environment, seeds and steps
    cost: float  # of a seed's step, in those of SAC's on states

    def command(self) -> list[str]:
        words = [str(script_file(self.script)), "--env-id", self.env_id, "--seed", "1", "--num-seeds", str(self.seeds)]
        return [*words, "--total-timesteps", str(self.steps), *self.flags]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the list: what it shows, and its cells."""

    items: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a scale's runs and results lie."""

    base: Path
    scale: str

    def folder(self, cell: Cell) -> Path:
        return self.base / "runs" / "benchmark" / self.scale / cell.name

    def results(self, cell: Cell) -> Path:
        return self.base / "results" / "benchmark" / self.scale / f"{cell.name}.csv"


def script_file(script: str) -> Path:
    path = ROOT / f"{script}.py"
    return path if path.exists() else ROOT / "ablations" / f"{script}.py"


# ------------------------------------------------------------------------------------------------------------ the list
def read(path: Path, scale: str) -> list[Line]:
    """The lines of a list at a scale; Refused where one cannot be run."""
    if scale not in SCALES:
        fail(f"no scale {scale!r}: SCALE is one of {', '.join(SCALES)}")
    lines, extras = [], {}
    for text in path.read_text().split("<<'ITEMS'\n")[-1].split("\nITEMS")[0].splitlines():
        fields = [field.strip() for field in text.split("|")]
        if len(fields) == 6:
            lines.append(read_line(*fields, scale))
        elif text.strip() and not text.startswith("#"):
            fail(f"{path.name}: a line of the list has six fields between bars: {text}")
    for cell in (cell for line in lines for cell in line.cells):
        other = extras.setdefault(cell.name, cell)
        if ({*other.flags} ^ {*cell.flags}) - {KEEP} or (other.seeds, other.steps) != (cell.seeds, cell.steps):
            fail(f"{path.name}: {cell.name} stands there twice, with other seeds, steps or flags")
        if KEEP in cell.flags:
            extras[cell.name] = cell
    return [dataclasses.replace(line, cells=tuple(extras[cell.name] for cell in line.cells)) for line in lines]


def read_line(items: str, scripts: str, env_ids: str, flags: str, paper: str, laptop: str, scale: str) -> Line:
    cells = []
    for script in scripts.split():
        pixels = script.endswith("_pixels")
        seeds, steps, more = SMOKE[pixels]
        if scale != "smoke":
            size, more = paper if scale == "paper" else laptop, ""
            if not re.fullmatch(r"\d+ x \d[\d,]*", size):
                fail(f"{items}: seeds x steps, such as 8 x 100,000, not {size}")
            seeds, steps = (int(number.replace(",", "")) for number in size.split(" x "))
        cells += [cell(script, env_id, seeds, steps, flags, more) for env_id in env_ids.split()]
    return Line(tuple(items.split()), tuple(cells))


@functools.cache
def cell(script: str, env_id: str, seeds: int, steps: int, flags: str, more: str) -> Cell:
    """A cell, named by the flags of its method; `more` flags are those of the scale."""
    if not script_file(script).is_file():
        fail(f"no script {script}.py here or in ablations/")
    module = importlib.import_module(script)
    try:
        args, source = parse(module, ["--env-id", env_id, *shlex.split(flags)])
        check(dataclasses.replace(args, cuda=False, compile=False), module.LIMITS)
    except Refused as refusal:
        fail(f"{script} on {env_id} {flags}: {refusal}")
    config = {"script": script, "args": vars(args)}
    given = {name: value for name, value in vars(args).items() if source[name] == "command line" and name != "env_id"}
    own = words(unlike(config) | {name: value for name, value in given.items() if name in (*PLACE, *LENGTH)})
    name = "__".join([re.sub("[^A-Za-z0-9._-]", "_", env_id), script, *variant(config)])
    moves = getattr(args, "leapfrog_steps", getattr(args, "langevin_steps", 0))
    cost = (200 if script.endswith("_pixels") else 1) + 0.21 * moves  # as measured, docs/speed.md
    return Cell(name, script, env_id, seeds, steps, (*own, *shlex.split(more)), cost)


def chosen(lines: list[Line], items: list[str]) -> list[Cell]:
    """The cells of some items, each once, in the list's order; of all items if none is named."""
    names = list(dict.fromkeys(item for line in lines for item in line.items))
    if unknown := [item for item in items if item not in names]:
        fail(f"no item {', '.join(unknown)}: choose among {', '.join(names)}")
    return list(dict.fromkeys(c for line in lines if not items or {*items} & {*line.items} for c in line.cells))


# ------------------------------------------------------------------------------------------------------ what there is
def is_done(cell: Cell, place: Place) -> bool:
    """Whether the results file is whole: every seed at every step in as many episodes, to the last step."""
    try:
        with place.results(cell).open() as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        good = [row for row in rows if math.isfinite(float(row["return"])) and int(row["length"]) > 0]
        keys = {(int(row["seed"]), int(row["step"]), int(row["episode"])) for row in good}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    seeds, steps, episodes = ({key[i] for key in keys} for i in range(3))
    whole = len(keys) == len(rows) == len(seeds) * len(steps) * len(episodes)
    return whole and len(seeds) == cell.seeds and max(steps, default=0) == cell.steps


def newest_run(cell: Cell, place: Place) -> Path | None:
    """The newest of a cell's run folders that can be resumed, of the cell as it now stands in the list."""
    runs = []
    for path in place.folder(cell).glob("runs/*/config.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            args = json.loads(path.read_text())["args"]
            if (args["num_seeds"], args["total_timesteps"]) == (cell.seeds, cell.steps):
                runs.append((int(path.parent.name.rsplit("__", 1)[-1]), path.parent))  # the time that it was begun
    return max(runs, default=(0, None))[1]


def collected(run: Path) -> str | None:
    """The text of the results file that a run makes; None if it has not ended."""
    with contextlib.suppress(SystemExit, OSError, ValueError, KeyError, IndexError):
        last = int(tail(run / "evaluations.csv").splitlines()[-1].split(",")[0])
        if last == json.loads((run / "config.json").read_text())["args"]["total_timesteps"]:
            with contextlib.redirect_stderr(io.StringIO()):
                return collect([run])[1]
    return None


def write_whole(path: Path, text: str) -> None:
    """Under its name a file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def tail(path: Path, start: int = 0) -> str:
    """The last 2,000 bytes of a file that begin at `start` or later."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - 2000))
        return file.read().decode(errors="replace")
    return ""


def progress(cell: Cell, place: Place) -> tuple[int, float | None]:
    """Steps that a cell's log tells of, and its last steps per second."""
    text = tail(place.folder(cell) / "log.txt")
    steps = re.findall(r"^(?:step|\w+ at step) (\d+), ([\d.]+) steps/s", text, re.M)
    rate = float(steps[-1][1]) if steps else 0
    return (int(steps[-1][0]) if steps else 0), rate or None


# ------------------------------------------------------------------------------------------------------- on its way
@dataclasses.dataclass(frozen=True)
class Outcome:
    done: bool
    said: str = ""  # why not


class Attempt:
    """A cell on its way to its results file: started, or resumed, and resumed again if its process is killed.

    The cell's lock is held as long as the attempt or the process that it started lives: whoever comes meanwhile waits.
    The file tells the number of that process.
    """

    def __init__(self, cell: Cell, place: Place, threads: int = 1, gpu: str | None = None):
        self.cell, self.place, self.folder = cell, place, place.folder(cell)
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if gpu is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = gpu
        self.process, self.lock, self.broken, self.killed, self.stopped = None, None, None, 0, False

    def claim(self) -> bool:
        """Takes the cell's lock; False if somebody has it. Where a disk has no locks, say, `poll` tells of it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = (self.folder / "lock").open("a")
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.lock.truncate(0)
        except BlockingIOError:
            self.lock.close()
            return False
        except OSError as error:
            self.broken = Outcome(False, str(error))
        return True

    def poll(self) -> Outcome | None:
        """What came of a cell that was claimed; None while it is on its way."""
        try:
            outcome = self.broken or self.advance()
        except OSError as error:  # no room for results, say
            outcome = Outcome(False, str(error))
        if outcome and self.lock:
            self.lock.close()
        return outcome

    def advance(self) -> Outcome | None:
        ran = self.process is not None
        if ran:
            code = self.process.poll()
            if code is None:
                return None
            self.process = None
            end = tail(self.folder / "errors.txt", self.said).strip() or tail(self.folder / "log.txt").strip()
            said = end.splitlines()[-1] if end else f"exit code {code}"
        if is_done(self.cell, self.place):  # also by somebody who had it before
            return Outcome(True)
        run = newest_run(self.cell, self.place)
        if run and (text := collected(run)):
            write_whole(self.place.results(self.cell), text)
            whole = is_done(self.cell, self.place)
            return Outcome(whole, "" if whole else f"{run} has no whole evaluations.csv")
        if self.stopped:
            return Outcome(False, "stopped")
        if ran and (code < 0 or code > 128) and self.killed < RESUMES:
            self.killed += 1
        elif ran and code == 2 and run and said.endswith("start the run again"):  # no checkpoint is whole
            run.rename(self.folder / f"lost-{run.name}")
            run = newest_run(self.cell, self.place)
        elif ran:
            return Outcome(False, f"killed {self.killed + 1} times: {said}" if code < 0 or code > 128 else said)
        self.start(run)
        return None

    def start(self, run: Path | None) -> None:
        command = self.cell.command()
        if run:
            command = [command[0], "--resume", str(run.relative_to(self.folder))]
        leash = ["-c", LEASH, str(os.getpid()), "-u"] if sys.platform == "linux" else ["-u"]
        errors = self.folder / "errors.txt"
        self.said = errors.stat().st_size if errors.exists() else 0
        with (self.folder / "log.txt").open("a") as out, errors.open("a") as err:
            self.process = subprocess.Popen(
                [sys.executable, *leash, *command], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True, pass_fds=[self.lock.fileno()],
            )  # fmt: skip  # a session of its own: Ctrl-C reaches the runner alone
        self.lock.truncate(0)
        print(self.process.pid, file=self.lock, flush=True)

    def stop(self) -> None:
        """Lets the cell write a checkpoint and end; a second time, at once."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if self.stopped else signal.SIGTERM)
        self.stopped = True


def whole(cell: Cell, place: Place, threads: int = 1) -> Outcome:
    """A cell from its claim to its outcome: what a task of Ray does."""
    attempt = Attempt(cell, place, threads)
    while not attempt.claim():
        time.sleep(1)
    try:
        while not (outcome := attempt.poll()):
            time.sleep(0.5)
        return outcome
    except BaseException:  # a task that is cancelled
        attempt.stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if attempt.process:
                attempt.process.wait(60)
        raise
