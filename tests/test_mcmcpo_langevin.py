"""MCMC-PO with Langevin flows: eq. (9) written plainly, masks, the clamp, and K = 0 against TD3 written plainly."""

import math

import mcmcpo_langevin_continuous as langevin
from runtime.seeds import side_by_side

import pytest
import torch
from conftest import CPU, batch_of, noise_of, normals
from test_mcmcpo import agent_of


def flow_of(steps: int, act_dim: int, stir=True) -> langevin.Flow:
    with side_by_side([1], CPU):
        flow = langevin.Flow(steps, act_dim, 16).double()
    for i, parameter in enumerate(flow.parameters()):
        parameter.data += 0.3 * normals(*parameter.shape, seed=i) * stir
    return flow


def pull(x):
    """A gradient that sees all coordinates."""
    return torch.nn.functional.normalize(0.3 - x + 0.1 * x.sum(-1, keepdim=True), dim=-1)


def hidden(network, x):
    """A network of one seed with one hidden ELU layer, plainly."""
    (first, b1), (last, b2) = plain(network[0]), plain(network[2])
    return torch.nn.functional.elu(x @ first.T + b1) @ last.T + b2


def plain(layer, copy=None):
    """Weights (out, in) and biases (out,) of one seed's layer, as PyTorch keeps them."""
    weight, bias = (x[0] if copy is None else x[0, copy] for x in (layer.weight, layer.bias))
    return weight if layer.turned else weight.T, bias[0]


