"""Soft actor-critic (SAC), the baseline of Hamiltonian policy optimisation, in one file.

    python sac_continuous.py --env-id Hopper-v4
    python sac_continuous.py --env-id Hopper-v4 --seed 1 --num-seeds 4     # four seeds at once
    python sac_continuous.py --env-id Ant-v4 --help                        # flags, with Ant's values

SAC maximises, over a stochastic policy, the value of its actions plus their entropy (HPO eq. 7):

    J(θ) = E[ min(Q1, Q2)(s, a) - α log π_θ(a|s) ],    s from the replay, a ~ π_θ(·|s),

with a tanh-squashed Gaussian π_θ, so that actions lie in [-1, 1], and twin critics that regress on

    y = r + γ (1 - terminated) [ min(Q1', Q2')(s', a') - α log π_θ(a'|s') ],    a' ~ π_θ(·|s'),

where Q' are slow copies of the critics. "HPO" is the paper Hamiltonian Policy Optimization; "D1" to
"D16" are our readings of it, with their reasons in docs/method.md. `sac_hpo_continuous.py` is this
file plus Hamiltonian dynamics: `diff sac_continuous.py sac_hpo_continuous.py` shows the method.

The seed axis. One process trains S seeds side by side: every parameter, optimizer state, replay row
and environment has a leading axis of length S, and a batched matrix product serves all seeds. Losses
are means over the batch and sums over seeds, Adam works element by element, and each seed draws from
a random stream of its own: no seed can influence another. Read every shape below without its leading
S and you read plain SAC.
"""

import contextlib
import copy
import csv
import dataclasses
import difflib
import importlib.metadata
import importlib.util
import io
import json
import math
import platform
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem
HIDDEN = 256  # units in each hidden layer of the policy and the critics
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # D12
LOG_EVERY = 500  # steps between two rows of losses


# ---------------------------------------------------------------------------------------- arguments
@dataclasses.dataclass
class Args:
    env_id: str = "Hopper-v4"
    """Gymnasium environment: Box observation of one dimension, bounded Box action"""
    seed: int = 1
    """first seed"""
    num_seeds: int = 1
    """seeds trained together: seed, seed + 1, ..."""
    total_timesteps: int = 1_000_000
    """environment steps of each seed"""
    learning_starts: int = 5_000
    """steps of uniformly random actions before the first update"""
    batch_size: int = 256
    """transitions in an update"""
    buffer_size: int = 1_000_000
    """transitions kept for each seed"""
    gamma: float = 0.99
    """discount factor"""
    tau: float = 0.005
    """step of the target critics towards the critics"""
    policy_lr: float = 3e-4
    """Adam's learning rate for the policy"""
    q_lr: float = 3e-4
    """Adam's learning rate for the critics and the temperature"""
    alpha: float = 0.2
    """entropy temperature, or its first value with --autotune (HPO Table 3)"""
    autotune: bool = False
    """tune the temperature to a target entropy of -(action dimensions) (D11)"""
    policy_layers: int = 2
    """hidden layers of the policy, 1 or 2"""
    eval_frequency: int = 10_000
    """steps between two evaluations"""
    eval_episodes: int = 10
    """episodes of an evaluation, for each seed"""
    cuda: bool = torch.cuda.is_available()
    """train on a GPU; by default if there is one"""
    track: bool = False
    """log to Weights & Biases: a run for each seed, in one group"""
    wandb_project_name: str = "hamiltonian-policy-optimisation"
    """project of --track"""
    wandb_entity: str | None = None
    """user or team of --track"""
    capture_video: bool = False
    """record the first episode of every evaluation"""


