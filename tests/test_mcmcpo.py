"""What both MCMC-PO scripts have: the template, the controller, whole runs, one seed in any company."""

import dataclasses
import re
import shutil
from typing import get_args, get_type_hints

import mcmcpo_hmc_continuous as hmc
import mcmcpo_langevin_continuous as langevin
import sac_continuous as sac
import sac_hpo_continuous as hpo
from runtime import arguments, device
from runtime.run import launch
from runtime.seeds import side_by_side

import numpy as np
import pytest
import torch
from conftest import CPU, batch_of, built, mapped, newest, noise_of, normals, quick, resume, script_name, train
from hypothesis import given, settings
from hypothesis import strategies as st
from test_family import definitions

BOTH = {"hmc": hmc, "langevin": langevin}


@pytest.fixture(params=BOTH.values(), ids=BOTH)
def script(request):
    return request.param


def agent_of(script, obs_dim=5, act_dim=3, **flags):
    """An agent in double precision, whose prior and targets differ from the networks that they follow."""
    torch.set_default_dtype(torch.double)
    try:
        agent = built(script.Args(cuda=False, **flags), script.Agent, obs_dim, act_dim)
    finally:
        torch.set_default_dtype(torch.float)
    for name, parameter in agent.named_parameters():
        if name.startswith(("prior", "target")):
            parameter.data += 0.05 * normals(*parameter.shape, seed=len(name))
    return agent


def update(agent, batch, noise):
    return agent.update(batch, noise) if isinstance(agent, hmc.Agent) else agent.update(batch, noise, True)


# ------------------------------------------------------------------------------------ one template
def test_only_what_the_last_paragraph_names_differs_from_sac(script):
    left, right = (
        {name.split(",")[0]: text for name, text in definitions(s).items() if not re.match("import |from ", name)}
        for s in (sac, script)
    )
    paragraph = " ".join(script.__doc__.split("\n\n")[-1].split())
    parts = re.fullmatch("Of `sac_continuous.py` it changes (.*); it lacks (.*); it adds (.*)", paragraph).groups()
    changes, lacks, adds = (set(re.findall(r"`([\w.]+)`", part)) for part in parts)
    assert {name for name in left.keys() & right.keys() if left[name] != right[name]} == changes
    assert left.keys() - right.keys() == lacks
    assert {n for n in right.keys() - left.keys() if "." not in n or n.split(".")[0] not in adds} == adds


def test_what_several_scripts_have_is_shared_to_the_letter():
    one, two, hpos = map(definitions, (hmc, langevin, hpo))
    for name in ("Pid", "Pid.__init__", "Pid.step"):
        assert one[name] == two[name], name
    assert one["action_gradient"] == two["action_gradient"] == hpos["action_gradient"]


def test_every_number_has_limits(script):
    hints = get_type_hints(script.Args)
    numbers = {name for name, hint in hints.items() if {int, float} & {hint, *get_args(hint)}}
    assert numbers == {*arguments.LIMITS, *script.LIMITS}