# --------------------------------------------------------------------------------------------- the flow
@pytest.mark.parametrize("act_dim", [1, 2, 3, 6])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_layers_are_equation_9(steps, act_dim):
    """The halves cut out and put together by hand; odd dimensions and d = 1, whose first mask is empty."""
    flow, x, size = flow_of(steps, act_dim), normals(1, 7, act_dim).tanh(), 0.4
    expected = x[0]
    for k, layer in enumerate(flow.layers):
        kept = [i for i in range(act_dim) if (i < act_dim // 2) == (k % 2 == 0)]
        moving = [i for i in range(act_dim) if i not in kept]
        half = torch.zeros_like(expected)
        half[:, kept] = expected[:, kept]
        g, y = pull(expected), expected.clone()
        step = expected + size**2 / 2 * g + size * hidden(layer["sigma"], half).exp()
        y[:, moving] = (step * hidden(layer["scale"], half).exp() + hidden(layer["shift"], half))[:, moving]
        expected = y
    found = flow(x, pull, size)
    assert torch.allclose(found[0], expected, atol=1e-12)
    assert ((found - x).abs().amin((0, 1)) > 1e-6).tolist() == [steps > 1 or i >= act_dim // 2 for i in range(act_dim)]


def test_the_masked_half_is_all_that_networks_see_and_give():
    """No gradient from the moving half into the networks, and none of their other outputs is used (D29)."""
    flow, x = flow_of(1, 5), normals(1, 4, 5)
    flow(x, pull, 0.4).sum().backward()
    for network in flow.layers[0].values():
        for parameter in network.parameters():
            parameter.data = parameter.grad
        (first, _), (last, bias) = plain(network[0]), plain(network[2])
        assert (first[:, 2:] == 0).all() and (first[:, :2] != 0).all()
        assert (last[:2] == 0).all() and (bias[:2] == 0).all() and (bias[2:] != 0).all()


def test_it_starts_near_a_gradient_step():
    """A layer moves by a gradient step, 0.005 long, and by a drift of its own, the same everywhere, a tenth of that."""
    flow, x = flow_of(2, 4, stir=False), normals(1, 9, 4).tanh()
    one = x + torch.tensor([0, 0, 1, 1]) * 0.5 * 0.1**2 * pull(x)
    two = one + torch.tensor([1, 1, 0, 0]) * 0.5 * 0.1**2 * pull(one)
    drift = flow(x, pull, 0.1) - two
    assert torch.allclose(drift, torch.full_like(drift, 0.1 * math.exp(-6)), rtol=0.01)
    assert (drift < 0.1 * 0.5 * 0.1**2).all()


@pytest.mark.slow
def test_gradients_of_the_flow_in_its_input_and_parameters():
    flow, x = flow_of(2, 3), normals(1, 2, 3).tanh().requires_grad_()
    held = [pull(x.detach()), pull(normals(1, 2, 3, seed=4))]

    def run(x, *parameters):
        steps = iter(held)
        return torch.func.functional_call(flow, dict(zip(names, parameters)), (x, lambda _: next(steps), 0.4))

    names = [name for name, _ in flow.named_parameters()]
    assert torch.autograd.gradcheck(run, (x, *flow.parameters()), atol=1e-6)


# -------------------------------------------------------------------------------------------- the agent
def test_it_climbs_q_towards_the_prior_and_twice_alike():
    """g is the normalised gradient of U = min Q/β - ‖a - π_θt‖ by autograd, and a_K is the same each time (D33)."""
    agent = agent_of(langevin, langevin_steps=1)
    agent.pid.beta.data.fill_(0.02)
    obs, seen = normals(1, 8, 5), []
    flow = agent.flow.forward
    agent.flow.forward = lambda x, gradient, size: (seen.append((x, gradient(x))), flow(x, gradient, size))[1]
    first, second = (agent.evolve(agent.flow, agent.critic, obs, agent.policy(obs)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, agent.policy(obs))
    assert seen[0][0].requires_grad and not seen[0][1].requires_grad  # g is held constant (D31)
    x = seen[0][0].detach().requires_grad_()
    value = agent.critic.smaller(obs, x) / 0.02 - (x - agent.prior(obs).detach()).norm(dim=-1)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(seen[0][1], slope / slope.norm(dim=-1, keepdim=True), atol=1e-9)


def test_the_clamp_leaves_a_gradient():
    """Of a coordinate beyond the box Q's gradient is zero and the distance's is not (D32)."""
    agent = agent_of(langevin, langevin_steps=2)
    obs, shift = normals(1, 8, 5), agent.flow.layers[1]["shift"][2].bias  # T
    agent.policy.mean.bias.data[:] = torch.tensor([5.0, 0.0, 0.0])
    shift.data[:] = torch.tensor([0.5, 0.0, 0.0])
    for beta in (1e-3, 2.0):
        agent.pid.beta.data.fill_(beta)
        loss, seen = agent.policy_loss(obs)
        (gradient,) = torch.autograd.grad(loss.sum(), shift)
        end = agent.evolve(agent.flow, agent.critic, obs, agent.policy(obs))
        assert seen["charts/clamped_fraction"].item() >= 1 / 3 and (end[..., 0] > 1).all()
        direction = torch.nn.functional.normalize(end - agent.prior(obs), dim=-1)
        assert gradient[0, 0, 0].item() == pytest.approx(beta * direction[..., 0].mean().item(), rel=1e-9)


def test_where_the_prior_is_the_action_nothing_is_nan():
    agent = agent_of(langevin, langevin_steps=2)
    agent.prior.load_state_dict(agent.policy.state_dict())
    for optimizer in (agent.policy_optimizer, agent.flow_optimizer):
        seen, gradients = optimizer.with_gradients(agent.policy_loss)(normals(1, 8, 5))
        assert seen["losses/actor_loss"].isfinite().all() and all(g.isfinite().all() for g in gradients)


def test_theta_and_h_step_by_turns(monkeypatch):
    agent, batch, noise = agent_of(langevin), batch_of(1, 8, 5), noise_of(1, 8, 3)
    parts = {"policy": agent.policy, "flow": agent.flow}
    steps, old = [], {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}

    def changed():
        return {n for n, part in parts.items() if any(not torch.equal(p, q) for p, q in zip(part.parameters(), old[n]))}

    apply = langevin.Adam.apply
    monkeypatch.setattr(langevin.Adam, "apply", lambda self, g: (apply(self, g), steps.append(changed()))[0])
    agent.update(batch, noise, False)
    assert steps == [set()]
    agent.update(batch, noise, True)
    assert steps[1:] == [set(), {"policy"}, {"policy", "flow"}]


# --------------------------------------------------------------------------------------------- K = 0
class PlainTD3:
    """TD3 as its authors describe it, with torch.nn and torch.optim, from an agent's weights; one seed."""

    def __init__(self, agent):
        def network(module, copy=None):
            parts = []
            for layer in module.children():
                weight, bias = (x.detach().clone() for x in plain(layer, copy))
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0]).double()
                linear.weight.data, linear.bias.data = weight.contiguous(), bias
                parts += [linear, torch.nn.ReLU()]
            return torch.nn.Sequential(*parts[:-1])

        self.q = torch.nn.ModuleList(network(agent.critic, k) for k in range(2))
        self.q_target = torch.nn.ModuleList(network(agent.target, k) for k in range(2))
        self.policy, self.policy_target = network(agent.policy), network(agent.target_policy)
        self.q_adam = torch.optim.Adam(self.q.parameters(), lr=3e-4)
        self.policy_adam = torch.optim.Adam(self.policy.parameters(), lr=3e-4)

    def update(self, obs, actions, rewards, next_obs, ended, noise, policy):
        with torch.no_grad():
            smooth = (0.2 * noise).clamp(-0.5, 0.5)
            both = torch.cat([next_obs, (self.policy_target(next_obs).tanh() + smooth).clamp(-1, 1)], -1)
            y = rewards + 0.99 * (1 - ended) * torch.minimum(*(net(both)[:, 0] for net in self.q_target))
        both = torch.cat([obs, actions], -1)
        self.q_adam.zero_grad()
        sum(torch.nn.functional.mse_loss(net(both)[:, 0], y) for net in self.q).backward()
        self.q_adam.step()
        if policy:
            self.policy_adam.zero_grad()
            (-self.q[0](torch.cat([obs, self.policy(obs).tanh()], -1)).mean()).backward()
            self.policy_adam.step()
            for slow, fast in ((self.q_target, self.q), (self.policy_target, self.policy)):
                for left, right in zip(slow.parameters(), fast.parameters()):
                    left.data += 0.005 * (right.data - left.data)


def test_without_steps_it_is_td3():
    """Six updates in float64, of which the policy takes every second one."""
    agent = agent_of(langevin, langevin_steps=0)
    td3, start = PlainTD3(agent), agent_of(langevin, langevin_steps=0)
    for i in range(6):
        batch, noise = batch_of(1, 32, 5, seed=7 * i), noise_of(1, 32, 3, seed=i)
        noise = noise._replace(next_action=3 * noise.next_action)  # so that the clip acts
        agent.update(batch, noise, i % 2 == 0)
        td3.update(*(x[0] for x in batch), noise.next_action[0], i % 2 == 0)
    now = PlainTD3(agent)
    for name in ("q", "q_target", "policy", "policy_target"):
        for ours, theirs in zip(getattr(now, name).parameters(), getattr(td3, name).parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-9), name
    assert (agent.policy.mean.weight - start.policy.mean.weight).abs().max() > 1e-4
    obs, noise = normals(1, 1, 5), noise_of(1, 1, 3)
    played = (td3.policy(obs).tanh() + 0.1 * noise.action).clamp(-1, 1)
    assert torch.allclose(agent.act(obs, noise), played, atol=1e-9)
    assert list(agent.policies()) == ["base"]
