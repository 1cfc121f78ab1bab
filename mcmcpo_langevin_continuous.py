"""MCMC policy optimisation (MCMC-PO), deterministic policy: TD3 whose actions pass a flow of Langevin steps.

    python mcmcpo_langevin_continuous.py --env-id Hopper-v4
    python mcmcpo_langevin_continuous.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python mcmcpo_langevin_continuous.py --env-id Hopper-v4 --langevin-steps 0         # TD3

A deterministic policy proposes a_0 = π_θ(s). K coupling layers, each of which moves the half of the coordinates that
its mask m leaves out, carry it up the potential U. Its prior π_θt is a copy of the policy, renewed every N = 100
updates of it (D23):

    y = m ⊙ x + (1 - m) ⊙ [ (x + ε²/2 g + ε exp(σ(m ⊙ x))) ⊙ exp(S(m ⊙ x)) + T(m ⊙ x) ]      eqs. (8), (9), D29
    U(s, a) = min(Q1, Q2)(s, a)/β_t - ‖a - π_θt(s)‖,   g = ∇_a U / ‖∇_a U‖               eq. (6), D21, D22, D28

where σ, S and T are small networks, h together. By turns (eq. 11) θ, at fixed h, and h, at the new θ, maximise

    J(θ, h) = E[ Q1(s, a_K) ] - β_t D̂,   D̂ = E ‖a_K - π_θt(s)‖                               MCMC-PO eq. (10)

and a PID controller sets β_t so that D̂ stays at its target (§4.1). a_K is clamped to the box for the critics and the
environment, not for the distance (D32). The rest is TD3: twin critics whose target takes the slow copies of policy and
flow with clipped noise, exploration by added noise, a policy that learns every second update. The paper has no listing
for this one; its Algorithm 1, which is HPO's line by line, is numbered beside the loop. "MCMC-PO" is the paper Markov
Chain Monte Carlo Policy Optimization; D and a number is one of our readings, with its reason in docs/mcmcpo.md, or in
docs/method.md up to D19.

The file is written for one seed, B stands for a batch, ds and d for the sizes of states and actions. `run` trains
several seeds of it side by side (runtime/seeds.py).

Of `sac_continuous.py` it changes `Args`, `LIMITS`, `Policy`, `Policy.__init__`, `Policy.forward`, `Agent`,
`Agent.__init__`, `Agent.noise_shapes`, `Agent.act`, `Agent.policies`, `Agent.critic_loss`, `Agent.policy_loss`,
`Agent.update` and `train`; it lacks `LOG_STD_MIN`, `FORM`, `TABLE`, `table`, `Policy.sample`,
`Policy.mean_action`, `squash` and `Agent.alpha_loss`; it adds `IDLE`, `BETA_MIN`, `Flow`, `action_gradient`, `Pid`,
`Agent.evolve`, `Agent.evolved` and `Agent.metrics`.
"""

