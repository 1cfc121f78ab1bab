"""The amortization gap: how far a trained policy's objective lies below what direct optimisation reaches, per state.

    python analysis/gap.py runs/Hopper-v4__sac_hpo_continuous__1__1763720000 [more run folders ...]
    python analysis/gap.py RUN --step 50000                    # of a run with --keep-agents
    python analysis/gap.py --show results/gap/*.csv            # the table of files that --output wrote

HPO says that the dynamics narrow the gap between a policy network's action distribution and the best one, and
measures it nowhere. Here the critics are frozen, and at STATES states of an episode that the agent plays these are
taken with the same random numbers, DRAWS a state:

    without    E[min(Q1, Q2)(s, a) - α log π(a|s)] of the policy without its dynamics
    with       with them, the script's own loss: eq. (15) without its last term. Its entropy is that of action and
               momentum together, less a constant, which is not the entropy of a_K: it may be higher or lower
    own        with them, E[min(Q1, Q2)(s, a_K) - α log p(a_K|s)], where p is a_K's own density. It is an integral over
               the momentum, so this lies between two bounds, own_low and own_high
    noise      the first with the dynamics' noise and no force: u_K = u_0 + ε Σ 1/√β_k ρ is a Gaussian, whose entropy is
               known; SAC-HPO's and its ablations' alone, before the tanh
    optimal    the first of a tanh-squashed Gaussian that Adam has fitted to each state alone, begun at the policy's,
               on fresh draws at every step; which of its steps is taken, and what that is worth, other draws tell

`without`, `own`, `noise` and `optimal` are one measure, and `with` is the paper's. What a_K has is no squashed
Gaussian: its `own` may lie above `optimal`. Of MCMC-PO the same with E[min(Q1, Q2)] - β D̂: `with` is its eq. (17),
whose D̂ is of action and momentum together, `own` has the divergence of a_K alone. In action space
(analysis/experiments/spaces.py) a_K is clamped and has no density: there its entropy is that of the position before the
clamp.

The bounds: the chain's steps are shears and factors, so it runs backwards, and the density p of position and momentum
at its end is known at any point. Let r_0 be the momentum that was drawn, r_1 .. r_n others from a Gaussian q given the
position (a regression on FITTED other draws of that state), and w_i = p(a_K, r_i) / q(r_i|a_K). In expectation
log (w_1 + .. + w_n)/n is below log p(a_K), log (w_0 + .. + w_n)/(n + 1) is above it, and both tend to it.

A line gives means over seeds with 95% intervals: the gap without dynamics, what the dynamics close of it by either
measure, and what share of the gap that is (a ratio of means, with Fieller's interval), in units of the return. No
share of the objective is told: an objective is large or small by its critics' offset. Of two bounds the interval holds
both.
"""

import copy
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import records, report
from analysis.play import CPU, load
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.messages import Fault, fail

import numpy as np
import torch
import tyro
from scipy import stats

STATES, DRAWS = 32, 256  # states of an agent, and draws of each that judge
FITTING, CHOOSING, STEPS, RATE = 64, 1024, 400, 0.03  # the optimum: draws of a step of Adam's, to choose; first rate
FITTED, MOMENTA = 512, 32  # own entropy: draws for q's regression, and momenta ρ_1 .. ρ_n
OWN = "own_low", "own_high"
COLUMNS = "environment", "script", "seed", "without", "with", *OWN, "optimal", "noise"
LATER = *OWN, "noise"  # columns that older files lack


@dataclasses.dataclass
class Args:
    folders: tyro.conf.Positional[tuple[Path, ...]] = ()  # runs' folders
    step: int | None = None  # the agents of this step, from runs with --keep-agents; otherwise agent.pt
    env_id: str | None = None  # the environment once more, if it is one that imports a module
    output: Path | None = None  # keep the numbers of each seed in this CSV
    show: tuple[Path, ...] = ()  # measure nothing, print the table of these CSVs


