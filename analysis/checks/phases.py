"""Where the time of a training step goes, on a CPU.

    python analysis/checks/phases.py sac_continuous --env-id Hopper-v4          # a script's flags follow its name

Trains for 300 steps with updates, then times the parts of --steps more (default 1,500; put it before the script's
name) inside the running loop. "floor" is the time that the matrix products of a step would take at the rate that the
fastest library here reaches on large ones: nothing that computes the same products is faster.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis.checks.throughput import operations, product_rate
from analysis.records import module_of
from analysis.report import Parser, start, table
from runtime import device, run
from runtime.arguments import parse
from runtime.logs import Logs
from runtime.seeds import optimizers
from runtime.streams import Draws

import torch

STARTS, WARM_UP = 300, 300
PARTS = {"critic_loss": "critics' loss and gradients", "policy_loss": "policy's loss and gradients"}


def measure(script: str, steps: int, argv: list[str]) -> list[tuple[str, float]]:
    """Milliseconds a step of each part, the rest, the whole and the floor."""
    module, seconds, stamps = module_of(script), defaultdict(float), []

    def timed(name, function):
        def call(*arguments):
            start = time.perf_counter()
            out = function(*arguments)
            seconds[name] += time.perf_counter() - start
            return out

        return call

    fast, make_env, progress = device.fast, run.make_env, Logs.progress

    def timed_fast(args, agent, *learns):
        act, *learns, policies = fast(args, agent, *learns)
        agents.append(agent)
        return timed("acting", act), *(timed("updates, all of it", learn) for learn in learns), policies

    def timed_env(*arguments):
        env = make_env(*arguments)
        env.step = timed("environments", env.step)
        return env

    def clocked(logs, step, line):
        stamps.append(time.perf_counter())
        if step == STARTS + WARM_UP:  # every loss has been computed by now
            for optimizer in optimizers(agents[0]):
                losses = optimizer.functions.items()
                optimizer.functions = {name: timed(PARTS.get(name, name), loss) for name, loss in losses}
                optimizer.apply = timed("Adam", optimizer.apply)
            seconds.clear()
        progress(logs, step, line)

    agents = []
    device.fast, run.make_env, Logs.progress = timed_fast, timed_env, clocked
    module.Replay.add = timed("storing", module.Replay.add)
    module.Replay.sample = timed("drawing the batch", module.Replay.sample)
    Draws.step = timed("random numbers", Draws.step)
    total = STARTS + WARM_UP + steps
    fixed = {"random-steps": STARTS, "learning-starts": STARTS, "total-timesteps": total, "eval-frequency": total + 1}
    fixed["eval-episodes"] = 1
    flags = ["--compile", *argv, "--no-cuda", *(f"--{name}={value}" for name, value in fixed.items())]
    measured = run.Run(module, *parse(module, flags))
    measured.train()

    args, obs_dim, act_dim = measured.args, measured.envs.obs_dim, measured.envs.act_dim
    k, sees = getattr(args, "leapfrog_steps", 0), getattr(args, "leapfrog_state", False)
    hidden = getattr(args, "leapfrog_hidden", 0)
    needed = operations(obs_dim, act_dim, k, args.policy_layers, hidden, sees, args.batch_size) * args.num_seeds
    whole = 1000 * (stamps[-1] - stamps[-1 - steps]) / steps
    rows = {name: 1000 * value / steps for name, value in seconds.items()}
    learn = rows.pop("updates, all of it")
    losses = {PARTS.get(name, name) for optimizer in optimizers(agents[0]) for name in optimizer.functions}
    rows["targets and the rest of an update"] = learn - sum(
        rows[name] for name in (*losses, "Adam", "drawing the batch")
    )
    rows["logs, progress and the rest"] = whole - sum(rows.values())
    parts = sorted(rows.items(), key=lambda row: -row[1])
    if script.startswith("sac_"):  # the ablations take the gradient elsewhere, which `operations` does not count
        parts.append(
            ("floor: its products alone", 1000 * needed / product_rate(args.num_seeds, args.matmul_precision)[0])
        )
    return [("a step", whole), *parts]


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=int, default=1500, help="steps to time; put it before the script's name")
    parser.add_argument("script", help="such as sac_continuous")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the script's own")
    options = parser.parse_args(argv)
    parts = measure(options.script, options.steps, options.flags)
    whole, threads = dict(parts)["a step"], torch.get_num_threads()
    print(f"\n{options.script} {' '.join(options.flags)}, {threads} threads, torch {torch.__version__}\n")
    print(table(["part", "ms a step", "share"], [[n, f"{x:.2f}", f"{x / whole:.0%}"] for n, x in parts]))


if __name__ == "__main__":
    start(main)