# ----------------------------------------------------------------------------------- the controller
@settings(max_examples=50, deadline=None)
@given(
    distances=st.lists(st.floats(0, 3), min_size=1, max_size=30),
    gains=st.tuples(*[st.sampled_from([0.0, 0.01, 0.3, 2.0])] * 3),
    bound=st.sampled_from([0.5, 1.0, 100.0]),
)
def test_the_controller_is_the_texts(distances, gains, bound):
    """Against §4.1's lines for two seeds, with its (·)_+; and with our bounds."""
    k_p, k_i, k_d = gains[0], gains[1] or 0.05, gains[2]
    args = hmc.Args(num_seeds=2, pid_p=k_p, pid_i=k_i, pid_d=k_d, beta=0.5, beta_max=2.0, pid_bound=bound)
    with side_by_side(range(2), CPU):
        pid, target = hmc.Pid(args, 0.3).double(), 0.3
    integral, before = [0.5 / k_i] * 2, [target] * 2
    for step, distance in enumerate(distances):
        for i, d in enumerate((distance, distance / (step + 1))):
            delta = min(d - target, bound * target)
            integral[i] = min(max(integral[i] + delta, 0), 2.0 / k_i)
            beta = max(k_p * delta + k_i * integral[i] + k_d * (d - before[i]), 0)
            before[i] = d
            expected = min(max(beta, 1e-3), 2.0)
            if i == 0:
                first = expected
        batch = torch.tensor([[0.5, 1.5], [1.0, 1.0]]).double()  # the mean of a seed's is D̂
        pid.step(batch * torch.tensor([[distance], [distance / (step + 1)]]).double())
        assert pid.beta.flatten().tolist() == pytest.approx([first, expected], rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_the_controller_settles_a_first_order_plant_at_its_target():
    """A distance that follows 1/β slowly ends at the target, from far above and from below: nothing winds up."""
    for beta, start in ((0.01, 8.0), (20.0, 0.0)):
        pid = hmc.Pid(hmc.Args(beta=beta), 0.3)
        distance, seen = torch.tensor([[start]]), []
        for _ in range(20_000):
            distance = distance + 0.05 * (0.6 / pid.beta.detach() - distance)
            pid.step(distance)
            seen.append(distance.item())
        assert np.mean(seen[-2000:]) == pytest.approx(0.3, rel=0.02) and pid.beta.item() == pytest.approx(2, rel=0.1)


# ------------------------------------------------------------------------------------------- updates
def test_a_seed_learns_the_same_in_any_company(script):
    flags = {"prior_updates": 2}
    many, alone = agent_of(script, num_seeds=3, seed=1, **flags), agent_of(script, num_seeds=1, seed=2, **flags)
    for name in ("policy", "critic", "dynamics" if script is hmc else "flow"):
        for left, right in zip(getattr(many, name).parameters(), getattr(alone, name).parameters()):
            assert torch.equal(left[1:2], right), name
    for left, right in zip(many.parameters(), alone.parameters()):
        right.data.copy_(left.data[1:2])
    start = [p.detach().clone() for p in alone.policy.parameters()]
    for i in range(3):
        batch, noise = batch_of(3, 16, 5, seed=9 * i), noise_of(3, 16, 3, seed=i)
        update(many, batch, noise)
        update(alone, mapped(lambda x: x[1:2], batch), mapped(lambda x: x[1:2], noise))
    assert not any(torch.equal(p, q) for p, q in zip(start, alone.policy.parameters()))
    for (name, left), right in zip(many.named_parameters(), alone.parameters()):
        assert torch.allclose(left[1:2], right, rtol=0, atol=1e-10), name


@pytest.mark.parametrize("every", [1, 3])
def test_the_prior_is_renewed_every_n_updates(script, every):
    agent = agent_of(script, prior_updates=every)
    for i in range(1, 7):
        update(agent, batch_of(1, 8, 5, seed=9 * i), noise_of(1, 8, 3, seed=i))
        same = all(torch.equal(p, q) for p, q in zip(agent.prior.parameters(), agent.policy.parameters()))
        assert same == (i % every == 0)


# ---------------------------------------------------------------------------------------- whole runs
@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("steps", [2, 0])
def test_a_run_goes_on_to_the_bit(script, steps):
    name = "leapfrog_steps" if script is hmc else "langevin_steps"
    flags = {"num_seeds": 2, "eval_frequency": 30, name: steps, "prior_updates": 7}
    assert train(script, quick(script, total_timesteps=75, **flags)) == 0
    whole = newest()
    assert train(script, quick(script, total_timesteps=59, **flags)) == 0
    part = newest([whole])
    assert whole.name.split("__")[1] == script_name(script)
    assert resume(script, part, "--total-timesteps", "75") == 0
    left, right = (torch.load(folder / "agent.pt", weights_only=True)["agent"] for folder in (whole, part))
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert (whole / "evaluations.csv").read_text() == (part / "evaluations.csv").read_text()


def test_a_loss_that_is_not_finite_ends_the_run_and_says_so(script, capfd, monkeypatch):
    loss = script.Agent.policy_loss

    def broken(self, *inputs):
        value, seen = loss(self, *inputs)
        return value * float("nan"), seen

    monkeypatch.setattr(script.Agent, "policy_loss", broken)
    flags = "--env-id Drift-v0 --total-timesteps 60 --learning-starts 20 --batch-size 8 --no-cuda --eval-frequency 30"
    assert launch(script, flags.split()) == 1
    assert "not finite" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
def test_compiled_updates_equal_plain_ones(script, request):
    """HMC's in C++, Langevin's as graphs alone."""
    if script is langevin:
        request.getfixturevalue("captured")
    short = {"leapfrog_steps": 1} if script is hmc else {"langevin_steps": 2}  # K steps compile K times as long
    agents, played = [agent_of(script, num_seeds=2, prior_updates=2, **short) for _ in range(2)], []
    for agent in agents:
        act, _ = device.fast(dataclasses.replace(agent.args, compile=agent is agents[1]), agent)
        for i in range(3):
            update(agent, batch_of(2, 16, 5, seed=9 * i), noise_of(2, 16, 3, seed=i))
        played.append(act(normals(2, 5), noise_of(2, 1, 3)))
    assert torch.allclose(*played, rtol=0, atol=1e-9)
    for (name, left), right in zip(agents[0].named_parameters(), agents[1].parameters()):
        assert torch.allclose(left, right, rtol=0, atol=1e-9), name
