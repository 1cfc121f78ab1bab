"""SAC-AE-HPO: Hamiltonian policy optimisation from pixels, on top of SAC-AE.

    python sac_hpo_pixels.py --env-id dm_control/finger-spin-v0
    python sac_hpo_pixels.py --env-id dm_control/cheetah-run-v0 --leapfrog-steps 0    # SAC-AE
    python sac_hpo_pixels.py --env-id dm_control/walker-walk-v0 --help                # flags, with the task's values

An observation o is the last three frames of a camera. An encoder makes of it a latent z of 50 numbers, on which the
critics stand. The policy stands on another one, by a projection of its own behind the same convolutions, which it does
not train. With y SAC's target, three losses:

    (Q_i(z, a) - y)²                                              trains the encoder and the critics
    (decoder(z) - o in 5 bits)² + λ ‖z‖²/2                        trains the encoder and the decoder
    α (log N_θ(u_0|o) - Σ log(1 - a_K²)) - min(Q1, Q2)(z, a_K)    trains the policy, its projection and the force

The action takes K leapfrog steps on U(z, a) = -min(Q1, Q2)(z, a)/α, where z is held constant. Leapfrog, force and
objective are those of `sac_hpo_continuous.py`, to the letter; read that file first, also for shapes and names.

Of `sac_hpo_continuous.py` it changes `HIDDEN`, `LOG_STD_MIN`, `LOG_STD_MAX`, `Args`, `LIMITS`, `table`, `start`,
`Policy`, `Policy.__init__`, `Policy.forward`, `Agent.__init__`, `Agent.act`, `Agent.evolved_mean`, `Agent.policies`,
`Agent.critic_loss`, `Agent.policy_loss`, `Agent.update`, `Batch`, `Replay`, `Replay.__init__`, `Replay.sample` and
`train`; it adds `LATENT`, `FILTERS`, `SIDE`, `REPEATS`, `projection`, `Encoder`, `Decoder`, `Agent.base_mean`,
`Agent.five_bits`, `Agent.decoder_loss` and `Agent.pictures`; it lacks `FORM`, `COLUMNS` and `TABLE`.
"""

import copy
import dataclasses
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

from runtime.arguments import RunArgs
from runtime.contract import Learner, twin_metrics
from runtime.convolutions import Conv2d, ConvTranspose2d, Sequential
from runtime.frames import FrameRing
from runtime.run import Run, launch
from runtime.seeds import Adam, LayerNorm, Linear, follow, initialise, number, uniform
from runtime.streams import windows

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

HIDDEN = 1024  # units in each hidden layer of the policy and the critics
LATENT, FILTERS, SIDE = 50, 32, 35  # numbers of a latent; channels, height and width of the last convolution
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args(RunArgs):
    # --env-id, --seed, --num-seeds, --total-timesteps and what else every run has stand in runtime/arguments.py
    env_id: str = "dm_control/cheetah-run-v0"  # dm_control/<domain>-<task>-v0
    action_repeat: int = 4  # simulator steps in which an action is repeated; every other flag counts actions
    random_steps: int = 1_000  # first steps, of random actions; --learning-starts alone sets both
    learning_starts: int = 1_000  # steps before the first update
    batch_size: int = 128  # transitions in an update
    buffer_size: int = 100_000  # transitions kept for each seed, 23 kB each
    gamma: float = 0.99  # discount factor
    tau: float = 0.01  # step of the target critics towards the critics
    encoder_tau: float = 0.05  # the same for the encoder
    policy_frequency: int = 2  # updates of critics and decoder for each of the policy, the temperature and the targets
    policy_lr: float = 1e-3  # Adam's learning rate for the policy
    q_lr: float = 1e-3  # learning rate of two Adams: of critics and encoder, and of decoder and encoder
    alpha_lr: float = 1e-4  # Adam's learning rate for the temperature
    alpha: float = 0.1  # entropy temperature, with --autotune its first value
    autotune: bool = True  # tune the temperature towards --target-entropy
    target_entropy: float | None = None  # entropy that --autotune aims at; by default -(action dimensions)
    latent_penalty: float = 1e-6  # λ, of the latent's length
    decoder_decay: float = 1e-7  # weight decay of the decoder
    amp: bool = False  # bfloat16 in convolutions, both projections and decoder
    leapfrog_steps: int = 3  # leapfrog steps K (D18); 0 is SAC-AE (D19)
    step_size: float = 0.1  # leapfrog step size ε, in units of u
    momentum_std_train: float = 0.15  # standard deviation 1/√β0 of the momentum in training (D18)
    momentum_std_explore: float = 1.5  # standard deviation 1/√β0 of the momentum in exploration (D18)
    leapfrog_hidden: int = 32  # hidden units h of T_h and of σ_h (D18)
    leapfrog_state: bool = False  # let T_h and σ_h see the critics' latent (D17)
    momentum_term: bool = False  # keep the ρ_K term of eq. 15 (D4)
    evolve_target: bool = False  # evolve the next action of the critics' target too (D8)
    eval_base: bool = False  # let evaluations count the base policy's mean; both readings are recorded (D9)

    CAMERA = True


