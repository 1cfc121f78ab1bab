"""Hamiltonian dynamics: HPO eqs. (13), (16), (17) and the gradients that flow through them."""

import math

import sac_hpo_continuous as hpo
from analysis.experiments.spaces import in_action_space, script_of

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import agent_of, batch_of, end_of, floats, noise_of, normals, pre_tanh
from hypothesis import given, settings
from hypothesis import strategies as st

SPACES = pytest.mark.parametrize("space", ["action", "pre-tanh"])  # where a chain lives (D6)


def place(agent, x):
    """The action at x, before the clamp."""
    return x.tanh() if pre_tanh(agent) else x


def force_of(agent, obs):
    """The force of HPO eq. (16) on the agent's critics, with ∇_x U by autograd."""

    def force(x):
        with torch.enable_grad():
            y = x if x.requires_grad else x.detach().requires_grad_()
            slope = torch.autograd.grad(min_q(agent, obs)(place(agent, y)).sum(), y, create_graph=True)[0]
            out = agent.force(obs, place(agent, x), -F.normalize(slope, dim=-1))
        return out if torch.is_grad_enabled() else out.detach()

    return force


def backwards(force, actions, momentum, step_size, stds):
    """The inverse of `leapfrog`: each operation undone in the opposite order."""
    for k in range(len(stds) - 1, 0, -1):
        momentum = momentum * (stds[k - 1] / stds[k])
        momentum = momentum + step_size / 2 * force(actions)
        actions = actions - step_size * momentum
        momentum = momentum + step_size / 2 * force(actions)
    return actions, momentum


def plain_q(critic, obs, a):
    """Q1 and Q2 (S, 2, B) by matrix products and ReLU alone, so that autograd differentiates them, twice if asked."""
    h = F.relu(torch.cat([obs, a], dim=-1)[:, None] @ critic.fc1.weight + critic.fc1.bias)
    return (F.relu(h @ critic.fc2.weight + critic.fc2.bias) @ critic.q.weight.mT + critic.q.bias)[..., 0]


def min_q(agent, obs):
    return lambda a: plain_q(agent.critic, obs, a).amin(1)


