"""What a run leaves in its folder and shows on its terminal: config.json, evaluations.csv, TensorBoard, W&B."""

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from runtime.messages import fail

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


def new_folder(env_id: str, script: str, seed: int) -> Path:
    """runs/<environment>__<script>__<seed>__<unix time>; of two in a second the later one gets the next second."""
    stamp, stem = int(time.time()), f"{re.sub('[^A-Za-z0-9._-]', '_', env_id)}__{script}__{seed}__"
    while Path("runs", f"{stem}{stamp}").exists():
        stamp += 1
    return Path("runs", f"{stem}{stamp}")


def describe(script: Path, args, source: dict[str, str], products: str) -> dict:
    """config.json: every value and where it came from, and what ran it."""
    device = torch.cuda.get_device_name() if args.cuda else f"cpu, {torch.get_num_threads()} threads"
    git = f"git -C '{script.parent}' describe --always --dirty --abbrev=40 --exclude='*'"
    code, commit = subprocess.getstatusoutput(git)
    packages = {package.name: package.version for package in importlib.metadata.distributions()}
    config = {"script": script.stem, "args": vars(args) | {"resume": None}, "source": source}
    config |= {"commit": "unknown" if code else commit, "device": device, "products": products}
    return config | {"python": sys.version.split()[0], "packages": packages}


class Logs:
    """The open logs of all seeds. Scalars go to TensorBoard, seed-<n>/, and with --track to W&B, a run a seed."""

    def __init__(self, folder: Path, config: dict, seeds: range, columns: list[str], step: int, size: int):
        """Opens them at a step. What a killed run wrote after it goes; `size` is evaluations.csv's at the step."""
        self.folder, self.seeds, args = folder, seeds, config["args"]
        self.csv = (folder / "evaluations.csv").open("a")
        if size > self.csv.tell():
            fail(f"--resume {folder}: evaluations.csv is shorter than at the checkpoint; start the run again")
        self.csv.truncate(size)
        if not size:
            print("step", "seed", "episode", "return", "length", *columns, sep=",", file=self.csv, flush=True)
        (folder / "config.part").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "config.part").replace(folder / "config.json")
        self.writers = [SummaryWriter(folder / f"seed-{seed}", purge_step=step + 1) for seed in seeds]
        rows = [f"| {name} | {value} | {config['source'].get(name, '')} |" for name, value in args.items()]
        for writer in self.writers if not step else ():
            writer.add_text("hyperparameters", "\n".join(["| flag | value | from |", "| --- | --- | --- |", *rows]))
        self.tracked = self.track(args) if args["track"] else []
        self.bar = tqdm(total=args["total_timesteps"], initial=step, unit="step", disable=None, dynamic_ncols=True)
        self.first, self.start, self.rate, self.last = step, time.monotonic(), 0.0, "none yet"
        self.said = self.start

    def track(self, args: dict) -> list:
        """A W&B run for each seed, all in one group; a resumed run goes on with them."""
        import wandb

        shared = {"project": args["wandb_project_name"], "entity": args["wandb_entity"], "resume": "allow"}
        shared |= {"dir": self.folder.resolve(), "group": self.folder.name, "reinit": "create_new"}
        names = {seed: f"{self.folder.name}__seed-{seed}" for seed in self.seeds}
        runs = [wandb.init(**shared, id=n, name=n, config=args | {"seed": seed}) for seed, n in names.items()]
        for run in runs:
            run.define_metric("*", step_metric="global_step")
        return runs

    def scalars(self, step: int, metrics: dict, positions=None) -> None:
        """Scalars (S,) of all seeds, or of the seeds at these positions."""
        for i in range(len(self.seeds)) if positions is None else positions:
            values = {name: float(value[i]) for name, value in metrics.items()}
            for name, value in values.items():
                self.writers[i].add_scalar(name, value, step)
            if self.tracked:
                self.tracked[i].log(values | {"global_step": step}, step=step)

    def evaluation(self, step: int, results: dict) -> None:
        """A row an episode, flushed; readings after the first add the column of their return."""
        (returns, lengths), *others = results.values()
        for i, e in np.ndindex(returns.shape):
            values = [returns[i, e], lengths[i, e], *(other[i, e] for other, _ in others)]
            print(step, self.seeds[i], e, *values, sep=",", file=self.csv, flush=True)
        metrics = {"eval/episodic_return": returns.mean(1), "eval/episodic_length": lengths.mean(1)}
        metrics |= {f"eval/episodic_return_{name}": result[0].mean(1) for name, result in list(results.items())[1:]}
        self.scalars(step, metrics)
        self.last = f"{returns.mean():.1f}"

    def progress(self, step: int, line: bool) -> None:
        """Moves the bar; where there is no terminal, a plain line every half minute and when asked for one."""
        now = time.monotonic()
        self.rate = (step - self.first) / (now - self.start)
        self.bar.set_postfix_str(f"last evaluation {self.last}", refresh=False)
        self.bar.update(step - self.bar.n)
        if self.bar.disable and (line or now - self.said > 30):
            left, self.said = f"{(self.bar.total - step) / self.rate:.0f}" if self.rate else "?", now
            told = f"step {step}, {self.rate:.0f} steps/s, {left} s left, last evaluation {self.last}"
            print(told, flush=True)

    def sync(self) -> int:
        """Puts on disk what was logged; evaluations.csv's size."""
        self.csv.flush()
        os.fsync(self.csv.fileno())
        for writer in self.writers:
            writer.flush()
        return self.csv.tell()

    def close(self) -> None:
        for end in [x.close for x in (self.bar, self.csv, *self.writers)] + [x.finish for x in self.tracked]:
            with contextlib.suppress(OSError):  # on a full disk, say
                end()
