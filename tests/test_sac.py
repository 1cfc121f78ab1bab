"""The SAC part of both scripts: densities, losses, temperature, targets, seeds, replay."""

import functools
import math

import sac_continuous as sac
import sac_hpo_continuous as hpo
from runtime.seeds import Linear
from runtime.streams import BLOCK, Draws

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from conftest import CPU, SCRIPTS, agent_of, batch_of, built, floats, mapped, noise_of, normals
from hypothesis import given, settings
from hypothesis import strategies as st


def draws_of(agent, seeds):
    return Draws(seeds, *agent.noise_shapes(), agent.args.batch_size, CPU)


def mlp(x, *layers):
    """A plain two-dimensional multi-layer perceptron: ReLU between the (weight, bias) pairs."""
    for i, (weight, bias) in enumerate(layers):
        x = (x.relu() if i else x) @ weight + bias
    return x


def plain(layer, *which):
    """(weight, bias), (in, out) and (1, out), of one seed's layer, or of one of its two."""
    weight = layer.weight.mT if layer.turned else layer.weight
    return weight[which], layer.bias[which]


def plain_critic(critic, seed, i, obs, actions):
    """Q_i of one seed from its own weights alone, (B,)."""
    layers = (plain(layer, seed, i) for layer in (critic.fc1, critic.fc2, critic.q))
    return mlp(torch.cat([obs, actions], dim=-1), *layers)[:, 0]


