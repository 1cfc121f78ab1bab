"""Baseline-1 (HPO Table 6): conventional leapfrog in exploration and policy optimization.

    python ablations/baseline1.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python ablations/baseline1.py --env-id Ant-v4 --help                        # flags, with Ant's values

SAC's policy, a Gaussian N_θ of u whose tanh is the action, draws u_0, and a momentum ρ_0 ~ N(0, β0⁻¹ I) is drawn beside
it. The pair takes K leapfrog steps of size ε on the potential U(s, a) = -min(Q1, Q2)(s, a)/α, without SAC-HPO's
networks:

    ρ ← ρ - ε/2 g;   u ← u + ε ρ;   ρ ← ρ - ε/2 g;   ρ ← ρ √(β_{k-1}/β_k)                 HPO eqs. (12), (17)
    g = ∇_u U / ‖∇_u U‖,   a = tanh(u)

a_K = tanh(u_K) is played, stored and valued, and θ maximises, by eq. (15) without its last term,

    J(θ) = E[ min(Q1, Q2)(s, a_K) - α (log N_θ(u_0|s) - Σ log(1 - a_K²)) ]

Exploration moves its actions too, with a momentum of its own width; the twin critics are SAC's. Against
`sac_hpo_continuous.py` this tells what T_h and σ_h are worth. Eq. (12) does not divide ∇U by its length. Where a moves
in place of u (D6), ∇U, which grows with the critics' values, then throws actions out of their box, and four seeds had
lower returns (docs/lab/earlier.md). --no-normalize-gradient does as eq. (12) has it, and where u moves we cannot tell
the two apart (docs/lab/readings-old-start.md). "HPO" is the paper Hamiltonian Policy Optimization; D and a number is
one of our readings of it, with its reason in docs/method.md.

The file is written for one seed, B stands for a batch, ds and d for the sizes of states and actions. `run` trains
several seeds of it side by side (runtime/seeds.py).

Of `sac_hpo_continuous.py` it changes `Args`, `COLUMNS`, `TABLE`, `LIMITS`, `Agent.__init__`, `Agent.noise_shapes`,
`Agent.evolve`, `Agent.act`, `Agent.evolved_mean`, `Agent.policies` and `Agent.policy_loss`; it lacks `IDLE` and
`Force`; and `Agent.critic_loss` is that of `sac_continuous.py`.
"""

import copy
import dataclasses
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))  # where runtime/ is
from runtime.arguments import RunArgs
from runtime.contract import Learner, twin_metrics
from runtime.replay import Ring
from runtime.run import Run, launch
from runtime.seeds import Adam, Linear, follow, initialise, number, take

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

HIDDEN = 256  # units in each hidden layer of the policy and the critics
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # D12
FORM = 2  # of saved weights: in older files, of form 1, a scaled tanh bounds the log-std (D12)


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args(RunArgs):
    # --env-id, --seed, --num-seeds, --total-timesteps and what else every run has stand in runtime/arguments.py
    random_steps: int = 10_000  # first steps, of random actions; --learning-starts alone sets both (D12)
    learning_starts: int = 256  # steps before the first update (D12)
    batch_size: int = 256  # transitions in an update
    buffer_size: int = 1_000_000  # transitions kept for each seed
    gamma: float = 0.99  # discount factor
    tau: float = 0.005  # step of the target critics towards the critics
    policy_lr: float = 3e-4  # Adam's learning rate for the policy
    q_lr: float = 3e-4  # Adam's learning rate for the critics and the temperature
    alpha: float = 0.2  # entropy temperature, with --autotune its first value (Table 3)
    autotune: bool = False  # tune the temperature towards --target-entropy (D11)
    target_entropy: float | None = None  # entropy that --autotune aims at; by default -(action dimensions) (D11)
    policy_layers: int = 2  # hidden layers of the policy, 1 or 2
    leapfrog_steps: int = 2  # leapfrog steps K (Table 4)
    step_size: float = 0.15  # leapfrog step size ε, in units of u (Table 3)
    momentum_std_train: float = 0.1  # standard deviation 1/√β0 of the momentum in training (Table 3, D14)
    momentum_std_explore: float = 1.5  # standard deviation 1/√β0 of the momentum in exploration (Table 3, D14)
    normalize_gradient: bool = True  # divide ∇U by its length; eq. 12 has it raw (docs/lab/earlier.md)


