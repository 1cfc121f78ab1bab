"""analysis/gap.py: objectives, fitted Gaussians and entropies against integration; the dynamics and a known target."""

import math
from pathlib import Path

import mcmcpo_hmc_continuous as mcmcpo
import sac_hpo_continuous as hpo
from analysis import ROOT, gap, policy_shape, records, report
from analysis.experiments.spaces import of_values
from runtime.arguments import parse

import baseline1
import baseline3
import noise_only
import numpy as np
import pytest
import torch
from conftest import Noise, agent_of, built, end_of, floats, noise_of, normals
from scipy import stats

NORMAL = torch.distributions.Normal(0, 1)


def quantiles(count: int) -> torch.Tensor:
    return NORMAL.icdf((torch.arange(count) + 0.5) / count)


class KnownCritic(hpo.Critic):
    """Q1 = Q2 = -20 (a - 0.3 s)²."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, obs, action):
        return -20 * (action - 0.3 * obs).square().sum(-1).unsqueeze(-2).expand(-1, 2, -1)


class Known(torch.nn.Module):
    """An agent of one seed and one action dimension with known critics."""

    act_dim, args = 1, hpo.Args()

    def __init__(self):
        super().__init__()
        self.log_alpha, self.critic = torch.tensor([[0.2]]).log(), KnownCritic()

    def policy(self, obs):
        return torch.zeros_like(obs), torch.full_like(obs, -0.5)


def integral(state: float, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """E[Q - α log π] of tanh-squashed Gaussians, on a grid of u."""
    z = torch.linspace(-8, 8, 4001)[:, None]
    u = mean + std * z
    density = NORMAL.log_prob(z) - std.log()
    log_prob = density - (1 - u.tanh().square()).clamp_min(1e-300).log()
    value = -20 * (u.tanh() - 0.3 * state).square() - 0.2 * log_prob
    return torch.trapezoid(NORMAL.log_prob(z).exp() * value, z.expand_as(value), dim=0)


@pytest.mark.slow
def test_fitted_gaussians_reach_the_best_of_a_grid():
    obs = torch.tensor([-1.0, 0.5]).view(1, 2, 1)
    judging = quantiles(1024).repeat_interleave(2).view(1, -1, 1)
    found = gap.optimum(Known(), obs, judging, torch.Generator().manual_seed(0)).item()
    means, stds = torch.meshgrid(torch.linspace(-0.6, 0.6, 61), torch.linspace(0.02, 0.4, 77), indexing="ij")
    best = [integral(s, means.flatten(), stds.flatten()).max().item() for s in (-1.0, 0.5)]
    assert found == pytest.approx(sum(best) / 2, abs=2e-3)
    started = gap.gaussian(Known(), obs, *Known().policy(obs), judging).mean().item()
    by_hand = [integral(s, torch.zeros(1), torch.tensor([-0.5]).exp()).item() for s in (-1.0, 0.5)]
    assert started == pytest.approx(sum(by_hand) / 2, abs=2e-3) and started < found - 0.5


def test_objectives_are_the_scripts_own():
    """With dynamics minus the policy's loss, without them that of K = 0, whatever the momentum's term; args stay."""
    flags = {"cuda": False, "num_seeds": 2}
    args = hpo.Args(**flags, leapfrog_steps=2, momentum_term=True)
    agent, obs, noise = built(args, hpo.Agent, 3, 2), normals(2, 4, 3).float(), floats(noise_of(2, 20, 2))
    many, plain = obs.repeat(1, 5, 1), built(hpo.Args(**flags, leapfrog_steps=0), hpo.Agent, 3, 2)
    plain.load_state_dict(agent.state_dict())
    assert torch.equal(gap.objective(agent, obs, noise, False), -plain.policy_loss(many, noise)[0])
    assert agent.args is args
    without = built(hpo.Args(**flags, leapfrog_steps=2), hpo.Agent, 3, 2)
    without.load_state_dict(agent.state_dict())
    assert torch.equal(gap.objective(agent, obs, noise, True), -without.policy_loss(many, noise)[0])
    agent.args = hpo.Args(**flags, leapfrog_steps=0)
    mean, log_std = agent.policy(obs)
    ours, theirs = (
        gap.gaussian(agent, obs, mean, log_std, noise.action).mean(1),
        gap.objective(agent, obs, noise, False),
    )
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_noise_without_a_force_is_a_wider_gaussian(monkeypatch):
    """Its density is known: where F is zero, a_K's own entropy has the bounds that it lies between."""
    agent = built(hpo.Args(cuda=False, num_seeds=2, leapfrog_steps=3, momentum_std_train=0.6), hpo.Agent, 3, 2)
    with_policy(agent, 0.3, 0.1)
    obs, noise = normals(2, 4, 3).float(), gap.Noise(*normals(2, 4, 4 * 256, 2).float().unbind(1))
    monkeypatch.setattr(hpo.Force, "forward", lambda self, obs, action, g: torch.zeros_like(g))
    generator, told = torch.Generator().manual_seed(0), gap.objective(agent, obs, noise, True)
    low, high = gap.with_own(agent, obs, told, noise, generator)
    wide, plain = gap.with_noise(agent, obs, noise), gap.objective(agent, obs, noise, False)
    assert (high - low).max() < 0.01 and (wide - plain).abs().min() > 0.1
    assert torch.allclose(wide, (low + high) / 2, atol=0.02), (low, wide, high)
    agent.args = hpo.Args(cuda=False, num_seeds=2, leapfrog_steps=0)
    assert torch.allclose(gap.with_noise(agent, obs, noise), gap.objective(agent, obs, noise, False), atol=1e-5)


