"""Where and how fast tensors are computed: compilation, CUDA graphs, and copies that nobody waits for."""

import contextlib
import ctypes
import functools
import time
import warnings

from runtime.seeds import everything, optimizers

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map


class Upload:
    """Copies arrays of one shape to a device. A GPU's copy goes through pinned memory, unawaited."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32):
        self.device = device
        self.host = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self.copied = torch.cuda.Event() if device.type == "cuda" else None

    def __call__(self, array: np.ndarray) -> torch.Tensor:
        """The array on the device; on a CPU the tensor is the same at each call."""
        if self.copied:
            self.copied.synchronize()  # the last array has left host memory; by now it has
        self.host.numpy()[:] = array
        out = self.host.to(self.device, non_blocking=True)
        if self.copied:
            self.copied.record()
        return out


class Acting:
    """A function of observations and noise that hands over its actions before a GPU has computed them."""

    def __init__(self, function, shape: tuple[int, ...], device: torch.device):
        self.function, self.upload = function, Upload(shape, device)
        self.arrived = torch.cuda.Event() if device.type == "cuda" else None

    def __call__(self, obs: np.ndarray, noise: torch.Tensor) -> "Acting":
        self.actions = self.function(self.upload(obs), noise).to("cpu", non_blocking=True)
        if self.arrived:
            self.arrived.record()
        return self

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Waits for the actions, and for nothing that was launched after them."""
        if self.arrived:
            self.arrived.synchronize()
        return np.array(self.actions.numpy(), dtype)


class Recorded:
    """A function of tensors as one CUDA graph, recorded at its first call and replayed on the same memory after.

    Recording needs a few trial runs, so whatever they changed in `agent` is put back.
    """

    def __init__(self, function, agent):
        self.function, self.agent, self.graph = function, agent, None

    def __call__(self, *inputs):
        if self.graph is None:
            self.inputs, kept = tree_map(torch.clone, inputs), [(x, x.clone()) for x in everything(self.agent)]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.function(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.function(*self.inputs)
            for x, old in kept:
                x.copy_(old)
        for mine, new in zip(tree_leaves(self.inputs), tree_leaves(inputs)):
            mine.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.outputs


def warm_up(agent, draws, shape: tuple[int, ...], act, *learns) -> float:
    """Acts and learns once, so that all is compiled before the run begins; puts back what that changed. The seconds."""
    start, kept = time.monotonic(), [(x, x.clone()) for x in everything(agent)]
    numbers = draws.step(0)  # not copies, whose strides would be others
    uniform, noise = numbers.updates[0]
    act(torch.zeros(shape, device=uniform.device), numbers.acting)
    for learn in learns:
        learn(uniform, noise)
    for x, old in kept:
        x.copy_(old)
    return time.monotonic() - start


def fast(args, agent, *learns) -> tuple:
    """An agent's acting, (S, ds) -> (S, d), its ways to learn, and the policies of evaluations, as fast as arguments
    and machine allow: acting and each loss with its gradients are compiled."""
    act = agent.act
    if args.compile:
        warnings.filterwarnings("ignore", "TensorFloat32")  # whose 10 bits of precision nobody asked for
        torch._dynamo.config.trace_autograd_ops = True  # so that a loss and its gradients become one graph
        options = None if args.cuda else {"cpp_wrapper": True}  # calls each kernel from C++, not from Python
        compiler = functools.partial(torch.compile, dynamic=False, options=options)
        act = compiler(act)
        for optimizer in optimizers(agent):
            optimizer.compiler = compiler
    with contextlib.suppress(OSError, AttributeError):  # glibc: keep freed memory, whose return costs page faults
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1), libc.mallopt(-3, 32 << 20)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    names = [f"learn {i}" for i in range(len(learns))]
    functions = {"act": lambda obs, noise: act(agent.sees(obs[:, None]), noise)[:, 0]} | dict(zip(names, learns))
    functions |= agent.raw_policies()
    if args.cuda and args.cuda_graphs:
        functions = {name: Recorded(function, agent) for name, function in functions.items()}
    return functions.pop("act"), *(functions.pop(name) for name in names), functions
