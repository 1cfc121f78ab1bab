"""The seed axis. A script is written for one seed; that S of them train side by side is because of what stands here.

A script builds its networks of `Linear`, or `Conv2d` and its like, its temperature of `number` and its replay on
`Ring`, and works in trailing axes: `F.relu(self.fc1(x))` is (B, in) -> (B, out) there, and `loss.mean(-1)` a number.
What is built within `side_by_side` has a leading axis of length S besides, which no script sees. A loss is then a
number for each seed; the gradient of their sum is each seed's own, Adam works element by element, and each seed draws
from a stream of its own: no seed can influence another.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from runtime import machine
from runtime.messages import fail
from runtime.products import product

import torch
import torch.nn as nn
import torch.nn.functional as F

NARROW = 24  # a layer with so few outputs keeps its weights turned round: several times faster, on a CPU


class Company:
    """For what is built next: each seed's stream of first weights, and the device."""

    streams: ClassVar = [torch.Generator()]
    device = torch.device("cpu")


@contextlib.contextmanager
def side_by_side(seeds: Iterable[int], device: torch.device) -> Iterator[None]:
    """What is built within has a place for each seed, whose first weights are drawn by a stream of its own."""
    before = Company.streams, Company.device
    Company.streams, Company.device = [torch.Generator().manual_seed(seed) for seed in seeds], device
    try:
        yield
    finally:
        Company.streams, Company.device = before


