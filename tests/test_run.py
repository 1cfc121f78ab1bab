"""Whole runs: environments, evaluation, what a run leaves, the terminal, bad input."""

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import get_type_hints

import sac_continuous as sac
import sac_hpo_continuous as hpo
from runtime import arguments, logs, products
from runtime import run as running
from runtime.arguments import parse
from runtime.environments import make_env
from runtime.evaluation import evaluate
from runtime.run import launch
from runtime.streams import episode

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import FAMILY, built, newest, on_a_terminal, quick, resume, script_name, train

ROOT = Path(sac.__file__).parent
NARROW = pytest.mark.usefixtures("narrow")


@pytest.fixture
def script():
    """What runtime/ promises is tested once, on a script with a table and two readings."""
    return hpo


def run(script, *argv, **flags):
    """Trains and returns the run's folder."""
    assert train(script, *(parse(script, list(argv)) if argv else (quick(script, **flags),))) == 0
    return newest()


def weights(folder):
    return torch.load(folder / "agent.pt", weights_only=True)["agent"]


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# ------------------------------------------------------------------------------------- environments
def spy_on_replay(script, monkeypatch):
    stored, original = [], script.Replay.add
    monkeypatch.setattr(
        script.Replay, "add", lambda self, *row: stored.append([np.array(x) for x in row]) or original(self, *row)
    )
    return stored


@NARROW
def test_final_observations_and_terminations(script, monkeypatch):
    """Odd episodes of Counter terminate at 3, even ones are truncated at 5: neither stores a reset's observation."""
    stored = spy_on_replay(script, monkeypatch)
    run(script, env_id="Counter-v0", total_timesteps=24, learning_starts=20, num_seeds=2)
    counts = [(int(obs[0][0]), int(after[0][0]), bool(over[0])) for obs, _, _, after, over in stored]
    odd = [(0, 1, False), (1, 2, False), (2, 3, True)]
    even = [(i, i + 1, False) for i in range(5)]
    assert counts == (odd + even) * 3
    assert all(np.array_equal(row[0][0], row[0][1]) for row in stored)  # each seed has an environment of its own


