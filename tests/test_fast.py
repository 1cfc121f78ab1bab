"""The fast path: compiled losses, recorded graphs, the order that lets them overlap."""

import contextlib
import os
import shutil

from runtime import device, run
from runtime.seeds import side_by_side
from runtime.streams import Draws

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import SCRIPTS, normals, quick
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CPU = torch.device("cpu")


def trained(script, updates, prepare, where=CPU, dtype=torch.double, drawn=None, **flags):
    """Parameters and the last losses after some updates on made-up rows; `prepare` picks act, learn and policies, and
    `drawn` is the device whose streams draw, if not the one that learns."""
    small = {"num_seeds": 2, "batch_size": 32, "cuda": where.type == "cuda", "compile": False, "autotune": True}
    args = script.Args(**(small | flags))
    args.total_timesteps = 300
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with side_by_side(range(1, 3), where):
        agent, replay = script.Agent(args, 11, 3), script.Replay(args, 11, 3)
    torch.set_default_dtype(before)
    replay.rows, replay.upload.host = replay.rows.to(dtype), replay.upload.host.to(dtype)
    draws = Draws(range(1, 3), *agent.noise_shapes(), args.batch_size, drawn or where)
    draws.normal = draws.normal.to(dtype)
    act, learn, policies = prepare(args, agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
    rng, obs = np.random.default_rng(0), normals(2, 11).to(where, dtype)
    actions = []
    for i in range(updates + 20):
        action = np.tanh(rng.normal(size=(2, 3)))
        replay.add(rng.normal(size=(2, 11)), action, rng.normal(size=2), rng.normal(size=(2, 11)), rng.random(2) < 0.1)
        if i >= 20:
            numbers = tree_map(lambda x: x.to(where), draws.step(i))
            actions.append(act(obs, numbers.acting).clone())
            seen = learn(*numbers.updates[0])
            if i % 10 == 0:  # evaluating between two updates
                actions.append(next(iter(policies.values()))(obs[:, None])[:, 0].clone())
    seen = {name: value.clone() for name, value in agent.metrics(seen).items()}
    return {name: p.detach().cpu() for name, p in agent.state_dict().items()}, torch.stack(actions).cpu(), seen


def distance(left, right):
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler here")
def test_compiled_losses_equal_plain_ones(script):
    """The same parameters and actions after 25 updates, in double precision."""
    flags = {"leapfrog_steps": 1} if script is SCRIPTS["hpo"] else {}  # K steps compile K times as long
    plain, actions, _ = trained(script, 25, device.fast, **flags)
    compiled, same, _ = trained(script, 25, device.fast, compile=True, **flags)
    start, _, _ = trained(script, 1, device.fast, **flags)
    assert distance(plain, start) > 1e-3 and distance(plain, compiled) < 1e-9
    assert torch.allclose(actions, same, atol=1e-9)


class Tape(TorchDispatchMode):
    """A stand-in for CUDA graphs on a CPU: notes each operation, and repeats it on the same memory.

    What a real recording freezes is frozen here too: Python values, shapes, addresses. Reading a number is refused.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError(f"a recording cannot wait for {function}")
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, out in self.operations:
                new = function(*args, **kwargs)
                for old, value in zip(*(x if isinstance(x, (list, tuple)) else [x] for x in (out, new))):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != value.data_ptr():
                        old.copy_(value)


@pytest.fixture
def tapes(monkeypatch):
    """torch.cuda's graph interface, played by a Tape; returns the tapes made."""
    made = []

    def tape():
        made.append(Tape())
        return made[-1]

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", tape)
    monkeypatch.setattr(torch.cuda, "graph", lambda tape: tape)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return made


def recorded(args, agent, learn):
    """What `fast` does on a GPU."""
    act, learn, policies = device.fast(args, agent, learn)
    policies = {name: device.Recorded(policy, agent) for name, policy in policies.items()}
    return device.Recorded(act, agent), device.Recorded(learn, agent), policies


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_recorded_graphs_equal_plain_calls(member, tapes):
    """Updates, with acting and evaluating between them, equal to the bit; recording changes nothing, Adam included."""
    plain, actions, metrics = trained(member, 12, device.fast)
    again, same, more = trained(member, 12, recorded)
    assert len(tapes) == 3 and all(len(tape.operations) > 5 for tape in tapes)
    assert distance(plain, again) == 0 and torch.equal(actions, same)
    assert all(torch.equal(value, more[name]) for name, value in metrics.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("compiled", [False, True])
def test_recorded_graphs_equal_plain_calls_on_a_gpu(member, compiled):
    """As above on real CUDA graphs, within float64 rounding."""
    if compiled and member not in SCRIPTS.values():
        pytest.skip("compiling seven scripts takes minutes")
    gpu = torch.device("cuda")
    plain, actions, _ = trained(member, 50, device.fast, gpu, cuda_graphs=False)
    again, same, _ = trained(member, 50, device.fast, gpu, compile=compiled)
    assert distance(plain, again) < 1e-8 and torch.allclose(actions, same, rtol=0, atol=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_computes_what_a_cpu_does(member):
    """Actions and parameters of five updates with the same draws, in double precision."""
    outcomes = []
    for where in (CPU, torch.device("cuda")):
        weights, actions, _ = trained(member, 5, device.fast, where, drawn=CPU, cuda_graphs=False)
        outcomes.append(weights | {"actions": actions})
    assert distance(*outcomes) < 1e-8


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_environment_steps_after_the_update_is_launched(script, monkeypatch):
    """Act, learn, step, store: so a GPU updates while the environment steps, and no batch holds that step's row."""
    order, original = [], device.fast

    def watched(args, agent, learn):
        act, learn, policies = original(args, agent, learn)

        def noting_act(*inputs):
            order.append("act")
            return act(*inputs)

        def noting_learn(*inputs):
            replay = runs[0].replay
            order.append(("learn", replay.added, float(replay.size)))
            return learn(*inputs)

        return noting_act, noting_learn, policies

    class Noting(gym.Wrapper):
        def step(self, action):
            order.append("step")
            return super().step(action)

    add, make = script.Replay.add, run.make_env
    monkeypatch.setattr(device, "fast", watched)
    monkeypatch.setattr(script.Replay, "add", lambda *a: order.append("add") or add(*a))
    monkeypatch.setattr(run, "make_env", lambda *a: Noting(make(*a)))
    runs = [run.Run(script, quick(script, total_timesteps=44, eval_frequency=100, buffer_size=42))]
    assert runs[0].train() == 0
    expected = ["step", "add"] * 40
    for t in range(40, 44):
        expected += ["act", ("learn", t, min(t, 42)), "step", "add"]
    assert order == expected
