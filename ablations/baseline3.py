"""Baseline-3 (HPO Table 6): Gaussian policy in exploration, proposed leapfrog in policy optimization.
Of `sac_continuous.py` it changes `Args`, `TABLE_FIELDS`, `TABLE`, `LIMITS`, `Agent.__init__`, `Agent.noise_shapes`,
`Agent.readings`, `Agent.policy_loss` and `Agent.metrics`; it adds `Force`, `momentum_stds`, `leapfrog`,
`Agent.evolve` and `Agent.evolved_mean`.

    python ablations/baseline3.py --env-id Hopper-v4
    python ablations/baseline3.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python ablations/baseline3.py --env-id Ant-v4 --help                        # flags, with Ant's values

Exploration plays SAC's tanh-squashed Gaussian π_θ. In training and in evaluation its action a_0, with a momentum
ρ_0 ~ N(0, β0⁻¹ I) that is random in training and zero in evaluation, evolves for K leapfrog steps of size ε:

    ρ ← ρ - ε/2 F(s, a);   a ← a + ε ρ;   ρ ← ρ - ε/2 F(s, a);   ρ ← ρ √(β_{k-1}/β_k)     HPO eqs. (16), (17)
    F(s, a) = σ_h(s, a, g) g + (1 - σ_h(s, a, g)) T_h(s, a, g),   g = ∇_a U / ‖∇_a U‖,   U = -min(Q1, Q2)/α

and θ and h maximise E[ min(Q1, Q2)(s, a_K) - α log π_θ(a_0|s) ] (HPO eq. 15 without its last term). Against SAC this
tells what Hamiltonian dynamics are worth in policy optimization alone (on Ant, Humanoid and HumanoidBullet give SAC
--policy-layers 1, which is Table 4's). "HPO" is the paper Hamiltonian Policy Optimization; "D1" to "D16" are our
readings of it, with their reasons in docs/method.md.

The seed axis. One process trains S seeds side by side: parameters, optimizer states, replay and environments
have a leading axis of length S. Losses are means over the batch and sums over seeds, Adam works element by
element, and each seed draws from a random stream of its own, so no seed can influence another. Read the shapes
below without their S to read the plain algorithm.
"""

import concurrent.futures
import contextlib
import copy
import ctypes
import dataclasses
import difflib
import errno
import hashlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import filelock
import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem
HIDDEN = 256  # units in each hidden layer of the policy and the critics
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # D12
LOG_EVERY = 500  # steps between two rows of losses
BLOCK = 16  # steps for which random numbers are drawn at once


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args:
    env_id: str = "Hopper-v4"  # Gymnasium environment with a one-dimensional Box to observe and a bounded Box to act
    seed: int = 1  # first seed
    num_seeds: int = 1  # seeds trained together: seed, seed + 1, ...
    total_timesteps: int = 1_000_000  # environment steps of each seed
    learning_starts: int = 5_000  # steps of uniformly random actions before the first update (D12)
    batch_size: int = 256  # transitions in an update
    buffer_size: int = 1_000_000  # transitions kept for each seed
    gamma: float = 0.99  # discount factor
    tau: float = 0.005  # step of the target critics towards the critics
    policy_lr: float = 3e-4  # Adam's learning rate for the policy
    q_lr: float = 3e-4  # Adam's learning rate for the critics and the temperature
    alpha: float = 0.2  # entropy temperature, with --autotune its first value (Table 3)
    autotune: bool = False  # tune the temperature towards an entropy of -(action dimensions) (D11)
    policy_layers: int = 2  # hidden layers of the policy, 1 or 2 (Table 4)
    leapfrog_steps: int = 2  # leapfrog steps K (Table 4)
    step_size: float = 0.15  # leapfrog step size ε, in units of the normalised action (Table 3)
    momentum_std_train: float = 0.1  # standard deviation 1/√β0 of the momentum in training (Table 3, D14)
    leapfrog_hidden: int = 32  # hidden units h of T_h and of σ_h (Table 4)
    leapfrog_state: bool = True  # let T_h and σ_h see the state (D10)
    eval_frequency: int = 10_000  # steps between two evaluations
    eval_episodes: int = 10  # episodes in an evaluation of one seed
    cuda: bool = torch.cuda.is_available()  # train on a GPU; by default if there is one
    compile: bool = True  # compile acting and the gradients, which takes up to a minute at the start
    cuda_graphs: bool = True  # on a GPU, record acting and updating once and replay them
    checkpoint_frequency: int = 0  # steps between two checkpoints; 0: one at every evaluation
    resume: Path | None = None  # continue the run in this folder, with its own values
    track: bool = False  # log to Weights & Biases: a run for each seed, all in one group
    wandb_project_name: str = "hamiltonian-policy-optimisation"  # project of --track
    wandb_entity: str | None = None  # user or team of --track
    capture_video: bool = False  # record the first episode of every evaluation


# fmt: off
TABLE_FIELDS = ("alpha", "momentum_std_train", "step_size",
                "leapfrog_steps", "policy_layers", "leapfrog_hidden", "leapfrog_state")
TABLE = {  # HPO Tables 3 and 4: α, 1/√β0 in training, ε (D2), K, l, h; and D10
    "HalfCheetah": (0.2, 1.0, 0.2, 3, 2, 32, True),
    "Hopper": (0.2, 0.1, 0.15, 2, 2, 32, True),
    "Walker2d": (0.2, 0.2, 0.15, 3, 2, 32, True),
    "Ant": (0.2, 0.1, 0.1, 3, 1, 32, False),
    "Humanoid": (0.05, 1.0, 0.1, 3, 1, 64, False),
    "HumanoidBullet": (0.05, 0.4, 0.2, 3, 1, 64, False),
    "HumanoidFlagrunBullet": (0.05, 0.2, 0.15, 3, 2, 32, False),
    "HumanoidFlagrunHarderBullet": (0.05, 0.2, 0.15, 3, 2, 64, False),
}
LIMITS = {  # smallest and largest value of each number
    "seed": (0, 2**32 - 1), "num_seeds": (1, 1024), "total_timesteps": (1, 10**12), "learning_starts": (0, 10**12),
    "batch_size": (1, 10**6), "buffer_size": (1, 10**10), "gamma": (0, 1), "tau": (1e-9, 1), "policy_lr": (1e-12, 1),
    "q_lr": (1e-12, 1), "alpha": (1e-9, 1e6), "policy_layers": (1, 2), "eval_frequency": (1, 10**12),
    "checkpoint_frequency": (0, 10**12), "eval_episodes": (1, 10**4),
    "momentum_std_train": (1e-6, 1e3), "step_size": (0, 100),
    "leapfrog_steps": (1, 1000), "leapfrog_hidden": (1, 10**5),
}
# fmt: on