COLUMNS = "alpha", "momentum_std_train", "momentum_std_explore", "step_size", "leapfrog_steps", "policy_layers"
TABLE = {name: dict(zip(COLUMNS, row)) for name, *row in [  # HPO Tables 3 and 4 (D2)
    # environment                 α     1/√β0 tr, exp  ε   K  l
    ("HalfCheetah",                 0.2,  1.0, 0.5, 0.2,  3, 2),
    ("Hopper",                      0.2,  0.1, 1.5, 0.15, 2, 2),
    ("Walker2d",                    0.2,  0.2, 1.5, 0.15, 3, 2),
    ("Ant",                         0.2,  0.1, 1.0, 0.1,  3, 1),
    ("Humanoid",                    0.05, 1.0, 1.0, 0.1,  3, 1),
    ("HumanoidBullet",              0.05, 0.4, 1.5, 0.2,  3, 1),
    ("HumanoidFlagrunBullet",       0.05, 0.2, 1.0, 0.15, 3, 2),
    ("HumanoidFlagrunHarderBullet", 0.05, 0.2, 1.5, 0.15, 3, 2),
]}  # fmt: skip
LIMITS = {  # smallest and largest value of each number
    "alpha": (1e-9, 1e6), "target_entropy": (-1e6, 1e6), "policy_layers": (1, 2), "leapfrog_steps": (1, 1000),
    "step_size": (0, 100), "momentum_std_train": (1e-6, 1e3), "momentum_std_explore": (1e-6, 1e3),
}  # fmt: skip
FORMER = {"leapfrog_space": "pre-tanh"}  # flags of older runs, and the value of each that is left (D6)


def table(env_id: str, autotune: bool = True) -> tuple[str, dict]:
    """The paper's row for an environment: its name and values. One that the paper does not have takes Hopper's (D13)
    and, since no α of the paper's was meant for it, tunes the temperature from 1 on, unless told not to (D11)."""
    name = re.sub(r"(Env)?(-v\d+)?$", "", re.split("[:/]", env_id)[-1])
    if name in TABLE:
        return f"HPO Tables 3 and 4, row {name}", TABLE[name]
    if not autotune:
        return "HPO Tables 3 and 4, row Hopper", TABLE["Hopper"]
    return "HPO Tables 3 and 4, row Hopper, a tuned temperature", TABLE["Hopper"] | dict(autotune=True, alpha=1.0)


# ------------------------------------------------------------------------------------------------------------ networks
def start(weight: Tensor, bias: Tensor, stream: torch.Generator) -> None:
    """First weights (out, in) and biases (out,) of a layer: Xavier's uniform, and zero (D12)."""
    bound = math.sqrt(6 / sum(weight.shape))
    weight.uniform_(-bound, bound, generator=stream)
    bias.zero_()


class Critic(nn.Module):
    """Twin critics Q1 and Q2: every layer twice."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.fc1 = Linear(obs_dim + act_dim, HIDDEN, copies=2)
        self.fc2 = Linear(HIDDEN, HIDDEN, copies=2)
        self.q = Linear(HIDDEN, 1, copies=2)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q1 and Q2, (2, B), at states (B, ds) and actions (B, d)."""
        x = F.relu(self.fc1(obs, action))
        x = F.relu(self.fc2(x))
        return self.q(x).squeeze(-1)

    def smaller(self, obs: Tensor, action: Tensor) -> Tensor:
        """min(Q1, Q2), (B,)."""
        return self(obs, action).amin(-2)


class Policy(nn.Module):
    """Diagonal Gaussian of u, whose tanh is the action."""

    def __init__(self, obs_dim: int, act_dim: int, layers: int):
        super().__init__()
        self.fc1 = Linear(obs_dim, HIDDEN)
        self.fc2 = Linear(HIDDEN, HIDDEN) if layers == 2 else None
        self.mean = Linear(HIDDEN, act_dim)
        self.log_std = Linear(HIDDEN, act_dim)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of u, (B, d) each, at states (B, ds)."""
        x = F.relu(self.fc1(obs))
        x = F.relu(self.fc2(x)) if self.fc2 else x
        return self.mean(x), self.log_std(x).clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparametrised u (B, d) and log N(u) (B,), for standard normal noise (B, d)."""
        mean, log_std = self(obs)
        log_prob = (-log_std - noise.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)
        return mean + log_std.exp() * noise, log_prob

    def mean_action(self, obs: Tensor) -> Tensor:
        """The action with the noise off, (B, d)."""
        return self(obs)[0].tanh()


