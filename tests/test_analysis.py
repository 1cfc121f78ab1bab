"""From run folders to results files, tables and smoothed curves, on numbers small enough to check by hand."""

import contextlib
import csv
import dataclasses
import importlib
import json
import sys
from pathlib import Path

import sac_hpo_continuous as hpo
import sac_hpo_pixels as px
from analysis import collect, curves, gap, pictures, play, records, report, scalars, tables
from analysis.checks import throughput
from analysis.experiments import clamped, controllers
from runtime import environments, home
from runtime.arguments import parse
from runtime.messages import Refused
from runtime.streams import episode

import baseline1
import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
from conftest import forked, newest, quick, train
from matplotlib import image
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter

RETURNS = {
    "sac_continuous": [[1, 5, 3], [2, 2, 8]],
    "sac_hpo_continuous": [[4, 6, 9], [6, 13, 10]],
}  # seeds × evaluations


def run_folder(name, script, seed, curve, gamma=0.99, missing=0):
    """A run of one seed: two episodes an evaluation, one below and one above the curve."""
    folder = Path(name)
    folder.mkdir()
    args = {"env_id": "Toy-v0", "seed": seed, "num_seeds": 1, "gamma": gamma, "autotune": True, "cuda": False}
    args |= {"eval_frequency": 100, "total_timesteps": 100 * max(1, len(curve) + missing)}
    source = dict.fromkeys(args, "default") | {"env_id": "command line", "cuda": "command line"}
    config = {"script": script, "args": args, "source": source, "commit": "c" * 40, "device": "cpu, 1 threads"}
    config |= {"python": "3.11", "packages": {name: "1" for name in collect.PACKAGES}}
    (folder / "config.json").write_text(json.dumps(config))
    extra = script == "sac_hpo_continuous"
    lines = ["step,seed,episode,return,length" + ",return_base" * extra]
    for t, value in enumerate(curve):
        for e in range(2):
            lines.append(f"{100 * (t + 1)},{seed},{e},{value + 2 * e - 1},10" + f",{value - 1}" * extra)
    (folder / "evaluations.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def results():
    paths = []
    for script, seeds in RETURNS.items():
        folders = [
            run_folder(f"{script}{seed}", script, seed, curve) for seed, curve in reversed(list(enumerate(seeds)))
        ]
        name, text = collect.collect(folders)
        assert name == f"Toy-v0__{script}.csv"
        assert text.startswith(
            f"# python {script}.py --env-id Toy-v0 --no-cuda\n#   commit {'c' * 40}; cpu, 1 threads\n"
        )
        paths.append(Path(name))
        paths[-1].write_text(text)
    return paths


def test_arms_of_one_script_have_names_of_their_own():
    """By values: a default said aloud is no arm, nor is the rhythm of evaluations, and a table row is the default."""

    def named(script, **values):
        own = vars(parse(importlib.import_module(script), ["--env-id", "Ant-v4"])[0])
        config = {"script": script, "args": own | values, "source": dict.fromkeys(own, "command line")}
        return records.variant(config)

    assert named("sac_hpo_continuous") == named("sac_hpo_continuous", leapfrog_steps=3, eval_frequency=77) == []
    assert named("sac_continuous", seed=4, num_seeds=2, total_timesteps=7, compile=False) == []
    assert named("sac_hpo_continuous", evolve_target=True, momentum_std_explore=0.5) == [
        "momentum-std-explore-0.5",
        "evolve-target",
    ]
    assert named("baseline3", leapfrog_state=True, policy_layers=2) == ["policy-layers-2", "leapfrog-state"]
    key = records.identity(Path("Ant-v4__sac_hpo_continuous__evolve-target__alpha-0.1.csv"))
    assert (key.env_id, key.name) == ("Ant-v4", "sac_hpo_continuous --evolve-target --alpha-0.1")


def test_a_collected_command_names_what_was_once_a_default():
    own = vars(parse(baseline1, ["--env-id", "Hopper-v4"])[0])
    source = dict.fromkeys(own, "default") | {"env_id": "command line"}
    config = {"script": "baseline1", "args": own | {"normalize_gradient": False}, "source": source}
    assert records.command(config) == "python ablations/baseline1.py --env-id Hopper-v4 --no-normalize-gradient"
    config["args"] = own
    assert records.command(config) == "python ablations/baseline1.py --env-id Hopper-v4"


def test_names_of_files_are_names_again():
    """A task of one's own: its name with a colon and its arguments come back from the file as from the folder."""
    own = vars(parse(baseline1, ["--env-id", "Hopper-v4"])[0]) | {"env_id": "mine:Task-v0", "env_kwargs": {"size": 3}}
    config = {"script": "baseline1", "args": own, "source": dict.fromkeys(own, "command line")}
    path = Path(records.file_stem(config) + ".csv")
    path.write_text('#   values {"form": 2, "env_id": "mine:Task-v0"}\nstep,seed,episode,return,length\n')
    flags = tuple(f"--{flag}" for flag in records.variant(config))
    assert records.identity(path)[:3] == ("mine:Task-v0", "baseline1", flags) and path.stem.startswith("mine_Task-v0__")
    path.write_text(path.read_text().replace("Task-v0", "Else-v0"))  # renamed by hand: the name wins
    assert records.identity(path).env_id == "mine_Task-v0"


def test_each_environment_has_its_own_reference(results, capfd):
    """SAC of a task whose runs all have a flag that those of another lack; and a task without it is told."""
    arms = records.read_arms(results)
    more = [dataclasses.replace(arm, env_id="Mine-v0", flags=("--learning-starts-9", *arm.flags)) for arm in arms]
    alone = tables.differences_table(more).splitlines()[2:]
    assert tables.differences_table([*arms, *more]).splitlines()[-3:] == [
        line.replace("sac_hpo_continuous", "sac_hpo_continuous --learning-starts-9") for line in alone
    ]
    assert not capfd.readouterr().err
    assert tables.differences_table([*arms, more[1]]) == tables.differences_table(arms)
    assert "sac_continuous is not among the files of Mine-v0" in capfd.readouterr().err
    older = [dataclasses.replace(arms[0], form=1), dataclasses.replace(arms[1], form=2)]  # another start
    assert tables.differences_table(older) == tables.differences_table(arms)
    assert capfd.readouterr().err.count("their codes begin a run otherwise (D12), so the start is in it") == 1


def test_collected_files_hold_the_runs(results):
    for path, seeds in zip(results, RETURNS.values()):
        (arm,) = records.read_arms([path])
        episodes = arm.values["return"]
        assert arm.steps.tolist() == [100, 200, 300] and arm.seeds == [0, 1]
        assert episodes.mean(2).tolist() == seeds and (episodes[..., 1] - episodes[..., 0] == 2).all()


def test_tables(results):
    """Best by seed (D16): SAC 5 and 8, SAC-HPO 9 and 13; the best of the mean curves 5.5 and 9.5."""
    arms = records.read_arms(results)
    text = tables.returns_table(arms)
    assert "| Toy-v0 | sac_continuous | 2 | 300 | 6 ± 2 | 5, 8 | 6 | 6 ± 4 | 4 ± 1 |" in text
    assert "| Toy-v0 | sac_hpo_continuous | 2 | 300 | 11 ± 3 | 9, 13 | 10 | 10 ± 1 | 8 ± 2 |" in text
    # Welch by hand: means 6.5 and 11, variances 4.5 and 8, so a standard error of 2.5 and 1.85 degrees of freedom
    assert "| Toy-v0 | sac_hpo_continuous | best | +4 | [-7, +16] |" in tables.differences_table(arms)
    assert "| +1.0 | no seed differs | 6 of 6 |" in tables.readings_table(arms)
    other = Path("Else-v0__sac_continuous.csv")
    other.write_text("step,seed,episode,return,length\n" + "".join(f"{t},1,0,{t / 10},9\n" for t in (100, 250)))
    assert tables.steps_table(records.read_arms([*results, other])).splitlines()[2:] == [
        *(f"| Toy-v0 | {t} | {' | '.join(report.spread(np.array(x)[:, i]) for x in RETURNS.values())} |"
          for i, t in enumerate((100, 200, 300))),
        "| Else-v0 | 100 | 10 |  |", "| Else-v0 | 250 | 25 |  |",
    ]  # fmt: skip
    shorter = records.read_arms(results, 200)  # as if the runs had been shorter
    for whole, part in zip(arms, shorter):
        assert part.steps.tolist() == [100, 200] == whole.steps.tolist()[:2]
        assert np.array_equal(part.values["return"], whole.values["return"][:, :2])
    assert "| 2 | 200 |" in tables.returns_table(shorter) and "4 of 4" in tables.readings_table(shorter)
    assert tables.differences_table(shorter) != tables.differences_table(arms)


def test_holm_is_bonferroni_closed_under_subsets():
    """A hypothesis falls at a level if every set with it falls by Bonferroni: its p is the largest of theirs."""
    rng = np.random.default_rng(0)
    for n in range(7):
        for p in (rng.random(n) ** 3, rng.choice([0.001, 0.02, 0.02, 0.4], n), np.full(n, 1.0)):
            sets = [[i for i in range(n) if bits >> i & 1] for bits in range(1, 2**n)]
            each = [[min(1, len(those) * p[those].min()) for those in sets if i in those] for i in range(n)]
            found = tables.by_holm(list(p))
            assert found == pytest.approx([max(values) for values in each], abs=1e-15)
            assert (p <= found).all() and (found <= 1).all()
            assert (np.diff(found[np.argsort(p, kind="stable")]) >= 0).all()
    assert tables.by_holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 3 · 0.01, 2 · 0.03


def test_p_values_in_a_table(results, capfd):
    """Welch's by hand: t = 4.5 / 2.5 at 1.85 degrees of freedom; each measure is corrected for its own differences."""
    degrees = (4.5 / 2 + 8 / 2) ** 2 / ((4.5 / 2) ** 2 + (8 / 2) ** 2)
    p = 2 * scipy.stats.t.sf(4.5 / 2.5, degrees)
    arms = records.read_arms(results)
    twice = [*arms, *(dataclasses.replace(arm, env_id="Else-v0") for arm in arms)]  # the same on another task
    for several in (1, 2):
        text = tables.differences_table(twice[: 2 * several], holm=True)
        assert f"| Toy-v0 | sac_hpo_continuous | best | +4 | [-7, +16] | {p:.2g} | {several * p:.2g} |" in text
    still = [dataclasses.replace(x, values={"return": 0 * x.values["return"] + 7}) for x in arms]
    assert tables.differences_table(still, holm=True).count("| +0 | no seed differs | 1 | 1 |") == 3
    assert not capfd.readouterr().err and "Holm" not in tables.differences_table(arms)


def test_runs_that_began_otherwise_are_not_pooled(results):
    """Two results files of one name, of which one says another form of the script, or no form, which is the first."""
    newer = Path("newer") / results[0].name
    newer.parent.mkdir()
    newer.write_text('#   values {"form": 2, "gamma": 0.9}\n' + results[0].read_text())
    with pytest.raises(Refused, match="begins a run otherwise"):
        records.read_arms([results[0], newer])
    again = Path("again") / newer.name
    again.parent.mkdir()
    again.write_text(newer.read_text().replace("Toy-v0,0", "Toy-v0,7"))
    (arm,) = records.read_arms([newer, again])
    assert arm.seeds == [0, 1] and len(records.read_arms([newer, results[1]])) == 2


def test_the_figure_of_differences_holds_the_tables_numbers(results):
    """A row an arm, the reference's first: each seed's last evaluation, the mean's difference and its interval."""
    arms = records.read_arms(results)
    lower = dataclasses.replace(arms[1], flags=("--gamma 0.9",), values={"return": arms[1].values["return"] - 9})
    (axis,) = tables.figure_of([*arms, lower], "sac_continuous").axes
    last = [np.array(seeds)[:, -1] for seeds in RETURNS.values()]
    points = [line.get_xydata() for line in axis.lines if line.get_marker() == "o"]
    assert [p[:, 1].tolist() for p in points] == [[y, y] for y in range(3)] and axis.yaxis_inverted()
    for p, returns in zip(points, (last[0], last[1], last[1] - 9)):  # the lower arm below the higher one
        assert p[:, 0] == pytest.approx(returns - last[0].mean())
    means = [line.get_xydata() for line in axis.lines if line.get_marker() == "D"]
    ends = [line.get_xydata() for line in axis.lines if line.get_marker() == "None" and line.get_color() == "C1"]
    for y, returns in ((1, last[1]), (2, last[1] - 9)):
        value, low, high = report.interval(returns, last[0])
        assert means[y - 1].tolist() == [[pytest.approx(value), y]]
        assert ends[y - 1] == pytest.approx(np.array([[low, y], [high, y]]))
    tables.main([*map(str, results), "--figure", "differences.png"])
    assert Path("differences.png").stat().st_size > 5000
    tables.main([*map(str, results), "--figure", "new/folder/differences.SVG"])
    assert b"<svg" in Path("new/folder/differences.SVG").read_bytes()
    for flags, said in (
        (["--figure", "none.png"], "nothing here differs from sac_continuous: there is nothing to correct or to draw"),
        (["--holm"], "nothing to correct"),
        (["--against", "nobody"], "nobody is not among the files: --against takes one of sac_continuous"),
        (["--steps", "0"], "--steps is 0: choose 1 or more"),
        (["--steps", "5"], "none of these has anything to show"),
        (["--figure", "none.doc"], "--figure none.doc: name a picture that ends in .eps, .jpeg"),
        (["--figure", "none"], "--figure none: name a picture"),
    ):
        with pytest.raises(Refused, match=said):
            tables.main([str(results[0]), *flags])
    with pytest.raises(Refused, match="leave one out"):
        tables.main([*map(str, results), "--figure", "none.png", "--by-step"])
    assert not Path("none.png").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_tables_and_curves_of_run_folders(capsys):
    """As of results files; a run of one seed has no deviation, and a sweep's names stand beside the script."""
    runs = []
    for name, value in (("a", 0.99), ("b", 0.9)):
        args = quick(hpo, eval_frequency=30, gamma=value, exp_name=name, learning_starts=80)
        assert train(hpo, args) == 0
        runs.append(newest(runs))
    arms = records.read_arms(runs)
    text, episodes = tables.returns_table(arms), arms[1].values["return"]
    assert arms[1].steps.tolist() == [30, 60, 90, 120] and episodes.shape == (1, 4, 2)
    (b,) = (line for line in text.splitlines() if "--gamma-0.9" in line)
    assert f"(b) | 1 | 120 | {episodes.mean(2).max():.0f} | " in b and "nan" not in text
    curves.draw(runs, Path("mine.png"))
    assert Path("mine.png").stat().st_size > 5000
    code, out, _ = forked(tables.__file__, *runs, "--against", arms[0].name)
    assert code == 0 and b"(b) | best |" in out and b"one seed" in out and b"nan" not in out
    code, _, err = forked(tables.__file__, "nowhere")
    assert code == 2 and err.count(b"\n") == 1


def test_smoothing():
    """Window 5 gives the newest value the weight 1/3; a constant stays."""
    assert np.allclose(curves.smooth(np.array([[0.0, 3.0, 3.0], [7.0, 7.0, 7.0]])), [[0, 1, 5 / 3], [7, 7, 7]])
    _, axis = curves.plt.subplots()
    for length in (10, curves.MANY):  # drawn as it is, and smoothed where it is long
        climb = np.arange(length, dtype=float)[None]
        line = curves.plot(axis, climb[0], climb, "SAC")
        assert np.allclose(line.get_ydata(), climb if length < curves.MANY else curves.smooth(climb))
    curves.plt.close()


def test_clamped_fractions(monkeypatch):
    """Means over 5,000 steps, then over those, of two runs whose events are known."""
    monkeypatch.setattr(clamped, "ROOT", Path.cwd())
    folders = [run_folder(f"run{seed}", "sac_continuous", seed, [1]) for seed in (2, 10)]
    for seed, folder in zip((2, 10), folders):
        with SummaryWriter(folder / f"seed-{seed}") as writer:
            for step in range(4_500, 10_001, 500):  # 2 values, then 10
                writer.add_scalar("charts/clamped_fraction", seed / 100 + (step > 5_000) / 10, step)
                writer.add_scalar("charts/clamped_fraction_replay", step / 100_000, step)
    (path,) = clamped.collect(folders)
    assert path.name == "Toy-v0__sac_continuous.csv" and path.read_text().splitlines()[-5:] == [
        "step,seed,training,exploration",
        "5000,2,0.0200,0.0475",
        "10000,2,0.1200,0.0775",
        "5000,10,0.1000,0.0475",
        "10000,10,0.2000,0.0775",
    ]
    row = "| Toy-v0 | sac_continuous | 2 | 10,000 | 11.0% (7.0% to 15.0%) | 6.2% (6.2% to 6.2%) |"
    assert clamped.shares([path]).splitlines()[-1] == row


def test_collect_refuses_what_does_not_belong_together():
    one, stopped = run_folder("one", "sac_continuous", 1, [1]), run_folder("half", "sac_continuous", 2, [1], missing=1)
    with pytest.raises(Refused, match="half stopped at step 100 of 200"):
        collect.collect([stopped])
    name, text = collect.collect([stopped], unfinished=True)
    assert "#   stopped: evaluated up to step 100 of 200" in text.splitlines() and name == collect.collect([one])[0]
    assert "stopped" not in collect.collect([one], unfinished=True)[1]
    for other in (
        run_folder("same", "sac_continuous", 1, [1]),
        run_folder("unlike", "sac_continuous", 2, [1], gamma=0.9),
        run_folder("shorter", "sac_continuous", 2, []),
        Path("no"),
    ):
        with pytest.raises(Refused):
            collect.collect([one, other])


def test_operations_of_a_step():
    """Against a count by hand for Hopper (11 states, 3 actions): two hidden layers of 256, batch 256."""
    hidden, policy_in, policy_out, critic_in = 256 * 256, 11 * 256, 256 * 6, 14 * 256
    critic_update = (
        (policy_in + hidden + policy_out)  # next action
        + 2 * (critic_in + hidden + 256)  # target critics
        + 2 * (critic_in + hidden + 256)  # critics, forward
        + 2 * (critic_in + hidden + 256)  # their weights' gradients
        + 2 * (hidden + 256)  # the gradients of what their layers read
    )
    policy_update = (
        (policy_in + hidden + policy_out)  # forward
        + 2 * (critic_in + hidden + 256)  # critics, forward
        + 2 * (hidden + 3 * 256)  # and back to the action
        + (policy_in + hidden + policy_out)  # the policy's weights' gradients
        + (hidden + policy_out)
    )
    acting = policy_in + hidden + policy_out
    assert throughput.operations(11, 3, 0, 2) == 2 * (256 * (critic_update + policy_update) + acting) == 561_259_008

    gradient = 2 * (3 * 256 + hidden + 256) + 2 * (hidden + 3 * 256)
    force = 2 * (17 * 32 + 32 * 3)  # T_h and σ_h
    evolution = 2 * (gradient + 3 * force)  # K = 2; the force's weights and inputs take gradients
    acting += 2 * 11 * 256 + 2 * (gradient + force)
    expected = 2 * (256 * (critic_update + policy_update + evolution) + acting)
    assert throughput.operations(11, 3, 2, 2) == expected == 838_375_936


class Untracked(contextlib.nullcontext):
    """In place of what tells the modules apart, whose hooks refuse a gradient at a leaf within a forward pass."""

    parents = frozenset({"Global"})


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 2])
def test_operations_from_pixels(steps):
    """Against PyTorch's own count of an update's products and convolutions."""
    args = px.Args(cuda=False, batch_size=2, leapfrog_steps=steps, leapfrog_state=True)
    agent = home.build(px, args, 9, 2)
    frames, actions = torch.zeros(1, 2, 9, 84, 84, dtype=torch.uint8), torch.zeros(1, 2, 2)
    batch, noise = px.Batch(frames, actions, actions[..., 0], frames, actions[..., 0]), gap.Noise(*[actions] * 4)
    counts = []
    for policy in (True, False):
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Untracked()
        with counter:
            agent.update(batch, noise, torch.zeros(1, 2), policy)
        counts.append(counter.get_total_flops())
    found = throughput.pixel_operations(2, steps, 2, True, 32, 2)
    assert found == pytest.approx(sum(counts) / 2, rel=2e-3)
    assert throughput.pixel_operations(2, steps, 1, True, 32, 2) == pytest.approx(counts[0], rel=2e-3)