REPEATS = {"cheetah": 4, "finger": 2, "walker": 2, "cartpole": 8, "reacher": 4, "ball_in_cup": 4}  # SAC-AE's authors'
LIMITS = {  # smallest and largest value of each number
    "action_repeat": (1, 1000), "encoder_tau": (1e-9, 1), "policy_frequency": (1, 10**6), "alpha_lr": (1e-12, 1),
    "alpha": (1e-9, 1e6), "target_entropy": (-1e6, 1e6), "latent_penalty": (0, 1e6), "decoder_decay": (0, 1),
    "leapfrog_steps": (0, 1000), "step_size": (0, 100), "leapfrog_hidden": (1, 10**5),
    "momentum_std_train": (1e-6, 1e3), "momentum_std_explore": (1e-6, 1e3),
}  # fmt: skip
IDLE = {"leapfrog_steps": "step_size momentum_std_train momentum_std_explore leapfrog_hidden leapfrog_state "
        "momentum_term evolve_target eval_base"}  # flags that do nothing at K = 0  # fmt: skip
FORMER = {"leapfrog_space": "pre-tanh"}  # flags of older runs, and the value of each that is left (D6)


def table(env_id: str) -> tuple[str, dict]:
    """The authors' action repeat for a task, cheetah's for one that they do not have: its name and value."""
    row = next((name for name in REPEATS if f"/{name}-" in env_id), "cheetah")
    return f"SAC-AE's row {row}", {"action_repeat": REPEATS[row]}


# ------------------------------------------------------------------------------------------------------------ networks
def start(weight: Tensor, bias: Tensor, stream: torch.Generator) -> None:
    """A layer begins orthogonal (out, in), or filters (out, in, 3, 3) whose middles are. The rest is zero."""
    middle, gain = (weight.zero_()[:, :, 1, 1], math.sqrt(2)) if weight.dim() == 4 else (weight, 1.0)
    middle.copy_(nn.init.orthogonal_(torch.empty(middle.shape), gain, stream))
    bias.zero_()


def projection() -> nn.Sequential:
    """Features (B, SIDE² · FILTERS) -> a latent (B, LATENT)."""
    return nn.Sequential(Linear(SIDE**2 * FILTERS, LATENT), LayerNorm(LATENT), nn.Tanh())


class Encoder(nn.Module):
    """Observations (B, channels, 84, 84) of 0 to 255 -> features, which the policy shares -> the critics' latent."""

    def __init__(self, channels: int, dtype: torch.dtype):
        super().__init__()
        self.convolutions = Sequential(
            Conv2d(channels, FILTERS, 3, stride=2), nn.ReLU(),
            Conv2d(FILTERS, FILTERS, 3), nn.ReLU(), Conv2d(FILTERS, FILTERS, 3), nn.ReLU(),
            Conv2d(FILTERS, FILTERS, 3), nn.ReLU(),
        )  # fmt: skip
        self.projection = projection()
        self.dtype = dtype  # of the computation: layers follow their input

    def features(self, obs: Tensor) -> Tensor:
        """(B, SIDE² · FILTERS), pixel by pixel, as they lie in memory."""
        return self.convolutions(obs.to(self.dtype) / 255).movedim(-3, -1).flatten(-3)

    def forward(self, obs: Tensor) -> Tensor:
        return self.projection(self.features(obs))


