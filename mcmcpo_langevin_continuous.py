"""MCMC policy optimisation (MCMC-PO), deterministic policy: TD3 whose actions pass a flow of Langevin steps.

    python mcmcpo_langevin_continuous.py --env-id Hopper-v4
    python mcmcpo_langevin_continuous.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python mcmcpo_langevin_continuous.py --env-id Hopper-v4 --langevin-steps 0         # TD3

A deterministic policy proposes a_0 = π_θ(s). K coupling layers, each of which moves the half of the coordinates that
its mask m leaves out, carry it up the potential U, with the last policy π_θt for a prior:

    y = m ⊙ x + (1 - m) ⊙ [ (x + ε²/2 g + ε exp(σ(m ⊙ x))) ⊙ exp(S(m ⊙ x)) + T(m ⊙ x) ],     MCMC-PO eqs. (8), (9)
    U(s, a) = min(Q1, Q2)(s, a)/β_t - ‖a - π_θt(s)‖,   g = ∇_a U / ‖∇_a U‖                    MCMC-PO eq. (6), D28

where σ, S and T are small networks, h together. By turns (eq. 11) θ, at fixed h, and h, at the new θ, maximise

    J(θ, h) = E[ Q1(s, a_K) ] - β_t D̂,   D̂ = E ‖a_K - π_θt(s)‖,                              MCMC-PO eq. (10)

and a PID controller sets β_t so that D̂ stays at its target (§4.1). The rest is TD3: twin critics whose target takes
the slow copies of policy and flow with clipped noise, exploration by added noise, a policy that learns every second
update. The paper has no listing for this one; its Algorithm 1, which is HPO's line by line, is numbered beside the
loop. "D21" to "D33" are our readings of it, with their reasons in docs/mcmcpo.md.

The seed axis: as in `sac_continuous.py`, all tensors lead with the seeds S. Read the shapes without it.

Of `sac_continuous.py` it changes `Args`, `TABLE_FIELDS`, `TABLE`, `LIMITS`, `table`, `Policy`, `Policy.__init__`,
`Policy.forward`, `Agent`, `Agent.__init__`, `Agent.tensors`, `Agent.noise_shapes`, `Agent.act`, `Agent.readings`,
`Agent.critic_loss`, `Agent.policy_loss`, `Agent.policy_gradients`, `Agent.update`, `Agent.metrics` and `train`;
it lacks `squash`, `Policy.draw`, `Policy.sample` and `Policy.mean_action`; it adds `BETA_MIN`, `Flow`, `Pid`,
`Agent.evolve`, `Agent.evolved` and `Agent.flow_gradients`.
"""

import copy
import dataclasses
import itertools
import math
import sys

from runtime.arguments import RunArgs
from runtime.device import Upload, allocate
from runtime.products import product
from runtime.run import Run, launch

import numpy as np
import torch
import torch.nn as nn

HIDDEN = 256  # units in each hidden layer of the policy and the critics
BETA_MIN = 1e-3  # D21


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args(RunArgs):
    # --env-id, --seed, --num-seeds, --total-timesteps and what else every run has stand in runtime/arguments.py
    learning_starts: int = 5_000  # steps of uniformly random actions before the first update (D12)
    batch_size: int = 256  # transitions in an update
    buffer_size: int = 1_000_000  # transitions kept for each seed
    gamma: float = 0.99  # discount factor
    tau: float = 0.005  # step of the target networks
    policy_lr: float = 3e-4  # Adam's learning rate for the policy
    dynamics_lr: float = 1e-5  # Adam's learning rate for h: with the policy's, the flow drags it away (docs/mcmcpo.md)
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
    beta: float = 1.0  # first multiplier β (D26)
    beta_max: float = 1e3  # its largest value
    pid_p: float = 1.0  # K_P (D26)
    pid_i: float = 1.0  # K_I (D26)
    pid_d: float = 1.0  # K_D (D26)
    pid_bound: float = 1.0  # largest error that the controller sees, in targets, so that its integral does not wind up
    eval_base: bool = False  # let evaluations count the policy without its flow; both readings are recorded (D9)


