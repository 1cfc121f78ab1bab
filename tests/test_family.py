"""SAC-NF, the ablations, PyBullet, and what all scripts of the repository share."""

import ast
import dataclasses
import difflib
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_nf_continuous as nf
from analysis.experiments import distance
from runtime import device, run
from runtime.arguments import parse
from runtime.environments import Episodes, make_env
from runtime.messages import Refused
from runtime.run import launch
from runtime.seeds import side_by_side

import baseline1
import baseline2
import baseline3
import noise_only
import numpy as np
import pytest
import scipy.integrate
import torch
from conftest import (
    CPU,
    FAMILY,
    agent_of,
    batch_of,
    end_of,
    floats,
    newest,
    noise_of,
    normals,
    pre_tanh,
    quick,
    resume,
    script_name,
    train,
)

ROOT = Path(sac.__file__).parent
OTHERS = {name: script for name, script in FAMILY.items() if script is not sac}
BULLET = [f"Humanoid{kind}BulletEnv-v0" for kind in ("", "Flagrun", "FlagrunHarder")]
bullet = pytest.mark.skipif(sys.version_info >= (3, 12), reason="PyBullet has no wheel for this Python")


# ------------------------------------------------------------------------------------ one template
def source(script):
    return Path(script.__file__).read_text()


def definitions(script):
    """Source, to the letter, of every top-level definition, and of every method of a class; imports are none."""
    text, found = source(script), {}
    for node in ast.parse(text).body[1:]:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr)):
            continue
        parts = [node]
        if isinstance(node, ast.ClassDef):
            parts += [m for m in node.body if isinstance(m, ast.FunctionDef)]
        for part in parts:
            name = getattr(part, "name", None) or ast.unparse(part).split("=")[0].split(":")[0].strip()
            first = min([part.lineno, *(d.lineno for d in getattr(part, "decorator_list", []))])
            lines = text.splitlines()[first - 1 : part.end_lineno]
            if part is node and len(parts) > 1:  # of a class with methods, what stands before them
                methods = min(min([m.lineno, *(d.lineno for d in m.decorator_list)]) for m in parts[1:])
                lines = text.splitlines()[first - 1 : methods - 1]
            found[name if part is node else f"{node.name}.{name}"] = "\n".join(lines).strip()
    return found


def told(script):
    """The script that another one's last paragraph compares it with, and the names that it changes, adds, lacks, and
    takes from sac_continuous.py."""
    base, text = re.match(r"Of `(\w+)\.py` (.*)", " ".join(script.__doc__.split("\n\n")[-1].split())).groups()
    names = {"changes": set(), "adds": set(), "lacks": set(), "takes": set()}
    for part in text.split("; "):
        verb = next((verb for verb in names if f"it {verb} " in part), "takes")
        names[verb] |= {name for name in re.findall(r"`([\w.]+)`", part) if not name.endswith(".py")}
    return next(other for other in (sac, hpo) if script_name(other) == base), names


def outside(names, classes):
    """Names but for the methods of classes that are named themselves."""
    return {name for name in names if "." not in name or name.split(".")[0] not in classes}


@pytest.mark.parametrize("script", OTHERS.values(), ids=OTHERS)
def test_only_what_the_last_paragraph_names_differs(script):
    """From SAC, or for the ablations from SAC-HPO; what an ablation takes from SAC is SAC's to the letter."""
    base, names = told(script)
    left, right = definitions(base), definitions(script)
    assert {name for name in left.keys() & right.keys() if left[name] != right[name]} == names["changes"] | names[
        "takes"
    ]
    assert outside(right.keys() - left.keys(), names["adds"]) == names["adds"]
    assert outside(left.keys() - right.keys(), names["lacks"]) == names["lacks"]
    for name in names["takes"]:
        assert right[name] == definitions(sac)[name], name
    assert base is (hpo if "ablations" in script.__file__ else sac)


def test_ablations_that_share_a_change_have_it_to_the_letter():
    found = {script_name(script): definitions(script) for script in OTHERS.values()}
    for part, *scripts in (
        ("Agent.evolve", "baseline1", "baseline2"),
        ("Agent.act", "baseline1", "baseline2"),
        ("Agent.policy_loss", "baseline1", "baseline3"),
        ("Agent.evolved_mean", "baseline1", "baseline3"),
        ("Agent.noise_shapes", "baseline1", "noise_only"),
        ("COLUMNS", "baseline1", "noise_only"),
        ("TABLE", "baseline1", "noise_only"),
    ):
        assert len({found[script][part] for script in scripts}) == 1, part