def test_eq_15_does_not_see_steps_that_keep_energy():
    """With ∇U for force, a itself moved and β0 = 1, Q(a_K) - α/2 ‖ρ_K‖² is what it was at the start: what Q gains, the
    momentum gains too, whose term the paper drops (D4). The force's direction alone, which HPO takes, breaks that."""
    alpha, std, steps, size = 0.2, 1.0, 30, 0.02
    q = lambda a: -(a - 0.5).square().sum(-1) + 0.3 * torch.sin(3 * a).sum(-1)  # noqa: E731
    a, momentum = 0.6 * normals(200, 3), std * normals(200, 3, seed=1)

    def slope(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(-q(x).sum() / alpha, x)[0]

    gains = []
    for force in (slope, lambda x: F.normalize(slope(x), dim=-1)):
        end, last = hpo.leapfrog(force, a, momentum, size, hpo.momentum_stds(std, steps))
        kinetic = alpha / (2 * std**2) * (last.square() - momentum.square()).sum(-1)
        gains.append([(q(end) - q(a)).mean().item(), (q(end) - q(a) - kinetic).abs().mean().item()])
    (gain, error), (_, broken) = gains
    assert gain > 0.3 and error < 0.01 < broken / 10, gains


@settings(max_examples=40, deadline=None)
@given(
    space=st.sampled_from(["action", "pre-tanh"]),
    steps=st.integers(1, 6),
    std=st.floats(0.05, 3),
    step_size=st.floats(0.01, 0.5),
    seed=st.integers(0, 10**6),
)
def test_reversible(space, steps, std, step_size, seed):
    agent, obs = agent_of(hpo, seed=seed, leapfrog_space=space), normals(1, 8, 11, seed=seed)
    a0, rho0 = normals(1, 8, 3, seed=seed + 1).tanh(), std * normals(1, 8, 3, seed=seed + 2)
    stds = hpo.momentum_stds(std, steps)
    with torch.no_grad():
        forward = hpo.leapfrog(force_of(agent, obs), a0, rho0, step_size, stds)
        a, rho = backwards(force_of(agent, obs), *forward, step_size, stds)
    assert (forward[0] - a0).abs().max() > 1e-5  # it went somewhere
    assert torch.allclose(a, a0, rtol=0, atol=1e-12) and torch.allclose(rho, rho0, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["smooth", "action", "pre-tanh"])
@pytest.mark.parametrize(("std", "steps"), [(0.1, 2), (1.0, 3), (1.5, 3), (0.3, 4)])
def test_jacobian_determinant(std, steps, kind):
    """(β_{k-1}/β_k)^(d/2) for each step and β0^(d/2) for all of them, before the clamp or the tanh."""
    agent, obs, d = agent_of(hpo, leapfrog_space="action" if kind == "smooth" else kind), normals(1, 1, 11), 3
    weight = normals(d, d, seed=5)
    force = (lambda x: torch.sin(x @ weight)) if kind == "smooth" else force_of(agent, obs)
    start = torch.cat([normals(d, seed=6).tanh(), std * normals(d, seed=7)])

    def mapping(stds):
        def run(x):
            return torch.cat(hpo.leapfrog(force, x[None, None, :d], x[None, None, d:], 0.2, stds), dim=-1)[0, 0]

        return run

    stds = hpo.momentum_stds(std, steps)
    x = start
    for k in range(1, steps + 1):
        step = mapping(stds[k - 1 : k + 1])
        determinant = torch.autograd.functional.jacobian(step, x).det()
        assert determinant.item() == pytest.approx((stds[k] / stds[k - 1]) ** d, rel=1e-9)
        x = step(x).detach()
    jacobian = torch.autograd.functional.jacobian(mapping(stds), start)
    assert jacobian.det().item() == pytest.approx((1 / std) ** d, rel=1e-9)
    assert torch.allclose(mapping(stds)(start), x)
    assert (jacobian[d:, :d].abs() > 1e-6).any()  # the force depends on a, so this was no trivial shear


def test_energy_error_is_second_order():
    """Quadratic potential, β0 = 1, force ∇U unnormalised: halving ε quarters the energy error at a fixed time."""

    def error(n):
        a, rho = hpo.leapfrog(
            lambda a: a, torch.tensor([0.7]).double(), torch.tensor([-0.4]).double(), 1.3 / n, [1.0] * (n + 1)
        )
        return abs((a**2 + rho**2).item() / 2 - (0.7**2 + 0.4**2) / 2)

    for n in (8, 16, 32):
        assert error(n) / error(2 * n) == pytest.approx(4, rel=0.05)


def test_momentum_schedule():
    """HPO eq. (17), by hand for K = 2 and the value β_K = 1 for all K and β0 (D3: β0 may exceed 1)."""
    assert hpo.momentum_stds(0.1, 2) == pytest.approx([0.1, 0.325, 1.0])
    assert hpo.momentum_stds(1.5, 3) == pytest.approx([1.5, 1.5 - 0.5 / 9, 1.5 - 2 / 9, 1.0])
    for std in (0.1, 1.0, 1.5):
        for steps in range(1, 8):
            assert hpo.momentum_stds(std, steps)[-1] == pytest.approx(1)
    a, rho = hpo.leapfrog(torch.zeros_like, torch.zeros(2), torch.tensor([0.1, -0.2]), 0.5, hpo.momentum_stds(0.1, 2))
    assert torch.allclose(rho, torch.tensor([1.0, -2.0]))  # without a force the momentum only grows by 1/0.1
    assert torch.allclose(a, 0.5 * (1 + 3.25) * torch.tensor([0.1, -0.2]))


def joint_log_prob(log_prob, momentum, std):
    """log q(a_K, ρ_K|s) before the clamp, HPO eq. (13), from log π(a_0|s) (..), ρ_0 (.., d) and std = 1/√β0."""
    prior = torch.distributions.Normal(0, std).log_prob(momentum).sum(-1)
    return log_prob + prior + momentum.shape[-1] * math.log(std)  # β0^(-d/2) = std^d


@pytest.fixture(params=["action", "pre-tanh"])
def one_dimensional(monkeypatch, request):
    """A small agent with one action dimension and networks steep enough to bend the density."""
    for script in (hpo, in_action_space(hpo)):
        monkeypatch.setattr(script, "HIDDEN", 16)
    agent = agent_of(hpo, obs_dim=2, act_dim=1, momentum_std_train=0.4, step_size=0.3, leapfrog_steps=3,
                     leapfrog_space=request.param)  # fmt: skip
    for parameter in [*agent.critic.parameters(), *agent.force.parameters()]:
        parameter.data *= 2
    obs = torch.tensor([[[0.3, -0.8]]]).double()
    mean, log_std = (x.detach() for x in agent.policy(obs))
    base = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), [torch.distributions.transforms.TanhTransform()]
    )
    return agent, obs, base


