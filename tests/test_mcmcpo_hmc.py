"""MCMC-PO with HMC: the chain, its potential and densities, the gradients of eq. (17), and K = 0 written plainly."""

import mcmcpo_hmc_continuous as hmc
import sac_hpo_continuous as hpo

import pytest
import torch
import torch.nn.functional as F
from conftest import batch_of, noise_of, normals
from test_mcmcpo import agent_of

UNITS = pytest.mark.parametrize("unit", ["absolute", "std"])
RAW = pytest.mark.parametrize("normalize", [True, False])


def chain(agent, obs, u, momentum):
    """(u_K, ρ_K) of the agent's dynamics."""
    return agent.evolve(agent.critic, obs, agent.prior(obs), u, momentum)[:2]


def moved(agent, **values):
    """The agent with ε unlike in each dimension and β not 1."""
    agent.dynamics.log_step.data += 0.5 * normals(*agent.dynamics.log_step.shape, seed=9)
    agent.pid.beta.data.fill_(0.7)
    return agent


def potential(agent, obs, u):
    """U(s, u) of eq. (12), from autograd's side: no closed form."""
    mean, log_std = agent.prior(obs)
    q = agent.critic.smaller(obs, u.tanh())
    prior = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1)
    return -(q / agent.pid.beta + prior)


# ------------------------------------------------------------------------------------------- the chain
@UNITS
@RAW
def test_the_chain_runs_backwards_and_keeps_volume(unit, normalize):
    """With the prior in U and ε per dimension: ρ_K turned round leads back, and |∂(u_K, ρ_K)/∂(u_0, ρ_0)| = 1."""
    flags = {"step_size": 0.2, "step_unit": unit, "normalize_gradient": normalize}
    agent = moved(agent_of(hmc, leapfrog_steps=4, **flags))
    obs, u, momentum = normals(1, 1, 5), normals(1, 1, 3, seed=1), normals(1, 1, 3, seed=2)
    end, last = chain(agent, obs, u, momentum)
    back, first = chain(agent, obs, end, -last)
    assert (end - u).abs().min() > 1e-3
    assert torch.allclose(back, u, atol=1e-9) and torch.allclose(first, -momentum, atol=1e-9)

    def both(x):
        return torch.cat(chain(agent, obs, x[None, None, :3], x[None, None, 3:]), dim=-1)[0, 0]

    jacobian = torch.autograd.functional.jacobian(both, torch.cat([u, momentum], dim=-1)[0, 0])
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-9)
    assert (jacobian - torch.eye(6)).abs().max() > 0.05


@UNITS
def test_the_energy_of_the_raw_force_without_gate_is_kept_to_second_order(unit, monkeypatch):
    """Where Q is smooth: here its ReLUs are made softplus and the twins one."""
    agent = agent_of(hmc, step_unit=unit, normalize_gradient=False)
    monkeypatch.setattr(hmc.Critic, "forward", smooth)
    monkeypatch.setattr(hmc.Dynamics, "forward", lambda self, obs, actions, g: (g, g[..., :1]))
    obs, u, momentum = normals(1, 50, 5), 0.2 * normals(1, 50, 3, seed=1), normals(1, 50, 3, seed=2)
    errors = []
    for size, steps in ((0.04, 5), (0.02, 10)):
        agent.dynamics.log_step.data.fill_(size if unit == "std" else size / 20).log_()
        agent.args.leapfrog_steps = steps
        end, last = chain(agent, obs, u, momentum)
        kinetic = (last.square() - momentum.square()).sum(-1) / 2
        errors.append((potential(agent, obs, end) - potential(agent, obs, u) + kinetic).abs().mean().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1), errors


