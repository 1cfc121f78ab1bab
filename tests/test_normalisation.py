"""--normalize-observations: its statistics, what networks see, and that it lives on in checkpoints and agents."""

import json
from pathlib import Path

import mcmcpo_hmc_continuous as hmc
import mcmcpo_langevin_continuous as langevin
import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_hpo_pixels as pixels
from analysis import gap, play
from analysis.checks import survival
from analysis.checks.survival import differences, last_checkpoint
from runtime.environments import Episodes
from runtime.evaluation import evaluate
from runtime.messages import Refused
from runtime.normalisation import Normaliser
from runtime.run import Run, launch

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import CPU, Drift, built, forked, newest, quick, resume, run_in_a_fork, train

ROOT = Path(sac.__file__).parent
NAMES = {f"normaliser.{name}" for name in ("count", "mean", "squares", "shift", "scale")}
seen = {}  # each environment's observations, in order


class Watched(Drift):
    """Drift far from zero, and a number that never changes; keeps what it hands over."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def observe(self):
        obs = np.array([300 + 5 * self.x[0], 1e-3 * self.x[0], 7.0])
        seen.setdefault(self, []).append(obs)
        return obs

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self.observe(), *rest


gym.register("Watched-v0", Watched, max_episode_steps=17)
FLAGS = {"env_id": "Watched-v0", "normalize_observations": True, "num_seeds": 2}
pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def runs(monkeypatch):
    """Trains and hands over the Run, whose replay and environments can then be looked at."""
    seen.clear()

    def go(script, **flags):
        run = Run(script, quick(script, **(FLAGS | flags)))
        assert run.train() == 0
        return run

    return go


def as_seen(obs, mean, var):
    return ((obs - mean) / np.sqrt(var + 1e-8)).clip(-10, 10)


def agent_at(folder, name="agent.pt"):
    return torch.load(folder / name, weights_only=True)["agent"]


@pytest.mark.parametrize("script", [sac, hpo, hmc, langevin], ids=lambda script: script.__name__)
@pytest.mark.slow
def test_statistics_are_those_of_all_observations_of_training(script, runs):
    """numpy's over resets and steps, the random ones included, and nothing of evaluations; kept in agent.pt."""
    run = runs(script, learning_starts=100)
    kept = agent_at(run.folder)
    for i, env in enumerate(run.envs.envs):
        obs = np.array(seen[env.unwrapped][: 120 + 1 + run.envs.numbers[i]])
        assert len(obs) == len(seen[env.unwrapped]) == kept["normaliser.count"][i, 0, 0]  # 120 steps and each reset
        assert kept["normaliser.mean"][i, 0].numpy() == pytest.approx(obs.mean(0), rel=1e-12)
        var = (kept["normaliser.squares"] / kept["normaliser.count"])[i, 0].numpy()
        assert var == pytest.approx(obs.var(0), rel=1e-9) and var[2] == 0
        probe = np.array([[301.0, 2e-3, 7.0], [1e9, -1e9, 7.0]])
        stacked = torch.tensor(probe, dtype=torch.float32).expand(2, 2, 3)
        mine, want = run.agent.sees(stacked)[i].numpy(), as_seen(probe, obs.mean(0), obs.var(0))
        assert mine == pytest.approx(want, abs=2e-4) and mine[1].tolist() == [10, -10, 0]  # 300 in float32


def test_a_batch_is_normalised_as_it_is_drawn(runs):
    """Rows stay raw; obs and next_obs are normalised by the statistics of now, nothing else is."""
    run = runs(sac)
    rows, uniform = run.replay.rows, torch.tensor([[0.0, 0.5, 0.999]] * 2, dtype=torch.double)
    batch = run.replay.sample(uniform)
    for i in range(2):
        raw = rows[i, [0, 60, 119]].double().numpy()
        assert raw[:, 0].min() > 250  # what the environment gave
        count, mean, squares = (p.data[i, 0].numpy() for p in list(run.agent.normaliser.parameters())[:3])
        for part, first in ((batch.obs, 0), (batch.next_obs, 5)):
            want = as_seen(raw[:, first : first + 3], mean, squares / count)
            assert part[i].numpy() == pytest.approx(want, abs=2e-4) and np.abs(want[:, :2]).max() > 0.1
        assert batch.action[i].numpy() == pytest.approx(raw[:, 3:4]) and batch.reward[i].numpy() == pytest.approx(
            raw[:, 4]
        )


