"""SAC-AE-HPO: Hamiltonian policy optimisation from pixels, on top of SAC-AE.

    python sac_hpo_pixels.py --env-id dm_control/finger-spin-v0
    python sac_hpo_pixels.py --env-id dm_control/cheetah-run-v0 --leapfrog-steps 0    # SAC-AE
    python sac_hpo_pixels.py --env-id dm_control/walker-walk-v0 --help                # flags, with the task's values

An observation is the last three frames of a camera. Convolutions, one linear layer, LayerNorm and tanh make them a
latent h of 50 numbers, on which policy and critics stand. Two losses teach the convolutions, and the policy's does not:

    (Q_i(h, a) - y)²                                           trains convolutions, the critics' projection, critics
    (decoder(h) - frames in 5 bits)² + λ ‖h‖²/2                trains convolutions, the critics' projection, decoder
    α log π(a_0|h') - min(Q1, Q2)(h, a_K)                      trains the policy, with a projection of its own for h'

The action a_0 evolves for K leapfrog steps on the potential U(h, a) = -min(Q1, Q2)(h, a)/α, where the latent h of the
critics is held constant. Leapfrog, force, tempering and objective are those of `sac_hpo_continuous.py`, to the letter;
read that file first. "HPO" is the paper Hamiltonian Policy Optimization; "D1" to "D19" are our readings of it, with
their reasons in docs/method.md.

One process trains S seeds side by side, as the state scripts do: read the shapes below without their S.

Of `sac_hpo_continuous.py` it changes `HIDDEN`, `Args`, `TABLE_FIELDS`, `TABLE`, `LIMITS`, `table`, `Network.__init__`,
`Critic.__init__`, `Policy.__init__`, `Policy.forward`, `Adam.__init__`, `Adam.step`, `Agent.__init__`, `Agent.tensors`,
`Agent.act`, `Agent.evolved_mean`, `Agent.readings`, `Agent.critic_loss`, `Agent.policy_loss`, `Agent.update`,
`Agent.metrics`, `Replay` and `train`; it adds `LATENT`, `orthogonal`, `Convolutions`, `Projection`, `Decoder`,
`Agent.base_mean`, `Agent.five_bits`, `Agent.decoder_loss`, `Agent.decoder_gradients` and
`Agent.pictures`.
"""

import copy
import dataclasses
import itertools
import math
import sys
from typing import Literal

from runtime.arguments import RunArgs
from runtime.device import allocate
from runtime.frames import Frames
from runtime.products import product
from runtime.run import Run, launch
from runtime.streams import windows

import numpy as np
import torch
import torch.nn as nn

HIDDEN = 1024  # units in each hidden layer of the policy and the critics
LATENT = 50  # numbers that stand for an observation
FILTERS, SIDE = 32, 35  # of the last convolution: channels, height and width
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args(RunArgs):
    # --env-id, --seed, --num-seeds, --total-timesteps and what else every run has stand in runtime/arguments.py
    env_id: str = "dm_control/cheetah-run-v0"  # dm_control/<domain>-<task>-v0
    action_repeat: int = 4  # simulator steps in a step; all numbers of steps below and above count the latter
    learning_starts: int = 1_000  # steps of uniformly random actions before the first update
    batch_size: int = 128  # transitions in an update
    buffer_size: int = 100_000  # transitions kept for each seed, 23 kB each
    gamma: float = 0.99  # discount factor
    tau: float = 0.01  # step of the target critics towards the critics
    encoder_tau: float = 0.05  # the same for the encoder
    policy_frequency: int = 2  # updates of critics and decoder for each of the policy, the temperature and the targets
    policy_lr: float = 1e-3  # Adam's learning rate for the policy
    q_lr: float = 1e-3  # Adam's learning rate for the critics and, once more, the encoder and the decoder
    alpha_lr: float = 1e-4  # Adam's learning rate for the temperature
    alpha: float = 0.1  # entropy temperature, with --autotune its first value
    autotune: bool = True  # tune the temperature towards an entropy of -(action dimensions)
    latent_penalty: float = 1e-6  # λ, of the latent's length
    decoder_decay: float = 1e-7  # weight decay of the decoder
    amp: bool = False  # bfloat16 in convolutions and decoder
    leapfrog_steps: int = 3  # leapfrog steps K (D18); 0 is SAC-AE (D19)
    step_size: float = 0.1  # leapfrog step size ε, in units of the space of the chain
    momentum_std_train: float = 0.15  # standard deviation 1/√β0 of the momentum in training (D18)
    momentum_std_explore: float = 1.5  # standard deviation 1/√β0 of the momentum in exploration (D18)
    leapfrog_space: Literal["action", "pre-tanh"] = "pre-tanh"  # where the chain lives: u, or a = tanh(u) (D6)
    leapfrog_hidden: int = 32  # hidden units h of T_h and of σ_h (D18)
    leapfrog_state: bool = False  # let T_h and σ_h see the critics' latent (D17)
    momentum_term: bool = False  # keep the ρ_K term of eq. 15 (D4)
    evolve_target: bool = False  # evolve the next action of the critics' target too (D8)
    eval_base: bool = False  # let evaluations count the base policy's mean; both readings are recorded (D9)