def test_the_diff_of_sac_and_hpo_shows_the_method():
    """Nothing but the docstring, imports, and what the last paragraph names; and a reader can take it in."""
    left, right = ((source(s).splitlines(), set(definitions(s).values())) for s in (sac, hpo))
    parts = difflib.SequenceMatcher(None, left[0], right[0], autojunk=False).get_opcodes()
    assert sum(b - a + d - c for kind, a, b, c, d in parts if kind != "equal") <= 160
    assert len(left[0]) <= 280 and len(right[0]) <= 380
    shared = "\n".join(left[1] & right[1])
    assert all(name in shared for name in ("def update", "def sample", "def train", "class Critic", "def alpha_loss"))


def imported(path):
    """Names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def test_imports_go_one_way_and_runtime_names_no_method():
    """analysis/ imports scripts, scripts import runtime/, no script another one."""
    scripts = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("ablations/*.py")]}
    assert scripts >= {script_name(script) for script in FAMILY.values()}
    words = "|".join([*scripts, "leapfrog", "momentum", "langevin", "mcmc"])
    for path in [*ROOT.glob("*.py"), *ROOT.glob("ablations/*.py"), *ROOT.glob("runtime/*.py")]:
        assert not {name for name in imported(path) if name in scripts or name.startswith("analysis")}, path
        assert path.parent.name != "runtime" or not re.search(words, path.read_text(), re.I), path


# ---------------------------------------------------------------------------------------- whole runs
@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_a_run_goes_on_to_the_bit(member):
    """Each script trains, and its resumed run equals the one that was never stopped."""
    flags = {"num_seeds": 2, "eval_frequency": 30, "autotune": True}
    assert train(member, quick(member, total_timesteps=70, **flags)) == 0
    whole = newest()
    assert train(member, quick(member, total_timesteps=55, **flags)) == 0
    part = newest([whole])
    assert whole.name.split("__")[1] == script_name(member)
    assert resume(member, part, "--total-timesteps", "70") == 0
    left, right = (torch.load(folder / "agent.pt", weights_only=True)["agent"] for folder in (whole, part))
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert (whole / "evaluations.csv").read_text() == (part / "evaluations.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("captured")
@pytest.mark.parametrize("member", [nf, baseline1], ids=["nf", "b1"])  # test_fast.py has the pair, in C++
def test_compiled_updates_equal_plain_ones(member):
    agents, played = [agent_of(member, num_seeds=2) for _ in range(2)], []
    for agent in agents:
        args = dataclasses.replace(agent.args, compile=agent is agents[1])
        act, *_ = device.fast(args, agent)
        for i in range(5):
            agent.update(batch_of(2, 16, seed=20 * i), noise_of(2, 16, 3, seed=i))
        played.append(act(normals(2, 11), noise_of(2, 1, 3)))
    assert torch.allclose(*played, atol=1e-10)
    for left, right in zip(agents[0].parameters(), agents[1].parameters()):
        assert torch.allclose(left, right, atol=1e-10)


@pytest.mark.parametrize("script", OTHERS.values(), ids=OTHERS)
def test_tables(script):
    """Where a script has a value of SAC-HPO's tables, it is the same value."""
    for env_id in ("HalfCheetah-v4", "Hopper-v5", "Walker2d-v4", "Ant-v5", "Humanoid-v4", *BULLET):
        theirs, mine = (parse(s, ["--env-id", env_id])[0] for s in (hpo, script))
        row = script.table(env_id)[1]
        assert "alpha" in row
        for field, value in row.items():
            assert getattr(mine, field) == getattr(theirs, field) == value
    assert parse(script, [])[0] == script.Args()


# -------------------------------------------------------------------------------------------- SAC-NF
def flow_of(act_dim, seed=0, seeds=2):
    """A radial flow with parameters far from the identity, some β near its bound -α_r."""
    with side_by_side(range(seed, seed + seeds), CPU):
        flow = nf.RadialFlow(act_dim).double()
    flow.radius.data, flow.total.data = (flow.radius + 2 * normals(2, seeds, 1, seed=seed)).detach().unbind()
    return flow


