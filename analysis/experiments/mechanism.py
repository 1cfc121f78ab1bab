"""Do the dynamics bring actions closer to the optimum? On a critic whose optimum is known (docs/lab/mechanism.md).

    python analysis/experiments/mechanism.py --dimension 1 --output results/mechanism/d1.csv      # some minutes
    python analysis/experiments/mechanism.py --show results/mechanism/*.csv
    python analysis/experiments/mechanism.py --show results/mechanism/*.csv --output docs/lab/mechanism.png

The critic is Q(a) = α log p*(a), where p* is a mixture of two equal Gaussians cut to the box (-1, 1)^d, their centres
at CENTRE and -CENTRE in every coordinate, each --width wide: p* ∝ exp(Q/α) is the optimum of the objective. There is
one state. SAC-HPO's own policy and force train on its own loss from its own first weights, all other flags at their
defaults, and then KL(a_K ‖ p*) is measured, with the momentum of training. No critic learns. α plays no part: g is a
direction, and Adam does not see the loss's scale. The arms are the rows of HPO's Table 3, K = 0 to 4 at ε 0.15 and
1/√β0 0.1, and 1/√β0 = 0.01 to 1 at K = 3 and ε 0.2.

a_K's density is a histogram of DRAWS draws, and KL that of two histograms, p*'s exact, less the (cells - 1)/2n that a
sample adds. Where K = 0 this is within 0.005 of the density's own KL at the same draws (tests/test_mechanism.py); what
draws one gets moves it by about 0.003 where it is 0.5, and by 0.01 where it is 3.
"noise alone" is the standard deviation w that the momentum would add to u_K without a force, ε Σ 1/√β_k over k < K.
Two columns say what it costs by itself, by quadrature and without training, for Gaussians whose mean and deviation are
the same in all coordinates: KL of the one that eq. (15) prefers where F = 0, and the lowest KL that any has whose
deviation is at least w. "force alone" is how far a force of 1 that never turns would carry u without a momentum ρ_0.
-E log p*(a_K) is a mean over the draws; a_K's entropy is that less KL. `claimed` is the loss over α: KL with what eq.
(15) takes for a_K's entropy, that of action and momentum together less a constant. It may be negative.

Two things are not as in a run. Q is smooth, and the script's loss holds ∇Q constant: in d = 1 that is the same, for g
is a sign, but in d = 2 the direction turns with a, and back-propagation leaves that out. And action space (spaces.py)
has no place here: its clamp leaves actions at the very edge, where KL is infinite.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_hpo_continuous as hpo
from analysis import records, report
from analysis.gap import Noise
from runtime.messages import fail
from runtime.seeds import side_by_side

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

PROGRAM = "analysis/experiments/mechanism.py"
CENTRE = 0.5  # of p*'s Gaussians, ± in every coordinate
DRAWS, CHUNK = 2**18, 2**11  # a_K of a seed that a measurement draws, and how many at once
CELLS = {1: 200, 2: 100}  # of a histogram, along each axis of the box
KEPT = 100  # cells of a density that a results file keeps, d = 1
COLUMNS = ("dimension", "width", "leapfrog_steps", "step_size", "momentum_std", "seed", "kl_half", "kl", "cross",
           "claimed", "density")  # fmt: skip


@dataclasses.dataclass
class Args:
    dimension: int = 1  # of the action, 1 or 2
    width: float = 0.16  # standard deviation of p*'s Gaussians
    seeds: int = 4  # seeds of each arm, 1, 2, ...
    steps: int = 2_000  # of the policy's optimizer; KL is measured after the half of them, too
    output: Path | None = None  # the CSV to keep the numbers in; with --show the figure, a PNG
    show: tuple[Path, ...] = ()  # train nothing, print the tables of these CSVs


class Target(NamedTuple):
    dimension: int
    width: float


class Arm(NamedTuple):
    leapfrog_steps: int  # K
    step_size: float  # ε
    momentum_std: float  # 1/√β0 in training

    @property
    def noise(self) -> float:
        """The standard deviation of u_K - u_0 without a force."""
        return self.step_size * sum(hpo.momentum_stds(self.momentum_std, self.leapfrog_steps)[: self.leapfrog_steps])

    @property
    def reach(self) -> float:
        """How far a force of 1 that never turns carries u_0, without a momentum to begin with."""
        still, stds = torch.zeros(1), hpo.momentum_stds(self.momentum_std, self.leapfrog_steps)
        return hpo.leapfrog(lambda x: x * 0 - 1, still, still, self.step_size, stds)[0].item()


def rows() -> dict[Arm, list[str]]:
    """The rows of Table 3 that each arm is."""
    found = {}
    for name, row in hpo.TABLE.items():
        arm = Arm(row["leapfrog_steps"], row["step_size"], row["momentum_std_train"])
        found.setdefault(arm, []).append(name)
    return found


BY_STEPS = [Arm(k, 0.15, 0.1) for k in range(5)]
BY_STD = [Arm(3, 0.2, std) for std in (0.01, 0.1, 0.2, 0.4, 0.7, 1.0)]
ARMS = list(dict.fromkeys([*BY_STEPS, *BY_STD, *rows()]))
PLAIN, CHEETAH = BY_STEPS[0], BY_STD[-1]  # no dynamics; HalfCheetah's row


# ---------------------------------------------------------------------------------------------------------- the target
def log_target(action: torch.Tensor, width: float) -> torch.Tensor:
    """log p*, (..), at actions (.., d) in the box."""
    mass = math.log(ndtr((1 - CENTRE) / width) - ndtr((-1 - CENTRE) / width))  # of a Gaussian's coordinate in the box
    each = [-((action - c) / width).square() / 2 - math.log(width * math.sqrt(2 * math.pi)) - mass
            for c in (CENTRE, -CENTRE)]  # fmt: skip
    return torch.stack([x.sum(-1) for x in each]).logsumexp(0) - math.log(2)


def target_cells(dimension: int, width: float, cells: int) -> np.ndarray:
    """p*'s mass in the cells of the box, (cells^d,)."""
    edges, parts = np.linspace(-1, 1, cells + 1), []
    for centre in (CENTRE, -CENTRE):
        z = (edges - centre) / width
        tail = np.where(z[:-1] > 0, -1, 1)  # masses of the upper half as of the lower, where they are told to the last
        low, high = tail * z[:-1], tail * z[1:]
        mass = tail * (ndtr(high) - ndtr(low))
        parts.append(mass / mass.sum())
    return sum((p if dimension == 1 else np.outer(p, p).ravel()) / 2 for p in parts)


