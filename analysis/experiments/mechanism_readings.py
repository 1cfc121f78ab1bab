"""Readings of the paper where the optimum is known: which brings a_K nearer to it? (docs/lab/mechanism.md, Readings)

    python analysis/experiments/mechanism_readings.py --dimension 1 --output results/mechanism/readings/d1.csv
    python analysis/experiments/mechanism_readings.py --show results/mechanism/readings/*.csv

The critic, the training and KL(a_K ‖ p*) are mechanism.py's. Two rows of K, ε and 1/√β0, HalfCheetah's and a quiet one,
train under each of these readings, most of them arms of readings.py; `half` halves 1/√β0 and `momentum-term` is the
flag (D4). KL is measured with the reading's own momentum of training: `still` has none. A reading that takes the norm
of a batch plays each action by its own, as an agent does, and "in batches" plays as it trained. Q1 = Q2 here, so U from
Q1 alone is `as-is`; and readings of action space have no KL here.

KL is that of mechanism.py from DRAWS draws. Differences are to K = 0, seed by seed, with Student's 95% interval.
"""

import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import records, report
from analysis.experiments import mechanism, readings
from analysis.gap import Noise
from runtime.messages import fail

import numpy as np
import torch

PROGRAM = "analysis/experiments/mechanism_readings.py"
DRAWS = 2**17  # a_K of a seed that a measurement draws
ROWS = {"HalfCheetah": mechanism.CHEETAH, "quiet": mechanism.BY_STEPS[3]}
COLUMNS = "dimension", "width", "row", "reading", "seed", "kl_half", "kl"
PLAIN = "K = 0", "as-is"  # row and reading of no dynamics


@dataclasses.dataclass
class Args:
    dimension: int = 1  # of the action, 1 or 2
    width: float = 0.16  # standard deviation of p*'s Gaussians
    seeds: int = 8  # seeds of each row and reading, 1, 2, ...
    steps: int = 1_000  # of the policy's optimizer; KL is measured after the half of them, too
    output: Path | None = None  # the CSV to keep the numbers in
    show: tuple[Path, ...] = ()  # train nothing, print the table of these CSVs


def without_momentum(agent, obs: torch.Tensor, noise: Noise) -> torch.Tensor:
    """a_K (S, B, d) with ρ_0 = 0."""
    return mechanism.played(agent, obs, readings.still(noise))


def in_batches(agent, obs: torch.Tensor, noise: Noise) -> torch.Tensor:
    """a_K (S, B, d) with the norm of the batch, as in the policy's loss."""
    agent.whole = True
    action = mechanism.played(agent, obs, noise)
    agent.whole = False
    return action


class Reading(NamedTuple):
    arm: str  # of readings.py
    values: dict = {}  # noqa: RUF012 (nothing writes to it)
    loud: float = 1.0  # times the row's 1/√β0
    play: object = mechanism.played


READINGS = {name: Reading(name) for name in ("as-is", "first-slope", "batch-norm", "batch-scale", "prior", "straight",
                                             "blind")}  # fmt: skip
READINGS |= {"still": Reading("still", play=without_momentum), "half": Reading("as-is", loud=0.5)}
READINGS |= {"momentum-term": Reading("as-is", {"momentum_term": True})}