@pytest.mark.parametrize("act_dim", [1, 2, 5])
def test_flow_determinant_is_autograds(act_dim):
    for seed in range(8):
        flow, z = flow_of(act_dim, seed), 2 * normals(2, 6, act_dim, seed=seed + 50)
        _, log_det = flow(z)
        jacobian = torch.autograd.functional.jacobian(lambda x, flow=flow: flow(x)[0], z)  # (2, 6, d, 2, 6, d)
        for s, b in np.ndindex(2, 6):
            own = jacobian[s, b, :, s, b]
            assert jacobian[s, b].abs().sum() == pytest.approx(own.abs().sum().item(), abs=1e-12)
            assert torch.linalg.det(own) > 0
            assert log_det[s, b].item() == pytest.approx(torch.linalg.det(own).log().item(), abs=1e-9)


def test_flow_inverts_by_bisection():
    """Along a ray from the centre the flow maps distances monotonically, so bisection finds where a point came from."""
    for seed in range(20):
        flow, z = flow_of(3, seed), 3 * normals(2, 10, 3, seed=seed + 9)
        image, _ = flow(z)
        center = flow.center
        ray = torch.nn.functional.normalize(image - center, dim=-1)
        target = (image - center).norm(dim=-1, keepdim=True)
        low, high = torch.zeros_like(target), torch.full_like(target, 1e3)
        for _ in range(80):
            middle = (low + high) / 2
            beyond = (flow(center + middle * ray)[0] - center).norm(dim=-1, keepdim=True) > target
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        assert torch.allclose(center + low * ray, z, atol=1e-8)


def nf_agent(act_dim=1, **flags):
    agent = agent_of(nf, act_dim=act_dim, **flags)
    for i, flow in enumerate(agent.policy.flows):
        for number, more in zip((flow.radius, flow.total), normals(2, *flow.radius.shape, seed=i)):
            number.data += more
    return agent


def sampled(agent, obs, noise):
    """Actions and their log-densities."""
    return nf.squash(*agent.policy.sample(obs, noise))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_flow_policy_density_integrates_to_one():
    """exp(log π) over (-1, 1), where quadrature over z_0 gives each action's place: ∫ π(a(z_0)) da/dz_0 dz_0 = 1.

    The second moment is Monte Carlo's, so the density is that of the actions that are drawn."""
    agent, obs = nf_agent(), normals(1, 1, 11)
    noise = torch.linspace(-9, 9, 200_001, dtype=torch.double)[None, :, None]
    with torch.no_grad():
        actions, log_prob = sampled(agent, obs.expand(1, noise.shape[1], -1), noise)
    actions, density = actions[0, :, 0].numpy(), log_prob[0].exp().numpy()
    assert (np.diff(actions) >= 0).all()
    assert scipy.integrate.trapezoid(density, actions) == pytest.approx(1, abs=1e-5)
    moment = scipy.integrate.trapezoid(density * actions**2, actions)
    with torch.no_grad():
        drawn, _ = sampled(agent, obs.expand(1, 400_000, -1), normals(1, 400_000, 1, seed=3))
    squares = drawn.square().flatten()
    assert moment == pytest.approx(squares.mean().item(), abs=5 * squares.std().item() / math.sqrt(400_000))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_flow_policy_density_in_two_dimensions():
    """Against a histogram: probability of boxes by quadrature over a grid of pre-images, and by drawing."""
    agent, obs = nf_agent(act_dim=2), normals(1, 1, 11)
    grid = torch.linspace(-7, 7, 601, dtype=torch.double)
    noise = torch.cartesian_prod(grid, grid)[None]
    mean, log_std = agent.policy(obs)
    with torch.no_grad():
        actions, log_prob = sampled(agent, obs.expand(1, noise.shape[1], -1), noise)
        flat = (mean + log_std.exp() * noise)[0].requires_grad_()
    # area of a cell's image: |da/dnoise| by autograd, column by column
    images = flat[None]
    for flow in agent.policy.flows:
        images, _ = flow(images)
    images = images[0].tanh()
    columns = [torch.autograd.grad(images[:, i].sum(), flat, retain_graph=True)[0] for i in range(2)]
    area = (columns[0][:, 0] * columns[1][:, 1] - columns[0][:, 1] * columns[1][:, 0]).abs() * log_std.exp().prod()
    weights = (log_prob[0].exp() * area * (grid[1] - grid[0]) ** 2).detach()
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        drawn, _ = sampled(agent, obs.expand(1, 200_000, -1), normals(1, 200_000, 2, seed=5))
    for box in ([0.0, 0.0], [0.5, -0.3], [-0.2, 0.4]):
        inside = [(points < torch.tensor(box)).all(-1) for points in (actions[0], drawn[0])]
        assert weights[inside[0]].sum().item() == pytest.approx(inside[1].double().mean().item(), abs=0.006)


