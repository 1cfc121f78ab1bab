"""MCMC policy optimisation (MCMC-PO), stochastic policy: an actor-critic with Hamiltonian Monte Carlo steps.

    python mcmcpo_hmc_continuous.py --env-id Hopper-v4
    python mcmcpo_hmc_continuous.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python mcmcpo_hmc_continuous.py --env-id Ant-v4 --help                        # flags, with Ant's values

A policy π_θ, a Gaussian of u whose tanh is the action, may move little from the prior π_θt, a copy of it that is
renewed every N = 100 updates (D23). Its sample u_0 and a momentum ρ_0 ~ N(0, I) take K leapfrog steps towards the
posterior of an optimal action given that prior, on the potential of eq. (12), U(s, u) = -min(Q1, Q2)(s, tanh u)/β_t -
log π_θt(u|s):

    ρ ← ρ - ε/2 ⊙ F(s, u);   u ← u + ε ⊙ ρ;   ρ ← ρ - ε/2 ⊙ F(s, u)                     MCMC-PO eqs. (18), (19)
    F = σ_h(s, a, g) g + (1 - σ_h(s, a, g)) T_h(s, a, g),   a = tanh(u),   g = ∇_u U

where the step sizes ε, one a dimension, are learned with the small networks T_h and σ_h: together they are h. By
default the chain counts u in the prior's standard deviations from its mean (D24). By turns (eq. 11) θ, at fixed h, and
h, at the new θ, maximise

    J(θ, h) = E[ min(Q1, Q2)(s, tanh u_K) ] - β_t D̂                                     MCMC-PO eq. (17)
    D̂ = E[ log π_θ(u_0|s) N(ρ_0) - log π_θt(u_K|s) N(ρ_K) ]

and a PID controller sets β_t so that D̂, a Kullback-Leibler divergence since the steps keep volume, stays at its target
(§4.1). Besides, J pays w β_t KL(N(0, σ_θ²) ‖ N(0, σ_θt²)), w = 100, for a change of the policy's spread: this price is
ours, and D̂ does not count it (D26). The critics are SAC's without its entropy (D25). The paper's Algorithm 1 is HPO's
line by line; its letters move a, of which the prior would have no density outside the box (D20). "MCMC-PO" is the paper
Markov Chain Monte Carlo Policy Optimization; D and a number is one of our readings, with its reason in docs/mcmcpo.md,
or in docs/method.md up to D19.

The file is written for one seed, B stands for a batch, ds and d for the sizes of states and actions. `run` trains
several seeds of it side by side (runtime/seeds.py).

Of `sac_continuous.py` it changes `Args`, `TABLE`, `LIMITS`, `table`, `Agent`, `Agent.__init__`, `Agent.noise_shapes`,
`Agent.act`, `Agent.policies`, `Agent.critic_loss`, `Agent.policy_loss` and `Agent.update`; it lacks `squash` and
`Agent.alpha_loss`; it adds `IDLE`, `BETA_MIN`, `Dynamics`, `action_gradient`, `log_normal`, `leapfrog`, `Pid`,
`Agent.evolve`, `Agent.evolved_mean` and `Agent.metrics`.
"""

import copy
import dataclasses
import math
import re
import sys
from typing import Literal, NamedTuple

from runtime.arguments import RunArgs
from runtime.contract import Learner, twin_metrics
from runtime.replay import Ring
from runtime.run import Run, launch
from runtime.seeds import Adam, Linear, follow, initialise, number, numbers, take

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
    dynamics_lr: float = 3e-4  # Adam's learning rate for h (D24)
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
    beta: float = 1.0  # first multiplier β, at most --beta-max (D26)
    beta_max: float = 1e3  # its largest value
    pid_p: float = 0.01  # K_P (D26)
    pid_i: float = 0.01  # K_I (D26)
    pid_d: float = 0.01  # K_D (D26)
    pid_bound: float = 1.0  # largest error that the controller sees, in targets, so that its integral does not wind up
    evolve_target: bool = False  # evolve the next action of the critics' target too (D25)
    eval_base: bool = False  # let evaluations count the base policy's mean; both readings are recorded (D9)