TABLE_FIELDS = ("alpha",)
TABLE = {  # HPO Table 3
    "HalfCheetah": (0.2,),
    "Hopper": (0.2,),
    "Walker2d": (0.2,),
    "Ant": (0.2,),
    "Humanoid": (0.05,),
    "HumanoidBullet": (0.05,),
    "HumanoidFlagrunBullet": (0.05,),
    "HumanoidFlagrunHarderBullet": (0.05,),
}
LIMITS = {
    "seed": (0, 2**32 - 1),
    "num_seeds": (1, 1024),
    "total_timesteps": (1, 10**12),
    "learning_starts": (0, 10**12),
    "batch_size": (1, 10**6),
    "buffer_size": (1, 10**10),
    "gamma": (0, 1),
    "tau": (1e-9, 1),
    "policy_lr": (1e-12, 1),
    "q_lr": (1e-12, 1),
    "alpha": (1e-9, 1e6),
    "policy_layers": (1, 2),
    "eval_frequency": (1, 10**12),
    "eval_episodes": (1, 10**4),
}


def fail(message: str):
    """Bad input: one line, exit code 2."""
    print(f"{SCRIPT}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def table_row(env_id: str) -> str:
    """The paper's name of an environment; Hopper for any that the paper does not have (D13)."""
    name = re.sub(r"(Env)?(-v\d+)?$", "", re.split("[:/]", env_id)[-1])
    return name if name in TABLE else "Hopper"


def parse(argv: list[str]) -> tuple[Args, set[str]]:
    """Arguments in force, and the names of those given on the command line, which win over the table."""
    flags = [(a.split("=")[0].removeprefix("--").replace("-", "_"), i) for i, a in enumerate(argv) if a[:2] == "--"]
    given = {name.removeprefix("no_") for name, _ in flags} & {field.name for field in dataclasses.fields(Args)}
    env_id = Args.env_id
    for i in (i for name, i in flags if name == "env_id"):
        env_id = (argv[i].split("=") + argv[i + 1 : i + 2] + [env_id])[1]
    row = table_row(env_id)
    default = Args(env_id=env_id, **dict(zip(TABLE_FIELDS, TABLE[row], strict=True)))
    about = f"{__doc__.splitlines()[0]} Defaults of {', '.join(TABLE_FIELDS)}: HPO Tables 3 and 4, row {row}."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Args, default=default, args=argv, description=about), given
    except SystemExit as stop:
        if stop.code:  # tyro draws a box; its first paragraph is the message
            fail(re.split("─{9,}", re.sub("[│╭╮╰╯]", "", complaint.getvalue().split("\n", 1)[-1]))[0] + "; see --help")
        raise


def check(args: Args) -> None:
    """Refuses values out of range, and what this machine lacks, before anything is written."""
    for name, (low, high) in LIMITS.items():
        if not low <= getattr(args, name) <= high:  # also refuses NaN
            fail(f"--{name.replace('_', '-')} is {getattr(args, name)}: choose a value from {low:g} to {high:g}")
    if args.learning_starts >= args.total_timesteps:
        fail(f"--total-timesteps {args.total_timesteps} leaves nothing to learn: more than --learning-starts "
             f"{args.learning_starts} are needed")  # fmt: skip
    if args.cuda and not torch.cuda.is_available():
        fail("--cuda: PyTorch sees no GPU here; leave the flag out, or install a CUDA build of torch")
    for flag, package in (("track", "wandb"), ("capture_video", "moviepy")):
        if getattr(args, flag) and importlib.util.find_spec(package) is None:
            fail(f"--{flag.replace('_', '-')} needs the package {package}: pip install -r requirements.txt")


