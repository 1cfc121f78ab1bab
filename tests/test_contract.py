"""The smallest script that runtime/contract.py describes, trained, stopped, gone on to the bit, evaluated, played."""

import importlib
import os
import signal
import sys
from pathlib import Path

from analysis import play
from runtime import home
from runtime.evaluation import evaluate
from runtime.run import launch

import gymnasium as gym
import pytest
import torch
from conftest import CPU, Drift, built, newest

SMALLEST = '''"""Deterministic policy gradient: a policy follows the slope of one critic, and explores by noise."""

import dataclasses
import sys
from typing import NamedTuple

from runtime.arguments import RunArgs
from runtime.contract import Learner
from runtime.replay import Ring
from runtime.run import launch
from runtime.seeds import Adam, Linear, take

import torch
from torch import Tensor


@dataclasses.dataclass
class Args(RunArgs):
    batch_size: int = 16  # transitions in an update
    warm_up: int = 40  # random steps before the first update
    lr: float = 1e-2  # Adam's learning rate


LIMITS = {"batch_size": (1, 10**6), "warm_up": (1, 10**9), "lr": (1e-9, 1)}


class Agent(Learner):
    def __init__(self, args, obs_dim, act_dim):
        super().__init__()
        self.act_dim = act_dim
        self.hidden, self.q, self.mean = Linear(obs_dim + act_dim, 32), Linear(32, 1), Linear(obs_dim, act_dim)
        self.q_optimizer = Adam([*self.hidden.parameters(), *self.q.parameters()], args.lr)
        self.policy_optimizer = Adam(self.mean.parameters(), args.lr)

    def noise_shapes(self):
        return {"action": (1, self.act_dim)}, {}

    def policy(self, obs):
        return self.mean(obs).tanh()

    @torch.no_grad()
    def act(self, obs, noise):
        return (self.policy(obs) + 0.3 * noise.action).clamp(-1, 1)

    def policies(self):
        return {"policy": self.policy}

    def value(self, obs, action):
        return self.q(self.hidden(obs, action).relu()).squeeze(-1)

    def q_loss(self, batch):
        with torch.no_grad():
            y = batch.reward + 0.9 * (1 - batch.terminated) * self.value(batch.next_obs, self.policy(batch.next_obs))
        loss = (self.value(batch.obs, batch.action) - y).square().mean(-1)
        return loss, {"losses/qf_loss": loss}

    def policy_loss(self, obs):
        return -self.value(obs, self.policy(obs)).mean(-1), {}

    def update(self, batch):
        seen = self.q_optimizer.minimise(self.q_loss, batch)
        return seen | self.policy_optimizer.minimise(self.policy_loss, batch.obs)


class Batch(NamedTuple):
    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor


class Replay(Ring):
    def __init__(self, obs_dim, act_dim):
        self.columns = obs_dim, act_dim, 1, obs_dim, 1
        super().__init__("total_timesteps", 300, sum(self.columns))

    def sample(self, uniform):
        parts = take(self.rows, (uniform * self.size).long()).split(self.columns, dim=-1)
        return Batch(*(x.squeeze(-1) if i in (2, 4) else x for i, x in enumerate(parts)))


def train(args, run):
    envs = run.environments()
    agent = run.side_by_side(Agent, args, envs.obs_dim, envs.act_dim)
    replay = run.side_by_side(Replay, envs.obs_dim, envs.act_dim)
    act, learn = run.fast(agent, lambda uniform, noise: agent.update(replay.sample(uniform)))
    for step in run.steps(replay):
        numbers = run.numbers(step)
        action = act(envs.obs, numbers.acting) if step >= args.warm_up else envs.random_actions()
        if step >= args.warm_up:
            for uniform, noise in numbers.updates:
                run.record(learn(uniform, noise))
        replay.add(*envs.step(action))


if __name__ == "__main__":
    sys.exit(launch(sys.modules[__name__]))
'''
FLAGS = "--env-id Drift-v0 --num-seeds 2 --total-timesteps 400 --eval-frequency 100 --eval-episodes 2 --no-cuda"


@pytest.fixture
def smallest(tmp_path, monkeypatch):
    (tmp_path / "smallest.py").write_text(SMALLEST)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("smallest")
    del sys.modules["smallest"]


def learned(folder):
    return torch.load(folder / "agent.pt", weights_only=True)


@pytest.mark.slow
def test_the_smallest_script(smallest, monkeypatch, capfd):
    """It learns; a run that was stopped equals one that was not; its agent on disk plays what was evaluated."""
    assert launch(smallest, FLAGS.split()) == 0
    whole, steps, original = newest(), [], Drift.step

    def step(self, action):
        steps.append(1)
        if len(steps) == 250:  # of two environments, and of evaluations
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(Drift, "step", step)
        assert launch(smallest, FLAGS.split()) == 128 + signal.SIGTERM
    stopped = newest([whole])
    assert 40 < learned(stopped)["step"] < 400 and "go on with: python" in capfd.readouterr().out
    assert launch(smallest, ["--resume", str(stopped)]) == 0
    assert learned(stopped)["step"] == learned(whole)["step"] == 400
    left, right = (learned(folder)["agent"] for folder in (whole, stopped))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert (whole / "evaluations.csv").read_text() == (stopped / "evaluations.csv").read_text()

    agent = built(smallest.Args(num_seeds=2, cuda=False), smallest.Agent, 1, 1)
    agent.load_state_dict(left)
    envs = [[gym.make("Drift-v0") for _ in range(2)] for _ in range(2)]
    returns, lengths = evaluate(agent.policy, envs, range(1, 3), 400, CPU)
    assert (lengths == 20).all()
    kept = [line.split(",") for line in (whole / "evaluations.csv").read_text().splitlines()]
    last = [float(row[3]) for row in kept if row[0] == "400"]  # step, seed, episode, return
    assert returns.flatten().tolist() == pytest.approx(last, rel=1e-6)
    still, _ = evaluate(lambda obs: 0 * obs, envs, range(1, 3), 400, CPU)
    assert returns.mean() > still.mean()  # it has learned to go to the middle


def test_the_smallest_script_is_played(smallest, monkeypatch):
    assert launch(smallest, [*FLAGS.split(), "--total-timesteps", "60"]) == 0
    monkeypatch.setattr(home, "script_file", lambda name: Path(smallest.__file__))
    rows = play.play(play.Args(newest(), episodes=3))
    assert [(*row[:3], len(row[3])) for row in rows] == [(1, 60, "policy", 3), (2, 60, "policy", 3)]