def test_evaluated_action_of_the_flows_is_that_of_no_noise():
    agent, obs = nf_agent(act_dim=3), normals(1, 20, 11)
    assert torch.equal(agent.policy.mean_action(obs), sampled(agent, obs, torch.zeros(1, 20, 3))[0])
    assert not torch.allclose(agent.policy.mean_action(obs), agent.policy(obs)[0].tanh(), atol=1e-2)


def test_flows_agree_with_normflows():
    """The PyPI package normflows, given the same parameters."""
    import normflows

    for seed in range(10):
        flow, z = flow_of(4, seed), normals(2, 30, 4, seed=seed + 7)
        image, log_det = flow(z)
        for s in range(2):
            theirs = normflows.flows.Radial((4,), z_0=flow.center[s].detach().clone()).double()
            radius, total = torch.nn.functional.softplus(torch.stack([flow.radius[s, 0], flow.total[s, 0]])).tolist()
            theirs.alpha.data.fill_(radius)
            theirs.beta.data.fill_(math.log(math.expm1(total)))
            expected, expected_log_det = theirs(z[s])
            assert torch.allclose(image[s], expected, atol=1e-10)
            assert torch.allclose(log_det[s], expected_log_det, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_updates_of_a_step_and_target_entropy(monkeypatch):
    """Two updates a step are twice as many, each on a batch of its own; a killed run of them goes on to the bit."""
    batches, update = [], sac.Agent.update

    def counted(agent, batch, noise):
        batches.append((batch.reward.clone(), noise.action.clone()))
        return update(agent, batch, noise)

    monkeypatch.setattr(sac.Agent, "update", counted)
    flags = {"updates_per_step": 2, "autotune": True, "checkpoint_frequency": 50}
    assert train(sac, quick(sac, **flags, total_timesteps=80)) == 0
    whole = newest()
    assert len(batches) == 2 * (80 - 40)
    assert not any(torch.equal(x, y) for a, b in zip(batches[::2], batches[1::2]) for x, y in zip(a, b))
    assert train(sac, quick(sac, **flags, total_timesteps=60)) == 0
    part = newest([whole])
    assert resume(sac, part, "--total-timesteps", "80") == 0
    left, right = (torch.load(folder / "agent.pt", weights_only=True)["agent"] for folder in (whole, part))
    assert all(torch.equal(left[key], right[key]) for key in left)

    agents = [agent_of(sac, num_seeds=2, autotune=True, target_entropy=x) for x in (None, -1.5)]
    log_prob = normals(2, 16, seed=5)
    for agent, target in zip(agents, (-3, -1.5)):
        assert torch.allclose(agent.alpha_loss(log_prob)[0], -0.2 * (log_prob.mean(-1) + target))


def test_no_flows_is_sac_to_the_bit():
    flags = {"double": False, "num_seeds": 2}
    left, right, flowing = agent_of(sac, **flags), agent_of(nf, num_flows=0, **flags), agent_of(nf, **flags)
    obs = normals(2, 5, 11).float()
    for i in range(5):
        batch, noise = floats(batch_of(2, 32, seed=9 * i)), floats(noise_of(2, 32, 3, seed=i))
        a, b = left.update(batch, noise), right.update(batch, noise)
        flowing.update(batch, noise)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert torch.equal(left.policy.mean_action(obs), right.policy.mean_action(obs))
    theirs = right.state_dict()
    assert left.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in left.state_dict().items())
    assert not torch.allclose(left.policy.mean_action(obs), flowing.policy.mean_action(obs), atol=1e-5)