# -------------------------------------------------------------------------------------- environment
def make_env(env_id: str, render: bool = False) -> gym.Env:
    """One environment whose actions are normalised to [-1, 1]; refuses what the networks cannot serve."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that v4 is older than v5 is no news here
            env = gym.make(env_id, render_mode="rgb_array" if render else None, disable_env_checker=True)
    except gym.error.UnregisteredEnv:
        near = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.4)
        fail(f"--env-id {env_id} is not known to Gymnasium; nearest: {', '.join(near) or 'none'}")
    except Exception as error:  # a missing simulator, a malformed name, an environment's own complaint
        fail(f"--env-id {env_id} cannot be made: {error}")
    obs, action = env.observation_space, env.action_space
    if not (isinstance(obs, gym.spaces.Box) and len(obs.shape) == 1):
        fail(f"--env-id {env_id} observes {obs}: choose one with a Box of one dimension (no images, no Dict)")
    if not (isinstance(action, gym.spaces.Box) and len(action.shape) == 1 and action.dtype.kind == "f"):
        fail(f"--env-id {env_id} acts in {action}: choose one with a continuous Box action of one dimension")
    if not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
        fail(f"--env-id {env_id} acts in {action}: actions must be bounded; wrap it with bounds of its own")
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


# ----------------------------------------------------------------------------------- random numbers
class Draws:
    """One random stream a seed, so that a seed draws the same whichever seeds run beside it."""

    def __init__(self, seeds: range, device: torch.device):
        self.device = device
        states = [np.random.SeedSequence([seed, 1]).generate_state(1) for seed in seeds]  # the weights take [seed]
        self.streams = [torch.Generator(device).manual_seed(int(state[0])) for state in states]

    def normal(self, *shape: int) -> torch.Tensor:
        """(S, *shape) standard normal numbers."""
        out = torch.empty(len(self.streams), *shape, device=self.device)
        for row, stream in zip(out, self.streams, strict=True):
            row.normal_(generator=stream)
        return out

    def uniform(self, *shape: int) -> torch.Tensor:
        """(S, *shape) numbers in [0, 1), in double precision."""
        out = torch.empty(len(self.streams), *shape, device=self.device, dtype=torch.float64)
        for row, stream in zip(out, self.streams, strict=True):
            row.uniform_(generator=stream)
        return out


# ------------------------------------------------------------------------------------------- replay
class Replay:
    """A ring of transitions for each seed: rows (S, capacity, 2 ds + d + 2) of [s, a, r, s', terminated].

    `terminated` is 1 where the task ended and 0 where only time ran out: it alone stops the bootstrap.
    """

    def __init__(self, num_seeds: int, capacity: int, obs_dim: int, act_dim: int, device: torch.device):
        self.columns = (obs_dim, act_dim, 1, obs_dim, 1)
        self.rows = torch.empty(num_seeds, capacity, sum(self.columns), device=device)
        self.offset = capacity * torch.arange(num_seeds, device=device)[:, None]
        self.added = 0

    def add(self, obs, actions, rewards, next_obs, terminated) -> None:
        """Stores one transition a seed: NumPy arrays (S, ds), (S, d), (S,), (S, ds), (S,)."""
        row = np.concatenate([obs, actions, rewards[:, None], next_obs, terminated[:, None]], axis=1)
        self.rows[:, self.added % self.rows.shape[1]] = torch.from_numpy(row.astype(np.float32)).to(self.rows.device)
        self.added += 1

    def sample(self, uniform: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """s (S, B, ds), a (S, B, d), r (S, B), s' (S, B, ds), terminated (S, B), for uniform (S, B) in [0, 1)."""
        index = (uniform * min(self.added, self.rows.shape[1])).long() + self.offset
        rows = self.rows.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)
        obs, actions, rewards, next_obs, terminated = rows.split(self.columns, dim=-1)
        return obs, actions, rewards[..., 0], next_obs, terminated[..., 0]


