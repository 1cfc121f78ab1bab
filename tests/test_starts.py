"""The start of a run, and the older one (analysis/experiments/starts.py): what it draws, when it learns, that it
resumes."""

import math
import os
import signal
from pathlib import Path

import sac_continuous as sac
import sac_hpo_continuous as hpo
from analysis.checks import survival
from analysis.experiments import outside, spaces, starts
from runtime import environments, home
from runtime.arguments import parse
from runtime.seeds import optimizers, side_by_side

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import CPU, doubled, newest, noise_of, normals

DIMS = 17, 6  # HalfCheetah-v4's


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """`starts.train` changes the scripts for its process: put them back."""
    for owner, name in ((sac, "start"), (hpo, "start"), (sac.Policy, "forward"), (hpo.Policy, "forward"),
                        (sac, "FORM"), (hpo, "FORM"), (environments, "into_box")):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))


def first_agent(script, seeds=range(1, 9)):
    with side_by_side(seeds, CPU):
        return script.Agent(script.Args(num_seeds=len(seeds), cuda=False), *DIMS)


def layers(agent):
    return {
        name: m for name, m in agent.named_modules() if hasattr(m, "like_pytorch") and not name.startswith("target")
    }


@pytest.mark.parametrize("script", [sac, hpo], ids=["sac", "hpo"])
@pytest.mark.parametrize("weights", ["pytorch", "xavier"])
def test_first_weights_are_uniform_between_their_bounds(script, weights):
    """Kolmogorov and Smirnov's test of every layer, all seeds; today's biases are zero."""
    if weights == "pytorch":
        script.start = starts.by_pytorch
    for name, layer in layers(first_agent(script)).items():
        weight, bias = layer.like_pytorch()
        n_out, n_in = weight.shape[-2:]
        bound = math.sqrt(6 / (n_in + n_out)) if weights == "xavier" else 1 / math.sqrt(n_in)
        drawn = weight.detach().numpy().ravel()
        assert np.abs(drawn).max() <= bound and np.abs(drawn).max() > 0.98 * bound, name
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4, name
        if weights == "xavier":
            assert not bias.any(), name
        else:
            assert (
                scipy.stats.kstest(bias.detach().numpy().ravel(), scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue
                > 1e-4
            )


@pytest.mark.parametrize("parts, low, high", [("none", 0.08, 0.65), ("log-std", 0.7, 1.4), ("all", 0.45, 2)])
def test_the_first_standard_deviations(parts, low, high):
    """Of u, before the tanh, at states of HalfCheetah-v4's size: 98% lie in these bounds, and the median, at a log σ of
    zero or amid its range, is 1 or exp(-1.5) = 0.22."""
    if parts == "none":
        sac.Policy.forward = starts.squashed_log_std
    if parts != "all":
        sac.start = starts.by_pytorch
    obs = torch.randn(8, 500, DIMS[0], generator=torch.Generator().manual_seed(0))
    std = first_agent(sac).policy(obs)[1].exp()
    bounds = std.flatten().quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    assert low < bounds[0] and bounds[2] < high
    assert bounds[1] == pytest.approx(math.exp(-1.5) if parts == "none" else 1, rel=0.1)


def run(*flags):
    short = (
        "--env-id Drift-v0 --num-seeds 2 --batch-size 16 --eval-episodes 1 --eval-frequency 100 --no-cuda --no-compile"
    )
    return starts.train("updates", "sac", [*short.split(), *flags])


def test_it_learns_while_actions_are_random(monkeypatch):
    """From the step of --learning-starts on a step is an update; the policy acts once the random steps are over."""
    events, update, act = [], sac.Agent.update, sac.Agent.act

    def watched(name, original):
        def call(agent, *inputs):
            events.append((name, runs[0].envs.count))
            return original(agent, *inputs)

        return call

    runs, original = [], starts.launch
    monkeypatch.setattr(sac.Agent, "update", watched("update", update))
    monkeypatch.setattr(sac.Agent, "act", watched("act", act))
    monkeypatch.setattr(
        "runtime.run.Run.open", lambda self, replay, open=sac.Run.open: (runs.append(self), open(self, replay))
    )
    assert (
        original is starts.launch
        and run("--random-steps", "90", "--learning-starts", "30", "--total-timesteps", "100") == 0
    )
    steps = {name: [step for kind, step in events if kind == name] for name in ("update", "act")}
    assert steps["update"] == [*range(30, 100)] and steps["act"] == [*range(90, 100)]
    args = runs[0].args
    assert (args.random_steps, args.learning_starts) == (90, 30)


def test_which_start_has_which_parts(monkeypatch):
    seen, own = [], (sac.start, sac.Policy.forward)
    monkeypatch.setattr(starts, "launch", lambda script, flags, **more: seen.append(flags) or 0)
    starts.train("all", "sac", [])
    assert (sac.start, sac.Policy.forward, sac.FORM) == (*own, 2)
    assert (sac.Args().random_steps, sac.Args().learning_starts) == (10_000, 256)
    starts.train("none", "sac", [])
    assert " ".join(seen[0]).endswith("--random-steps 10000 --learning-starts 256")
    assert " ".join(seen[1]).endswith("--random-steps 5000 --learning-starts 5000")
    assert (sac.start, sac.Policy.forward, sac.FORM) == (starts.by_pytorch, starts.squashed_log_std, 1)


@pytest.mark.slow
def test_it_resumes_to_the_bit_from_within_the_random_steps(monkeypatch):
    """Stopped at step 60 of 90 random ones, after 30 updates."""
    flags = "--random-steps", "90", "--learning-starts", "30", "--total-timesteps", "150"
    assert run(*flags) == 0
    whole, before, original = newest(), set(Path("runs").iterdir()), sac.Replay.add

    def add(replay, *parts):
        original(replay, *parts)
        if replay.added == 60:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sac.Replay, "add", add)
    assert run(*flags) == 128 + signal.SIGTERM
    broken = newest(before)
    monkeypatch.setattr(sac.Replay, "add", original)
    assert survival.last_checkpoint(broken)["step"] == 60
    assert starts.train("updates", "sac", ["--resume", str(broken)]) == 0
    left, right = (survival.last_checkpoint(folder) for folder in (whole, broken))
    assert left["step"] == right["step"] == 150 and left["csv"] == right["csv"]
    assert all(torch.equal(a, b) for a, b in zip(left["agent"], right["agent"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(left["episodes"]["actions"], right["episodes"]["actions"]))


def test_the_unclamped_arm_by_another_transcription():
    """a_K and the loss in action space with nothing clamped, with a force at each half step."""
    script = spaces.in_action_space(hpo, clamp=False)
    steps, size, std, alpha = 3, 0.7, 0.4, 0.3
    args = script.Args(cuda=False, leapfrog_steps=steps, step_size=size, momentum_std_train=std, alpha=alpha)
    agent = doubled(home.build(script, args, 11, 3))
    agent.log_alpha.data.fill_(math.log(alpha))
    obs, noise = normals(1, 32, 11), noise_of(1, 32, 3)
    mean, log_std = agent.policy(obs)
    u = mean + log_std.exp() * noise.action
    gaussian = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1)
    log_prob = gaussian - torch.log1p(-u.tanh().square()).sum(-1)  # of a_0, which nothing after it changes
    widths = [(1 - std) * k**2 / steps**2 + std for k in range(steps + 1)]  # 1/√β_k

    def force(a):
        x = a.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(agent.critic(obs, x).amin(-2).sum(), x)
        g = -slope / slope.norm(dim=-1, keepdim=True)
        seen = torch.cat([obs, a, g], -1)
        gate = agent.force.gate(seen)
        return gate * g + (1 - gate) * agent.force.implicit(seen)

    a, momentum = u.tanh(), std * noise.momentum
    for k in range(steps):
        momentum = momentum - size / 2 * force(a)
        a = a + size * momentum
        momentum = (momentum - size / 2 * force(a)) * widths[k + 1] / widths[k]
    assert (a.abs() > 1).float().mean() > 0.05
    loss = (alpha * log_prob - agent.critic(obs, a).amin(-2)).mean(-1)
    theirs, seen = agent.policy_loss(obs, noise)
    assert torch.allclose(theirs, loss, rtol=0, atol=1e-10)
    assert torch.allclose(seen["charts/clamped_fraction"], (a.abs() >= 1).float().mean((1, 2)))
    parameters = [*agent.policy.parameters(), *agent.force.parameters()]
    for left, right in zip(torch.autograd.grad(theirs.sum(), parameters), torch.autograd.grad(loss.sum(), parameters)):
        assert torch.allclose(left, right, rtol=0, atol=1e-10)


def test_the_published_settings_are_those_of_a_run(monkeypatch):
    """Learning rate, first steps, α from 1, and Adam's β1 in every optimizer; the command line wins."""
    monkeypatch.setattr(sac, "Adam", sac.Adam)
    seen = []
    monkeypatch.setattr("runtime.run.launch", lambda script, flags, **more: seen.append((flags, more)) or 0)
    assert outside.main(["published", "--num-seeds", "2", "--no-cuda", "--alpha", "0.7"]) == 0
    (flags, more), *_ = seen
    args = sac.Args(**vars(parse(sac, flags)[0]))
    assert (args.policy_lr, args.q_lr, args.autotune, args.alpha) == (1e-3, 1e-3, True, 0.7)
    assert (args.random_steps, args.learning_starts, args.num_seeds) == (5_000, 5_000, 2)
    for optimizer in optimizers(home.build(sac, args, *DIMS)):
        (group,) = optimizer.param_groups
        assert (group["betas"], group["lr"]) == ((0.5, 0.999), 1e-3)
    assert more == {"program": "analysis/experiments/outside.py published"}
    assert outside.main(["published", "--resume", "run"]) == 0
    assert seen[1][0] == ["--exp-name", "published", "--resume", "run"]
