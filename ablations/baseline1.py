"""Baseline-1 (HPO Table 6): conventional leapfrog in exploration and policy optimization.

    python ablations/baseline1.py --env-id Hopper-v4
    python ablations/baseline1.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python ablations/baseline1.py --env-id Ant-v4 --help                        # flags, with Ant's values

A base policy, SAC's tanh-squashed Gaussian π_θ, proposes an action a_0. With a random momentum ρ_0 ~ N(0, β0⁻¹ I) it
evolves for K leapfrog steps of size ε on the potential U itself, with tempering, and without SAC-HPO's networks:

    ρ ← ρ - ε/2 ∇_a U(s, a);   a ← a + ε ρ;   ρ ← ρ - ε/2 ∇_a U(s, a)                      HPO eq. (12)
    ρ ← ρ √(β_{k-1}/β_k),   U(s, a) = -min(Q1, Q2)(s, a)/α                                HPO eq. (17)

The policy maximises E[ min(Q1, Q2)(s, a_K) - α log π_θ(a_0|s) ] (HPO eq. 15 without its last term), and exploration
evolves its actions too, with a wider momentum. As in SAC-HPO the chain moves u, where a = tanh(u), unless
--leapfrog-space action says otherwise (D6). The critics are SAC's. Against `sac_hpo_continuous.py` this tells what
T_h and σ_h are worth. In action space ∇_a U, which grows with the critics' values, throws actions out of their box,
and four seeds had lower returns with it (docs/earlier.md), so by default it is divided by its length, as in SAC-HPO;
--no-normalize-gradient gives eq. (12) as written, which before the tanh is not told from it (docs/readings.md).
"HPO" is the paper Hamiltonian Policy Optimization; "D1" to "D16" are our readings of it, with their reasons in
docs/method.md.

The seed axis. One process trains S seeds side by side: parameters, optimizer states, replay and environments
have a leading axis of length S. Losses are means over the batch and sums over seeds, Adam works element by
element, and each seed draws from a random stream of its own, so no seed can influence another. Read the shapes
below without their S to read the plain algorithm.

Of `sac_continuous.py` it changes `Args`, `TABLE_FIELDS`, `TABLE`, `LIMITS`, `Agent.noise_shapes`, `Agent.act`,
`Agent.__init__`, `Agent.readings`, `Agent.policy_loss` and `Agent.metrics`; it adds `momentum_stds`, `leapfrog`,
`Agent.start`, `Agent.end`, `Agent.evolve` and `Agent.evolved_mean`.
"""

import copy
import dataclasses
import itertools
import math
import re
import sys
from pathlib import Path
from typing import Literal

sys.path.append(str(Path(__file__).resolve().parent.parent))  # where runtime/ is
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
    q_lr: float = 3e-4  # Adam's learning rate for the critics and the temperature
    alpha: float = 0.2  # entropy temperature, with --autotune its first value (Table 3)
    autotune: bool = False  # tune the temperature towards an entropy of -(action dimensions) (D11)
    policy_layers: int = 2  # hidden layers of the policy, 1 or 2 (Table 4)
    leapfrog_steps: int = 2  # leapfrog steps K (Table 4)
    step_size: float = 0.15  # leapfrog step size ε, in units of the space of the chain (Table 3)
    momentum_std_train: float = 0.1  # standard deviation 1/√β0 of the momentum in training (Table 3, D14)
    momentum_std_explore: float = 1.5  # standard deviation 1/√β0 of the momentum in exploration (Table 3, D14)
    leapfrog_space: Literal["action", "pre-tanh"] = "pre-tanh"  # where the chain lives: u, or a = tanh(u) (D6)
    normalize_gradient: bool = True  # divide ∇_a U by its length; eq. 12 has it raw (docs/earlier.md)


# fmt: off
TABLE_FIELDS = ("alpha", "momentum_std_train", "momentum_std_explore", "step_size", "leapfrog_steps", "policy_layers")
TABLE = {  # HPO Tables 3 and 4: α, 1/√β0 in training, 1/√β0 in exploration, ε (D2), K, l
    "HalfCheetah": (0.2, 1.0, 0.5, 0.2, 3, 2),
    "Hopper": (0.2, 0.1, 1.5, 0.15, 2, 2),
    "Walker2d": (0.2, 0.2, 1.5, 0.15, 3, 2),
    "Ant": (0.2, 0.1, 1.0, 0.1, 3, 1),
    "Humanoid": (0.05, 1.0, 1.0, 0.1, 3, 1),
    "HumanoidBullet": (0.05, 0.4, 1.5, 0.2, 3, 1),
    "HumanoidFlagrunBullet": (0.05, 0.2, 1.0, 0.15, 3, 2),
    "HumanoidFlagrunHarderBullet": (0.05, 0.2, 1.5, 0.15, 3, 2),
}
LIMITS = {  # smallest and largest value of each number
    "learning_starts": (0, 10**12), "batch_size": (1, 10**6), "buffer_size": (1, 10**10), "gamma": (0, 1),
    "tau": (1e-9, 1), "policy_lr": (1e-12, 1), "q_lr": (1e-12, 1), "alpha": (1e-9, 1e6), "policy_layers": (1, 2),
    "momentum_std_train": (1e-6, 1e3), "momentum_std_explore": (1e-6, 1e3),
    "step_size": (0, 100), "leapfrog_steps": (1, 1000),
}
# fmt: on