def test_joint_density(one_dimensional):
    """Eq. (13) integrates to 1 over (a_K, ρ_K), and its marginal is the histogram of samples of a_K.

    Before the tanh too, where the log-density that the policy's loss has of a_K gets the same momentum terms."""
    agent, obs, base = one_dimensional
    std, stds, step = 0.4, hpo.momentum_stds(0.4, 3), agent.args.step_size
    before, edge = (True, 1) if pre_tanh(agent) else (False, 4)

    def density(a_k, rho_k):
        o = obs.expand(1, a_k.shape[1], 2)
        with torch.no_grad():
            a0, rho0 = backwards(force_of(agent, o), a_k.atanh() if before else a_k, rho_k, step, stds)
        if before:
            log_prob = base.base_dist.log_prob(a0).sum(-1) - torch.log1p(-a_k.square()).sum(-1)
            return joint_log_prob(log_prob, rho0, std).exp()[0]
        inside = (a0.abs() < 1).all(-1)
        log_prob = base.log_prob(a0.clamp(-1 + 1e-12, 1 - 1e-12)).sum(-1)
        return torch.where(inside, joint_log_prob(log_prob, rho0, std).exp(), 0.0)[0]

    n = 500
    a_axis = ((torch.arange(n).double() + 0.5) / n * 2 - 1) * edge  # middles of cells
    rho_axis = torch.linspace(-7, 7, n).double()
    cell = (a_axis[1] - a_axis[0]) * (rho_axis[1] - rho_axis[0])
    grid = torch.cartesian_prod(a_axis, rho_axis)
    q = torch.cat([density(part[None, :, :1], part[None, :, 1:]) for part in grid.split(50_000)]).view(n, n)
    assert (q.sum() * cell).item() == pytest.approx(1, abs=5e-3)

    m, generator = 100_000, torch.Generator().manual_seed(1)
    o, noise = obs.expand(1, m, 2), torch.randn(1, m, 2, generator=generator, dtype=torch.double)
    with torch.no_grad():
        x, log_prob = agent.policy.sample(o, noise[..., :1])
        x, rho_k = agent.evolve(agent.critic, o, x, noise[..., 1:], std, with_momentum=True)
    a_k = place(agent, x)
    if before:
        ours = joint_log_prob(hpo.squash(x, log_prob)[1], std * noise[..., 1:], std).exp()
        some = (a_k[0, :, 0].abs() < 0.999).nonzero()[:2000, 0]
        assert torch.allclose(ours[0, some], density(a_k[:, some], rho_k[:, some]), rtol=1e-6)
    edges = np.linspace(-edge, edge, n // 10 + 1)
    counts, _ = np.histogram(a_k.flatten().numpy(), edges)
    marginal = (q.sum(1) * cell).numpy()[: 10 * len(counts)].reshape(-1, 10).sum(1)
    assert a_k.std() > 0.3 and abs(counts / m - marginal).sum() < 0.02


def test_action_gradient_is_that_of_the_smaller_critic():
    """D7, for each seed its own, on critics written out; it is held constant, and the weights get nothing from it."""
    agent, obs, a = agent_of(hpo, num_seeds=3), normals(3, 50, 11), normals(3, 50, 3, seed=1).requires_grad_()
    expected = torch.autograd.grad(min_q(agent, obs)(a).sum(), a)[0]
    gradient = hpo.action_gradient(agent.critic, obs, a)
    assert expected.abs().max() > 1e-3 and torch.allclose(gradient, expected, rtol=1e-10, atol=1e-14)
    assert not gradient.requires_grad
    q = agent.critic(obs, a)
    assert torch.allclose(q, plain_q(agent.critic, obs, a)) and torch.equal(agent.critic.smaller(obs, a), q.amin(1))
    assert 0 < (q[:, 0] < q[:, 1]).double().mean() < 1  # both critics were the smaller one somewhere (D7)
    with torch.no_grad():
        assert torch.equal(hpo.action_gradient(agent.critic, obs, a), gradient)


def test_zero_gradient_gives_no_force_direction():
    agent, obs = agent_of(hpo), normals(1, 4, 11)
    agent.critic.fc1.weight.data[..., 11:, :] = 0
    seen = []
    agent.force.register_forward_hook(lambda _, inputs, out: seen.append(inputs[2]))
    agent.evolve(agent.critic, obs, normals(1, 4, 3), normals(1, 4, 3), 0.1)
    assert all((g == 0).all() for g in seen) and len(seen) == 2


def policy_gradient(agent, q, obs, noise, hold):
    """∇_{θ,h} of minus HPO eq. (15) without its last term, written out from the paper; g from autograd.

    `hold`: ∇_a Q is held constant. In pre-tanh space log π is that of a_K, by the tanh's own derivative."""
    args, beta = agent.args, []
    std = args.momentum_std_train
    for k in range(args.leapfrog_steps + 1):  # eq. (17)
        beta.append(((1 - std) * k**2 / args.leapfrog_steps**2 + std) ** -2)

    def force(x):
        a = place(agent, x)
        b = a.detach().requires_grad_() if hold else a
        gradient = torch.autograd.grad((-q(b) / args.alpha).sum(), b, create_graph=not hold)[0]
        if pre_tanh(agent):
            gradient = gradient / torch.cosh(x) ** 2
        g = gradient / gradient.norm(dim=-1, keepdim=True)
        out = []
        for first, _, second, _ in (agent.force.implicit, agent.force.gate):
            hidden = F.elu(torch.cat([obs, a, g], dim=-1) @ first.weight + first.bias)
            out.append(hidden @ second.weight.mT + second.bias)
        gate = out[1].sigmoid()
        return gate * g + (1 - gate) * out[0].tanh()

    if pre_tanh(agent):
        mean, log_std = agent.policy(obs)
        a = mean + log_std.exp() * noise.action
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(a).sum(-1)
    else:
        a, log_prob = agent.policy.sample(obs, noise.action)
    rho = std * noise.momentum
    for k in range(1, args.leapfrog_steps + 1):  # eq. (16), both halves
        rho = rho - args.step_size / 2 * force(a)
        a = a + args.step_size * rho
        rho = (rho - args.step_size / 2 * force(a)) * math.sqrt(beta[k - 1] / beta[k])
    if pre_tanh(agent):
        log_prob = log_prob + 2 * torch.cosh(a).log().sum(-1)
    loss = (args.alpha * log_prob - q(place(agent, a).clamp(-1, 1))).mean(-1).sum()
    return torch.autograd.grad(loss, agent.policy_optimizer.trained)


def distance(left, right):
    return max((x - y).abs().max().item() / y.abs().max().item() for x, y in zip(left, right))


@SPACES
def test_policy_gradient_equals_double_backward(space):
    """On ReLU critics holding ∇_a Q constant changes nothing; on smooth ones it does (the negative control)."""
    agent = agent_of(hpo, num_seeds=2, leapfrog_steps=3, step_size=0.3, leapfrog_space=space)
    obs = normals(2, 64, 11)
    noise = noise_of(2, 64, 3, seed=9)
    ours = torch.autograd.grad(agent.policy_loss(obs, noise)[0].sum(), agent.policy_optimizer.trained)
    double = policy_gradient(agent, min_q(agent, obs), obs, noise, hold=False)
    assert distance(ours, double) < 1e-9
    assert distance(policy_gradient(agent, min_q(agent, obs), obs, noise, hold=True), double) < 1e-9

    weight = normals(2, 3, 8, seed=3)

    def smooth(a):
        return torch.sin(a @ weight).sum(-1)

    held = policy_gradient(agent, smooth, obs, noise, hold=True)
    assert distance(held, policy_gradient(agent, smooth, obs, noise, hold=False)) > 1e-2


@pytest.fixture
def kinked(monkeypatch, space):
    """One dimension, Q(s, a) = -10 relu(0.3 - a) - relu(a - 0.3), a Gaussian N(bias, 1/4), and F = g or T_h."""
    for script in (hpo, in_action_space(hpo)):
        monkeypatch.setattr(script, "HIDDEN", 2)
    agent = agent_of(hpo, obs_dim=1, act_dim=1, leapfrog_steps=1, step_size=0.5, momentum_std_train=0.5, alpha=1e-6,
                     leapfrog_space=space)  # fmt: skip
    for network in (agent.critic, agent.policy, agent.force):
        for weight in network.parameters():
            weight.data.zero_()
    fc1, fc2, q = agent.critic.fc1, agent.critic.fc2, agent.critic.q
    fc1.weight.data[..., 1, :2], fc1.bias.data[..., 0, :2] = torch.tensor([-1.0, 1.0]), torch.tensor([0.3, -0.3])
    fc2.weight.data[..., 0, 0] = fc2.weight.data[..., 1, 1] = 1
    q.weight.data[..., 0, :2] = torch.tensor([-10.0, -1.0])  # (.., out, in)
    agent.policy.log_std.bias.data[:] = math.log(0.5)
    return agent


@pytest.mark.slow
@SPACES
@pytest.mark.parametrize("sees_g", [True, False])
def test_the_gradient_misses_the_jumps_of_g(kinked, space, sees_g):
    """Back-propagation is not the gradient of the expected loss: where a_0 crosses a kink of Q, g jumps, and what the
    loss jumps by there, times the density of a_0, is left out. A force blind to g leaves out nothing."""
    agent, bias, n, m = kinked, kinked.policy.mean.bias, 8_000, 50
    agent.force.implicit[2].bias.data[:], agent.force.gate[2].bias.data[:] = math.atanh(0.4), 50.0 if sees_g else -50.0
    normal = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
    xi, rho = (normal.icdf((torch.arange(k).double() + 0.5) / k) for k in (n, m))  # of equal weight
    action, momentum = torch.cartesian_prod(xi, rho).T[:, None, :, None]
    noise = noise_of(0)._replace(action=action, momentum=momentum)
    obs = torch.zeros(1, n * m, 1).double()

    def loss(mean):
        bias.data[:] = mean
        return agent.policy_loss(obs, noise)[0].sum()

    at, h = 0.1, 0.02
    with torch.no_grad():
        true = ((loss(at + h) - loss(at - h)) / (2 * h)).item()
    ours = torch.autograd.grad(loss(at), bias)[0].item()

    kink = math.atanh(0.3) if space == "pre-tanh" else 0.3  # of x_0, where its density is
    density = 2 * math.exp(normal.log_prob(torch.tensor((math.atanh(0.3) - at) / 0.5)).item())  # of u_0
    q = []
    for g in (-1, 1):  # below the kink, above it
        end = kink + 0.5 * (0.5 * rho - 0.25 * (g if sees_g else 0.4))
        end = end.tanh() if space == "pre-tanh" else end.clamp(-1, 1)
        q.append(-(10 * (0.3 - end).relu() + (end - 0.3).relu()).mean().item())
    missed = density * (q[0] - q[1])
    assert true == pytest.approx(ours + missed, rel=0.02)
    assert (abs(missed) > 0.1 * abs(true)) == sees_g


def test_momentum_term():
    """D4: the flag adds αβ0/2 ρ_Kᵀρ_K, HPO eq. (15)."""
    obs, noise = normals(1, 16, 11), noise_of(1, 16, 3, seed=4)
    plain, term = agent_of(hpo), agent_of(hpo, momentum_term=True)
    u, _ = term.policy.sample(obs, noise.action)
    _, rho = term.evolve(term.critic, obs, u, noise.momentum, 0.1, with_momentum=True)
    extra = 0.2 / 0.1**2 / 2 * (rho**2).sum(-1).mean(-1)
    assert torch.allclose(term.policy_loss(obs, noise)[0], plain.policy_loss(obs, noise)[0] + extra)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_number_of_gradient_evaluations(monkeypatch, steps):
    """K for K steps, not 2K; K + 1 with the ρ_K term."""
    calls, original = [], hpo.action_gradient
    monkeypatch.setattr(hpo, "action_gradient", lambda *a: calls.append(1) or original(*a))
    batch, noise = batch_of(1, 8), noise_of(1, 8, 3)

    def count(function, *inputs):
        calls.clear()
        function(*inputs)
        return len(calls)

    agent = agent_of(hpo, leapfrog_steps=steps)
    assert count(agent.policy_loss, batch.obs, noise) == steps
    assert count(agent.critic_loss, batch, noise) == 0  # D8: the base policy's sample by default
    assert count(agent.evolved_mean, batch.obs) == steps
    assert count(agent.act, batch.obs, noise) == steps
    agent = agent_of(hpo, leapfrog_steps=steps, momentum_term=True, evolve_target=True)
    assert count(agent.policy_loss, batch.obs, noise) == steps + (steps > 0)
    assert count(agent.critic_loss, batch, noise) == steps


@SPACES
def test_evolved_target(space):
    """D8: with the flag the target's next action follows the target critics from the training momentum."""
    agent = agent_of(hpo, evolve_target=True, leapfrog_space=space)
    noise, batch = noise_of(1, 8, 3), batch_of(1, 8)._replace(terminated=torch.zeros(1, 8))
    loss, seen = agent.critic_loss(batch, noise)
    x, log_prob = agent.policy.sample(batch.next_obs, noise.next_action)
    x, _ = agent.evolve(agent.target, batch.next_obs, x, noise.next_momentum, 0.1)
    a, log_prob = script_of(agent).squash(x, log_prob)
    y = batch.reward + 0.99 * (plain_q(agent.target, batch.next_obs, a).amin(1) - 0.2 * log_prob)
    q = plain_q(agent.critic, batch.obs, batch.action)
    assert torch.allclose(
        torch.stack([seen["losses/qf1_loss"], seen["losses/qf2_loss"]], -1), ((q - y[:, None]) ** 2).mean(-1)
    )
    plain = agent_of(hpo, leapfrog_space=space)
    assert not torch.allclose(loss, plain.critic_loss(batch, noise)[0], rtol=1e-4)


@SPACES
def test_readings_of_evaluation(space):
    """D9: noise off is ρ_0 = 0 from the mean on the training schedule; the base mean stands beside it."""
    agent, obs = agent_of(hpo, leapfrog_space=space), normals(1, 5, 11)
    base = agent.policy(obs)[0].tanh()
    with torch.no_grad():
        force, a = force_of(agent, obs), base if space == "action" else agent.policy(obs)[0]
        rho = -0.15 / 2 * force(a)
        a = a + 0.15 * rho
        rho = (rho - 0.15 / 2 * force(a)) * 0.325 / 0.1
        a = a + 0.15 * (rho - 0.15 / 2 * force(a))
    policies = agent.policies()
    assert list(policies) == ["leapfrog", "base"]
    assert torch.allclose(policies["leapfrog"](obs), place(agent, a).clamp(-1, 1))
    assert torch.allclose(policies["base"](obs), base)
    assert list(agent_of(hpo, eval_base=True).policies()) == ["base", "leapfrog"]


@SPACES
def test_exploration(space):
    """Acting, written out by hand for K = 2: ρ_0 of standard deviation 1.5 (D14), its own schedule, the clamp (D6)."""
    agent, obs = agent_of(hpo, double=False, num_seeds=2, leapfrog_space=space), normals(2, 1, 11).float()
    clamped = 0
    for i in range(30):
        noise = floats(noise_of(2, 1, 3, seed=i))
        with torch.no_grad():
            force, mean, log_std = force_of(agent, obs), *agent.policy(obs)
            a = mean + log_std.exp() * noise.action
            a = a.tanh() if space == "action" else a
            rho = 1.5 * noise.momentum - 0.15 / 2 * force(a)
            a = a + 0.15 * rho
            rho = (rho - 0.15 / 2 * force(a)) * 1.375 / 1.5
            a = a + 0.15 * (rho - 0.15 / 2 * force(a))
        assert torch.allclose(agent.act(obs, noise), place(agent, a).clamp(-1, 1), atol=1e-6)
        clamped += (place(agent, a).abs() > 1).sum()
    assert (clamped > 0) == (space == "action")


def test_clamped_coordinates_get_no_gradient():
    """D6: Q's gradient stops at the box."""
    agent = agent_of(hpo, momentum_std_train=50.0, alpha=1e-9, leapfrog_space="action")
    obs, noise = normals(1, 64, 11), noise_of(1, 64, 3)
    noise = noise._replace(momentum=noise.momentum.sign())
    loss, _ = agent.policy_loss(obs, noise)
    assert (end_of(agent, obs, noise).abs() > 1).all()  # a momentum of ±50 throws everything out
    assert max(g.abs().max() for g in torch.autograd.grad(loss.sum(), agent.policy_optimizer.trained)) < 1e-6


def test_state_in_force_is_optional():
    """D10: without the state the force reads 2 d inputs and cannot tell states apart."""
    a, g = normals(1, 4, 3), normals(1, 4, 3, seed=1)
    for flag in (True, False):
        force = agent_of(hpo, leapfrog_state=flag).force
        same = torch.equal(force(normals(1, 4, 11), a, g), force(normals(1, 4, 11, seed=2), a, g))
        assert same is not flag and force.gate[0].weight.shape[-2] == (17 if flag else 6)


def test_gate_mixes_explicit_and_implicit_gradient():
    """D1: σ g + (1 - σ) T with T in (-1, 1) by tanh and σ in (0, 1) by the sigmoid, elementwise."""
    force, obs, a = agent_of(hpo).force, normals(1, 64, 11), normals(1, 64, 3)
    g = F.normalize(normals(1, 64, 3, seed=1), dim=-1)
    for network in (force.implicit, force.gate):
        network[2].weight.data.zero_()
    for implicit, gate, expected in (
        (9.0, 0.0, 0.5 * g + 0.5),
        (-9.0, 40.0, g),
        (0.4, -40.0, torch.full_like(g, math.tanh(0.4))),
    ):
        force.implicit[2].bias.data[:], force.gate[2].bias.data[:] = implicit, gate
        assert torch.allclose(force(obs, a, g), expected, atol=1e-6)