def test_flows_begin_as_the_identity():
    """The same first actions and densities as SAC's, and flows that then learn."""
    left, right = agent_of(sac, num_seeds=2), agent_of(nf, num_seeds=2)
    obs, noise = normals(2, 9, 11), normals(2, 9, 3, seed=1)
    for mine, theirs in zip(left.policy.sample(obs, noise), right.policy.sample(obs, noise)):
        assert torch.allclose(mine, theirs, atol=1e-7)
    before = [p.clone() for p in right.policy.flows.parameters()]
    for i in range(2):  # a centre has no gradient before its flow has a strength
        right.update(batch_of(2, 32, seed=i), noise_of(2, 32, 3, seed=i))
    assert all((a != b).all() for a, b in zip(before, right.policy.flows.parameters()))


# ----------------------------------------------------------------------------------------- ablations
def plain_leapfrog(agent, obs, actions, momentum, std, raw):
    """HPO eqs. (12) and (17) word by word, two gradients a step, each by autograd; ∇_a Q alone is held constant."""
    steps, size = agent.args.leapfrog_steps, agent.args.step_size
    bend = torch.tanh if pre_tanh(agent) else torch.Tensor.clone

    def gradient(x):
        x = x if x.requires_grad else x.clone().requires_grad_()
        with torch.enable_grad():
            a = bend(x)
            potential = -agent.critic(obs, a).amin(1) / agent.args.alpha
            held = torch.autograd.grad(potential.sum(), a)[0]
            slope = torch.autograd.grad((a * held).sum(), x, create_graph=True)[0]
        return slope if raw else slope / slope.norm(dim=-1, keepdim=True)

    beta = [1 / ((1 - std) * k**2 / steps**2 + std) ** 2 for k in range(steps + 1)]
    for k in range(1, steps + 1):
        momentum = momentum - size / 2 * gradient(actions)
        actions = actions + size * momentum
        momentum = momentum - size / 2 * gradient(actions)
        momentum = momentum * math.sqrt(beta[k - 1] / beta[k])
    return actions