class Linear(nn.Module):
    """PyTorch's linear layer, (.., B, in) -> (.., B, out), with a weight for each seed.

    Called with several inputs it takes them for one, joined along the last axis, but computes the share of each by
    itself: of a share that comes twice the second costs nothing, nor does a gradient that nobody asks for. With
    copies=2 it is two layers: (B, in) -> (2, B, out) for one input, (2, B, in) -> (2, B, out) for one each. An input in
    bfloat16 has the product in bfloat16 and the bias added in float32.
    """

    def __init__(self, n_in: int, n_out: int, copies: int = 1):
        super().__init__()
        self.turned = n_out < n_in and n_out <= NARROW
        several = (len(Company.streams), copies) if copies > 1 else (len(Company.streams),)
        shape = (n_out, n_in) if self.turned else (n_in, n_out)
        self.weight = nn.Parameter(torch.empty(*several, *shape, device=Company.device))
        self.bias = nn.Parameter(torch.empty(*several, 1, n_out, device=Company.device))
        initialise(self, as_pytorch)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        out, first = self.bias, 0
        for x in inputs:
            part = slice(first, first := first + x.shape[-1])
            if x.dim() < self.weight.dim():  # one input for all copies
                x = x.unsqueeze(-3).expand(*x.shape[:-2], self.weight.shape[1], *x.shape[-2:])
            if self.turned:
                out = product(self.weight[..., part].to(x.dtype), x.mT).mT + out
            else:
                out = product(x, self.weight[..., part, :].to(x.dtype)) + out
        return out

    def like_pytorch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (S, .., out, in) and biases (S, .., out), as PyTorch has them."""
        return self.weight if self.turned else self.weight.mT, self.bias.squeeze(-2)


class LayerNorm(nn.Module):
    """PyTorch's layer norm over the last axis, (B, n) -> (B, n), with a weight for each seed."""

    def __init__(self, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(len(Company.streams), 1, n, device=Company.device))
        self.bias = nn.Parameter(torch.zeros(len(Company.streams), 1, n, device=Company.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


def as_pytorch(weight: torch.Tensor, bias: torch.Tensor, stream: torch.Generator) -> None:
    """The first weights (out, in, ..) and biases (out,) of PyTorch's own layer: uniform on ±1/√in, or one over the
    root of a filter's numbers."""
    bound = 1 / math.sqrt(weight[0].numel())
    for values in (weight, bias):
        values.uniform_(-bound, bound, generator=stream)


@torch.no_grad()
def initialise(module: nn.Module, start: Callable) -> None:
    """Calls start(weight, bias, stream), as of one PyTorch layer, to set every layer of a module, seed by seed. A
    script's own start finds each stream at its beginning: a network more after the others changes none of theirs."""
    for stream in Company.streams if start is not as_pytorch else ():
        stream.manual_seed(stream.initial_seed())
    for layer in (layer for layer in module.modules() if hasattr(layer, "like_pytorch")):
        for weights, biases, stream in zip(*layer.like_pytorch(), Company.streams):
            for weight, bias in zip(weights, biases) if biases.dim() > 1 else [(weights, biases)]:  # copies
                first = torch.empty(weight.shape), torch.empty(bias.shape)
                start(*first, stream)
                weight.copy_(first[0]), bias.copy_(first[1])


def uniform(*shape: int) -> torch.Tensor:
    """Uniform numbers (..) in [0, 1), which stay."""
    return torch.stack([torch.rand(shape, generator=stream) for stream in Company.streams]).to(Company.device)


def number(value: float, trained: bool = True) -> nn.Parameter:
    """One number, (1,), which training may change."""
    return nn.Parameter(torch.full((len(Company.streams), 1), value, device=Company.device), trained)


def drawn(*shape: int) -> nn.Parameter:
    """Standard normal numbers (..), which training changes."""
    first = torch.stack([torch.randn(shape, generator=stream) for stream in Company.streams])
    return nn.Parameter(first.to(Company.device))


def numbers(values: Sequence[float], trained: bool = True) -> nn.Parameter:
    """A row of numbers, (1, n), which training may change: one for each column of a batch (B, n)."""
    row = torch.tensor([values], device=Company.device)
    return nn.Parameter(row.repeat(len(Company.streams), 1, 1), trained)


def rows(flag: str, *shape: int, dtype=torch.float32) -> torch.Tensor:
    """An empty table (..); Refused with the flag that made it so large where all seeds' do not fit."""
    shape, device = (len(Company.streams), *shape), Company.device
    size = math.prod(shape) * dtype.itemsize
    try:
        if device.type == "cpu" and size > machine.memory():  # which the system would promise, and kill for later
            raise RuntimeError
        return torch.empty(shape, device=device, dtype=dtype)
    except RuntimeError:
        fail(f"{flag}: {size * 1e-9:.1f} GB for all seeds do not fit on {device}; choose fewer")


def take(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """table[index], each seed of its own: (C, w), (B,) -> (B, w)."""
    offset = table.shape[1] * torch.arange(len(table), device=table.device)[:, None]
    return table.flatten(0, 1).index_select(0, (index + offset).flatten()).view(*index.shape, -1)


def follow(target: nn.Module, network: nn.Module, tau: float) -> None:
    """Moves a target network a step of tau towards another: θ' ← θ' + τ (θ - θ')."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)


class Adam(torch.optim.Adam):
    """PyTorch's Adam. Its state is there from the start, for checkpoints and CUDA graphs, and `minimise` goes past
    torch.optim's bookkeeping to the fused kernel: on networks this small that takes longer than the kernel."""

    compiler = staticmethod(lambda function: function)  # what makes a function fast, set by a run

    def __init__(self, parameters: Iterable, lr: float, betas: tuple[float, float] = (0.9, 0.999)):
        super().__init__(parameters, lr=lr, betas=betas, fused=True, capturable=Company.device.type == "cuda")
        self.trained, self.functions = [p for group in self.param_groups for p in group["params"]], {}
        for p in self.trained:
            step = torch.zeros((), dtype=torch.float32, device=p.device)  # as a GPU's kernel reads it
            self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        self.columns = [[self.state[p][name] for p in self.trained] for name in ("exp_avg", "exp_avg_sq", "step")]

    def tensors(self) -> list[torch.Tensor]:
        """What a checkpoint keeps of it."""
        return [x for column in self.columns for x in column]

    def minimise(self, loss: Callable[..., tuple[torch.Tensor, dict]], *inputs) -> dict[str, torch.Tensor]:
        """One step on what `loss` returns first for these inputs, a number. What it returns second, by name."""
        name = loss.__name__
        if name not in self.functions:
            self.functions[name] = self.compiler(self.with_gradients(loss))
        seen, gradients = self.functions[name](*inputs)
        self.apply(gradients)
        return seen

    def with_gradients(self, loss: Callable) -> Callable:
        def compute(*inputs):
            value, seen = loss(*inputs)
            gradients = torch.autograd.grad(value.sum(), self.trained)
            gradients = tuple(x.contiguous() for x in gradients)  # the kernel takes them as they lie in memory
            return {name: x.detach() for name, x in seen.items()}, gradients

        return compute

    @torch.no_grad()
    def apply(self, gradients: tuple[torch.Tensor, ...]) -> None:
        """PyTorch's `step` with these gradients."""
        torch._foreach_add_(self.columns[2], 1)
        first = 0
        for group in self.param_groups:
            part = slice(first, first := first + len(group["params"]))
            means, squares, steps = (column[part] for column in self.columns)
            torch._fused_adam_(
                group["params"], gradients[part], means, squares, [], steps, lr=group["lr"], beta1=group["betas"][0],
                beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False,
                maximize=False,
            )  # fmt: skip


def optimizers(agent: nn.Module) -> list[Adam]:
    """The optimizers among an agent's attributes."""
    return [x for x in vars(agent).values() if isinstance(x, Adam)]


def everything(agent: nn.Module) -> list[torch.Tensor]:
    """All that training changes: parameters, targets among them, and what the optimizers keep."""
    return [p.data for p in agent.parameters()] + [x for optimizer in optimizers(agent) for x in optimizer.tensors()]