def test_acting_sees_what_training_sees(runs, monkeypatch):
    """The policy's network is never shown a raw observation: not in acting, learning or evaluation."""
    shown, forward = [], sac.Policy.forward
    monkeypatch.setattr(sac.Policy, "forward", lambda self, obs: shown.append(obs.abs().max()) or forward(self, obs))
    runs(sac)
    assert len(shown) > 200 and max(shown) <= 10


def test_without_the_flag_nothing_is_added(runs):
    run = runs(sac, normalize_observations=False)
    assert run.agent.normaliser is None and "sample" not in vars(run.replay)
    assert run.agent.raw_policies() == run.agent.policies()
    assert not any("normaliser" in name for name in agent_at(run.folder))


@pytest.mark.parametrize("script", [sac, hmc], ids=lambda script: script.__name__)
@pytest.mark.slow
def test_a_resumed_and_a_longer_run_are_the_run(script, runs):
    """To the bit: statistics, weights, replay, evaluations. 73 steps lie amid an episode."""
    flags = {"eval_frequency": 40} | ({"leapfrog_steps": 1} if script is hmc else {})
    whole = runs(script, total_timesteps=90, **flags).folder
    part = runs(script, total_timesteps=73, **flags).folder
    assert resume(script, part, "--total-timesteps", "90") == 0
    left, right = last_checkpoint(whole), last_checkpoint(part)
    assert differences(left, right) == [] and agent_at(part).keys() > NAMES
    assert all(torch.equal(a, agent_at(part)[name]) for name, a in agent_at(whole).items())
    for name in ("agent.pt", "agent-best.pt"):
        assert differences(agent_at(whole, name), agent_at(part, name)) == []


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(monkeypatch):
    """SIGKILL at random moments."""
    monkeypatch.setattr(survival, "run", run_in_a_fork)
    flags = "--num-seeds 2 --batch-size 16 --learning-starts 60 --total-timesteps 200 --eval-frequency 100".split()
    flags += "--eval-episodes 1 --no-compile --checkpoint-frequency 37 --normalize-observations".split()
    killed, differ, most = survival.kill("sac_hpo_continuous", "Hopper-v4", flags, 3, 1, Path.cwd())
    assert killed >= 1 and differ == [] and most == 0


def test_an_episode_that_begins_after_a_failure_counts_once():
    """What `load` plays again was counted before; an episode that it begins anew was not."""
    left = Episodes([gym.make("Watched-v0")], range(1))
    left.normaliser = built(sac.Args(num_seeds=1), lambda _: Normaliser(3))
    for _ in range(5):
        left.step(np.zeros((1, 1), np.float32))
    assert left.normaliser.count[0, 0].tolist() == [5] * 3
    right = Episodes([gym.make("Watched-v0")], range(1))
    right.normaliser = built(sac.Args(num_seeds=1), lambda _: Normaliser(3))
    right.load(left.state())
    assert right.normaliser.count.sum() == 0
    for _ in range(12):
        left.step(np.zeros((1, 1), np.float32))
    right.load(left.state())  # over, as when the next reset failed
    assert right.normaliser.count[0, 0].tolist() == [1] * 3 and right.numbers == [1]


def test_a_seed_is_the_same_alone_and_in_company(runs):
    """To the bit until networks act; their products may round otherwise in company."""
    flags = {
        "total_timesteps": 100,
        "random_steps": 90,
        "learning_starts": 90,
        "eval_frequency": 90,
        "keep_agents": True,
    }
    company = runs(sac, seed=2, num_seeds=3, **flags).folder
    alone = runs(sac, seed=3, num_seeds=1, **flags).folder
    for name in NAMES:
        many, one = (agent_at(folder, "agents/step-90.pt")[name] for folder in (company, alone))
        assert (torch.equal(many[1:2], one) and not torch.equal(many[:1], one)) or name == "normaliser.count"
    many, one = agent_at(company), agent_at(alone)
    assert all(
        torch.allclose(many[name].unflatten(0, (3, -1))[1], one[name].unflatten(0, (1, -1))[0], atol=1e-5)
        for name in one
    )