class Decoder(nn.Module):
    """The encoder turned round: latents (B, LATENT) -> observations (B, channels, 84, 84) in [-0.5, 0.5]."""

    def __init__(self, channels: int, dtype: torch.dtype):
        super().__init__()
        self.fc = Linear(LATENT, SIDE**2 * FILTERS)
        self.convolutions = Sequential(
            ConvTranspose2d(FILTERS, FILTERS, 3), nn.ReLU(), ConvTranspose2d(FILTERS, FILTERS, 3), nn.ReLU(),
            ConvTranspose2d(FILTERS, FILTERS, 3), nn.ReLU(),
            ConvTranspose2d(FILTERS, channels, 3, stride=2, output_padding=1),
        )  # fmt: skip
        self.dtype = dtype

    def forward(self, latent: Tensor) -> Tensor:
        features = F.relu(self.fc(latent.to(self.dtype))).to(self.dtype)
        return self.convolutions(features.unflatten(-1, (SIDE, SIDE, FILTERS)).movedim(-1, -3)).to(latent.dtype)


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
    """Diagonal Gaussian of u, whose tanh is the action, on a projection of its own."""

    def __init__(self, act_dim: int):
        super().__init__()
        self.projection = projection()
        self.fc1 = Linear(LATENT, HIDDEN)
        self.fc2 = Linear(HIDDEN, HIDDEN)
        self.out = Linear(HIDDEN, 2 * act_dim)  # mean and log standard deviation, orthogonal to each other at first

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of u, (B, d) each, at features (B, SIDE² · FILTERS)."""
        x = F.relu(self.fc1(self.projection(features)))
        x = F.relu(self.fc2(x))
        mean, log_std = self.out(x).chunk(2, dim=-1)
        return mean, log_std.tanh() * (LOG_STD_MAX - LOG_STD_MIN) / 2 + (LOG_STD_MAX + LOG_STD_MIN) / 2

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
class Force(nn.Module):
    """F(s, a, g) of HPO eq. (16): one hidden ELU layer each for T_h (tanh) and the gate σ_h (sigmoid) (D1)."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int, sees_state: bool):
        super().__init__()
        n_in = obs_dim * sees_state + 2 * act_dim
        self.implicit = nn.Sequential(Linear(n_in, hidden), nn.ELU(), Linear(hidden, act_dim), nn.Tanh())  # T_h
        self.gate = nn.Sequential(Linear(n_in, hidden), nn.ELU(), Linear(hidden, act_dim), nn.Sigmoid())  # σ_h
        self.sees_state = sees_state  # D10

    def forward(self, obs: Tensor, action: Tensor, g: Tensor) -> Tensor:
        """(B, ds), (B, d), (B, d) -> (B, d)."""
        x = torch.cat([obs, action, g] if self.sees_state else [action, g], dim=-1)
        gate = self.gate(x)
        return gate * g + (1 - gate) * self.implicit(x)


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
        dtype = torch.bfloat16 if args.amp else torch.get_default_dtype()
        self.encoder = Encoder(obs_dim, dtype)
        self.critic = Critic(LATENT, act_dim)
        self.policy = Policy(act_dim)
        self.decoder = Decoder(obs_dim, dtype)
        self.force = Force(LATENT, act_dim, args.leapfrog_hidden, args.leapfrog_state)
        self.log_alpha = number(math.log(args.alpha), args.autotune)
        initialise(self, start)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("dither", uniform(2**20), persistent=False)  # for five_bits
        moved = [*self.policy.parameters(), *(self.force.parameters() if args.leapfrog_steps else ())]
        self.policy_optimizer = Adam(moved, args.policy_lr)
        self.q_optimizer = Adam([*self.encoder.parameters(), *self.critic.parameters()], args.q_lr)
        encoder = {"params": self.encoder.parameters()}  # which so has two Adams
        decoder = {"params": self.decoder.parameters(), "weight_decay": args.decoder_decay}
        self.decoder_optimizer = Adam([encoder, decoder], args.q_lr)
        self.alpha_optimizer = Adam([self.log_alpha], args.alpha_lr, betas=(0.5, 0.999))

    def noise_shapes(self) -> tuple[dict, dict]:
        """Standard normal numbers that a step needs, by name: to act, and to update."""
        batch = self.args.batch_size, self.act_dim
        acting, updating = {"action": (1, self.act_dim)}, {"next_action": batch, "action": batch}
        if self.args.leapfrog_steps:
            acting, updating = acting | {"momentum": (1, self.act_dim)}, updating | {"momentum": batch}
            updating |= {"next_momentum": batch} if self.args.evolve_target else {}
        return acting, updating

    def evolve(self, critic: Critic, obs: Tensor, u: Tensor, noise: Tensor, std: float, with_momentum=False) -> tuple:
        """u_K and ρ_K (None unless `with_momentum`), (B, d) each, from u_0 and ρ_0 = `std` times normal noise."""

        def force(u: Tensor) -> Tensor:
            action = u.tanh()
            slope = action_gradient(critic, obs, action) * (1 - action.square())  # ∇_u Q
            g = -F.normalize(slope, dim=-1)  # α cancels; where ∇Q is zero, g is zero
            return self.force(obs, action, g)

        stds = momentum_stds(std, self.args.leapfrog_steps)
        return leapfrog(force, u, std * noise, self.args.step_size, stds, with_momentum)

    @torch.no_grad()
    def act(self, obs: Tensor, noise: NamedTuple) -> Tensor:
        """Exploration: an action (1, d) at an observation (1, channels, 84, 84)."""
        features = self.encoder.features(obs)
        u, log_prob = self.policy.sample(features, noise.action)
        if self.args.leapfrog_steps:
            latent = self.encoder.projection(features)
            u, _ = self.evolve(self.critic, latent, u, noise.momentum, self.args.momentum_std_explore)
        return squash(u, log_prob)[0]

    def base_mean(self, obs: Tensor) -> Tensor:
        """The base policy's action with the noise off, (B, d)."""
        return self.policy.mean_action(self.encoder.features(obs))

    def evolved_mean(self, obs: Tensor) -> Tensor:
        """The action with the noise off, (B, d): the policy's mean and ρ_0 = 0, the schedule of training (D9)."""
        features = self.encoder.features(obs)
        latent = self.encoder.projection(features)
        zero = latent.new_zeros(*latent.shape[:-1], self.act_dim)
        u, log_prob = self.policy.sample(features, zero)
        u, _ = self.evolve(self.critic, latent, u, zero, self.args.momentum_std_train)
        return squash(u, log_prob)[0]

    def policies(self) -> dict:
        """The policies that an evaluation runs, noise off, (B, channels, 84, 84) -> (B, d); the first one counts."""
        if not self.args.leapfrog_steps:
            return {"base": self.base_mean}
        policies = {"leapfrog": self.evolved_mean, "base": self.base_mean}
        return dict(reversed(policies.items())) if self.args.eval_base else policies

    def critic_loss(self, batch: "Batch", noise: NamedTuple) -> tuple[Tensor, dict]:
        """Squared Bellman errors of the twin critics, summed."""
        with torch.no_grad():
            features = self.encoder.features(batch.next_obs)  # which the policy sees
            next_latent = self.target_encoder(batch.next_obs)  # and the target critics
            u, log_prob = self.policy.sample(features, noise.next_action)
            if self.args.evolve_target and self.args.leapfrog_steps:  # D8
                u, _ = self.evolve(self.target, next_latent, u, noise.next_momentum, self.args.momentum_std_train)
            next_action, next_log_prob = squash(u, log_prob)
            next_q = self.target.smaller(next_latent, next_action)
            next_value = next_q - self.log_alpha.exp() * next_log_prob
            y = batch.reward + self.args.gamma * (1 - batch.terminated) * next_value
        q = self.critic(self.encoder(batch.obs), batch.action)  # (2, B)
        losses = (q - y.unsqueeze(-2)).square().mean(-1)
        clamped = (batch.action.abs() >= 1).float().mean((-2, -1))  # by rounding of tanh, or by clamping (D6)
        return losses.sum(-1), twin_metrics(losses, q.mean(-1)) | {"charts/clamped_fraction_replay": clamped}

    def policy_loss(self, obs: Tensor, noise: NamedTuple) -> tuple[Tensor, dict]:
        """Minus the objective, HPO eq. (15)."""
        alpha = self.log_alpha.exp().detach()
        std = self.args.momentum_std_train
        with torch.no_grad():  # the policy does not teach the encoder
            features = self.encoder.features(obs)
            latent = self.encoder.projection(features)
        u, log_prob = self.policy.sample(features, noise.action)
        if self.args.leapfrog_steps:
            u, momentum = self.evolve(self.critic, latent, u, noise.momentum, std, self.args.momentum_term)
        action, log_prob = squash(u, log_prob)
        q = self.critic.smaller(latent, action)
        loss = (alpha * log_prob - q).mean(-1)
        if self.args.momentum_term and self.args.leapfrog_steps:  # D4
            loss = loss + (alpha / (2 * std**2) * momentum.square().sum(-1)).mean(-1)
        seen = {"losses/actor_loss": loss, "losses/entropy": -log_prob.mean(-1), "losses/alpha": alpha.squeeze(-1)}
        seen["charts/clamped_fraction"] = (action.abs() >= 1).float().mean((-2, -1))
        return loss, seen | {"log_prob": log_prob}

    def alpha_loss(self, log_prob: Tensor) -> tuple[Tensor, dict]:
        """The temperature rises while the entropy is below its target (D11)."""
        target = -self.act_dim if self.args.target_entropy is None else self.args.target_entropy
        loss = -(self.log_alpha.exp() * (log_prob + target)).mean(-1)
        return loss, {"losses/alpha_loss": loss}

    def five_bits(self, obs: Tensor, uniform: Tensor) -> Tensor:
        """What the decoder is to give, in [-0.5, 0.5]: frames of 32 levels, and noise of one level's width on them:
        pieces of one table, from places that the last digits of the numbers that drew the batch give."""
        noise = windows(self.dither, uniform, obs.shape[-3:].numel()).view(obs.shape)
        return ((obs / 8).floor() + noise) / 32 - 0.5

    def decoder_loss(self, obs: Tensor, uniform: Tensor) -> tuple[Tensor, dict]:
        """Error of the reconstruction and the latent's penalty."""
        latent = self.encoder(obs)
        error = (self.decoder(latent) - self.five_bits(obs, uniform)).square().mean((-4, -3, -2, -1))
        loss = error + self.args.latent_penalty * (latent.square().sum(-1) / 2).mean(-1)
        return loss, {"losses/ae_loss": loss}

    def update(self, batch: "Batch", noise: NamedTuple, uniform: Tensor, policy: bool) -> dict[str, Tensor]:
        """A step of critics, encoder and decoder, and amid it, if `policy`, of policy, temperature and targets."""
        seen = self.q_optimizer.minimise(self.critic_loss, batch, noise)
        if policy:
            seen |= self.policy_optimizer.minimise(self.policy_loss, batch.obs, noise)
            if self.args.autotune:
                seen |= self.alpha_optimizer.minimise(self.alpha_loss, seen["log_prob"])
            follow(self.target, self.critic, self.args.tau)  # θ' ← θ' + τ (θ - θ')
            follow(self.target_encoder, self.encoder, self.args.encoder_tau)
        seen |= self.decoder_optimizer.minimise(self.decoder_loss, batch.obs, uniform)
        return seen

    @torch.no_grad()
    def pictures(self, obs: Tensor) -> Tensor:
        """The newest frames, in 5 bits, above what the decoder makes of them: an image (3, 168, 84 B) in [0, 1]."""
        pairs = torch.cat([(obs / 8).floor() / 32, self.decoder(self.encoder(obs)) + 0.5], dim=-2)
        return pairs[..., -3:, :, :].movedim(-4, -2).flatten(-2).clamp(0, 1)