def measured(_, path, *words):
    code, out, err = forked(path, *words)
    assert code == 0, err
    return out.decode()


@pytest.mark.slow
def test_throughput_measures_the_scripts(tmp_path, capfd, monkeypatch):
    """One round at tiny length, two peers beside it: the table's columns, and ratios that belong to its rates."""
    run = throughput.run  # what measures, in forks here in place of new interpreters
    monkeypatch.setattr(throughput, "run", lambda words, shell=False: run(words, shell) if shell else measured(*words))
    peers = tuple(f"{sys.executable} -c \"print('peer: {rate} steps/s')\"" for rate in (50.0, 20.0))
    args = throughput.Args(num_seeds=(1, 2), steps=40, warm_up=5, rounds=1, flags="--no-compile --batch-size=16")
    args = dataclasses.replace(args, vs=peers, peer_name=("the peer", "B"), cuda=False, output=tmp_path / "speed.csv")
    throughput.main(args)
    rows = list(csv.DictReader((tmp_path / "speed.csv").open()))
    assert [(r["script"], r["K"], r["seeds"]) for r in rows] == [
        ("sac_continuous", "0", "1"), ("sac_continuous", "0", "2"),
        ("sac_hpo_continuous", "2", "1"), ("sac_hpo_continuous", "2", "2"),
    ]  # fmt: skip
    for row in rows:
        rate = float(row["steps/s"])
        assert float(row["over the peer"].split()[0]) == pytest.approx(rate / 50, abs=0.01)
        assert float(row["over B"].split()[0]) == pytest.approx(rate / 20, abs=0.01)
        assert (row["peer steps/s"], row["B steps/s"], row["peer"]) == ("50.0", "20.0", "the peer, B")
        assert float(row["seed-steps/s"]) == pytest.approx(rate * int(row["seeds"]), abs=0.1 * int(row["seeds"]))
        share = float(row["share"].rstrip("%")) / 100
        assert share == pytest.approx(rate / float(row["ceiling steps/s"]), abs=0.011) and row["ceiling by"]
    fast, slow = (float(rows[i]["steps/s"]) for i in (0, 2))  # rounded to a tenth, of few on a busy machine
    assert (fast - 0.05) / (slow + 0.05) - 0.01 < float(rows[2]["time over SAC"]) < (fast + 0.05) / (slow - 0.05) + 0.01
    assert "| sac_hpo_continuous | 2 | 2 |" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_play(capsys):
    """The last agent and a kept one, of every seed, against a policy whose return on Drift is known by hand."""
    flags = {"num_seeds": 2, "total_timesteps": 120, "eval_frequency": 60, "keep_agents": True}
    assert train(hpo, quick(hpo, **flags)) == 0
    run = newest()
    kept, last = (torch.load(run / name, weights_only=True) for name in ("agents/step-60.pt", "agent.pt"))
    assert (kept["step"], last["step"]) == (60, 120) and kept["agent"].keys() == last["agent"].keys()
    assert not all(torch.equal(kept["agent"][name], last["agent"][name]) for name in kept["agent"])

    rows = play.play(play.Args(run, episodes=3))
    assert [row[:3] for row in rows] == [(s, 120, name) for s in (1, 2) for name in ("leapfrog", "base")]
    assert all((row[4] == 20).all() and len(row[3]) == 3 for row in rows)
    agent = play.load(run)
    for seed, _, name, returns, _ in rows:
        for e in range(3):
            env, total = gym.make("Drift-v0"), 0.0
            obs, _ = env.reset(seed=episode(seed, play.START + e))
            for _ in range(20):
                seen = torch.as_tensor(obs).expand(2, 1, 1)
                obs, reward, *_ = env.step(agent.policies()[name](seen)[seed - 1, 0].detach().numpy())
                total += reward
            assert returns[e] == pytest.approx(total, abs=1e-4)
    earlier = play.play(play.Args(run, episodes=3, step=60))
    assert [row[3].tolist() for row in earlier] != [row[3].tolist() for row in rows] and earlier[0][1] == 60
    play.main(play.Args(run, episodes=3))
    mean, deviation = rows[0][3].mean(), rows[0][3].std(ddof=1)
    assert f"| 1 | 120 | leapfrog | 3 | {mean:.1f} ± {deviation:.1f} | 20.0 |" in capsys.readouterr().out
    best = torch.load(run / "agent-best.pt", weights_only=True)
    for i, row in enumerate(play.play(play.Args(run, episodes=2, best=True))[::2]):
        folder = play.play(play.Args(run, episodes=2, step=best["steps"][i]))
        assert row[3].tolist() == folder[2 * i][3].tolist() and row[1] == best["steps"][i]
    strange = torch.load(run / "agent.pt", weights_only=True)
    strange["args"]["env_id"] = "evil:Drift-v0"
    Path("strange").mkdir()
    Path("strange/config.json").write_text((run / "config.json").read_text())
    torch.save(strange, "strange/agent.pt")
    with pytest.raises(Refused, match="evil:Drift-v0 imports a module"):
        play.play(play.Args(Path("strange")))
    for wrong, message in ((play.Args(Path("no")), "name a run's folder"), (play.Args(run, step=7), "[60, 120]")):
        with pytest.raises(Refused) as refusal:
            play.play(wrong)
        assert message in str(refusal.value)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_films_follow_the_robot():
    """The camera that a model has for it, where Gymnasium's own follows nothing; no number of the run changes."""
    for env_id, camera in (("HalfCheetah-v5", "track"), ("Hopper-v5", ""), ("Reacher-v5", ""), ("Pendulum-v1", None)):
        env = gym.make(env_id, render_mode="rgb_array")
        environments.follow(env)
        if camera is not None:
            renderer = env.unwrapped.mujoco_renderer
            assert renderer.camera_id == (renderer.model.camera(camera).id if camera else -1), env_id
        env.close()
    env = gym.make("HalfCheetah-v5", render_mode="rgb_array", camera_id=-1)  # the free camera, by choice
    environments.follow(env)
    assert env.unwrapped.mujoco_renderer.camera_id == -1


