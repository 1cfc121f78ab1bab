"""The arms of analysis/experiments/readings.py and the parts of starts.py: each changes what it says, and no more."""

import json
import math
import re

import sac_continuous as sac
import sac_hpo_continuous as hpo
from analysis import gap, play
from analysis.experiments import bias, drawn, readings, spaces, starts
from runtime import environments, home
from runtime.arguments import parse
from runtime.messages import Refused
from runtime.seeds import Linear

import numpy as np
import pytest
import torch
from conftest import agent_of, batch_of, end_of, forked, newest, noise_of, normals
from hypothesis import given, settings
from hypothesis import strategies as st
from test_analysis import run_folder
from test_leapfrog import SPACES, kinked, min_q, place  # noqa: F401


def arm(name: str, leapfrog_space: str = "pre-tanh", **values) -> hpo.Agent:
    """An arm's agent in a space; of `none`, the parts of which the arms replace some."""
    script = spaces.of_values(hpo, {"leapfrog_space": leapfrog_space})
    kind = readings.agent_of(name, script)
    if name == "none" and script is hpo:
        kind = type("None", (spaces.Chain, script.Agent), {"__module__": script.__name__})
    return home.build(script, script.Args(cuda=False, batch_size=16, **values), 11, 3, kind).double()


def evolved(agent, obs, x, noise, std=0.5):
    return agent.evolve(agent.critic, obs, x, noise, std)[0]


@SPACES
def test_an_arm_that_changes_nothing_is_sac_hpo(space):
    """To the last bit: so what an arm overrides is all that it changes."""
    obs, noise = normals(2, 16, 11), noise_of(2, 16, 3)
    for steps in (0, 3):
        plain, agent = (arm(name, leapfrog_space=space, leapfrog_steps=steps, num_seeds=2, momentum_term=True)
                        for name in ("as-is", "none"))  # fmt: skip
        assert isinstance(agent, spaces.Chain) and (isinstance(plain, spaces.Chain) is (space == "action"))
        assert torch.equal(agent.policy_loss(obs, noise)[0], plain.policy_loss(obs, noise)[0])
        assert torch.equal(agent.act(obs, noise), plain.act(obs, noise))
        assert torch.equal(agent.evolved_mean(obs), plain.evolved_mean(obs))


@settings(deadline=None)
@given(x=st.floats(-1, 1), velocity=st.floats(-9, 9))
def test_a_bounce_is_a_flight_between_walls(x, velocity):
    """Against small steps that turn at a wall; and the way back leads to where it began."""
    place, speed, n = x, velocity, 500
    for _ in range(n):
        place += speed / n
        if abs(place) > 1:
            place, speed = (2 if place > 0 else -2) - place, -speed
    end, momentum = readings.bounce(*torch.tensor([x + velocity, velocity], dtype=torch.double))
    assert end.item() == pytest.approx(place, abs=1e-9)
    if 1 - abs(end) > 1e-6:  # at a wall either sign is right
        assert momentum.item() == pytest.approx(speed)
        back, _ = readings.bounce(end - momentum, -momentum)
        assert back.item() == pytest.approx(x, abs=1e-9)


def test_reflected_chains_keep_volume_and_stay_inside():
    agent, obs, inner = arm("reflect", leapfrog_space="action", leapfrog_steps=3), normals(1, 1, 11), 0
    free = arm("as-is", leapfrog_space="action", leapfrog_steps=3)
    for network in (agent.force.implicit, agent.force.gate):
        network[2].weight.data *= 5  # a push that differs from place to place
    for seed in range(20):
        start = torch.cat([normals(3, seed=seed).tanh(), 9 * normals(3, seed=seed + 99)])

        def mapping(z):
            a, rho = z[None, None].split(3, dim=-1)
            return torch.cat(agent.evolve(agent.critic, obs, a, rho, 1.0), dim=-1)[0, 0]

        end, plain = (
            mapping(start),
            evolved(free, obs, start[None, None, :3], start[None, None, 3:]),
        )
        assert (end[:3].abs() <= 1).all()
        inner += (plain.abs() > 1).any()
        assert abs(torch.autograd.functional.jacobian(mapping, start).det().item()) == pytest.approx(1, rel=1e-9)
    assert inner > 10  # most of them would have left the box