@pytest.mark.parametrize("space", ["action", "pre-tanh"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_conventional_leapfrog(normalize, steps, space):
    """Baseline-1's and baseline-2's exploration, and baseline-1's loss and gradient, against eq. (12) by autograd."""
    flags = {"num_seeds": 2, "leapfrog_steps": steps, "normalize_gradient": normalize, "step_size": 0.3}
    flags["leapfrog_space"] = space
    one, two = agent_of(baseline1, momentum_std_train=2, **flags), agent_of(baseline2, **flags)
    obs, noise, before = normals(2, 7, 11), noise_of(2, 7, 3, seed=4), space == "pre-tanh"

    def start(obs, noise):
        (mean, log_std), normal = one.policy(obs), torch.distributions.Normal
        u = mean + log_std.exp() * noise
        log_prob = normal(mean, log_std.exp()).log_prob(u).sum(-1)
        return (u, log_prob) if before else (u.tanh(), log_prob - (1 - u.tanh().square()).log().sum(-1))

    x, log_prob = start(obs, noise.action)
    evolved = plain_leapfrog(one, obs, x, 2 * noise.momentum, 2, not normalize)
    assert (evolved.abs() > 1).any()
    actions = evolved.clamp(-1, 1)
    if before:
        actions, log_prob = evolved.tanh(), log_prob - (1 - evolved.tanh().square()).log().sum(-1)
    expected = (0.2 * log_prob - one.critic(obs, actions).amin(1)).mean(-1)
    loss, _ = one.policy_loss(obs, noise)
    assert torch.allclose(loss, expected, atol=1e-8)
    assert torch.allclose(end_of(one, obs, noise), evolved, atol=1e-8)
    mine, theirs = (torch.autograd.grad(x.sum(), list(one.policy.parameters())) for x in (loss, expected))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(mine, theirs))
    assert any(g.abs().max() > 1e-4 for g in mine)

    obs, noise = obs[:, :1], noise_of(2, 1, 3, seed=5)
    squashed = torch.tanh if before else lambda x: x.clamp(-1, 1)
    x = start(obs, noise.action)[0]
    played = squashed(plain_leapfrog(one, obs, x, 1.5 * noise.momentum, 1.5, not normalize))
    for agent in (one, two):
        assert torch.allclose(agent.act(obs, noise), played, atol=1e-8)
    zero = torch.zeros(2, 1, 3)
    still = squashed(plain_leapfrog(one, obs, start(obs, zero)[0], zero, 2, not normalize))
    assert torch.allclose(one.policies()["leapfrog"](obs), still, atol=1e-8)
    assert list(one.policies()) == ["leapfrog", "base"] and list(two.policies()) == ["base"]


def test_the_raw_gradient_is_of_each_seeds_own_temperature():
    """U = -min(Q1, Q2)/α: with twice the α, half the move that the force makes."""
    agent = agent_of(baseline1, num_seeds=2, leapfrog_steps=1, normalize_gradient=False)
    obs, zero = normals(2, 9, 11), torch.zeros(2, 9, 3).double()
    before = agent.evolve(obs, zero, zero, 0.1)
    agent.log_alpha.data[1] += math.log(2)
    after = agent.evolve(obs, zero, zero, 0.1)
    assert torch.allclose(after[0], before[0]) and torch.allclose(2 * after[1], before[1]) and (before != 0).all()


def test_baseline_two_learns_as_sac():
    """To the bit: only what exploration plays differs."""
    flags = [{"policy_layers": parse(s, ["--env-id", "Ant-v4"])[0].policy_layers} for s in (sac, baseline2)]
    agents = [agent_of(s, num_seeds=2, double=False, **f) for s, f in zip((sac, baseline2), flags)]
    batch, noise = floats(batch_of(2, 32)), floats(noise_of(2, 32, 3))
    left, right = (agent.update(batch, noise) for agent in agents)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert all(torch.equal(a, b) for a, b in zip(agents[0].parameters(), agents[1].parameters()))


@pytest.mark.parametrize("space", ["action", "pre-tanh"])
def test_baseline_three_explores_as_sac_and_learns_as_hpo(space):
    plain = agent_of(sac, num_seeds=2, double=False)
    wide = {"num_seeds": 2, "double": False, "momentum_std_train": 1.5, "step_size": 0.5}  # so that the clamp acts
    wide["leapfrog_space"] = space
    mine, full = (agent_of(script, **wide) for script in (baseline3, hpo))
    batch, noise = floats(batch_of(2, 32)), floats(noise_of(2, 32, 3))
    assert torch.equal(plain.act(batch.obs, noise), mine.act(batch.obs, noise))
    left, right = (agent.update(batch, noise) for agent in (mine, full))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (end_of(mine, batch.obs, noise).abs() > 1).any()
    assert mine.state_dict().keys() == full.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), full.parameters()))
    for name in ("leapfrog", "base"):
        assert torch.equal(mine.policies()[name](batch.obs), full.policies()[name](batch.obs))


@pytest.mark.parametrize("space", ["action", "pre-tanh"])
def test_noise_only_moves_actions_by_the_momentum_alone(space):
    """x_K - x_0 = ε Σ_k ρ_k with ρ_k = ρ_0 √β_0/√β_k, in exploration and in training; evaluation plays the mean."""
    agent = agent_of(noise_only, num_seeds=2, leapfrog_steps=3, momentum_std_train=2, leapfrog_space=space)
    obs, noise, before = normals(2, 9, 11), noise_of(2, 9, 3, seed=2), space == "pre-tanh"

    def far(std):
        schedule = [(1 - std) * (k / 3) ** 2 + std for k in range(3)]
        return 0.15 * std * sum(s / std for s in schedule)

    mean, log_std = agent.policy(obs)
    u = mean + log_std.exp() * noise.action
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1)
    start = u if before else u.tanh()
    loss, _ = agent.policy_loss(obs, noise)
    evolved = end_of(agent, obs, noise)
    assert torch.allclose(evolved - start, far(2) * noise.momentum, atol=1e-12) and (evolved.abs() > 1).any()
    log_prob = log_prob - (1 - (evolved if before else u).tanh().square()).log().sum(-1)
    q = agent.critic(obs, evolved.tanh() if before else evolved.clamp(-1, 1)).amin(1)
    assert torch.allclose(loss, (0.2 * log_prob - q).mean(-1), atol=1e-9)
    played = start + far(1.5) * noise.momentum
    played = played.tanh() if before else played.clamp(-1, 1)
    assert torch.allclose(agent.act(obs, noise), played, atol=1e-12)
    assert list(agent.policies()) == ["base"]