import copy
import dataclasses
import math
import sys
from typing import NamedTuple

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


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args(RunArgs):
    # --env-id, --seed, --num-seeds, --total-timesteps and what else every run has stand in runtime/arguments.py
    random_steps: int = 10_000  # first steps, of random actions; --learning-starts alone sets both (D12)
    learning_starts: int = 256  # steps before the first update (D12)
    batch_size: int = 256  # transitions in an update
    buffer_size: int = 1_000_000  # transitions kept for each seed
    gamma: float = 0.99  # discount factor
    tau: float = 0.005  # step of the target networks
    policy_lr: float = 3e-4  # Adam's learning rate for the policy
    dynamics_lr: float = 1e-5  # Adam's learning rate for h: with the policy's, the flow drags it away (D31)
    q_lr: float = 3e-4  # Adam's learning rate for the critics
    exploration_noise: float = 0.1  # standard deviation of the noise on played actions (TD3)
    policy_noise: float = 0.2  # standard deviation of the noise on the target's actions (TD3)
    noise_clip: float = 0.5  # where that noise is clipped (TD3)
    policy_frequency: int = 2  # updates of the critics for each of the policy and the targets (TD3)
    langevin_steps: int = 2  # coupling layers K; 0 is TD3
    step_size: float = 0.1  # step size ε, in units of the normalised action (D31)
    langevin_hidden: int = 16  # hidden units of σ, S and T (D27)
    normalize_gradient: bool = True  # divide ∇U by its length (D22)
    prior_updates: int = 100  # policy updates N after which the prior becomes the policy; 1 is the text's (D23)
    distance_target: float = 0.05  # target of D̂, in units of the normalised action, times √d (D26)
    beta: float = 1.0  # first multiplier β, at most --beta-max (D26)
    beta_max: float = 1e3  # its largest value
    pid_p: float = 1.0  # K_P (D26)
    pid_i: float = 1.0  # K_I (D26)
    pid_d: float = 1.0  # K_D (D26)
    pid_bound: float = 1.0  # largest error that the controller sees, in targets, so that its integral does not wind up
    eval_base: bool = False  # let evaluations count the policy without its flow; both readings are recorded (D9)


LIMITS = {  # smallest and largest value of each number
    "dynamics_lr": (0, 1), "exploration_noise": (0, 10), "policy_noise": (0, 10), "noise_clip": (0, 10),
    "policy_frequency": (1, 10**6), "langevin_steps": (0, 1000), "step_size": (0, 100), "langevin_hidden": (1, 10**5),
    "prior_updates": (1, 10**9), "distance_target": (1e-9, 1e3), "beta": (1e-3, 1e9), "beta_max": (1e-3, 1e9),
    "pid_p": (0, 1e6), "pid_i": (1e-9, 1e6), "pid_d": (0, 1e6), "pid_bound": (1e-3, 1e9),
}  # fmt: skip
IDLE = {"langevin_steps": "dynamics_lr step_size langevin_hidden normalize_gradient prior_updates distance_target beta "
        "beta_max pid_p pid_i pid_d pid_bound eval_base"}  # flags that do nothing at K = 0  # fmt: skip