@SPACES
def test_a_blind_force_has_no_use_for_the_critics(space):
    agent, obs, x, noise = arm("blind", leapfrog_space=space), normals(1, 16, 11), normals(1, 16, 3), normals(1, 16, 3)
    before = evolved(agent, obs, x, noise)
    agent.critic.fc1.weight.data.neg_()
    assert torch.equal(evolved(agent, obs, x, noise), before)
    assert not torch.allclose(before, x + evolved(agent, obs, 0 * x, noise))


@SPACES
def test_a_straight_chain_is_held_constant_in_its_start_alone(space):
    agent, plain = (arm(name, leapfrog_space=space, leapfrog_steps=3) for name in ("straight", "as-is"))
    obs, noise, x = normals(1, 16, 11), normals(1, 16, 3), normals(1, 16, 3).requires_grad_()
    end = evolved(agent, obs, x, noise)
    assert torch.equal(end, evolved(plain, obs, x, noise))  # the chain itself is the same
    gradient, *force = torch.autograd.grad(end.sum(), [x, *agent.force.parameters()])
    assert torch.equal(gradient, torch.ones_like(x)) and all((f != 0).any() for f in force)


@SPACES
def test_smooth_directions_are_means(space):
    agent, obs, x = arm("smooth", leapfrog_space=space), normals(1, 16, 11), normals(1, 16, 3)
    _, g = agent.direction(agent.critic, obs, x)
    draws = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    slope = 0
    near = [place(agent, x) + 0.2 * sign * draw for draw in draws for sign in (1, -1)]
    y = x.clone().requires_grad_()
    for a in near:
        a = a.clone().requires_grad_()
        slope = slope + torch.autograd.grad(min_q(agent, obs)(a).sum(), a)[0]
    slope = torch.autograd.grad(place(agent, y), y, slope)[0]
    assert torch.allclose(g, -torch.nn.functional.normalize(slope, dim=-1))


@SPACES
def test_averaged_directions_are_means_of_directions(space):
    """Of the plain agent's g at positions two by two on either side, which are shorter than 1 where they differ."""
    agent, plain = (arm(name, leapfrog_space=space) for name in ("averaged", "none"))
    obs, x = normals(1, 16, 11), 3 * normals(1, 16, 3)
    draws = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    actions, g = agent.direction(agent.critic, obs, x)
    near = [plain.direction(plain.critic, obs, x + 0.2 * sign * draw)[1] for draw in draws for sign in (1, -1)]
    assert torch.equal(actions, place(agent, x)) and torch.allclose(g, torch.stack(near).mean(0))
    lengths = g.norm(dim=-1)
    assert (lengths <= 1 + 1e-12).all() and (lengths < 0.999).any()


def test_the_prior_is_in_the_potential():
    agent, obs, u = arm("prior", leapfrog_space="pre-tanh"), normals(1, 16, 11), normals(1, 16, 3).requires_grad_()
    potential = -min_q(agent, obs)(u.tanh()) / agent.args.alpha - torch.log1p(-u.tanh().square()).sum(-1)
    (gradient,) = torch.autograd.grad(potential.sum(), u)
    _, g = agent.direction(agent.critic, obs, u.detach())
    assert torch.allclose(g, torch.nn.functional.normalize(gradient, dim=-1), rtol=1e-6)


def by_hand(agent, obs, x, momentum, std, g_of):
    """x_K of (16) and (17) as they stand, a force at each half step, with g = g_of(x)."""
    steps, size = agent.args.leapfrog_steps, agent.args.step_size
    widths = [(1 - std) * k**2 / steps**2 + std for k in range(steps + 1)]  # 1/√β_k

    def force(x):
        seen = torch.cat([obs, place(agent, x), g_of(x)], -1)
        gate = agent.force.gate(seen)
        return gate * g_of(x) + (1 - gate) * agent.force.implicit(seen)

    for k in range(steps):
        momentum = momentum - size / 2 * force(x)
        x = x + size * momentum
        momentum = (momentum - size / 2 * force(x)) * widths[k + 1] / widths[k]
    return x


def slope_at(critic, obs, u, among=(0, 1)):
    """∇_u of the smallest of some critics, (S, B, d): ∇_a held constant, the tanh's slope not."""
    a = u.tanh().detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(obs, a)[:, list(among)].amin(1).sum(), a)
    return slope * (1 - u.tanh() ** 2)