class Exact(hpo.Critic):
    """Q1 = Q2 = α log p*(a)."""

    def __init__(self, alpha: float, width: float):
        torch.nn.Module.__init__(self)
        self.alpha, self.width = alpha, width

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        q = self.alpha * log_target(action, self.width)
        return q.unsqueeze(-2).expand(*q.shape[:-1], 2, q.shape[-1])


class OneState(torch.nn.Module):
    """A policy whose every state is the same, so that its network need see one."""

    def __init__(self, policy: hpo.Policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x.expand(*obs.shape[:-1], -1) for x in self.policy(obs[..., :1, :]))

    sample = hpo.Policy.sample


class Gaussians:
    """KL to p* of tanh(u) for u ~ N(m, S²) in every coordinate: sums over a grid of u, splines over S."""

    def __init__(self, target: Target):
        d, axis = target.dimension, np.linspace(-6, 6, 401 if target.dimension == 1 else 81)
        grid = np.stack(np.meshgrid(*[axis] * d), -1).reshape(-1, d)
        weights = np.exp(-np.square(grid).sum(-1) / 2)
        there = weights > 1e-9 * weights.max()
        grid, weights = torch.tensor(grid[there]), weights[there] / weights.sum()
        std, rest = np.geomspace(0.02, 2, 100), []
        for mean in np.linspace(0, 1, 41):
            u = mean + torch.tensor(std)[:, None, None] * grid
            slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))  # log(1 - tanh²(u))
            rest.append((-log_target(u.tanh(), target.width) - slope.sum(-1)).numpy() @ weights)
        self.d, self.std = d, np.geomspace(0.02, 2, 20_000)
        self.rest = CubicSpline(np.log(std), np.array(rest), axis=1)(np.log(self.std)).min(0)  # of the best m

    def costs(self, noise: float) -> tuple[float, float]:
        """KL of the one that (15) prefers where the momentum adds `noise` to u and no force does; the lowest KL of any
        that is at least so wide."""
        there = self.std > noise
        rest, std = self.rest[there], self.std[there]
        kl = rest - self.d * (np.log(std) + math.log(2 * math.pi * math.e) / 2)
        own = np.sqrt(std**2 - noise**2)  # of u_0, whose entropy (15) counts
        return kl[np.argmin(rest - self.d * np.log(own))], kl.min()


