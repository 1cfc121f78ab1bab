"""analysis/gap.py: objectives and fitted Gaussians against integration; the dynamics against a known target."""

import mcmcpo_hmc_continuous as mcmcpo
import sac_hpo_continuous as hpo
from analysis import gap, policy_shape, report

import baseline1
import noise_only
import pytest
import torch
from conftest import Noise, built, floats, noise_of, normals

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


def test_fitted_gaussians_reach_the_best_of_a_grid(monkeypatch):
    monkeypatch.setattr(gap, "STEPS", 400)
    obs = torch.tensor([-1.0, 0.5]).view(1, 2, 1)
    fitting, judging = (quantiles(n).repeat_interleave(2).view(1, -1, 1) for n in (256, 1024))
    found = gap.optimum(Known(), obs, fitting, judging).item()
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


def test_an_interval_is_students():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).double().numpy()  # mean 3, deviation 2.1602, t 3.1824
    assert report.ends(values, digits=2) == "[-0.44, +6.44]"
    row = {"environment": "E", "script": "s", "without": "1.0", "with": "2.0", "optimal": "4.0"}
    text = gap.table([row, row | {"without": "2.0", "with": "4.0", "optimal": "5.0"}])
    assert "| E | s | 2 | 3.00 ± 1.41 | 3.00 ± 0.00 | 1.50 ± 0.71 | +1.50 | [-4.85, +7.85] |" in text
    assert report.ends(values[:1]) == "one seed" and report.ends(values - values) == "no seed differs"


def test_what_figure_8_draws():
    """Base and evolved actions are what sampling and the loss's dynamics give; the contours are the critics'."""
    args = hpo.Args(cuda=False, num_seeds=2, leapfrog_steps=2, momentum_std_train=0.5)
    agent, obs = built(args, hpo.Agent, 3, 3), normals(2, 1, 3).float()
    base, evolved = policy_shape.actions(agent, obs, 0.5)
    noise = torch.randn(2, 2, policy_shape.DRAWS, 3, generator=torch.Generator().manual_seed(0))
    many = obs.expand(-1, policy_shape.DRAWS, -1)
    assert torch.allclose(base, agent.policy.sample(many, noise[0])[0].tanh().detach())
    named = Noise(None, *noise, None)
    assert torch.allclose(evolved, agent.policy_loss(many, named)[1]["position"].tanh(), atol=1e-6)
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
                p.data += 2e-3  # away from the prior
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