LENGTHS = {"batch-norm": lambda slope: (slope**2).sum((1, 2), keepdim=True).sqrt(),
           "batch-scale": lambda slope: (slope**2).sum(2, keepdim=True).mean(1, keepdim=True).sqrt()}  # fmt: skip


@pytest.mark.parametrize("name", ["as-is", "first-slope", "first-critic", *LENGTHS])
def test_losses_by_another_transcription(name):
    """Values, logged ones among them, and gradients of all that the policy's optimizer moves."""
    values = {"leapfrog_steps": 3, "step_size": 0.7, "momentum_std_train": 0.4, "alpha": 0.3, "num_seeds": 2}
    agent, plain = (arm(which, **values) for which in (name, "as-is"))
    agent.log_alpha.data.fill_(math.log(0.3))  # in double precision
    obs, noise, among = normals(2, 16, 11), noise_of(2, 16, 3), (0,) if name == "first-critic" else (0, 1)

    def g_of(u):
        slope = slope_at(agent.critic, obs, u, among)
        return -slope / LENGTHS.get(name, lambda slope: slope.norm(dim=-1, keepdim=True))(slope)

    mean, log_std = agent.policy(obs)
    u = mean + log_std.exp() * noise.action
    end = by_hand(agent, obs, u, 0.4 * noise.momentum, 0.4, g_of)
    inner = u if name == "first-slope" else end
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u) - torch.log1p(-(inner.tanh() ** 2))
    log_prob = log_prob.sum(-1)
    loss = (0.3 * log_prob - agent.critic(obs, end.tanh()).amin(1)).mean(-1)
    theirs, seen = agent.policy_loss(obs, noise)
    assert torch.allclose(theirs, loss, rtol=0, atol=1e-10) and torch.allclose(seen["log_prob"], log_prob)
    assert torch.allclose(seen["losses/actor_loss"], loss) and torch.allclose(seen["losses/entropy"], -log_prob.mean(1))
    parameters = [*agent.policy.parameters(), *agent.force.parameters()]
    for left, right in zip(torch.autograd.grad(theirs.sum(), parameters), torch.autograd.grad(loss.sum(), parameters)):
        assert torch.allclose(left, right, rtol=0, atol=1e-9)
    assert torch.allclose(theirs, plain.policy_loss(obs, noise)[0], rtol=0, atol=1e-6) is (name == "as-is")
    acts = torch.equal(agent.act(obs, noise), plain.act(obs, noise))  # each sample by its own norm
    assert acts is torch.equal(agent.evolved_mean(obs), plain.evolved_mean(obs)) is (name != "first-critic")


@pytest.mark.parametrize("name", LENGTHS)
def test_a_batch_has_one_norm_in_the_policys_loss_alone(name, monkeypatch):
    """Also after a loss that failed; 1/16 and 1 long, on average of squares, for a batch of 256."""
    agent, obs, x = arm(name), normals(1, 256, 11), normals(1, 256, 3)
    noise, lengths = noise_of(1, 256, 3), []
    direction = type(agent).direction

    def watched(self, *inputs):
        found = direction(self, *inputs)
        lengths.append(found[1].square().sum(-1).mean().sqrt().item())
        return found

    monkeypatch.setattr(type(agent), "direction", watched)
    agent.policy_loss(obs, noise)
    assert len(lengths) == 2 and lengths == pytest.approx([{"batch-norm": 1 / 16, "batch-scale": 1}[name]] * 2)
    with pytest.raises(AttributeError):
        agent.policy_loss(obs, None)
    lengths.clear()
    agent.act(obs, noise), agent.evolved_mean(obs), agent.evolve(agent.target, obs, x, noise.momentum, 1.0)
    assert lengths == pytest.approx([1.0] * 6)


@pytest.mark.slow
def test_a_compiled_batch_norm_is_the_same():
    """What a loss sets on its agent while it runs, torch.compile sees."""
    torch._dynamo.config.trace_autograd_ops = True  # as a run does
    agent, obs, noise = arm("batch-norm"), normals(1, 16, 11), noise_of(1, 16, 3)
    plain = agent.policy_optimizer.with_gradients(agent.policy_loss)
    loss, act = (torch.compile(f, backend="aot_eager", dynamic=False) for f in (plain, agent.act))
    for _ in range(2):
        for mine, theirs in zip(loss(obs, noise)[1], plain(obs, noise)[1]):
            assert torch.allclose(mine, theirs)
        assert agent.whole is False and torch.allclose(act(obs, noise), agent.act(obs, noise))