def test_eq_17_does_not_see_steps_that_keep_energy(monkeypatch):
    """Sample by sample it is -β (U + ‖ρ‖²/2) at the end, and what no step moves. So with ∇U for force it is as without
    steps, while u moves, and D̂ and Q grow; what it sees of them is T_h's and the gate's, and the step's error."""
    agent = agent_of(hmc)
    monkeypatch.setattr(hmc.Critic, "forward", smooth)
    agent.critic.q.weight.data *= 10  # so that Q pulls
    noise, losses, distances, moves = noise_of(1, 256, 3), [], [], []
    obs, force = normals(1, 256, 5), hmc.Dynamics.forward
    for steps, gated in ((0, False), (10, False), (10, True)):
        if not gated:
            monkeypatch.setattr(hmc.Dynamics, "forward", lambda self, obs, actions, g: (g, g[..., :1]))
        else:
            monkeypatch.setattr(hmc.Dynamics, "forward", force)
        agent.args.leapfrog_steps = steps
        agent.dynamics.log_step.data.fill_(0.05).log_()
        loss, seen = agent.policy_loss(obs, noise)
        losses.append(loss.item()), distances.append(seen["losses/distance"].item())
        moves.append(seen["charts/move"].item() if steps else 0)
    assert abs(losses[1] - losses[0]) < 1e-3 < abs(losses[2] - losses[0]) / 20, losses
    assert moves[1] > 0.05 and distances[1] > distances[0] + 0.05, (moves, distances)


def smooth(critic, obs, action):
    """A critic's forward pass with softplus units, of which both twins are the first."""
    x = F.softplus(critic.fc2(F.softplus(critic.fc1(obs, action))))
    return critic.q(x).squeeze(-1)[:, :1].expand(-1, 2, -1)


@UNITS
def test_the_potentials_gradient_and_its_derivative(unit, monkeypatch):
    """g is autograd's ∇U, and its derivative in u double backward's; with all of g held constant it is not (D20)."""
    agent = moved(agent_of(hmc, leapfrog_steps=1, step_unit=unit, normalize_gradient=False))
    seen = []
    monkeypatch.setattr(hmc.Dynamics, "forward", lambda self, obs, actions, g: (seen.append(g), (g, g[..., :1]))[1])
    obs, u = normals(1, 8, 5), normals(1, 8, 3, seed=1).requires_grad_()
    scale = agent.prior(obs)[1].exp().detach() if unit == "std" else 1.0
    chain(agent, obs, u, torch.zeros_like(u))
    (plain,) = torch.autograd.grad(potential(agent, obs, u).sum(), u, create_graph=True)
    assert torch.allclose(seen[0], scale * plain, atol=1e-10) and seen[0].abs().min() > 1e-4
    weights = normals(1, 8, 3, seed=5)
    (ours,) = torch.autograd.grad((seen[0] * weights).sum(), u)
    (theirs,) = torch.autograd.grad((scale * plain * weights).sum(), u)
    assert torch.allclose(ours, theirs, atol=1e-10) and theirs.abs().min() > 1e-3  # held constant it would be 0


# --------------------------------------------------------------------------------------------- the distance
@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_the_distance_is_a_divergence():
    """Its mean is not negative over random parameters, and 0 without steps where the prior is the policy."""
    for seed in range(12):
        flags = {"seed": seed, "leapfrog_steps": seed % 4, "step_size": 0.3, "normalize_gradient": seed % 2 == 0}
        agent = moved(agent_of(hmc, **flags))
        obs, noise = normals(1, 1, 5, seed=seed).expand(1, 4_000, 5), noise_of(1, 4_000, 3, seed=seed + 1)
        with torch.no_grad():
            distance = agent.policy_loss(obs, noise)[1]["distance"].mean().item()
        assert distance > -0.05
    agent = agent_of(hmc, leapfrog_steps=0)
    agent.prior.load_state_dict(agent.policy.state_dict())
    assert agent.policy_loss(obs, noise)[1]["distance"].mean().abs() < 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_the_distance_equals_an_integral():
    """d = 1: KL(q_K ‖ π_θt N) over a grid of (u_K, ρ_K), q_K found by running the chain backwards."""
    agent = agent_of(hmc, 2, 1, leapfrog_steps=3, step_size=0.4, step_unit="absolute")
    agent.policy.log_std.bias.data -= 0.7  # away from the prior
    obs, n = normals(1, 1, 2), 201
    (mean, log_std), (mean_t, log_std_t) = (tuple(x.item() for x in net(obs)) for net in (agent.policy, agent.prior))
    us, rhos = torch.linspace(mean - 6, mean + 6, n).double(), torch.linspace(-6, 6, n).double()
    grid = torch.stack(torch.meshgrid(us, rhos, indexing="ij"), dim=-1).view(1, -1, 2)
    many = obs.expand(1, n * n, 2)
    with torch.no_grad():
        start, first = chain(agent, many, grid[..., :1], -grid[..., 1:])  # reversible
        normal = torch.distributions.Normal
        log_q = normal(mean, torch.tensor(log_std).exp()).log_prob(start) + normal(0, 1).log_prob(first)
        log_p = normal(mean_t, torch.tensor(log_std_t).exp()).log_prob(grid[..., :1]) + normal(0, 1).log_prob(
            grid[..., 1:]
        )
        cell = (us[1] - us[0]) * (rhos[1] - rhos[0])
        mass = (log_q.exp().sum() * cell).item()
        integral = ((log_q.exp() * (log_q - log_p)).sum() * cell).item()
        _, seen = agent.policy_loss(obs.expand(1, 40_000, 2), noise_of(1, 40_000, 1, seed=1))
    assert mass == pytest.approx(1, abs=2e-3) and integral > 0.1
    assert seen["distance"].mean().item() == pytest.approx(integral, rel=0.03)


