"""The arms of analysis/experiments/readings.py: each changes what its docstring says, and nothing else."""

import re
import subprocess
import sys

import sac_hpo_continuous as hpo
from analysis.experiments import bias, drawn, readings
from runtime.messages import Refused

import pytest
import torch
from conftest import normals
from hypothesis import given, settings
from hypothesis import strategies as st
from test_analysis import run_folder
from test_leapfrog import SPACES, kinked, min_q, place  # noqa: F401

CPU = torch.device("cpu")


def arm(name: str, **values) -> hpo.Agent:
    return readings.ARMS[name](hpo.Args(cuda=False, batch_size=16, **values), 11, 3, CPU).double()


def evolved(agent, obs, x, noise, std=0.5):
    return agent.evolve(agent.critic, agent.critic.share(obs), obs, x, noise, std)[0]


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
    agent, obs, inner = arm("reflect", leapfrog_steps=3), normals(1, 1, 11), 0
    agent.force.layers[-2].data *= 5  # a push that differs from place to place
    for seed in range(20):
        start = torch.cat([normals(3, seed=seed).tanh(), 9 * normals(3, seed=seed + 99)])

        def mapping(z):
            a, share = z[None, None, :3], agent.critic.share(obs)
            return torch.cat(agent.evolve(agent.critic, share, obs, a, z[None, None, 3:], 1.0), dim=-1)[0, 0]

        end, plain = (
            mapping(start),
            evolved(arm("as-is", leapfrog_steps=3), obs, start[None, None, :3], start[None, None, 3:]),
        )
        assert (end[:3].abs() <= 1).all()
        inner += (plain.abs() > 1).any()
        assert abs(torch.autograd.functional.jacobian(mapping, start).det().item()) == pytest.approx(1, rel=1e-9)
    assert inner > 10  # most of them would have left the box


@SPACES
def test_a_blind_force_has_no_use_for_the_critics(space):
    agent, obs, x, noise = arm("blind", leapfrog_space=space), normals(1, 16, 11), normals(1, 16, 3), normals(1, 16, 3)
    before = evolved(agent, obs, x, noise)
    agent.critic.layers[0].data.neg_()
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
    _, g = agent.gradient(agent.critic, agent.critic.share(obs), x)
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
    agent, plain = (arm(name, leapfrog_space=space) for name in ("averaged", "as-is"))
    obs, x = normals(1, 16, 11), 3 * normals(1, 16, 3)
    share, draws = plain.critic.share(obs), torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    actions, g = agent.gradient(agent.critic, share, x)
    near = [plain.gradient(plain.critic, share, x + 0.2 * sign * draw)[1] for draw in draws for sign in (1, -1)]
    assert torch.equal(actions, place(agent, x)) and torch.allclose(g, torch.stack(near).mean(0))
    lengths = g.norm(dim=-1)
    assert (lengths <= 1 + 1e-12).all() and (lengths < 0.999).any()


def test_the_prior_is_in_the_potential():
    agent, obs, u = arm("prior", leapfrog_space="pre-tanh"), normals(1, 16, 11), normals(1, 16, 3).requires_grad_()
    potential = -min_q(agent, obs)(u.tanh()) / agent.args.alpha - torch.log1p(-u.tanh().square()).sum(-1)
    (gradient,) = torch.autograd.grad(potential.sum(), u)
    _, g = agent.gradient(agent.critic, agent.critic.share(obs), u.detach())
    assert torch.allclose(g, torch.nn.functional.normalize(gradient, dim=-1), rtol=1e-6)


def test_still_arms_have_no_momentum_where_they_say():
    obs, noise, acting = normals(2, 16, 11), normals(2, 3, 16, 3), normals(2, 2, 3)
    other, moved = noise.clone(), acting.clone()
    other[:, 2] += 1
    moved[:, 1] += 1
    arms = ("as-is", True, True), ("still", False, True), ("still-both", False, False), ("plain", True, False)
    for name, trains, explores in arms:
        agent = arm(name, num_seeds=2)
        assert torch.equal(agent.policy_loss(obs, noise)[0], agent.policy_loss(obs, other)[0]) is not trains
        assert torch.equal(agent.act(obs[:, 0], acting), agent.act(obs[:, 0], moved)) is not explores
    base = agent.policy.sample(obs[:, :1], acting[:, :1])[0][:, 0]
    assert torch.equal(agent.act(obs[:, 0], acting), base)


@SPACES
def test_what_evaluation_may_draw(space):
    """The mean's a_0 and training's or exploration's ρ_0, as the policy's loss evolves them; ρ_0 anew at every step."""
    agent, obs = arm("as-is", leapfrog_space=space, num_seeds=2, momentum_std_train=0.7).float(), normals(2, 5, 11)
    played, noise = drawn.policies(agent), torch.zeros(2, 3, 5, 3)
    generator = torch.Generator().manual_seed(0)
    for name, std in (("ρ0 as in training", 0.7), ("ρ0 as in exploration", 1.5)):
        noise[:, 2] = torch.randn(2, 5, 3, generator=generator.manual_seed(0))
        agent.args.momentum_std_train = std
        with torch.no_grad():
            x = agent.policy_loss(obs.float(), noise)[2]
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


def test_an_arms_run_is_played_by_the_arms_agent(tmp_path):
    """With what `drawn` writes, its own --show prints the same table."""
    folder, flags = tmp_path / "run", ["--total-timesteps", "40", "--learning-starts", "20", "--batch-size", "8"]
    flags += ["--env-id", "Hopper-v4", "--num-seeds", "2", "--no-cuda", "--no-compile", "--eval-episodes", "1"]
    script = [sys.executable, readings.__file__, "train", "averaged", *flags]
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    (folder,) = (tmp_path / "runs").iterdir()
    for other in ([hpo.__file__], [readings.__file__, "train", "smooth"]):  # would go on with another agent
        words = [sys.executable, *other, "--resume", str(folder), "--total-timesteps", "60"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "is a run of analysis/experiments/readings.py train averaged" in done.stderr
    subprocess.run([*script[:4], "--resume", str(folder), "--total-timesteps", "60"], cwd=tmp_path, check=True)
    assert type(drawn.armed(folder)) is readings.Averaged and readings.hpo.Agent is hpo.Agent
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


@pytest.mark.parametrize("sees_g", [True, False])
def test_bias_tells_gradients_apart(kinked, sees_g):  # noqa: F811
    """On the agent with one kink: back-propagation is the truth for a force blind to g, and off by a fifth else."""
    kinked.force.layers[-1].data[0], kinked.force.layers[-1].data[1] = 0.4, 50.0 if sees_g else -50.0
    noise, policy = normals(1, 3, 100_000, 1), kinked.policy
    policy.layers[-1].data[0, 0] = 0.1
    ours, truth = bias.gradients(kinked, torch.zeros(1, 1, 1).double(), noise).flatten()
    assert (abs(ours - truth) > 0.1 * abs(truth)) == sees_g and (abs(ours - truth) < 0.02 * abs(truth)) != sees_g
    assert kinked.policy is policy


def test_bad_input_ends_with_one_line():
    wrong = [(readings, []), (readings, ["train", "sideways"]), (readings, ["collect", "no-such-folder"])]
    wrong += [(drawn, []), (drawn, ["no-such-folder"]), (drawn, ["--show", "no-such-file"])]
    for script, words in wrong:
        done = subprocess.run([sys.executable, script.__file__, *words], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
