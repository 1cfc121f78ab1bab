"""Steps per second of the scripts after warm-up, beside this machine's ceiling and, if asked, a peer.

    python analysis/checks/throughput.py --num-seeds 1 4 --leapfrog-steps 2
    python analysis/checks/throughput.py --vs "peer/bin/python bench_peer.py Hopper-v4 3000"   # prints "123.4 steps/s"
    python analysis/checks/throughput.py --vs "FIRST .." "SECOND .." --peer-name SBX RLtools

Every measurement is a process of its own that trains for --warm-up steps and then times --steps more, environment and
acting included, evaluations not. Measurements of all cells (and the peers before each of them) are repeated --rounds
times in turn, because a machine's speed drifts: compare ratios, which pair measurements made side by side. Each is told
when it is made, and an interrupt leaves the table so far.

The ceiling. On a CPU: the rate of products of a batch with a 256 x 256 layer, all networks side by side, by the fastest
library here at the precision of the run, or from pixels that of a convolution, over the operations of a step. On a GPU:
the replay time of the captured update and of acting, without environments and transfers (not from pixels).
"""

import dataclasses
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT
from analysis.records import check_output, csv_text, module_of, read_rows, write_whole
from analysis.report import parsed, start, table
from runtime import device, products
from runtime.arguments import parse
from runtime.environments import make_env
from runtime.logs import Logs
from runtime.messages import fail, tell
from runtime.run import Run
from runtime.seeds import side_by_side
from runtime.streams import Draws

import numpy as np
import torch


@dataclasses.dataclass
class Args:
    env_id: str = "Hopper-v4"  # environment
    scripts: tuple[str, ...] = ("sac_continuous", "sac_hpo_continuous")  # scripts to measure
    num_seeds: tuple[int, ...] = (1, 4)  # seeds trained together
    leapfrog_steps: tuple[int, ...] = (2,)  # values of K for SAC-HPO
    steps: int = 2000  # steps timed in a measurement; on a CPU shared by the seeds
    warm_up: int = 200  # steps with updates before them
    rounds: int = 3  # measurements of each cell
    flags: str = ""  # more flags for the scripts, such as --no-compile
    vs: tuple[str, ...] = ()  # commands of peers, each of which prints "<number> steps/s" last
    peer_name: tuple[str, ...] = ("the peer",)  # what the table calls them
    show: Path | None = None  # measure nothing, print the table of this CSV
    cuda: bool = torch.cuda.is_available()  # measure on the GPU
    output: Path | None = None  # CSV; by default results/throughput/<device>.csv


ABOUT = "env", "device", "threads", "torch", "flags", "rounds", "peer", "date"


def operations(obs_dim: int, act_dim: int, steps: int, layers: int, hidden=32, sees_state=True, batch=256, width=256):
    """Floating-point operations in the matrix products of one environment step and update of one seed; steps is K.

    A product of (m, k) with (k, n) counts 2 m k n. Forward passes: one product a layer. Backward passes: one for the
    weights, and one for a layer's input unless it is the network's own input.
    """
    policy = obs_dim * width + (layers - 1) * width**2 + width * 2 * act_dim
    first = (obs_dim + act_dim) * width
    critics = 2 * (first + width**2 + width)
    gradient = 2 * (act_dim * width + width**2 + width) + 2 * (width**2 + act_dim * width)  # forward and back to a
    share = 2 * obs_dim * width
    critic_update = policy + critics + critics + critics + (critics - 2 * first)
    policy_update = policy + share + gradient + policy + (policy - obs_dim * width)
    inputs = obs_dim * sees_state + 2 * act_dim
    force = 2 * (inputs * hidden + hidden * act_dim)
    policy_update += steps * (gradient + 3 * force)
    acting = policy + (share + steps * (gradient + force) if steps else 0)
    return 2 * (batch * (critic_update + policy_update) + acting)


