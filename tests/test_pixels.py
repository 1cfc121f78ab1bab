"""SAC-AE-HPO from pixels: networks, losses, replay, environments; K = 0 against SAC-AE written with torch.nn."""

import copy
import math
import operator
import os
import subprocess
import sys
from unittest import mock

import sac_hpo_continuous as hpo
import sac_hpo_pixels as px
from analysis import play
from runtime import frames as runtime_frames
from runtime.convolutions import Conv2d, ConvTranspose2d
from runtime.pixels import PixelEnv
from runtime.run import launch
from runtime.seeds import Adam, Linear, side_by_side

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import built, floats, mapped, newest, noise_of, normals
from hypothesis import given, settings
from hypothesis import strategies as st
from test_family import definitions, outside, told


@pytest.fixture(autouse=True)
def narrow_heads(monkeypatch):
    """Of 64 units: first weights of 1,024 are orthogonal by a decomposition that takes longer than most tests."""
    monkeypatch.setattr(px, "HIDDEN", 64)


def agent_of(double=True, act_dim=2, **values) -> px.Agent:
    torch.set_default_dtype(torch.double if double else torch.float)
    try:
        return built(px.Args(cuda=False, **{"batch_size": 4} | values), px.Agent, 9, act_dim)
    finally:
        torch.set_default_dtype(torch.float)


def frames_of(*shape: int, seed=0) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 9, 84, 84), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def batch_of(seeds: int, size: int, act_dim=2, seed=0, dtype=torch.double) -> px.Batch:
    ended = (normals(seeds, size, seed=seed + 3) > 1).to(dtype)
    obs, next_obs = (frames_of(seeds, size, seed=seed + i) for i in (0, 2))
    actions, rewards = normals(seeds, size, act_dim, seed=seed).tanh(), normals(seeds, size, seed=seed + 1)
    return px.Batch(obs, actions.to(dtype), rewards.to(dtype), next_obs, ended)


def uniform_of(seeds: int, size: int, seed=0) -> torch.Tensor:
    return torch.rand(seeds, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# ------------------------------------------------------------------------------------------------------------ networks
def test_shapes_and_counts(monkeypatch):
    """By hand: 3 × 3 filters, 84 -> 41 -> 39 -> 37 -> 35, latents of 50, heads of 1,024."""
    monkeypatch.setattr(px, "HIDDEN", 1024)
    agent, d = agent_of(act_dim=6, double=False), 6
    features = agent.encoder.features(frames_of(1, 2))
    assert features.shape == (1, 2, 32 * 35 * 35)
    latent = agent.encoder.projection(features)
    assert latent.shape == (1, 2, 50) and agent.decoder(latent).shape == (1, 2, 9, 84, 84)
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in agent.named_children()}
    projection = 39_200 * 50 + 50 + 2 * 50
    assert count["encoder"] == projection + 9 * 32 * 9 + 32 + 3 * (32 * 32 * 9 + 32)
    assert count["critic"] == 2 * ((50 + d) * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 + 1)
    assert count["policy"] == projection + 50 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 2 * d + 2 * d
    assert count["decoder"] == 50 * 39_200 + 39_200 + 3 * (32 * 32 * 9 + 32) + 32 * 9 * 9 + 9
    assert count["force"] == 2 * (2 * d * 32 + 32 + 32 * d + d)  # without the latent (D17)


@pytest.mark.slow
def test_weights_are_orthogonal_and_seeds_their_own():
    agent, seen = agent_of(num_seeds=2), 0
    for layer in (layer for layer in agent.modules() if isinstance(layer, Linear | Conv2d)):
        weight, seen = layer.like_pytorch()[0].data, seen + 1
        assert not layer.bias.data.any()
        if isinstance(layer, Linear):
            for matrix in weight.flatten(0, -3):
                product = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
                assert torch.allclose(product, torch.eye(len(product)).double(), atol=1e-5)
        else:
            assert weight.count_nonzero() == weight[..., 1, 1].count_nonzero() > 0
            assert torch.linalg.svdvals(weight[..., 1, 1]).sub(math.sqrt(2)).abs().max() < 1e-5
    assert seen == 2 * (5 + 3) + 4 + 5 + 4  # encoder and critic with their targets, policy, decoder, force
    alone, both = agent_of(seed=2), dict(agent.named_parameters())
    assert all(torch.equal(both[name][1:], weights) for name, weights in alone.named_parameters())
    assert torch.equal(agent.dither[1:], alone.dither) and not torch.equal(agent.dither[:1], alone.dither)