# ----------------------------------------------------------------------------------------- networks
class Linear(nn.Module):
    """A stack of linear layers: weight (*stack, in, out), the first axis of the stack being the seed.

    Weights and biases are uniform on ±1/√fan_in, each seed's from its own generator.
    """

    def __init__(self, init: list[torch.Generator], stack: tuple, n_in: int, n_out: int, fan_in=None, bias=True):
        super().__init__()
        bound = 1 / math.sqrt(fan_in or n_in)
        self.weight = nn.Parameter(torch.empty(len(init), *stack, n_in, n_out))
        self.bias = nn.Parameter(torch.empty(len(init), *stack, 1, n_out)) if bias else None
        with torch.no_grad():
            for parameter in self.parameters():
                for row, generator in zip(parameter, init, strict=True):
                    row.uniform_(-bound, bound, generator=generator)

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """(*stack, B, in) -> (*stack, B, out); `add` (*stack, B, out) takes the place of the bias."""
        stack = self.weight.shape[:-2]
        x = x.expand(*stack, *x.shape[-2:]).flatten(0, -3)
        add = self.bias if add is None else add
        y = torch.baddbmm(add.flatten(0, -3), x, self.weight.flatten(0, -3))
        return y.view(*stack, *y.shape[-2:])


class Critic(nn.Module):
    """Twin ReLU critics. The first layer is split by input, so that Q at many actions of one state
    computes the state's share of it once."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int):
        super().__init__()
        self.state = Linear(init, (2,), obs_dim, HIDDEN, fan_in=obs_dim + act_dim)
        self.action = Linear(init, (2,), act_dim, HIDDEN, fan_in=obs_dim + act_dim, bias=False)
        self.hidden = Linear(init, (2,), HIDDEN, HIDDEN)
        self.out = Linear(init, (2,), HIDDEN, 1)

    def share(self, obs: torch.Tensor) -> torch.Tensor:
        """The state's share of the first layer: (S, B, ds) -> (S, 2, B, HIDDEN)."""
        return self.state(obs[:, None])

    def layers(self, share: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Both hidden layers (S, 2, B, HIDDEN) and Q1, Q2 (S, 2, B), at actions (S, B, d)."""
        first = self.action(actions[:, None], add=share).relu_()
        second = self.hidden(first).relu_()
        return first, second, self.out(second)[..., 0]

    def forward(self, share: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Q1, Q2 (S, 2, B) at actions (S, B, d)."""
        return self.layers(share, actions)[-1]


class Policy(nn.Module):
    """tanh-squashed diagonal Gaussian over [-1, 1]^d."""

    def __init__(self, init: list[torch.Generator], obs_dim: int, act_dim: int, layers: int):
        super().__init__()
        widths = [obs_dim] + [HIDDEN] * layers
        self.hidden = nn.ModuleList(Linear(init, (), i, o) for i, o in zip(widths, widths[1:], strict=False))
        self.out = Linear(init, (), HIDDEN, 2 * act_dim)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation before the tanh: (S, B, ds) -> 2 × (S, B, d)."""
        for layer in self.hidden:
            obs = layer(obs).relu_()
        mean, log_std = self.out(obs).chunk(2, dim=-1)
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (log_std.tanh() + 1)

    def sample(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparametrised action (S, B, d) and its log-density (S, B), for standard normal noise (S, B, d)."""
        mean, log_std = self(obs)
        pre_tanh = mean + log_std.exp() * noise
        log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_prob - 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))  # log(1 - tanh²)
        return pre_tanh.tanh(), log_prob.sum(-1)

    def mean_action(self, obs: torch.Tensor) -> torch.Tensor:
        """The action with the noise off, (S, B, d)."""
        return self(obs)[0].tanh()