def divergence(mean: float, std: float, size: float, momentum: float, steps: int) -> float:
    """KL of a_K's density to N(0.4, 0.15²) on the box, both as histograms: u and ρ_0 at their quantiles."""
    bins = torch.linspace(-1, 1, 201).double()
    u, rho = (mean + std * quantiles(2000).double())[:, None, None], momentum * quantiles(400).double()[None, :, None]
    x, rho = torch.broadcast_tensors(u, rho)
    end, _ = hpo.leapfrog(lambda x: (x.tanh() - 0.4).sign(), x, rho, size, hpo.momentum_stds(momentum, steps))
    q = torch.histogram(end.tanh().flatten().contiguous(), bins)[0]
    p = (-((bins[1:] + bins[:-1]) / 2 - 0.4).square() / (2 * 0.15**2)).exp()
    q, p = q / q.sum(), p / p.sum()
    return (q[q > 0] * (q[q > 0] / p[q > 0]).log()).sum().item()


def test_the_dynamics_and_a_known_target():
    """They carry a far Gaussian towards it, overshoot with more steps, and move one that fits away from it."""
    far = {k: divergence(0.0, 0.5, 0.2, 0.1, k) for k in (0, 1, 2, 3, 10)}
    assert far[0] > far[1] > far[2] > far[3] and far[3] < far[0] / 3 and far[10] > far[0]
    near = [divergence(0.42, 0.16, 0.2, 0.1, k) for k in (0, 1, 2, 3)]
    assert near[0] < 0.05 and near[0] < near[1] < near[2] < near[3]
    loud = [divergence(0.0, 0.5, 0.2, 1.0, k) for k in (0, 1, 2, 3)]  # the momentum of HalfCheetah's row
    assert loud[0] < loud[1] < loud[2] < loud[3]


# ------------------------------------------------------------------------------------------------- a_K's own entropy
def with_policy(agent, mean: float, std: float):
    """The agent with the same Gaussian of u at every state."""
    log_std = torch.full((agent.args.num_seeds, 1, agent.act_dim), math.log(std))
    for head, bias in ((agent.policy.mean, mean), (agent.policy.log_std, log_std)):
        head.weight.data.zero_()
        head.bias.data = torch.as_tensor(bias, dtype=head.bias.dtype).expand_as(head.bias).clone()
    return agent


class Hills(hpo.Critic):
    """Q1 = Q2 = α log Σ exp(-‖a - c‖²/(2 w²)), α 0.2: exp(Q/α) is hills at c, w wide."""

    def __init__(self, *hills: tuple[float, float]):
        torch.nn.Module.__init__(self)
        self.hills = hills

    def forward(self, obs, action):
        heights = [-((action - c) / w).square().sum(-1) / 2 for c, w in self.hills]
        return 0.2 * torch.stack(heights).logsumexp(0).unsqueeze(-2).expand(*action.shape[:-2], 2, -1)