def test_leapfrog_and_the_rest_are_the_state_scripts():
    """What the docstring's last paragraph does not name is sac_hpo_continuous.py's, to the letter."""
    (base, names), left, right = told(px), definitions(hpo), definitions(px)

    def apart(found):  # names that are assigned together
        return {name for names in found for name in names.split(", ")}

    assert base is hpo
    assert apart(name for name in left.keys() & right.keys() if left[name] != right[name]) == names["changes"]
    assert outside(apart(right.keys() - left.keys()), names["adds"]) == names["adds"]
    assert apart(left.keys() - right.keys()) == names["lacks"]
    same = {name for name in left.keys() & right.keys() if left[name] == right[name]}
    assert {"leapfrog", "momentum_stds", "squash", "Force", "Force.__init__", "Force.forward", "FORMER"} <= same
    assert {"Critic.forward", "Policy.sample", "action_gradient", "Agent.evolve", "Agent.noise_shapes"} <= same


# -------------------------------------------------------------------------------------------------------------- losses
@pytest.mark.slow
def test_which_gradient_reaches_what():
    agent, batch, noise = agent_of(leapfrog_steps=2), batch_of(1, 4), noise_of(1, 4, 2)
    losses = {"critic": lambda: agent.critic_loss(batch, noise)[0],
              "policy": lambda: agent.policy_loss(batch.obs, noise)[0],
              "decoder": lambda: agent.decoder_loss(batch.obs, uniform_of(1, 4))[0]}  # fmt: skip
    own = [p for name, p in agent.policy.named_parameters() if "projection" not in name]
    parts = {"convolutions": agent.encoder.convolutions.parameters(), "critics": agent.critic.parameters(),
             "critics' projection": agent.encoder.projection.parameters(), "policy": own,
             "policy's projection": agent.policy.projection.parameters(), "force": agent.force.parameters(),
             "decoder": agent.decoder.parameters()}  # fmt: skip
    parts = {name: list(parameters) for name, parameters in parts.items()}
    expected = {"critic": {"convolutions", "critics' projection", "critics"},
                "policy": {"policy", "policy's projection", "force"},
                "decoder": {"convolutions", "critics' projection", "decoder"}}  # fmt: skip
    for loss, function in losses.items():
        for name, parameters in parts.items():
            found = torch.autograd.grad(function().sum(), parameters, allow_unused=True)
            reached = any(g is not None and g.abs().max() > 0 for g in found)
            seen = expected[loss] | ({"critics"} if loss == "policy" else set())  # whose gradient goes on to the action
            assert reached == (name in seen), (loss, name)
    for loss, optimizer in zip(losses, (agent.q_optimizer, agent.policy_optimizer, agent.decoder_optimizer)):
        assert {id(p) for p in optimizer.trained} == {id(p) for name in expected[loss] for p in parts[name]}, loss