# -------------------------------------------------------------------------------------------------------------- replay
class Batch(NamedTuple):
    obs: Tensor  # (B, 9, 84, 84), of 0 to 255
    action: Tensor  # (B, d)
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, 9, 84, 84)
    terminated: Tensor  # (B,): 1 where the task ended, 0 where only time ran out, which does not stop the bootstrap


class Replay(FrameRing):
    """A ring of transitions, a row each, and each frame once."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int):
        self.columns = act_dim, 1, 1  # of Batch, what is not seen
        super().__init__("buffer_size", min(args.buffer_size, args.total_timesteps), sum(self.columns))

    def sample(self, uniform: Tensor) -> Batch:
        """Transitions drawn by uniform numbers (B,) in [0, 1)."""
        obs, drawn, next_obs = self.draw(uniform)
        action, reward, terminated = drawn.split(self.columns, dim=-1)
        return Batch(obs, action, reward.squeeze(-1), next_obs, terminated.squeeze(-1))


# ------------------------------------------------------------------------------------------------------------ training
def train(args: Args, run: Run) -> None:
    """HPO Algorithm 1 by its line numbers, updates before the environment's step; `run` resumes, evaluates, logs."""
    envs = run.environments()  # with actions in [-1, 1] (D6)
    agent = run.side_by_side(Agent, args, envs.obs_dim, envs.act_dim)
    replay = run.side_by_side(Replay, args, envs.obs_dim, envs.act_dim)

    def learning(policy: bool) -> Callable:
        return lambda uniform, noise: agent.update(replay.sample(uniform), noise, uniform, policy)

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