def test_play_films():
    assert train(hpo, quick(hpo, env_id="Counter-v0", total_timesteps=60)) == 0
    play.main(play.Args(newest(), episodes=2, video=Path("films")))
    names = {f"seed-1-{policy}-episode-{e}.mp4" for policy in ("leapfrog", "base") for e in (0, 1)}
    assert {path.name for path in Path("films").glob("*.mp4")} == names


def test_scalars_are_means_over_seeds_and_steps(capsys):
    """Two runs of one arm are one column; one with another flag is another, and one without the number is told."""
    values = (1, 0.99), (2, 0.99), (3, 0.9)
    folders = [run_folder(f"run{seed}", "sac_continuous", seed, [1], gamma=gamma) for seed, gamma in values]
    for i, folder in enumerate(folders):
        with SummaryWriter(folder / f"seed-{i + 1}") as writer:
            for step in (500, 1_000, 1_001)[: 3 - i]:
                writer.add_scalar("losses/alpha", step * (i + 1) / 1000, step)
    folders.append(run_folder("silent", "sac_continuous", 4, [1]))
    head, _, *rows = scalars.main(["losses/alpha", *map(str, folders), "--output", "kept.csv"]).splitlines()
    assert head == "| losses/alpha, step | Toy-v0 sac_continuous | Toy-v0 sac_continuous --gamma-0.9 |"
    assert rows == ["| 1000 | 1.125 | 1.5 |", "| 2000 | 1.001 |  |"]  # (0.5 + 1 + 1 + 2) / 4
    assert "silent has logged no losses/alpha: choose among nothing: left out" in capsys.readouterr().err
    assert scalars.main(["--show", "kept.csv"]).splitlines()[2:] == rows
    assert Path("kept.csv").read_text().startswith("# python sac_continuous.py --env-id Toy-v0")
    for words, message in [
        (["losses/beta", str(folders[0])], "has logged no losses/beta: choose among losses/alpha"),
        (["losses/alpha", "nowhere"], "no run's folder: nowhere"),
        (["losses/alpha"], "name what was logged and run folders"),
        (["--show", "nowhere"], "no file nowhere"),
        (["--show", "run1/evaluations.csv"], "is no table of scalars.py"),
        (["losses/alpha", str(folders[0]), "--output", "."], "is a folder: name a file"),
    ]:
        with pytest.raises(Refused, match=message):
            scalars.main(words)


