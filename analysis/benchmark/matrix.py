"""Runs what the benchmark's list names and is not done: here, side by side, or on a Ray cluster.

    bash benchmark.sh figure7 --jobs 4         # which calls this: items, then flags
    bash benchmark.sh --list
    SCALE=paper bash benchmark.sh --ray        # the papers' steps (docs/cluster.md); SCALE is laptop, paper or smoke

On a CPU every core has a cell with one thread, or --jobs cells share the cores (OMP_NUM_THREADS, where set, is each
cell's number of threads); on GPUs --per-gpu cells share each. A cell waits while its replay, and those of the cells on
their way, would not fit into memory. A signal lets every cell write a checkpoint; started again, each goes on from its
own. Whatever fails is told at the end and stops nothing else.
"""

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis import ROOT
from analysis.benchmark.cells import (
    SCALES,
    Attempt,
    Cell,
    Outcome,
    Place,
    chosen,
    is_done,
    newest_run,
    progress,
    read,
    untimely,
)
from analysis.report import Parser, start
from runtime import machine
from runtime.arguments import parse
from runtime.environments import make_env, quiet
from runtime.home import module_of
from runtime.messages import fail, tell

import torch
from tqdm import tqdm

LIST = ROOT / "benchmark.sh"
RETRIES = 20  # times that Ray begins a cell again whose node or worker died
# products for a seed's step of SAC: 522 of them a second where products reach 215 GFLOP/s (docs/speed.md)
FLOP = 0.41e9


# -------------------------------------------------------------------------------------------------------- how long
def rates(cells: list[Cell], place: Place) -> dict[str, list[float]]:
    """Seconds for a unit of cost, by script, as the logs of cells that ran here tell."""
    seen = {}
    for cell in cells:
        _, rate = progress(cell, place)
        if rate:
            seen.setdefault(cell.script, []).append(1 / (rate * cell.seeds * cell.cost))
    return seen


def probe() -> float:
    """Seconds for a unit of cost as a few products of this machine let expect, one thread."""
    threads, a = torch.get_num_threads(), torch.rand(256, 256)
    torch.set_num_threads(1)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        torch.mm(a, a)
        count += 1
    torch.set_num_threads(threads)
    return FLOP / (2 * 256**3 * count / (time.perf_counter() - start))


def seconds(cell: Cell, seen: dict[str, list[float]], guess: float) -> float:
    """How long a whole cell takes: by others of its script, else by any, else by the probe."""
    known = seen.get(cell.script) or [value for values in seen.values() for value in values] or [guess]
    return cell.steps * cell.seeds * cell.cost * statistics.median(known)


def hours(value: float) -> str:
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min" if minutes else "no time"


class Display:
    """How far all cells are and what time is left: a bar on a terminal, elsewhere a line a minute."""

    def __init__(self, cells: list[Cell], todo: list[Cell], place: Place, lanes: int):
        self.cells, self.place, self.lanes, self.guess = cells, place, max(1, min(lanes, len(todo))), probe()
        self.ended = dict.fromkeys((cell for cell in cells if cell not in todo), True)
        self.said, self.drawn = time.monotonic(), 0.0
        self.bar = tqdm(total=100, disable=None, bar_format="{l_bar}{bar}| {desc}")

    def left(self, running: list[Cell]) -> tuple[float, float, list[float]]:
        """Seconds left on all lanes, the share done of all work, and of each cell that runs."""
        seen = rates(self.cells, self.place)
        whole = {cell: seconds(cell, seen, self.guess) for cell in self.cells}
        shares = [min(1, progress(cell, self.place)[0] / cell.steps) for cell in running]
        rest = sum(whole[cell] for cell in self.cells if cell not in self.ended)
        rest -= sum(whole[cell] * share for cell, share in zip(running, shares))
        return max(0, rest) / self.lanes, 1 - rest / sum(whole.values()), shares

    def show(self, running: list[Cell], force: bool = False) -> None:
        now = time.monotonic()
        plain = self.bar.disable and (force or now - self.said > 60)
        if not plain and (self.bar.disable or now - self.drawn < 2):
            return
        left, share, shares = self.left(running)
        failed = sum(not done for done in self.ended.values())
        text = f"{sum(self.ended.values())} of {len(self.cells)} cells done, {len(running)} on their way, "
        text += f"{failed} failed, " * bool(failed) + f"about {hours(left)} left"
        if plain:
            self.said, now_at = now, (f"{c.name} {s:.0%}" for c, s in zip(running, shares))
            print("; ".join([text, *now_at]), flush=True)
        else:
            self.drawn, self.bar.n = now, round(100 * share, 1)
            self.bar.set_description_str(text, refresh=True)

    def end(self, cell: Cell, outcome: Outcome) -> None:
        self.ended[cell] = outcome.done
        tqdm.write(f"done: {cell.name}" if outcome.done else f"failed: {cell.name}: {outcome.said}")
        sys.stdout.flush()