# -------------------------------------------------------------------------------------------- agent
class Agent(nn.Module):
    """Networks, temperature and optimizers of all seeds, and one SAC update."""

    def __init__(self, args: Args, obs_dim: int, act_dim: int, device: torch.device):
        super().__init__()
        self.args, self.act_dim = args, act_dim
        init = [torch.Generator().manual_seed(args.seed + i) for i in range(args.num_seeds)]
        self.critic = Critic(init, obs_dim, act_dim)
        self.policy = Policy(init, obs_dim, act_dim, args.policy_layers)
        self.log_alpha = nn.Parameter(torch.full((args.num_seeds, 1), math.log(args.alpha)), args.autotune)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.to(device)
        self.actor_parameters = [*self.policy.parameters()]
        self.policy_optimizer = torch.optim.Adam(self.actor_parameters, lr=args.policy_lr, fused=True)
        self.q_optimizer = torch.optim.Adam(self.critic.parameters(), lr=args.q_lr, fused=True)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=args.q_lr, fused=True)

    def draw(self, draws: Draws, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise of one update: for the next action and for the action, each (S, B, d)."""
        return draws.normal(2, batch, self.act_dim).unbind(1)

    @torch.no_grad()
    def act(self, obs: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Exploration: an action (S, 1, d) for obs (S, 1, ds)."""
        return self.policy.sample(obs, draws.normal(1, self.act_dim))[0]

    def readings(self) -> dict:
        """Policies that an evaluation runs, noise off; the first is the one that counts."""
        return {"base": self.policy.mean_action}

    def critic_loss(self, obs, actions, rewards, next_obs, terminated, noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared Bellman errors and mean values of the twin critics, (S, 2) each."""
        with torch.no_grad():
            next_actions, next_log_prob = self.policy.sample(next_obs, noise[0])
            next_share = self.target.share(next_obs)
            next_q = self.target(next_share, next_actions).amin(1)
            next_value = next_q - self.log_alpha.exp() * next_log_prob
            y = rewards + self.args.gamma * (1 - terminated) * next_value
        q = self.critic(self.critic.share(obs), actions)
        return ((q - y[:, None]) ** 2).mean(-1), q.detach().mean(-1)

    def policy_loss(self, obs, noise) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Minus the objective, HPO eq. (7), (S,); log π (S, B); metrics (S,)."""
        actions, log_prob = self.policy.sample(obs, noise[1])
        share = self.critic.share(obs).detach()
        q = self.critic(share, actions).amin(1)
        loss = (self.log_alpha.exp().detach() * log_prob - q).mean(-1)
        return loss, log_prob.detach(), {}

    def update(self, batch: tuple[torch.Tensor, ...], noise: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """One step of the critics, the policy, the temperature and the targets; metrics (S,)."""
        q_loss, q_values = self.critic_loss(*batch, noise)
        self.step(self.q_optimizer, q_loss.sum(), list(self.critic.parameters()))
        policy_loss, log_prob, metrics = self.policy_loss(batch[0], noise)
        self.step(self.policy_optimizer, policy_loss.sum(), self.actor_parameters)
        if self.args.autotune:
            alpha_loss = -(self.log_alpha.exp() * (log_prob - self.act_dim)).mean(-1)  # target entropy -d
            self.step(self.alpha_optimizer, alpha_loss.sum(), [self.log_alpha])
            metrics["losses/alpha_loss"] = alpha_loss.detach()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, self.args.tau)
        metrics |= {f"losses/qf{i + 1}_loss": q_loss[:, i].detach() for i in range(2)}
        metrics |= {f"losses/qf{i + 1}_values": q_values[:, i] for i in range(2)}
        metrics |= {"losses/qf_loss": q_loss.detach().mean(-1), "losses/actor_loss": policy_loss.detach()}
        return metrics | {"losses/entropy": -log_prob.mean(-1), "losses/alpha": self.log_alpha.detach().exp()[:, 0]}

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list) -> None:
        """Gradients for these parameters alone, then Adam."""
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()


# --------------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(policy, envs: list[list[gym.Env]], seeds: range, step: int, device) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths (S, episodes) of one episode in each of envs[seed][episode].

    An episode's start depends on its seed, the step and its number alone: evaluating draws nothing from
    training, and two policies evaluated at one step meet the same starts.
    """
    shape = len(envs), len(envs[0])
    starts = [[np.random.SeedSequence([seed, step, e]).generate_state(1)[0] for e in range(shape[1])] for seed in seeds]
    obs = np.stack([[env.reset(seed=int(n))[0] for env, n in zip(*row, strict=True)] for row in zip(envs, starts)])
    returns, lengths, running = np.zeros(shape), np.zeros(shape, int), np.ones(shape, bool)
    while running.any():
        actions = policy(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        for i in zip(*running.nonzero(), strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i[0]][i[1]].step(actions[i])
            returns[i] += reward
            lengths[i] += 1
            running[i] = not (terminated or truncated)
    return returns, lengths


# ------------------------------------------------------------------------------------ what is left
class Run:
    """The folder of a run and the terminal: configuration, evaluations, TensorBoard, W&B, progress."""

    def __init__(self, args: Args, given: set[str], columns: list[str]):
        now = int(time.time())
        stem = f"{re.sub('[^A-Za-z0-9._-]', '_', args.env_id)}__{SCRIPT}__{args.seed}"
        while (folder := Path("runs") / f"{stem}__{now}").exists():
            now += 1
        folder.mkdir(parents=True)
        self.folder, self.seeds = folder, range(args.seed, args.seed + args.num_seeds)
        values, row = dataclasses.asdict(args), table_row(args.env_id)
        sources = dict.fromkeys(values, "default") | dict.fromkeys(TABLE_FIELDS, f"HPO Tables 3 and 4, row {row}")
        sources |= dict.fromkeys(given, "command line")
        packages = ("torch", "numpy", "gymnasium", "mujoco")
        config = {
            "script": SCRIPT,
            "args": values,
            "sources": sources,
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)},
            "commit": self.commit(),
            "device": torch.cuda.get_device_name() if args.cuda else f"cpu, {torch.get_num_threads()} threads",
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.file = open(folder / "evaluations.csv", "w", newline="")  # noqa: SIM115
        self.rows = csv.writer(self.file)
        self.rows.writerow(["step", "seed", "episode", "return", "length", *columns])
        self.file.flush()
        self.writers = [SummaryWriter(folder / f"seed-{seed}") for seed in self.seeds]
        self.tracked = []
        if args.track:
            import wandb

            where = {"project": args.wandb_project_name, "entity": args.wandb_entity, "group": folder.name}
            self.tracked = [
                wandb.init(name=f"{folder.name}__{seed}", config=values, dir=folder, reinit="create_new", **where)
                for seed in self.seeds
            ]
        print(f"{SCRIPT} on {args.env_id}, seeds {self.seeds[0]} to {self.seeds[-1]}, {config['device']}: {folder}")
        for source in dict.fromkeys(sources.values()):
            print(f"  {source}: {', '.join(f'{k} {values[k]}' for k in values if sources[k] == source)}")
        self.bar = tqdm(total=args.total_timesteps, unit="step", disable=None, dynamic_ncols=True)
        self.start, self.said, self.last = time.monotonic(), time.monotonic(), "none"

    @staticmethod
    def commit() -> str:
        """The commit of this file, with -dirty where the work tree differs from it."""
        command = ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        return "unknown"

    def log(self, step: int, metrics: dict, seeds=None) -> None:
        """Scalars (S,) of all seeds, or of the seeds with these positions."""
        for i in range(len(self.seeds)) if seeds is None else seeds:
            values = {name: float(value[i]) for name, value in metrics.items()}
            for name, value in values.items():
                self.writers[i].add_scalar(name, value, step)
            if self.tracked:
                self.tracked[i].log(values | {"global_step": step})

    def evaluation(self, step: int, results: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """One row an episode, flushed; the readings after the first have only their return in it."""
        (name, (returns, lengths)), *others = results.items()
        for i, seed in enumerate(self.seeds):
            for e in range(returns.shape[1]):
                extra = [other[i, e] for _, (other, _) in others]
                self.rows.writerow([step, seed, e, returns[i, e], lengths[i, e], *extra])
        self.file.flush()
        metrics = {f"eval/episodic_return_{other}": value.mean(1) for other, (value, _) in others}
        self.log(step, metrics | {"eval/episodic_return": returns.mean(1), "eval/episodic_length": lengths.mean(1)})
        self.last = f"{returns.mean():.1f}"
        self.bar.set_postfix_str(f"evaluation {self.last}", refresh=False)
        if self.bar.disable:
            self.line(step)

    def progress(self, step: int) -> None:
        """Moves the bar; where there is no terminal, a plain line every half minute."""
        self.bar.update(1)
        if self.bar.disable and time.monotonic() - self.said > 30:
            self.line(step)

    def line(self, step: int) -> None:
        self.said = time.monotonic()
        rate = step / (self.said - self.start)
        left = (self.bar.total - step) / rate
        print(f"step {step}, {rate:.0f} steps/s, {left:.0f} s left, last evaluation {self.last}", flush=True)

    def close(self) -> None:
        self.bar.close()
        self.file.close()
        for writer in (*self.writers, *self.tracked):
            writer.close() if isinstance(writer, SummaryWriter) else writer.finish()


# ----------------------------------------------------------------------------------------- training
def train(args: Args, given: set[str] = frozenset()) -> int:
    """Algorithm 1. Returns the exit code: 0, or 130 after Ctrl-C."""
    check(args)
    device = torch.device("cuda" if args.cuda else "cpu")
    seeds = range(args.seed, args.seed + args.num_seeds)
    envs = [make_env(args.env_id) for _ in seeds]
    eval_envs = [[make_env(args.env_id, args.capture_video and e == 0) for e in range(args.eval_episodes)] for _ in seeds]
    for env, seed in zip(envs, seeds, strict=True):
        env.action_space.seed(seed)
    obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    obs_dim, act_dim = obs.shape[1], envs[0].action_space.shape[0]

    agent = Agent(args, obs_dim, act_dim, device)
    draws = Draws(seeds, device)
    replay = Replay(args.num_seeds, min(args.buffer_size, args.total_timesteps), obs_dim, act_dim, device)
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), int)
    run, exit_code = Run(args, given, [f"return_{name}" for name in list(agent.readings())[1:]]), 0
    try:
        for step in range(1, args.total_timesteps + 1):
            if step <= args.learning_starts:
                actions = np.stack([env.action_space.sample() for env in envs])
            else:
                state = torch.as_tensor(obs, dtype=torch.float32, device=device)
                actions = agent.act(state[:, None], draws)[:, 0].cpu().numpy()

            results = [env.step(action) for env, action in zip(envs, actions, strict=True)]
            next_obs, rewards, terminated, truncated = (np.stack(column) for column in list(zip(*results, strict=True))[:4])
            replay.add(obs, actions, rewards, next_obs, terminated)  # the true final observation, before any reset
            returns, lengths, obs = returns + rewards, lengths + 1, next_obs
            if (over := np.flatnonzero(terminated | truncated)).size:
                run.log(step, {"charts/episodic_return": returns, "charts/episodic_length": lengths}, over)
                returns[over], lengths[over] = 0, 0
                for i in over:
                    obs[i] = envs[i].reset()[0]

            if step > args.learning_starts:
                batch = replay.sample(draws.uniform(args.batch_size))
                metrics = agent.update(batch, agent.draw(draws, args.batch_size))
                if step % LOG_EVERY == 0:
                    run.log(step, metrics)
            if step % args.eval_frequency == 0:
                run.evaluation(step, {n: evaluate(p, eval_envs, seeds, step, device) for n, p in agent.readings().items()})
            run.progress(step)
    except KeyboardInterrupt:
        exit_code = 130
    torch.save({"step": step, "args": dataclasses.asdict(args), "agent": agent.state_dict()}, run.folder / "agent.pt")
    run.close()
    print(f"{'stopped' if exit_code else 'done'} at step {step}: {run.folder}")
    return exit_code


if __name__ == "__main__":
    sys.exit(train(*parse(sys.argv[1:])))