# fmt: off
TABLE_FIELDS = ()
TABLE = {"Hopper": ()}
LIMITS = {  # smallest and largest value of each number
    "learning_starts": (0, 10**12), "batch_size": (1, 10**6), "buffer_size": (1, 10**10), "gamma": (0, 1),
    "tau": (1e-9, 1), "policy_lr": (1e-12, 1), "dynamics_lr": (0, 1), "q_lr": (1e-12, 1),
    "exploration_noise": (0, 10), "policy_noise": (0, 10), "noise_clip": (0, 10), "policy_frequency": (1, 10**6),
    "langevin_steps": (0, 1000), "step_size": (0, 100), "langevin_hidden": (1, 10**5), "prior_updates": (1, 10**9),
    "distance_target": (1e-9, 1e3), "beta": (1e-3, 1e9), "beta_max": (1e-3, 1e9),
    "pid_p": (0, 1e6), "pid_i": (1e-9, 1e6), "pid_d": (0, 1e6), "pid_bound": (1e-3, 1e9),
}
# fmt: on


def table(env_id: str) -> tuple[str, dict]:
    """The paper has no row for this algorithm on any environment."""
    return "", {}


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


class Policy(Network):
    """A deterministic policy: a_0 in [-1, 1]^d."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int):
        super().__init__(init, 1, [obs_dim, HIDDEN, HIDDEN, act_dim])

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """(S, B, ds) -> (S, B, d)."""
        return super().forward(obs).mT.tanh()


# -------------------------------------------------------------------------------------------------- Langevin dynamics
class Flow(nn.Module):
    """h: K coupling layers with σ, S and T of one hidden ELU layer each; σ starts at -3, S and T at 0 (D31)."""

    def __init__(self, init: list[torch.Generator], steps: int, act_dim: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(steps):
            parts = [Network(init, 1, [act_dim, hidden, act_dim], nn.functional.elu_) for _ in range(3)]
            for part, value in zip(parts, (-3.0, 0.0, 0.0)):
                part.layers[-2].data.zero_(), part.layers[-1].data.fill_(value)
            self.layers.append(nn.ModuleList(parts))
        first = (torch.arange(act_dim) < act_dim // 2).float()  # masks alternate ⌊d/2⌋ and ⌈d/2⌉ ones (D30)
        self.register_buffer("masks", torch.stack([first, 1 - first]), persistent=False)

    def forward(self, x: torch.Tensor, gradient, size: float) -> torch.Tensor:
        """a_K from a_0, (S, B, d), eqs. (8) and (9); `gradient` maps x to g. The masked half of x is all that the
        networks see, and the other half of what they give all that is used (D29)."""
        for k, (sigma, scale, shift) in enumerate(self.layers):
            mask = self.masks[k % 2]
            seen = mask * x
            moved = x + size**2 / 2 * gradient(x) + size * sigma(seen).mT.exp()
            x = seen + (1 - mask) * (moved * scale(seen).mT.exp() + shift(seen).mT)
        return x


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
    """Networks, flow, multiplier and optimizers of all seeds, and one update."""

    COMPILED = "act", "critic_gradients", "policy_gradients", "flow_gradients"

    def __init__(self, args: Args, obs_dim: int, act_dim: int, device: torch.device):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        init = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_seeds)]
        self.critic = Critic(init, obs_dim, act_dim)
        self.policy = Policy(init, obs_dim, act_dim)
        self.flow = Flow(init, args.langevin_steps, act_dim, args.langevin_hidden)
        self.target, self.target_policy, self.target_flow, self.prior = (
            copy.deepcopy(x).requires_grad_(False) for x in (self.critic, self.policy, self.flow, self.policy)
        )
        self.pid = Pid(args, args.distance_target * math.sqrt(act_dim))
        self.updates = nn.Parameter(torch.zeros(args.num_seeds), False)  # of the policy since the prior was renewed
        self.to(device)
        self.policy_optimizer = Adam(self.policy.parameters(), args.policy_lr)
        self.flow_optimizer = Adam(self.flow.parameters(), args.dynamics_lr)
        self.q_optimizer = Adam(self.critic.parameters(), args.q_lr)

    def tensors(self) -> list[torch.Tensor]:
        """All that training changes: weights, prior, controller, Adam's state."""
        optimizers = self.q_optimizer, self.policy_optimizer, self.flow_optimizer
        return [p.data for p in self.parameters()] + [x for optimizer in optimizers for x in optimizer.state()]

    def noise_shapes(self) -> tuple[tuple, tuple]:
        """Normal numbers that a step needs for each seed: acting's and the target's."""
        return (1, self.act_dim), (1, self.args.batch_size, self.act_dim)

    def evolve(self, flow: Flow, critic: Critic, obs, actions) -> torch.Tensor:
        """a_K before the clamp, (S, B, d). g is held constant: a direction's derivative has no bound near 0 (D31)."""
        if not self.args.langevin_steps:
            return actions
        with torch.no_grad():
            share, prior, beta = critic.share(obs), self.prior(obs), self.pid.beta[:, None, None]

        @torch.no_grad()
        def gradient(x):
            g = critic.slope(share, x.clamp(-1, 1))[1] / beta - nn.functional.normalize(x - prior, dim=-1)
            return nn.functional.normalize(g, dim=-1) if self.args.normalize_gradient else g  # D22

        return flow(actions, gradient, self.args.step_size)

    @torch.no_grad()
    def evolved(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d)."""
        return self.evolve(self.flow, self.critic, obs, self.policy(obs)).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Exploration: actions (S, d) for obs (S, ds) and noise (S, 1, d)."""
        return (self.evolved(obs[:, None]) + self.args.exploration_noise * noise).clamp(-1, 1)[:, 0]

    def readings(self) -> dict:
        """The policies that an evaluation runs, noise off; the first is the one that counts."""
        if not self.args.langevin_steps:
            return {"base": self.policy}
        policies = {"langevin": self.evolved, "base": self.policy}
        return dict(reversed(policies.items())) if self.args.eval_base else policies

    def critic_loss(self, obs, actions, rewards, next_obs, terminated, noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared Bellman errors and mean values of the twin critics, (S, 2) each."""
        with torch.no_grad():
            next_actions = self.evolve(self.target_flow, self.target, next_obs, self.target_policy(next_obs))  # D32
            smooth = (self.args.policy_noise * noise[:, 0]).clamp(-self.args.noise_clip, self.args.noise_clip)
            next_q = self.target(next_obs, (next_actions.clamp(-1, 1) + smooth).clamp(-1, 1)).amin(1)
            y = rewards + self.args.gamma * (1 - terminated) * next_q
        q = self.critic(obs, actions)
        return ((q - y[:, None]) ** 2).mean(-1), q.detach().mean(-1)

    def policy_loss(self, obs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Minus the objective, MCMC-PO eq. (10), (S,), and what it saw on the way, (S,) each."""
        start = self.policy(obs)
        actions = self.evolve(self.flow, self.critic, obs, start)
        loss = -self.critic(obs, actions.clamp(-1, 1))[:, 0].mean(-1)  # a clamped coordinate gets no gradient from Q
        with torch.no_grad():
            prior = self.prior(obs)
        distance = torch.linalg.vector_norm(actions - prior, dim=-1).mean(-1)  # before the clamp (D32)
        if self.args.langevin_steps:
            loss = loss + self.pid.beta * distance
        seen = {"move": (actions - start).abs().mean((1, 2)), "clamped": (actions.abs() > 1).float().mean((1, 2))}
        return loss, {name: x.detach() for name, x in (seen | {"distance": distance}).items()}

    def critic_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `critic_loss` returns, and the gradients of the losses' sum; each loss belongs to one seed."""
        loss, values = self.critic_loss(*inputs)
        return loss.detach(), values, torch.autograd.grad(loss.sum(), self.q_optimizer.parameters)

    def policy_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `policy_loss` returns, and the gradients of the losses' sum in θ."""
        loss, seen = self.policy_loss(*inputs)
        return loss.detach(), seen, torch.autograd.grad(loss.sum(), self.policy_optimizer.parameters)

    def flow_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `policy_loss` saw, and the gradients of the losses' sum in h."""
        loss, seen = self.policy_loss(*inputs)
        return seen, torch.autograd.grad(loss.sum(), self.flow_optimizer.parameters, materialize_grads=True)

    def update(self, batch: tuple[torch.Tensor, ...], noise: torch.Tensor, policy: bool) -> dict[str, torch.Tensor]:
        """One step of the critics and, if `policy`, of θ and h by turns, of the multiplier and of the targets."""
        q_loss, q_values, gradients = self.critic_gradients(*batch, noise)
        self.q_optimizer.step(gradients)
        found = {"q_loss": q_loss, "q_values": q_values, "replayed": batch[1]}
        if not policy:
            return found

        policy_loss, seen, gradients = self.policy_gradients(batch[0])
        self.policy_optimizer.step(gradients)  # eq. (11): θ at the old h
        if self.args.langevin_steps:
            seen, gradients = self.flow_gradients(batch[0])
            self.flow_optimizer.step(gradients)  # h at the new θ
            self.pid.step(seen["distance"])
        with torch.no_grad():
            self.updates.copy_((self.updates + 1) % self.args.prior_updates)
            renewed = (self.updates == 0)[:, None, None]
            for old, new in zip(self.prior.parameters(), self.policy.parameters()):
                old.copy_(torch.where(renewed, new, old))  # θ_t, D23
            for slow, fast in (
                (self.target, self.critic),
                (self.target_policy, self.policy),
                (self.target_flow, self.flow),
            ):
                if len(list(fast.parameters())):
                    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), self.args.tau)
        return found | seen | {"policy_loss": policy_loss}

    def metrics(self, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What updates returned, as scalars (S,) under the names of the logs."""
        metrics = {"losses/qf_loss": seen["q_loss"].mean(-1)}
        for i in range(2):
            metrics |= {f"losses/qf{i + 1}_{name}": seen[f"q_{name}"][:, i] for name in ("loss", "values")}
        if "policy_loss" in seen:
            metrics |= {"losses/actor_loss": seen["policy_loss"], "losses/distance": seen["distance"]}
        if "policy_loss" in seen and self.args.langevin_steps:
            metrics |= {"losses/beta": self.pid.beta.detach().clone(), "charts/move": seen["move"]}
            metrics |= {"charts/clamped_fraction": seen["clamped"]}
            metrics["losses/distance_target"] = torch.full_like(seen["distance"], self.pid.target)
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

    def learn(policy: bool):
        return lambda uniform, noise: agent.update(replay.sample(uniform), noise, policy)

    act, learn_all, learn_critics = run.fast(agent, learn(True), learn(False))
    for step in run.steps(replay):
        if step < max(args.learning_starts, 1):
            actions = envs.random_actions()
        else:
            acting, updating, uniform = run.numbers(step)
            actions = act(envs.obs, acting)  # lines 3, 4
            update = learn_critics if step % args.policy_frequency else learn_all
            run.record(update(uniform, updating))  # lines 7 to 10; on a GPU while the environments step
        replay.add(*envs.step(actions))  # lines 5, 6


if __name__ == "__main__":
    sys.exit(launch(sys.modules[__name__]))
