"""Agents on disk: agent.pt, the last; agent-best.pt, of every seed its best; agents/step-N.pt, with --keep-agents all.

Each holds `step`, `script`, `form` (runtime/contract.py), `args`, `space`, which is what the environment observes and
how it acts (runtime/spaces.py), and `agent`, a state dict whose tensors lie seed by seed along their first axis. It
loads with `torch.load(path, weights_only=True, map_location="cpu")`; `load` in runtime/home.py makes a policy of it.
"""

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from runtime.checkpoints import BAD_CONTENT, read_agent, write_file
from runtime.contract import form_of
from runtime.messages import Fault, fail, said

import numpy as np
import torch


def faults(agent, metrics: dict[str, torch.Tensor], seeds: range, alive: np.ndarray) -> Iterator[Fault]:
    """A Fault for every parameter, and every metric (S,), that is not finite; of seeds that are alive (S,)."""
    sums = {f"parameter {k}": p.detach().view(len(seeds), -1).sum(1) for k, p in agent.named_parameters()}
    for name, values in (sums | metrics).items():
        for i, value in enumerate(values.tolist()):
            if alive[i] and not math.isfinite(value):
                yield Fault(name, seeds[i], i)


@torch.no_grad()
def begin_with(agent, path: Path, seeds: range, form: int) -> None:
    """--start-from: gives each seed the weights of the same seed in a run's agent.pt, or in another file of an agent;
    where that has one seed alone, of that one. What the optimizers keep begins anew."""
    file, name = path / "agent.pt" if path.is_dir() else path, f"--start-from {path}"
    try:
        saved = read_agent(file)
        theirs = range(saved["args"]["seed"], saved["args"]["seed"] + saved["args"]["num_seeds"])
        weights = {key: value.unflatten(0, (len(theirs), -1)) for key, value in saved["agent"].items()}
    except (OSError, *BAD_CONTENT) as error:
        why = "it holds no agent" if isinstance(error, pickle.PickleError) else said(error)
        fail(f"{name}: {why}; name a run's folder, or an agent's file there")
    if saved.get("form", 1) != form:
        fail(f"{name}: an older code's agent, whose weights meant something else; start with one of today's")
    if lacking := [seed for seed in seeds if seed not in theirs] if len(theirs) > 1 else []:
        fail(f"{name} has seeds {theirs[0]} to {theirs[-1]}, not {lacking[0]}: choose --seed and --num-seeds there")
    mine = {key: value.unflatten(0, (len(seeds), -1)) for key, value in agent.state_dict().items()}
    for key in sorted(mine.keys() | weights.keys()):
        have, want = (tuple(x[key].shape[2:]) if key in x else "none" for x in (weights, mine))
        if have != want:
            alike = "--normalize-observations as there" if "normaliser" in key else "the same script and networks"
            fail(f"{name}: {key} is {have} there and {want} here; start with {alike}")
    places = [theirs.index(seed) if len(theirs) > 1 else 0 for seed in seeds]
    if diverged := [theirs[i] for i in places if not all(x[i].isfinite().all() for x in weights.values())]:
        fail(f"{name}: seed {diverged[0]} diverged there, its weights are not finite; choose other seeds")
    for key, value in mine.items():
        value.copy_(weights[key][places])


class Agents:
    """The files of a run's agents."""

    def __init__(self, folder: Path, script: ModuleType, args, agent, space: dict):
        self.folder, self.agent, self.keep, self.best = folder, agent, args.keep_agents, None
        args = vars(args) | {"resume": None, "start_from": args.start_from and str(args.start_from)}
        name = Path(script.__file__).stem
        self.about = {"script": name, "form": form_of(script), "args": args, "space": space}

    def write(self, path: Path, step: int, **other) -> None:
        content = {"step": step, **self.about, "agent": self.agent.state_dict()} | other
        write_file(path, content, checksum=False)

    def last(self, step: int) -> None:
        self.write(self.folder / "agent.pt", step)

    def evaluated(self, step: int, returns: np.ndarray) -> None:
        """After an evaluation with these mean returns (S,): keeps what improved, and with --keep-agents everything."""
        agent = {name: value.detach().cpu().clone() for name, value in self.agent.state_dict().items()}
        if self.best is None:
            self.best = {"steps": [step] * len(returns), "returns": returns.tolist(), "agent": agent}
        for i, value in enumerate(returns.tolist()):
            if value > self.best["returns"][i]:
                self.best["steps"][i], self.best["returns"][i] = step, value
                for name, weights in self.best["agent"].items():
                    weights.unflatten(0, (len(returns), -1))[i] = agent[name].unflatten(0, (len(returns), -1))[i]
        if step in self.best["steps"]:
            self.write(self.folder / "agent-best.pt", step, **self.best)
        if self.keep:
            (self.folder / "agents").mkdir(exist_ok=True)
            self.write(self.folder / "agents" / f"step-{step}.pt", step)

    def load(self, best: dict | None) -> None:
        """Takes what was best at a checkpoint; what a killed or shorter run found later is forgotten with its step."""
        self.best = best
        if best:
            self.write(self.folder / "agent-best.pt", max(best["steps"]), **best)