def pixel_operations(act_dim: int, steps: int, frequency: int, sees_latent: bool, hidden=32, batch=128):
    """The same for sac_hpo_pixels.py, without acting: a convolution with n_out filters of n_in · 9 weights counts
    2 · 9 n_in n_out for each of its places, those of the smaller image where it is transposed; `frequency` updates of
    the critics and the decoder share one of the policy."""
    places = 41**2, 39**2, 37**2, 35**2
    filters = [n_in * 32 * 9 * where for n_in, where in zip((9, 32, 32, 32), places)]
    convolutions, linear, latent, width = sum(filters), 32 * 35**2 * 50, 50, 1024
    trained = 3 * convolutions - filters[0]  # forward and backward; the frames need no gradient
    policy = latent * width + width**2 + width * 2 * act_dim
    first, share = (latent + act_dim) * width, 2 * latent * width
    critics = 2 * (first + width**2 + width)
    gradient = 2 * (act_dim * width + width**2 + width) + 2 * (width**2 + act_dim * width)
    force = 2 * ((latent * sees_latent + 2 * act_dim) * hidden + hidden * act_dim)
    critic_update = 2 * convolutions + trained + (1 + 1 + 3) * linear + policy + critics + 3 * critics
    decoder_update = trained + 3 * convolutions + (3 + 3) * linear
    policy_update = convolutions + (1 + 2) * linear + share + 3 * policy + gradient + steps * (gradient + 3 * force)
    return 2 * batch * (critic_update + decoder_update + policy_update / frequency)


def convolution_rate(batch: int, amp: bool, seconds: float = 0.5) -> tuple[float, str]:
    """Operations per second of the third convolution, the fastest of several forward passes, and its type's name."""
    dtype = torch.bfloat16 if amp else torch.float
    x = torch.randn(batch, 32, 39, 39, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, found, end = torch.randn(32, 32, 3, 3, dtype=dtype), 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, weight)
        found = max(found, 2 * batch * 9 * 32 * 32 * 37**2 / (time.perf_counter() - start))
    return found, f"convolution, {dtype}".replace("torch.", "")