def test_controllers_table_and_means(tmp_path):
    """Logged scalars become means over seeds and EVERY steps, ε over dimensions too; a row is the last tenth."""
    for seed in (1, 2):
        with SummaryWriter(tmp_path / f"seed-{seed}") as writer:
            for step in (500, 1_000, 1_500, 10_000):
                writer.add_scalar("losses/distance", step / 1000 * seed, step)
                for i in range(3):
                    writer.add_scalar(f"charts/step_size_{i}", 0.1 * (i + 1) * seed, step)
            writer.add_scalar("losses/qf_loss", 9.0, 500)
            writer.add_scalar("eval/episodic_return", 100.0 * seed, 10_000)
    cells = controllers.logged(tmp_path)
    assert list(cells) == [1_000, 2_000, 10_000] and set(cells[1_000]) == {"distance", "step_size"}
    assert cells[1_000]["distance"] == pytest.approx(0.75 * 1.5) and cells[2_000]["distance"] == pytest.approx(2.25)
    assert cells[10_000]["step_size"] == pytest.approx(0.3) and cells[10_000]["return"] == 150
    path = tmp_path / "Hopper-v4__mcmcpo_hmc_continuous__beta-2.0.csv"
    rows = [
        ",".join([str(step), *(str(row.get(name, "")) for name in controllers.COLUMNS)]) for step, row in cells.items()
    ]
    path.write_text("\n".join(["# a command", ",".join(["step", *controllers.COLUMNS]), *rows]) + "\n")
    assert controllers.table([path]).splitlines()[2:] == [
        "| Hopper-v4, HMC --beta-2.0 | 10,000 | 15 () |  | 0.3 |  |  |  | 150 |"
    ]


