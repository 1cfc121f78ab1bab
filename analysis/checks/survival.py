"""Does a run survive? Kills it at random moments and compares what it leaves; times its checkpoints.

    python analysis/checks/survival.py kill --kills 100 --script baseline1  # what differs in the end, to the bit
    python analysis/checks/survival.py cost --rows 200000                    # seconds a checkpoint, share of a run

`kill` trains once without and once with SIGKILL at random moments, each time resumed by --resume alone, and compares
weights, optimizer states, replay, episodes and evaluations.csv of the last checkpoints. `cost` fills a replay as
a run of the default checkpoint frequency does and times each checkpoint, beside the time of a step measured there.
"""

import contextlib
import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis.records import check_output, csv_text, module_of, write_whole
from analysis.report import parsed, start
from runtime.arguments import parse
from runtime.checkpoints import Checkpoints, read_file
from runtime.environments import Episodes, make_env
from runtime.home import CPU, build
from runtime.seeds import everything
from runtime.streams import Draws

import numpy as np
import torch
import tyro


@dataclasses.dataclass
class Args:
    what: tyro.conf.Positional[Literal["kill", "cost"]]  # which question
    script: str = "sac_hpo_continuous"  # which script
    env_id: str = "Hopper-v4"  # environment
    kills: int = 100  # kill: how many
    seed: int = 0  # kill: of the random moments
    flags: str = (
        "--num-seeds 2 --batch-size 16 --random-steps 100 --learning-starts 100 --eval-frequency 100 --eval-episodes 1 "
        "--no-compile"
    )
    steps_per_kill: int = 100  # kill: length of the run, in kills
    cuda: bool = False  # kill: on a GPU, where only deterministic kernels repeat a run to the bit
    rows: int = 200_000  # cost: rows of the replay at the end
    output: Path | None = None  # CSV


def run(script: str, flags: list[str], folder: Path, kill_after: float | None = None) -> tuple[int, str, float]:
    """Exit code, folder and seconds of training of a run; SIGKILL ends it `kill_after` seconds after its start."""
    command = [sys.executable, "-u", module_of(script).__file__, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=environment)  # fmt: skip
    head = next((line for line in process.stdout if " runs/" in line), "")  # after "compiling", if it does
    start = time.monotonic()
    if kill_after is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(kill_after)
        process.kill()
    rest = process.communicate()[0]
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(head + rest)
    return process.returncode, re.search(r"runs/\S+", head).group(), time.monotonic() - start


def last_checkpoint(folder: Path) -> dict:
    """All that the last checkpoint in a run's folder holds, the replay's rows joined."""
    path = max((folder / "checkpoints").glob("step-*.pt"), key=lambda path: int(path.stem[5:]))
    state = read_file(path)
    names = [folder / "checkpoints" / "rows-{}-{}.pt".format(*span) for span in state.pop("rows")]
    state["replay"] = torch.cat([read_file(name) for name in names], dim=1)
    return state | {"evaluations": (folder / "evaluations.csv").read_text(encoding="utf-8")}


def differences(left, right, name: str = "") -> list[str]:
    """Where two nested structures of tensors, lists and values differ, to the bit."""
    if isinstance(left, torch.Tensor):
        same = isinstance(right, torch.Tensor) and left.shape == right.shape
        same = same and left.numpy().tobytes() == right.numpy().tobytes()
        return [] if same else [name]
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [d for key in left for d in differences(left[key], right[key], f"{name}/{key}")]
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) == len(right):
        return [d for i, pair in enumerate(zip(left, right)) for d in differences(*pair, f"{name}/{i}")]
    return [] if left == right else [name]