# --------------------------------------------------------------------------------------------- eq. (17)
def objective(agent, obs, noise):
    """Minus eq. (17) written plainly."""
    mean, log_std = agent.policy(obs)
    u = mean + log_std.exp() * noise.action
    end, momentum = chain(agent, obs, u, noise.momentum)
    normal = torch.distributions.Normal
    prior = [x.detach() for x in agent.prior(obs)]
    ratio = normal(mean, log_std.exp()).log_prob(u) - normal(prior[0], prior[1].exp()).log_prob(end)
    kinetic = (momentum.square() - noise.momentum.square()).sum(-1) / 2
    q = agent.critic.smaller(obs, end.tanh())
    return (agent.pid.beta * (ratio.sum(-1) + kinetic) - q).mean(-1)


@UNITS
@RAW
def test_the_gradients_in_theta_and_h(unit, normalize):
    """Of the objective written plainly, whatever the parameter, and of finite differences along random directions."""
    flags = {"leapfrog_steps": 2, "step_size": 0.05, "step_unit": unit, "normalize_gradient": normalize}
    agent = moved(agent_of(hmc, spread_weight=0.0, **flags))
    obs, noise = normals(1, 16, 5), noise_of(1, 16, 3, seed=4)
    loss, _ = agent.policy_loss(obs, noise)
    assert torch.allclose(loss, objective(agent, obs, noise), atol=1e-10)
    for optimizer in (agent.policy_optimizer, agent.dynamics_optimizer):
        parameters = optimizer.trained
        _, ours = optimizer.with_gradients(agent.policy_loss)(obs, noise)
        plain = torch.autograd.grad(objective(agent, obs, noise).sum(), parameters)
        assert all(torch.allclose(a, b, atol=1e-9) and b.abs().max() > 1e-9 for a, b in zip(ours, plain))
        directions, values = [1e-7 * normals(*p.shape, seed=i) for i, p in enumerate(parameters)], []
        for sign in (1, -1):
            for p, direction in zip(parameters, directions):
                p.data += sign * direction
            values.append(agent.policy_loss(obs, noise)[0].item())
            for p, direction in zip(parameters, directions):
                p.data -= sign * direction
        slope = sum((a * b).sum().item() for a, b in zip(ours, directions))
        assert (values[0] - values[1]) / 2 == pytest.approx(slope, rel=1e-3)


def test_theta_and_h_step_by_turns(monkeypatch):
    """θ's step leaves h, and h's, taken at the new θ, leaves θ; each optimizer holds its own."""
    agent, before, after = agent_of(hmc), [], []
    parts = {"policy": agent.policy, "dynamics": agent.dynamics}
    old = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}

    def changed():
        return {n for n, part in parts.items() if any(not torch.equal(p, q) for p, q in zip(part.parameters(), old[n]))}

    apply, loss = hmc.Adam.apply, agent.policy_loss
    monkeypatch.setattr(hmc.Adam, "apply", lambda self, g: (apply(self, g), after.append(changed()))[0])
    monkeypatch.setattr(agent, "policy_loss", lambda *inputs: (before.append(changed()), loss(*inputs))[1])
    agent.update(batch_of(1, 8, 5), noise_of(1, 8, 3))
    assert before == [set(), {"policy"}] and after == [set(), {"policy"}, {"policy", "dynamics"}]
    held = [{id(p) for p in optimizer.trained} for optimizer in (agent.policy_optimizer, agent.dynamics_optimizer)]
    assert not held[0] & held[1] and held[1] == {id(p) for p in agent.dynamics.parameters()}