def squash(u: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u) and its log-density log N(u) - Σ log(1 - a²), from u (B, d) and log N(u) (B,)."""
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # log(1 - tanh²(u)), without cancellation
    return u.tanh(), log_prob - log_slope.sum(-1)


# ------------------------------------------------------------------------------------------------ Hamiltonian dynamics
def action_gradient(critic: Critic, obs: Tensor, action: Tensor) -> Tensor:
    """∇_a min(Q1, Q2), (B, d), that of the smaller critic (D7), which back-propagation holds constant: a critic of
    ReLUs is piecewise linear in a, so its gradient is piecewise constant, and its jumps no pathwise gradient sees."""
    with torch.enable_grad():
        action = action.detach().requires_grad_()
        return torch.autograd.grad(critic.smaller(obs, action).sum(), action)[0]


def momentum_stds(std: float, steps: int) -> list[float]:
    """1/√β_k for k = 0 .. K from 1/√β0, HPO eq. (17); the last is 1 (D3)."""
    return [(1 - std) * k**2 / steps**2 + std for k in range(steps + 1)] if steps else [std]


def leapfrog(force, u: Tensor, momentum: Tensor, step_size: float, stds: list[float], with_momentum: bool = True):
    """u_K and ρ_K, (B, d) each, from u_0 and ρ_0: HPO eqs. (12) and (16) with tempering, Algorithm 2.

    `force` maps u to F (B, d); `stds` holds 1/√β_0 to 1/√β_K. F depends on u alone, which rests between two momentum
    half-steps, so F at the end of a step serves the next: K + 1 forces, and K (ρ_K is None) if not `with_momentum`.
    """
    f = force(u) if len(stds) > 1 else None
    for k in range(1, len(stds)):
        momentum = momentum - step_size / 2 * f
        u = u + step_size * momentum
        if k == len(stds) - 1 and not with_momentum:
            return u, None
        f = force(u)
        momentum = momentum - step_size / 2 * f
        momentum = momentum * (stds[k] / stds[k - 1])  # √(β_{k-1}/β_k)
    return u, momentum


# ------------------------------------------------------------------------------------------------------------ learning
class Agent(Learner):
    """Networks, temperature and optimizers, and an update of them."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        self.critic = Critic(obs_dim, act_dim)
        self.policy = Policy(obs_dim, act_dim, args.policy_layers)
        self.log_alpha = number(math.log(args.alpha), args.autotune)
        initialise(self, start)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)
        self.alpha_optimizer = Adam([self.log_alpha], args.q_lr)

    def noise_shapes(self) -> tuple[dict, dict]:
        """Standard normal numbers that a step needs, by name: to act, and to update."""
        one, batch = (1, self.act_dim), (self.args.batch_size, self.act_dim)
        return {"action": one, "momentum": one}, {"next_action": batch, "action": batch, "momentum": batch}

    def evolve(self, obs: Tensor, u: Tensor, noise: Tensor, std: float) -> Tensor:
        """u_K, (B, d), from u_0 and ρ_0 = `std` times normal noise, by the conventional leapfrog."""

        def force(u: Tensor) -> Tensor:  # ∇_u U = -∇_u min(Q1, Q2)/α, HPO eq. (12)
            action = u.tanh()
            slope = -action_gradient(self.critic, obs, action) * (1 - action.square())
            if self.args.normalize_gradient:
                return F.normalize(slope, dim=-1)
            return slope / self.log_alpha.exp().detach().unsqueeze(-1)

        stds = momentum_stds(std, self.args.leapfrog_steps)
        return leapfrog(force, u, std * noise, self.args.step_size, stds, with_momentum=False)[0]

    @torch.no_grad()
    def act(self, obs: Tensor, noise: NamedTuple) -> Tensor:
        """Exploration: an action (1, d) at a state (1, ds)."""
        u, log_prob = self.policy.sample(obs, noise.action)
        u = self.evolve(obs, u, noise.momentum, self.args.momentum_std_explore)
        return squash(u, log_prob)[0]

    def evolved_mean(self, obs: Tensor) -> Tensor:
        """The action with the noise off, (B, d): the policy's mean and ρ_0 = 0, the schedule of training (D9)."""
        zero = obs.new_zeros(*obs.shape[:-1], self.act_dim)
        u, log_prob = self.policy.sample(obs, zero)
        u = self.evolve(obs, u, zero, self.args.momentum_std_train)
        return squash(u, log_prob)[0]

    def policies(self) -> dict:
        """The policies that an evaluation runs, noise off, (B, ds) -> (B, d); the first is the one that counts."""
        return {"leapfrog": self.evolved_mean, "base": self.policy.mean_action}

    def critic_loss(self, batch: "Batch", noise: NamedTuple) -> tuple[Tensor, dict]:
        """Squared Bellman errors of the twin critics, summed."""
        with torch.no_grad():
            u, log_prob = self.policy.sample(batch.next_obs, noise.next_action)
            next_action, next_log_prob = squash(u, log_prob)
            next_q = self.target.smaller(batch.next_obs, next_action)
            next_value = next_q - self.log_alpha.exp() * next_log_prob
            y = batch.reward + self.args.gamma * (1 - batch.terminated) * next_value
        q = self.critic(batch.obs, batch.action)  # (2, B)
        losses = (q - y.unsqueeze(-2)).square().mean(-1)
        clamped = (batch.action.abs() >= 1).float().mean((-2, -1))  # by rounding of tanh, or by clamping (D6)
        return losses.sum(-1), twin_metrics(losses, q.mean(-1)) | {"charts/clamped_fraction_replay": clamped}

    def policy_loss(self, obs: Tensor, noise: NamedTuple) -> tuple[Tensor, dict]:
        """Minus the objective, HPO eq. (15) without its last term."""
        alpha = self.log_alpha.exp().detach()
        u, log_prob = self.policy.sample(obs, noise.action)
        u = self.evolve(obs, u, noise.momentum, self.args.momentum_std_train)
        action, log_prob = squash(u, log_prob)
        q = self.critic.smaller(obs, action)
        loss = (alpha * log_prob - q).mean(-1)
        seen = {"losses/actor_loss": loss, "losses/entropy": -log_prob.mean(-1), "losses/alpha": alpha.squeeze(-1)}
        seen["charts/clamped_fraction"] = (action.abs() >= 1).float().mean((-2, -1))
        return loss, seen | {"log_prob": log_prob}

    def alpha_loss(self, log_prob: Tensor) -> tuple[Tensor, dict]:
        """The temperature rises while the entropy is below its target (D11)."""
        target = -self.act_dim if self.args.target_entropy is None else self.args.target_entropy
        loss = -(self.log_alpha.exp() * (log_prob + target)).mean(-1)
        return loss, {"losses/alpha_loss": loss}

    def update(self, batch: "Batch", noise: NamedTuple) -> dict[str, Tensor]:
        """A step of the critics, of the policy, of the temperature and of the targets; what they saw."""
        seen = self.q_optimizer.minimise(self.critic_loss, batch, noise)
        seen |= self.policy_optimizer.minimise(self.policy_loss, batch.obs, noise)
        if self.args.autotune:
            seen |= self.alpha_optimizer.minimise(self.alpha_loss, seen["log_prob"])
        follow(self.target, self.critic, self.args.tau)  # θ' ← θ' + τ (θ - θ')
        return seen


