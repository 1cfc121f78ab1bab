"""How the cost of an update of SAC-HPO grows with K, seeds, batch and observation, on a CPU: a table and a figure.

    python analysis/checks/costs.py --output results/throughput/costs__NAME.csv     # measures, some ten minutes
    python analysis/checks/costs.py --show results/throughput/costs__NAME.csv --figure docs/costs.png

From K = 2, one seed, a batch of 256 and observations of 11 numbers (Hopper-v4's) one of the four is changed at a time;
one seed and eight are measured with `--matmul-precision medium` too. Each is a process of its own, on one thread, that
compiles both it and what it is compared with, and then acts and updates by turns on replays of random numbers: a cost
is the median of the turns' ratios of the processor's time, since machines drift within minutes. Other work on a core
that two threads share counts all the same: measure on a quiet machine.
"""

import dataclasses
import datetime
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_hpo_continuous as hpo
from analysis.checks.throughput import processor
from analysis.records import check_output, csv_text, read_rows, save_figure, write_whole
from analysis.report import parsed, start, table
from runtime import device, products
from runtime.messages import fail, tell
from runtime.seeds import side_by_side
from runtime.streams import Draws

import torch

BASE = {"K": 2, "seeds": 1, "batch": 256, "observation": 11}
VALUES = {  # beside the base
    "K": (0, 1, 3, 4, 8), "seeds": (2, 4, 8, 16, 32), "batch": (512, 1024, 4096), "observation": (44, 111, 376),
}  # fmt: skip
HALF = (1, 8)  # seeds that are measured with wide products in bfloat16 as well
COLUMNS = "changed", *BASE, "precision", "cost", "against_ms", "device", "torch", "date"
UPDATES, TURNS = 24, 7
ACT_DIM = 3


@dataclasses.dataclass
class Args:
    show: Path | None = None  # measure nothing, print the table of this CSV
    figure: Path | None = None  # with --show: PNG to draw
    output: Path | None = None  # CSV to write


def ready(cell: dict) -> Callable[[int], float]:
    """A function that acts and updates so many times and returns the processor's milliseconds of each."""
    cpu, seeds, done = torch.device("cpu"), range(cell["seeds"]), itertools.count()
    args = hpo.Args(num_seeds=cell["seeds"], batch_size=cell["batch"], leapfrog_steps=cell["K"], cuda=False,
                    total_timesteps=5_000, matmul_precision=cell["precision"])  # fmt: skip
    with side_by_side(seeds, cpu):
        agent, replay = hpo.Agent(args, cell["observation"], ACT_DIM), hpo.Replay(args, cell["observation"], ACT_DIM)
    replay.rows.normal_().tanh_(), replay.size.fill_(5_000)
    act, learn, *_ = device.fast(args, agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
    draws, obs = Draws(seeds, *agent.noise_shapes(), args.batch_size, cpu), torch.randn(len(seeds), cell["observation"])

    def run(count: int) -> float:
        products.choose(args.matmul_precision, args.products, cpu)
        begun = time.process_time()
        for _ in range(count):
            numbers = draws.step(next(done))
            act(obs, numbers.acting), learn(*numbers.updates[0])
        return (time.process_time() - begun) / count * 1e3

    return run


def measure(cell: dict, against: dict) -> tuple[float, float]:
    """The cost of a cell over another's, and the other's milliseconds; in this process."""
    torch.set_num_threads(1)
    runs, turns = [ready(each) for each in (cell, against)], []
    counts = [max(4, UPDATES // (each["seeds"] * each["batch"] // 256)) for each in (cell, against)]
    for run in runs:
        run(3)  # compiles
    for _ in range(TURNS):
        turns.append([run(count) for run, count in zip(runs, counts)])
    return statistics.median(mine / other for mine, other in turns), min(other for _, other in turns)


def cells() -> list[tuple[str, dict, dict]]:
    """What is changed, all values, and those of what it is compared with."""
    base = BASE | {"precision": "highest"}
    half = [("precision", base | {"seeds": n, "precision": "medium"}, base | {"seeds": n}) for n in HALF]
    return [(name, base | {name: value}, base) for name, values in VALUES.items() for value in values] + half


def lines(rows: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """For each of the four: its values and the cost over the base's."""
    found = {}
    for name, value in BASE.items():
        points = [(int(row[name]), float(row["cost"])) for row in rows if row["changed"] == name]
        found[name] = sorted([*points, (value, 1.0)])
    return found


def show(path: Path, figure: Path | None) -> None:
    rows = read_rows(path, COLUMNS)
    if not rows:
        fail(f"{path} has no row: measure again")
    for name, points in lines(rows).items():
        print(table([name, *(f"{x:,}" for x, _ in points)], [["cost", *(f"{y:.2f}" for _, y in points)]]) + "\n")
    if half := [row for row in rows if row["changed"] == "precision"]:
        gain = [f"{1 / float(row['cost']):.2f}" for row in half]
        print(table(["seeds", *(row["seeds"] for row in half)], [["medium's speed over highest's", *gain]]) + "\n")
    base = statistics.median(float(row["against_ms"]) for row in rows if row["changed"] != "precision")
    print(f"1 is about {base:.1f} ms, {rows[-1]['device']}, torch {rows[-1]['torch']}, {rows[-1]['date']}")
    if figure:
        draw(lines(rows), figure)


def draw(found: dict[str, list[tuple[int, float]]], figure: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(found), figsize=(11, 2.8), constrained_layout=True)
    for ax, (name, points) in zip(axes, found.items()):
        x, y = zip(*points)
        ax.plot(x, y, "o-", color="C0", label="measured")
        ax.plot(x, [value / BASE[name] for value in x], ":", color="0.6", label="in proportion")
        ax.set_ylim(0, 1.1 * max(y))
        ax.set_xlabel({"K": "leapfrog steps K", "observation": "numbers in an observation"}.get(name, name))
    axes[0].set_ylabel("cost of an update\nover that of the base")
    axes[0].legend(frameon=False)
    figure.parent.mkdir(parents=True, exist_ok=True)
    save_figure(fig, figure, 110, "--figure")


def main(args: Args) -> int:
    if args.show:
        check_output(args.figure, "--figure")
        if args.figure and args.figure.suffix.lower() != ".png":
            fail(f"--figure {args.figure}: name a file that ends in .png")
        try:
            show(args.show, args.figure)
        except (ValueError, ZeroDivisionError) as error:
            fail(f"{args.show} is broken: {error}")
        return 0
    if not args.output:
        fail("name --output for what is measured, or --show and a CSV")
    check_output(args.output)
    rows, machine = [], processor()
    try:
        for changed, cell, against in cells():
            words = [sys.executable, __file__, "--worker", json.dumps([cell, against])]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                fail(f"{cell} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            cost, ms = map(float, done.stdout.split()[-2:])
            about = {"device": machine, "torch": torch.__version__, "date": datetime.date.today().isoformat()}
            rows.append({"changed": changed, **cell, "cost": f"{cost:.3f}", "against_ms": f"{ms:.3f}"} | about)
            print(f"{changed} {cell[changed]}: {cost:.2f}", flush=True)
            write_whole(args.output, csv_text([], COLUMNS, rows))
    except KeyboardInterrupt:
        tell(f"stopped after {len(rows)} of {len(cells())} measurements, which {args.output} keeps")
        return 130
    show(args.output, None)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(*measure(*json.loads(sys.argv[2])))
    else:
        start(lambda argv: main(parsed(Args, __doc__, argv)))