class Noise(NamedTuple):
    """Standard normal numbers (S, B, d) of an update, under the names that scripts give them."""

    next_action: torch.Tensor
    action: torch.Tensor
    momentum: torch.Tensor
    next_momentum: torch.Tensor


def visited(agent) -> torch.Tensor:
    """STATES states (S, STATES, ds) of one episode that each seed plays, evenly apart, as its networks see them."""
    policy, kept = next(iter(agent.raw_policies().values())), []

    def seen(obs):
        kept.append(obs)
        return policy(obs)

    seeds = range(agent.args.seed, agent.args.seed + agent.args.num_seeds)
    envs = [[make_env(agent.args.env_id, args=agent.args)] for _ in seeds]
    try:
        _, lengths = evaluate(seen, envs, seeds, 2**39 + 1, CPU)
    except Fault as fault:
        fail(f"{fault} is not finite: a run with a seed that diverged is left out")
    places = [np.linspace(0, length - 1, STATES).astype(int) for length in lengths[:, 0]]
    return agent.sees(torch.stack([torch.stack([kept[t][i, 0] for t in where]) for i, where in enumerate(places)]))


# ------------------------------------------------------------------------------------------------------ the objectives
def asked(agent, dynamics: bool):
    """The same networks with other arguments, which take the dynamics away if asked and what the loss has besides in
    any case."""
    other, own = copy.copy(agent), {field.name for field in dataclasses.fields(agent.args)}
    values = {"momentum_term": False, "spread_weight": 0.0} | ({} if dynamics else {"leapfrog_steps": 0})
    other.args = dataclasses.replace(agent.args, **{name: value for name, value in values.items() if name in own})
    return other