def test_still_arms_have_no_momentum_where_they_say():
    obs, noise = normals(2, 16, 11), noise_of(2, 16, 3)
    other = noise._replace(momentum=noise.momentum + 1)
    arms = ("as-is", True, True), ("still", False, True), ("still-both", False, False), ("plain", True, False)
    for name, trains, explores in arms:
        agent = arm(name, num_seeds=2)
        assert torch.equal(agent.policy_loss(obs, noise)[0], agent.policy_loss(obs, other)[0]) is not trains
        assert torch.equal(agent.act(obs, noise), agent.act(obs, other)) is not explores
    assert torch.equal(agent.act(obs, noise), agent.policy.sample(obs, noise.action)[0].tanh())


@SPACES
def test_what_evaluation_may_draw(space):
    """The mean's a_0 and training's or exploration's ρ_0, as the policy's loss evolves them; ρ_0 anew at every step."""
    agent, obs = arm("as-is", leapfrog_space=space, num_seeds=2, momentum_std_train=0.7).float(), normals(2, 5, 11)
    played, zero = drawn.policies(agent), torch.zeros(2, 5, 3)
    generator = torch.Generator().manual_seed(0)
    for name, std in (("ρ0 as in training", 0.7), ("ρ0 as in exploration", 1.5)):
        momentum = torch.randn(2, 5, 3, generator=generator.manual_seed(0))
        agent.args.momentum_std_train = std
        with torch.no_grad():
            x = end_of(agent, obs.float(), gap.Noise(zero, zero, momentum, zero))
            first, second = (played[name](obs.float()) for _ in range(2))
        assert torch.allclose(first, place(agent, x).clamp(-1, 1), atol=1e-6)
        assert (first - second).abs().max() > 0.01
    assert torch.equal(played["ρ0 = 0"](obs.float()), agent.evolved_mean(obs.float()))


def test_differences_of_evaluations_are_paired():
    rows = [{"environment": "E", "script": "s", "step": "1000"} | {"policy": policy, "seed": seed, "return": value}
            for policy, values in (("a", "125"), ("b", "379")) for seed, value in zip("123", values)]  # fmt: skip
    table = drawn.means(rows).splitlines()  # differences 2, 5, 4: mean 3.67, deviation 1.53, t 4.30
    assert table[2] == "| E | s | 1,000 | 3 | a | 3 ± 2 |  |  |"
    assert table[3] == "| E | s | 1,000 | 3 | b | 6 ± 3 | +4 | [-0, +7] |"


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_an_arms_run_is_played_by_the_arms_agent(tmp_path, capfd):
    """With what `drawn` writes, its own --show prints the same table."""
    folder, flags = tmp_path / "run", ["--total-timesteps", "40", "--learning-starts", "20", "--batch-size", "8"]
    flags += ["--random-steps", "20"]
    flags += ["--env-id", "Hopper-v4", "--num-seeds", "2", "--no-cuda", "--no-compile", "--eval-episodes", "1"]
    script = readings.__file__, "train", "averaged"
    assert forked(*script, *flags)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    for other in ([hpo.__file__], [readings.__file__, "train", "smooth"]):  # would go on with another agent
        code, _, err = forked(*other, "--resume", folder, "--total-timesteps", "60")
        assert code == 2 and b"is a run of analysis/experiments/readings.py train averaged" in err
    assert forked(*script, "--resume", folder, "--total-timesteps", "60")[0] == 0
    assert isinstance(drawn.armed(folder), readings.Averaged)
    assert capfd.readouterr().err == ""
    for act in (play.load, home.load):
        act(folder)
        said = (
            "trained by analysis/experiments/readings.py train averaged; it acts here as an agent of sac_hpo_continuous"
        )
        assert said in capfd.readouterr().err
    args = drawn.Args((folder,), episodes=1, output=tmp_path / "drawn.csv")
    assert drawn.main(args) == drawn.main(drawn.Args(show=(args.output,))) and "--averaged | 60 | 2 |" in drawn.main(
        args
    )


