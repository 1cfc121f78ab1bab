"""What a run leaves in its folder and shows on its terminal: config.json, evaluations.csv, TensorBoard, W&B."""

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from runtime.messages import fail

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


def new_folder(args, script: str) -> Path:
    """runs/<environment>__<script>[__<experiment>]__<seed>__<unix time>; of two in a second the later one moves on."""
    names = [args.env_id, script, *([args.exp_name] if args.exp_name else []), str(args.seed)]
    stamp, stem = int(time.time()), "".join(re.sub("[^A-Za-z0-9._-]", "_", name) + "__" for name in names)
    while Path("runs", f"{stem}{stamp}").exists():
        stamp += 1
    return Path("runs", f"{stem}{stamp}")


@functools.cache
def packages() -> dict[str, str]:
    """Versions of what is installed, by name; read once a process, which takes a tenth of a second."""
    return {package.name: package.version for package in importlib.metadata.distributions()}


def describe(script: Path, args, source: dict[str, str]) -> dict:
    """config.json: every value and where it came from, and what ran it."""
    device = torch.cuda.get_device_name() if args.cuda else f"cpu, {torch.get_num_threads()} threads"
    commit, git = "", ["git", "-C", str(script.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):  # no git here
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    origin = args.start_from and str(args.start_from)
    config = {"script": script.stem, "args": vars(args) | {"resume": None, "start_from": origin}, "source": source}
    config |= {"commit": commit or "unknown", "device": device}
    return config | {"python": sys.version.split()[0], "packages": packages()}


def header(config: dict, seeds: range, folder: Path) -> str:
    """The lines that a run begins with: what runs where, and the values that are not the script's defaults."""
    args, lines = config["args"], []
    for origin in dict.fromkeys(config["source"].values()):
        values = [f"{name} {value}" for name, value in args.items() if config["source"].get(name) == origin]
        if origin == "default":
            values = [f"the other {len(values)} values, in config.json"]
        text = ", ".join(value.replace(" ", "\xa0") for value in values)  # which keeps names beside their values
        lines += textwrap.wrap(text, 100, initial_indent=f"  {origin}: ", subsequent_indent="    ")
    device = config["device"]
    top = f"{config['script']} on {args['env_id']}, seeds {seeds[0]} to {seeds[-1]}, {device}: {folder}"
    lines = [line.replace("\xa0", " ") for line in lines]
    return "\n".join([top, *sorted(lines, key=lambda line: line.startswith("  default: "))])


class Logs:
    """The open logs of all seeds. Scalars go to TensorBoard, seed-<n>/, and with --track to W&B, a run a seed."""

    def __init__(self, folder: Path, config: dict, seeds: range, columns: list[str], step: int, table: str):
        """Opens them at a step; `table` is evaluations.csv's text then. What a killed run wrote after it goes."""
        self.folder, self.seeds, args = folder, seeds, config["args"]
        head = ",".join(["step", "seed", "episode", "return", "length", *columns]) + "\n"
        for name, text in (("evaluations.csv", table or head), ("config.json", json.dumps(config, indent=2) + "\n")):
            with (folder / f"{name}.part").open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            (folder / f"{name}.part").replace(folder / name)
        self.csv = (folder / "evaluations.csv").open("a", encoding="utf-8")
        self.writers = [SummaryWriter(folder / f"seed-{seed}", purge_step=step + 1) for seed in seeds]
        rows = [f"| {name} | {value} | {config['source'].get(name, '')} |" for name, value in args.items()]
        for writer in self.writers if not step else ():
            writer.add_text("hyperparameters", "\n".join(["| flag | value | from |", "| --- | --- | --- |", *rows]))
        self.tracked = self.track(args) if args["track"] else []
        total, shown = args["total_timesteps"], {"disable": None, "dynamic_ncols": True, "delay": 1e-3}
        self.bar = tqdm(total=total, initial=step, unit="step", **shown)  # which the first step draws, after the header
        self.first, self.start, self.rate, self.last = step, time.monotonic(), 0.0, "none yet"
        self.said, self.learning, self.learned = self.start, max(step, args.get("learning_starts", 0)), None

    def track(self, args: dict) -> list:
        """A W&B run for each seed, all in one group; a resumed run goes on with them."""
        import wandb

        shared = {"project": args["wandb_project_name"], "entity": args["wandb_entity"], "resume": "allow"}
        shared |= {"dir": self.folder.resolve(), "group": self.folder.name, "reinit": "create_new"}
        runs = []
        for seed in self.seeds:
            name = f"{self.folder.name}__seed-{seed}"
            try:
                runs.append(wandb.init(**shared, id=name, name=name, config=args | {"seed": seed}))
                runs[-1].define_metric("*", step_metric="global_step")
            except Exception as error:  # wandb's own, a refusing server, half an installation
                fail(f"--track: {error}; see wandb's settings, or set WANDB_MODE=offline")
        return runs

    def film(self, step: int, i: int, name: str, path: Path) -> None:
        """Sends the i-th seed's film of a policy to W&B."""
        if self.tracked and path.is_file():
            import wandb

            film = {f"videos/{name}": wandb.Video(str(path), format="mp4")}
            self.tracked[i].log(film | {"global_step": step}, step=step)

    def scalars(self, step: int, metrics: dict, positions=None) -> None:
        """Scalars (S,) of all seeds, or of the seeds at these positions."""
        for i in range(len(self.seeds)) if positions is None else positions:
            values = {name: float(value[i]) for name, value in metrics.items()}
            for name, value in values.items():
                self.writers[i].add_scalar(name, value, step)
            if self.tracked:
                self.tracked[i].log(values | {"global_step": step}, step=step)

    def pictures(self, step: int, agent, replay) -> None:
        """Images of an agent that sees, (S, 3, H, W) in [0, 1], of eight rows from all over the replay."""
        if replay.added:
            uniform = torch.arange(8, dtype=torch.double, device=replay.rows.device) / 8
            images = agent.pictures(replay.sample(uniform.expand(len(self.seeds), -1))[0])
            for writer, image in zip(self.writers, () if images is None else images.cpu()):
                writer.add_image("eval/reconstructions", image, step)

    def evaluation(self, step: int, results: dict) -> None:
        """A row an episode, on disk; readings after the first add the column of their return."""
        (returns, lengths), *others = results.values()
        for i, e in np.ndindex(returns.shape):
            values = [returns[i, e], lengths[i, e], *(other[i, e] for other, _ in others)]
            print(step, self.seeds[i], e, *values, sep=",", file=self.csv)
        self.csv.flush()
        os.fsync(self.csv.fileno())  # the last one no checkpoint follows
        metrics = {"eval/episodic_return": returns.mean(1), "eval/episodic_length": lengths.mean(1)}
        metrics |= {f"eval/episodic_return_{name}": result[0].mean(1) for name, result in list(results.items())[1:]}
        self.scalars(step, metrics)
        self.last = f"{np.nanmean(returns):.1f}"  # of the seeds that have not diverged

    def lost(self, steps: range, episodes: int) -> None:
        """Rows of evaluations that will never be, because every seed has diverged: readers count that as an outcome."""
        head = (self.folder / "evaluations.csv").read_text(encoding="utf-8").split("\n")[0]
        for step in steps:
            for seed, e in itertools.product(self.seeds, range(episodes)):
                print(step, seed, e, "nan", 0, *["nan"] * (head.count(",") - 4), sep=",", file=self.csv)

    def progress(self, step: int, line: bool) -> None:
        """Moves the bar; where there is no terminal, a plain line every half minute and when asked for one."""
        now = time.monotonic()
        self.rate = (step - self.first) / max(now - self.start, 1e-9)
        if self.learned is None and step >= self.learning:  # the steps before are faster, and tell nothing of the rest
            self.learned = step, now
        self.bar.set_postfix_str(f"last evaluation {self.last}", refresh=False)
        self.bar.update(step - self.bar.n)
        if self.bar.disable and (line or now - self.said > 30):
            rate, left, self.said = self.rate, "?", now
            if self.learned and step > self.learned[0]:
                rate = (step - self.learned[0]) / max(now - self.learned[1], 1e-9)
                left = f"{(self.bar.total - step) / rate:.0f}"
            print(f"step {step}, {rate:.0f} steps/s, {left} s left, last evaluation {self.last}", flush=True)

    def speed(self) -> str:
        """How fast the steps of this process were, if it played any."""
        return f", {self.rate:.1f} steps/s" if self.rate else ""

    def sync(self) -> str:
        """Puts on disk what was logged; the text of evaluations.csv."""
        self.csv.flush()
        os.fsync(self.csv.fileno())
        for writer in self.writers:
            writer.flush()
        return (self.folder / "evaluations.csv").read_text(encoding="utf-8")

    def close(self) -> None:
        for end in [x.close for x in (self.bar, self.csv, *self.writers)] + [x.finish for x in self.tracked]:
            with contextlib.suppress(OSError):  # on a full disk, say
                end()
