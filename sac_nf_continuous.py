"""SAC-NF: soft actor-critic whose Gaussian passes through radial normalizing flows before the tanh.

    python sac_nf_continuous.py --env-id HumanoidBulletEnv-v0 --num-flows 3
    python sac_nf_continuous.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python sac_nf_continuous.py --env-id Ant-v4 --help                        # flags, with Ant's values

The policy is a = tanh(z_F). From z_0 ~ N(μ(s), diag σ(s)²), SAC's sample before its tanh, F flows lead to z_F:

    z ← z + β (z - c)/(α_r + ‖z - c‖)

Centre c, radius α_r = softplus(·) and strength β = softplus(·) - α_r are learned and depend on no state. As β > -α_r,
each flow is a bijection: along a ray from c the distance r goes to r + β r/(α_r + r), which grows with r. Its
Jacobian stretches by 1 + β/(α_r + r) across the ray and by 1 + β α_r/(α_r + r)² along it, so in d dimensions

    log π(a|s) = log N(z_0|μ, σ²) - Σ_flows [ (d-1) log(1 + β/(α_r + r)) + log(1 + β α_r/(α_r + r)²) ]
                 - Σ_i log(1 - tanh²(z_F)_i)

and SAC's objective and critics stay as they are. At the start β = 0: the policy begins as SAC's, and with
--num-flows 0 it is SAC to the bit. This is the second baseline of "HPO", the paper Hamiltonian Policy Optimization
(section 5.1.2), after Mazoure et al., "Leveraging exploration in off-policy algorithms via normalizing flows" (2019),
who use one hidden layer (--policy-layers 1), a log-std linear in the state and α = 0.05. D and a number is one of our
readings of HPO, with its reason in docs/method.md.

The file is written for one seed, B stands for a batch, ds and d for the sizes of states and actions. `run` trains
several seeds of it side by side (runtime/seeds.py).

Of `sac_continuous.py` it changes `Args`, `LIMITS`, `Policy`, `Policy.sample`, `Policy.mean_action` and
`Agent.__init__`; it adds `RadialFlow`.
"""

import copy
import dataclasses
import math
import re
import sys
from typing import NamedTuple

from runtime.arguments import RunArgs
from runtime.contract import Learner, twin_metrics
from runtime.replay import Ring
from runtime.run import Run, launch
from runtime.seeds import Adam, Linear, drawn, follow, initialise, number, take

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
    num_flows: int = 3  # radial flows F between the Gaussian and the tanh; 0 is SAC


TABLE = {  # HPO Table 3
    "HalfCheetah": dict(alpha=0.2),
    "Hopper": dict(alpha=0.2),
    "Walker2d": dict(alpha=0.2),
    "Ant": dict(alpha=0.2),
    "Humanoid": dict(alpha=0.05),
    "HumanoidBullet": dict(alpha=0.05),
    "HumanoidFlagrunBullet": dict(alpha=0.05),
    "HumanoidFlagrunHarderBullet": dict(alpha=0.05),
}
LIMITS = {  # smallest and largest value of each number
    "alpha": (1e-9, 1e6), "target_entropy": (-1e6, 1e6), "policy_layers": (1, 2), "num_flows": (0, 1000),
}  # fmt: skip


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


class RadialFlow(nn.Module):
    """z -> z + β (z - c)/(α_r + ‖z - c‖), with α_r > 0 and β > -α_r."""

    def __init__(self, act_dim: int):
        super().__init__()
        one = math.log(math.e - 1)  # softplus(one) = 1: α_r = 1, and β = 0
        self.center = drawn(1, act_dim)
        self.radius, self.total = number(one), number(one)  # whose softplus are α_r and α_r + β

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, d) -> its image (B, d), and log |det| of the Jacobian (B,)."""
        radius, total = F.softplus(self.radius), F.softplus(self.total)
        beta, offset = total - radius, z - self.center
        reach = radius + offset.norm(dim=-1)  # α_r + r
        stretch = beta / reach
        log_det = (z.shape[-1] - 1) * stretch.log1p() + (stretch * radius / reach).log1p()
        return z + stretch.unsqueeze(-1) * offset, log_det


class Policy(nn.Module):
    """Diagonal Gaussian through radial flows, which the agent adds, to u, whose tanh is the action."""

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
        """Reparametrised u = z_F (B, d) and its log-density (B,), for standard normal noise (B, d)."""
        mean, log_std = self(obs)
        log_prob = (-log_std - noise.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)
        u = mean + log_std.exp() * noise
        for flow in self.flows:
            u, log_det = flow(u)
            log_prob = log_prob - log_det
        return u, log_prob

    def mean_action(self, obs: Tensor) -> Tensor:
        """The action with the noise off, (B, d): the Gaussian's mean through the flows."""
        u = self(obs)[0]
        for flow in self.flows:
            u, _ = flow(u)
        return u.tanh()


def squash(u: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u) and its log-density log N(u) - Σ log(1 - a²), from u (B, d) and log N(u) (B,)."""
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # log(1 - tanh²(u)), without cancellation
    return u.tanh(), log_prob - log_slope.sum(-1)


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
        flows = [RadialFlow(act_dim) for _ in range(args.num_flows)]  # drawn last: the other weights begin as SAC's
        self.policy.flows = nn.ModuleList(flows)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)
        self.alpha_optimizer = Adam([self.log_alpha], args.q_lr)

    def noise_shapes(self) -> tuple[dict, dict]:
        """Standard normal numbers that a step needs, by name: to act, and to update."""
        batch = self.args.batch_size, self.act_dim
        return {"action": (1, self.act_dim)}, {"next_action": batch, "action": batch}

    @torch.no_grad()
    def act(self, obs: Tensor, noise: NamedTuple) -> Tensor:
        """Exploration: an action (1, d) at a state (1, ds)."""
        u, log_prob = self.policy.sample(obs, noise.action)
        return squash(u, log_prob)[0]

    def policies(self) -> dict:
        """The policies that an evaluation runs, noise off, (B, ds) -> (B, d); the first is the one that counts."""
        return {"base": self.policy.mean_action}

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
        """Minus the objective, HPO eq. (7)."""
        alpha = self.log_alpha.exp().detach()
        u, log_prob = self.policy.sample(obs, noise.action)
        action, log_prob = squash(u, log_prob)
        q = self.critic.smaller(obs, action)
        loss = (alpha * log_prob - q).mean(-1)
        seen = {"losses/actor_loss": loss, "losses/entropy": -log_prob.mean(-1), "losses/alpha": alpha.squeeze(-1)}
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
