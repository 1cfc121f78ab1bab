"""The benchmark's cells: one script, one environment, one set of flags, all its seeds in one process.

`benchmark.sh` lists items, a line each: names | scripts | environments | flags | the papers' seeds x steps |
a laptop's. A line is every script on every environment. A cell that several lines name is run once. Its folder is
`runs/benchmark/<scale>/<name>/`: the run's own folder below `runs/`, `log.txt` and `errors.txt`. It is done when its
results file `results/benchmark/<scale>/<name>.csv` has all its seeds to its last step, of the cell's own values, and by
nothing else; a file of other values is stale. A laptop's cell may have them from the paper's scale, since a run's first
steps are those of a shorter one (where it was evaluated at the shorter one's end, which is not so from pixels). A file
with fewer seeds or steps is shown as what it is.
"""

import contextlib
import dataclasses
import fcntl
import functools
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
from types import ModuleType

from analysis.collect import VALUES, collect
from analysis.records import (
    LENGTH,
    PLACE,
    config_of,
    module_of,
    parse_rows,
    read_text,
    unlike,
    variant,
    words,
    write_whole,
)
from runtime.arguments import check, parse, todays
from runtime.contract import form_of
from runtime.home import script_file
from runtime.messages import Refused, fail, tell

SCALES = ("laptop", "paper", "smoke")
SMOKE = {  # everything end to end, and nothing learned; from pixels a step takes half a second
    False: (2, 400, "--learning-starts 200 --eval-frequency 200 --eval-episodes 2 --eval-max-steps 50"),
    True: (2, 24, "--learning-starts 16 --eval-frequency 12 --eval-episodes 1 --eval-max-steps 4 --batch-size 16"),
}
ROUNDING = "matmul_precision"  # how finely products are rounded: told on the page, and no value of the method
OWN = ("env_id", "seed", "num_seeds", "total_timesteps", "resume", "start_from")  # the list itself says it, or nobody
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
    keep_stale: bool = False  # whether results of other values than the cell's count as done

    def folder(self, cell: Cell) -> Path:
        return self.base / "runs" / "benchmark" / self.scale / cell.name

    def results(self, cell: Cell) -> Path:
        return self.base / "results" / "benchmark" / self.scale / f"{cell.name}.csv"

    def longer(self) -> list["Place"]:
        """Where longer runs of the same cells lie."""
        return [dataclasses.replace(self, scale="paper")] if self.scale == "laptop" else []


# ------------------------------------------------------------------------------------------------------------ the list
def read(path: Path, scale: str) -> list[Line]:
    """The lines of a list at a scale; Refused where one cannot be run."""
    if scale not in SCALES:
        fail(f"no scale {scale!r}: SCALE is one of {', '.join(SCALES)}")
    lines, extras = [], {}
    for text in read_text(path).split("<<'ITEMS'")[-1].split("\nITEMS")[0].splitlines():
        fields = [field.strip() for field in text.split("|")]
        if not text.strip() or text.strip().startswith("#"):
            continue
        if len(fields) != 6 or not all(fields[:3]):
            fail(f"{path.name}: a line of the list has six fields between bars: {shortened(text)}")
        lines.append(read_line(*fields, scale))
    if not lines:
        fail(f"{path.name} names no cell: a line is items | scripts | environments | flags | size | size")
    for cell in (cell for line in lines for cell in line.cells):
        other = extras.setdefault(cell.name, cell)
        if ({*other.flags} ^ {*cell.flags}) - {KEEP} or (other.seeds, other.steps) != (cell.seeds, cell.steps):
            fail(f"{path.name}: {cell.name} stands there twice, with other seeds, steps or flags")
        if KEEP in cell.flags:
            extras[cell.name] = cell
    return [dataclasses.replace(line, cells=tuple(extras[cell.name] for cell in line.cells)) for line in lines]


def shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]} .."


def read_line(items: str, scripts: str, env_ids: str, flags: str, paper: str, laptop: str, scale: str) -> Line:
    cells = []
    for script in scripts.split():
        pixels = script.endswith("_pixels")
        seeds, steps, more = SMOKE[pixels]
        if scale != "smoke":
            size, more = paper if scale == "paper" else laptop, ""
            if not re.fullmatch(r"[1-9]\d* x [1-9][\d,]*", size):
                fail(f"{items}: seeds x steps, such as 8 x 100,000, not {shortened(size)}")
            seeds, steps = (int(number.replace(",", "")) for number in size.split(" x "))
        cells += [cell(script, env_id, seeds, steps, flags, more) for env_id in env_ids.split()]
    return Line(tuple(items.split()), tuple(cells))


