"""MCMC policy optimisation (MCMC-PO), stochastic policy: an actor-critic with Hamiltonian Monte Carlo steps.

    python mcmcpo_hmc_continuous.py --env-id Hopper-v4
    python mcmcpo_hmc_continuous.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python mcmcpo_hmc_continuous.py --env-id Ant-v4 --help                        # flags, with Ant's values

A policy, a Gaussian over u whose tanh is the action, may move little from its last version π_θt, the prior. Its sample
u_0 and a momentum ρ_0 ~ N(0, I) take K leapfrog steps towards the posterior of an optimal action given that prior,

    ρ ← ρ - ε/2 ⊙ F(u);   u ← u + ε ⊙ ρ;   ρ ← ρ - ε/2 ⊙ F(u)                           MCMC-PO eqs. (18), (19)
    F = σ_h(s, a, g) g + (1 - σ_h(s, a, g)) T_h(s, a, g),   g = ∇_u U,
    U(s, u) = -min(Q1, Q2)(s, tanh u)/β_t - log π_θt(u|s),                               MCMC-PO eq. (12), D20, D21

where the step sizes ε, one a dimension, are learned with T_h and σ_h: together they are h. By turns (eq. 11) θ, at
fixed h, and h, at the new θ, maximise

    J(θ, h) = E[ min(Q1, Q2)(s, tanh u_K) ] - β_t D̂,                                    MCMC-PO eq. (17)
    D̂ = E[ log π_θ(u_0|s) N(ρ_0) - log π_θt(u_K|s) N(ρ_K) ],

and a PID controller sets β_t so that D̂, a Kullback-Leibler divergence since the steps keep volume, stays at its target
(§4.1). The critics are SAC's without its entropy (D25). The paper's Algorithm 1 is HPO's line by line, and its
Algorithm 2 `leapfrog` without tempering. "D20" to "D27" are our readings, with reasons in docs/mcmcpo.md.

The seed axis: as in `sac_continuous.py`, all tensors lead with the seeds S. Read the shapes without it.

Of `sac_continuous.py` it changes `Args`, `TABLE_FIELDS`, `TABLE`, `LIMITS`, `table`, `Agent`, `Agent.__init__`,
`Agent.tensors`, `Agent.noise_shapes`, `Agent.act`, `Agent.readings`, `Agent.critic_loss`, `Agent.policy_loss`,
`Agent.policy_gradients`, `Agent.update` and `Agent.metrics`; it adds `BETA_MIN`, `log_normal`, `Dynamics`, `leapfrog`,
`Pid`, `Agent.evolve`, `Agent.evolved_mean` and `Agent.dynamics_gradients`.
"""

import copy
import dataclasses
import itertools
import math
import re
import sys
from typing import Literal

from runtime.arguments import RunArgs
from runtime.device import Upload, allocate
from runtime.products import product
from runtime.run import Run, launch

import numpy as np
import torch
import torch.nn as nn

HIDDEN = 256  # units in each hidden layer of the policy and the critics
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # D12


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args(RunArgs):
    # --env-id, --seed, --num-seeds, --total-timesteps and what else every run has stand in runtime/arguments.py
    learning_starts: int = 5_000  # steps of uniformly random actions before the first update (D12)
    batch_size: int = 256  # transitions in an update
    buffer_size: int = 1_000_000  # transitions kept for each seed
    gamma: float = 0.99  # discount factor
    tau: float = 0.005  # step of the target critics towards the critics
    policy_lr: float = 3e-4  # Adam's learning rate for the policy
    dynamics_lr: float = 3e-4  # Adam's learning rate for h
    q_lr: float = 3e-4  # Adam's learning rate for the critics
    leapfrog_steps: int = 5  # leapfrog steps K; 0 is a KL-regularised actor-critic
    step_size: float = 0.1  # first leapfrog step size ε of every dimension, then learned (D24)
    step_unit: Literal["absolute", "std"] = "std"  # unit of ε: of u, or the prior's standard deviation (D24)
    leapfrog_hidden: int = 16  # hidden units of T_h and of σ_h (D27)
    leapfrog_state: bool = True  # let T_h and σ_h see the state (D10)
    normalize_gradient: bool = False  # divide ∇U by its length (D22)
    prior_updates: int = 100  # updates N after which the prior becomes the policy; 1 is Algorithm 1 to the letter (D23)
    distance_target: float = 0.1  # target of D̂, in nats for each action dimension (D26)
    spread_weight: float = 100.0  # what a change of the spread costs besides D̂, in multiples of β; 0 is eq. 17 (D26)
    beta: float = 1.0  # first multiplier β (D26)
    beta_max: float = 1e3  # its largest value
    pid_p: float = 0.01  # K_P (D26)
    pid_i: float = 0.01  # K_I (D26)
    pid_d: float = 0.01  # K_D (D26)
    pid_bound: float = 1.0  # largest error that the controller sees, in targets, so that its integral does not wind up
    evolve_target: bool = False  # evolve the next action of the critics' target too (D25)
    eval_base: bool = False  # let evaluations count the base policy's mean; both readings are recorded (D9)


