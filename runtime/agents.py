"""Agents on disk: agent.pt, the last; agent-best.pt, of every seed its best; agents/step-N.pt, with --keep-agents all.

Each holds `step`, `args` and `agent`, a state dict whose tensors lie seed by seed along their first axis, and loads
with `torch.load(path, weights_only=True, map_location="cpu")`.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from runtime.checkpoints import write_file
from runtime.messages import Fault

import numpy as np
import torch


def faults(agent, metrics: dict[str, torch.Tensor], seeds: range) -> Iterator[Fault]:
    """A Fault for every parameter, and every metric (S,), that is not finite."""
    sums = {f"parameter {k}": p.detach().view(len(seeds), -1).sum(1) for k, p in agent.named_parameters()}
    for name, values in (sums | metrics).items():
        for seed, value in zip(seeds, values.tolist()):
            if not math.isfinite(value):
                yield Fault(f"{name} of seed {seed}")


class Agents:
    """The files of a run's agents."""

    def __init__(self, folder: Path, args, agent, keep: bool):
        self.folder, self.agent, self.keep, self.best = folder, agent, keep, None
        self.args = vars(args) | {"resume": None}

    def write(self, path: Path, step: int, **other) -> None:
        content = {"step": step, "args": self.args, "agent": self.agent.state_dict()} | other
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