def test_pictures_of_a_run(tmp_path):
    """The evaluations asked for, one below the other, of the first seed; to a 255th, as a PNG keeps them."""
    drawn = {}
    for seed in (10, 9):
        with SummaryWriter(tmp_path / f"run/seed-{seed}") as writer:
            for step in (4, 8):
                drawn[seed, step] = torch.rand(3, 6, 5)
                writer.add_image("eval/reconstructions", drawn[seed, step], step)
    for words, steps in ([], (8,)), (["--steps", "8", "4"], (8, 4)):
        pictures.main([str(tmp_path / "run"), "--output", str(tmp_path / "out.png"), *words])
        seen = torch.tensor(np.array(image.imread(tmp_path / "out.png")[..., :3])).permute(2, 0, 1)
        torch.testing.assert_close(seen, torch.cat([drawn[9, step] for step in steps], 1), atol=1.01 / 255, rtol=0)
    for words, complaint in ([tmp_path / "run", "--steps", "5"], "choose among 4, 8"), ([tmp_path], "no seed-"):
        with pytest.raises(Refused, match=complaint):
            pictures.main([*map(str, words), "--output", str(tmp_path / "none.png")])
    for output in (tmp_path / "none.gif", tmp_path / "none" / "out.png"):
        with pytest.raises(Refused, match=r"name a \.png in a folder that is there"):
            pictures.main([str(tmp_path / "run"), "--output", str(output)])
    assert not [*tmp_path.glob("none*")]
