"""Action space beside the scripts (analysis/experiments/spaces.py), and runs of the time when it was their flag."""

import json
import shutil
from pathlib import Path

import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_hpo_pixels as pixels
from analysis import play, records
from analysis.benchmark import cells
from analysis.experiments import bias, distance, readings, spaces, starts
from runtime import load
from runtime.arguments import parse
from runtime.messages import Refused
from runtime.run import launch

import baseline1
import baseline2
import baseline3
import noise_only
import pytest
import torch
from conftest import newest, normals

FLAGS = "--env-id Drift-v0 --total-timesteps 60 --random-steps 40 --learning-starts 40 --num-seeds 2 --batch-size 8"
FLAGS = [*FLAGS.split(), "--eval-episodes=1", "--no-cuda", "--no-compile", "--eval-frequency=60"]


def with_space(folder, space, place="momentum_std_explore"):
    """A run's folder as one of the time when --leapfrog-space was a flag of the scripts, with that value."""
    old = Path(f"{folder.name}-{space}")
    shutil.copytree(folder, old)
    config = json.loads((old / "config.json").read_text())
    saved = torch.load(old / "agent.pt", weights_only=True)
    for values, value in ((config["args"], space), (config["source"], "default"), (saved["args"], space)):
        items = [*values.items()]
        at = 1 + [*values].index(place)
        values.clear()
        values.update([*items[:at], ("leapfrog_space", value), *items[at:]])
    (old / "config.json").write_text(json.dumps(config))
    torch.save(saved, old / "agent.pt")
    return old


@pytest.mark.slow
def test_older_runs_before_the_tanh_are_todays():
    """They are played, named, told again and resumed as a run of today is."""
    assert launch(hpo, FLAGS) == 0
    folder = newest()
    old, obs = with_space(folder, "pre-tanh"), normals(5, 1).numpy()
    assert (load(old)(obs) == load(folder)(obs)).all()
    assert records.identity(old) == records.identity(folder)
    assert records.command(records.config_of(old)) == records.command(records.config_of(folder))
    assert launch(hpo, ["--resume", str(old), "--total-timesteps", "100"]) == 0
    assert launch(hpo, ["--resume", str(folder), "--total-timesteps", "100"]) == 0
    left, right = (torch.load(f / "agent.pt", weights_only=True)["agent"] for f in (old, folder))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert records.identity(old) == records.identity(folder)