def table(env_id: str) -> tuple[str, dict]:
    """The paper's row for an environment, Hopper's for one that the paper does not have (D13): its name and values."""
    name = re.sub(r"(Env)?(-v\d+)?$", "", re.split("[:/]", env_id)[-1])
    row = name if name in TABLE else "Hopper"
    return f"HPO Tables 3 and 4, row {row}", dict(zip(TABLE_FIELDS, TABLE[row]))


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


# ------------------------------------------------------------------------------------------------ Hamiltonian dynamics
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

    COMPILED = "act", "critic_gradients", "policy_gradients"

    def __init__(self, args: Args, obs_dim: int, act_dim: int, device: torch.device):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        self.pre_tanh = args.leapfrog_space == "pre-tanh"
        init = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_seeds)]
        self.critic = Critic(init, obs_dim, act_dim)
        self.policy = Policy(init, obs_dim, act_dim, args.policy_layers)
        self.log_alpha = nn.Parameter(torch.full((args.num_seeds, 1), math.log(args.alpha)), args.autotune)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.to(device)
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)
        self.alpha_optimizer = Adam([self.log_alpha], args.q_lr)

    def tensors(self) -> list[torch.Tensor]:
        """All that training changes: weights, temperature, Adam's state."""
        optimizers = self.q_optimizer, self.policy_optimizer, self.alpha_optimizer
        return [p.data for p in self.parameters()] + [x for optimizer in optimizers for x in optimizer.state()]

    def noise_shapes(self) -> tuple[tuple, tuple]:
        """Normal numbers that a step needs for each seed: acting's (a, ρ) and the update's (a', a, ρ)."""
        return (2, self.act_dim), (3, self.args.batch_size, self.act_dim)

    def start(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a chain begins, x_0 (S, B, d), and the log-density (S, B) there: a_0, or u_0 whose tanh it is (D6)."""
        return (self.policy.draw if self.pre_tanh else self.policy.sample)(obs, noise)

    def end(self, x: torch.Tensor, log_prob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The action a_K at the end of a chain and its log-density: clamped, or squashed (D6)."""
        return squash(x, log_prob) if self.pre_tanh else (x.clamp(-1, 1), log_prob)

    def evolve(self, share, x, noise, std: float) -> torch.Tensor:
        """x_K, (S, B, d), from x_0 and ρ_0 = std · noise, by the conventional leapfrog."""

        def force(x):  # ∇_x U = -∇_x min(Q1, Q2)/α, HPO eq. (12)
            actions = x.tanh() if self.pre_tanh else x
            slope = -self.critic.slope(share, actions.detach())[1]
            slope = slope * (1 - actions.square()) if self.pre_tanh else slope  # the chain rule
            if self.args.normalize_gradient:
                return nn.functional.normalize(slope, dim=-1)
            return slope / self.log_alpha.exp().detach()[..., None]

        stds = momentum_stds(std, self.args.leapfrog_steps)
        return leapfrog(force, x, std * noise, self.args.step_size, stds, last=False)[0]

    @torch.no_grad()
    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Exploration: actions (S, d) for obs (S, ds) and noise (S, 2, d) of a_0 and ρ_0."""
        obs, share, std = obs[:, None], self.critic.share(obs[:, None]), self.args.momentum_std_explore
        x, log_prob = self.start(obs, noise[:, :1])
        return self.end(self.evolve(share, x, noise[:, 1:], std), log_prob)[0][:, 0]

    def evolved_mean(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d): the policy's mean and ρ_0 = 0, the schedule of training (D9)."""
        zero = obs.new_zeros(*obs.shape[:2], self.act_dim)
        x, log_prob = self.start(obs, zero)
        x = self.evolve(self.critic.share(obs), x, zero, self.args.momentum_std_train)
        return self.end(x, log_prob)[0]

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
        """Minus the objective, HPO eq. (15), (S,); log-density of a_K (S, B); x_K (S, B, d)."""
        x, log_prob = self.start(obs, noise[:, 1])
        share, alpha, std = self.critic.share(obs), self.log_alpha.exp().detach(), self.args.momentum_std_train
        x = self.evolve(share, x, noise[:, 2], std)
        actions, log_prob = self.end(x, log_prob)  # a clamped coordinate gets no gradient from Q
        q, slope = self.critic.slope(share, actions.detach())
        loss = alpha * log_prob - q - ((actions - actions.detach()) * slope).sum(-1)  # Q's value and its gradient
        return loss.mean(-1), log_prob.detach(), x.detach()

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
        for i in range(2):
            metrics |= {f"losses/qf{i + 1}_{name}": seen[f"q_{name}"][:, i] for name in ("loss", "values")}
        metrics |= {"losses/entropy": -seen["log_prob"].mean(-1), "losses/alpha": self.log_alpha.detach().exp()[:, 0]}
        if self.args.autotune:  # at the temperature after the update
            metrics["losses/alpha_loss"] = metrics["losses/alpha"] * (metrics["losses/entropy"] + self.act_dim)
        if not self.pre_tanh:
            metrics["charts/clamped_fraction"] = (seen["actions"].abs() > 1).float().mean((1, 2))
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