def histogram(x: torch.Tensor, bins: int) -> float:
    """The entropy of draws (n, d), by a histogram and its correction of (bins - 1)/2n."""
    counts, edges = torch.histogramdd(x.double(), [bins] * x.shape[1])
    p, cell = counts[counts > 0] / len(x), math.prod((e[1] - e[0]).item() for e in edges)
    return (-(p * p.log()).sum() + math.log(cell) + (len(p) - 1) / (2 * len(x))).item()


def gains(agent, obs, draws: int) -> torch.Tensor:
    """The bounds (2, S) of the entropy that the dynamics add."""
    numbers = torch.Generator().manual_seed(0)
    shape = len(obs), 4, draws * obs.shape[1], agent.act_dim
    judged, fitted = (
        gap.dynamics_of(agent, obs, gap.Noise(*torch.randn(shape, generator=numbers).unbind(1))) for _ in range(2)
    )
    return torch.stack(gap.entropy_gained(agent, obs, judged, fitted, numbers))


def evolved(agent, u: torch.Tensor, rho: torch.Tensor) -> gap.Chain:
    """The chain of a grid of standard normal u_0 and momenta, at the state 0."""
    noise = [x.flatten()[None, :, None] for x in torch.meshgrid(u, rho, indexing="ij")]
    return gap.dynamics_of(agent, torch.zeros(1, 1, 3), gap.Noise(None, *noise, None))


CHAINS = [
    (hpo, {}),
    (hpo, {"leapfrog_steps": 3, "leapfrog_space": "action"}),
    (baseline1, {"normalize_gradient": False}),
    (baseline3, {}),
    (noise_only, {"leapfrog_steps": 1}),
]


def test_the_dynamics_run_backwards():
    """To where a script's chain began; and the first position's density there is the sample's own."""
    obs, noise = normals(2, 3, 11), noise_of(2, 30, 3, seed=1)
    for script, flags in CHAINS:
        agent = agent_of(script, num_seeds=2, **flags)
        chain = gap.dynamics_of(agent, obs, noise)
        x, momentum = gap.backwards(chain, chain.end, chain.last)
        assert torch.allclose(x, chain.start, atol=1e-9) and torch.allclose(momentum, chain.momentum, atol=1e-9)
        with torch.no_grad():
            x, log_prob = agent.policy.sample(gap.repeated(obs, noise.action), noise.action)
        assert torch.equal(x, chain.start)
        assert torch.allclose(gap.log_start(agent, obs, x).detach(), log_prob, rtol=0, atol=1e-6)
        assert (chain.end - chain.start).abs().mean() > 0.01
    for unit in ("std", "absolute"):
        agent = built(mcmcpo.Args(cuda=False, step_unit=unit), mcmcpo.Agent, 3, 2).double()
        for p in agent.policy.parameters():
            p.data += 1e-2  # away from the prior
        obs, noise = normals(1, 3, 3), noise_of(1, 30, 2, seed=1)
        chain = gap.dynamics_of(agent, obs, noise)
        x, momentum = gap.backwards(chain, chain.end, chain.last)
        assert torch.allclose(x, chain.start, atol=1e-9) and torch.allclose(momentum, chain.momentum, atol=1e-9)
        log_prob = mcmcpo.log_normal(noise.action, gap.repeated(agent.policy(obs)[1], noise.action))
        log_prob = log_prob + (
            gap.repeated(agent.prior(obs)[1].sum(-1, True), noise.action)[..., 0] if unit == "std" else 0
        )
        assert torch.allclose(gap.log_start(agent, obs, chain.start), log_prob)


@pytest.mark.parametrize("row", ["Hopper", "HalfCheetah"])
def test_entropy_of_noise_alone(row):
    """Without a force u_K is a Gaussian, of the sum of both variances: the bounds meet there."""
    agent = built(noise_only.Args(cuda=False, **noise_only.TABLE[row]), noise_only.Agent, 3, 3)
    std, steps, obs = agent.args.momentum_std_train, agent.args.leapfrog_steps, normals(1, 2, 3).float()
    added = agent.args.step_size * sum(noise_only.momentum_stds(std, steps)[:-1])  # by ρ_0, in its deviations
    log_std = agent.policy(obs)[1].detach()
    by_hand = (((2 * log_std).exp() + added**2).log() / 2 - log_std).sum(-1).mean().item()
    low, high = gains(agent, obs, 1500).flatten().tolist()
    assert low == pytest.approx(by_hand, abs=0.02) and low <= high < low + 0.01