def test_five_bits_of_all_values():
    agent = agent_of()
    values = torch.arange(256).repeat(249)[: 9 * 84 * 84].view(1, 1, 9, 84, 84).double()
    out = agent.five_bits(values, uniform_of(1, 1))
    low = torch.tensor([(v // 8) / 32 - 0.5 for v in range(256)]).double()[values.long()]
    above = (out - low) * 32
    assert (above >= 0).all() and (above < 1).all()
    assert abs(above.mean() - 0.5) < 0.01 and abs(above.std() - 1 / math.sqrt(12)) < 0.01
    other = agent.five_bits(values, uniform_of(1, 1, seed=5))
    assert abs(torch.corrcoef(torch.stack([(other - low).flatten(), (out - low).flatten()]))[0, 1]) < 0.02


def copied(layer, ours, *place: int):
    """A layer of torch.nn with the weights of the only seed's, or of a copy of it."""
    for theirs, mine in zip((layer.weight, layer.bias), ours.like_pytorch()):
        theirs.data = mine.detach()[(0, *place)].clone()
    return layer


def plain_convolutions(ours) -> torch.nn.ModuleList:
    plain = torch.nn.Conv2d(9, 32, 3, stride=2), *(torch.nn.Conv2d(32, 32, 3) for _ in range(3))
    return torch.nn.ModuleList(map(copied, plain, ours[::2]))


def plain_linear(ours, *place: int) -> torch.nn.Linear:
    n_out, n_in = ours.like_pytorch()[0].shape[-2:]
    return copied(torch.nn.Linear(n_in, n_out), ours, *place)


def plain_projection(ours) -> torch.nn.Sequential:
    norm = torch.nn.LayerNorm(50)
    norm.weight.data, norm.bias.data = (x.detach().flatten().clone() for x in ours[1].parameters())
    return torch.nn.Sequential(plain_linear(ours[0]), norm, torch.nn.Tanh())


def plain_head(layers, *place: int) -> torch.nn.Sequential:
    first, second, last = (plain_linear(layer, *place) for layer in layers)
    return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), last)


def plain_critics(ours) -> torch.nn.ModuleList:
    return torch.nn.ModuleList(plain_head((ours.fc1, ours.fc2, ours.q), k) for k in range(2))


NETWORKS = "convs", "project", "q", "actor", "actor_project", "decoder_in", "decoder"


class PlainSACAE:
    """SAC-AE as its authors describe it, with torch.nn and torch.optim, from an agent's weights."""

    def __init__(self, agent: px.Agent):
        self.args, self.act_dim = agent.args, agent.act_dim
        self.convs, self.project = (
            plain_convolutions(agent.encoder.convolutions),
            plain_projection(agent.encoder.projection),
        )
        self.q, self.actor_project = plain_critics(agent.critic), plain_projection(agent.policy.projection)
        self.actor = plain_head((agent.policy.fc1, agent.policy.fc2, agent.policy.out))
        up = *(torch.nn.ConvTranspose2d(32, 32, 3) for _ in range(3)), torch.nn.ConvTranspose2d(32, 9, 3, 2, 0, 1)
        self.decoder = torch.nn.ModuleList(map(copied, up, agent.decoder.convolutions[::2]))
        self.decoder_in = plain_linear(agent.decoder.fc)
        self.targets = copy.deepcopy([self.convs, self.project, self.q])
        self.log_alpha = torch.tensor(math.log(self.args.alpha), dtype=torch.double).requires_grad_()
        encoder = [*self.convs.parameters(), *self.project.parameters()]
        adam = torch.optim.Adam
        self.q_adam = adam([*encoder, *self.q.parameters()], lr=1e-3)
        self.actor_adam = adam([*self.actor.parameters(), *self.actor_project.parameters()], lr=1e-3)
        self.encoder_adam = adam(encoder, lr=1e-3)
        self.decoder_adam = adam(
            [*self.decoder_in.parameters(), *self.decoder.parameters()], lr=1e-3, weight_decay=1e-7
        )
        self.alpha_adam = adam([self.log_alpha], lr=1e-4, betas=(0.5, 0.999))

    @staticmethod
    def features(convs, frames):
        x = frames / 255
        for conv in convs:
            x = F.relu(conv(x))
        return x.permute(0, 2, 3, 1).flatten(1)  # our order of the features, pixel by pixel

    def act(self, features, noise):
        mean, log_std = self.actor(self.actor_project(features)).chunk(2, -1)
        log_std = -10 + 6 * (log_std.tanh() + 1)
        u = mean + log_std.exp() * noise
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1)
        return u.tanh(), log_prob - (1 - u.tanh() ** 2).log().sum(-1)

    def step(self, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def update(self, frames, actions, rewards, next_frames, ended, noise, target_frames, policy):
        convs, project, q = self.targets
        with torch.no_grad():
            a, log_prob = self.act(self.features(self.convs, next_frames), noise[0])
            both = torch.cat([project(self.features(convs, next_frames)), a], -1)
            value = torch.minimum(q[0](both), q[1](both))[:, 0] - self.log_alpha.exp() * log_prob
            y = rewards + 0.99 * (1 - ended) * value
        both = torch.cat([self.project(self.features(self.convs, frames)), actions], -1)
        self.step(self.q_adam, sum(F.mse_loss(net(both)[:, 0], y) for net in self.q))
        if policy:
            with torch.no_grad():
                features = self.features(self.convs, frames)
                latent = self.project(features)
            a, log_prob = self.act(features, noise[1])
            both = torch.cat([latent, a], -1)
            value = torch.minimum(self.q[0](both), self.q[1](both))[:, 0]
            self.step(self.actor_adam, (self.log_alpha.exp().detach() * log_prob - value).mean())
            self.step(self.alpha_adam, (self.log_alpha.exp() * (-log_prob.detach() + self.act_dim)).mean())
            with torch.no_grad():
                for old, new, tau in zip(self.targets, (self.convs, self.project, self.q), (0.05, 0.05, 0.01)):
                    for left, right in zip(old.parameters(), new.parameters()):
                        left += tau * (right - left)
        latent = self.project(self.features(self.convs, frames))
        x = F.relu(self.decoder_in(latent)).view(-1, 35, 35, 32).permute(0, 3, 1, 2)
        for i, conv in enumerate(self.decoder):
            x = conv(F.relu(x) if i else x)
        loss = F.mse_loss(x, target_frames) + 1e-6 * (latent.pow(2).sum(1) / 2).mean()
        for optimizer in (self.encoder_adam, self.decoder_adam):
            optimizer.zero_grad()
        loss.backward()
        self.encoder_adam.step(), self.decoder_adam.step()


@pytest.mark.slow
def test_without_steps_it_is_sac_ae():
    """Five updates in float64, of which the policy takes every second one, against the plain algorithm."""
    agent = agent_of(leapfrog_steps=0)
    plain, start = PlainSACAE(agent), PlainSACAE(agent)
    for i in range(5):
        batch, noise, uniform = batch_of(1, 4, seed=10 * i), noise_of(1, 4, 2, seed=i), uniform_of(1, 4, seed=i)
        agent.update(batch, noise, uniform, i % 2 == 0)
        both = noise.next_action[0], noise.action[0]
        plain.update(*(x[0].double() for x in batch), both, agent.five_bits(batch.obs, uniform)[0], i % 2 == 0)
    ours, target = PlainSACAE(agent), agent.target_encoder
    ours.targets = plain_convolutions(target.convolutions), plain_projection(target.projection)
    ours.targets = *ours.targets, plain_critics(agent.target)
    assert agent.log_alpha.item() == pytest.approx(plain.log_alpha.item(), abs=1e-12) != math.log(0.1)
    for get in (*map(operator.attrgetter, NETWORKS), *(lambda x, k=k: x.targets[k] for k in range(3))):
        for mine, theirs, first in zip(*(get(x).parameters() for x in (ours, plain, start))):
            assert (mine - first).abs().max() > 1e-7 and torch.allclose(mine, theirs, rtol=0, atol=1e-9)


def test_where_its_density_is_not_its_authors():
    """D19's numbers: their log π takes log(relu(1 - a²) + 1e-6) for the tanh's slope."""
    u = torch.tensor([5.0, 9.0]).double().requires_grad_()
    ours = px.squash(u[:, None], torch.zeros(2).double())[1]
    theirs = -(torch.relu(1 - u.tanh() ** 2) + 1e-6).log()
    near, far = (ours - theirs).tolist()
    assert near < 0.01 and far == pytest.approx(2.86, abs=0.01)
    for log_prob, slope in ((ours, 2.0), (theirs, 0.115)):
        assert torch.autograd.grad(log_prob.sum(), u)[0][1].item() == pytest.approx(slope, abs=1e-3)


@pytest.mark.slow
def test_seeds_do_not_touch_each_other():
    both, alone = agent_of(num_seeds=2), agent_of(seed=2)
    batch, noise, uniform = batch_of(2, 4), noise_of(2, 4, 2), uniform_of(2, 4)
    both.update(batch, noise, uniform, True)
    alone.update(*(mapped(lambda x: x[1:], x) for x in (batch, noise)), uniform[1:], True)
    mine = dict(both.named_parameters())
    for name, weights in alone.named_parameters():
        assert torch.allclose(mine[name][1:], weights, rtol=0, atol=1e-12), name


@pytest.mark.slow
def test_amp_gives_nearly_the_gradients_of_float32(monkeypatch):
    """bfloat16 keeps 8 bits: every tensor's gradient within a fifth or so (noise frames), and not the same. Heads are
    as wide as they are: in narrow ones the critic's slope is that of a few units, of which rounding turns some."""
    monkeypatch.setattr(px, "HIDDEN", 1024)
    one, two = (agent_of(double=False, amp=amp) for amp in (False, True))
    batch, noise, uniform = batch_of(1, 4, dtype=torch.float), floats(noise_of(1, 4, 2)), uniform_of(1, 4)
    losses = {"critic": ("q", batch, noise), "policy": ("policy", batch.obs, noise),
              "decoder": ("decoder", batch.obs, uniform)}  # fmt: skip
    for loss, (optimizer, *inputs) in losses.items():
        pairs = []
        for agent in (one, two):
            trained = getattr(agent, f"{optimizer}_optimizer").trained
            pairs.append(torch.autograd.grad(getattr(agent, f"{loss}_loss")(*inputs)[0].sum(), trained))
        errors = [((right - left).norm() / left.norm()).item() for left, right in zip(*pairs) if left.norm() > 0]
        assert len(errors) >= 11 and 1e-6 < max(errors) < 0.3, (loss, errors)


@pytest.mark.parametrize("kind", [Conv2d, ConvTranspose2d])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_convolution_is_pytorchs_for_each_seed(kind, seeds):
    """Values and gradients at float64, first weights, and five steps of Adam, one of two groups with weight decay."""
    with side_by_side(range(seeds), torch.device("cpu")):
        layer = kind(5, 7, 3, stride=2).double()
        ours = Adam([{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}], 1e-2)
    plain = [copied(getattr(torch.nn, kind.__name__)(5, 7, 3, stride=2), only(layer, i)) for i in range(seeds)]
    theirs = [
        torch.optim.Adam([{"params": [x.weight], "weight_decay": 0.1}, {"params": [x.bias]}], 1e-2) for x in plain
    ]
    bound = 1 / math.sqrt(plain[0].weight[0].numel())
    assert 0.9 * bound < layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound

    def loss(x):
        return layer(x).square().mean((-4, -3, -2, -1)), {}

    for step in range(5):
        x = normals(seeds, 2, 5, 9, 9, seed=step)
        for i in range(seeds):
            assert torch.allclose(layer(x)[i], plain[i](x[i]), rtol=0, atol=1e-12)
            theirs[i].zero_grad()
            plain[i](x[i]).square().mean().backward()
            theirs[i].step()
        ours.minimise(loss, x)
        for i, other in enumerate(plain):
            assert torch.allclose(layer.weight[i], other.weight, rtol=0, atol=1e-10)
            assert torch.allclose(layer.bias[i], other.bias, rtol=0, atol=1e-10)


def only(layer, i: int):
    """A copy of a layer that has the i-th seed alone."""
    layer = copy.deepcopy(layer)
    layer.weight.data, layer.bias.data = layer.weight.data[i : i + 1], layer.bias.data[i : i + 1]
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True])
def test_the_decoder_learns(amp):
    """On a few fixed frames with structure the reconstruction's error falls to a third of what their mean gives."""
    agent, uniform = agent_of(double=False, batch_size=4, amp=amp), uniform_of(1, 4)
    x = torch.linspace(0, 6, 84)
    waves = [torch.sin(x[:, None] * (1 + i % 3) + i) * torch.cos(x * (1 + i % 2)) for i in range(4)]
    frames = (torch.stack(waves)[None, :, None] * 100 + 128).expand(1, 4, 9, 84, 84).to(torch.uint8)
    target = agent.five_bits(frames, uniform)
    optimizer = agent.decoder_optimizer
    errors = [optimizer.minimise(agent.decoder_loss, frames, uniform)["losses/ae_loss"].item() for _ in range(48)]
    assert errors[-1] < (target - target.mean((1,), keepdim=True)).square().mean() / 3 and errors[-1] < errors[0] / 3