def product_rate(num_seeds: int, precision: str = "highest", seconds: float = 0.3) -> tuple[float, str]:
    """Operations per second of 2 x num_seeds products (256, 256) x (256, 256), the fastest of several timings by the
    fastest library, and that library's name."""
    x, w = torch.randn(2, 2 * num_seeds, 256, 256).unbind()
    arrays, halves = (x.numpy(), w.numpy()), (x.bfloat16(), w.bfloat16())
    libraries = {"PyTorch's default": lambda: torch.bmm(x, w), "NumPy": lambda: np.matmul(*arrays)}
    if products.onednn_error() < products.EXACT:
        libraries["oneDNN"] = lambda: torch.bmm(x, w)
    if precision == "medium":
        libraries["bfloat16"] = lambda: torch.bmm(*halves)
    found = {}
    for name, multiply in libraries.items():
        torch.set_float32_matmul_precision("medium" if name == "oneDNN" else "highest")
        repeat, found[name], end = max(1, 32 // num_seeds), 0.0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(repeat):
                multiply()
            found[name] = max(found[name], repeat * 2 * x.numel() * 256 / (time.perf_counter() - start))
    best = max(found, key=found.get)
    return found[best], best


def replay_rate(module, args) -> float:
    """Steps per second of the recorded acting and update alone, replayed without environments."""
    env = make_env(args.env_id)
    obs_dim, act_dim, gpu = env.observation_space.shape[0], env.action_space.shape[0], torch.device("cuda")
    args = dataclasses.replace(args, buffer_size=10_000, total_timesteps=10_000)
    with side_by_side(range(args.num_seeds), gpu):
        agent, replay = module.Agent(args, obs_dim, act_dim), module.Replay(args, obs_dim, act_dim)
    replay.rows.normal_(), replay.size.fill_(10_000)
    act, learn, *_ = device.fast(args, agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
    numbers = Draws(range(args.num_seeds), *agent.noise_shapes(), args.batch_size, gpu).step(0)
    act(torch.randn(args.num_seeds, obs_dim, device=gpu), numbers.acting), learn(*numbers.updates[0])
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(2000):
        act.graph.replay(), learn.graph.replay()
    torch.cuda.synchronize()
    return 2000 / (time.perf_counter() - start)


def measure(script: str, warm_up: int, steps: int, argv: list[str]) -> None:
    """In a process of its own: trains with a clock beside it and prints what it saw as JSON."""
    module, stamps = module_of(script), []
    progress = Logs.progress

    def clocked(logs, step, line):
        stamps.append(time.perf_counter())
        progress(logs, step, line)

    Logs.progress, starts = clocked, 300
    total = starts + warm_up + steps
    fixed = {"random-steps": starts, "learning-starts": starts, "total-timesteps": total, "eval-frequency": total + 1}
    fixed["eval-episodes"] = 1
    args, source = parse(module, [*argv, *(f"--{name}={value}" for name, value in fixed.items())])
    Run(module, args, source).train()
    env, pixels = make_env(args.env_id, args=args), script.endswith("pixels")
    act_dim, batch = env.action_space.shape[0], args.batch_size
    given = vars(args)
    force = given.get("leapfrog_state", False), given.get("leapfrog_hidden", 0)
    if pixels:
        needed = pixel_operations(act_dim, args.leapfrog_steps, args.policy_frequency, *force, batch)
    else:
        obs_dim, k = env.observation_space.shape[0], given.get("leapfrog_steps", 0)
        needed = operations(obs_dim, act_dim, k, args.policy_layers, *reversed(force), batch)
    if args.cuda and args.cuda_graphs:
        ceiling, library = (math.nan, "") if pixels else (replay_rate(module, args), "recorded graphs")
    elif pixels:
        ceiling, library = convolution_rate(batch, args.amp)
    else:
        ceiling, library = product_rate(args.num_seeds, args.matmul_precision)
    ceiling /= 1 if args.cuda else needed * args.num_seeds
    rate = steps / (stamps[-1] - stamps[-1 - steps])
    seen = {"rate": rate, "ceiling": ceiling, "threads": torch.get_num_threads(), "library": library}
    print(json.dumps(seen))


def processor() -> str:
    """The processor's name, with AVX-512 or without."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    number = "/".join(line.split(":")[1].strip() for line in lines[:8] if line.startswith(("cpu family", "model\t")))
    return f"{name} (family/model {number}), {torch.backends.cpu.get_cpu_capability()}"


def run(command: list[str], shell=False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, shell=shell, cwd=os.environ.get("TMPDIR", "/tmp"))
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        fail(f"{command if shell else ' '.join(command[2:])} failed: {said}")
    return done.stdout


def show(path: Path) -> None:
    """Prints the table of a CSV; what describes all of its rows stands below."""
    rows = read_rows(path, (*ABOUT, "script", "steps/s"))
    if not rows:
        fail(f"{path} holds no measurement")
    about = {name: rows[0][name] for name in ABOUT}
    names = [name for name in rows[0] if name not in ABOUT]
    print(table(names, [[row[name] for name in names] for row in rows]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items() if value))


Cell = tuple[str, int, int]  # script, K, seeds


def measurement(cell: Cell, args: Args) -> dict:
    """What a process of its own sees of a cell: rate, ceiling, threads, library; and the peer's rate before it."""
    script, steps, seeds = cell
    peers = []
    for peer in args.vs:
        told = re.findall(r"([\d.]+) steps/s", run(peer, shell=True))
        peers.append(float(told[-1]) if told else fail(f'--vs {peer}: it printed no "123.4 steps/s"'))
    flags = [f"--env-id={args.env_id}", f"--num-seeds={seeds}", "--cuda" if args.cuda else "--no-cuda"]
    flags += [f"--leapfrog-steps={steps}"] * ("hpo" in script) + args.flags.split()
    flags += [] if "--no-compile" in flags else ["--compile"]  # which a run this short would skip
    timed = args.steps if args.cuda else max(min(100, args.steps), args.steps // seeds)
    worker = [sys.executable, __file__, "--worker", script, str(args.warm_up), str(timed)]
    return json.loads(run([*worker, *flags]).splitlines()[-1]) | {"peers": peers}


def summary(cell: Cell, seen: dict[Cell, list[dict]], args: Args) -> dict:
    """The row of a cell: medians of its measurements, and of ratios within a round."""
    script, steps, seeds = cell
    mine, rates = seen[cell], [x["rate"] for x in seen[cell]]
    fewest = next(c for c in seen if c[:2] == cell[:2])
    sac = next((seen[c] for c in seen if c[0] == "sac_continuous" and c[2] == seeds), None)
    scale = [r * seeds / (x["rate"] * fewest[2]) for r, x in zip(rates, seen[fewest])]
    row = {"script": script, "K": steps, "seeds": seeds, "steps/s": f"{statistics.median(rates):.1f}"}
    row["seed-steps/s"] = f"{statistics.median(rates) * seeds:.1f}"
    row["ceiling steps/s"] = f"{statistics.median(x['ceiling'] for x in mine):.1f}"
    row["ceiling by"] = mine[0]["library"]
    row["share"] = f"{statistics.median(x['rate'] / x['ceiling'] for x in mine):.0%}"
    row["over fewest seeds"] = f"{statistics.median(scale):.2f}"
    row["time over SAC"] = f"{statistics.median(s['rate'] / r for s, r in zip(sac, rates)):.2f}" if sac else ""
    for i, name in enumerate(args.peer_name if args.vs else ()):
        row[f"{name.removeprefix('the ')} steps/s"] = f"{statistics.median(x['peers'][i] for x in mine):.1f}"
        pairs = [x["rate"] / x["peers"][i] for x in mine]
        row[f"over {name}"] = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
    return row


def write(seen: dict[Cell, list[dict]], args: Args, machine: str, path: Path) -> None:
    """The CSV of what has been measured so far."""
    about = {"env": args.env_id, "device": machine, "threads": next(iter(seen.values()))[0]["threads"]}
    about |= {"torch": torch.__version__, "flags": args.flags, "rounds": min(map(len, seen.values()))}
    about |= {"peer": ", ".join(args.peer_name) if args.vs else "", "date": datetime.date.today().isoformat()}
    rows = [summary(cell, seen, args) | about for cell in seen]
    write_whole(path, csv_text([], list(rows[0]), rows))


def main(args: Args) -> int:
    """The exit code: 130 where Ctrl-C ended it, with the table so far."""
    if args.show:
        show(args.show)
        return 0
    machine = torch.cuda.get_device_name() if args.cuda else f"{os.cpu_count()} cores of {processor()}"
    path = args.output or ROOT / "results/throughput" / f"{re.sub('[^A-Za-z0-9]+', '-', machine)}.csv"
    check_output(path)
    cells = [(script, steps, seeds) for script in args.scripts
             for steps in (args.leapfrog_steps if "hpo" in script else (0,)) for seeds in args.num_seeds]  # fmt: skip
    for script in args.scripts:
        module_of(script)
    if args.vs and len(args.vs) != len(args.peer_name):
        fail(f"--vs has {len(args.vs)} commands and --peer-name {len(args.peer_name)} names: give one for each")
    if not cells or args.rounds < 1:
        fail("nothing to measure: name --scripts, --num-seeds and --rounds of 1 or more")
    seen, code = {}, 0
    try:
        for i in range(args.rounds):
            for cell in cells:
                found = measurement(cell, args)
                seen.setdefault(cell, []).append(found)
                name = f"{cell[0]}, K = {cell[1]}, {cell[2]} seeds"
                beside = "".join(f", {peer} {rate:.1f}" for peer, rate in zip(args.peer_name, found["peers"]))
                print(f"round {i + 1} of {args.rounds}: {name}: {found['rate']:.1f} steps/s{beside}", flush=True)
                write(seen, args, machine, path)
    except KeyboardInterrupt:
        if not seen:
            raise
        tell(f"stopped after {sum(map(len, seen.values()))} of {len(cells) * args.rounds} measurements")
        code = 130
    show(path)
    print(f"wrote {path}")
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    else:
        start(lambda argv: main(parsed(Args, __doc__, argv, texts=("--flags",))))