@pytest.mark.slow
def test_what_the_papers_entropy_hides():
    """One hill, known for its integral. With Hopper's row eq. (15) claims more than any policy can have; with
    HalfCheetah's a loss where a_K has gained. a_K's own objective, by bounds and by a histogram, does neither."""
    claims = {}
    for row, hill, std in (("Hopper", (0.0, 0.15), 0.24), ("HalfCheetah", (0.0, 0.6), 0.25)):
        agent = built(baseline1.Args(cuda=False, **baseline1.TABLE[row]), baseline1.Agent, 3, 1)
        agent.critic, obs = Hills(hill), torch.zeros(1, 1, 3)
        with_policy(agent, 0.0, std)
        axis = torch.linspace(-1, 1, 2001)[:, None]
        q = agent.critic.smaller(torch.zeros(2001, 3), axis) / 0.2
        largest = 0.2 * torch.trapezoid(q.exp(), axis[:, 0]).log().item()  # α log ∫ exp(Q/α) da
        noise = gap.Noise(*normals(4, 1, 4000, 1).float())
        without, claimed = (gap.objective(agent, obs, noise, x).item() for x in (False, True))
        low, high = (x.item() for x in gap.with_own(agent, obs, torch.tensor([claimed]), noise, torch.Generator()))
        chain = evolved(agent, quantiles(1500), quantiles(150))
        action = chain.end.tanh()
        slope = (1 - action.square()).log().sum(-1)
        value = agent.critic.smaller(torch.zeros(1, 1, 3), action) + 0.2 * slope
        truth = value.mean().item() + 0.2 * histogram(chain.end[0], 300)
        assert low - 0.006 < truth < high + 0.006 and high - low < 0.01, (row, low, truth, high)
        assert max(truth, high, without) < largest
        claims[row] = claimed - largest, claimed - without, low - without
    assert claims["Hopper"][0] > 0.01
    assert claims["HalfCheetah"][1] < -0.02 and claims["HalfCheetah"][2] > 0.02


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("flags", [{}, {"momentum_std_train": 1.0}, {"leapfrog_space": "action"}], ids=str)
def test_entropy_in_two_dimensions(flags):
    """Of forces that no one trained, on two hills, against a histogram of what the script's dynamics make."""
    script = of_values(hpo, flags)
    agent = built(script.Args(cuda=False, leapfrog_steps=3, **flags), script.Agent, 3, 2)
    agent.critic = Hills((0.5, 0.2), (-0.4, 0.3))
    with_policy(agent, 0.1, 0.4)
    for p in agent.force.parameters():
        p.data *= 2.5
    obs, many = torch.zeros(1, 1, 3), 200_000
    chain = gap.dynamics_of(agent, obs, gap.Noise(*torch.randn(4, 1, many, 2).unbind()))
    truth = histogram(chain.end[0], 100) + gap.log_start(agent, obs, chain.start).mean().item()
    low, high = gains(agent, obs, 8000).flatten().tolist()
    assert low - 0.02 < truth < high + 0.02 and high - low < 0.08, (low, truth, high)