def test_noise_only_is_hpo_without_its_force(monkeypatch):
    left, right = (agent_of(script, num_seeds=2) for script in (noise_only, hpo))
    monkeypatch.setattr(hpo.Force, "forward", lambda self, obs, action, g: torch.zeros_like(action))
    obs, noise = normals(2, 9, 11), noise_of(2, 9, 3, seed=2)
    assert torch.equal(left.act(obs, noise), right.act(obs, noise))
    (loss, mine), (theirs, seen) = left.policy_loss(obs, noise), right.policy_loss(obs, noise)
    assert torch.equal(loss, theirs) and mine.keys() == seen.keys()
    assert all(torch.equal(mine[name], seen[name]) for name in mine)


# ----------------------------------------------------------------------- how far an action is moved
@pytest.mark.parametrize("space", ["action", "pre-tanh"])
@pytest.mark.parametrize("std", [0.1, 1.5])
def test_parts_of_a_move(std, space):
    """Noise, explicit and implicit gradient sum to the move that SAC-HPO makes; the first is noise_only's."""
    agent = agent_of(hpo, num_seeds=2, leapfrog_steps=3, leapfrog_space=space)
    plain = agent_of(noise_only, num_seeds=2, leapfrog_steps=3, leapfrog_space=space)
    obs, noise = normals(2, 9, 11), noise_of(2, 9, 3, seed=2)
    parts = distance.moves(agent, obs, noise, std)
    start, _ = agent.policy.sample(obs, noise.action)
    end, _ = agent.evolve(agent.critic, obs, start, noise.momentum, std)
    assert torch.allclose(parts["total"], end - start, atol=1e-12)
    assert torch.allclose(parts["noise"] + parts["explicit"] + parts["implicit"], end - start, atol=1e-12)
    assert torch.allclose(parts["noise"], plain.evolve(start, noise.momentum, std) - start, atol=1e-12)
    assert parts["explicit"].abs().max() > 1e-3 and parts["implicit"].abs().max() > 1e-3
    played = end.tanh() - start.tanh() if space == "pre-tanh" else end.clamp(-1, 1) - start
    assert torch.allclose(parts["played"], played, atol=1e-12)
    for side, gone in ((50, "implicit"), (-50, "explicit")):  # the gate wide open, and shut
        agent.force.gate[2].bias.data[:] = side
        parts = distance.moves(agent, obs, noise, std)
        assert parts[gone].abs().max() < 1e-12 < 1e-3 < parts["total"].abs().max()
        other = "explicit" if gone == "implicit" else "implicit"
        assert (
            torch.allclose(parts["noise"] + parts[other], parts["total"], atol=1e-12)
            and parts[other].abs().max() > 1e-3
        )


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_measuring_changes_nothing(monkeypatch):
    """A measured run equals an unmeasured one, and leaves a row a seed and momentum."""
    monkeypatch.setattr(run, "LOG_EVERY", 10)
    monkeypatch.setattr(distance, "EVERY", 20)
    flags = "--env-id Drift-v0 --num-seeds 2 --total-timesteps 100 --learning-starts 40 --batch-size 16 --no-cuda"
    flags += " --no-compile --eval-frequency 50 --eval-episodes 1"
    assert train(hpo, *parse(hpo, flags.split())) == 0
    plain = newest()
    assert distance.train(flags.split()) == 0
    measured = newest([plain])
    left, right = (torch.load(folder / "agent.pt", weights_only=True)["agent"] for folder in (plain, measured))
    assert plain != measured and all(torch.equal(left[name], right[name]) for name in left)
    assert sorted(distance.read(measured / "distances.csv")) == [
        (step, seed, momentum) for step in (60, 80, 100) for seed in (1, 2) for momentum in ("explore", "train")
    ]
    monkeypatch.setattr(distance, "ROOT", Path.cwd())
    figure, table = Path("figure.png"), distance.collect(measured)
    assert "stopped" not in table.read_text() and distance.read(table) == distance.read(measured / "distances.csv")
    config = (measured / "config.json").read_text().replace('"total_timesteps": 100', '"total_timesteps": 120')
    (measured / "config.json").write_text(config)
    assert "; stopped after step 100\n" in distance.collect(measured).read_text()
    distance.draw([table], figure)
    rows = [line.split(" | ") for line in distance.table([table]).splitlines() if line.startswith("| Drift")]
    assert [row[2] for row in rows] == ["60", "100"] * 2
    noise = [value[0] for key, value in distance.read(table).items() if key[0] == 60 and key[2] == "train"]
    assert rows[0][3].startswith(f"{sum(noise) / 2:.3f} ({min(noise):.3f} to")
    assert figure.stat().st_size > 5000