def test_collecting_writes_over_no_other_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(readings, "RESULTS", tmp_path / "readings")
    first, second = (run_folder(f"run{seed}", "sac_continuous", seed, [1.0, 2.0]) for seed in (1, 9))
    path = readings.keep(first)
    before = path.read_text()
    assert path == tmp_path / "readings" / "Toy-v0__sac_continuous.csv" and readings.keep(first) == path
    with pytest.raises(Refused, match=re.escape(f"{path} is of another run than {second}")):
        readings.keep(second)
    other = readings.keep(second, "fresh")
    assert other == tmp_path / "readings" / "fresh" / path.name and path.read_text() == before != other.read_text()


@pytest.mark.parametrize("space", ["pre-tanh"])
@pytest.mark.parametrize("sees_g", [True, False])
def test_bias_tells_gradients_apart(kinked, sees_g):  # noqa: F811
    """On the agent with one kink: back-propagation is the truth for a force blind to g, and off by a fifth else."""
    kinked.force.implicit[2].bias.data[:], kinked.force.gate[2].bias.data[:] = 0.4, 50.0 if sees_g else -50.0
    noise, policy = noise_of(1, 100_000, 1), kinked.policy
    policy.mean.bias.data[:] = 0.1
    ours, truth = bias.gradients(kinked, torch.zeros(1, 1, 1).double(), noise).flatten()
    assert (abs(ours - truth) > 0.1 * abs(truth)) == sees_g and (abs(ours - truth) < 0.02 * abs(truth)) != sees_g
    assert kinked.policy is policy


@pytest.mark.usefixtures("narrow")
def test_bias_reads_what_a_run_leaves():
    """The agent, of its arm's class, and states that it stored."""
    args = ["--env-id=Drift-v0", "--total-timesteps=60", "--random-steps=40", "--learning-starts=40", "--num-seeds=2"]
    assert readings.train("smooth", [*args, "--batch-size=8", "--eval-episodes=1", "--no-cuda"]) == 0
    agent, states = bias.load(newest())
    assert isinstance(agent, readings.Smooth) and states.shape == (2, bias.STATES, 1) and (states.abs() <= 1).all()
    weights = torch.load(newest() / "agent.pt", weights_only=True)["agent"]
    assert all(torch.equal(weights[name], value) for name, value in agent.state_dict().items())
    with pytest.raises(Refused, match="is no finished run"):
        bias.load(run_folder("sac", "sac_continuous", 1, [1.0]))


# -------------------------------------------------------------------------------------------------------------- starts
@pytest.fixture
def launched(monkeypatch):
    """What a start would launch: its script, flags, agent and program. What it changes is put back after the test."""
    for script in (sac, hpo, spaces.in_action_space(hpo), spaces.in_action_space(hpo, clamp=False)):
        monkeypatch.setattr(script, "start", script.start)
        monkeypatch.setattr(script, "FORM", script.FORM)
        monkeypatch.setattr(script.Policy, "forward", script.Policy.forward)
    monkeypatch.setattr(environments, "into_box", environments.into_box)
    seen = []
    monkeypatch.setattr(starts, "launch", lambda script, flags, **rest: seen.append((script, flags, rest)) or 0)
    return seen


def hidden_of(agent, obs):
    return agent.policy.fc2(agent.policy.fc1(obs).relu()).relu()