# ------------------------------------------------------------------------------------------------------------ networks
class Network(nn.Module):
    """A network for each seed, or two with twins=2: N = twins · S networks, the weights drawn seed by seed.

    Weights (N, in, out) and biases are uniform on ±1/√in. The last layer's weights are (N, out, in) and its output has
    the batch as last axis: a narrow product is several times faster so, on a CPU.
    """

    def __init__(self, init: list[torch.Generator], twins: int, sizes: list[int], activate=torch.relu_):
        super().__init__()
        self.layers, self.activate, self.twins = nn.ParameterList(), activate, twins
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            shapes = [(n_in, n_out), (1, n_out)] if i < len(sizes) - 2 else [(n_out, n_in), (n_out, 1)]
            for shape in shapes:
                self.layers.append(torch.empty(twins * len(init), *shape))
                for rows, generator in zip(self.layers[-1].data.split(twins), init):
                    rows.uniform_(-1 / math.sqrt(n_in), 1 / math.sqrt(n_in), generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, in) -> (N, out, B)."""
        x = x if self.twins == 1 else x.repeat_interleave(2, dim=0)
        *hidden, last, last_bias = self.layers
        for weight, bias in zip(hidden[::2], hidden[1::2]):
            x = self.activate(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(last_bias, last, x.mT)


class Critic(Network):
    """Twin critics, with ∇_a Q in closed form."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int):
        super().__init__(init, 2, [obs_dim + act_dim, HIDDEN, HIDDEN, 1])
        self.obs_dim = obs_dim

    def forward(self, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Q1 and Q2, (S, 2, B), at actions (S, B, d)."""
        return super().forward(torch.cat([obs, actions], dim=-1)).view(len(obs), 2, -1)

    @torch.no_grad()
    def share(self, obs: torch.Tensor) -> torch.Tensor:
        """The state's share of the first layer, (2 S, B, HIDDEN), which serves `slope` at many actions."""
        return torch.baddbmm(self.layers[1], obs.repeat_interleave(2, dim=0), self.layers[0][:, : self.obs_dim])

    @torch.no_grad()
    def slope(self, share: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """min(Q1, Q2), (S, B), and its gradient in the action, (S, B, d): that of the smaller critic (D7).

        Q is piecewise linear in a, so this gradient is piecewise constant: masks and transposed weights give it, and
        holding it constant in back-propagation is exact. Double backward would add nothing.
        """
        first, _, second, bias, last, last_bias = self.layers
        first = first[:, self.obs_dim :]
        h1 = torch.baddbmm(share, actions.repeat_interleave(2, dim=0), first).relu_()
        h2 = torch.baddbmm(bias, h1, second).relu_()
        q1, q2 = torch.baddbmm(last_bias, last, h2.mT).view(len(actions), 2, -1).unbind(1)
        flow = torch.where(h2 > 0, last, 0)
        flow = torch.where(h1 > 0, torch.bmm(flow, second.mT), 0)
        slope1, slope2 = torch.bmm(first, flow.mT).view(len(actions), 2, *actions.mT.shape[1:]).mT.unbind(1)
        return torch.minimum(q1, q2), torch.where((q1 <= q2)[..., None], slope1, slope2)


class Policy(Network):
    """tanh-squashed diagonal Gaussian over [-1, 1]^d."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int, layers: int):
        super().__init__(init, 1, [obs_dim, *[HIDDEN] * layers, 2 * act_dim])

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation before the tanh: (S, B, ds) -> 2 × (S, B, d)."""
        mean, log_std = super().forward(obs).mT.chunk(2, dim=-1)
        return mean, log_std.tanh() * (LOG_STD_MAX - LOG_STD_MIN) / 2 + (LOG_STD_MAX + LOG_STD_MIN) / 2

    def sample(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparametrised action (S, B, d) and its log-density (S, B), for standard normal noise (S, B, d)."""
        mean, log_std = self(obs)
        pre_tanh = mean + log_std.exp() * noise
        squash = pre_tanh + nn.functional.softplus(-2 * pre_tanh)  # log(1 - tanh²) = 2 log 2 - 2 squash
        log_prob = (2 * squash - log_std - noise.square() / 2).sum(-1)
        return pre_tanh.tanh(), log_prob - noise.shape[-1] * (2 * math.log(2) + math.log(2 * math.pi) / 2)

    def mean_action(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d)."""
        return self(obs)[0].tanh()


# ------------------------------------------------------------------------------------------------ Hamiltonian dynamics
class Force(Network):
    """F(s, a, g) of HPO eq. (16): one hidden ELU layer each for T_h (tanh) and the gate σ_h (sigmoid) (D1)."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int, hidden: int, sees_state: bool):
        super().__init__(init, 2, [obs_dim * sees_state + 2 * act_dim, hidden, act_dim], nn.functional.elu_)
        self.sees_state = sees_state  # D10

    def forward(self, obs: torch.Tensor, actions: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """(S, B, ds), (S, B, d), (S, B, d) -> (S, B, d)."""
        x = torch.cat([obs, actions, g] if self.sees_state else [actions, g], dim=-1)
        implicit, gate = super().forward(x).mT.unflatten(0, (-1, 2)).unbind(1)
        return torch.lerp(implicit.tanh(), g, gate.sigmoid())  # σ g + (1 - σ) T


def momentum_stds(std: float, steps: int) -> list[float]:
    """1/√β_k for k = 0 .. K from 1/√β0, HPO eq. (17); the last is 1 (D3)."""
    return [(1 - std) * k**2 / steps**2 + std for k in range(steps + 1)] if steps else [std]


def leapfrog(force, actions: torch.Tensor, momentum: torch.Tensor, step_size: float, stds: list[float], last=True):
    """a_K and ρ_K, (.., d) each, from a_0 and ρ_0: HPO eqs. (12) and (16) with tempering, Algorithm 2.

    `force` maps actions to F (.., d); `stds` holds 1/√β_0 to 1/√β_K. F depends on a alone and a rests between
    two momentum half-steps, so F at the end of a step serves the next: K + 1 forces, and K (ρ_K is None) if not `last`.
    """
    f = force(actions) if len(stds) > 1 else None
    for k in range(1, len(stds)):
        momentum = momentum - step_size / 2 * f
        actions = actions + step_size * momentum
        if k == len(stds) - 1 and not last:
            return actions, None
        f = force(actions)
        momentum = momentum - step_size / 2 * f
        momentum = momentum * (stds[k] / stds[k - 1])  # √(β_{k-1}/β_k)
    return actions, momentum


# ------------------------------------------------------------------------------------------------------------ learning
class Adam:
    """Adam by PyTorch's fused kernel, without torch.optim's bookkeeping: on networks this small that takes longer."""

    def __init__(self, parameters: list[nn.Parameter], lr: float):
        self.parameters, self.lr = list(parameters), lr
        self.means, self.squares = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def state(self) -> list[torch.Tensor]:
        return [*self.means, *self.squares, *self.steps]

    def step(self, gradients: tuple[torch.Tensor, ...]) -> None:
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.parameters, gradients, self.means, self.squares, [], self.steps, lr=self.lr, beta1=0.9, beta2=0.999,
            weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip


class Agent(nn.Module):
    """Networks, temperature and optimizers of all seeds, and one update."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int, device: torch.device):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        init = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_seeds)]
        self.critic = Critic(init, obs_dim, act_dim)
        self.policy = Policy(init, obs_dim, act_dim, args.policy_layers)
        self.log_alpha = nn.Parameter(torch.full((args.num_seeds, 1), math.log(args.alpha)), args.autotune)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.force = Force(init, obs_dim, act_dim, args.leapfrog_hidden, args.leapfrog_state)
        self.to(device)
        self.policy_optimizer = Adam([*self.policy.parameters(), *self.force.parameters()], args.policy_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)
        self.alpha_optimizer = Adam([self.log_alpha], args.q_lr)

    def tensors(self) -> list[torch.Tensor]:
        """All that training changes: weights, temperature, Adam's state."""
        optimizers = self.q_optimizer, self.policy_optimizer, self.alpha_optimizer
        return [p.data for p in self.parameters()] + [x for optimizer in optimizers for x in optimizer.state()]

    def noise_shapes(self) -> tuple[tuple, tuple]:
        """Normal numbers that a step needs for each seed: acting's (a) and the update's (a', a, ρ)."""
        return (1, self.act_dim), (3, self.args.batch_size, self.act_dim)

    @torch.no_grad()
    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Exploration: actions (S, d) for obs (S, ds) and noise (S, 1, d)."""
        return self.policy.sample(obs[:, None], noise)[0][:, 0]

    def evolve(self, share, obs, actions, noise, std: float) -> torch.Tensor:
        """a_K before the clamp, (S, B, d), from a_0 and ρ_0 = std · noise."""

        def force(a):  # normalising ∇Q cancels α; where ∇Q is zero, g is zero
            return self.force(obs, a, -nn.functional.normalize(self.critic.slope(share, a)[1], dim=-1))

        stds = momentum_stds(std, self.args.leapfrog_steps)
        return leapfrog(force, actions, std * noise, self.args.step_size, stds, last=False)[0]

    def evolved_mean(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d): a_0 = tanh(mean), ρ_0 = 0, the schedule of training (D9)."""
        actions, share, std = self.policy.mean_action(obs), self.critic.share(obs), self.args.momentum_std_train
        return self.evolve(share, obs, actions, torch.zeros_like(actions), std).clamp(-1, 1)

    def readings(self) -> dict:
        """The policies that an evaluation runs, noise off; the first is the one that counts."""
        return {"leapfrog": self.evolved_mean, "base": self.policy.mean_action}

    def critic_loss(self, obs, actions, rewards, next_obs, terminated, noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared Bellman errors and mean values of the twin critics, (S, 2) each."""
        with torch.no_grad():
            next_actions, next_log_prob = self.policy.sample(next_obs, noise[:, 0])
            next_q = self.target(next_obs, next_actions).amin(1)
            next_value = next_q - self.log_alpha.exp() * next_log_prob
            y = rewards + self.args.gamma * (1 - terminated) * next_value
        q = self.critic(obs, actions)
        return ((q - y[:, None]) ** 2).mean(-1), q.detach().mean(-1)

    def policy_loss(self, obs, noise) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Minus the objective, HPO eq. (15), (S,); log π of a_0 (S, B); a_K before the clamp (S, B, d)."""
        actions, log_prob = self.policy.sample(obs, noise[:, 1])
        share, alpha, std = self.critic.share(obs), self.log_alpha.exp().detach(), self.args.momentum_std_train
        evolved = self.evolve(share, obs, actions, noise[:, 2], std)
        actions = evolved.clamp(-1, 1)  # D6: a clamped coordinate gets no gradient from Q
        q, slope = self.critic.slope(share, actions.detach())
        loss = alpha * log_prob - q - ((actions - actions.detach()) * slope).sum(-1)  # Q's value and its gradient
        return loss.mean(-1), log_prob.detach(), evolved.detach()

    def critic_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `critic_loss` returns, and the gradients of the losses' sum; each loss belongs to one seed."""
        loss, values = self.critic_loss(*inputs)
        return loss.detach(), values, torch.autograd.grad(loss.sum(), self.q_optimizer.parameters)

    def policy_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `policy_loss` returns, and the gradients of the losses' sum."""
        loss, log_prob, actions = self.policy_loss(*inputs)
        return loss.detach(), log_prob, actions, torch.autograd.grad(loss.sum(), self.policy_optimizer.parameters)

    def update(self, batch: tuple[torch.Tensor, ...], noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of the critics, the policy, the temperature and the targets, for noise (S, .., B, d)."""
        q_loss, q_values, gradients = self.critic_gradients(*batch, noise)
        self.q_optimizer.step(gradients)

        policy_loss, log_prob, actions, gradients = self.policy_gradients(batch[0], noise)
        self.policy_optimizer.step(gradients)

        if self.args.autotune:
            alpha_loss = -(self.log_alpha.exp() * (log_prob - self.act_dim)).mean(-1)  # target entropy -d
            self.alpha_optimizer.step(torch.autograd.grad(alpha_loss.sum(), [self.log_alpha]))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), self.args.tau)
        seen = {"q_loss": q_loss, "q_values": q_values, "policy_loss": policy_loss, "log_prob": log_prob}
        return seen | {"actions": actions, "replayed": batch[1]}

    def metrics(self, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What an update returned, as scalars (S,) under the names of the logs."""
        metrics = {"losses/qf_loss": seen["q_loss"].mean(-1), "losses/actor_loss": seen["policy_loss"]}
        for i, (loss, values) in enumerate(zip(seen["q_loss"].unbind(1), seen["q_values"].unbind(1))):
            metrics |= {f"losses/qf{i + 1}_loss": loss, f"losses/qf{i + 1}_values": values}
        metrics |= {"losses/entropy": -seen["log_prob"].mean(-1), "losses/alpha": self.log_alpha.detach().exp()[:, 0]}
        if self.args.autotune:  # at the temperature after the update
            metrics["losses/alpha_loss"] = metrics["losses/alpha"] * (metrics["losses/entropy"] + self.act_dim)
        metrics["charts/clamped_fraction"] = (seen["actions"].abs() > 1).float().mean((1, 2))
        metrics["charts/clamped_fraction_replay"] = (seen["replayed"].abs() >= 1).float().mean((1, 2))  # by exploring
        return metrics

    def refuse_faults(self, metrics: dict[str, torch.Tensor], seeds: range, step: int) -> None:
        """Raises Fault if a parameter or a metric (S,) is not finite."""
        sums = {f"parameter {k}": p.detach().view(len(seeds), -1).sum(1) for k, p in self.named_parameters()}
        for name, values in (sums | metrics).items():
            for seed, value in zip(seeds, values.tolist()):
                if not math.isfinite(value):
                    raise Fault(f"{name} of seed {seed} at step {step}")


# ======================================================================================================================
# The method ends here. What follows keeps it running: replay, evaluation, checkpoints, terminal, and the training loop.


# ------------------------------------------------------------------------------------------- replay and random numbers
class Replay:
    """A ring of rows [s, a, r, s', terminated] for each seed, (S, capacity, 2 ds + d + 2).

    `terminated` is 1 where the task ended and 0 where only time ran out: it alone stops the bootstrap."""

    def __init__(self, num_seeds: int, capacity: int, obs_dim: int, act_dim: int, device: torch.device):
        self.columns, self.added = (obs_dim, act_dim, 1, obs_dim, 1), 0
        try:
            self.rows = torch.empty(num_seeds, capacity, sum(self.columns), device=device)
        except RuntimeError:
            gigabytes = num_seeds * capacity * sum(self.columns) * 4e-9
            fail(f"--buffer-size {capacity}: {gigabytes:.1f} GB for all seeds do not fit on {device}; choose fewer")
        self.offset = capacity * torch.arange(num_seeds, device=device)[:, None]
        self.size = torch.zeros((), dtype=torch.double, device=device)  # a tensor, so that a CUDA graph can read it
        self.newest = torch.empty(num_seeds, sum(self.columns), pin_memory=device.type == "cuda")
        self.copied = torch.cuda.Event() if device.type == "cuda" else None

    def add(self, obs, actions, rewards, next_obs, terminated) -> None:
        """Stores one transition a seed: NumPy arrays (S, ds), (S, d), (S,), (S, ds), (S,)."""
        if self.copied:
            self.copied.synchronize()  # the last row has left host memory; by now it has
        parts = [obs, actions, rewards[:, None], next_obs, terminated[:, None]]
        np.concatenate(parts, axis=1, out=self.newest.numpy(), casting="unsafe")
        self.rows[:, self.added % self.rows.shape[1]].copy_(self.newest, non_blocking=True)
        self.added += 1
        self.size.fill_(min(self.added, self.rows.shape[1]))
        if self.copied:
            self.copied.record()

    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """s (S, B, ds), a (S, B, d), r (S, B), s' (S, B, ds), terminated (S, B), for uniform (S, B) in [0, 1)."""
        index = (uniform * self.size).long() + self.offset
        rows = self.rows.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)
        obs, actions, rewards, next_obs, terminated = rows.split(self.columns, dim=-1)
        return obs, actions, rewards[..., 0], next_obs, terminated[..., 0]


def random_seed(seed: int, step: int, number: int = 0, use: int = 0) -> int:
    """What each random stream starts from. The place in the run alone decides it, so no random state is ever saved,
    and a seed draws the same whichever seeds run beside it. `use` is 0 for episodes, 1 for noise, 2 for warm-up."""
    return int(np.random.SeedSequence([seed, step, number, use]).generate_state(1)[0])


class Draws:
    """The random numbers of each update, drawn for BLOCK steps at once."""

    def __init__(self, seeds: range, acting: tuple, updating: tuple, batch: int, device: torch.device):
        self.seeds, self.stream, self.block = seeds, torch.Generator(device), -1
        self.shapes, self.split = (acting, updating), math.prod(acting)
        self.normal = torch.empty(len(seeds), BLOCK, self.split + math.prod(updating), device=device)
        self.uniform = torch.empty(len(seeds), BLOCK, batch, device=device, dtype=torch.double)

    def step(self, step: int) -> list[torch.Tensor]:
        """The numbers of a step: normal (S, *acting) and (S, *updating), uniform (S, batch) in [0, 1)."""
        if self.block != step // BLOCK:
            self.block = step // BLOCK
            for seed, normal, uniform in zip(self.seeds, self.normal, self.uniform):
                self.stream.manual_seed(random_seed(seed, self.block, use=1))
                normal.normal_(generator=self.stream), uniform.uniform_(generator=self.stream)
        normal, uniform = self.normal[:, step % BLOCK], self.uniform[:, step % BLOCK]
        parts = zip((normal[:, : self.split], normal[:, self.split :]), self.shapes)
        return [part.view(-1, *shape) for part, shape in parts] + [uniform]


# ---------------------------------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(name: str, policy, envs: list[list[gym.Env]], seeds: range, step: int, device, signals=()) -> tuple:
    """Returns and lengths, (S, episodes) each, of one episode of a policy in each of envs[seed][episode].

    An episode's start depends on its seed, the step and its number alone: evaluating draws nothing from
    training, and all policies evaluated at one step meet the same starts. A signal cuts it short.
    """
    for row in envs:
        row[0].name_prefix = f"step-{step}-{name}"  # of its films, if it films
    starts = [[random_seed(s, step, e) for e in range(len(envs[0]))] for s in seeds]
    obs = np.array([[env.reset(seed=n)[0] for env, n in zip(*row)] for row in zip(envs, starts)])
    returns, lengths, running = np.zeros(obs.shape[:2]), np.zeros(obs.shape[:2], int), np.ones(obs.shape[:2], bool)
    while running.any() and not signals:
        actions = policy(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        for i, e in np.argwhere(running):
            obs[i, e], reward, terminated, truncated, _ = envs[i][e].step(actions[i, e])
            returns[i, e] += reward
            lengths[i, e] += 1
            running[i, e] = not (terminated or truncated)
    return returns, lengths


# ------------------------------------------------------------------------------------------------------------ survival
class Fault(Exception):
    """A number that is not finite: what, of which seed, at which step."""


def write_file(path: Path, content, checksum: bool = True) -> None:
    """Writes beside, syncs, renames: under its name a file is whole or absent. Its SHA-256 stands in front."""
    data, beside = io.BytesIO(), path.with_suffix(".part")
    torch.save(content, data)
    try:
        with beside.open("wb") as file:
            file.write(hashlib.sha256(data.getbuffer()).digest() if checksum else b"")
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_file(path: Path):
    """What `write_file` wrote; runs no code that a file may hold. ValueError if it is missing, cut short or altered."""
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError(f"{path} is damaged or missing")
    return torch.load(io.BytesIO(data[32:]), weights_only=True, map_location="cpu")


class Checkpoints:
    """The two newest checkpoints of a run. Replay rows lie in files of their own, each what was new at a checkpoint."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder / "checkpoints", []  # names and the spans of rows that they need
        self.folder.mkdir(exist_ok=True)
        self.lock = filelock.FileLock(folder / "lock")
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            fail(f"{folder} is in use by another process: wait for it, or stop it first")

    def save(self, state: dict, replay: Replay) -> None:
        """Rows first, then the checkpoint that needs them, and only then goes what neither kept one needs."""
        rows, capacity, step = self.kept[-1][1] if self.kept else [], replay.rows.shape[1], state["step"]
        saved, oldest = rows[-1][1] if rows else 0, max(0, step - capacity)
        if step > saved:
            start = max(oldest, saved)
            new = replay.rows[:, torch.arange(start, step, device=replay.rows.device) % capacity]
            write_file(self.folder / f"rows-{start}-{step}.pt", new.cpu())
            rows = [*(span for span in rows if span[1] > oldest), (start, step)]
        name = f"step-{step}.pt"
        write_file(self.folder / name, state | {"rows": rows})
        self.kept = [*(kept for kept in self.kept[-1:] if kept[0] != name), (name, rows)]
        needed = {name for name, _ in self.kept} | {f"rows-{a}-{b}.pt" for _, rows in self.kept for a, b in rows}
        for path in self.folder.iterdir():
            if path.name not in needed:
                path.unlink()

    def load(self, replay: Replay) -> dict:
        """The newest checkpoint whose files are all whole, its rows put into the replay; {} before the first one."""
        paths = sorted(self.folder.glob("step-*.pt"), key=lambda path: -int(path.stem[5:]))
        for path in paths:
            try:
                state = read_file(path)
                for start, stop in state["rows"]:
                    ring = torch.arange(start, stop, device=replay.rows.device) % replay.rows.shape[1]
                    replay.rows[:, ring] = read_file(self.folder / f"rows-{start}-{stop}.pt").to(replay.rows)
            except ValueError as error:
                print(f"{SCRIPT}: {error}: {path.name} cannot be used", file=sys.stderr)
                continue
            replay.added = state["step"]
            replay.size.fill_(min(replay.added, replay.rows.shape[1]))
            self.kept = [(path.name, state["rows"])]
            return state
        table = self.folder.parent / "evaluations.csv"
        if not paths and len(table.read_text().splitlines() if table.exists() else []) < 2:  # killed at its very start
            return {}
        fail(f"--resume {self.folder.parent}: no checkpoint there is whole; start the run again")


class Episodes:
    """The environments of all seeds. Its seed and number decide how an episode starts; with the actions since, which
    a checkpoint keeps, they bring it back in any deterministic simulator."""

    def __init__(self, envs: list[gym.Env], seeds: range):
        self.envs, self.seeds, self.numbers, self.actions = envs, seeds, [0] * len(envs), [[] for _ in envs]
        self.returns, self.over = np.zeros(len(envs)), np.zeros(len(envs), bool)
        mujoco = type(envs[0].unwrapped).__module__.startswith("gymnasium.envs.mujoco")  # it steps outside the GIL
        self.pool = concurrent.futures.ThreadPoolExecutor(4) if mujoco and len(envs) > 7 else None
        self.obs = np.array([env.reset(seed=random_seed(seed, 0))[0] for env, seed in zip(envs, seeds)])

    def step(self, actions: np.ndarray) -> list[np.ndarray]:
        """Observations, rewards and terminated after actions (S, d); what is `over` then waits for `begin`."""

        def play(some):
            return [self.envs[i].step(actions[i])[:4] for i in some]

        numbers = range(len(self.envs))
        parts = self.pool.map(play, np.array_split(numbers, 4)) if self.pool else [play(numbers)]
        outcomes = [outcome for part in parts for outcome in part]
        for past, action in zip(self.actions, actions):
            past.append(action)
        self.obs, rewards, terminated, truncated = map(np.array, zip(*outcomes))
        self.returns, self.over = self.returns + rewards, terminated | truncated
        return self.obs.copy(), rewards, terminated

    def begin(self, i: int, number: int | None = None) -> None:
        """The i-th seed's next episode, or the one with this number."""
        number = self.numbers[i] + 1 if number is None else number
        self.obs[i] = self.envs[i].reset(seed=random_seed(self.seeds[i], 0, number))[0]
        self.numbers[i], self.actions[i], self.returns[i], self.over[i] = number, [], 0, False

    def state(self) -> dict:
        """For a checkpoint: `load` of it plays the episodes in progress again."""
        actions = [torch.from_numpy(np.array(past, np.float32)) for past in self.actions]
        return {"numbers": list(self.numbers), "actions": actions, "obs": torch.from_numpy(self.obs.copy())}

    def load(self, state: dict) -> None:
        if "FlagrunHarder" in self.envs[0].spec.id:  # with its loose cube; PyBullet's other Humanoids are exact
            why = "PyBullet rounds this task's contacts differently from one simulator to the next"
            print(f"{SCRIPT}: {why}: the resumed run may part from the uninterrupted one", file=sys.stderr)
        for i, (number, actions, obs) in enumerate(zip(state["numbers"], state["actions"], state["obs"].numpy())):
            self.begin(i, number)
            for action in actions.numpy():
                self.obs[i], reward, terminated, truncated, _ = self.envs[i].step(action)
                self.returns[i], self.over[i] = self.returns[i] + reward, terminated or truncated
                self.actions[i].append(action)
            if not (same := np.array_equal(obs, self.obs[i])):
                print(f"{SCRIPT}: the simulator is not deterministic; environment {i} begins anew", file=sys.stderr)
            if self.over[i] or not same:
                self.begin(i)


# --------------------------------------------------------------------------------------------------------------- speed
class Recorded:
    """A function of tensors as one CUDA graph, recorded at its first call and replayed on the same memory after.

    Recording needs a few trial runs, so whatever they changed in `agent` is put back.
    """

    def __init__(self, function, agent: Agent):
        self.function, self.agent, self.graph = function, agent, None

    def __call__(self, *inputs: torch.Tensor):
        if self.graph is None:
            self.inputs, kept = [x.clone() for x in inputs], [(x, x.clone()) for x in self.agent.tensors()]
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
        for mine, new in zip(self.inputs, inputs):
            mine.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.outputs


def fast(agent: Agent, replay: Replay) -> tuple:
    """Acting, learning and the evaluated policies, as fast as the arguments and the machine allow."""
    if agent.args.compile:
        warnings.filterwarnings("ignore", "TensorFloat32")  # whose 10 bits of precision nobody asked for
        torch._dynamo.config.trace_autograd_ops = True  # so that a loss and its gradients become one graph
        options = None if agent.args.cuda else {"cpp_wrapper": True}  # calls each kernel from C++, not from Python
        agent.critic_gradients, agent.policy_gradients, agent.act = (
            torch.compile(f, dynamic=False, options=options)
            for f in (agent.critic_gradients, agent.policy_gradients, agent.act)
        )
    with contextlib.suppress(OSError, AttributeError):  # glibc: keep freed memory, whose return costs page faults
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1), libc.mallopt(-3, 32 << 20)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD

    def learn(uniform, noise):
        return agent.update(replay.sample(uniform), noise)

    functions = {"act": agent.act, "learn": learn} | agent.readings()
    if agent.args.cuda and agent.args.cuda_graphs:
        functions = {name: Recorded(function, agent) for name, function in functions.items()}
    return functions.pop("act"), functions.pop("learn"), functions


# --------------------------------------------------------------------------------------- the run's folder and terminal
class Run:
    """The folder of a run and its terminal: configuration, evaluations, TensorBoard, W&B, progress."""

    def __init__(self, args: Args, given: set[str], readings: list[str]):
        self.args, self.seeds, stamp = args, range(args.seed, args.seed + args.num_seeds), int(time.time())
        stem = f"{re.sub('[^A-Za-z0-9._-]', '_', args.env_id)}__{SCRIPT}__{args.seed}__"
        while not args.resume and Path("runs", f"{stem}{stamp}").exists():
            stamp += 1
        self.folder = args.resume or Path("runs", f"{stem}{stamp}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(self.folder)
        table, values = f"HPO Tables 3 and 4, row {table_row(args.env_id)}", vars(args) | {"resume": None}
        source = {name: table if name in TABLE_FIELDS else "default" for name in values}
        if args.resume:
            source = json.loads((self.folder / "config.json").read_text())["source"]
        source |= {name: "command line" for name in values if name in given - {"resume"}}
        device = torch.cuda.get_device_name() if args.cuda else f"cpu, {torch.get_num_threads()} threads"
        describe = f"git -C '{Path(__file__).parent}' describe --always --dirty --abbrev=40 --exclude='*'"
        code, commit = subprocess.getstatusoutput(describe)
        packages = {package.name: package.version for package in importlib.metadata.distributions()}
        self.config = {"script": SCRIPT, "args": values, "source": source, "commit": "unknown" if code else commit}
        self.config |= {"device": device, "python": sys.version.split()[0], "packages": packages}
        print(f"{SCRIPT} on {args.env_id}, seeds {self.seeds[0]} to {self.seeds[-1]}, {device}: {self.folder}")
        for origin in dict.fromkeys(source.values()):
            print(f"  {origin}: {', '.join(f'{k} {v}' for k, v in values.items() if source[k] == origin)}", flush=True)
        self.columns = ["step", "seed", "episode", "return", "length", *(f"return_{name}" for name in readings[1:])]
        self.last, self.rate, self.signals = "none yet", 0.0, []
        self.handlers = {n: signal.signal(n, self.on_signal) for n in (signal.SIGINT, signal.SIGTERM)}

    def open(self, step: int = 0, size: int = 0) -> None:
        """Opens the logs at a step. What a killed run wrote after it goes; `size` is evaluations.csv's at the step."""
        self.csv = (self.folder / "evaluations.csv").open("a")
        if size > self.csv.tell():
            fail(f"--resume {self.folder}: evaluations.csv is shorter than at the checkpoint; start the run again")
        self.csv.truncate(size)
        if not size:
            print(*self.columns, sep=",", file=self.csv, flush=True)
        (self.folder / "config.part").write_text(json.dumps(self.config, indent=2) + "\n")
        (self.folder / "config.part").replace(self.folder / "config.json")
        self.writers = [SummaryWriter(self.folder / f"seed-{seed}", purge_step=step + 1) for seed in self.seeds]
        self.tracked = []
        if self.args.track:
            import wandb

            shared = {"project": self.args.wandb_project_name, "entity": self.args.wandb_entity, "resume": "allow"}
            shared |= {"dir": self.folder.resolve(), "group": self.folder.name, "reinit": "create_new"}
            for seed in self.seeds:
                name, config = f"{self.folder.name}__seed-{seed}", self.config["args"] | {"seed": seed}
                self.tracked.append(wandb.init(**shared, id=name, name=name, config=config))
                self.tracked[-1].define_metric("*", step_metric="global_step")
        self.bar = tqdm(total=self.args.total_timesteps, initial=step, unit="step", disable=None, dynamic_ncols=True)
        self.first, self.start = step, time.monotonic()
        self.said = self.start

    def on_signal(self, number: int, _) -> None:
        """The first signal ends the run after this step of training or evaluation; a second one kills."""
        if self.signals:
            os._exit(128 + number)
        self.signals.append(number)

    def save(self, state: dict, replay: Replay) -> None:
        """A checkpoint, after the logs that it counts on."""
        self.csv.flush()
        os.fsync(self.csv.fileno())
        for writer in self.writers:
            writer.flush()
        self.checkpoints.save(state | {"csv": self.csv.tell(), "last": self.last}, replay)

    def log(self, step: int, metrics: dict, positions=None) -> None:
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
        self.log(step, metrics)
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

    def close(self) -> None:
        for end in [x.close for x in (self.bar, self.csv, *self.writers)] + [x.finish for x in self.tracked]:
            with contextlib.suppress(OSError):  # on a full disk, say
                end()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.checkpoints.lock.release()


# ---------------------------------------------------------------------------------------- command line and environment
def fail(message: str):
    """Bad input: one line, exit code 2."""
    print(f"{SCRIPT}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def table_row(env_id: str) -> str:
    """The paper's name of an environment; Hopper for one that the paper does not have (D13)."""
    name = re.sub(r"(Env)?(-v\d+)?$", "", re.split("[:/]", env_id)[-1])
    return name if name in TABLE else "Hopper"


def parse(argv: list[str]) -> tuple[Args, set[str]]:
    """The arguments in force, and the names of those on the command line, which win over the paper's tables."""
    line = "\0".join(argv)
    env_id = (re.findall("--env[-_]id[=\0]([^\0]+)", line) or [Args.env_id])[-1]
    default = Args(env_id=env_id, **dict(zip(TABLE_FIELDS, TABLE[table_row(env_id)])))
    folder, config = (re.findall("--resume[=\0]([^\0]+)", line) or [None])[-1], {}
    if folder:
        try:
            config = json.loads(Path(folder, "config.json").read_text())
            if config["script"] != SCRIPT:
                fail(f"--resume {folder} is a run of {config['script']}.py: resume it with that script")
            default, env_id = Args(**config["args"]), config["args"]["env_id"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            fail(f"--resume {folder}: no run that this script can read ({error}); name a folder under runs/")
    about = f"{__doc__.splitlines()[0]} From HPO Tables 3 and 4, row {table_row(env_id)}: {', '.join(TABLE_FIELDS)}."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            args = tyro.cli(Args, default=default, args=argv, description=about)
    except SystemExit as stop:
        if stop.code:  # tyro draws a box, whose first paragraph is the message
            fail(re.split("─{9,}", re.sub("[│╭╮╰╯]", "", complaint.getvalue().split("\n", 1)[-1]))[0] + "; see --help")
        raise
    given = {flag[2:].split("=")[0].replace("-", "_").removeprefix("no_") for flag in argv if flag[:2] == "--"}
    for name in given - {"resume"} if folder else ():
        value, old = getattr(args, name), config["args"][name]
        if value != old and not (name == "total_timesteps" and value > old):
            fail(f"--{name.replace('_', '-')} {value} contradicts the run to resume, which has {old}: leave it out")
    return args, given


def check(args: Args) -> None:
    """Refuses values out of range, and what this machine lacks, before anything is written."""
    for name, (low, high) in LIMITS.items():
        if not low <= getattr(args, name) <= high:  # refuses NaN too
            fail(f"--{name.replace('_', '-')} is {getattr(args, name)}: choose a value from {low} to {high}")
    if args.seed + args.num_seeds > 2**32:
        fail(f"--seed {args.seed} leaves no room for {args.num_seeds} seeds below 2**32: choose a smaller one")
    if args.learning_starts >= args.total_timesteps:
        fail(f"--total-timesteps {args.total_timesteps} must exceed --learning-starts {args.learning_starts}")
    if args.cuda and not torch.cuda.is_available():
        advice = "resume where there is one" if args.resume else "start with --no-cuda"
        fail(f"--cuda: PyTorch finds no GPU; {advice}, or install a CUDA build of torch")
    variable, *names = ("CC", "gcc", "clang") if args.cuda else ("CXX", "g++")
    if args.compile and not any(map(shutil.which, [os.environ[variable]] if variable in os.environ else names)):
        fail(f"--compile needs {' or '.join(names)}, or what {variable} names: install it, or start with --no-compile")
    for flag, package in (("track", "wandb"), ("capture_video", "moviepy")):
        if getattr(args, flag) and importlib.util.find_spec(package) is None:
            fail(f"--{flag.replace('_', '-')} needs the package {package}: pip install {package}")
    if args.track and os.environ.get("WANDB_MODE") not in ("offline", "disabled"):
        import wandb

        try:
            if not wandb.login(prompt=False):
                raise ValueError("no account is known")
        except Exception as error:  # also a refused key, no network
            fail(f"--track: {error}; run `wandb login`, or set WANDB_MODE=offline")


@contextlib.contextmanager
def quiet():
    """Keeps off the terminal what a library prints, in C or in Python."""

    def redirect(out: int, err: int) -> None:
        sys.stdout.flush(), sys.stderr.flush()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # C's buffers
        os.dup2(out, 1), os.dup2(err, 2)

    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        redirect(nowhere.fileno(), nowhere.fileno())
    try:
        yield
    finally:
        redirect(*kept)
        os.close(kept[0]), os.close(kept[1])


def make_env(env_id: str, video: bool = False) -> gym.Env:
    """An environment whose actions are normalised to [-1, 1] (D6); refuses what the networks cannot serve."""
    bullet = "Bullet" in env_id
    if bullet and importlib.util.find_spec("pybullet_envs_gymnasium") is None:
        fail(f"--env-id {env_id} needs the package pybullet_envs_gymnasium: pip install pybullet_envs_gymnasium")
    try:
        with warnings.catch_warnings(), quiet() if bullet else contextlib.nullcontext():
            warnings.simplefilter("ignore")  # that a v5 exists is no news here
            if bullet:  # registers its tasks
                importlib.import_module("pybullet_envs_gymnasium")
            env = gym.make(env_id, disable_env_checker=True, **({"render_mode": "rgb_array"} if video else {}))
            if video or bullet:  # which starts its simulator, and greets, at the first reset
                env.reset(seed=0)  # PyBullet goes back to the state of its first reset: let it be the same each time
            if video and not isinstance(env.render(), np.ndarray):  # find out now whether this machine can render
                raise RuntimeError("it draws no rgb_array")
    except gym.error.UnregisteredEnv:
        near = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.4)
        fail(f"--env-id {env_id} is unknown to Gymnasium; the nearest names are {', '.join(near) or 'none'}")
    except Exception as error:  # a missing simulator, a malformed name, no way to render
        fail(f"--env-id {env_id} cannot be made{' with video' if video else ''}: {error or type(error).__name__}")
    obs, act = env.observation_space, env.action_space
    boxes = all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in (obs, act))
    if not (boxes and act.dtype.kind == "f" and act.is_bounded()):
        fail(f"--env-id {env_id} observes {obs} and acts in {act}: choose one that observes a Box of one dimension "
             "and acts in a bounded continuous Box of one dimension")  # fmt: skip
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


# ------------------------------------------------------------------------------------------------------------ training
def train(args: Args, given: set[str] = frozenset()) -> int:
    """HPO Algorithm 1, whose lines are numbered beside ours. Returns the exit code: 0, 128 + n after signal n, or 1
    where a number is no longer finite or the disk is full."""
    check(args)
    device = torch.device("cuda" if args.cuda else "cpu")
    seeds = range(args.seed, args.seed + args.num_seeds)
    episodes = Episodes([make_env(args.env_id) for _ in seeds], seeds)
    eval_envs = [
        [make_env(args.env_id, args.capture_video and e == 0) for e in range(args.eval_episodes)] for _ in seeds
    ]
    obs_dim, act_dim = episodes.obs.shape[1], episodes.envs[0].action_space.shape[0]
    agent = Agent(args, obs_dim, act_dim, device)
    draws = Draws(seeds, *agent.noise_shapes(), args.batch_size, device)
    replay = Replay(args.num_seeds, min(args.buffer_size, args.total_timesteps), obs_dim, act_dim, device)
    act, learn, policies = fast(agent, replay)
    state = torch.empty(args.num_seeds, obs_dim, pin_memory=args.cuda)  # what acting sees, in the host's memory
    fetched = torch.cuda.Event() if args.cuda else None
    run = Run(args, given, list(policies))
    step, evaluated, saved, size, actions = 0, 0, -1, 0, None
    if args.resume and (last := run.checkpoints.load(replay)):
        step, evaluated, saved, size, run.last = (last[k] for k in ("step", "evaluated", "step", "csv", "last"))
        actions = None if last["actions"] is None else last["actions"].numpy()
        for mine, kept in zip(agent.tensors(), last["agent"], strict=True):
            mine.copy_(kept)
        episodes.load(last["episodes"])
    run.open(step, size)
    for seed, row in zip(seeds, eval_envs if args.capture_video else ()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a resumed run's folder has films already
            film = str(run.folder / f"seed-{seed}" / "videos")
            row[0] = gym.wrappers.RecordVideo(row[0], film, episode_trigger=lambda _: True)

    def save() -> int:
        """All that the run needs to go on as if nothing had happened; returns the step."""
        agent.refuse_faults({}, seeds, step)
        content = {"step": step, "evaluated": evaluated, "agent": agent.tensors(), "episodes": episodes.state()}
        run.save(content | {"actions": None if actions is None else torch.tensor(actions)}, replay)
        return step

    def refuse(**numbers: np.ndarray) -> None:
        """Raises Fault where a number (S, ..) is not finite, and names a parameter first: there the cause may lie."""
        if not all(np.isfinite(x).all() for x in numbers.values()):
            agent.refuse_faults({k: x.reshape(len(seeds), -1).sum(1) for k, x in numbers.items()}, seeds, step)

    exit_code, seen, whole = 0, None, True  # whole: not amid an update, so that a checkpoint can be written
    try:
        while True:
            if due := step > evaluated and step % args.eval_frequency == 0:
                results = {n: evaluate(n, p, eval_envs, seeds, step, device, run.signals) for n, p in policies.items()}
                if not run.signals:  # else the resumed run begins it again
                    run.evaluation(step, results)
                    evaluated = step
            if step > saved and step % (args.checkpoint_frequency or args.eval_frequency) == 0:
                saved = save()
            run.progress(step, due)
            if run.signals or step >= args.total_timesteps:
                break

            if actions is not None:  # an environment failed before it could play them
                pass
            elif step >= max(args.learning_starts, 1):
                whole = False
                acting, updating, uniform = draws.step(step)
                state.numpy()[:] = episodes.obs
                played = act(state.to(device, non_blocking=True), acting).to("cpu", non_blocking=True)  # lines 3, 4
                if fetched:
                    fetched.record()
                seen = learn(uniform, updating)  # lines 7 to 10; a GPU does them while the environments step
                if fetched:
                    fetched.synchronize()  # the actions have arrived
                actions, whole = played.numpy().copy(), True
            else:
                streams = [np.random.default_rng(random_seed(seed, step, use=2)) for seed in seeds]
                actions = np.array([stream.uniform(-1, 1, act_dim) for stream in streams], np.float32)

            obs = episodes.obs
            refuse(observation=obs, action=actions)
            next_obs, rewards, terminated = episodes.step(actions)  # line 5
            step, last_actions, actions = step + 1, actions, None
            refuse(observation=next_obs, reward=rewards)
            replay.add(obs, last_actions, rewards, next_obs, terminated)  # line 6; the final observation, not a reset's
            over = np.flatnonzero(episodes.over)
            lengths = [len(past) for past in episodes.actions]
            run.log(step, {"charts/episodic_return": episodes.returns, "charts/episodic_length": lengths}, over)
            if seen and step % LOG_EVERY == 0:
                metrics = agent.metrics(seen)
                agent.refuse_faults(metrics, seeds, step)
                run.log(step, metrics | {"charts/SPS": [run.rate] * args.num_seeds})
            for i in over:
                episodes.begin(i)
        if step > saved:
            saved = save()
    except Fault as fault:
        print(f"\n{SCRIPT}: not finite: {fault}; the checkpoint of step {saved} is", file=sys.stderr)
        exit_code = 1
    except Exception as error:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # an environment failed, say
            if whole:  # keep what there is, and let the traceback tell
                saved = save()
            raise
        kept = "no checkpoint was written" if saved < 0 else f"the checkpoint of step {saved} is whole"
        print(f"\n{SCRIPT}: {error.strerror} at step {step}; {kept}", file=sys.stderr)
        exit_code = 1
    finally:
        with contextlib.suppress(OSError):
            contents = {"step": step, "args": run.config["args"], "agent": agent.state_dict()}
            write_file(run.folder / "agent.pt", contents, checksum=False)
        for env in [*episodes.envs, *(env for row in eval_envs for env in row)]:
            env.close()
        run.close()
    ended = "stopped" if run.signals or exit_code else "done"
    print(f"{ended} at step {step}, {run.rate:.1f} steps/s: {run.folder}")
    if ended == "stopped" and saved >= 0:
        print(f"go on with: python {shlex.quote(os.path.relpath(__file__))} --resume {shlex.quote(str(run.folder))}")
    return 128 + run.signals[0] if run.signals else exit_code


if __name__ == "__main__":
    sys.exit(train(*parse(sys.argv[1:])))