@functools.cache
def cell(script: str, env_id: str, seeds: int, steps: int, flags: str, more: str) -> Cell:
    """A cell, named by the flags of its method; `more` flags are those of the scale."""
    if script_file(script) is None:
        fail(f"no script {shortened(script)}.py here or in ablations/")
    module = module_of(script)
    try:
        given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in shlex.split(flags) if word[:2] == "--"}
        if own := [f"--{name.replace('_', '-')}" for name in (*OWN, "help") if name in given]:
            fail(f"{', '.join(own)} is not for the list's flags")
        args, source = parse(module, ["--env-id", env_id, *shlex.split(flags)])
        check(dataclasses.replace(args, cuda=False, compile=False), module.LIMITS)
    except (Refused, ValueError) as error:  # an open quote
        fail(f"{script} on {env_id} {shortened(flags)}: {error}")
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
def reach(cell: Cell, path: Path, text: str = "") -> tuple[int, int]:
    """Of a cell's seeds and steps those that a results file, or its text, has: as many seeds, up to this step.

    (0, 0) of a file that is broken: every seed is at every step in as many episodes. A seed that diverged is an
    outcome: NaN in all episodes of an evaluation and of those after it."""
    try:
        text = text or read_text(path)
        if not text.endswith("\n"):  # the last number may be half of one
            return 0, 0
        rows = parse_rows(text, path, ("seed", "step", "episode", "return", "length"))
        cells = {(int(row["seed"]), int(row["step"]), int(row["episode"])): float(row["return"]) for row in rows}
        for value in (value for row in rows for value in row.values()):
            float(value)  # or the page would be refused for it
        if any(math.isinf(value) for value in cells.values()) or any(int(row["length"]) < 1 for row in rows):
            return 0, 0
    except (Refused, ValueError):
        return 0, 0
    seeds, steps, episodes = (sorted({key[i] for key in cells}) for i in range(3))
    if not len(cells) == len(rows) == len(seeds) * len(steps) * len(episodes):
        return 0, 0
    for seed in seeds:
        lost = [{math.isnan(cells[seed, step, episode]) for episode in episodes} for step in steps]
        if {True, False} in lost or lost != sorted(lost, key=lambda found: True in found):
            return 0, 0
    step = max((step for step in steps if step <= cell.steps), default=0)
    return (min(len(seeds), cell.seeds), step) if step else (0, 0)


def is_whole(cell: Cell, path: Path) -> bool:
    return reach(cell, path) == (cell.seeds, cell.steps)


def held(cell: Cell, place: Place) -> Path | None:
    """The results file that has most of a cell, whole or not; None if none has any."""
    files = [(reach(cell, path), path) for path in [there.results(cell) for there in (place, *place.longer())]]
    own = [(*most, path) for most, path in files if most[0] and (place.keep_stale or not stale(cell, path))]
    return max(own, key=lambda file: file[0] * file[1], default=(0, 0, None))[2]


def own_values(cell: Cell) -> dict:
    """The cell's values of all that changes what is learned."""
    script = module_of(cell.script)
    return {"form": form_of(script)} | learned(vars(parse(script, cell.command()[1:])[0]))


def learned(args: dict) -> dict:
    """Of a run's values those that change what is learned."""
    return {name: value for name, value in args.items() if name not in (*PLACE, *LENGTH, ROUNDING)}


def file_values(cell: Cell, text: str) -> list[dict]:
    """The values of each run in a results file: as it tells them, or where it is older as its command gives them today.

    Refused where another program made it, or today's script does not know the command."""
    commands = re.findall(r"^# python (.*?)( --.*)?$", text, re.M)
    for program, _ in commands:
        if Path(program).name not in (f"{cell.script}.py", "readings.py train as-is"):
            fail(f"{program} made it")
    script = module_of(cell.script)
    if told := re.findall(rf"^{VALUES}(.*)$", text, re.M):
        return [{"form": 1} | todays(script, learned(json.loads(line))) for line in told]
    if not commands:
        fail("it names no command")
    return [{"form": 1} | commanded(script, shlex.split(flags)) for _, flags in commands]  # values came before form 2


def commanded(script: ModuleType, flags: list[str]) -> dict:
    """The values of a command line, flags that the script has given up among them."""
    former, kept, words = {}, [], iter(flags)
    for word in words:
        name = word.lstrip("-").replace("-", "_")
        if name in getattr(script, "FORMER", {}):
            former[name] = next(words, "")
        else:
            kept.append(word)
    return todays(script, learned(vars(parse(script, kept)[0]) | former))


def unlike_cell(values: dict, cell: Cell) -> str:
    """In what values differ from the cell's; empty if in nothing."""
    own = own_values(cell)
    odd = [name for name in own if values.get(name, own[name]) != own[name]]
    odd += [name for name in values if name not in own]
    return ", ".join(f"{name} {values[name]} where the cell has {own.get(name, 'none')}" for name in odd)