def test_pictures_are_frames_above_their_reconstructions():
    agent, frames = agent_of(num_seeds=2, double=False), frames_of(2, 3)
    made = agent.decoder(agent.encoder(frames))
    image = agent.pictures(frames)
    assert image.shape == (2, 3, 168, 3 * 84) and image.min() >= 0 and image.max() <= 1
    for seed, b in np.ndindex(2, 3):
        above, below = image[seed, :, :, 84 * b : 84 * (b + 1)].split(84, dim=1)
        assert torch.equal(above, (frames[seed, b, 6:] // 8) / 32)
        assert torch.allclose(below, (made[seed, b, 6:] + 0.5).clamp(0, 1), atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- replay
def replay_of(capacity: int, seeds=2, size=4, act_dim=2) -> px.Replay:
    with mock.patch.object(runtime_frames, "SIZE", size):
        args = px.Args(buffer_size=capacity, num_seeds=seeds, cuda=False)
        return built(args, px.Replay, 9, act_dim)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=6, max_size=12), capacity=st.integers(1, 60), seed=st.integers(0, 99)
)
def test_stacks_are_those_of_a_list_of_frames(lengths, capacity, seed):
    """Two seeds with episodes of other lengths, wrapped around, some saved and loaded midway."""
    draw, replay = np.random.default_rng(seed), replay_of(capacity)
    spans = [list(lengths), list(reversed(lengths))]
    history, stacks, left = [[], []], [None, None], [0, 0]
    steps, saved, parts = sum(lengths), 0, []
    for step in range(steps):
        rows = []
        for i in range(2):
            if left[i] == 0:
                left[i] = spans[i].pop(0)
                stacks[i] = np.tile(draw.integers(0, 256, (3, 4, 4), np.uint8), (3, 1, 1))
            old, action, reward = stacks[i], draw.normal(size=2).astype(np.float32), draw.normal()
            stacks[i] = np.concatenate([old[3:], draw.integers(0, 256, (3, 4, 4), np.uint8)])
            left[i] -= 1
            ended = bool(left[i] == 0 and draw.random() < 0.5)
            rows.append((old, action, reward, stacks[i], ended))
            history[i].append(rows[-1])
        replay.add(*(np.array(column) for column in zip(*rows)))
        if step in (steps // 3, steps // 2, steps - 1):
            start = max(saved, step + 1 - capacity)  # as a checkpoint does
            parts.append((start, step + 1, replay.part(start, step + 1)))
            saved = step + 1
    again = replay_of(capacity)
    for part in parts:
        again.put(*part)
    again.resumed(steps)
    assert replay.size == again.size == steps - replay.oldest and again.oldest == replay.oldest
    assert replay.oldest == steps - min(capacity, steps) or min(lengths) < 12  # else every row is whole
    assert replay.size > 0.5 * min(capacity, steps)
    uniform = torch.arange(0, 1, 1 / 64).double().expand(2, -1)
    for i in range(2):  # both go on alike, amid an episode too
        obs, new = (history[i][-1][3], draw.integers(0, 256, (3, 4, 4), np.uint8))
        history[i].append((obs, np.zeros(2, np.float32), 0.0, np.concatenate([obs[3:], new]), False))
    for one in (replay, again):
        one.add(*(np.array(column) for column in zip(*(rows[-1] for rows in history))))
        kept = one.numbers[:, steps % capacity, -1] - one.numbers[:, (steps - 1) % capacity, -1]
        assert (kept == (capacity > 1)).all()  # one frame more: the episode goes on
        batch = one.sample(uniform)
        for i in range(2):
            for j, u in enumerate(uniform[i].tolist()):
                number = one.oldest + math.floor(u * one.size.item())
                old, action, reward, new, over = history[i][number]
                assert np.array_equal(batch.obs[i, j].numpy(), old)
                assert np.array_equal(batch.next_obs[i, j].numpy(), new)
                assert np.array_equal(batch.action[i, j].numpy(), action) and batch.terminated[i, j] == over
                assert batch.reward[i, j].item() == pytest.approx(reward, rel=1e-6)


def test_a_row_takes_21_kilobytes():
    replay = replay_of(1000, seeds=1, size=84, act_dim=6)
    total = sum(x.numel() * x.element_size() for x in (replay.rows, replay.frames)) + replay.numbers.nbytes
    assert total / 1000 < 1.12 * 3 * 84 * 84


# -------------------------------------------------------------------------------------------------------- environments
def can_draw() -> bool:
    try:
        PixelEnv("dm_control/finger-spin-v0", 2).reset(seed=1)
        return True
    except Exception:
        return False


drawn = pytest.mark.skipif(not can_draw(), reason="dm_control cannot draw here")


@pytest.mark.slow
@drawn
def test_an_environment_of_pixels():
    env = PixelEnv("dm_control/cheetah-run-v0", 4)
    obs, _ = env.reset(seed=2**100)
    assert obs.shape == (9, 84, 84) and obs.dtype == np.uint8 and obs.std() > 5
    assert np.array_equal(obs[:3], obs[6:])
    again, _ = PixelEnv("dm_control/cheetah-run-v0", 4).reset(seed=2**100)
    other, _ = PixelEnv("dm_control/cheetah-run-v0", 4).reset(seed=2**100 + 1)
    assert np.abs(again.astype(int) - obs).max() <= 1 and np.abs(other.astype(int) - obs).max() > 10
    new, *_ = env.step(np.full(6, 0.7))
    assert np.array_equal(new[:6], obs[3:]) and not np.array_equal(new[6:], obs[6:])


@drawn
def test_action_repeat_sums_rewards_and_stops_at_the_end():
    """1,000 simulator steps: 334 of three, the last of one, and only time ran out."""
    one, three = PixelEnv("dm_control/cheetah-run-v0", 1), PixelEnv("dm_control/cheetah-run-v0", 3)
    one.blind = three.blind = True
    one.reset(seed=5), three.reset(seed=5)
    for step in range(334):
        action = np.full(6, math.sin(step))
        rewards = [one.step(action) for _ in range(3 if step < 333 else 1)]
        _, reward, terminated, truncated, _ = three.step(action)
        assert reward == pytest.approx(sum(r[1] for r in rewards)) and not terminated
        assert truncated == (step == 333) == rewards[-1][3]


@drawn
def test_unknown_tasks_get_the_nearest_names(capfd):
    assert launch(px, ["--env-id", "dm_control/cheeta-run-v0", "--no-cuda"]) == 2
    err = capfd.readouterr().err
    assert "dm_control/cheetah-run-v0" in err and err.count("\n") == 1


@pytest.mark.parametrize("backend", ["nonsense", "disable"])
@pytest.mark.slow
def test_where_nothing_can_draw_one_line_says_what_to_install(tmp_path, backend):
    command = [sys.executable, px.__file__, "--env-id", "dm_control/cheetah-run-v0"]
    done = subprocess.run(
        command, env=os.environ | {"MUJOCO_GL": backend}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and "libegl1" in done.stderr and f"MUJOCO_GL={backend}" in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@drawn
@pytest.mark.slow
def test_a_trained_agent_plays_and_is_filmed(tmp_path, monkeypatch):
    """By analysis/play.py and --capture-video: as many frames as steps and one, that move."""
    monkeypatch.chdir(tmp_path)
    flags = "--env-id dm_control/finger-spin-v0 --no-cuda --no-compile --batch-size 4".split()
    flags += "--learning-starts 8 --random-steps 8".split()
    flags += "--eval-episodes 1 --eval-frequency 10 --eval-max-steps 3 --total-timesteps 10 --capture-video".split()
    assert launch(px, flags) == 0
    rows = play.play(play.Args(newest(), episodes=2, video=tmp_path / "films"))
    assert [row[1:3] for row in rows] == [(10, "leapfrog"), (10, "base")] and all((row[4] == 3).all() for row in rows)
    films = [*newest().rglob("*.mp4"), *(tmp_path / "films").glob("*.mp4")]
    assert len(films) == 2 + 4
    for film in films:
        frames = iio.imread(film, plugin="FFMPEG")
        assert len(frames) == 4 and np.ptp(frames.astype(int), axis=0).max() > 20


@drawn
@pytest.mark.slow
def test_a_run_goes_on_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--env-id dm_control/finger-spin-v0 --no-cuda --no-compile --batch-size 4".split()
    flags += "--learning-starts 8 --random-steps 8".split()
    flags += "--eval-episodes 1 --eval-frequency 10 --eval-max-steps 3".split()
    assert launch(px, [*flags, "--total-timesteps", "17"]) == 0
    whole = newest()
    assert launch(px, [*flags, "--total-timesteps", "13"]) == 0
    part = newest([whole])
    assert launch(px, ["--resume", str(part), "--total-timesteps", "17"]) == 0
    left, right = (torch.load(folder / "agent.pt", weights_only=True)["agent"] for folder in (whole, part))
    assert all(torch.equal(left[key], right[key]) for key in left)