@pytest.mark.slow
def test_mcmcpos_divergence_of_the_action_alone(monkeypatch):
    """Without a force it is that of two Gaussians; that of action and momentum together is never smaller."""
    monkeypatch.setattr(gap, "MOMENTA", 8)
    agent = built(mcmcpo.Args(cuda=False, beta=0.5), mcmcpo.Agent, 3, 2)
    agent.policy.mean.bias.data += 0.3
    for p in [*agent.dynamics.implicit.parameters(), *agent.dynamics.gate.parameters()]:
        p.data.zero_()
    agent.dynamics.gate[2].bias.data -= 40.0
    obs, noise = normals(1, 2, 3).float(), floats(noise_of(1, 4000, 2))
    given = gap.objective(agent, obs, noise, True)
    (mean, log_std), (centre, log_scale) = agent.policy(obs), agent.prior(obs)
    wide = ((2 * log_std).exp() + (5 * 0.1 * log_scale.exp()).square()).sqrt()  # K ε, in the prior's deviations
    price = torch.distributions.kl_divergence(*(torch.distributions.Normal(m, s) for m, s in
                                                ((mean, wide), (centre, log_scale.exp())))).sum(-1).mean()  # fmt: skip
    u = (mean + wide * noise.action.unflatten(1, (-1, 2))).flatten(1, 2)
    q = agent.critic.smaller(gap.repeated(obs, u), u.tanh()).mean()
    low, high = gap.with_own(agent, obs, given, noise, torch.Generator())
    gained = 0.5 * (wide.log() - log_std).sum(-1).mean().item()  # β times the entropy that noise adds
    assert (low - given).item() == pytest.approx(gained, abs=0.01) and low <= high < low + 0.01 and gained > 0.05
    assert low.item() == pytest.approx((q - 0.5 * price).item(), abs=0.04)


# ------------------------------------------------------------------------------------------------------------- tables
def test_an_interval_is_students():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).double().numpy()  # mean 3, deviation 2.1602, t 3.1824
    assert report.ends(values, digits=2) == "[-0.44, +6.44]"
    row = {"environment": "E", "script": "s", "without": "1.0", "with": "2.0", "optimal": "4.0"}
    text = gap.table([row, row | {"without": "2.0", "with": "4.0", "optimal": "5.0"}])
    assert "| E | s | 2 | 3.00 ± 0.00 | +1.50 | [-4.85, +7.85] | 50% [-162%, 262%] |  |  |  |" in text
    assert report.ends(values[:1]) == "one seed" and report.ends(values - values) == "no seed differs"


def test_a_share_has_fiellers_interval():
    """Its ends are where Student's test of part - share · whole has a p of 5 %."""
    part, whole = np.array([0.2, 0.3, 0.1, 0.35]), np.array([0.5, 0.8, 0.6, 0.7])
    value, low, high = gap.ratio(part, whole)
    assert value == pytest.approx(0.95 / 2.6) and low < value < high
    for end in (low, high):
        assert stats.ttest_1samp(part - end * whole, 0).pvalue == pytest.approx(0.05)
    assert not np.isfinite(gap.ratio(part, np.array([1.0, -0.9, 0.2, 0.4]))[1:]).any()  # of what may be zero
    assert not np.isfinite(gap.ratio(part[:1], whole[:1])[1:]).any()


def test_arms_of_other_flags_have_rows_of_their_own():
    flags = "--env-id HalfCheetah-v4 --momentum-std-train 0.5 --matmul-precision medium --num-seeds 4".split()
    config = {"script": "sac_hpo_continuous", "args": vars(parse(hpo, flags)[0])}
    assert gap.arm_of(config) == "sac_hpo_continuous --momentum-std-train 0.5"
    config["args"] |= vars(parse(hpo, [*flags[:2], "--exp-name", "still"])[0])
    assert gap.arm_of(config) == "sac_hpo_continuous still"


def test_files_with_and_without_a_ks_own_entropy():
    """Both measures, their bounds and shares, or empty cells for a file that is older; nothing for SAC."""
    gaps, rows = np.array([0.5, 0.8, 0.6]), []
    for i, whole in enumerate(gaps):
        values = 10.0, 10.4, 10 + 0.1 * whole, 10 + 0.2 * whole, 10 + whole, 9.7
        rows.append(dict(zip(gap.COLUMNS, ("E", "s", i, *values))))
    new, old = Path("new.csv"), Path("old.csv")
    new.write_text(records.csv_text(["# new"], gap.COLUMNS, rows))
    assert gap.shown((new,)).endswith("| -0.30 | no seed differs |")
    new.write_text(records.csv_text(["# new"], gap.COLUMNS[:-1], [[*row.values()][:-1] for row in rows]))
    rows = [{name: row[name] for name in gap.COLUMNS[:-1]} for row in rows]
    names = [name for name in gap.COLUMNS if name not in gap.LATER]
    old.write_text(records.csv_text(["# old"], names, [[row[name] for name in names] for row in rows]))
    low, high = report.ends(0.1 * gaps, digits=2).split()[0], report.ends(0.2 * gaps, digits=2).split()[1]
    first = "| E | s | 3 | 0.63 ± 0.15 | +0.40 | no seed differs |"
    told = gap.shown((new, old)).splitlines()[2:]
    assert told[0].startswith(first) and told[0].endswith(f"| +0.06 to +0.13 | {low} {high} | 10% to 20% [10%, 20%] |")
    assert told[1].startswith(first) and told[1].endswith(" |  |  |  |")
    (plain,) = gap.shown((ROOT / "results/gap/Ant-v4.csv",)).splitlines()[2:3]
    assert plain == "| Ant-v4 | sac_continuous | 8 | 0.60 ± 0.30 |  |  |  |  |  |  |"
    one = gap.table([row | {"own_high": row["own_low"]} for row in rows[:1]])
    assert "+0.05 | one seed | 10%, one seed |" in one