def stale(cell: Cell, path: Path) -> str:
    """Why a results file is not this cell's; empty where it is, or where there is none that can be read."""
    if not reach(cell, path)[0]:
        return ""
    try:
        return "; ".join(dict.fromkeys(
            said for values in file_values(cell, read_text(path)) if (said := unlike_cell(values, cell))
        ))  # fmt: skip
    except (Refused, ValueError, AttributeError) as error:
        return str(error)
    except SystemExit:  # --help
        return "its command runs nothing"


def untimely(cell: Cell, place: Place) -> str:
    """`stale` of the files that could make a cell done, where none does."""
    if is_done(cell, place):
        return ""
    said = (stale(cell, there.results(cell)) for there in (place, *place.longer()))
    return "; ".join(dict.fromkeys(filter(None, said)))


def is_done(cell: Cell, place: Place) -> bool:
    path = held(cell, place)
    return path is not None and is_whole(cell, path)


def newest_run(cell: Cell, place: Place) -> Path | None:
    """The newest of a cell's run folders that can be resumed: of its own values, as it now stands in the list."""
    runs = []
    for path in place.folder(cell).glob("runs/*/config.json"):
        with contextlib.suppress(Refused, ValueError, KeyError, TypeError):
            config = config_of(path.parent)
            args = config["args"]
            mine = (cell.script, cell.env_id, cell.seeds, cell.steps, 1)
            names = ("env_id", "num_seeds", "total_timesteps", "seed")
            values = todays(module_of(cell.script), learned({"form": config.get("form", 1)} | args))
            if (config["script"], *(args[name] for name in names)) == mine and not unlike_cell(values, cell):
                runs.append((int(path.parent.name.rsplit("__", 1)[-1]), path.parent))  # the time that it was begun
    return max(runs, default=(0, None))[1]


def collected(run: Path, unfinished: bool = False) -> str | None:
    """The text of the results file that a run makes; None if it has not ended, or needs --resume to mend it."""
    with contextlib.suppress(Refused, OSError, ValueError, KeyError, IndexError):
        last = int(tail(run / "evaluations.csv").splitlines()[-1].split(",")[0])
        if unfinished or last == config_of(run)["args"]["total_timesteps"]:
            return collect([run], unfinished)[1]
    return None


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
        here = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))  # tasks of one's own
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": here}
        if gpu is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = gpu
        self.process, self.lock, self.broken, self.killed, self.stopped = None, None, None, 0, False

    def claim(self) -> bool:
        """Takes the cell's lock; False if somebody has it. Where a disk has no locks, say, `poll` tells of it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = (self.folder / "lock").open("a", encoding="utf-8")
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
            self.write(text)
            whole = is_done(self.cell, self.place)
            return Outcome(whole, "" if whole else f"{run} has no whole evaluations.csv")
        if self.stopped:
            self.keep(run)
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

    def keep(self, run: Path | None) -> None:
        """What a stopped run has evaluated, for the page, unless a results file has more."""
        path, best = self.place.results(self.cell), held(self.cell, self.place)
        if run and not stale(self.cell, path) and (text := collected(run, unfinished=True)):
            known = math.prod(reach(self.cell, best)) if best else 0
            if math.prod(reach(self.cell, path, text)) > known and not self.loses(text):
                write_whole(path, text)

    def loses(self, text: str) -> bool:
        """Whether a results file there, of the cell's values or broken, has what this text for it lacks."""
        path, endless = self.place.results(self.cell), dataclasses.replace(self.cell, seeds=10**9, steps=10**18)
        old, new = reach(endless, path), reach(endless, path, text)
        broken = path.exists() and not all(old)
        return broken or (not stale(self.cell, path) and any(a > b for a, b in zip(old, new)))

    def write(self, text: str) -> None:
        """The results file of a run that has ended; what it would lose stays beside it."""
        path = self.place.results(self.cell)
        if self.loses(text):
            path.rename(beside := path.with_name(f"{path.name}.{time.time_ns()}"))
            tell(f"{path.name} has fewer seeds or steps than what was there, which is {beside.name} now")
        write_whole(path, text)

    def start(self, run: Path | None) -> None:
        command = self.cell.command()
        if run:
            command = [command[0], "--resume", str(run.relative_to(self.folder)), "--env-id", self.cell.env_id]
        leash = ["-c", LEASH, str(os.getpid()), "-u"] if sys.platform == "linux" else ["-u"]
        errors = self.folder / "errors.txt"
        self.said = errors.stat().st_size if errors.exists() else 0
        with (self.folder / "log.txt").open("ab") as out, errors.open("ab") as err:
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
                attempt.keep(newest_run(cell, place))
        raise