# fmt: off
TABLE_FIELDS = ("action_repeat",)
TABLE = {"cheetah": (4,), "finger": (2,), "walker": (2,), "cartpole": (8,), "reacher": (4,), "ball_in_cup": (4,)}
LIMITS = {  # smallest and largest value of each number
    "action_repeat": (1, 1000), "learning_starts": (0, 10**12), "batch_size": (1, 10**6), "buffer_size": (1, 10**10),
    "gamma": (0, 1), "tau": (1e-9, 1), "encoder_tau": (1e-9, 1), "policy_frequency": (1, 10**6),
    "policy_lr": (1e-12, 1), "q_lr": (1e-12, 1), "alpha_lr": (1e-12, 1), "alpha": (1e-9, 1e6),
    "latent_penalty": (0, 1e6), "decoder_decay": (0, 1), "leapfrog_steps": (0, 1000), "step_size": (0, 100),
    "leapfrog_hidden": (1, 10**5), "momentum_std_train": (1e-6, 1e3), "momentum_std_explore": (1e-6, 1e3),
}
# fmt: on


def table(env_id: str) -> tuple[str, dict]:
    """The authors' action repeat for a task, cheetah's for one that they do not have: its name and value."""
    name = env_id.split("/")[-1].split("-")[0]
    row = name if name in TABLE else "cheetah"
    return f"SAC-AE's row {row}", dict(zip(TABLE_FIELDS, TABLE[row]))


# ------------------------------------------------------------------------------------------------------------ networks
def orthogonal(init: list[torch.Generator], twins: int, *shape: int, gain: float = 1.0) -> nn.Parameter:
    """Weights (N, *shape), N = twins · S, of orthogonal matrices; of 3 × 3 filters the middles alone are not zero."""
    weight = torch.zeros(twins * len(init), *shape)
    for rows, generator in zip(weight.split(twins), init):
        for matrix in rows if len(shape) == 2 else rows[..., 1, 1]:
            matrix.copy_(nn.init.orthogonal_(torch.empty(matrix.shape), gain, generator))
    return nn.Parameter(weight)