def test_what_figure_8_draws():
    """Base and evolved actions are what sampling and the loss's dynamics give; the contours are the critics'."""
    args = hpo.Args(cuda=False, num_seeds=2, leapfrog_steps=2, momentum_std_train=0.5)
    agent, obs = built(args, hpo.Agent, 3, 3), normals(2, 1, 3).float()
    base, evolved = policy_shape.actions(agent, obs, 0.5)
    noise = torch.randn(2, 2, policy_shape.DRAWS, 3, generator=torch.Generator().manual_seed(0))
    many = obs.expand(-1, policy_shape.DRAWS, -1)
    assert torch.allclose(base, agent.policy.sample(many, noise[0])[0].tanh().detach())
    named = Noise(None, *noise, None)
    assert torch.allclose(evolved, end_of(agent, many, named).tanh(), atol=1e-6)
    values, axis = policy_shape.landscape(agent, obs, (2, 0))
    action = agent.policy.mean_action(obs)
    action[..., 2], action[..., 0] = axis[7], axis[40]
    assert torch.allclose(values[:, 40, 7], agent.critic(obs, action).amin(1)[:, 0], atol=1e-6)
    both = torch.cat([obs, obs + 1], dim=1)
    found, first, second = (policy_shape.tally(agent, x, 0.5) for x in (both, both[:, :1], both[:, 1:]))
    assert found.shape == (2, 2, 2) and torch.allclose(found, (first + second) / 2)
    for k, a in enumerate((base, evolved)):
        with torch.no_grad():
            assert torch.allclose(first[:, k, 0], agent.critic(many, a).amin(1).mean(1))
        assert torch.allclose(first[:, k, 1], (a - a.mean(1, keepdim=True)).square().mean((1, 2)).sqrt(), atol=1e-6)


@pytest.mark.slow
def test_noise_and_mcmcpo_are_measured_too():
    """Without steps the objective is the plain Gaussian's; MCMC-PO's prices the divergence from its prior, at β."""
    noise = floats(noise_of(2, 6 * 2000, 3))
    obs = normals(2, 6, 11).float()
    for script in (noise_only, baseline1, mcmcpo):
        agent = built(script.Args(cuda=False, num_seeds=2), script.Agent, 11, 3)
        if script is mcmcpo:
            for p in agent.policy.parameters():
                p.data += 1e-2  # away from the prior
        given = agent.args
        with torch.no_grad():
            by_hand = gap.gaussian(agent, obs, *agent.policy(obs), noise.action).mean(1)
        assert torch.allclose(gap.objective(agent, obs, noise, False), by_hand, atol=1e-4)
        assert not torch.allclose(gap.objective(agent, obs, noise, True), by_hand, atol=1e-4) and agent.args == given
    gaussians = [torch.distributions.Normal(m, s.exp()) for m, s in (agent.policy(obs), agent.prior(obs))]
    price = torch.distributions.kl_divergence(*gaussians).sum(-1).mean(1)
    with torch.no_grad():
        u = agent.policy.sample(obs.repeat(1, 2000, 1), noise.action)[0]
        q = agent.critic(obs.repeat(1, 2000, 1), u.tanh()).amin(1).mean(1)
    assert torch.allclose(q - by_hand, price, rtol=0.05) and (price > 0.1).all()  # at β = 1, by sampling