@pytest.mark.parametrize("script", [sac, hpo])
def test_parts_of_a_start_are_in_the_agent(script, launched):
    """`all` changes nothing; with `weights` they reach ±√(6 / (in + out)) and pass it nowhere, biases are zero; with
    `log-std` log σ is the layer's output, clamped; with neither the form of saved weights is the older one."""
    reading = "sac" if script is sac else "hpo"
    before = agent_of(script, obs_dim=40)
    assert starts.train("all", reading, []) == 0
    same = agent_of(script, obs_dim=40)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), same.parameters()))
    assert starts.train("weights+log-std", reading, []) == 0 and script.FORM == 2
    agent, obs, count = agent_of(script, obs_dim=40, double=False), normals(1, 50, 40).float(), 0
    for layer in agent.modules():
        if isinstance(layer, Linear):
            weight, bias = layer.like_pytorch()
            bound, count = math.sqrt(6 / sum(weight.shape[-2:])), count + 1
            assert 0.97 * bound < weight.abs().max() <= bound and (bias == 0).all()
    assert count == (10 if script is sac else 14)
    for scale in (1.0, 1e3):
        agent.policy.log_std.weight.data *= scale
        mean, log_std = agent.policy(obs)
        hidden = hidden_of(agent, obs)
        assert torch.equal(log_std, agent.policy.log_std(hidden).clamp(-20, 2)) and torch.equal(
            mean, agent.policy.mean(hidden)
        )
    assert (log_std == -20).any() and (log_std == 2).any()
    assert starts.train("none", reading, []) == 0 and script.FORM == 1
    agent = agent_of(script, obs_dim=40, double=False)
    agent.policy.log_std.weight.data *= 1e3
    log_std = agent.policy(obs)[1]
    assert torch.allclose(log_std, -5 + 0.5 * 7 * (1 + agent.policy.log_std(hidden_of(agent, obs)).tanh()))
    assert -5 <= log_std.min() < -4.99 and 1.99 < log_std.max() <= 2
    for layer in (agent.critic.fc1, agent.policy.fc2):
        weight, bias = layer.like_pytorch()
        bound = 1 / math.sqrt(weight.shape[-1])
        assert 0.97 * bound < weight.abs().max() <= bound and 0.9 * bound < bias.abs().max() <= bound


def test_parts_of_a_start_are_flags(launched):
    """Random steps and the first update, which a flag of the command line overrides."""
    expected = {"none": (5_000, 5_000), "random": (10_000, 10_000), "updates": (5_000, 256), "all": (10_000, 256)}
    for start, numbers in expected.items():
        assert starts.train(start, "hpo", ["--seed", "3"]) == 0
        script, flags, rest = launched[-1]
        args, _ = parse(script, flags)
        assert (args.random_steps, args.learning_starts) == numbers and (args.exp_name, args.seed) == (
            f"start-{start}__hpo", 3)  # fmt: skip
        assert script is hpo and rest == {"program": f"analysis/experiments/starts.py train {start} hpo"}
    assert starts.train("all", "sac", ["--learning-starts", "7"]) == 0
    assert parse(*launched[-1][:2])[0].learning_starts == 7
    assert starts.train("all", "hpo", ["--leapfrog-space", "action"]) == 0
    assert launched[-1][0] is spaces.in_action_space(hpo) and parse(*launched[-1][:2])[0].leapfrog_space == "action"


def test_nothing_clamps_an_unclamped_action(launched):
    """Not the chain's end, nor the environment, whose action arrives as it was; how many lie outside is logged."""
    assert starts.train("none", "unclamped", []) == 0
    script, flags, rest = launched[-1]
    args = parse(script, [*flags, "--no-cuda", "--leapfrog-steps=3", "--num-seeds=2"])[0]
    assert args.leapfrog_space == "action" and rest["program"].endswith("starts.py train none unclamped")
    agent, obs, noise = home.build(script, args, 11, 3).double(), normals(2, 16, 11), noise_of(2, 16, 3)
    noise = noise._replace(momentum=9 * noise.momentum)
    action, seen = agent.act(obs, noise), agent.policy_loss(obs, noise)[1]
    x, end = agent.policy.sample(obs, noise.action)[0], end_of(agent, obs, noise)
    mean, log_std = agent.policy(obs)
    assert torch.allclose(x, (mean + log_std.exp() * noise.action).tanh())
    assert torch.equal(action, agent.evolve(agent.critic, obs, x, noise.momentum, args.momentum_std_explore)[0])
    assert (action.abs() > 1).any() and (end.abs() > 1).any()
    outside = agent.metrics(seen)["charts/clamped_fraction"]
    assert torch.equal(outside, (end.abs() > 1).float().mean((1, 2)))
    low, far = np.full(2, -1, np.float32), np.array([-3, 4], np.float32)
    assert np.array_equal(environments.into_box(low, -low, far), far)


@pytest.fixture
def searched(launched, monkeypatch):
    """What an arm of readings.py would launch: its script, flags and the rest."""
    seen = []
    monkeypatch.setattr(readings, "launch", lambda script, flags, **rest: seen.append((script, flags, rest)) or 0)
    return seen