@NARROW
def test_action_bounds(script, monkeypatch):
    """Normalised actions meet the environment's own box by the affine map; the replay keeps the normalised ones."""
    make_env("Counter-v0")  # tried here
    stored, reached = spy_on_replay(script, monkeypatch), []
    original = gym.spec("Counter-v0").entry_point.step
    monkeypatch.setattr(
        gym.spec("Counter-v0").entry_point, "step", lambda self, a: reached.append(a) or original(self, a)
    )
    run(script, env_id="Counter-v0", total_timesteps=30, learning_starts=10, eval_frequency=10**6)
    normalised = np.array([row[1][0] for row in stored])
    assert np.abs(normalised).max() <= 1 and np.ptp(normalised) > 1
    assert np.allclose(np.array(reached[:30]), np.array([4, 1]) + 2 * normalised, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Hopper-v5", "Humanoid-v4", "Pendulum-v1"])
def test_real_environments_without_noise(script, env_id, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        few = {"total_timesteps": 60, "learning_starts": 50, "eval_frequency": 10**6, "max_episode_steps": 40}
        run(script, env_id=env_id, num_seeds=2, **few)
    out, err = capfd.readouterr()
    assert "WARN" not in out + err and "eprecat" not in out + err and err == ""


@NARROW
def test_seeds_start_the_same_in_any_company(script, monkeypatch):
    """Initial weights, environment and warm-up actions of seed 5 do not depend on its neighbours."""
    made = []
    for seed, num in ((5, 1), (4, 3)):
        stored = spy_on_replay(script, monkeypatch)
        agents, original = [], script.Agent.__init__
        with monkeypatch.context() as patch:
            patch.setattr(
                script.Agent, "__init__", lambda self, *a, o=original, g=agents: (o(self, *a), g.append(self))[0]
            )
            patch.setattr(script.Agent, "update", lambda self, *a: {})
            run(script, seed=seed, num_seeds=num, total_timesteps=41, eval_frequency=10**6)
        i = 5 - seed
        parameters = [p.unflatten(0, (num, -1))[i] for p in agents[0].parameters()]
        made.append((parameters, [[column[i] for column in row] for row in stored[:40]]))
    assert all(torch.equal(p, q) for p, q in zip(made[0][0], made[1][0]))
    assert all(np.array_equal(a, b) for left, right in zip(made[0][1], made[1][1]) for a, b in zip(left, right))


# --------------------------------------------------------------------------- evaluation and repetition
@NARROW
@pytest.mark.slow
def test_evaluating_changes_nothing_and_runs_repeat(script):
    """The same command gives the same numbers twice, and whether or not it evaluates."""
    flags = {"num_seeds": 2, "total_timesteps": 80}
    folders = [run(script, eval_frequency=f, eval_episodes=e, **flags) for f, e in ((20, 3), (20, 3), (10**6, 1))]
    assert same(weights(folders[0]), weights(folders[1])) and same(weights(folders[0]), weights(folders[2]))
    tables = [(folder / "evaluations.csv").read_text() for folder in folders]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 1 + 4 * 2 * 3
    assert [row.split(",")[0] for row in tables[2].splitlines()] == ["step", "80", "80"]  # the end
    assert not same(weights(folders[0]), weights(run(script, seed=2, **flags)))


@NARROW
def test_no_leapfrog_steps_is_sac_through_a_whole_run():
    """K = 0 through the whole training loop, to the bit."""
    flags = {"num_seeds": 2, "total_timesteps": 80, "eval_frequency": 60}
    left, right = run(sac, **flags), run(hpo, leapfrog_steps=0, **flags)
    theirs = weights(right)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(left).items())
    rows = [list(csv.DictReader((folder / "evaluations.csv").open())) for folder in (left, right)]
    assert [r["return"] for r in rows[0]] == [r["return"] for r in rows[1]] == [r["return_base"] for r in rows[1]]


@NARROW
def test_evaluation_returns(script):
    """Against episodes stepped by hand with the policy's mean from the documented starts."""
    args = quick(script, num_seeds=2, seed=7)
    agent = built(args, script.Agent, 1, 1)
    envs = [[make_env("Drift-v0") for _ in range(2)] for _ in range(2)]
    for policy in agent.policies().values():
        returns, lengths = evaluate(policy, envs, range(7, 9), 500, torch.device("cpu"))
        assert (lengths == 20).all()
        for i, seed in enumerate((7, 8)):
            for e in range(2):
                env = gym.make("Drift-v0")
                start = episode(seed, 500, e)
                obs, total, over = env.reset(seed=start)[0], 0.0, False
                while not over:
                    x = torch.zeros(2, 1, 1)
                    x[i] = torch.as_tensor(obs)
                    with torch.no_grad():
                        obs, reward, _, over, _ = env.step(policy(x)[i, 0].numpy())
                    total += reward
                assert returns[i, e] == pytest.approx(total, abs=1e-4)


# ---------------------------------------------------------------------------------- what a run leaves
@pytest.mark.slow
@NARROW
def test_what_a_run_leaves(script, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(running, "LOG_EVERY", 20)
    before = int(time.time())
    flags = "--env-id=Drift-v0 --seed 3 --num-seeds 2 --total-timesteps 120 --learning-starts 40 --batch_size 16"
    folder = run(script, *flags.split(), "--eval-frequency", "60", "--autotune", "--no-cuda", "--no-compile")
    stem, stamp = folder.name.rsplit("__", 1)
    assert stem == f"Drift-v0__{script_name(script)}__3" and before <= int(stamp) <= before + 60
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "evaluations.csv",
        "agent.pt",
        "agent-best.pt",
        "checkpoints",
        "lock",
        "seed-3",
        "seed-4",
    }

    config = json.loads((folder / "config.json").read_text())
    assert config["args"] == vars(parse(script, ["--env-id", "Drift-v0"])[0]) | {
        "seed": 3, "num_seeds": 2, "total_timesteps": 120, "learning_starts": 40,
        "random_steps": 40, "batch_size": 16,
        "eval_frequency": 60, "autotune": True, "cuda": False, "compile": False,
        "products": products.choose("highest", "auto", torch.device("cpu")),
    }  # fmt: skip
    assert config["source"]["batch_size"] == config["source"]["cuda"] == "command line"
    assert config["source"]["alpha"] == "HPO Tables 3 and 4, row Hopper, a tuned temperature"
    assert config["source"]["gamma"] == "default"
    assert config["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", config["commit"])

    rows = list(csv.DictReader((folder / "evaluations.csv").open()))
    assert list(rows[0]) == ["step", "seed", "episode", "return", "length", "return_base"]
    keys = [(row["step"], row["seed"], row["episode"]) for row in rows]
    assert keys == [(str(t), str(s), str(e)) for t in (60, 120) for s in (3, 4) for e in range(10)]

    for seed in (3, 4):
        events = EventAccumulator(str(folder / f"seed-{seed}"))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        losses = {f"losses/qf{i}_{what}" for i in (1, 2) for what in ("loss", "values")}
        losses |= {f"losses/{x}" for x in ("qf_loss", "actor_loss", "alpha", "alpha_loss", "entropy")}
        charts = {"SPS", "episodic_return", "episodic_length", "clamped_fraction_replay"}
        charts |= {"clamped_fraction"} if script is hpo else set()
        charts = {f"charts/{x}" for x in charts}
        evals = {f"eval/episodic_{x}" for x in ("return", "length", "return_base")}
        assert tags == losses | charts | evals
        (text,) = events.Tensors("hyperparameters/text_summary")
        shown = text.tensor_proto.string_val[0].decode()
        assert (
            "| batch_size | 16 | command line |" in shown
            and "| alpha | 1.0 | HPO Tables 3 and 4, row Hopper, a tuned temperature |" in shown
        )
        values = [(e.step, e.value) for e in events.Scalars("eval/episodic_return")]
        means = [
            np.mean([float(r["return"]) for r in rows if (r["step"], r["seed"]) == (str(t), str(seed))])
            for t in (60, 120)
        ]
        assert values == [(t, pytest.approx(m, rel=1e-5)) for t, m in zip((60, 120), means)]

    saved = torch.load(folder / "agent.pt", weights_only=True)
    agent = built(script.Args(**saved["args"]), script.Agent, 1, 1)
    agent.load_state_dict(saved["agent"])
    assert saved["step"] == 120


@NARROW
def test_two_runs_in_one_second_keep_apart(script, monkeypatch):
    monkeypatch.setattr(logs.time, "time", lambda: 1_700_000_000.5)
    folders = {run(script, total_timesteps=5, learning_starts=1, eval_frequency=10).name for _ in range(2)}
    assert folders == {f"Drift-v0__{script_name(script)}__1__170000000{i}" for i in (0, 1)}


@NARROW
@pytest.mark.slow
def test_weights_and_biases(script, monkeypatch):
    """Offline: a run for each seed, in one group, inside the run's folder, with TensorBoard's metric names."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(running, "LOG_EVERY", 50)
    started, original = [], wandb.init

    def init(**settings):
        tracked = original(**settings)
        logged, log = {}, tracked.log

        def note(values, step):
            assert step == values["global_step"]  # W&B drops a step that it has seen, so a resumed run doubles none
            logged.update(values)
            log(values, step=step)

        monkeypatch.setattr(tracked, "log", note)
        started.append((settings, logged))
        return tracked

    monkeypatch.setattr(wandb, "init", init)
    flags = (
        "--env-id Drift-v0 --total-timesteps 60 --learning-starts 40 --batch-size 16 --eval-frequency 30 --num-seeds 2"
    )
    folder = run(script, *flags.split(), "--no-cuda", "--track", "--wandb-project-name", "p")
    assert [settings["name"] for settings, _ in started] == [f"{folder.name}__seed-{s}" for s in (1, 2)]
    assert {(settings["group"], settings["project"]) for settings, _ in started} == {(folder.name, "p")}
    assert len(list((folder / "wandb").glob("offline-run-*/run-*.wandb"))) == 2
    for _, logged in started:
        assert {"charts/episodic_return", "losses/qf1_loss", "eval/episodic_return", "global_step"} <= set(logged)
    assert started[0][1]["eval/episodic_return"] != started[1][1]["eval/episodic_return"]
    assert resume(script, folder, "--total-timesteps", "70") == 0
    settings = [settings for settings, _ in started]
    assert [s["id"] for s in settings[:2]] == [s["id"] for s in settings[2:]] and settings[2]["resume"] == "allow"


@NARROW
@pytest.mark.slow
def test_video(script):
    """The first episode of each evaluation, for every seed and reading, as a film that opens."""
    import imageio.v3 as iio

    folder = run(script, env_id="Counter-v0", total_timesteps=60, num_seeds=2, capture_video=True)
    films = sorted(folder.glob("seed-*/videos/*.mp4"))
    expected = {(f"seed-{seed}", f"step-60-{name}") for seed in (1, 2) for name in ("leapfrog", "base")}
    assert {(film.parts[-3], film.name.split("-episode")[0]) for film in films} == expected
    frames = iio.imread(films[0], plugin="FFMPEG")
    assert len(films) == len(expected)
    assert frames.shape[1:] == (32, 32, 3) and 3 <= len(frames) <= 7


# --------------------------------------------------------------------------------------- the terminal
def command(script, *flags, **options):
    argv = [sys.executable, str(ROOT / f"{script_name(script)}.py"), "--no-cuda", "--no-compile", *flags]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options
    )


@pytest.mark.slow
def test_plain_lines_on_a_pipe_and_ctrl_c(script):
    """README's usage as a process; on a pipe plain lines; Ctrl-C leaves readable results and code 130."""
    flags = [
        "--leapfrog-steps",
        "2",
        "--learning-starts",
        "25",
        "--eval-frequency",
        "30",
        "--eval-episodes",
        "1",
        "--batch-size",
        "8",
    ]
    process = command(script, "--env-id", "Pendulum-v1", *flags, stderr=subprocess.PIPE)
    lines = []
    while not lines or not lines[-1].startswith("step 60,"):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""
    assert re.fullmatch(r"step 30, \d+ steps/s, \d+ s left, last evaluation -\d+\.\d\n", lines[-2])
    assert lines[0].startswith(f"{script_name(script)} on Pendulum-v1, seeds 1 to 1, cpu, 1 threads: runs/")
    assert any(line.startswith("  HPO Tables 3 and 4, row Hopper, a tuned temperature: alpha 1.0") for line in lines)
    folder = Path(re.search("runs/.*", lines[0]).group())
    stopped = re.search(rf"stopped at step (\d+), [\d.]+ steps/s: {folder}", rest)
    assert torch.load(folder / "agent.pt", weights_only=True)["step"] == int(stopped.group(1)) >= 60
    assert len((folder / "evaluations.csv").read_text().splitlines()) >= 3


@NARROW
@pytest.mark.slow
def test_progress_bar_on_a_terminal(script):
    """Steps, rate, time left and the last evaluation, drawn on a pseudo-terminal."""
    flags = "--env-id Drift-v0 --total-timesteps 300 --learning-starts 290 --eval-frequency 100 --batch-size 8"
    code, screen = on_a_terminal(script, f"{flags} --no-cuda --no-compile".split(), 120)
    assert code == 0, screen
    last = screen.split("\r")[-4:]
    assert re.search(r"300/300 \[\d\d:\d\d<00:00, +[\d.]+step/s, last evaluation -\d+\.\d\]", "".join(last)), last


def test_help_shows_the_row_in_force(script, capsys):
    for env_id, alpha, row in (
        ("Humanoid-v5", "0.05", "Humanoid"),
        ("Pendulum-v1", "1.0", "Hopper, a tuned temperature"),
        ("Ant-v4", "0.2", "Ant"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(script, [f"--env-id={env_id}", "--help"])
        text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
        assert (
            stop.value.code == 0 and f"HPO Tables 3 and 4, row {row}: alpha" in text and f"(default: {alpha})" in text
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_run_on_a_gpu(script):
    """Trains, evaluates and saves on a GPU, from the initial weights that a CPU draws."""
    flags = {"cuda": True, "num_seeds": 2, "env_id": "Hopper-v4", "autotune": True}
    folder = run(script, **flags, evolve_target=True, momentum_term=True)
    saved = torch.load(folder / "agent.pt", weights_only=True, map_location="cpu")["agent"]
    assert all(torch.isfinite(value).all() for value in saved.values())
    args = quick(script, num_seeds=2)
    left, right = (built(args, script.Agent, 11, 3, device=torch.device(where)) for where in ("cpu", "cuda"))
    assert same(left.state_dict(), {name: value.cpu() for name, value in right.state_dict().items()})


# ------------------------------------------------------------------------------------------ the tables
def test_tables_three_and_four():
    """Written out a second time, as HPO prints them (columns read by D2), and D10."""
    published = """
        HalfCheetah                 0.2  1   0.5 0.2  3 2 32 state
        Hopper                      0.2  0.1 1.5 0.15 2 2 32 state
        Walker2d                    0.2  0.2 1.5 0.15 3 2 32 state
        Ant                         0.2  0.1 1.0 0.1  3 1 32 no
        Humanoid                    0.05 1   1   0.1  3 1 64 no
        HumanoidBullet              0.05 0.4 1.5 0.2  3 1 64 no
        HumanoidFlagrunBullet       0.05 0.2 1   0.15 3 2 32 no
        HumanoidFlagrunHarderBullet 0.05 0.2 1.5 0.15 3 2 64 no"""
    assert len(hpo.TABLE) == len(sac.TABLE) == 8
    for line in published.strip().splitlines():
        name, alpha, train, explore, step, k, layers, h, state = line.split()
        suffixes = ["Env-v0"] if "Bullet" in name else ["-v4", "-v5"]
        for suffix in suffixes:
            args, _ = parse(hpo, ["--env-id", name + suffix])
            assert (args.alpha, args.momentum_std_train, args.momentum_std_explore) == (
                float(alpha),
                float(train),
                float(explore),
            )
            assert (args.step_size, args.leapfrog_steps, args.policy_layers) == (float(step), int(k), int(layers))
            assert (args.leapfrog_hidden, args.leapfrog_state) == (int(h), state == "state")
            plain, _ = parse(sac, ["--env-id", name + suffix])
            assert (plain.alpha, plain.policy_layers) == (float(alpha), 2)


def test_a_flag_wins_over_the_table():
    args, source = parse(hpo, ["--env-id", "Ant-v5", "--step_size", "0.3", "--no-leapfrog-state", "--policy-layers=2"])
    assert (args.step_size, args.leapfrog_state, args.policy_layers, args.leapfrog_steps) == (0.3, False, 2, 3)
    given = {name for name, origin in source.items() if origin == "command line"}
    assert given == {"env_id", "step_size", "leapfrog_state", "policy_layers"}
    assert source["alpha"] == "HPO Tables 3 and 4, row Ant" and source["gamma"] == "default"
    assert all(parse(s, [])[0] == s.Args() for s in (sac, hpo))  # the class's own values are Hopper's row
    for unknown in ("Pendulum-v1", "HopperBulletEnv-v0", "some.module:Swimmer-v4", "Drift-v0"):
        for script in FAMILY.values():  # D11
            assert parse(script, ["--env-id", unknown])[0] == script.Args(env_id=unknown, autotune=True, alpha=1.0)
            args, source = parse(script, ["--env-id", unknown, "--no-autotune"])
            assert args == script.Args(env_id=unknown) and (args.alpha, args.autotune) == (0.2, False)
            assert source["alpha"] == "HPO Tables 3 and 4, row Hopper"
            args, _ = parse(script, ["--env-id", unknown, "--autotune", "--alpha", "0.5"])
            assert (args.alpha, args.autotune) == (0.5, True)
    assert parse(sac, ["--env-id", "Ant-v4", "--autotune"])[0].alpha == 0.2


def test_defaults_of_both_papers(script):
    """Table 4 and D12."""
    args = script.Args()
    assert (args.batch_size, args.buffer_size, args.policy_lr, args.q_lr) == (256, 10**6, 3e-4, 3e-4)
    assert (args.gamma, args.tau, args.learning_starts, script.HIDDEN) == (0.99, 0.005, 256, 256)
    assert (args.eval_frequency, args.eval_episodes, args.autotune) == (10_000, 10, False)


# ------------------------------------------------------------------------------------------- bad input
BAD = [
    ("--env-id Hoper-v4", "unknown to Gymnasium; the nearest names are Hopper-v4"),
    ("--env-id CartPole-v1", r"acts in Discrete\(2\): choose.*continuous Box of shape \(n,\)"),
    ("--env-id Unbounded-v0", "acts in Box.*inf.*bounded"),
    ("--env-id Image-v0", "observes.*an image.*observes a Box of shape"),
    ("--env-id Hopper-v2", "cannot be made"),
    ("--env-id nowhere:Hopper-v4", "cannot be made.*nowhere"),
    ("--env-id two_words?", "cannot be made|unknown"),
    ("--env-id LunarLander-v3 --no-cuda", "cannot be made.*pip install"),
    ("--gamma nan", "--gamma is nan: choose a value from 0 to 1"),
    ("--gamma 1.01", "--gamma is 1.01"),
    ("--tau 0", "--tau"),
    ("--alpha -1", "--alpha"),
    ("--alpha inf", "--alpha"),
    ("--policy-lr nan", "--policy-lr"),
    ("--q-lr 0", "--q-lr"),
    ("--batch-size 0", "--batch-size is 0"),
    ("--buffer-size 0", "--buffer-size"),
    ("--seed -1", "--seed"),
    ("--seed 4294967295 --num-seeds 3", "--seed 4294967295 leaves no room"),
    ("--num-seeds 0", "--num-seeds"),
    ("--policy-layers 3", "--policy-layers is 3: choose a value from 1 to 2"),
    ("--eval-episodes 0", "--eval-episodes"),
    ("--eval-frequency 0", "--eval-frequency"),
    ("--learning-starts -1", "--learning-starts"),
    ("--total-timesteps 5000", "--total-timesteps 5000 must exceed --random-steps 10000"),
    ("--target-entropy -3", "--target-entropy is aimed at by --autotune alone: add that"),
    ("--seed one", "--seed.*one"),
    ("--sede 1", "sede"),
    ("--gamma", "--gamma"),
    ("--cuda", "--cuda: PyTorch finds no GPU"),
    ("--track", "--track: no account is known.*WANDB_MODE=offline"),
]
BAD_HPO = [
    ("--leapfrog-steps -1", "--leapfrog-steps"),
    ("--step-size nan", "--step-size"),
    ("--momentum-std-train 0", "--momentum-std-train"),
    ("--momentum-std-explore inf", "--momentum-std-explore"),
    ("--leapfrog-hidden 0", "--leapfrog-hidden"),
]
CASES = [(sac, *case) for case in BAD] + [(hpo, *case) for case in BAD_HPO]


def refused(script, capfd, argv, message):
    assert launch(script, argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1, err
    assert err.startswith("script: ") and re.search(message, err), err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(("script", "flags", "message"), CASES, ids=[f for _, f, _ in CASES])
def test_bad_input(script, flags, message, capfd, monkeypatch):
    """One line, exit code 2, nothing written."""
    if "--cuda" in flags.split() and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb.login", lambda prompt: False)
    refused(script, capfd, flags.split(), message)


@pytest.mark.parametrize("flag, names", [("--no-cuda", r"g\+\+, or what CXX"), ("--cuda", "gcc or clang, or what CC")])
def test_no_compiler(script, capfd, monkeypatch, flag, names):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", "")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    refused(script, capfd, [flag], f"--compile needs {names} names: install it, or start with --no-compile")
    monkeypatch.setenv("CC" if flag == "--cuda" else "CXX", "nothing-here")
    refused(script, capfd, [flag], f"--compile needs {names}")


def test_refused_credentials(script, capfd, monkeypatch):
    def login(prompt):
        raise RuntimeError("the key is wrong")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb.login", login)
    refused(script, capfd, ["--track"], "--track: the key is wrong; run `wandb login`")


def test_replay_that_does_not_fit(script, capfd, monkeypatch):
    original = torch.empty

    def empty(*shape, **options):
        if shape and 10**6 in (shape if isinstance(shape[0], int) else shape[0]):
            raise RuntimeError("no memory")
        return original(*shape, **options)

    monkeypatch.setattr(torch, "empty", empty)
    assert launch(script, ["--no-cuda", "--num-seeds", "4"]) == 2 and list(Path.cwd().iterdir()) == []
    assert re.search(r"--buffer-size 1000000: 0\.4 GB for all seeds do not fit on cpu", capfd.readouterr().err)


def test_every_number_has_limits(member):
    numbers = {name for name, hint in get_type_hints(member.Args).items() if hint in (int, float, float | None)}
    assert not {*arguments.LIMITS} & {*member.LIMITS} and {*member.LIMITS} <= numbers
    assert numbers <= {*arguments.LIMITS, *member.LIMITS}


@pytest.mark.parametrize(("flag", "package"), [("track", "wandb"), ("capture-video", "moviepy")])
def test_missing_optional_package(script, capfd, monkeypatch, flag, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    refused(script, capfd, [f"--{flag}"], f"--{flag} needs the package {package}: pip install {package}")


def test_machine_that_cannot_render(script, capfd, monkeypatch):
    def render(self):
        raise RuntimeError("no OpenGL here")

    monkeypatch.setattr(gym.spec("Counter-v0").entry_point, "render", render)
    refused(script, capfd, ["--env-id", "Counter-v0", "--capture-video"], "cannot be made to be drawn: no OpenGL here")


@pytest.mark.slow
def test_importing_does_nothing():
    code = f"import sys; sys.argv = ['x', '--nonsense']; import {', '.join(map(script_name, FAMILY.values()))}"
    path = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ablations")])}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"") and list(Path.cwd().iterdir()) == []