@torch.no_grad()
def divergences(agent, seeds: int, play) -> np.ndarray:
    """KL(a_K ‖ p*), (S,), of actions that `play` gives, in batches of the size that trained."""
    cells, size = mechanism.CELLS[agent.act_dim], agent.args.batch_size
    generator, counts = torch.Generator().manual_seed(1), 0
    for _ in range(DRAWS // size):
        action = play(agent, *mechanism.drawn(agent, seeds, size, generator))
        counts = counts + mechanism.counted(action, cells)
    target = mechanism.target_cells(agent.act_dim, agent.critic.width, cells)
    return mechanism.divergence(counts.numpy(), target)


def measured(name: str, row: str, arm: mechanism.Arm, args: Args) -> list[dict]:
    """The rows of a reading on one of ROWS, or on K = 0: a line a seed for each way to play."""
    reading, target = READINGS[name], mechanism.Target(args.dimension, args.width)
    arm = arm._replace(momentum_std=arm.momentum_std * reading.loud)
    agent = mechanism.agent_of([arm], args.seeds, target, readings.agent_of(reading.arm), **reading.values)
    plays = {name: reading.play}
    if isinstance(agent, readings.BatchNorm):
        plays[f"{name}, in batches"] = in_batches
    generator, found = torch.Generator().manual_seed(0), {play: [] for play in plays}
    for steps in (args.steps // 2, args.steps - args.steps // 2):
        mechanism.train(agent, args.seeds, steps, generator)
        for play, function in plays.items():
            found[play].append(divergences(agent, args.seeds, function))
    return [
        dict(zip(COLUMNS, (*target, row, play, seed + 1, f"{half[seed]:.4f}", f"{whole[seed]:.4f}")))
        for play, (half, whole) in found.items()
        for seed in range(args.seeds)
    ]


def run(args: Args) -> list[dict]:
    """The rows of all readings."""
    flags = records.words({name: getattr(args, name) for name in ("dimension", "width", "seeds", "steps")})
    about = f"{DRAWS} draws of a_K, {mechanism.CELLS[args.dimension]} cells an axis"
    comments = [" ".join(["# python", PROGRAM, *flags]), f"#   cpu, 1 threads, float32; {about}"]
    found = measured(PLAIN[1], PLAIN[0], mechanism.PLAIN, args)
    for row, arm in ROWS.items():
        for name in READINGS:
            found += measured(name, row, arm, args)
            if args.output:  # after each, so that an interrupt loses none
                records.write_whole(args.output, records.csv_text(comments, COLUMNS, found))
    return found


def table(rows: list[dict]) -> str:
    """KL of each row and reading, and how much less it is than K = 0's, a pair of columns for each target."""
    found = {}
    for row in rows:
        target = mechanism.Target(int(row["dimension"]), float(row["width"]))
        pair = float(row["kl_half"]), float(row["kl"])
        found.setdefault((row["row"], row["reading"]), {}).setdefault(target, {})[int(row["seed"])] = pair
    targets = sorted({target for own in found.values() for target in own})
    lines = []
    for (row, reading), own in found.items():
        cells = [row, reading]
        for target in targets:
            plain, mine = found[PLAIN][target], own.get(target, {})
            half, whole = (np.array([pair[i] for _, pair in sorted(mine.items())]) for i in (0, 1))
            less = whole - np.array([plain[seed][1] for seed in sorted(mine)])
            gained = f"{less.mean():+.2f} {report.ends(less, digits=2)}" if (row, reading) != PLAIN else ""
            cells += [len(mine), report.spread(whole, 2), gained, report.spread(half, 2)] if mine else [0, "", "", ""]
        lines.append(cells)
    head = ["row", "reading"]
    for target in targets:
        head += [f"seeds, d = {target.dimension}", "KL(a_K ‖ p*)", "less K = 0's", "at half the steps"]
    return report.table(head, lines)


def main(args: Args) -> str:
    records.check_output(args.output)
    if args.show:
        try:
            return table([row for path in args.show for row in records.read_rows(path, COLUMNS)])
        except (ValueError, KeyError) as error:  # no number, or no line of K = 0 or of one of its seeds
            fail(f"a file of --show is broken: {error}")
    if args.dimension not in mechanism.CELLS or args.seeds < 1 or args.steps < 2:
        fail("--dimension is 1 or 2, --seeds 1 or more, --steps 2 or more")
    if not 0.02 <= args.width <= 10:
        fail(f"--width {args.width}: choose 0.02 to 10, no narrower than a cell")
    return table(run(args))


if __name__ == "__main__":
    report.start(lambda argv: print(main(report.parsed(Args, __doc__, argv))))