def test_a_spread_penalty_is_the_divergence_of_spreads():
    """Against torch.distributions, at equal means."""
    plain, paid = (agent_of(hmc, spread_weight=weight, leapfrog_steps=0) for weight in (0.0, 3.0))
    obs, noise = normals(1, 16, 5), noise_of(1, 16, 3)
    (_, log_std), (_, log_std_t) = paid.policy(obs), paid.prior(obs)
    one, two = (torch.distributions.Normal(0.0, x.exp()) for x in (log_std, log_std_t))
    expected = 3 * paid.pid.beta.item() * torch.distributions.kl_divergence(one, two).sum(-1).mean(-1)
    found = paid.policy_loss(obs, noise)[0] - plain.policy_loss(obs, noise)[0]
    assert torch.allclose(found, expected, atol=1e-12) and expected > 1e-4


# --------------------------------------------------------------------------------------------- K = 0
def test_without_steps_it_is_a_kl_regularised_actor_critic():
    """Five updates in float64 against the algorithm written plainly, with torch.optim."""
    agent, plain = (agent_of(hmc, leapfrog_steps=0, prior_updates=2, spread_weight=0.0) for _ in range(2))
    adams = [torch.optim.Adam(list(net.parameters()), lr=3e-4) for net in (plain.critic, plain.policy)]
    beta = 1.0
    integral, before = 100.0, 0.3
    normal = torch.distributions.Normal
    for i in range(5):
        obs, actions, rewards, next_obs, ended = batch = batch_of(1, 16, 5, seed=7 * i)
        noise = noise_of(1, 16, 3, seed=i)
        agent.update(batch, noise)
        with torch.no_grad():
            mean, log_std = plain.policy(next_obs)
            y = plain.target(next_obs, (mean + log_std.exp() * noise.next_action).tanh()).amin(1)
            y = rewards + 0.99 * (1 - ended) * y
        adams[0].zero_grad()
        ((plain.critic(obs, actions) - y[:, None]) ** 2).mean(-1).sum().backward()
        adams[0].step()

        def distance(obs=obs, noise=noise):
            mean, log_std = plain.policy(obs)
            u = mean + log_std.exp() * noise.action
            old_mean, old_log_std = (x.detach() for x in plain.prior(obs))
            ratio = normal(mean, log_std.exp()).log_prob(u) - normal(old_mean, old_log_std.exp()).log_prob(u)
            return ratio.sum(-1), u

        ratio, u = distance()
        adams[1].zero_grad()
        (beta * ratio - plain.critic(obs, u.tanh()).amin(1)).mean().backward()
        adams[1].step()
        now = distance()[0].mean().item()
        error = min(now - 0.3, 0.3)
        integral = max(integral + error, 0)
        beta, before = max(0.01 * error + 0.01 * integral + 0.01 * (now - before), 1e-3), now
        with torch.no_grad():
            if i % 2 == 1:
                plain.prior.load_state_dict(plain.policy.state_dict())
            for slow, fast in zip(plain.target.parameters(), plain.critic.parameters()):
                slow += 0.005 * (fast - slow)
        assert agent.pid.beta.item() == pytest.approx(beta, rel=1e-6)
    for name in ("critic", "policy", "prior", "target"):
        for left, right in zip(getattr(agent, name).parameters(), getattr(plain, name).parameters()):
            assert torch.allclose(left, right, rtol=0, atol=1e-9), name
    start = agent_of(hmc, leapfrog_steps=0)
    assert not torch.allclose(agent.policy.fc1.weight, start.policy.fc1.weight, rtol=0, atol=1e-4)


def test_the_networks_see_the_state_where_sac_hpos_do():
    """D10 on every row of SAC-HPO's table, by the names that a run knows it by; elsewhere Hopper's."""
    for name, row in hpo.TABLE.items():
        for env_id in (f"{name}-v4", f"{name}Env-v0", f"mine:{name}-v1"):
            assert hmc.table(env_id) == (f"D10, row {name}", {"leapfrog_state": row["leapfrog_state"]})
    assert hmc.table("Pendulum-v1") == ("D10, row Hopper", {"leapfrog_state": True})