TABLE = {  # D10
    "HalfCheetah": dict(leapfrog_state=True),
    "Hopper": dict(leapfrog_state=True),
    "Walker2d": dict(leapfrog_state=True),
    "Ant": dict(leapfrog_state=False),
    "Humanoid": dict(leapfrog_state=False),
    "HumanoidBullet": dict(leapfrog_state=False),
    "HumanoidFlagrunBullet": dict(leapfrog_state=False),
    "HumanoidFlagrunHarderBullet": dict(leapfrog_state=False),
}
LIMITS = {  # smallest and largest value of each number
    "dynamics_lr": (0, 1), "leapfrog_steps": (0, 1000), "step_size": (1e-9, 100), "leapfrog_hidden": (1, 10**5),
    "prior_updates": (1, 10**9), "distance_target": (1e-9, 1e3), "spread_weight": (0, 1e9), "beta": (1e-3, 1e9),
    "beta_max": (1e-3, 1e9), "pid_p": (0, 1e6), "pid_i": (1e-9, 1e6), "pid_d": (0, 1e6), "pid_bound": (1e-3, 1e9),
}  # fmt: skip
IDLE = {"leapfrog_steps": "dynamics_lr step_size step_unit leapfrog_hidden leapfrog_state normalize_gradient "
        "evolve_target eval_base"}  # flags that do nothing at K = 0  # fmt: skip
BETA_MIN = 1e-3  # D21


def table(env_id: str) -> tuple[str, dict]:
    """D10's choice for an environment, Hopper's for one that the paper does not have (D13): its name and values."""
    name = re.sub(r"(Env)?(-v\d+)?$", "", re.split("[:/]", env_id)[-1])
    row = name if name in TABLE else "Hopper"
    return f"D10, row {row}", TABLE[row]


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