@pytest.mark.parametrize("name", ["unclamped", "unclamped-online"])
def test_unclamped_arms_act_unclamped(name, searched):
    """By the script of the start's reading `unclamped`, in an environment that clips nothing; so when resumed."""
    free, online = spaces.in_action_space(hpo, clamp=False), name == "unclamped-online"
    for resumed in ([], ["--resume", "run"]):
        assert readings.train(name, resumed) == 0
        script, flags, rest = searched[-1]
        assert script is free and rest["program"] == f"analysis/experiments/readings.py train {name}"
        assert flags == ["--exp-name", name, *(["--evolve-target"] if online and not resumed else []), *resumed]
        assert rest["agent"] is readings.agent_of(name, script) and issubclass(rest["agent"], free.Agent)
    args = parse(script, [*searched[0][1], "--no-cuda", "--leapfrog-steps=3"])[0]
    agent, obs, noise = home.build(script, args, 11, 3, rest["agent"]).double(), normals(1, 16, 11), noise_of(1, 16, 3)
    action = agent.act(obs, noise._replace(momentum=9 * noise.momentum))
    assert (action.abs() > 1).any() and args.evolve_target is online
    low, far = np.full(2, -1, np.float32), np.array([-3, 4], np.float32)
    assert np.array_equal(environments.into_box(low, -low, far), far)


def test_the_target_that_the_critics_themselves_evolve():
    """y of `unclamped-online` by another transcription: Q1 and Q2 lead a', the target critics value it."""
    script = spaces.in_action_space(hpo, clamp=False)
    args = script.Args(cuda=False, leapfrog_steps=3, step_size=0.7, momentum_std_train=0.4, alpha=0.3, num_seeds=2,
                       evolve_target=True, batch_size=16)  # fmt: skip
    agent = home.build(script, args, 11, 3, readings.agent_of("unclamped-online")).double()
    for p in agent.target.parameters():
        p.data += 0.3 * normals(*p.shape, seed=p.shape[-1])
    batch, noise = batch_of(2, 16), noise_of(2, 16, 3)
    assert set(agent.noise_shapes()[1]) == {"next_action", "action", "momentum", "next_momentum"}

    def g_of(a):
        a = a.detach().requires_grad_()
        (slope,) = torch.autograd.grad(agent.critic(batch.next_obs, a).amin(1).sum(), a)
        return -slope / slope.norm(dim=-1, keepdim=True)

    mean, log_std = agent.policy(batch.next_obs)
    u = mean + log_std.exp() * noise.next_action
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u) - torch.log1p(-(u.tanh() ** 2))
    a = by_hand(agent, batch.next_obs, u.tanh(), 0.4 * noise.next_momentum, 0.4, g_of)
    assert (a.abs() > 1).float().mean() > 0.05
    value = agent.target(batch.next_obs, a).amin(1) - math.exp(agent.log_alpha.flatten()[0]) * log_prob.sum(-1)
    y = (batch.reward + 0.99 * (1 - batch.terminated) * value).detach()
    errors = [(agent.critic(batch.obs, batch.action)[:, i] - y).square().mean(-1) for i in (0, 1)]
    assert torch.allclose(agent.critic_loss(batch, noise)[0], sum(errors))


@pytest.mark.parametrize("name, said", [("unclamped", "whose actions the environments here would clip"),
                                        ("still", "agent.pt")])  # fmt: skip
def test_what_drawn_would_clip_it_refuses(name, said):
    folder = run_folder("run", "sac_hpo_continuous", 1, [1.0])
    config = json.loads((folder / "config.json").read_text())
    config["args"] |= {"leapfrog_steps": 3, "exp_name": name}
    config["source"] |= {"leapfrog_steps": "default", "exp_name": "command line"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match=said):
        drawn.measured(folder, drawn.Args((folder,)))


@pytest.mark.slow
def test_bad_input_ends_with_one_line():
    wrong = [(readings, []), (readings, ["train", "sideways"]), (readings, ["collect", "no-such-folder"])]
    wrong += [(drawn, []), (drawn, ["no-such-folder"]), (drawn, ["--show", "no-such-file"])]
    for script, words in wrong:
        code, out, err = forked(script.__file__, *words)
        assert code == 2 and err.count(b"\n") == 1 and not out
