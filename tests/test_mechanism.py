"""analysis/experiments/mechanism.py: its target, its divergence against integration, its arms against the script's."""

import math
from pathlib import Path

import sac_hpo_continuous as hpo
from analysis import ROOT, gap
from analysis.experiments import mechanism, mechanism_readings, readings
from runtime.messages import Refused

import numpy as np
import pytest
import torch
from conftest import normals
from scipy import optimize, stats

NORMAL = torch.distributions.Normal(0, 1)


def middles(dimension: int, cells: int) -> torch.Tensor:
    axis = (torch.arange(cells).double() + 0.5) * 2 / cells - 1
    return torch.cartesian_prod(*[axis] * dimension).view(-1, dimension)


def target(dimension: int = 1, width: float = 0.16) -> mechanism.Target:
    return mechanism.Target(dimension, width)


def agent_with(mean: float, std: float, of: mechanism.Target) -> hpo.Agent:
    """One seed without dynamics, with the same Gaussian of u in every coordinate."""
    agent = mechanism.agent_of([mechanism.PLAIN], 1, of)
    heads = agent.policy.policy.mean, agent.policy.policy.log_std
    for head, bias in zip(heads, (mean, math.log(std))):
        head.weight.data.zero_()
        head.bias.data.fill_(bias)
    return agent


@pytest.mark.parametrize("dimension", [1, 2])
def test_the_target_is_a_density_and_its_cells_are_its_integrals(dimension):
    at = middles(dimension, 400)
    p = mechanism.log_target(at, 0.16).exp() * (2 / 400) ** dimension
    assert p.sum().item() == pytest.approx(1, abs=1e-4)
    fine = p.view([20, 20] * dimension)
    coarse = fine.sum(1) if dimension == 1 else fine.sum((1, 3)).flatten()
    assert torch.allclose(coarse, torch.tensor(mechanism.target_cells(dimension, 0.16, 20)), rtol=2e-3)
    high = mechanism.log_target(torch.full((1, dimension), 0.5), 0.16).item()  # of one hill; the other is 6 widths off
    assert high == pytest.approx(
        math.log(0.5) - dimension * math.log(0.16 * math.sqrt(2 * math.pi) * 0.99911), abs=1e-4
    )


@pytest.mark.parametrize("dimension", [1, 2])
def test_the_target_is_the_optimum(dimension, monkeypatch):
    """A policy whose density is p*, of one narrow Gaussian, has a KL of 0, and others have that of two Gaussians."""
    monkeypatch.setattr(mechanism, "CENTRE", 0.0)
    for mean, std in ((0.0, 0.05), (0.025, 0.05), (0.0, 0.065)):
        found = mechanism.measure(agent_with(mean, std, target(dimension, 0.05)), 1, 2**16)
        by_hand = dimension * torch.distributions.kl_divergence(*(
            torch.distributions.Normal(m, s) for m, s in ((mean, std), (0.0, 0.05)))).item()  # fmt: skip
        assert found["kl"].item() == pytest.approx(by_hand, abs=6e-3 * dimension), (mean, std)
        assert found["claimed"].item() == pytest.approx(by_hand, abs=6e-3 * dimension), (mean, std)


@pytest.mark.parametrize(("dimension", "mean", "std"), [(1, 0.0, 0.67), (1, 0.5, 0.3), (2, 0.5, 0.25), (2, 0.4, 0.4)])
def test_without_dynamics_it_is_the_integral(dimension, mean, std):
    z = torch.linspace(-7, 7, 1401 if dimension == 1 else 401).double()
    u = mean + std * torch.cartesian_prod(*[z] * dimension).view(-1, dimension)
    action, log_prob = hpo.squash(u, (NORMAL.log_prob((u - mean) / std) - math.log(std)).sum(-1))
    weight = NORMAL.log_prob((u - mean) / std).sum(-1).exp() * (z[1] - z[0]) ** dimension
    log_target = mechanism.log_target(action, 0.16)
    found = mechanism.measure(agent_with(mean, std, target(dimension)), 1, 2**17)
    assert found["kl"].item() == pytest.approx((weight * (log_prob - log_target)).sum().item(), abs=0.015)
    assert found["cross"].item() == pytest.approx(-(weight * log_target).sum().item(), abs=0.015)
    # the histogram against the density, at the same draws: where K = 0 eq. (15) has a_K's own entropy
    assert found["claimed"].item() == pytest.approx(found["kl"].item(), abs=5e-3)
    assert found["counts"].sum() == 2**17