BETA_MIN = 1e-3  # D21


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
    """A deterministic policy."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.fc1 = Linear(obs_dim, HIDDEN)
        self.fc2 = Linear(HIDDEN, HIDDEN)
        self.mean = Linear(HIDDEN, act_dim)

    def forward(self, obs: Tensor) -> Tensor:
        """a_0 in [-1, 1], (B, d), at states (B, ds)."""
        x = F.relu(self.fc1(obs))
        x = F.relu(self.fc2(x))
        return self.mean(x).tanh()


# -------------------------------------------------------------------------------------------------- Langevin dynamics
class Flow(nn.Module):
    """h: K coupling layers with σ, S and T of one hidden ELU layer each; σ starts at -6, S and T at 0 (D31). ∇U sees
    the half that moves, so the Jacobian is not triangular: no density is claimed (D33)."""

    def __init__(self, steps: int, act_dim: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(steps):
            layer = nn.ModuleDict()
            for name, first in (("sigma", -6.0), ("scale", 0.0), ("shift", 0.0)):  # σ, S and T
                layer[name] = nn.Sequential(Linear(act_dim, hidden), nn.ELU(), Linear(hidden, act_dim))
                nn.init.zeros_(layer[name][-1].weight)
                nn.init.constant_(layer[name][-1].bias, first)
            self.layers.append(layer)

    def forward(self, x: Tensor, gradient, step_size: float) -> Tensor:
        """a_K from a_0, (B, d), eqs. (8) and (9); `gradient` maps x to g. m ⊙ x is all that the networks see,
        and the other half of what they give all that is used (D29). No density is claimed (D33)."""
        dims = x.shape[-1]
        mask = (torch.arange(dims, device=x.device) < dims // 2).to(x.dtype)  # masks alternate ⌊d/2⌋, ⌈d/2⌉ ones (D30)
        for layer in self.layers:
            seen = mask * x
            moved = x + step_size**2 / 2 * gradient(x) + step_size * layer["sigma"](seen).exp()
            x = seen + (1 - mask) * (moved * layer["scale"](seen).exp() + layer["shift"](seen))
            mask = 1 - mask
        return x


def action_gradient(critic: Critic, obs: Tensor, action: Tensor) -> Tensor:
    """∇_a min(Q1, Q2), (B, d), that of the smaller critic (D7), which back-propagation holds constant: a critic of
    ReLUs is piecewise linear in a, so its gradient is piecewise constant, and its jumps no pathwise gradient sees."""
    with torch.enable_grad():
        action = action.detach().requires_grad_()
        return torch.autograd.grad(critic.smaller(obs, action).sum(), action)[0]


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
    """Networks, flow, multiplier and optimizers, and an update of them."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        self.critic = Critic(obs_dim, act_dim)
        self.policy = Policy(obs_dim, act_dim)
        initialise(self, start)
        self.flow = Flow(args.langevin_steps, act_dim, args.langevin_hidden)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self.target_flow = copy.deepcopy(self.flow).requires_grad_(False)
        self.prior = copy.deepcopy(self.policy).requires_grad_(False)  # π_θt
        self.pid = Pid(args, args.distance_target * math.sqrt(act_dim))
        self.updates = number(0.0, False)  # of the policy since the prior was renewed
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        if args.langevin_steps:
            self.flow_optimizer = Adam(self.flow.parameters(), args.dynamics_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)

    def noise_shapes(self) -> tuple[dict, dict]:
        """Standard normal numbers that a step needs, by name: to act, and to update."""
        return {"action": (1, self.act_dim)}, {"next_action": (self.args.batch_size, self.act_dim)}

    def evolve(self, flow: Flow, critic: Critic, obs: Tensor, action: Tensor) -> Tensor:
        """a_K before the clamp, (B, d). g is held constant: a direction's derivative has no bound near 0 (D31)."""
        if not self.args.langevin_steps:
            return action
        prior, beta = self.prior(obs), self.pid.beta.unsqueeze(-1)

        @torch.no_grad()
        def gradient(x: Tensor) -> Tensor:
            g = action_gradient(critic, obs, x.clamp(-1, 1)) / beta - F.normalize(x - prior, dim=-1)  # ∇_a U, eq. (6)
            return F.normalize(g, dim=-1) if self.args.normalize_gradient else g  # D22

        return flow(action, gradient, self.args.step_size)

    def evolved(self, obs: Tensor) -> Tensor:
        """The action with the noise off, (B, d)."""
        return self.evolve(self.flow, self.critic, obs, self.policy(obs)).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: Tensor, noise: NamedTuple) -> Tensor:
        """Exploration: an action (1, d) at a state (1, ds)."""
        return (self.evolved(obs) + self.args.exploration_noise * noise.action).clamp(-1, 1)

    def policies(self) -> dict:
        """The policies that an evaluation runs, noise off, (B, ds) -> (B, d); the first is the one that counts."""
        if not self.args.langevin_steps:
            return {"base": self.policy}
        policies = {"langevin": self.evolved, "base": self.policy}
        return dict(reversed(policies.items())) if self.args.eval_base else policies

    def critic_loss(self, batch: "Batch", noise: NamedTuple) -> tuple[Tensor, dict]:
        """Squared Bellman errors of the twin critics, summed."""
        with torch.no_grad():
            next_action = self.target_policy(batch.next_obs)
            next_action = self.evolve(self.target_flow, self.target, batch.next_obs, next_action).clamp(-1, 1)  # D32
            smooth = (self.args.policy_noise * noise.next_action).clamp(-self.args.noise_clip, self.args.noise_clip)
            next_value = self.target.smaller(batch.next_obs, (next_action + smooth).clamp(-1, 1))
            y = batch.reward + self.args.gamma * (1 - batch.terminated) * next_value
        q = self.critic(batch.obs, batch.action)  # (2, B)
        losses = (q - y.unsqueeze(-2)).square().mean(-1)
        clamped = (batch.action.abs() >= 1).float().mean((-2, -1))  # by exploring
        return losses.sum(-1), twin_metrics(losses, q.mean(-1)) | {"charts/clamped_fraction_replay": clamped}

    def policy_loss(self, obs: Tensor) -> tuple[Tensor, dict]:
        """Minus the objective, MCMC-PO eq. (10)."""
        first = self.policy(obs)
        action = self.evolve(self.flow, self.critic, obs, first)
        q, _ = self.critic(obs, action.clamp(-1, 1)).unbind(-2)  # a clamped coordinate gets no gradient from Q
        distance = torch.linalg.vector_norm(action - self.prior(obs), dim=-1)  # before the clamp (D32)
        loss = self.pid.beta * distance - q if self.args.langevin_steps else -q
        loss = loss.mean(-1)
        seen = {"losses/actor_loss": loss, "losses/distance": distance.mean(-1), "distance": distance}
        seen["charts/move"] = (action - first).abs().mean((-2, -1))
        return loss, seen | {"charts/clamped_fraction": (action.abs() > 1).float().mean((-2, -1))}

    def update(self, batch: "Batch", noise: NamedTuple, policy: bool) -> dict[str, Tensor]:
        """A step of the critics and, if `policy`, of θ and h by turns, of the multiplier, of prior and targets; what
        they saw."""
        seen = self.q_optimizer.minimise(self.critic_loss, batch, noise)
        if not policy:
            return seen
        first = self.policy_optimizer.minimise(self.policy_loss, batch.obs)  # eq. (11): θ at the old h
        seen |= first
        if self.args.langevin_steps:
            seen |= self.flow_optimizer.minimise(self.policy_loss, batch.obs)  # h at the new θ
            self.pid.step(seen["distance"])
            follow(self.target_flow, self.flow, self.args.tau)
        with torch.no_grad():
            self.updates.copy_((self.updates + 1) % self.args.prior_updates)
            renewed = (self.updates == 0).unsqueeze(-1)
            for old, new in zip(self.prior.parameters(), self.policy.parameters()):
                old.copy_(torch.where(renewed, new, old))  # θ_t, D23
        follow(self.target_policy, self.policy, self.args.tau)
        follow(self.target, self.critic, self.args.tau)  # θ' ← θ' + τ (θ - θ')
        return seen | {"losses/actor_loss": first["losses/actor_loss"]}

    def metrics(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """What updates saw as numbers, under the names of the logs; the multiplier and its target."""
        metrics = super().metrics(seen)
        if "losses/distance" in metrics and self.args.langevin_steps:
            metrics["losses/distance_target"] = torch.full_like(metrics["losses/distance"], self.pid.target)
            metrics["losses/beta"] = self.pid.beta.detach().squeeze(-1)
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

    def learning(policy: bool):
        return lambda uniform, noise: agent.update(replay.sample(uniform), noise, policy)

    act, learn_all, learn_critics = run.fast(agent, learning(True), learning(False))
    for step in run.steps(replay):
        numbers = run.numbers(step)
        random = step < args.random_steps
        action = envs.random_actions() if random else act(envs.obs, numbers.acting)  # lines 3, 4
        if step >= max(args.learning_starts, 1):
            for i, (uniform, noise) in enumerate(
                numbers.updates
            ):  # lines 7 to 10; on a GPU while the environment steps
                critics_alone = (step * args.updates_per_step + i) % args.policy_frequency
                run.record(learn_critics(uniform, noise) if critics_alone else learn_all(uniform, noise))
        replay.add(*envs.step(action))  # lines 5, 6


if __name__ == "__main__":
    sys.exit(launch(sys.modules[__name__]))