def kill(
    script: str, env_id: str, flags: list[str], kills: int, seed: int, folder: Path
) -> tuple[int, list[str], float]:
    """Kills that fell into training, what differs in the end from a run that nobody killed, and by how much at most."""
    flags = [f"--env-id={env_id}", *([] if {"--cuda", "--no-cuda"} & set(flags) else ["--no-cuda"]), *flags]
    _, whole, seconds = run(script, flags, folder)
    time.sleep(1)  # another second, another folder
    rng, killed = random.Random(seed), 0
    code, broken, _ = run(script, flags, folder, rng.uniform(0.5, 1) * seconds / kills)
    while code:
        killed += 1
        after = rng.uniform(0, 1.5 * seconds / kills) if killed < kills else None
        code, broken, _ = run(script, ["--resume", broken], folder, after)
    left, right = (last_checkpoint(folder / name) for name in (whole, broken))
    pairs = zip([*left["agent"], left["replay"]], [*right["agent"], right["replay"]])
    most = max((a - b).abs().max().item() if a.shape == b.shape else float("inf") for a, b in pairs)
    return killed, differences(left, right), most


def cost(script: str, env_id: str, rows: int, every: int = 10_000) -> list[dict]:
    """A row for each checkpoint of a run of one seed: rows in the replay, seconds, bytes on disk, share of the time."""
    module = module_of(script)
    args, _ = parse(module, [f"--env-id={env_id}", "--no-cuda", "--no-compile"])
    args.buffer_size = args.total_timesteps = rows
    env = make_env(env_id)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    agent, replay = build(module, args, *sizes), build(module, args, *sizes, module.Replay)
    draws, rng = Draws(range(1), *agent.noise_shapes(), args.batch_size, CPU), np.random.default_rng(0)
    episodes, table = Episodes([env], range(1)), []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(Path(folder))
        for count in range(every, rows + 1, every):
            replay.rows[:, replay.added : count] = torch.from_numpy(
                rng.normal(size=replay.rows[:, :every].shape)
            ).float()
            replay.added = count
            replay.size.fill_(count)
            start = time.perf_counter()
            for i in range(40):
                numbers = draws.step(count + i)
                uniform, noise = numbers.updates[0]
                agent.update(replay.sample(uniform), noise)
                episodes.step(np.zeros((1, sizes[1]), np.float32))
                if episodes.over[0]:
                    episodes.begin(0)
            step = (time.perf_counter() - start) / 40
            start = time.perf_counter()
            state = {"step": count, "agent": everything(agent), "episodes": episodes.state()}
            checkpoints.save(state, replay)
            seconds = time.perf_counter() - start
            size = sum(path.stat().st_size for path in checkpoints.folder.iterdir())
            replay_size = 4 * replay.rows[:, :count].numel()
            rest = sum(path.stat().st_size for path in checkpoints.folder.glob("step-*"))
            row = {"env": env_id, "script": script, "rows": count, "seconds": round(seconds, 3)}
            row |= {"share of the time": f"{seconds / (seconds + every * step):.2%}", "megabytes": round(size / 1e6, 1)}
            table.append(row | {"rows on disk / rows in memory": round((size - rest) / replay_size, 3)})
        checkpoints.lock.release()
    return table


def main(args: Args) -> int:
    """The exit code: 1 if a run on a CPU differs."""
    module_of(args.script), check_output(args.output)
    if args.what == "kill":
        with tempfile.TemporaryDirectory() as folder:
            steps = ["--total-timesteps", str(args.steps_per_kill * args.kills)]
            flags = (
                args.flags.split() + steps + ["--checkpoint-frequency", "37", "--cuda" if args.cuda else "--no-cuda"]
            )
            killed, differ, most = kill(args.script, args.env_id, flags, args.kills, args.seed, Path(folder))
        rows = [{"script": args.script, "env": args.env_id, "steps": steps[1], "kills": killed, "seed": args.seed}]
        rows[0] |= {"torch": torch.__version__, "differences": " ".join(differ) or "none", "largest": most}
    else:
        rows = cost(args.script, args.env_id, args.rows)
    text = csv_text([], list(rows[0]), rows)
    write_whole(args.output, text) if args.output else print(text, end="")
    return int(args.what == "kill" and not args.cuda and bool(differ))


if __name__ == "__main__":
    start(lambda argv: main(parsed(Args, __doc__, argv, texts=("--flags",))))