@pytest.mark.slow
def test_the_best_agent_keeps_the_statistics_of_its_step(runs):
    folder = runs(sac, eval_frequency=30, keep_agents=True).folder
    best = torch.load(folder / "agent-best.pt", weights_only=True)
    for i, step in enumerate(best["steps"]):
        kept = agent_at(folder, f"agents/step-{step}.pt")
        assert kept.keys() > NAMES and all(torch.equal(best["agent"][name][i], kept[name][i]) for name in NAMES)
    counts = [agent_at(folder, f"agents/step-{step}.pt")["normaliser.count"][0, 0, 0] for step in (30, 60)]
    assert counts == [30 + 2, 60 + 4]  # steps, and the resets of episodes of 17 steps


@pytest.mark.slow
def test_a_saved_agent_plays_what_was_evaluated(runs, monkeypatch):
    """play.py's agent, in the episodes of the run's last evaluation: evaluations.csv's returns; gap.py's states are
    those that networks see; two processes print the same."""
    folder = runs(hpo).folder
    agent = play.load(folder)
    envs = [[gym.make("Watched-v0") for _ in range(2)] for _ in range(2)]
    lines = [line.split(",") for line in (folder / "evaluations.csv").read_text().splitlines()]
    for column, policy in ((3, "leapfrog"), (5, "base")):
        returns, _ = evaluate(agent.raw_policies()[policy], envs, range(1, 3), 120, CPU)
        kept = [float(line[column]) for line in lines if line[0] == "120"]
        assert returns.flatten().tolist() == pytest.approx(kept, rel=1e-6)
    raw, _ = evaluate(agent.policies()["leapfrog"], envs, range(1, 3), 120, CPU)
    assert not np.allclose(raw.flatten(), [float(line[3]) for line in lines if line[0] == "120"], rtol=1e-3)
    assert gap.visited(agent).abs().max() <= 10
    monkeypatch.setattr(play, "START", 120)  # where evaluations of step 120 begin
    for row in play.play(play.Args(folder, episodes=1)):
        kept = [
            float(line[3 if row[2] == "leapfrog" else 5]) for line in lines if line[:3] == ["120", str(row[0]), "0"]
        ]
        assert row[3].tolist() == pytest.approx(kept, rel=1e-6)


@pytest.mark.slow
def test_two_processes_play_the_same():
    flags = "--env-id Pendulum-v1 --total-timesteps 150 --learning-starts 100 --eval-frequency 150 --eval-episodes 1"
    flags += " --batch-size 16 --random-steps 100"
    assert launch(sac, [*flags.split(), "--no-cuda", "--normalize-observations"]) == 0
    texts = [forked(ROOT / "analysis/play.py", newest(), "--episodes", "2")[1] for _ in range(2)]
    assert texts[0] == texts[1] and b"| 1 | 150 | base | 2 |" in texts[0]


def test_runs_and_agents_of_before_have_it_off(runs):
    """No such value in config.json, nor in agent.pt."""
    folder = runs(sac, normalize_observations=False, total_timesteps=73).folder
    config = json.loads((folder / "config.json").read_text())
    del config["args"]["normalize_observations"], config["source"]["normalize_observations"]
    (folder / "config.json").write_text(json.dumps(config))
    saved = torch.load(folder / "agent.pt", weights_only=True)
    del saved["args"]["normalize_observations"]
    torch.save(saved, folder / "agent.pt")
    assert play.load(folder).normaliser is None
    assert resume(sac, folder, "--total-timesteps", "80") == 0
    assert not any("normaliser" in name for name in agent_at(folder))


def test_the_pixel_script_refuses_it():
    args = pixels.Args(normalize_observations=True, compile=False, cuda=False)
    with pytest.raises(Refused, match="--normalize-observations is for numbers"):
        train(pixels, args)
    assert not Path("runs").exists()