def reversed_density(agent: hpo.Agent, positions: int, momenta: int) -> tuple[torch.Tensor, torch.Tensor]:
    """u_K (positions,) and the density of it there, d = 1: an integral over the momentum of the chain run backwards."""
    obs, noise = torch.ones(1, 1, 1), gap.Noise(*normals(4, 1, positions * momenta, 1).float())
    chain = gap.dynamics_of(agent, obs, noise)
    axes = []
    for x, count in ((chain.end, positions), (chain.last, momenta)):
        wide = (x.max() - x.min()) * 0.1
        axes.append(torch.linspace((x.min() - wide).item(), (x.max() + wide).item(), count))
    u, rho = (x.reshape(1, -1, 1) for x in torch.meshgrid(*axes, indexing="ij"))
    with torch.no_grad():
        joint = gap.log_joint(agent, obs, chain, *gap.backwards(chain, u, rho)).double().exp()
    return axes[0].double(), torch.trapezoid(joint.view(positions, momenta), axes[1].double(), dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("arm", [mechanism.BY_STEPS[3], mechanism.CHEETAH], ids=str)
def test_with_dynamics_it_is_that_of_the_density_by_the_reversed_chain(arm):
    """Of a force that no one trained, whose a_K has two hills or one."""
    agent = mechanism.agent_of([arm], 1, target())
    for p in agent.force.parameters():
        p.data *= 3
    u, density = reversed_density(agent, 500, 400)
    assert torch.trapezoid(density, u).item() == pytest.approx(1, abs=2e-3)
    log_action = mechanism.log_target(u.tanh()[:, None], 0.16) + (1 - u.tanh().square()).log()
    kl = torch.trapezoid(torch.xlogy(density, density) - density * log_action, u).item()
    found = mechanism.measure(agent, 1, 2**17)
    assert found["kl"].item() == pytest.approx(kl, abs=0.01)
    assert abs(found["claimed"].item() - kl) > 0.05  # eq. (15) takes another entropy for a_K's


@pytest.mark.slow
def test_in_two_dimensions_it_lies_between_the_gaps_bounds():
    """a_K's entropy by momenta drawn for the reversed chain, with no histogram."""
    agent = mechanism.agent_of([mechanism.BY_STEPS[3]], 1, target(2))
    agent.policy.policy.log_std.bias.data -= 1.5
    obs, generator = torch.ones(1, 1, 1), torch.Generator().manual_seed(0)
    noises = torch.randn(2, 4, 1, 10_000, 2, generator=generator)
    judged, fitted = (gap.dynamics_of(agent, obs, gap.Noise(*noise.unbind())) for noise in noises)
    action, log_slope = hpo.squash(judged.end, torch.zeros(1, 10_000))
    started = gap.log_start(agent, obs, judged.start).mean() + log_slope.mean()
    gained = gap.entropy_gained(agent, obs, judged, fitted, generator)
    high, low = ((started - x - mechanism.log_target(action, 0.16).mean()).item() for x in gained)
    found = mechanism.measure(agent, 1, 2**17)["kl"].item()
    assert low - 0.04 < found < high + 0.04 and high - low < 0.02, (low, found, high)


# ---------------------------------------------------------------------------------------------------------------- arms
def test_the_arms_are_the_scripts_table():
    names = mechanism.rows()
    assert sorted(name for own in names.values() for name in own) == sorted(hpo.TABLE) and len(mechanism.ARMS) == 14
    three = [arm for arm in mechanism.ARMS if arm.leapfrog_steps == 3]
    agent = mechanism.agent_of(three, 2, target())
    for arm, own in names.items():
        assert arm in mechanism.ARMS
        for name in own:
            row = hpo.TABLE[name]
            assert arm == (row["leapfrog_steps"], row["step_size"], row["momentum_std_train"])
        if arm in three:
            place = slice(2 * three.index(arm), 2 * three.index(arm) + 2)
            assert agent.args.step_size[place].unique().item() == pytest.approx(arm.step_size)
            assert agent.args.momentum_std_train[place].unique().item() == pytest.approx(arm.momentum_std)
    assert names[mechanism.CHEETAH] == ["HalfCheetah"] and names[mechanism.BY_STEPS[2]] == ["Hopper"]


def test_what_noise_and_force_alone_do():
    """By the script's leapfrog without a force; HalfCheetah's is K ε, as a momentum of 1 is not tempered."""
    for arm in (mechanism.CHEETAH, mechanism.BY_STEPS[3], mechanism.PLAIN):
        stds = hpo.momentum_stds(arm.momentum_std, arm.leapfrog_steps)
        x, rho = torch.zeros(1, 1), torch.full((1, 1), arm.momentum_std)
        assert hpo.leapfrog(torch.zeros_like, x, rho, arm.step_size, stds)[0].item() == pytest.approx(arm.noise)
    assert mechanism.CHEETAH.noise == pytest.approx(0.6)
    by_hand = 0.15 * (0.075 + (2 * 0.15 + 0.075) + (2.5 * (2 * 0.15 + 0.15) + 0.075))  # tempered by 2 and by 2.5
    assert mechanism.BY_STEPS[3].reach == pytest.approx(by_hand) and mechanism.PLAIN.reach == 0
    assert mechanism.CHEETAH.reach == pytest.approx(0.2**2 * 3**2 / 2)  # ε² K²/2


def test_arms_side_by_side_learn_what_each_learns_alone():
    """From the same weights and noise; the networks are the script's, and so is the loss."""
    arms, trained = [mechanism.BY_STEPS[3], mechanism.CHEETAH], []
    for group in (arms, arms[:1], arms[1:]):
        agent = mechanism.agent_of(group, 2, target(2))
        before = agent.force.gate[0].weight.clone()
        mechanism.train(agent, 2, 3, torch.Generator().manual_seed(0))
        assert not torch.allclose(before, agent.force.gate[0].weight)
        trained.append(
            torch.cat([p.detach().flatten(1) for p in [*agent.policy.parameters(), *agent.force.parameters()]], 1)
        )
    assert torch.allclose(trained[0], torch.cat(trained[1:]), rtol=0, atol=1e-5)
    assert not torch.allclose(trained[1], trained[2], rtol=0, atol=1e-5)


def test_one_state_is_the_scripts_policy():
    agent, obs, noise = (
        mechanism.agent_of([mechanism.PLAIN], 2, target(2)),
        torch.ones(2, 5, 1),
        normals(2, 5, 2).float(),
    )
    for mine, theirs in zip(agent.policy.sample(obs, noise), agent.policy.policy.sample(obs, noise)):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ readings
def test_readings_are_played_as_they_say():
    """`still` without momentum; a batch's norm where it says so, and nowhere after; K = 0 as mechanism.py has it."""
    obs, noise = torch.ones(2, 8, 1), gap.Noise(*normals(4, 2, 8, 2).float())
    agent = mechanism.agent_of([mechanism.CHEETAH], 2, target(2), readings.agent_of("batch-norm"))
    plain = mechanism.agent_of([mechanism.CHEETAH], 2, target(2))
    own, whole = mechanism.played(agent, obs, noise), mechanism_readings.in_batches(agent, obs, noise)
    assert torch.allclose(own, mechanism.played(plain, obs, noise), atol=1e-6) and agent.whole is False
    shorter = mechanism.played(plain, obs, noise) - whole
    assert shorter.abs().max() > 1e-3
    still = mechanism_readings.without_momentum(plain, obs, noise)
    u, _ = plain.policy.sample(obs, noise.action)
    u, _ = plain.evolve(plain.critic, obs, u, 0 * noise.momentum, 1.0)
    assert torch.equal(still, u.tanh())
    assert {name: reading.loud for name, reading in mechanism_readings.READINGS.items() if reading.loud != 1} == {
        "half": 0.5}  # fmt: skip
    assert all(reading.arm in readings.ARMS for reading in mechanism_readings.READINGS.values())
    assert mechanism_readings.READINGS["still"].play is mechanism_readings.without_momentum


def test_readings_have_the_kl_of_the_arms(monkeypatch):
    """The histogram's, of `measure`, up to what the draws make; `half` is the arm of half the momentum."""
    monkeypatch.setattr(mechanism_readings, "DRAWS", 2**14)
    args = mechanism_readings.Args(seeds=2, steps=4)
    louder, quieter = mechanism.BY_STEPS[3], mechanism.BY_STEPS[3]._replace(momentum_std=0.05)
    for name, arm in (("as-is", louder), ("half", quieter)):
        agent, generator = mechanism.agent_of([arm], 2, target()), torch.Generator().manual_seed(0)
        mechanism.train(agent, 2, 4, generator)
        found = mechanism_readings.measured(name, "quiet", louder, args)
        assert [(row["seed"], row["reading"], row["row"]) for row in found] == [(1, name, "quiet"), (2, name, "quiet")]
        kl = [float(row["kl"]) for row in found]
        assert kl == pytest.approx(mechanism.measure(agent, 2, 2**14)["kl"].tolist(), abs=0.04)


def test_the_table_of_readings(monkeypatch):
    """Differences to K = 0 seed by seed; what is written is shown again."""
    monkeypatch.setattr(mechanism_readings, "DRAWS", 2**9)
    for name in [*mechanism_readings.READINGS]:
        if name not in ("batch-norm", "momentum-term"):
            monkeypatch.delitem(mechanism_readings.READINGS, name)
    monkeypatch.setitem(mechanism_readings.READINGS, "as-is", mechanism_readings.Reading("as-is"))
    path = Path("d2.csv")
    told = mechanism_readings.main(mechanism_readings.Args(dimension=2, seeds=2, steps=2, output=path))
    assert told == mechanism_readings.main(mechanism_readings.Args(show=(path,)))
    names = ["batch-norm", "batch-norm, in batches", "momentum-term", "as-is"]
    rows = [line.split(" | ")[:2] for line in told.splitlines()[2:]]
    assert rows == [["| K = 0", "as-is"], *([f"| {row}", name] for row in ("HalfCheetah", "quiet") for name in names)]
    values = {("K = 0", "as-is"): (1.0, 3.0), ("quiet", "still"): (0.5, 2.0)}
    lines = [{"dimension": "1", "width": "0.16", "row": row, "reading": reading, "seed": str(seed), "kl_half": "9",
              "kl": str(kl)} for (row, reading), kls in values.items() for seed, kl in enumerate(kls)]  # fmt: skip
    last = mechanism_readings.table(lines).splitlines()[-1]
    assert last == "| quiet | still | 2 | 1.25 ± 1.06 | -0.75 [-3.93, +2.43] | 9.00 ± 0.00 |"
    path.write_text(path.read_text(encoding="utf-8").replace("K = 0", "K = 9"), encoding="utf-8")
    with pytest.raises(Refused, match="a file of --show is broken"):
        mechanism_readings.main(mechanism_readings.Args(show=(path,)))
    for bad in ({"dimension": 3}, {"seeds": 0}, {"steps": 1}, {"width": 0.01}):
        with pytest.raises(Refused, match=r"--dimension is 1 or 2|--width 0.01: choose"):
            mechanism_readings.main(mechanism_readings.Args(**bad))


# --------------------------------------------------------------------------------------------------- tables and figure
@pytest.mark.slow
def test_files_tables_and_figure(monkeypatch):
    """What a run writes is shown again; the table has each arm's mean and its difference to K = 0, seed by seed."""
    monkeypatch.setattr(mechanism, "DRAWS", 2**11)
    monkeypatch.setattr(mechanism, "ARMS", [mechanism.PLAIN, *mechanism.BY_STEPS[1:2]])
    path, picture = Path("d1.csv"), Path("d1.png")
    told = mechanism.main(mechanism.Args(seeds=2, steps=2, output=path))
    assert told == mechanism.main(mechanism.Args(show=(path,), output=picture)) and picture.stat().st_size > 10_000
    found = mechanism.read(mechanism.records.read_rows(path, mechanism.COLUMNS))
    own, plain = found[target(), mechanism.BY_STEPS[1]], found[target(), mechanism.PLAIN]
    line = next(
        line
        for line in told.splitlines()
        if line.startswith("|  | 1 | 0.15 | 0.1 | 0.01 | 0.53 | 0.53 | 0.01 | 1 | 0.16 | 2 |")
    )
    assert f"{own.kl.mean():.2f} ±" in line and f"{(own.kl - plain.kl).mean():+.2f}" in line
    assert own.density[0].mean() * 2 == pytest.approx(1, abs=0.01) and len(own.density) == 2
    path.write_text(path.read_text(encoding="utf-8").replace(",1,0.15,", ",1,wide,"), encoding="utf-8")
    with pytest.raises(Refused, match="a file of --show is broken"):
        mechanism.main(mechanism.Args(show=(path,)))
    for bad in ({"dimension": 3}, {"seeds": 0}, {"steps": 1}, {"width": 0.01}):
        with pytest.raises(Refused, match=r"--dimension is 1 or 2|--width 0.01: choose"):
            mechanism.main(mechanism.Args(**bad))


def test_the_committed_figure_is_small():
    assert (ROOT / "docs/lab/mechanism.png").stat().st_size < 300_000


def test_what_noise_costs_without_a_force():
    """Against scipy's density and optimizer, in one dimension: KL of what (15) prefers, and the lowest there is."""
    noise, z = 0.45, np.linspace(-9, 9, 4001)
    normal = stats.norm.pdf(z) / stats.norm.pdf(z).sum()

    def expected(mean, std):
        """-E log p*(a) - E log(1 - a²)."""
        u = mean + std * z
        hills = [stats.truncnorm((-1 - c) / 0.16, (1 - c) / 0.16, c, 0.16).pdf(np.tanh(u)) for c in (0.5, -0.5)]
        return -(normal * (np.log(sum(hills) / 2) - 2 * np.log(np.cosh(u)))).sum()

    def loss(x):
        return expected(x[0], math.hypot(noise, x[1])) - math.log(abs(x[1]))

    def kl(x):
        std = math.hypot(noise, x[1])
        return expected(x[0], std) - math.log(std * math.sqrt(2 * math.pi * math.e))

    starts = (0.0, 0.5), (0.5, 0.1)
    preferred = min((optimize.minimize(loss, x, method="Nelder-Mead") for x in starts), key=lambda found: found.fun)
    lowest = min(optimize.minimize(kl, x, method="Nelder-Mead").fun for x in starts)
    assert lowest < kl(preferred.x) - 0.02
    assert mechanism.Gaussians(target()).costs(noise) == pytest.approx((kl(preferred.x), lowest), abs=0.002)