# ------------------------------------------------------------------------------------------------------------ here
def memory(cell: Cell) -> float:
    """Bytes that a cell takes at its end: its replay, half a GB of program, and a copy of what is new in the replay."""
    capacity = min(cell.steps, 100_000 if cell.script.endswith("_pixels") else 1_000_000)
    row = 24_000 if cell.script.endswith("_pixels") else 0
    if not row:
        # where a simulator may write a log; the cell tells what is wrong with its environment
        sys.path += [os.getcwd()] * (os.getcwd() not in sys.path)  # where a task of one's own lies
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet(), contextlib.suppress(Exception):
            args, _ = parse(module_of(cell.script), cell.command()[1:])
            env = make_env(cell.env_id, args=args)
            row = 4 * (2 * env.observation_space.shape[0] + env.action_space.shape[0] + 2)
            env.close()
    return 0.5e9 + 1.1 * cell.seeds * capacity * row


class Lanes:
    """Where cells run side by side: lanes on the CPU, or on each GPU, and the memory that they share."""

    def __init__(self, jobs: int | None, per_gpu: int):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        gpus = range(torch.cuda.device_count())
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
        names = names if len(names) == len(gpus) and all(names) else [str(i) for i in gpus]
        self.free = names * per_gpu or [None] * (jobs or cores)
        if gpus and jobs:
            self.free = self.free[:jobs]
        self.threads, self.count = machine.threads(max(1, cores // len(self.free))), len(self.free)
        if gpus:
            self.room = {name: 0.9 * torch.cuda.get_device_properties(i).total_memory for i, name in enumerate(names)}
        else:
            self.room = {None: 0.9 * machine.memory()}
        self.taken = []

    def take(self, size: float):
        """A lane that has room, or where nothing else runs; raises LookupError if none has."""
        for lane in self.free:
            used = [other for place, other in self.taken if place == lane]
            if not used or sum(used) + size <= self.room[lane]:
                self.free.remove(lane)
                self.taken.append((lane, size))
                return lane
        raise LookupError

    def give(self, lane, size: float) -> None:
        self.free.append(lane)
        self.taken.remove((lane, size))


def run_here(todo: list[Cell], place: Place, lanes: Lanes, display: Display, signals: list) -> dict[Cell, Outcome]:
    waiting, running, outcomes, sizes, stopped = list(todo), {}, {}, {}, 0
    while running or (waiting and not signals):
        for cell in list(waiting) if lanes.free and not signals else ():
            size = sizes[cell] if cell in sizes else sizes.setdefault(cell, memory(cell))
            try:
                lane = lanes.take(size)
            except LookupError:
                continue
            attempt = Attempt(cell, place, lanes.threads, lane)
            if attempt.claim():
                running[cell] = attempt, lane
                waiting.remove(cell)
            else:  # somebody else is at it: later
                lanes.give(lane, size)
        for cell, (attempt, lane) in list(running.items()):
            if len(signals) > stopped:
                attempt.stop()
            if outcome := attempt.poll():
                del running[cell]
                lanes.give(lane, sizes[cell])
                if outcome.done or not signals:
                    outcomes[cell] = outcome
                    display.end(cell, outcome)
        stopped = len(signals)
        display.show(list(running))
        time.sleep(0.3)
    return outcomes


# ------------------------------------------------------------------------------------------------------------ on Ray
def task(root: str, cell, place, threads: int):
    """What a node of the cluster does; it reads the code and the runs in a folder that all nodes share."""
    sys.path.insert(0, root)
    from analysis.benchmark import cells

    outcome = cells.whole(cells.Cell(**cell), cells.Place(Path(place[0]), *place[1:]), threads)
    return outcome.done, outcome.said


def run_on_ray(todo: list[Cell], place: Place, options, display: Display, signals: list) -> dict[Cell, Outcome]:
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    most = max(node["Resources"].get("memory", 0) for node in ray.nodes())  # what asks for more is never begun
    needs = {"num_cpus": 1, "num_gpus": 1 / options.per_gpu if gpus else 0, "max_retries": RETRIES}
    remote = ray.remote(task)
    futures = {}
    for cell in todo:
        known = needs if gpus else needs | {"memory": int(min(memory(cell), most))}
        where = str(place.base), place.scale, place.keep_stale
        futures[remote.options(**known).remote(str(ROOT), vars(cell), where, 1)] = cell
    outcomes, pending = {}, list(futures)
    while pending and not signals:
        ready, pending = ray.wait(pending, timeout=1)
        for future in ready:
            try:
                outcome = Outcome(*ray.get(future))
            except ray.exceptions.RayError as error:  # its nodes died, time and again
                outcome = Outcome(False, str(error).strip().splitlines()[-1])
            outcomes[futures[future]] = outcome
            display.end(futures[future], outcome)
        display.show([futures[f] for f in pending if progress(futures[f], place)[0]])
    for future in pending:
        ray.cancel(future)  # its cell writes a checkpoint
    if pending:
        ray.wait(pending, num_returns=len(pending), timeout=90)
    return outcomes


def connect(address: str | None) -> None:
    """To a cluster that runs already; Refused where there is none, or no Ray."""
    try:
        import ray
    except ImportError:
        fail("--ray needs the package ray: pip install -r requirements-ray.txt")
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        fail(f"no Ray cluster answers ({error}): start one, ray start --head (docs/cluster.md), or leave --ray out")


# ------------------------------------------------------------------------------------------------------------- main
def listing(lines, place: Place, lanes: int, items: list[str] = ()) -> str:
    """What there is, of some items if they are named, what is done, and how long the rest takes here."""
    cells = chosen(lines, items)
    seen, guess = rates(cells, place), probe()
    done = {cell for cell in cells if is_done(cell, place)}
    begun = {cell for cell in cells if cell not in done and newest_run(cell, place)}

    def rest(some) -> float:
        left = {cell: 1 - min(1, progress(cell, place)[0] / cell.steps) for cell in some if cell not in done}
        return sum(seconds(cell, seen, guess) * share for cell, share in left.items()) / min(lanes, max(1, len(left)))

    def row(name, some) -> str:
        count = f"{len(some):>5} {len(done & {*some}):>5} {len(begun & {*some}):>6}"
        return f"{name:<10} {count}   about {hours(rest(some))}" if {*some} - done else f"{name:<10} {count}   none"

    items = items or dict.fromkeys(item for line in lines for item in line.items)
    rows = [row(item, chosen(lines, [item])) for item in items]
    known = (
        f"as {sum(map(len, seen.values()))} cells went here"
        if seen
        else "by a guess from this machine's products, which busy cores mislead"
    )
    head = f"{'item':<10} cells  done  begun   time left at SCALE={place.scale}, {lanes} cells at a time, {known}"
    old = [f"stale: {cell.name}: {said}" for cell in cells if (said := untimely(cell, place))]
    return "\n".join([head, *rows, row("all", cells), *old])  # cells that items share count once


def parser() -> Parser:
    parser = Parser(__doc__, prog="bash benchmark.sh")
    parser.add_argument("items", nargs="*", help="items of the list, such as figure3; none: all")
    parser.add_argument("--list", action="store_true", help="show what there is and what is done, and run nothing")
    parser.add_argument(
        "--jobs", type=int, help="cells at a time; by default one for each core, or --per-gpu on each GPU"
    )
    parser.add_argument("--per-gpu", type=int, default=4, help="cells at a time on a GPU")
    parser.add_argument(
        "--ray", action="store_true", help="run on a Ray cluster; RAY_ADDRESS says where, and implies it"
    )
    parser.add_argument(
        "--keep-stale", action="store_true", help="let results of other values than their cell's count as done"
    )
    parser.add_argument("--base", type=Path, default=ROOT, help="the folder of runs/ and results/")
    parser.add_argument("--lines", type=Path, default=LIST, help="the file that holds the list")
    return parser


def main(argv: list[str]) -> int:
    options = parser().parse_intermixed_args(argv)
    scale, address = os.environ.get("SCALE", SCALES[0]), os.environ.get("RAY_ADDRESS")
    for name in ("jobs", "per_gpu"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            fail(f"--{name.replace('_', '-')} is {getattr(options, name)}: choose 1 or more")
    if options.base.exists() and not options.base.is_dir():
        fail(f"--base {options.base} is a file: name a folder")
    if not options.lines.is_file():
        fail(f"no list {options.lines}")
    lines, place = read(options.lines, scale), Place(options.base.absolute(), scale, options.keep_stale)
    cells, lanes, signals = chosen(lines, options.items), Lanes(options.jobs, options.per_gpu), []
    if options.list:
        print(listing(lines, place, lanes.count, options.items))
        return 0
    todo = [cell for cell in cells if not is_done(cell, place)]
    for cell in todo:
        if said := untimely(cell, place):
            tell(f"{cell.name} runs again, for its results are stale ({said}); --keep-stale keeps them")
    if use_ray := options.ray or bool(address):
        connect(address)
        import ray

        width = int(ray.cluster_resources().get("GPU", 0) * options.per_gpu or ray.cluster_resources().get("CPU", 1))
    display = Display(cells, todo, place, width if use_ray else lanes.count)
    display.show([], force=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda n, _: signals.append(n))
    if use_ray:
        outcomes = run_on_ray(todo, place, options, display, signals)
    else:
        outcomes = run_here(todo, place, lanes, display, signals)
    display.bar.close()
    failed = {cell: outcome for cell, outcome in outcomes.items() if not outcome.done}
    for cell, outcome in failed.items():
        tell(f"{cell.name} failed: {outcome.said} ({os.path.relpath(place.folder(cell))})")
    if signals:
        tell(f"stopped; {len(todo) - len(outcomes)} cells are not done: the same command goes on with them")
        return 128 + signals[0]
    print(f"{len(cells) - len(failed)} of {len(cells)} cells are done", flush=True)
    if options.lines == LIST and (place.base / "results").is_dir():
        from analysis.benchmark import page  # draws, which takes a second to import

        page.main(["page", "--base", str(place.base), *["--keep-stale"] * place.keep_stale])
    return 1 if failed else 0


if __name__ == "__main__":
    start(main)