# ------------------------------------------------------------------------------------------------------------ training
def agent_of(arms: list[Arm], seeds: int, target: Target, kind: type = hpo.Agent, **values) -> hpo.Agent:
    """The script's agent for arms of one K side by side, all seeds (1, 2, ..) of each, at the exact critic; or one of
    another class, with other values of its flags."""
    args = hpo.Args(cuda=False, leapfrog_steps=arms[0].leapfrog_steps, **values)
    with side_by_side([*range(1, seeds + 1)] * len(arms), torch.device("cpu")):
        agent = kind(args, 1, target.dimension)
    agent.critic, agent.policy = Exact(args.alpha, target.width), OneState(agent.policy)
    if len(arms) > 1:
        sizes, stds = (torch.tensor(x)[:, None, None].repeat_interleave(seeds, 0) for x in list(zip(*arms))[1:])
    else:
        sizes, stds = arms[0].step_size, arms[0].momentum_std
    agent.args = dataclasses.replace(args, step_size=sizes, momentum_std_train=stds)
    return agent


def drawn(agent: hpo.Agent, seeds: int, draws: int, generator: torch.Generator) -> tuple[torch.Tensor, Noise]:
    """The state and noise of a batch; every arm gets the same."""
    networks = len(agent.log_alpha)
    noise = torch.randn(seeds, 2, draws, agent.act_dim, generator=generator).repeat(networks // seeds, 1, 1, 1)
    return torch.ones(networks, draws, 1), Noise(None, *noise.unbind(1), None)


def train(agent: hpo.Agent, seeds: int, steps: int, generator: torch.Generator) -> None:
    for _ in range(steps):
        agent.policy_optimizer.minimise(agent.policy_loss, *drawn(agent, seeds, agent.args.batch_size, generator))


# ----------------------------------------------------------------------------------------------------------- measuring
def played(agent: hpo.Agent, obs: torch.Tensor, noise: Noise) -> torch.Tensor:
    """The actions a_K (S, B, d) of the policy's loss."""
    u, _ = agent.policy.sample(obs, noise.action)
    if agent.args.leapfrog_steps:
        u, _ = agent.evolve(agent.critic, obs, u, noise.momentum, agent.args.momentum_std_train)
    return u.tanh()


def counted(action: torch.Tensor, cells: int) -> torch.Tensor:
    """How many of the actions (S, B, d) lie in each cell of the box, (S, cells^d)."""
    places = ((action + 1) / 2 * cells).long().clamp(0, cells - 1)  # tanh may round to 1
    flat = places[..., 0] if places.shape[-1] == 1 else places[..., 0] * cells + places[..., 1]
    return torch.stack([x.bincount(minlength=cells ** places.shape[-1]) for x in flat])


def divergence(counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """KL (S,) of draws counted in cells, (S, cells), to the cells' masses (cells,)."""
    n = counts.sum(1, keepdims=True)
    q = counts / n
    terms = np.where(counts > 0, q * np.log(np.where(counts > 0, q, 1) / target), 0)
    return terms.sum(1) - ((counts > 0).sum(1) - 1) / (2 * n[:, 0])


@torch.no_grad()
def measure(agent: hpo.Agent, seeds: int, draws: int = DRAWS) -> dict[str, np.ndarray]:
    """KL(a_K ‖ p*) and its parts, (S,) each, and the histogram (S, cells^d) of a_K."""
    d, cells, generator = agent.act_dim, CELLS[agent.act_dim], torch.Generator().manual_seed(1)
    counts, sums = 0, 0
    for _ in range(draws // CHUNK):
        obs, noise = drawn(agent, seeds, CHUNK, generator)
        loss, _ = agent.policy_loss(obs, noise)
        action = played(agent, obs, noise)
        counts = counts + counted(action, cells)
        sums = sums + torch.stack([-log_target(action, agent.critic.width).mean(-1), loss / agent.args.alpha]).double()
    cross, claimed = (sums / (draws // CHUNK)).numpy()
    kl = divergence(counts.numpy(), target_cells(d, agent.critic.width, cells))
    return {"kl": kl, "cross": cross, "claimed": claimed, "counts": counts.numpy()}


def measured(arms: list[Arm], args: Args) -> list[dict]:
    """The rows of arms of one K."""
    target = Target(args.dimension, args.width)
    agent, generator = agent_of(arms, args.seeds, target), torch.Generator().manual_seed(0)
    train(agent, args.seeds, args.steps // 2, generator)
    half = measure(agent, args.seeds)["kl"]
    train(agent, args.seeds, args.steps - args.steps // 2, generator)
    found, out = measure(agent, args.seeds), []
    for i, (arm, seed) in enumerate((arm, seed) for arm in arms for seed in range(1, args.seeds + 1)):
        numbers = half[i], *(found[name][i] for name in ("kl", "cross", "claimed"))
        density = ""
        if args.dimension == 1:
            share = found["counts"][i].reshape(KEPT, -1).sum(1) / found["counts"][i].sum()
            density = " ".join(f"{x:.3g}" for x in share * KEPT / 2)
        cells = *target, *arm, seed, *(f"{x:.4f}" for x in numbers), density
        out.append(dict(zip(COLUMNS, cells)))
    return out


def run(args: Args) -> list[dict]:
    """The rows of all arms; arms of one K train side by side."""
    names = "dimension", "width", "seeds", "steps"
    flags, found = records.words({name: getattr(args, name) for name in names}), []
    about = f"{DRAWS} draws of a_K, {CELLS[args.dimension]} cells an axis"
    comments = [" ".join(["# python", PROGRAM, *flags]), f"#   cpu, 1 threads, float32; {about}"]
    for k in sorted({arm.leapfrog_steps for arm in ARMS}):
        found += measured([arm for arm in ARMS if arm.leapfrog_steps == k], args)
        if args.output:  # after each, so that an interrupt loses none
            records.write_whole(args.output, records.csv_text(comments, COLUMNS, found))
    return found


# -------------------------------------------------------------------------------------------------- tables and figure
class Cell(NamedTuple):
    """What an arm's seeds have, (S,) each."""

    kl: np.ndarray
    kl_half: np.ndarray
    cross: np.ndarray
    claimed: np.ndarray
    density: list[np.ndarray]


def read(lines: list[dict]) -> dict[tuple[Target, Arm], Cell]:
    """Results by target and arm."""
    found = {}
    for row in lines:
        arm = Arm(int(row["leapfrog_steps"]), float(row["step_size"]), float(row["momentum_std"]))
        numbers = [float(row[name]) for name in Cell._fields[:-1]]
        density = np.array([float(x) for x in row["density"].split()])
        target = Target(int(row["dimension"]), float(row["width"]))
        found.setdefault((target, arm), []).append((*numbers, density))
    return {key: Cell(*map(np.array, list(zip(*own))[:-1]), [x[-1] for x in own]) for key, own in found.items()}


def targets(found: dict) -> list[Target]:
    """Those that have the arm without dynamics: the widest first, and fewer dimensions."""
    return sorted({target for target, arm in found if arm == PLAIN}, key=lambda target: (-target.width, target))


def tables(found: dict[tuple[Target, Arm], Cell]) -> str:
    """For Table 3's rows, K and 1/√β0: KL and its parts, a line for each target."""
    names, parts, gaussians = rows(), [], {target: Gaussians(target) for target in targets(found)}
    for arms in ([PLAIN, *names], BY_STEPS, BY_STD):
        lines = []
        for arm in arms:
            for target in (x for x in targets(found) if (x, arm) in found):
                own, plain = found[target, arm], found[target, PLAIN]
                less = own.kl - plain.kl
                gained = [f"{less.mean():+.2f}", report.ends(less, digits=2)] if arm != PLAIN else ["", ""]
                spreads = [report.spread(x, 2) for x in (own.cross, own.cross - own.kl, own.claimed, own.kl_half)]
                name = "K = 0" if arm == PLAIN else ", ".join(names.get(arm, []))
                costs = [f"{x:.2f}" for x in gaussians[target].costs(arm.noise)]
                about = name, *arm, f"{arm.noise:.2f}", *costs, f"{arm.reach:.2f}", *target, len(own.kl)
                lines.append([*about, report.spread(own.kl, 2), *gained, *spreads])
        head = ["row of Table 3", "K", "ε", "1/√β0", "noise alone", "its KL", "lowest KL", "force alone", "d", "width",
                "seeds", "KL(a_K ‖ p*)", "less K = 0's", "95 % interval", "−E log p*(a_K)", "entropy of a_K",
                "KL as (15) claims", "KL at half the steps"]  # fmt: skip
        parts.append(report.table(head, lines))
    return "\n\n".join(parts)


def draw(found: dict[tuple[Target, Arm], Cell], output: Path) -> None:
    """KL against K and against 1/√β0, every seed a dot; densities of d = 1, every seed a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for ax, arms, x in ((axes[0], BY_STEPS, "leapfrog_steps"), (axes[1], BY_STD, "momentum_std")):
        for target, color in zip(targets(found), ("tab:blue", "tab:orange", "tab:purple", "tab:brown")):
            mine = [(getattr(arm, x), found[target, arm].kl) for arm in arms if (target, arm) in found]
            name = f"d = {target.dimension}, width {target.width}"
            ax.plot([at for at, _ in mine], [kl.mean() for _, kl in mine], color=color, label=name)
            for at, kl in mine:
                ax.plot([at] * len(kl), kl, ".", color=color, alpha=0.6)
            if x == "momentum_std":
                ax.axhline(found[target, PLAIN].kl.mean(), color=color, ls="--", lw=1)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    axes[0].set(title="ε 0.15, 1/√β0 0.1", xlabel="leapfrog steps K", ylabel="KL(a_K ‖ p*), nats", xticks=range(5))
    axes[1].set(title="K = 3, ε 0.2", xlabel="1/√β0 in training; dashed: K = 0")
    axis = np.linspace(-1, 1, 401)
    first = targets(found)[0]
    axes[2].fill_between(
        axis, log_target(torch.tensor(axis)[:, None], first.width).exp().numpy(), color="0.85", label="p*"
    )
    named = {PLAIN: "K = 0", BY_STEPS[3]: "K = 3, ε 0.15, 1/√β0 0.1", CHEETAH: "K = 3, ε 0.2, 1/√β0 1"}
    for (arm, name), color in zip(named.items(), ("black", "tab:green", "tab:red")):
        for i, density in enumerate(found[first, arm].density if (first, arm) in found else []):
            middles = (np.arange(len(density)) + 0.5) * 2 / len(density) - 1
            axes[2].plot(middles, density, color=color, lw=1, label=name if i == 0 else None)
    axes[2].set(
        title=f"densities, d = {first.dimension}, width {first.width}, a line a seed",
        xlabel="action",
        xlim=(-1, 1),
        ylim=(0, None),
    )
    axes[2].set_ylim(top=1.5 * axes[2].get_ylim()[1])  # room for names
    axes[2].legend(fontsize=8, loc="upper left")
    records.save_figure(figure, output, 80)


def main(args: Args) -> str:
    records.check_output(args.output, picture=bool(args.show))
    if args.show:
        try:
            found = read([row for path in args.show for row in records.read_rows(path, COLUMNS)])
        except ValueError as error:
            fail(f"a file of --show is broken: {error}")
        if args.output:
            draw(found, args.output)
        return tables(found)
    if args.dimension not in CELLS or args.seeds < 1 or args.steps < 2:
        fail("--dimension is 1 or 2, --seeds 1 or more, --steps 2 or more")
    if not 0.02 <= args.width <= 10:
        fail(f"--width {args.width}: choose 0.02 to 10, no narrower than a cell")
    return tables(read(run(args)))


if __name__ == "__main__":
    report.start(lambda argv: print(main(report.parsed(Args, __doc__, argv))))