def plain_policy(policy, seed, obs):
    """The distribution of one seed's actions, built by torch.distributions."""
    hidden = [plain(layer, seed) for layer in (policy.fc1, policy.fc2) if layer]
    mean, log_std = (mlp(obs, *hidden, plain(layer, seed)) for layer in (policy.mean, policy.log_std))
    log_std = log_std.clamp(-20, 2)
    squash = torch.distributions.transforms.TanhTransform(cache_size=1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    return (
        mean,
        log_std,
        torch.distributions.Independent(torch.distributions.TransformedDistribution(normal, squash), 1),
    )


def test_log_probability(script):
    """Against torch.distributions, at moderate actions and far into the tails, where tanh saturates."""
    agent, obs = agent_of(script, num_seeds=2), normals(2, 40, 11)
    for scale, tolerance in ((1.0, 1e-10), (3.0, 1e-6)):
        noise = scale * normals(2, 40, 3, seed=1)
        actions, log_prob = script.squash(*agent.policy.sample(obs, noise))
        for seed in range(2):
            mean, log_std, distribution = plain_policy(agent.policy, seed, obs[seed])
            u = mean + log_std.exp() * noise[seed]
            assert torch.allclose(actions[seed], u.tanh())
            assert torch.allclose(distribution.log_prob(u.tanh()), log_prob[seed], atol=tolerance)
    agent.policy.mean.bias.data[:] = 40.0  # tanh rounds to 1, its log-density must not
    _, log_prob = script.squash(*agent.policy.sample(obs, normals(2, 40, 3)))
    assert torch.isfinite(log_prob).all()


def test_log_std_range(script):
    """D12: the log standard deviation lies in [-20, 2] and reaches both ends."""
    agent, obs = agent_of(script), normals(1, 4, 11)
    agent.policy.log_std.weight.data.zero_()
    for bias, end in ((-50.0, -20.0), (-4.0, -4.0), (50.0, 2.0)):
        agent.policy.log_std.bias.data[:] = bias
        assert torch.allclose(agent.policy(obs)[1], torch.full((1, 4, 3), end).double())


@pytest.mark.parametrize("layers", [1, 2])
def test_sac_losses(layers):
    """Critic, policy and temperature losses against a re-computation seed by seed with plain matrices."""
    agent = agent_of(sac, num_seeds=2, policy_layers=layers, autotune=True, alpha=0.3)
    batch, noise = batch_of(2, 32), noise_of(2, 32, 3, seed=6)
    obs, actions, rewards, next_obs, terminated = batch
    total, seen = agent.critic_loss(batch, noise)
    q_loss, q_values = (torch.stack([seen[f"losses/qf{i}_{what}"] for i in (1, 2)], -1) for what in ("loss", "values"))
    loss, seen = agent.policy_loss(obs, noise)
    assert torch.equal(total, q_loss.sum(-1)) and torch.equal(loss, seen["losses/actor_loss"])
    for s in range(2):
        mean, log_std, distribution = plain_policy(agent.policy, s, next_obs[s])
        a = (mean + log_std.exp() * noise.next_action[s]).tanh()
        q1, q2 = (plain_critic(agent.target, s, i, next_obs[s], a) for i in range(2))
        y = rewards[s] + 0.99 * (1 - terminated[s]) * (torch.minimum(q1, q2) - 0.3 * distribution.log_prob(a))
        for i in range(2):
            q = plain_critic(agent.critic, s, i, obs[s], actions[s])
            assert q_loss[s, i].item() == pytest.approx(F.mse_loss(q, y).item(), rel=1e-9)
            assert q_values[s, i].item() == pytest.approx(q.mean().item())
        mean, log_std, distribution = plain_policy(agent.policy, s, obs[s])
        a = (mean + log_std.exp() * noise.action[s]).tanh()
        q1, q2 = (plain_critic(agent.critic, s, i, obs[s], a) for i in range(2))
        expected = (0.3 * distribution.log_prob(a) - torch.minimum(q1, q2)).mean()
        assert loss[s].item() == pytest.approx(expected.item(), rel=1e-9)
        assert torch.allclose(seen["log_prob"][s], distribution.log_prob(a))


def adam_step(old, gradient, lr):
    """Adam's first step: the learning rate against the gradient's sign, but for its epsilon."""
    return old - lr * gradient / (gradient.abs() + 1e-8)


def test_update_is_adam_on_each_loss(script):
    """Critics first, then the policy on the new critics, the temperature, and the targets last."""
    agent = agent_of(script, num_seeds=2, autotune=True, q_lr=1e-3, policy_lr=2e-4)
    batch, noise = batch_of(2, 32), noise_of(2, 32, 3, seed=6)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    q_loss, _ = agent.critic_loss(batch, noise)
    q_gradients = torch.autograd.grad(q_loss.sum(), list(agent.critic.parameters()))
    metrics = agent.metrics(agent.update(batch, noise))
    for (name, new), gradient in zip(agent.critic.named_parameters(), q_gradients):
        assert new.grad is None  # the policy's loss left nothing here
        assert torch.allclose(new, adam_step(before[f"critic.{name}"], gradient, 1e-3), rtol=1e-6, atol=1e-10)
        old = before[f"target.{name}"]
        assert torch.allclose(agent.target.get_parameter(name), old + 0.005 * (new - old))

    again = agent_of(script, num_seeds=2)  # the old policy beside the new critics
    old = {name: value for name, value in before.items() if not name.startswith("critic")}
    again.load_state_dict(old | {f"critic.{name}": value for name, value in agent.critic.state_dict().items()})
    loss, seen = again.policy_loss(batch.obs, noise)
    names = [name for name, _ in agent.named_parameters() if name.startswith(("policy", "force"))]
    gradients = torch.autograd.grad(loss.sum(), [again.get_parameter(name) for name in names])
    assert torch.allclose(loss, metrics["losses/actor_loss"]) and len(names) == (8 if script is sac else 16)
    for name, gradient in zip(names, gradients):
        assert gradient.abs().max() > 0
        expected = adam_step(before[name], gradient, 2e-4)
        assert torch.allclose(agent.get_parameter(name), expected, rtol=1e-6, atol=1e-9), name

    entropy_gap = seen["log_prob"].mean(-1) - 3  # E[log π] minus the target -H̄ = d
    assert torch.allclose(metrics["losses/alpha_loss"], -0.2 * entropy_gap)
    assert torch.allclose(agent.log_alpha.data[:, 0] - math.log(0.2), 1e-3 * torch.sign(entropy_gap), rtol=1e-3)


def test_fixed_temperature_stays(script):
    agent = agent_of(script)
    agent.update(batch_of(1, 8), noise_of(1, 8, 3))
    assert agent.log_alpha.item() == math.log(0.2)


def test_seeds_have_no_gradient_in_each_other(member):
    """The loss of one seed has zero gradient in every other seed's parameters, and some in its own."""
    agent = agent_of(member, num_seeds=3, autotune=True)
    for i, parameter in enumerate(agent.policy.parameters()):  # away from the identity, where flows have no gradient
        parameter.data += 0.1 * normals(*parameter.shape, seed=i)
    batch, noise = batch_of(3, 16), noise_of(3, 16, 3, seed=6)
    q_loss, _ = agent.critic_loss(batch, noise)
    policy_loss, _ = agent.policy_loss(batch.obs, noise)
    for losses, parameters in (
        (q_loss, list(agent.critic.parameters())),
        (policy_loss, agent.policy_optimizer.trained),
    ):
        for seed in range(3):
            gradients = torch.autograd.grad(losses[seed], parameters, retain_graph=True)
            for gradient in gradients:
                others = [s for s in range(3) if s != seed]
                assert gradient[seed].abs().sum() > 0 and (gradient[others] == 0).all()


def test_a_seed_learns_the_same_in_any_company(member):
    """Seed 2 of seeds 1 to 3, updated together, equals seed 2 alone: weights, draws and updates."""
    many, alone = (agent_of(member, double=False, batch_size=32, seed=s, num_seeds=n) for s, n in ((1, 3), (2, 1)))
    draws = [draws_of(agent, seeds) for agent, seeds in ((many, range(1, 4)), (alone, range(2, 3)))]
    batch = floats(batch_of(3, 32))
    for i in range(3):
        (acting, ((_, noise),)), (acting1, ((_, noise1),)) = draws[0].step(i), draws[1].step(i)
        many.update(batch, noise)
        alone.update(mapped(lambda x: x[1:2], batch), noise1)
    obs = batch.obs[:, :1]
    assert torch.allclose(many.act(obs, acting)[1:2], alone.act(obs[1:2], acting1), atol=1e-6)
    for (name, left), right in zip(many.named_parameters(), alone.parameters()):
        assert torch.allclose(left[1:2], right, rtol=1e-5, atol=1e-6), name
        alike = name.endswith(("log_alpha", "radius", "total"))  # which begin alike
        assert alike or not torch.allclose(left[0], left[1]), name


@pytest.mark.parametrize("space", ["action", "pre-tanh"])
@pytest.mark.parametrize("autotune", [False, True])
def test_no_leapfrog_steps_is_sac_to_the_bit(autotune, space):
    """K = 0 with SAC's policy layers: the same weights, actions and losses from the same draws.

    The clamp of action space hands a gradient on in another layout, which is summed in another order: to 1e-10."""
    double = space == "action"
    flags = {"double": double, "num_seeds": 2, "autotune": autotune, "batch_size": 64}
    same = functools.partial(torch.allclose, rtol=0, atol=1e-10) if double else torch.equal
    left, right = agent_of(sac, **flags), agent_of(hpo, leapfrog_steps=0, leapfrog_space=space, **flags)
    draws = draws_of(left, range(1, 3)), draws_of(right, range(1, 3))
    for i in range(5):
        batch, obs = batch_of(2, 64, seed=10 * i), normals(2, 1, 11, seed=i)
        numbers = [(acting, noise) for acting, ((_, noise),) in (d.step(i) for d in draws)]
        if double:
            numbers = [[mapped(torch.Tensor.double, noise) for noise in pair] for pair in numbers]
        else:
            batch, obs = floats(batch), obs.float()
        (acting, noise), (acting1, noise1) = numbers
        a, b = left.update(batch, noise), right.update(batch, noise1)
        assert all(same(a[name], b[name]) for name in a)
        assert same(left.act(obs, acting), right.act(obs, acting1))
        assert same(left.policies()["base"](obs), right.policies()["leapfrog"](obs))
    theirs = right.state_dict()
    assert all(same(value, theirs[name]) for name, value in left.state_dict().items())


def layers_of(agent):
    """(name, weight (out, in), bias (out,)) of every layer of a one-seed agent, each of the twins' by itself."""
    for name, layer in agent.named_modules():
        if isinstance(layer, Linear) and not name.startswith("target"):
            weight = (layer.weight if layer.turned else layer.weight.mT)[0]
            weights, biases = (weight, layer.bias[0]) if weight.dim() > 2 else (weight[None], layer.bias)
            yield from ((name, w, b[0]) for w, b in zip(weights, biases))


def test_initial_weights(member):
    """The script's `start` draws every layer: a layer's weights are those of one uniform stream on ±√(6 / (in + out)),
    by Kolmogorov and Smirnov, and uncorrelated between layers; biases are zero; targets begin as the critics."""
    agent, drawn = agent_of(member, obs_dim=40, act_dim=10, double=False), []
    for name, weight, bias in layers_of(agent):
        bound, values = math.sqrt(6 / sum(weight.shape)), weight.flatten().detach()
        assert values.abs().max() <= bound and values.unique().numel() > 0.95 * values.numel(), name
        assert not bias.any(), name
        assert scipy.stats.kstest(values.numpy() / bound, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-4, name
        assert abs(values.std().item() / bound - 1 / math.sqrt(3)) < 4 * math.sqrt(1 / 15 / values.numel()), name
        drawn.append(weight.flatten()[:256])
    count = 10 + 4 * hasattr(agent, "force")  # twins of three layers, the policy's four, and two each of T_h and σ_h
    assert len(drawn) == count and torch.corrcoef(torch.stack(drawn)).fill_diagonal_(0).abs().max() < 0.25
    assert all(torch.equal(p, q) for p, q in zip(agent.critic.parameters(), agent.target.parameters()))


def test_start_decides_the_initial_weights(member, monkeypatch):
    """Whatever `start` sets is what every layer begins with, weights as (out, in), and each seed has its own stream."""
    seen = []

    def marked(weight, bias, stream):
        seen.append((tuple(weight.shape), stream.initial_seed()))
        weight[:] = torch.arange(weight.numel()).view_as(weight)
        bias.fill_(stream.initial_seed())

    monkeypatch.setattr(member, "start", marked)
    agent = agent_of(member, double=False, seed=4, num_seeds=2)
    assert {seed for _, seed in seen} == {4, 5} and seen.count(((256, 14), 4)) == 2 and ((3, 256), 5) in seen
    for _, weight, bias in layers_of(agent):
        assert torch.equal(weight, torch.arange(weight.numel()).float().view_as(weight)) and (bias == 4).all()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@settings(max_examples=30, deadline=None)
@given(capacity=st.integers(1, 12), added=st.integers(1, 30), seeds=st.integers(1, 3), draw=st.integers(0, 10**6))
def test_replay(script, capacity, added, seeds, draw):
    """Only the newest `capacity` rows are drawn, each whole and of its own seed, and every one can be."""
    args = script.Args(cuda=False, num_seeds=seeds, buffer_size=capacity)
    replay = built(args, script.Replay, 2, 1)
    replay.rows.fill_(math.nan)
    for i in range(added):
        mark = 100 * np.arange(seeds)[:, None] + i
        replay.add(mark + [[0.1, 0.2]], mark + 0.3, mark[:, 0] + 0.4, mark + [[0.5, 0.6]], np.full(seeds, i % 2 == 0))
    uniform = torch.rand(seeds, 400, generator=torch.Generator().manual_seed(draw), dtype=torch.double)
    uniform[:, 0], uniform[:, 1] = 0.0, 1 - 2**-53
    obs, actions, rewards, next_obs, terminated = replay.sample(uniform)
    i = (rewards - 0.4).round() - 100 * torch.arange(seeds)[:, None]
    assert set(i.flatten().int().tolist()) <= set(range(max(0, added - capacity), added))
    assert len(set(i[0].int().tolist())) == min(added, capacity)
    row = torch.cat([obs, actions, rewards[..., None], next_obs], dim=-1)
    mark = (i + 100 * torch.arange(seeds)[:, None])[..., None]
    assert torch.allclose(row, mark + torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), atol=1e-4)
    assert torch.equal(terminated, (i % 2 == 0).float())


def test_draws():
    """Each seed has a stream of its own, unlike the one that made its weights, in which a step has its place; uniforms
    lie in [0, 1)."""
    shapes = {"action": (1, 3), "momentum": (1, 3)}, {"action": (50, 3), "momentum": (50, 3), "mask": (7,)}
    draws, again = (Draws(seeds, *shapes, 40, CPU, 2) for seeds in (range(3, 6), range(4, 5)))

    def step(draws, i):
        """Every array of a step of two updates, the uniform ones last, and their names."""
        acting, ((uniform, updating), (uniform_2, updating_2)) = draws.step(7 + i)
        assert acting._fields + updating._fields == (*shapes[0], *shapes[1]) and updating_2._fields == updating._fields
        return [x.clone() for x in (*acting, *updating, *updating_2, torch.cat([uniform, uniform_2], 1))]

    steps, theirs = ([step(d, i) for i in range(BLOCK + 5)] for d in (draws, again))
    assert [x.shape for x in steps[0]] == [(3, 1, 3)] * 2 + ([(3, 50, 3)] * 2 + [(3, 7)]) * 2 + [(3, 80)]
    for left, right in zip(steps, theirs):
        assert all(torch.equal(x[1:2], y) for x, y in zip(left, right))
    for i in (BLOCK + 4, 0, 3):  # back and forth, as after a resume
        assert all(torch.equal(x, y) for x, y in zip(steps[i], step(draws, i)))
    *normal, uniform = (torch.cat([x.flatten(1) for x in parts], 1) for parts in zip(*steps))
    normal = torch.cat(normal, 1)
    assert (
        normal.mean().abs() < 0.05 and abs(normal.std() - 1) < 0.05 and normal.unique().numel() > 0.99 * normal.numel()
    )
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1 and uniform.dtype == torch.double
    assert torch.corrcoef(normal).fill_diagonal_(0).abs().max() < 0.1
    weights = torch.randn(normal.shape[1], generator=torch.Generator().manual_seed(4))
    assert abs(np.corrcoef(weights, normal[1])[0, 1]) < 0.1