# ------------------------------------------------------------------------------------------- Hamiltonian Monte Carlo
class Dynamics(nn.Module):
    """h: T_h (tanh), a gate σ_h for all dimensions (sigmoid), one hidden ELU layer each (D27), and the step sizes ε."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int, sees_state: bool, step_size: float):
        super().__init__()
        n_in = obs_dim * sees_state + 2 * act_dim
        self.implicit = nn.Sequential(Linear(n_in, hidden), nn.ELU(), Linear(hidden, act_dim), nn.Tanh())  # T_h
        self.gate = nn.Sequential(Linear(n_in, hidden), nn.ELU(), Linear(hidden, 1), nn.Sigmoid())  # σ_h
        self.log_step = numbers([math.log(step_size)] * act_dim)  # log ε
        self.sees_state = sees_state  # D10

    def forward(self, obs: Tensor, action: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """F (B, d) of eqs. (18), (19) and the gate (B, 1), from (B, ds), (B, d), (B, d)."""
        x = torch.cat([obs, action, g] if self.sees_state else [action, g], dim=-1)
        gate = self.gate(x)
        return gate * g + (1 - gate) * self.implicit(x), gate


def action_gradient(critic: Critic, obs: Tensor, action: Tensor) -> Tensor:
    """∇_a min(Q1, Q2), (B, d), that of the smaller critic (D7), which back-propagation holds constant: a critic of
    ReLUs is piecewise linear in a, so its gradient is piecewise constant, and its jumps no pathwise gradient sees."""
    with torch.enable_grad():
        action = action.detach().requires_grad_()
        return torch.autograd.grad(critic.smaller(obs, action).sum(), action)[0]


def log_normal(z: Tensor, log_std: Tensor) -> Tensor:
    """log-density (B,) of a Gaussian, its standard deviations as logarithms, z (B, d) of them from its mean."""
    return (-log_std - z.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)


def leapfrog(force, x: Tensor, momentum: Tensor, step_size: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """x_K and ρ_K, (B, d) each, from x_0 and ρ_0, for step sizes (1, d): eqs. (18) and (19), Algorithm 2.

    `force` maps a position to F (B, d), which depends on x alone, and x rests between two momentum half-steps: so F at
    the end of a step serves the next.
    """
    f = force(x)
    for _ in range(steps):
        momentum = momentum - step_size / 2 * f
        x = x + step_size * momentum
        f = force(x)
        momentum = momentum - step_size / 2 * f
    return x, momentum


# ------------------------------------------------------------------------------------------------------------ learning
class Pid(nn.Module):
    """β by PID control of a distance D̂ (MCMC-PO §4.1). Its state (1,) is saved with the weights.

    Δ ← D̂ - target;  ∂ ← D̂ - D̂_prev;  I ← (I + Δ)_+;  β ← (K_P Δ + K_I I + K_D ∂)_+,  where Δ is at most bound · target,
    and β and K_I I at most beta_max, so that the integral does not wind up (D26), and β at least BETA_MIN (D21).
    """

    def __init__(self, args: Args, target: float):
        super().__init__()
        self.args, self.target = args, target
        first = min(args.beta, args.beta_max)
        self.beta = number(first, False)
        self.integral = number(first / args.pid_i, False)
        self.previous = number(target, False)

    @torch.no_grad()
    def step(self, distances: Tensor) -> None:
        """One step for the distances (B,) of a batch, whose mean is D̂."""
        gain, distance = self.args, distances.mean(-1, keepdim=True)
        error = (distance - self.target).clamp(max=gain.pid_bound * self.target)
        change = distance - self.previous
        self.integral.copy_((self.integral + error).clamp(0, gain.beta_max / gain.pid_i))
        beta = gain.pid_p * error + gain.pid_i * self.integral + gain.pid_d * change
        self.beta.copy_(beta.clamp(BETA_MIN, gain.beta_max))
        self.previous.copy_(distance)


class Agent(Learner):
    """Networks, dynamics, multiplier and optimizers, and an update of them."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        self.critic = Critic(obs_dim, act_dim)
        self.policy = Policy(obs_dim, act_dim, 2)
        self.dynamics = Dynamics(obs_dim, act_dim, args.leapfrog_hidden, args.leapfrog_state, args.step_size)
        initialise(self, start)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.prior = copy.deepcopy(self.policy).requires_grad_(False)  # π_θt
        self.pid = Pid(args, args.distance_target * act_dim)
        self.updates = number(0.0, False)  # since the prior was renewed
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        self.dynamics_optimizer = Adam(self.dynamics.parameters(), args.dynamics_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)

    def noise_shapes(self) -> tuple[dict, dict]:
        """Standard normal numbers that a step needs, by name: to act, and to update."""
        one, batch, moves = (1, self.act_dim), (self.args.batch_size, self.act_dim), self.args.leapfrog_steps > 0
        acting = ["action"] + ["momentum"] * moves
        updating = ["next_action", "action"] + ["momentum"] * moves
        updating += ["next_momentum"] * (moves and self.args.evolve_target)
        return dict.fromkeys(acting, one), dict.fromkeys(updating, batch)

    def evolve(self, critic: Critic, obs: Tensor, prior: tuple[Tensor, Tensor], u: Tensor, momentum: Tensor) -> tuple:
        """u_K and ρ_K, (B, d) each, from u_0 and ρ_0, and the gate (B, 1) at the end.

        `prior` holds the mean μ and log-deviations log σ of π_θt, (B, d) each. With --step-unit std the chain moves x,
        where u = μ + σ x, so that ε counts the prior's deviations. U is not piecewise linear in u: what its gradient
        owes to the tanh and to the prior is differentiated, and ∇_a Q alone is held constant (D20).
        """
        (mean, log_std), beta, gates = prior, self.pid.beta.unsqueeze(-1), []
        centre, scale = (mean, log_std.exp()) if self.args.step_unit == "std" else (0.0, 1.0)

        def force(x: Tensor) -> Tensor:
            u = centre + scale * x
            action = u.tanh()
            slope = action_gradient(critic, obs, action) * (1 - action.square())  # ∇_u Q
            g = -scale * (slope / beta + (mean - u) / (2 * log_std).exp())  # ∇_x U, eq. (12)
            g = F.normalize(g, dim=-1) if self.args.normalize_gradient else g  # D22
            f, gate = self.dynamics(obs, action, g)
            gates.append(gate)  # for the logs
            return f

        x, step_size = (u - centre) / scale, self.dynamics.log_step.exp()
        x, momentum = leapfrog(force, x, momentum, step_size, self.args.leapfrog_steps)
        return centre + scale * x, momentum, gates[-1]

    @torch.no_grad()
    def act(self, obs: Tensor, noise: NamedTuple) -> Tensor:
        """Exploration: an action (1, d) at a state (1, ds)."""
        u, _ = self.policy.sample(obs, noise.action)
        if self.args.leapfrog_steps:
            u, _, _ = self.evolve(self.critic, obs, self.prior(obs), u, noise.momentum)
        return u.tanh()

    def evolved_mean(self, obs: Tensor) -> Tensor:
        """The action with the noise off, (B, d): the policy's mean and ρ_0 = 0 (D9)."""
        mean, _ = self.policy(obs)
        u, _, _ = self.evolve(self.critic, obs, self.prior(obs), mean, torch.zeros_like(mean))
        return u.tanh()

    def policies(self) -> dict:
        """The policies that an evaluation runs, noise off, (B, ds) -> (B, d); the first is the one that counts."""
        if not self.args.leapfrog_steps:
            return {"base": self.policy.mean_action}
        policies = {"leapfrog": self.evolved_mean, "base": self.policy.mean_action}
        return dict(reversed(policies.items())) if self.args.eval_base else policies

    def critic_loss(self, batch: "Batch", noise: NamedTuple) -> tuple[Tensor, dict]:
        """Squared Bellman errors of the twin critics, summed."""
        with torch.no_grad():
            u, _ = self.policy.sample(batch.next_obs, noise.next_action)
            if self.args.evolve_target and self.args.leapfrog_steps:  # D25
                prior = self.prior(batch.next_obs)
                u, _, _ = self.evolve(self.target, batch.next_obs, prior, u, noise.next_momentum)
            next_value = self.target.smaller(batch.next_obs, u.tanh())
            y = batch.reward + self.args.gamma * (1 - batch.terminated) * next_value
        q = self.critic(batch.obs, batch.action)  # (2, B)
        losses = (q - y.unsqueeze(-2)).square().mean(-1)
        clamped = (batch.action.abs() >= 1).float().mean((-2, -1))  # by rounding of tanh
        return losses.sum(-1), twin_metrics(losses, q.mean(-1)) | {"charts/clamped_fraction_replay": clamped}

    def policy_loss(self, obs: Tensor, noise: NamedTuple) -> tuple[Tensor, dict]:
        """Minus the objective, MCMC-PO eq. (17), and the price on the spread (D26)."""
        (mean, log_std), prior, beta = self.policy(obs), self.prior(obs), self.pid.beta
        u = start = mean + log_std.exp() * noise.action
        distance = log_normal(noise.action, log_std)  # log π_θ(u_0)
        seen = {"charts/policy_std": log_std.exp().mean((-2, -1))}
        if self.args.leapfrog_steps:
            u, momentum, gate = self.evolve(self.critic, obs, prior, u, noise.momentum)
            distance = distance + (momentum.square() - noise.momentum.square()).sum(-1) / 2  # log N(ρ_0) - log N(ρ_K)
            seen |= {"charts/move": (u - start).abs().mean((-2, -1)), "charts/gate": gate.mean((-2, -1))}
        distance = distance - log_normal((u - prior[0]) / prior[1].exp(), prior[1])  # log π_θt(u_K)
        loss = beta * distance - self.critic.smaller(obs, u.tanh())
        if self.args.spread_weight:  # D26: KL of two Gaussians that differ in their spread alone
            ratio = log_std - prior[1]
            loss = loss + self.args.spread_weight * beta * (((2 * ratio).exp() - 1) / 2 - ratio).sum(-1)
        loss = loss.mean(-1)
        return loss, seen | {"losses/actor_loss": loss, "losses/distance": distance.mean(-1), "distance": distance}

    def update(self, batch: "Batch", noise: NamedTuple) -> dict[str, Tensor]:
        """A step of the critics, of θ and h by turns, of the multiplier, of prior and targets; what they saw."""
        seen = self.q_optimizer.minimise(self.critic_loss, batch, noise)
        first = self.policy_optimizer.minimise(self.policy_loss, batch.obs, noise)  # eq. (11): θ at the old h
        if self.args.leapfrog_steps:
            then = self.dynamics_optimizer.minimise(self.policy_loss, batch.obs, noise)  # h at the new θ
        else:
            with torch.no_grad():
                _, then = self.policy_loss(batch.obs, noise)
        self.pid.step(then["distance"])
        with torch.no_grad():
            self.updates.copy_((self.updates + 1) % self.args.prior_updates)
            renewed = (self.updates == 0).unsqueeze(-1)
            for old, new in zip(self.prior.parameters(), self.policy.parameters()):
                old.copy_(torch.where(renewed, new, old))  # θ_t, D23
        follow(self.target, self.critic, self.args.tau)  # θ' ← θ' + τ (θ - θ')
        return seen | then | {"losses/actor_loss": first["losses/actor_loss"]}

    def metrics(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """What an update saw as numbers, under the names of the logs; the multiplier, its target, the step sizes."""
        metrics = super().metrics(seen) | {"losses/beta": self.pid.beta.detach().squeeze(-1)}
        metrics["losses/distance_target"] = torch.full_like(metrics["losses/distance"], self.pid.target)
        if self.args.leapfrog_steps:
            for i, step_size in enumerate(self.dynamics.log_step.detach().exp().squeeze(-2).unbind(-1)):
                metrics[f"charts/step_size_{i}"] = step_size
        return metrics


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