# fmt: off
TABLE_FIELDS = ("leapfrog_state",)
TABLE = {"HalfCheetah": (True,), "Hopper": (True,), "Walker2d": (True,), "Ant": (False,), "Humanoid": (False,)}
LIMITS = {  # smallest and largest value of each number
    "learning_starts": (0, 10**12), "batch_size": (1, 10**6), "buffer_size": (1, 10**10), "gamma": (0, 1),
    "tau": (1e-9, 1), "policy_lr": (1e-12, 1), "dynamics_lr": (0, 1), "q_lr": (1e-12, 1), "leapfrog_steps": (0, 1000),
    "step_size": (1e-9, 100), "leapfrog_hidden": (1, 10**5), "prior_updates": (1, 10**9),
    "distance_target": (1e-9, 1e3), "spread_weight": (0, 1e9), "beta": (1e-3, 1e9), "beta_max": (1e-3, 1e9),
    "pid_p": (0, 1e6), "pid_i": (1e-9, 1e6), "pid_d": (0, 1e6), "pid_bound": (1e-3, 1e9),
}
# fmt: on
BETA_MIN = 1e-3  # D21


def table(env_id: str) -> tuple[str, dict]:
    """D10's choice for an environment, Hopper's for one that the paper does not have (D13): its name and values."""
    name = re.sub(r"(Env)?(-v\d+)?$", "", re.split("[:/]", env_id)[-1])
    row = name if name in TABLE else "Hopper"
    return f"D10, row {row}", dict(zip(TABLE_FIELDS, TABLE[row]))


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
            x = self.activate(product(x, weight) + bias)
        return product(last, x.mT) + last_bias


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
        return product(obs.repeat_interleave(2, dim=0), self.layers[0][:, : self.obs_dim]) + self.layers[1]

    @torch.no_grad()
    def slope(self, share: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """min(Q1, Q2), (S, B), and its gradient in the action, (S, B, d): that of the smaller critic (D7).

        Q is piecewise linear in a, so this gradient is piecewise constant: masks and transposed weights give it, and
        double backward would hold it constant too. Neither sees its jumps at the kinks of Q (docs/method.md).
        """
        first, _, second, bias, last, last_bias = self.layers
        first = first[:, self.obs_dim :]
        h1 = (product(actions.repeat_interleave(2, dim=0), first) + share).relu_()
        h2 = (product(h1, second) + bias).relu_()
        q1, q2 = (product(last, h2.mT) + last_bias).view(len(actions), 2, -1).unbind(1)
        flow = torch.where(h2 > 0, last, 0)
        flow = torch.where(h1 > 0, product(flow, second.mT), 0)
        slope1, slope2 = product(first, flow.mT).view(len(actions), 2, *actions.mT.shape[1:]).mT.unbind(1)
        return torch.minimum(q1, q2), torch.where((q1 <= q2)[..., None], slope1, slope2)


def squash(pre_tanh: torch.Tensor, log_prob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """tanh(u) and its log-density, from u (.., d) and the log-density (..) of u."""
    log_slope = 2 * (math.log(2) - pre_tanh - nn.functional.softplus(-2 * pre_tanh))  # log(1 - tanh²(u))
    return pre_tanh.tanh(), log_prob - log_slope.sum(-1)


class Policy(Network):
    """tanh-squashed diagonal Gaussian over [-1, 1]^d."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int, layers: int):
        super().__init__(init, 1, [obs_dim, *[HIDDEN] * layers, 2 * act_dim])

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation before the tanh: (S, B, ds) -> 2 × (S, B, d)."""
        mean, log_std = super().forward(obs).mT.chunk(2, dim=-1)
        return mean, log_std.tanh() * (LOG_STD_MAX - LOG_STD_MIN) / 2 + (LOG_STD_MAX + LOG_STD_MIN) / 2

    def draw(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparametrised u (S, B, d), whose tanh is the action, and its log-density (S, B); noise is (S, B, d)."""
        mean, log_std = self(obs)
        log_prob = (-log_std - noise.square() / 2).sum(-1) - noise.shape[-1] * math.log(2 * math.pi) / 2
        return mean + log_std.exp() * noise, log_prob

    def sample(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparametrised action (S, B, d) and its log-density (S, B), for standard normal noise (S, B, d)."""
        return squash(*self.draw(obs, noise))

    def mean_action(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d)."""
        return self(obs)[0].tanh()


# ------------------------------------------------------------------------------------------- Hamiltonian Monte Carlo
def log_normal(z: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """log-density (..) of a Gaussian, its standard deviations as logarithms, z (.., d) of them from its mean."""
    return (-log_std - z.square() / 2).sum(-1) - z.shape[-1] * math.log(2 * math.pi) / 2


class Dynamics(nn.Module):
    """h: T_h (tanh), a gate σ_h for all dimensions (sigmoid), one hidden ELU layer each (D27), and the step sizes ε."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int, hidden: int, sees_state: bool, step):
        super().__init__()
        sizes, self.sees_state = [obs_dim * sees_state + 2 * act_dim, hidden], sees_state  # D10
        self.implicit = Network(init, 1, [*sizes, act_dim], nn.functional.elu_)
        self.gate = Network(init, 1, [*sizes, 1], nn.functional.elu_)
        self.log_step = nn.Parameter(torch.full((len(init), 1, act_dim), math.log(step)))

    def forward(self, obs: torch.Tensor, actions: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """F (S, B, d) of eqs. (18), (19) and the gate (S, B, 1), from (S, B, ds), (S, B, d), (S, B, d)."""
        x = torch.cat([obs, actions, g] if self.sees_state else [actions, g], dim=-1)
        gate = self.gate(x).mT.sigmoid()
        return torch.lerp(self.implicit(x).mT.tanh(), g, gate), gate  # σ g + (1 - σ) T


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


class Pid(nn.Module):
    """β of each seed by PID control of a distance D̂ (MCMC-PO §4.1). Its state (S,) is saved with the weights.

    Δ ← D̂ - target;  ∂ ← D̂ - D̂_prev;  I ← (I + Δ)_+;  β ← (K_P Δ + K_I I + K_D ∂)_+,  where Δ is at most bound · target,
    and β and K_I I at most beta_max, so that the integral does not wind up (D26), and β at least BETA_MIN (D21).
    """

    def __init__(self, args: Args, target: float):
        super().__init__()
        self.args, self.target = args, target
        first = min(args.beta, args.beta_max)
        self.beta, self.integral, self.previous = (
            nn.Parameter(torch.full((args.num_seeds,), value), False) for value in (first, first / args.pid_i, target)
        )

    @torch.no_grad()
    def step(self, distance: torch.Tensor) -> None:
        """One step for D̂ (S,)."""
        gain = self.args
        error = (distance - self.target).clamp(max=gain.pid_bound * self.target)
        change = distance - self.previous
        self.integral.copy_((self.integral + error).clamp(0, gain.beta_max / gain.pid_i))
        beta = gain.pid_p * error + gain.pid_i * self.integral + gain.pid_d * change
        self.beta.copy_(beta.clamp(BETA_MIN, gain.beta_max))
        self.previous.copy_(distance)


class Agent(nn.Module):
    """Networks, dynamics, multiplier and optimizers of all seeds, and one update."""

    COMPILED = "act", "critic_gradients", "policy_gradients", "dynamics_gradients"

    def __init__(self, args: Args, obs_dim: int, act_dim: int, device: torch.device):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        init = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_seeds)]
        self.critic = Critic(init, obs_dim, act_dim)
        self.policy = Policy(init, obs_dim, act_dim, 2)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.prior = copy.deepcopy(self.policy).requires_grad_(False)  # π_θt
        self.dynamics = Dynamics(init, obs_dim, act_dim, args.leapfrog_hidden, args.leapfrog_state, args.step_size)
        self.pid = Pid(args, args.distance_target * act_dim)
        self.updates = nn.Parameter(torch.zeros(args.num_seeds), False)  # since the prior was renewed
        self.to(device)
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        self.dynamics_optimizer = Adam(self.dynamics.parameters(), args.dynamics_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)

    def tensors(self) -> list[torch.Tensor]:
        """All that training changes: weights, prior, controller, Adam's state."""
        optimizers = self.q_optimizer, self.policy_optimizer, self.dynamics_optimizer
        return [p.data for p in self.parameters()] + [x for optimizer in optimizers for x in optimizer.state()]

    def noise_shapes(self) -> tuple[tuple, tuple]:
        """Normal numbers that a step needs for each seed: acting's (u, ρ) and the update's (u', u, ρ, D25's ρ')."""
        acting, updating = (2, 3 + self.args.evolve_target) if self.args.leapfrog_steps else (1, 2)
        return (acting, self.act_dim), (updating, self.args.batch_size, self.act_dim)

    def evolve(self, critic: Critic, obs, prior, u, momentum) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """u_K and ρ_K, (S, B, d) each, from u_0 and ρ_0, and the gate (S, B, 1) at the end: Algorithm 2.

        With --step-unit std the chain moves x, u = μ_t + σ_t x, so that ε counts the prior's deviations.
        `prior` holds its means and log-deviations, (S, B, d) each. U is not piecewise linear in u: what g owes to the
        tanh and to the prior is differentiated, ∇_a Q alone is held constant (D20).
        """
        share, (mean, log_std), beta = critic.share(obs), prior, self.pid.beta[:, None, None]
        centre, scale = (mean, log_std.exp()) if self.args.step_unit == "std" else (0.0, 1.0)

        def force(x):
            u = centre + scale * x
            actions = u.tanh()
            slope = critic.slope(share, actions.detach())[1] * (1 - actions.square())
            g = -scale * (slope / beta + (mean - u) / (2 * log_std).exp())  # ∇_x U, eq. (12)
            g = nn.functional.normalize(g, dim=-1) if self.args.normalize_gradient else g  # D22
            found.append(self.dynamics(obs, actions, g))
            return found[-1][0]

        found, ones = [], [1.0] * (self.args.leapfrog_steps + 1)  # no tempering
        x, momentum = leapfrog(force, (u - centre) / scale, momentum, self.dynamics.log_step.exp(), ones)
        return centre + scale * x, momentum, found[-1][1].detach()

    @torch.no_grad()
    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Exploration: actions (S, d) for obs (S, ds) and noise (S, 2, d) of u_0 and ρ_0."""
        obs = obs[:, None]
        u, _ = self.policy.draw(obs, noise[:, :1])
        if self.args.leapfrog_steps:
            u = self.evolve(self.critic, obs, self.prior(obs), u, noise[:, 1:])[0]
        return u.tanh()[:, 0]

    @torch.no_grad()
    def evolved_mean(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d): the policy's mean and ρ_0 = 0 (D9)."""
        mean, _ = self.policy(obs)
        return self.evolve(self.critic, obs, self.prior(obs), mean, torch.zeros_like(mean))[0].tanh()

    def readings(self) -> dict:
        """The policies that an evaluation runs, noise off; the first is the one that counts."""
        if not self.args.leapfrog_steps:
            return {"base": self.policy.mean_action}
        policies = {"leapfrog": self.evolved_mean, "base": self.policy.mean_action}
        return dict(reversed(policies.items())) if self.args.eval_base else policies

    def critic_loss(self, obs, actions, rewards, next_obs, terminated, noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared Bellman errors and mean values of the twin critics, (S, 2) each."""
        with torch.no_grad():
            u, _ = self.policy.draw(next_obs, noise[:, 0])
            if self.args.evolve_target and self.args.leapfrog_steps:  # D25
                u = self.evolve(self.target, next_obs, self.prior(next_obs), u, noise[:, 3])[0]
            y = rewards + self.args.gamma * (1 - terminated) * self.target(next_obs, u.tanh()).amin(1)
        q = self.critic(obs, actions)
        return ((q - y[:, None]) ** 2).mean(-1), q.detach().mean(-1)

    def policy_loss(self, obs, noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Minus the objective, MCMC-PO eq. (17), (S,), and what it saw on the way, (S,) each."""
        mean, log_std = self.policy(obs)
        u = start = mean + log_std.exp() * noise[:, 1]
        distance = log_normal(noise[:, 1], log_std)
        with torch.no_grad():
            prior = self.prior(obs)
        seen = {"policy_std": log_std.exp().mean((1, 2))}
        if self.args.leapfrog_steps:
            u, momentum, gate = self.evolve(self.critic, obs, prior, u, noise[:, 2])
            distance = distance + (momentum.square() - noise[:, 2].square()).sum(-1) / 2  # log N(ρ_0) - log N(ρ_K)
            seen |= {"move": (u - start).abs().mean((1, 2)), "gate": gate.mean((1, 2))}
        distance = distance - log_normal((u - prior[0]) / prior[1].exp(), prior[1])
        actions, beta = u.tanh(), self.pid.beta[:, None]
        q, slope = self.critic.slope(self.critic.share(obs), actions.detach())
        loss = beta * distance - q - ((actions - actions.detach()) * slope).sum(-1)  # Q's value and its gradient
        if self.args.spread_weight:  # D26: KL of two Gaussians that differ in their spread alone
            ratio = log_std - prior[1]
            loss = loss + self.args.spread_weight * beta * (((2 * ratio).exp() - 1) / 2 - ratio).sum(-1)
        return loss.mean(-1), {name: x.detach() for name, x in (seen | {"distance": distance.mean(-1)}).items()}

    def critic_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `critic_loss` returns, and the gradients of the losses' sum; each loss belongs to one seed."""
        loss, values = self.critic_loss(*inputs)
        return loss.detach(), values, torch.autograd.grad(loss.sum(), self.q_optimizer.parameters)

    def policy_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `policy_loss` returns, and the gradients of the losses' sum in θ."""
        loss, _ = self.policy_loss(*inputs)
        return loss.detach(), torch.autograd.grad(loss.sum(), self.policy_optimizer.parameters)

    def dynamics_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `policy_loss` saw, and the gradients of the losses' sum in h, none without steps."""
        loss, seen = self.policy_loss(*inputs)
        h = self.dynamics_optimizer.parameters if self.args.leapfrog_steps else []
        return seen, torch.autograd.grad(loss.sum(), h) if h else ()

    def update(self, batch: tuple[torch.Tensor, ...], noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of the critics, of θ and h by turns, of multiplier and targets, for noise (S, .., B, d)."""
        q_loss, q_values, gradients = self.critic_gradients(*batch, noise)
        self.q_optimizer.step(gradients)

        policy_loss, gradients = self.policy_gradients(batch[0], noise)
        self.policy_optimizer.step(gradients)  # eq. (11): θ at the old h
        seen, gradients = self.dynamics_gradients(batch[0], noise)
        if gradients:
            self.dynamics_optimizer.step(gradients)  # h at the new θ
        self.pid.step(seen["distance"])

        with torch.no_grad():
            self.updates.copy_((self.updates + 1) % self.args.prior_updates)
            renewed = (self.updates == 0)[:, None, None]
            for old, new in zip(self.prior.parameters(), self.policy.parameters()):
                old.copy_(torch.where(renewed, new, old))  # θ_t, D23
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), self.args.tau)
        return seen | {"q_loss": q_loss, "q_values": q_values, "policy_loss": policy_loss, "replayed": batch[1]}

    def metrics(self, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What an update returned, as scalars (S,) under the names of the logs."""
        metrics = {"losses/qf_loss": seen["q_loss"].mean(-1), "losses/actor_loss": seen["policy_loss"]}
        for i in range(2):
            metrics |= {f"losses/qf{i + 1}_{name}": seen[f"q_{name}"][:, i] for name in ("loss", "values")}
        metrics |= {"losses/distance": seen["distance"], "losses/beta": self.pid.beta.detach().clone()}
        metrics["losses/distance_target"] = torch.full_like(seen["distance"], self.pid.target)
        metrics |= {f"charts/{name}": seen[name] for name in ("policy_std", "move", "gate") if name in seen}
        if self.args.leapfrog_steps:
            steps = self.dynamics.log_step.detach().exp()[:, 0].unbind(-1)
            metrics |= {f"charts/step_size_{i}": step for i, step in enumerate(steps)}
        metrics["charts/clamped_fraction_replay"] = (seen["replayed"].abs() >= 1).float().mean((1, 2))  # by exploring
        return metrics


# -------------------------------------------------------------------------------------------------------------- replay
class Replay:
    """A ring of rows [s, a, r, s', terminated] for each seed, (S, capacity, 2 ds + d + 2).

    `terminated` is 1 where the task ended and 0 where only time ran out: it alone stops the bootstrap."""

    def __init__(self, num_seeds: int, capacity: int, obs_dim: int, act_dim: int, device: torch.device):
        self.columns, self.added = (obs_dim, act_dim, 1, obs_dim, 1), 0
        self.rows = allocate(f"--buffer-size {capacity}", num_seeds, capacity, sum(self.columns), device=device)
        self.offset = capacity * torch.arange(num_seeds, device=device)[:, None]
        self.size = torch.zeros((), dtype=torch.double, device=device)  # a tensor, so that a CUDA graph can read it
        self.upload = Upload((num_seeds, sum(self.columns)), device)

    def add(self, obs, actions, rewards, next_obs, terminated) -> None:
        """Stores one transition a seed: NumPy arrays (S, ds), (S, d), (S,), (S, ds), (S,)."""
        row = np.concatenate([obs, actions, rewards[:, None], next_obs, terminated[:, None]], axis=1)
        self.rows[:, self.added % self.rows.shape[1]] = self.upload(row)
        self.added += 1
        self.size.fill_(min(self.added, self.rows.shape[1]))

    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """s (S, B, ds), a (S, B, d), r (S, B), s' (S, B, ds), terminated (S, B), for uniform (S, B) in [0, 1)."""
        index = (uniform * self.size).long() + self.offset
        rows = self.rows.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)
        obs, actions, rewards, next_obs, terminated = rows.split(self.columns, dim=-1)
        return obs, actions, rewards[..., 0], next_obs, terminated[..., 0]


# ------------------------------------------------------------------------------------------------------------ training
def train(args: Args, run: Run) -> None:
    """HPO Algorithm 1, whose lines are numbered beside ours; `run` resumes, evaluates, saves and logs meanwhile."""
    envs = run.environments()  # one a seed, with actions in [-1, 1] (D6)
    agent = Agent(args, envs.obs_dim, envs.act_dim, run.device)
    replay = Replay(args.num_seeds, min(args.buffer_size, args.total_timesteps), envs.obs_dim, envs.act_dim, run.device)
    act, learn = run.fast(agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
    for step in run.steps(replay):
        if step < max(args.learning_starts, 1):
            actions = envs.random_actions()
        else:
            acting, updating, uniform = run.numbers(step)
            actions = act(envs.obs, acting)  # lines 3, 4
            run.record(learn(uniform, updating))  # lines 7 to 10; on a GPU while the environments step
        replay.add(*envs.step(actions))  # lines 5, 6


if __name__ == "__main__":
    sys.exit(launch(sys.modules[__name__]))