def repeated(obs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """States (S, n, ds), once for each draw of numbers (S, draws · n, d)."""
    return obs.repeat(1, numbers.shape[1] // obs.shape[1], 1)


@torch.no_grad()
def objective(agent, obs: torch.Tensor, noise: Noise, dynamics: bool) -> torch.Tensor:
    """Minus the script's policy loss, (S,), at states (S, n, ds), for noise (S, draws · n, d)."""
    return -asked(agent, dynamics).policy_loss(repeated(obs, noise.action), noise)[0]


def gaussian(agent, obs, mean, log_std, noise) -> torch.Tensor:
    """E[min(Q1, Q2)(s, a) - α log π(a|s)] of tanh-squashed Gaussians (S, n, d), each state's own: (S, n).

    Of MCMC-PO E[min(Q1, Q2)(s, a)] - β D̂ instead, D̂ the divergence from its prior (MCMC-PO eq. 17 for K = 0)."""
    draws = noise.shape[1] // obs.shape[1]
    many, mean, log_std = (x.repeat(1, draws, 1) for x in (obs, mean, log_std))
    u = mean + log_std.exp() * noise
    log_slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    log_prob = log_normal(noise, log_std) - log_slope.sum(-1)
    value = agent.critic.smaller(many, u.tanh())
    if hasattr(agent, "prior"):
        with torch.no_grad():
            prior = torch.distributions.Normal(*(f(x) for f, x in zip((torch.clone, torch.exp), agent.prior(many))))
        value = value - agent.pid.beta * (log_prob + log_slope.sum(-1) - prior.log_prob(u).sum(-1))
    else:
        value = value - agent.log_alpha.exp().detach() * log_prob
    return value.unflatten(1, (draws, -1)).mean(1)


def optimum(agent, obs: torch.Tensor, judging: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The objective (S,) of Gaussians fitted to each state, by draws (S, draws · n, d) that have no part in the fit."""

    def drawn(count: int) -> torch.Tensor:
        return torch.randn(len(obs), count * obs.shape[1], judging.shape[-1], generator=generator)

    with torch.no_grad():
        parameters = [x.clone().requires_grad_() for x in agent.policy(obs)]
    adam, choosing = torch.optim.Adam(parameters, RATE), drawn(CHOOSING)
    best, kept = torch.full(obs.shape[:2], -torch.inf), [x.detach().clone() for x in parameters]
    for step in range(STEPS + 1):
        mean, log_std = parameters[0], parameters[1].clamp(-20, 2)  # D12's bounds
        if step % 50 == 0:
            with torch.no_grad():
                value = gaussian(agent, obs, mean, log_std, choosing)
                better = value > best
                best = torch.where(better, value, best)
                kept = [torch.where(better[..., None], x, old) for x, old in zip((mean, log_std), kept)]
        adam.param_groups[0]["lr"] = RATE * min(1, 2 - 2 * step / STEPS)  # falls to 0: fresh draws shake it
        loss = -gaussian(agent, obs, mean, log_std, drawn(FITTING)).sum()
        adam.zero_grad()
        loss.backward(inputs=parameters)
        adam.step()
    with torch.no_grad():
        return gaussian(agent, obs, *kept, judging).mean(1)


# -------------------------------------------------------------------------------------------------- a_K's own entropy
def log_normal(z: torch.Tensor, log_std: torch.Tensor | float = 0.0) -> torch.Tensor:
    """log-density (..) of a Gaussian, z (.., d) of its standard deviations from its mean."""
    return (-log_std - z.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)


class Chain(NamedTuple):
    """What a policy's loss hands its script's leapfrog, and what that makes of it."""

    force: Callable  # position (S, B, d) -> F (S, B, d)
    step_size: float | torch.Tensor
    stds: list[float]  # 1/√β_k, k = 0 .. K
    start: torch.Tensor  # x_0 (S, B, d)
    momentum: torch.Tensor  # ρ_0 (S, B, d)
    end: torch.Tensor  # x_K (S, B, d)
    last: torch.Tensor  # (S, B, d), the momentum that carries x_{K-1} to x_K
    after: torch.Tensor  # ρ_K (S, B, d)


@torch.no_grad()
def dynamics_of(agent, obs: torch.Tensor, noise: Noise) -> Chain | None:
    """The dynamics of the policy's loss; None where it has none. The script's leapfrog gives way to one that keeps what
    it is given and goes on to the script's."""
    module, kept = sys.modules[type(agent).__module__], []
    leapfrog = getattr(module, "leapfrog", None)

    def keeping(force, x, momentum, step_size, stds, with_momentum=True):
        end, after = leapfrog(force, x, momentum, step_size, stds)
        stds = stds if isinstance(stds, list) else [1.0] * (stds + 1)  # MCMC-PO tempers nothing, and gives K
        carrying = after * (stds[-2] / stds[-1]) + step_size / 2 * force(end)
        kept.append(Chain(force, step_size, stds, x, momentum, end, carrying, after))
        return end, after

    with mock.patch.object(module, "leapfrog", keeping, create=True):
        asked(agent, True).policy_loss(repeated(obs, noise.action), noise)
    return kept[0] if kept else None


def backwards(chain: Chain, x: torch.Tensor, momentum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x_0 and ρ_0 from any x_K and the momentum that carried x_{K-1} to it, (S, B, d) each: HPO eqs. (16) and (17)
    undone one by one. F depends on the position alone."""
    for k in range(len(chain.stds) - 1, 0, -1):
        x = x - chain.step_size * momentum
        f = chain.force(x)
        momentum = momentum + chain.step_size / 2 * f
        if k > 1:
            momentum = momentum * (chain.stds[k - 2] / chain.stds[k - 1]) + chain.step_size / 2 * f
    return x, momentum


def log_start(agent, obs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """log-density (S, B) of the chain's first position at any x (S, B, d), B = draws · n, for states (S, n, ds)."""
    (mean, log_std), log_scale = (repeated(value, x) for value in agent.policy(obs)), 0.0
    if getattr(agent.args, "leapfrog_space", None) == "action":
        u = x.clamp(-1 + 1e-7, 1 - 1e-7).atanh()
        log_scale = -(2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u)))
        log_scale = torch.where(x.abs() <= 1, log_scale, -torch.inf)  # no x_0 lies outside the box
        x = u
    elif getattr(agent.args, "step_unit", None) == "std":  # MCMC-PO's chain counts its prior's deviations
        centre, log_scale = (repeated(value, x) for value in agent.prior(obs))
        x = centre + log_scale.exp() * x
    return log_normal((x - mean) / log_std.exp(), log_std - log_scale)


def log_joint(agent, obs: torch.Tensor, chain: Chain, start: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
    """log-density (S, B) of x_K and the momentum that carried it there, from x_0 and ρ_0, as in HPO eq. (13)."""
    volume = start.shape[-1] * math.log(chain.stds[-2] / chain.stds[0])  # what K - 1 temperings have stretched
    return log_start(agent, obs, start) + log_normal(momentum / chain.stds[0], math.log(chain.stds[0])) - volume


class Proposal:
    """A Gaussian of the carrying momentum given x_K, for each state: a linear regression on a chain's draws."""

    def __init__(self, chain: Chain, states: int):
        x, y = (z.double().unflatten(1, (-1, states)).transpose(1, 2) for z in (chain.end, chain.last))  # (S, n, m, d)
        given = torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)
        self.weights = torch.linalg.lstsq(given, y).solution  # (S, n, 1 + d, d)
        left = y - given @ self.weights
        covariance = left.mT @ left / (left.shape[-2] - given.shape[-1])
        self.factor = torch.linalg.cholesky(covariance)
        self.states = states

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.double().unflatten(1, (-1, self.states))  # (S, m, n, d)
        bent = torch.einsum("smni,snij->smnj", rows, self.weights[..., 1:, :])
        return bent + self.weights[:, None, :, 0]

    def log_density(self, x: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        """(S, B) at momenta (S, B, d) given positions (S, B, d)."""
        off = (momentum.double().unflatten(1, (-1, self.states)) - self.mean(x)).transpose(1, 2).mT  # (S, n, d, m)
        z = torch.linalg.solve_triangular(self.factor, off, upper=False).mT.transpose(1, 2).flatten(1, 2)
        size = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (S, n)
        return log_normal(z) - size.repeat(1, z.shape[1] // self.states)

    def sample(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A momentum (S, B, d) for each position (S, B, d)."""
        z = torch.randn(x.shape, generator=generator).double().unflatten(1, (-1, self.states))
        return (self.mean(x) + torch.einsum("smnj,snij->smni", z, self.factor)).flatten(1, 2).to(x.dtype)


@torch.no_grad()
def entropy_gained(agent, obs: torch.Tensor, judged: Chain, fitted: Chain, generator) -> tuple[torch.Tensor, ...]:
    """Bounds (S,), (S,) of the entropy of x_K less that of x_0, a mean over states (S, n, ds), on a chain's draws; q is
    fitted on another's."""
    q, x = Proposal(fitted, obs.shape[1]), judged.end
    drawn = log_joint(agent, obs, judged, judged.start, judged.momentum) - q.log_density(x, judged.last)  # log w_0
    others = torch.full_like(drawn, -torch.inf)
    for _ in range(MOMENTA):
        momentum = q.sample(x, generator)
        weight = log_joint(agent, obs, judged, *backwards(judged, x, momentum)) - q.log_density(x, momentum)
        others = torch.logaddexp(others, weight)
    above = torch.logaddexp(others, drawn) - math.log(MOMENTA + 1)
    below = others - math.log(MOMENTA)
    first = log_start(agent, obs, judged.start)
    return tuple((first - log_prob).mean(1).to(x.dtype) for log_prob in (above, below))


@torch.no_grad()
def with_own(
    agent, obs: torch.Tensor, with_: torch.Tensor, noise: Noise, generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds (S,), (S,) of the objective with the entropy of a_K alone, from the script's own objective (S,) there."""
    judged = dynamics_of(agent, obs, noise)
    if judged is None:
        return with_, with_
    shape = len(obs), 4, obs.shape[1] * FITTED, noise.action.shape[-1]
    fitted = dynamics_of(agent, obs, Noise(*torch.randn(shape, generator=generator).unbind(1)))
    bounds = entropy_gained(agent, obs, judged, fitted, generator)
    if not hasattr(agent, "prior"):
        return tuple(with_ + agent.log_alpha.exp().squeeze(-1) * gained for gained in bounds)
    priced = (judged.after.square() - judged.momentum.square()).sum(-1).mean(1) / 2  # in D̂, for the momenta
    return tuple(with_ + agent.pid.beta.squeeze(-1) * (gained + priced) for gained in bounds)


@torch.no_grad()
def with_noise(agent, obs: torch.Tensor, noise: Noise) -> torch.Tensor:
    """The objective (S,) without dynamics but with their noise, by wider Gaussians; NaN where those are not known."""
    mean, log_std = agent.policy(obs)
    if (chain := dynamics_of(agent, obs, noise)) is not None:
        if hasattr(agent, "prior") or hasattr(agent.args, "leapfrog_space"):
            return torch.full(mean.shape[:1], torch.nan)
        log_std = torch.hypot(log_std.exp(), torch.tensor(chain.step_size * sum(chain.stds[:-1]))).log()
    return gaussian(agent, obs, mean, log_std, noise.action).mean(1)


def measure(agent, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """The objectives, (S,) each, with common random numbers."""
    generator, (seeds, n, _), d = torch.Generator().manual_seed(0), states.shape, agent.act_dim
    noise = Noise(*torch.randn(seeds, 4, n * DRAWS, d, generator=generator).unbind(1))
    parts = {name: objective(agent, states, noise, name == "with") for name in ("without", "with")}
    parts |= zip(OWN, with_own(agent, states, parts["with"], noise, generator))
    parts |= {"optimal": optimum(agent, states, noise.action, generator)}
    return parts | {"noise": with_noise(agent, states, noise)}


# ------------------------------------------------------------------------------------------------------------- tables
def ratio(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """A ratio of two means over seeds and its 95% interval, Fieller's; without ends where the second mean cannot be
    told from zero, or seeds are one."""
    n, value = len(part), part.mean() / whole.mean()
    if n < 2:
        return value, -np.inf, np.inf
    wide, both, _, narrow = (np.cov(whole, part) / n * stats.t.ppf(0.975, n - 1) ** 2).ravel()
    a, b, c = whole.mean() ** 2 - wide, whole.mean() * part.mean() - both, part.mean() ** 2 - narrow
    if a <= 0:
        return value, -np.inf, np.inf
    root = math.sqrt(max(b * b - a * c, 0))
    return value, (b - root) / a, (b + root) / a


def closed(low: np.ndarray, high: np.ndarray, gap: np.ndarray) -> list[str]:
    """Cells of what closes a gap (S,), between two bounds (S,): its mean, its interval, its share with the interval."""
    ends, shares = ([f(x) for x in (low, high)] for f in (report.interval, lambda x: ratio(x, gap)))

    def told(values: list[float], form: str) -> str:
        return " to ".join(dict.fromkeys(form.format(x) for x in values))

    cells = [told([x[0] for x in ends], "{:+.2f}")]
    whole = np.isfinite([ends[0][1], ends[1][2]]).all()
    cells.append(f"[{ends[0][1]:+.2f}, {ends[1][2]:+.2f}]" if whole else report.ends(low, digits=2))
    if gap.mean() <= 0:
        return [*cells, "no gap"]
    share = told([x[0] for x in shares], "{:.0%}")
    first, last = shares[0][1], shares[1][2]
    if np.isfinite([first, last]).all():
        return [*cells, f"{share} [{first:.0%}, {last:.0%}]"]
    return [*cells, f"{share}, one seed" if len(gap) < 2 else "gap not told from 0"]


def table(rows: list[dict]) -> str:
    """A line for each environment and script; cells of what a file is older than are empty."""
    lines, noises = [], [row for row in rows if "noise" in row]
    for key in dict.fromkeys((row["environment"], row["script"], OWN[0] in row) for row in rows):
        mine = [row for row in rows if (row["environment"], row["script"], OWN[0] in row) == key]
        value = {name: np.array([float(row[name]) for row in mine]) for name in COLUMNS[3:] if name in mine[0]}
        gap = value["optimal"] - value["without"]
        names = [("with", "with"), OWN] if key[2] else [("with", "with")]
        cells = [closed(*(value[name] - value["without"] for name in pair), gap) for pair in names]
        if not (value["with"] != value["without"]).any():  # no dynamics
            cells = []
        cells += [["", "", ""]] * (2 - len(cells))
        alone = ["", ""] * bool(noises)
        if cells[0][0] and np.isfinite(value.get("noise", np.nan)).all():
            alone = closed(*[value["noise"] - value["without"]] * 2, gap)[:2]
        lines.append([*key[:2], len(mine), report.spread(gap, 2), *cells[0], *cells[1], *alone])
    head = ["environment", "script", "seeds", "gap without dynamics", "they close by the paper's entropy",
            "95 % interval", "of the gap", "by a_K's own", "95 % interval", "of the gap"]  # fmt: skip
    return report.table([*head, *["their noise alone", "95 % interval"] * bool(noises)], lines)


def shown(paths: tuple[Path, ...]) -> str:
    """The table of files that --output wrote."""
    rows = [row for path in paths for row in records.read_rows(path, [x for x in COLUMNS if x not in LATER])]
    try:
        return table(rows)
    except (ValueError, KeyError) as error:
        fail(f"a file of --show is broken: {error}")


def arm_of(config: dict) -> str:
    """A run's script, the name that readings.py gave it, and its values of the method that are not the script's own."""
    arm, values = config["args"].get("exp_name"), records.unlike(config)
    values.pop("matmul_precision", None)  # how finely products are rounded
    return " ".join([config["script"], *([arm] if arm and arm != "as-is" else []), *records.words(values)])


def measured(folder: Path, args: Args) -> tuple[list[dict], list[str]]:
    """The rows of a run, and the comments that say whose they are."""
    agent, config = load(folder, args.step, env_id=args.env_id), records.config_of(folder)
    if not hasattr(agent, "policy_loss") or not hasattr(agent.policy, "sample") or hasattr(agent, "encoder"):
        fail(f"{folder} is a run of {config['script']}.py, whose policy this cannot measure")
    found, given = measure(agent, visited(agent)), agent.args
    rows = [{"environment": given.env_id, "script": arm_of(config), "seed": given.seed + i}
            | {part: f"{values[i].item():.4f}" for part, values in found.items()}
            for i in range(given.num_seeds)]  # fmt: skip
    comments = records.origin(config)
    if getattr(given, "leapfrog_space", None) == "action":
        comments.append("#   a_K is clamped and has no density: own_low, own_high have that of the position before")
    return rows, comments


def main(args: Args) -> None:
    if args.show:
        return print(shown(args.show))
    if not args.folders:
        fail("name run folders, or --show and CSVs")
    records.check_output(args.output)
    rows, comments = [], []
    for _, (mine, whose) in records.each(list(args.folders), lambda folder: measured(folder, args)):
        rows, comments = rows + mine, comments + whose
        if args.output:  # after each, so that an interrupt loses none
            when = "the end" if args.step is None else f"step {args.step}"
            where = ", ".join(dict.fromkeys(row["environment"] for row in rows))
            first = f"# python analysis/gap.py, {where}, the agents at {when}"
            records.write_whole(args.output, records.csv_text([first, *comments], COLUMNS, rows))
    print(table(rows))


if __name__ == "__main__":
    report.start(lambda argv: main(report.parsed(Args, __doc__, argv)))