# -------------------------------------------------------------------------------------------------------------- replay
class Batch(NamedTuple):
    obs: Tensor  # (B, ds)
    action: Tensor  # (B, d)
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, ds)
    terminated: Tensor  # (B,): 1 where the task ended, 0 where only time ran out, which does not stop the bootstrap


class Replay(Ring):
    """A ring of transitions, a row each."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int):
        self.columns = obs_dim, act_dim, 1, obs_dim, 1  # of Batch
        super().__init__("buffer_size", min(args.buffer_size, args.total_timesteps), sum(self.columns))

    def sample(self, uniform: Tensor) -> Batch:
        """Transitions drawn by uniform numbers (B,) in [0, 1)."""
        drawn = take(self.rows, (uniform * self.size).long())
        obs, action, reward, next_obs, terminated = drawn.split(self.columns, dim=-1)
        return Batch(obs, action, reward.squeeze(-1), next_obs, terminated.squeeze(-1))


# ------------------------------------------------------------------------------------------------------------ training
def train(args: Args, run: Run) -> None:
    """HPO Algorithm 1 by its line numbers, updates before the environment's step; `run` resumes, evaluates, logs."""
    envs = run.environments()  # with actions in [-1, 1] (D6)
    agent = run.side_by_side(Agent, args, envs.obs_dim, envs.act_dim)
    replay = run.side_by_side(Replay, args, envs.obs_dim, envs.act_dim)
    act, learn = run.fast(agent, lambda uniform, noise: agent.update(replay.sample(uniform), noise))
    for step in run.steps(replay):
        numbers = run.numbers(step)
        random = step < args.random_steps
        action = envs.random_actions() if random else act(envs.obs, numbers.acting)  # lines 3, 4
        if step >= max(args.learning_starts, 1):
            for uniform, noise in numbers.updates:  # lines 7 to 10; on a GPU while the environment steps
                run.record(learn(uniform, noise))
        replay.add(*envs.step(action))  # lines 5, 6


if __name__ == "__main__":
    sys.exit(launch(sys.modules[__name__]))
