"""Where environments become the limit: how long a step of all seeds' environments takes beside a made-up update.

    python analysis/checks/stepping.py --output results/throughput/stepping__NAME.csv      # some two minutes
    python analysis/checks/stepping.py --show results/throughput/stepping__NAME.csv

On a GPU a run's environments step while it learns, so a step lasts as long as the slower of the two. Here an update is
a wait of --update-ms that begins with the step, as a GPU's is to this process; actions are random, episodes that end
begin anew. "own" is the time that the run's own process spends on a step, on all its threads.
"""

import dataclasses
import datetime
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_continuous as sac
from analysis.checks.throughput import processor
from analysis.records import check_output, csv_text, read_rows, write_whole
from analysis.report import parsed, start, table
from runtime.environments import Episodes, make_env
from runtime.messages import fail
from runtime.workers import cores

import numpy as np

COLUMNS = "env_id", "seeds", "workers", "update_ms", "step_ms", "own_ms", "steps_per_s", "device", "cores", "date"
HEAD = (
    "environment",
    "seeds",
    "workers",
    "environments, ms a step",
    "own, ms",
    "steps/s with the update",
    "the limit is",
)


@dataclasses.dataclass
class Args:
    env_ids: tuple[str, ...] = ("Hopper-v4", "HalfCheetah-v4", "Humanoid-v4")
    num_seeds: tuple[int, ...] = (1, 8, 32, 64)
    workers: tuple[int, ...] = (0, 2)  # processes that step environments, as --env-workers; 0: none
    update_ms: float = 1.0  # what an update takes; 1 is what one of 32 seeds of SAC takes a large GPU, about
    steps: int = 300  # steps of a measurement, after a tenth as many
    output: Path | None = None  # CSV to write
    show: Path | None = None  # measure nothing, print the table of this CSV


def measure(envs: Episodes, update: float, steps: int) -> tuple[float, float, float]:
    """Seconds of a step of the environments, of this process's own part of it, and of a step with the update."""
    stepped, own, whole = 0.0, 0.0, 0.0
    for step in range(steps + steps // 10):
        if step == steps // 10:
            stepped, own, whole = 0.0, 0.0, 0.0
        actions = envs.random_actions()
        begun, used = time.perf_counter(), time.process_time()
        envs.step(actions)
        for i in np.flatnonzero(envs.over):
            envs.begin(i)
        took = time.perf_counter() - begun
        stepped, own = stepped + took, own + time.process_time() - used
        time.sleep(max(0.0, update - took))
        whole += time.perf_counter() - begun
    return stepped / steps, own / steps, whole / steps


def rows_of(args: Args):
    about = {"device": processor(), "cores": cores(), "date": datetime.date.today().isoformat()}
    for env_id in args.env_ids:
        for seeds in args.num_seeds:
            for workers in args.workers:
                if workers > seeds:
                    continue
                its = sac.Args(env_id=env_id, num_seeds=seeds, cuda=False)
                envs = Episodes([make_env(env_id, None, its) for _ in range(seeds)], range(seeds), workers)
                try:
                    stepped, own, whole = measure(envs, args.update_ms / 1e3, args.steps)
                finally:
                    envs.close()
                numbers = f"{stepped * 1e3:.3f}", f"{own * 1e3:.3f}", f"{1 / whole:.1f}"
                cells = env_id, seeds, workers, args.update_ms, *numbers
                yield dict(zip(COLUMNS, map(str, cells))) | about


def show(rows: list[dict]) -> str:
    out = []
    for row in rows:
        limit = "the environments" if float(row["step_ms"]) > float(row["update_ms"]) else "the update"
        out.append([*(row[name] for name in ("env_id", "seeds", "workers", "step_ms", "own_ms", "steps_per_s")), limit])
    last = rows[-1]
    about = f"{last['device']}, {last['cores']} cores, an update of {last['update_ms']} ms, {last['date']}"
    return f"{table(HEAD, out)}\n\n{about}"


def main(args: Args) -> int:
    if args.show:
        rows = read_rows(args.show, COLUMNS)
        if not rows:
            fail(f"{args.show} has no row: measure again")
        try:
            print(show(rows))
        except ValueError as error:
            fail(f"{args.show} is broken: {error}")
        return 0
    if not (0 <= args.update_ms < 1e6 and args.steps >= 10 and min(args.num_seeds, default=0) >= 1):
        fail("--update-ms begins at 0 and ends below 1e6, --num-seeds begins at 1, --steps at 10")
    if not args.env_ids or not 0 <= min(args.workers, default=-1) <= max(args.num_seeds):
        fail("--env-ids names one or more, --workers begin at 0, and the fewest are no more than the seeds")
    if args.output:
        check_output(args.output)
    rows = []
    for row in rows_of(args):
        rows.append(row)
        print(f"{row['env_id']}, {row['seeds']} seeds, {row['workers']} workers: {row['step_ms']} ms", flush=True)
        if args.output:
            write_whole(args.output, csv_text([], COLUMNS, rows))
    print(show(rows))
    return 0


if __name__ == "__main__":
    start(lambda argv: main(parsed(Args, __doc__, argv)))
