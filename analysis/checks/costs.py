"""How the cost of an update of SAC-HPO grows with K, seeds, batch and observation, on a CPU: a table and a figure.

    python analysis/checks/costs.py --output results/throughput/costs__NAME.csv     # measures, some ten minutes
    python analysis/checks/costs.py --show results/throughput/costs__NAME.csv --figure docs/costs.png

From K = 2, one seed, a batch of 256 and observations of 11 numbers (Hopper-v4's) one of the four is changed at a time.
Each is a process of its own that compiles and then acts and updates on a replay of random numbers, on one thread; the
time is the processor's, the least of several windows, so that other work on the machine matters little.
"""

import dataclasses
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_hpo_continuous as hpo
from analysis.checks.throughput import processor
from analysis.records import check_output, csv_text, read_rows, write_whole
from analysis.report import parsed, start, table
from runtime import device, products
from runtime.messages import fail, tell
from runtime.seeds import side_by_side
from runtime.streams import Draws

import torch

BASE = {"K": 2, "seeds": 1, "batch": 256, "observation": 11}
VALUES = {  # beside the base
    "K": (0, 1, 3, 4, 6, 8), "seeds": (2, 4, 8, 16, 32), "batch": (512, 1024, 2048, 4096),
    "observation": (17, 44, 111, 376),
}  # fmt: skip
COLUMNS = "changed", *BASE, "ms", "device", "torch", "date"
UPDATES, WINDOWS = 40, 6
ACT_DIM = 3


@dataclasses.dataclass
class Args:
    show: Path | None = None  # measure nothing, print the table of this CSV
    figure: Path | None = None  # with --show: PNG to draw
    output: Path | None = None  # CSV to write


def measure(cell: dict[str, int]) -> float:
    """Milliseconds of the processor for acting once and updating once, in this process."""
    cpu, seeds = torch.device("cpu"), range(cell["seeds"])
    torch.set_num_threads(1)
    args = hpo.Args(num_seeds=cell["seeds"], batch_size=cell["batch"], leapfrog_steps=cell["K"], cuda=False,
                    total_timesteps=5_000)  # fmt: skip
    products.choose(args.matmul_precision, args.products, cpu)
    with side_by_side(seeds, cpu):
        agent, replay = hpo.Agent(args, cell["observation"], ACT_DIM), hpo.Replay(args, cell["observation"], ACT_DIM)
    replay.rows.normal_().tanh_(), replay.size.fill_(5_000)
    act, learn, *_ = device.fast(args, agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
    draws, obs = Draws(seeds, *agent.noise_shapes(), args.batch_size, cpu), torch.randn(len(seeds), cell["observation"])
    times, count = [], max(4, UPDATES // (cell["seeds"] * cell["batch"] // 256))
    for window in range(1 + WINDOWS):  # the first compiles
        begun = time.process_time()
        for i in range(count):
            numbers = draws.step(window * count + i)
            act(obs, numbers.acting), learn(*numbers.updates[0])
        times.append((time.process_time() - begun) / count * 1e3)
    return min(times[1:])


def cells() -> list[tuple[str, dict[str, int]]]:
    """What is changed, and all four values."""
    return [("", BASE)] + [(name, BASE | {name: value}) for name, values in VALUES.items() for value in values]


def lines(rows: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """For each of the four: its values and the cost over the base's."""
    base = next(float(row["ms"]) for row in rows if not row["changed"])
    found = {}
    for name, value in BASE.items():
        points = [(int(row[name]), float(row["ms"]) / base) for row in rows if row["changed"] == name]
        found[name] = sorted([*points, (value, 1.0)])
    return found


def show(path: Path, figure: Path | None) -> None:
    rows = read_rows(path, COLUMNS)
    if not any(not row["changed"] for row in rows):
        fail(f"{path} has no row of the base: measure again")
    base = next(row for row in rows if not row["changed"])
    for name, points in lines(rows).items():
        print(table([name, *(f"{x:,}" for x, _ in points)], [["cost", *(f"{y:.2f}" for _, y in points)]]) + "\n")
    print(f"1 is {float(base['ms']):.2f} ms, {base['device']}, torch {base['torch']}, {base['date']}")
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
    fig.savefig(figure, dpi=110)


def main(args: Args) -> int:
    if args.show:
        show(args.show, args.figure)
        return 0
    if not args.output:
        fail("name --output for what is measured, or --show and a CSV")
    check_output(args.output)
    rows, machine = [], processor()
    try:
        for changed, cell in cells():
            done = subprocess.run(
                [sys.executable, __file__, "--worker", json.dumps(cell)], capture_output=True, text=True
            )
            if done.returncode:
                fail(f"{cell} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            about = {"device": machine, "torch": torch.__version__, "date": datetime.date.today().isoformat()}
            rows.append({"changed": changed, **cell, "ms": f"{float(done.stdout.split()[-1]):.3f}"} | about)
            print(f"{changed or 'base'} {cell[changed] if changed else ''}: {rows[-1]['ms']} ms", flush=True)
            write_whole(args.output, csv_text([], COLUMNS, rows))
    except KeyboardInterrupt:
        tell(f"stopped after {len(rows)} of {len(cells())} measurements, which {args.output} keeps")
        return 130
    show(args.output, None)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(measure(json.loads(sys.argv[2])))
    else:
        start(lambda argv: main(parsed(Args, __doc__, argv)))