# ------------------------------------------------------------------------------------------ PyBullet
@pytest.mark.slow
@bullet
@pytest.mark.parametrize("env_id", BULLET[:2])
def test_bullet_episodes_come_back_to_the_bit(env_id):
    """Interrupted within the first and within a later episode, then followed for 150 steps and across resets."""
    rng = np.random.default_rng(0)
    for seed, length in enumerate((7, 80, 150, 200)):
        left, right = (Episodes([make_env(env_id)], range(seed, seed + 1)) for _ in range(2))
        for _ in range(length):
            left.step(rng.uniform(-0.4, 0.4, (1, *left.envs[0].action_space.shape)).astype(np.float32))
            if left.over[0]:
                left.begin(0)
        right.load(left.state())
        for _ in range(150):
            actions = rng.uniform(-0.4, 0.4, (1, *left.envs[0].action_space.shape)).astype(np.float32)
            assert all(np.array_equal(a, b) for a, b in zip(left.step(actions), right.step(actions)))
            if left.over[0]:
                left.begin(0), right.begin(0)


@bullet
def test_a_resumed_run_says_that_it_may_not_be_exact(capfd):
    """FlagrunHarder's contacts round differently in another simulator; of the other tasks nothing is said."""
    for env_id in BULLET:
        left, right = (Episodes([make_env(env_id)], range(1, 2)) for _ in range(2))
        right.load(left.state())
        assert ("may part from the uninterrupted one" in capfd.readouterr().err) == ("Harder" in env_id)


@bullet
def test_bullet_evaluations_do_not_depend_on_the_ones_before():
    """An environment that has played against a new one, as a resumed run evaluates with new ones."""
    for env_id in BULLET[:2]:
        used, new = (make_env(env_id) for _ in range(2))
        used.action_space.seed(0)
        for seed in (9, 4):
            used.reset(seed=seed)
            for _ in range(40):
                used.step(0.4 * used.action_space.sample())
        assert np.array_equal(used.reset(seed=5)[0], new.reset(seed=5)[0])
        for _ in range(40):
            action = 0.4 * used.action_space.sample()
            assert np.array_equal(used.step(action)[0], new.step(action)[0])


@pytest.mark.slow
def test_quiet(tmp_path):
    """Neither C nor Python is heard, whether or not their output is buffered, and nothing else is lost."""
    code = "import ctypes, sys; import runtime.environments as s; c = ctypes.CDLL(None); print('a'); c.puts(b'b')\n"
    code += "with s.quiet(): print('no'); c.puts(b'no'); print('no', file=sys.stderr)\nprint('c'); c.puts(b'd')"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["a", "b", "c", "d"] and done.stderr == ""


@bullet
@pytest.mark.slow
def test_bullet_is_quiet(tmp_path):
    """In a process of its own, where the simulator is imported: neither stream gets a line that is not ours."""
    flags = f"--env-id {BULLET[2]} --total-timesteps 60 --learning-starts 40 --eval-frequency 60 --eval-episodes 1"
    flags += " --batch-size 8 --no-compile --no-cuda"
    command = [sys.executable, str(ROOT / "sac_continuous.py"), *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert done.stderr == "" and not [x for x in lines if not x.startswith(("sac_continuous on", "  ", "step", "done"))]


def test_missing_bullet(capfd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert launch(sac, ["--env-id", BULLET[0], "--no-cuda"]) == 2
    line = f"--env-id {BULLET[0]} needs the package pybullet_envs_gymnasium: pip install pybullet_envs_gymnasium"
    assert capfd.readouterr().err == f"script: {line}\n"
    assert list(Path.cwd().iterdir()) == []


@bullet
def test_the_papers_name_finds_ours():
    with pytest.raises(Refused, match="the nearest names are HumanoidBulletEnv-v0"):
        make_env("HumanoidPyBulletEnv-v0")