class Network(nn.Module):
    """A network for each seed, or two with twins=2: N = twins · S networks, the weights drawn seed by seed.

    Weights are (N, in, out), orthogonal, and biases zero. The last layer's weights are (N, out, in) and its output has
    the batch as last axis: a narrow product is several times faster so, on a CPU.
    """

    def __init__(self, init: list[torch.Generator], twins: int, sizes: list[int], activate=torch.relu_):
        super().__init__()
        self.layers, self.activate, self.twins = nn.ParameterList(), activate, twins
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            shape, bias = ((n_in, n_out), (1, n_out)) if i < len(sizes) - 2 else ((n_out, n_in), (n_out, 1))
            self.layers.append(orthogonal(init, twins, *shape))
            self.layers.append(torch.zeros(twins * len(init), *bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, in) -> (N, out, B)."""
        x = x if self.twins == 1 else x.repeat_interleave(2, dim=0)
        *hidden, last, last_bias = self.layers
        for weight, bias in zip(hidden[::2], hidden[1::2]):
            x = self.activate(product(x, weight) + bias)
        return product(last, x.mT) + last_bias


class Convolutions(nn.Module):
    """Four 3 × 3 convolutions of FILTERS channels, the first with stride 2; policy and critics share them."""

    def __init__(self, init: list[torch.Generator], channels: int, dtype: torch.dtype):
        super().__init__()
        self.layers, self.dtype, gain = nn.ParameterList(), dtype, nn.init.calculate_gain("relu")
        for n_in in (channels, FILTERS, FILTERS, FILTERS):
            self.layers.append(orthogonal(init, 1, FILTERS, n_in, 3, 3, gain=gain))
            self.layers.append(torch.zeros(len(init), FILTERS))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (S, B, channels, 84, 84) of 0 to 255 -> features (S, B, FILTERS · SIDE²)."""
        features = []
        for seed, x in enumerate(frames):  # a convolution of groups is slower than one for each seed
            x = x.to(self.dtype).contiguous(memory_format=torch.channels_last) / 255
            for i in range(0, len(self.layers), 2):
                weight, bias = (layer[seed].to(self.dtype) for layer in self.layers[i : i + 2])
                x = torch.relu(nn.functional.conv2d(x, weight, stride=1 if i else 2) + bias[:, None, None])
            features.append(x.permute(0, 2, 3, 1).flatten(1))  # as they lie in memory
        return torch.stack(features)


class Projection(nn.Module):
    """The latent (S, B, LATENT) of features (S, B, FILTERS · SIDE²): linear, LayerNorm, tanh."""

    def __init__(self, init: list[torch.Generator]):
        super().__init__()
        self.linear, seeds = orthogonal(init, 1, FILTERS * SIDE**2, LATENT), len(init)
        self.bias, self.shift = (nn.Parameter(torch.zeros(seeds, 1, LATENT)) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(seeds, 1, LATENT))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = product(features, self.linear.to(features.dtype)).to(self.bias.dtype) + self.bias
        return (nn.functional.layer_norm(x, (LATENT,)) * self.scale + self.shift).tanh()


class Decoder(nn.Module):
    """Frames in [-0.5, 0.5], (S, B, channels, 84, 84), of latents (S, B, LATENT): the encoder turned round."""

    def __init__(self, init: list[torch.Generator], channels: int, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.linear = orthogonal(init, 1, LATENT, FILTERS * SIDE**2)
        self.bias = nn.Parameter(torch.zeros(len(init), 1, FILTERS * SIDE**2))
        self.layers, gain = nn.ParameterList(), nn.init.calculate_gain("relu")
        for n_out in (FILTERS, FILTERS, FILTERS, channels):
            self.layers.append(orthogonal(init, 1, FILTERS, n_out, 3, 3, gain=gain))
            self.layers.append(torch.zeros(len(init), n_out))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        linear, x, frames = self.linear.to(self.dtype), latent.to(self.dtype), []
        features = torch.relu(product(x, linear) + self.bias.to(self.dtype))
        for seed, x in enumerate(features.unflatten(-1, (SIDE, SIDE, FILTERS))):
            x = x.permute(0, 3, 1, 2)
            for i in range(0, len(self.layers), 2):
                weight, bias = (layer[seed].to(self.dtype) for layer in self.layers[i : i + 2])
                last = i == len(self.layers) - 2
                x = x if i == 0 else torch.relu(x)
                x = nn.functional.conv_transpose2d(x, weight, None, 2 if last else 1, output_padding=int(last))
                x = x + bias[:, None, None]  # apart: its gradient inside took as long as the weight's
            frames.append(x)
        return torch.stack(frames).to(latent.dtype)


class Critic(Network):
    """Twin critics of a latent and an action, with ∇_a Q in closed form, and the projection that makes the latent."""

    def __init__(self, init: list[torch.Generator], act_dim: int):
        super().__init__(init, 2, [LATENT + act_dim, HIDDEN, HIDDEN, 1])
        self.obs_dim, self.projection = LATENT, Projection(init)

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
    """tanh-squashed diagonal Gaussian over [-1, 1]^d, on a projection of its own."""

    def __init__(self, init: list[torch.Generator], act_dim: int):
        super().__init__(init, 1, [LATENT, HIDDEN, HIDDEN, 2 * act_dim])
        self.projection = Projection(init)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation before the tanh: (S, B, FILTERS · SIDE²) -> 2 × (S, B, d)."""
        mean, log_std = super().forward(self.projection(features)).mT.chunk(2, dim=-1)
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

    def __init__(self, parameters: list[nn.Parameter], lr: float, beta1: float = 0.9, decay: float = 0.0):
        self.parameters, self.lr, self.beta1, self.decay = list(parameters), lr, beta1, decay
        self.means, self.squares = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def state(self) -> list[torch.Tensor]:
        return [*self.means, *self.squares, *self.steps]

    def step(self, gradients: tuple[torch.Tensor, ...]) -> None:
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.parameters, gradients, self.means, self.squares, [], self.steps, lr=self.lr, beta1=self.beta1,
            beta2=0.999, weight_decay=self.decay, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip


class Agent(nn.Module):
    """Networks, temperature and optimizers of all seeds, and one update."""

    COMPILED = "act", "critic_gradients", "policy_gradients", "decoder_gradients"

    def __init__(self, args: Args, channels: int, act_dim: int, device: torch.device):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        self.pre_tanh = args.leapfrog_space == "pre-tanh"
        init = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_seeds)]
        dtype = torch.bfloat16 if args.amp else torch.get_default_dtype()
        self.convolutions = Convolutions(init, channels, dtype)
        self.critic = Critic(init, act_dim)
        self.policy = Policy(init, act_dim)
        self.decoder = Decoder(init, channels, dtype)
        self.log_alpha = nn.Parameter(torch.full((args.num_seeds, 1), math.log(args.alpha)), args.autotune)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_convolutions = copy.deepcopy(self.convolutions).requires_grad_(False)
        self.force = Force(init, LATENT, act_dim, args.leapfrog_hidden, args.leapfrog_state)
        dither = torch.stack([torch.rand(2**20, generator=generator) for generator in init])
        self.register_buffer("dither", dither, persistent=False)  # for five_bits
        self.to(device)
        trained = [*self.policy.parameters(), *(self.force.parameters() if args.leapfrog_steps else ())]
        encoder = [*self.convolutions.parameters(), *self.critic.projection.parameters()]
        self.policy_optimizer = Adam(trained, args.policy_lr)
        self.q_optimizer = Adam([*self.convolutions.parameters(), *self.critic.parameters()], args.q_lr)
        self.encoder_optimizer = Adam(encoder, args.q_lr)  # a second one on the same parameters
        self.decoder_optimizer = Adam(self.decoder.parameters(), args.q_lr, decay=args.decoder_decay)
        self.alpha_optimizer = Adam([self.log_alpha], args.alpha_lr, beta1=0.5)

    def tensors(self) -> list[torch.Tensor]:
        """All that training changes: weights, temperature, Adam's state."""
        optimizers = self.q_optimizer, self.policy_optimizer, self.alpha_optimizer
        optimizers += self.encoder_optimizer, self.decoder_optimizer
        return [p.data for p in self.parameters()] + [x for optimizer in optimizers for x in optimizer.state()]

    def noise_shapes(self) -> tuple[tuple, tuple]:
        """Normal numbers that a step needs for each seed: acting's (a, ρ) and the update's (a', a, ρ, D8's ρ')."""
        acting, updating = (2, 3 + self.args.evolve_target) if self.args.leapfrog_steps else (1, 2)
        return (acting, self.act_dim), (updating, self.args.batch_size, self.act_dim)

    def start(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a chain begins, x_0 (S, B, d), and the log-density (S, B) there: a_0, or u_0 whose tanh it is (D6)."""
        return (self.policy.draw if self.pre_tanh else self.policy.sample)(obs, noise)

    def end(self, x: torch.Tensor, log_prob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The action a_K at the end of a chain and its log-density: clamped, or squashed (D6)."""
        return squash(x, log_prob) if self.pre_tanh else (x.clamp(-1, 1), log_prob)

    def gradient(self, critic: Critic, share, x) -> tuple[torch.Tensor, torch.Tensor]:
        """a at x, and g = ∇_x U / ‖∇_x U‖ there, (S, B, d) each. Its length cancels α; where ∇Q is zero, g is zero."""
        actions = x.tanh() if self.pre_tanh else x
        slope = critic.slope(share, actions.detach())[1]
        slope = slope * (1 - actions.square()) if self.pre_tanh else slope  # the chain rule
        return actions, -nn.functional.normalize(slope, dim=-1)

    def evolve(self, critic: Critic, share, obs, x, noise, std: float, last=False) -> tuple:
        """x_K and ρ_K (None unless `last`), (S, B, d) each, from x_0 and ρ_0 = std · noise."""

        def force(x):
            return self.force(obs, *self.gradient(critic, share, x))

        stds = momentum_stds(std, self.args.leapfrog_steps)
        return leapfrog(force, x, std * noise, self.args.step_size, stds, last)

    @torch.no_grad()
    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Exploration: actions (S, d) for obs (S, channels, 84, 84) and noise (S, 2, d) of a_0 and ρ_0."""
        features, std = self.convolutions(obs[:, None]), self.args.momentum_std_explore
        x, log_prob = self.start(features, noise[:, :1])
        if self.args.leapfrog_steps:
            latent = self.critic.projection(features)
            x, _ = self.evolve(self.critic, self.critic.share(latent), latent, x, noise[:, 1:], std)
        return self.end(x, log_prob)[0][:, 0]

    @torch.no_grad()
    def base_mean(self, obs: torch.Tensor) -> torch.Tensor:
        """The base policy's action with the noise off, (S, B, d), for obs (S, B, channels, 84, 84)."""
        return self.policy.mean_action(self.convolutions(obs))

    @torch.no_grad()
    def evolved_mean(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d): the policy's mean and ρ_0 = 0, the schedule of training (D9)."""
        features = self.convolutions(obs)
        latent, zero = self.critic.projection(features), obs.new_zeros(*obs.shape[:2], self.act_dim)
        x, log_prob = self.start(features, zero)
        x, _ = self.evolve(self.critic, self.critic.share(latent), latent, x, zero, self.args.momentum_std_train)
        return self.end(x, log_prob)[0]

    def readings(self) -> dict:
        """The policies that an evaluation runs, noise off; the first is the one that counts."""
        if not self.args.leapfrog_steps:
            return {"base": self.base_mean}
        policies = {"leapfrog": self.evolved_mean, "base": self.base_mean}
        return dict(reversed(policies.items())) if self.args.eval_base else policies

    def critic_loss(self, frames, actions, rewards, next_frames, terminated, noise) -> tuple:
        """Squared Bellman errors and mean values of the twin critics, (S, 2) each."""
        with torch.no_grad():
            x, log_prob = self.start(self.convolutions(next_frames), noise[:, 0])
            next_latent = self.target.projection(self.target_convolutions(next_frames))
            if self.args.evolve_target and self.args.leapfrog_steps:  # D8
                share, std = self.target.share(next_latent), self.args.momentum_std_train
                x, _ = self.evolve(self.target, share, next_latent, x, noise[:, 3], std)
            next_actions, next_log_prob = self.end(x, log_prob)
            next_q = self.target(next_latent, next_actions).amin(1)
            next_value = next_q - self.log_alpha.exp() * next_log_prob
            y = rewards + self.args.gamma * (1 - terminated) * next_value
        q = self.critic(self.critic.projection(self.convolutions(frames)), actions)
        return ((q - y[:, None]) ** 2).mean(-1), q.detach().mean(-1)

    def policy_loss(self, frames, noise) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Minus the objective, HPO eq. (15), (S,); log-density of a_K (S, B); x_K (S, B, d)."""
        with torch.no_grad():  # the policy teaches neither convolutions nor the critics' projection
            features = self.convolutions(frames)
            latent = self.critic.projection(features)
        x, log_prob = self.start(features, noise[:, 1])
        share, alpha = self.critic.share(latent), self.log_alpha.exp().detach()
        if self.args.leapfrog_steps:
            std, last = self.args.momentum_std_train, self.args.momentum_term
            x, momentum = self.evolve(self.critic, share, latent, x, noise[:, 2], std, last)
        actions, log_prob = self.end(x, log_prob)  # a clamped coordinate gets no gradient from Q
        q, slope = self.critic.slope(share, actions.detach())
        loss = alpha * log_prob - q - ((actions - actions.detach()) * slope).sum(-1)  # Q's value and its gradient
        if self.args.leapfrog_steps and last:  # D4
            loss = loss + alpha / (2 * std**2) * momentum.square().sum(-1)
        return loss.mean(-1), log_prob.detach(), x.detach()

    def five_bits(self, frames: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """What the decoder is to give, in [-0.5, 0.5]: frames of 32 levels, and noise of one level's width on them."""
        noise = windows(self.dither, uniform, frames[0, 0].numel()).view(frames.shape)
        return ((frames / 8).floor() + noise) / 32 - 0.5

    def decoder_loss(self, frames, uniform) -> torch.Tensor:
        """Error of the reconstruction and the latent's penalty, (S,)."""
        latent = self.critic.projection(self.convolutions(frames))
        error = (self.decoder(latent) - self.five_bits(frames, uniform)).square().mean((1, 2, 3, 4))
        return error + self.args.latent_penalty * (latent.square().sum(-1) / 2).mean(-1)

    def critic_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `critic_loss` returns, and the gradients of the losses' sum; each loss belongs to one seed."""
        loss, values = self.critic_loss(*inputs)
        return loss.detach(), values, torch.autograd.grad(loss.sum(), self.q_optimizer.parameters)

    def policy_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `policy_loss` returns, and the gradients of the losses' sum."""
        loss, log_prob, actions = self.policy_loss(*inputs)
        return loss.detach(), log_prob, actions, torch.autograd.grad(loss.sum(), self.policy_optimizer.parameters)

    def decoder_gradients(self, *inputs: torch.Tensor) -> tuple:
        """What `decoder_loss` returns, and the gradients of the losses' sum."""
        loss = self.decoder_loss(*inputs)
        parameters = self.encoder_optimizer.parameters + self.decoder_optimizer.parameters
        return loss.detach(), torch.autograd.grad(loss.sum(), parameters)

    def update(self, batch: tuple[torch.Tensor, ...], noise: torch.Tensor, uniform, policy: bool) -> dict:
        """One step of the critics, the encoder and the decoder, and between them, if `policy`, of the policy, the
        temperature and the targets, for noise (S, .., B, d) and uniform (S, B)."""
        q_loss, q_values, gradients = self.critic_gradients(*batch, noise)
        self.q_optimizer.step(gradients)
        seen = {"q_loss": q_loss, "q_values": q_values, "replayed": batch[1]}

        if policy:
            policy_loss, log_prob, actions, gradients = self.policy_gradients(batch[0], noise)
            self.policy_optimizer.step(gradients)
            if self.args.autotune:
                alpha_loss = -(self.log_alpha.exp() * (log_prob - self.act_dim)).mean(-1)  # target entropy -d
                self.alpha_optimizer.step(torch.autograd.grad(alpha_loss.sum(), [self.log_alpha]))
            with torch.no_grad():
                encoder = self.encoder_optimizer.parameters
                follows = [*self.target_convolutions.parameters(), *self.target.projection.parameters()]
                torch._foreach_lerp_(follows, encoder, self.args.encoder_tau)
                torch._foreach_lerp_(list(self.target.layers), list(self.critic.layers), self.args.tau)
            seen |= {"policy_loss": policy_loss, "log_prob": log_prob, "actions": actions}

        seen["ae_loss"], gradients = self.decoder_gradients(batch[0], uniform)
        self.encoder_optimizer.step(gradients[: len(self.encoder_optimizer.parameters)])
        self.decoder_optimizer.step(gradients[len(self.encoder_optimizer.parameters) :])
        return seen

    @torch.no_grad()
    def pictures(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (S, B, channels, 84, 84) above what the decoder makes of them: images (S, 3, 168, 84 B) in [0, 1]."""
        latent = self.critic.projection(self.convolutions(frames))
        rows = torch.stack([(frames / 8).floor() / 32, self.decoder(latent) + 0.5])[..., -3:, :, :]
        return rows.permute(1, 3, 0, 4, 2, 5).flatten(4, 5).flatten(2, 3).clamp(0, 1)

    def metrics(self, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What updates returned, as scalars (S,) under the names of the logs."""
        metrics = {"losses/qf_loss": seen["q_loss"].mean(-1), "losses/ae_loss": seen["ae_loss"]}
        for i in range(2):
            metrics |= {f"losses/qf{i + 1}_{name}": seen[f"q_{name}"][:, i] for name in ("loss", "values")}
        if "log_prob" in seen:
            metrics["losses/actor_loss"], metrics["losses/entropy"] = seen["policy_loss"], -seen["log_prob"].mean(-1)
            metrics["losses/alpha"] = self.log_alpha.detach().exp()[:, 0]
            if self.args.leapfrog_steps and not self.pre_tanh:
                metrics["charts/clamped_fraction"] = (seen["actions"].abs() > 1).float().mean((1, 2))
        metrics["charts/clamped_fraction_replay"] = (seen["replayed"].abs() >= 1).float().mean((1, 2))  # by exploring
        return metrics


# -------------------------------------------------------------------------------------------------------------- replay
class Replay:
    """Ring of rows [a, r, terminated, number, age], (S, capacity, d + 4). The last two find the frames of s, and those
    of s' are one further on; runtime/frames.py keeps each frame once."""

    def __init__(self, num_seeds: int, capacity: int, envs, device: torch.device):
        self.columns, self.added, self.frames = (envs.act_dim, 1, 1, 1, 1), 0, Frames(num_seeds, capacity, envs, device)
        shape = num_seeds, capacity, sum(self.columns)
        self.rows = allocate(f"--buffer-size {capacity}", *shape, device=device, dtype=torch.double)
        self.seeds = torch.arange(num_seeds, device=device)
        self.size = torch.zeros(2, dtype=torch.double, device=device)  # the oldest row and their number

    def add(self, obs, actions, rewards, next_obs, terminated) -> None:
        """Stores one transition a seed: arrays (S, 9, 84, 84), (S, d), (S,), (S, 9, 84, 84), (S,)."""
        columns = rewards, terminated, *self.frames.add(self.added, obs, next_obs)
        row = torch.from_numpy(np.concatenate([actions, np.stack(columns, axis=1)], axis=1))
        self.rows[:, self.added % self.rows.shape[1]] = row.to(self.rows.device)
        self.added += 1
        self.size.copy_(self.frames.whole(self.added))

    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """s (S, B, 9, 84, 84), a (S, B, d), r (S, B), s', terminated (S, B), for uniform (S, B) in [0, 1)."""
        index = (self.size[0] + (uniform * self.size[1]).floor()).long() % self.rows.shape[1]
        actions, rewards, terminated, number, age = self.rows[self.seeds[:, None], index].split(self.columns, dim=-1)
        obs, next_obs = self.frames.stacks(number, age), self.frames.stacks(number + 1, age + 1)
        return obs, actions.float(), rewards[..., 0].float(), next_obs, terminated[..., 0].float()


# ------------------------------------------------------------------------------------------------------------ training
def train(args: Args, run: Run) -> None:
    """HPO Algorithm 1, whose lines are numbered beside ours; `run` resumes, evaluates, saves and logs meanwhile."""
    envs = run.environments()  # one a seed, with actions in [-1, 1] (D6)
    agent = Agent(args, envs.obs_dim, envs.act_dim, run.device)
    replay = Replay(args.num_seeds, min(args.buffer_size, args.total_timesteps), envs, run.device)

    def learn(policy: bool):
        return lambda uniform, noise: agent.update(replay.sample(uniform), noise, uniform, policy)

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