def test_older_runs_in_action_space_are_told_apart_and_refused(capfd):
    """In one line by the script; what reads runs puts the clamped agent in its place."""
    assert launch(hpo, FLAGS) == 0
    old, obs = with_space(newest(), "action"), normals(2, 5, 1).float()
    capfd.readouterr()
    with pytest.raises(Refused, match=r"no agent of today's sac_hpo_continuous.py \(it has leapfrog_space action, "):
        load(old)
    assert launch(hpo, ["--resume", str(old), "--total-timesteps", "100"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "leapfrog_space" in err
    assert records.identity(old).flags == (*records.identity(newest()).flags, "--leapfrog-space-action")
    command = records.command(records.config_of(old))
    assert command.startswith("python analysis/experiments/spaces.py sac_hpo_continuous --env-id Drift-v0 ")
    assert command.endswith(" --leapfrog-space action")
    agent = play.load(old)
    assert type(agent) is spaces.in_action_space(hpo).Agent and agent.args.leapfrog_space == "action"
    assert (agent.evolved_mean(obs) != play.load(newest()).evolved_mean(obs)).any()


@pytest.mark.slow
@pytest.mark.parametrize("script", [hpo, baseline1, baseline2, baseline3, noise_only])
def test_a_run_in_action_space(script, capfd):
    """By its command, which its files tell; it goes on by the same command, and by no other."""
    name = script.__name__
    assert spaces.main([name, *FLAGS]) == 0
    folder = newest()
    assert folder.name.startswith(f"Drift-v0__{name}__")
    config = records.config_of(folder)
    assert config["args"]["leapfrog_space"] == "action" and records.identity(folder).flags[-1:] == (
        "--leapfrog-space-action",)  # fmt: skip
    words = records.command(config).split()
    assert words[:3] == ["python", "analysis/experiments/spaces.py", name]
    args = parse(spaces.in_action_space(script), words[3:])[0]
    assert {k: v for k, v in vars(args).items() if k not in records.PLACE} == {
        k: v for k, v in config["args"].items() if k not in records.PLACE}  # fmt: skip
    capfd.readouterr()
    assert launch(script, ["--resume", str(folder), "--total-timesteps", "80"]) == 2
    assert f"is a run of analysis/experiments/spaces.py {name}: resume it with that" in capfd.readouterr().err
    assert spaces.main([name, "--resume", str(folder), "--total-timesteps", "80"]) == 0
    assert type(play.load(folder)) is spaces.in_action_space(script).Agent


def test_the_space_of_a_command():
    """By --leapfrog-space in any form, or by the run that is resumed; a script without dynamics has none."""
    acts = spaces.in_action_space(hpo)
    assert spaces.chosen(hpo, ["--seed", "3"]) == (hpo, ["--seed", "3"])
    assert spaces.chosen(hpo, ["--leapfrog-space", "pre-tanh", "--seed=3"]) == (hpo, ["--seed=3"])
    for words in (["--leapfrog-space", "action"], ["--leapfrog-space=action"], ["--leapfrog_space=action"]):
        assert spaces.chosen(hpo, ["--seed", "3", *words, "--tau", "1"]) == (acts, ["--seed", "3", "--tau", "1"])
    for script, word in ((hpo, "sideways"), (hpo, ""), (sac, "action")):
        with pytest.raises(Refused, match="choose pre-tanh or action, of a script with dynamics"):
            spaces.chosen(script, ["--leapfrog-space", word])
    Path("run").mkdir()
    for space, module in (("action", acts), ("pre-tanh", hpo)):
        Path("run/config.json").write_text(json.dumps({"args": {"leapfrog_space": space}}))
        for words in (["--resume", "run"], ["--resume=run"]):
            assert spaces.chosen(hpo, words) == (module, words)
    for text in ("[]", "{", '{"args": []}'):
        Path("run/config.json").write_text(text)
        assert spaces.chosen(hpo, ["--resume", "run"])[0] is hpo
    assert spaces.chosen(hpo, ["--resume"])[0] is spaces.chosen(hpo, ["--resume", "none"])[0] is hpo


def test_every_script_with_dynamics_has_a_copy():
    """With the same flags and one more, its own module, and nothing of the script's changed."""
    for script in (hpo, pixels, baseline1, baseline2, baseline3, noise_only):
        before = script.squash, script.Policy.sample, script.Agent, script.Args
        copy = spaces.in_action_space(script)
        assert copy is spaces.in_action_space(script) and spaces.of_values(script, {"leapfrog_space": "action"}) is copy
        assert before == (script.squash, script.Policy.sample, script.Agent, script.Args)
        assert vars(copy.Args()) == vars(script.Args()) | {"leapfrog_space": "action"}
        assert copy.LIMITS == script.LIMITS and copy.__file__ == script.__file__
        assert spaces.of_values(script, {"leapfrog_space": "pre-tanh"}) is spaces.of_values(script, {}) is script
    assert spaces.of_values(sac, {"leapfrog_space": "action"}) is sac
    with pytest.raises(Refused, match="name one of sac_hpo_continuous, sac_hpo_pixels, baseline1"):
        spaces.main(["sac_continuous"])


@pytest.fixture
def other_copies():
    """Experiments change the copy for their process: others get a new one."""
    yield
    spaces.in_action_space.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("other_copies")
def test_experiments_take_the_space_too(monkeypatch):
    """An arm, a start and the measured run, and what reads an arm's run."""
    assert readings.train("blind", [*FLAGS, "--leapfrog-space", "action"]) == 0
    folder, acts = newest(), spaces.in_action_space(hpo)
    agent, _ = bias.load(folder)
    assert isinstance(agent, readings.Blind) and isinstance(agent, acts.Agent)
    assert records.identity(folder).flags[-2:] == ("--leapfrog-space-action", "(blind)")
    assert readings.train("blind", ["--resume", str(folder), "--total-timesteps", "70"]) == 0
    assert distance.train([*FLAGS, "--leapfrog-space", "action"]) == 0
    assert records.config_of(newest())["args"]["leapfrog_space"] == "action"
    monkeypatch.setattr(starts, "RESULTS", Path.cwd())
    assert starts.train("none", "hpo", [*FLAGS, "--leapfrog-space", "action"]) == 0
    path = starts.keep([newest()])
    head = path.read_text().splitlines()[0]
    assert head.startswith("# python analysis/experiments/starts.py train none hpo --env-id Drift-v0 ")
    assert "--leapfrog-space action" in head and "exp-name" not in head


def test_older_results_files_are_their_cells(tmp_path):
    """By their values, or their command, which is of a time before form 2: the space that is left is none of them, the
    other one is told."""
    cell = cells.cell("sac_hpo_continuous", "Hopper-v4", 8, 100_000, "", "")
    own = " ".join(cell.command()[1:])
    values = cells.own_values(cell)
    for space, said in (("pre-tanh", ""), ("action", "leapfrog_space action where the cell has none")):
        head = f"# python sac_hpo_continuous.py {own}"
        (found,) = cells.file_values(cell, f"{head} --leapfrog-space {space}\n")
        assert cells.unlike_cell(found, cell) == "form 1 where the cell has 2" + f", {said}" * bool(said)
        (found,) = cells.file_values(cell, f"{head}\n{cells.VALUES}{json.dumps(values | {'leapfrog_space': space})}\n")
        assert cells.unlike_cell(found, cell) == said
