"""An agent outside of its run: `from runtime import load`, and as ONNX."""

import contextlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import mcmcpo_hmc_continuous as hmc
import mcmcpo_langevin_continuous as langevin
import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_hpo_pixels as pixels
import sac_nf_continuous as nf
from analysis import export, keep, landscape, play, policy_shape, records
from runtime import home, load
from runtime.environments import make_env
from runtime.messages import Refused
from runtime.spaces import as_plain, as_space, described
from runtime.streams import episode

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import Counter, built, narrow_networks, newest, normals, quick, train
from PIL import Image

ROOT = Path(sac.__file__).parent
pytestmark = pytest.mark.usefixtures("narrow")
NUMBERS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)


class Pieces(Counter):
    """Counter, in float64, whose observations are a Dict with a matrix, a choice and a Tuple in it."""

    action_space = gym.spaces.Box(np.array([2.0, -1.0]), np.array([6.0, 3.1]), dtype=np.float64)
    observation_space = gym.spaces.Dict({
        "z": gym.spaces.Box(-9, 9, (2, 1), np.float32),
        "a": gym.spaces.Tuple([gym.spaces.Discrete(3, start=5), gym.spaces.MultiBinary(2)]),
        "m": gym.spaces.MultiDiscrete([2, 3]),
    })  # fmt: skip

    def seen(self, numbers):
        other = self.count % 2, np.array([1, self.count % 2], np.int8)
        return {"z": numbers[:, None].astype(np.float32), "a": (5 + other[0], other[1]), "m": np.array([1, 2])}

    def reset(self, seed=None, options=None):
        return self.seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        obs, *rest = super().step(action)
        return self.seen(obs), *rest


gym.register("Pieces-v0", Pieces)


def trained(script, env_id="Counter-v0", **flags):
    assert train(script, quick(script, env_id=env_id, **flags)) == 0
    return newest()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two seeds on Counter, normalised, with the agents of its evaluations."""
    with contextlib.chdir(tmp_path_factory.mktemp("two")), narrow_networks():
        return trained(hpo, num_seeds=2, seed=4, keep_agents=True, normalize_observations=True).resolve()


def observations(n, size=2):
    return 3 * normals(n, size).numpy()


def test_actions_are_those_that_reach_the_environment(two):
    """To the bit of the run's own wrappers; in bounds and dtype of the action space; singles, batches, lists."""
    obs, policy = observations(6), load(two)
    one = home.filled(home.alone(home.read(two), 0), 2, 2)
    for row in obs:
        env = make_env("Counter-v0")
        env.reset()
        seen = torch.tensor(row[None, None], dtype=torch.float32)
        with torch.no_grad():
            env.step(one.raw_policies()["leapfrog"](seen)[0, 0].numpy())
        (reached,) = env.unwrapped.actions
        assert np.array_equal(policy(row), reached) and policy(row).dtype == reached.dtype == np.float32
    batch = policy(obs)
    assert batch.shape == (6, 2) and np.allclose(batch, [policy(row) for row in obs], atol=1e-5)
    assert np.array_equal(policy(obs.tolist()), batch) and np.array_equal(policy(obs[:1]), [policy(obs[0])])
    assert (batch >= [2, -1]).all() and (batch <= [6, 3]).all() and np.ptp(batch, axis=0).max() > 1e-3


@pytest.mark.parametrize("script", [sac, hmc], ids=lambda script: script.__name__)
@pytest.mark.slow
def test_the_bare_environment_returns_what_was_evaluated(script):
    """No wrapper of the run's between the two: evaluations.csv's returns."""
    folder = trained(script, "Drift-v0", normalize_observations=True, num_seeds=2, learning_starts=100)
    for line in (folder / "evaluations.csv").read_text().splitlines()[1:]:
        step, seed, number, kept = (float(word) for word in line.split(",")[:4])
        if step < 120:
            continue
        env, policy, total, over = gym.make("Drift-v0"), load(str(folder), seed=int(seed)), 0.0, False
        obs, _ = env.reset(seed=episode(int(seed), int(step), int(number)))
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            total, over = total + reward, terminated or truncated
        assert total == pytest.approx(kept, rel=1e-6)


def test_which_agent(two):
    """A seed by its number, a step, the best of each seed, another policy; what is no choice is refused."""
    obs, best = observations(5), torch.load(two / "agent-best.pt", weights_only=True)
    agent = play.load(two)
    for i, seed in enumerate((4, 5)):
        for name in ("leapfrog", "base"):
            policy = load(two, seed=seed, policy=name)
            seen = torch.tensor(obs, dtype=torch.float32).expand(2, -1, -1)
            with torch.no_grad():
                want = policy.in_units(agent.raw_policies()[name](seen)[i].numpy())
            assert np.allclose(policy(obs), want, atol=1e-5)
            assert (policy.seed, policy.name, policy.step) == (seed, name, 120)
        policy = load(two, seed=seed, best=True)
        assert policy.step == best["steps"][i]
        assert np.array_equal(policy(obs), load(two, seed=seed, step=policy.step)(obs))
    Path("unlike").mkdir()
    torch.save(best | {"steps": [60, 120]}, "unlike/agent-best.pt")
    assert [load("unlike", seed=seed, best=True).step for seed in (4, 5)] == [60, 120]
    texts = [load(two, **which)(obs).tolist() for which in ({}, {"seed": 5}, {"step": 60}, {"policy": "base"})]
    assert all(text != other for i, text in enumerate(texts) for other in texts[:i])
    for wrong, message in (
        ({"seed": 6}, "has no seed 6: choose one of 4 to 5"),
        ({"policy": "mean"}, "has no policy mean: choose one of leapfrog, base"),
        ({"step": 7}, r"one of the steps \[60, 120\]"),
        ({"step": 60, "best": True}, "two agents"),
    ):
        with pytest.raises(Refused, match=message):
            load(two, **wrong)
    with pytest.raises(Refused, match=r"no/agent.pt: .*; name a run's folder"):
        load("no")


def test_a_run_without_an_agent_says_how_to_get_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for which, said in (({}, "finish it with --resume$"), ({"best": True}, "has evaluated nothing yet"),
                        ({"step": 7}, "only a run with --keep-agents keeps those of its steps")):  # fmt: skip
        with pytest.raises(Refused, match=said):
            load(tmp_path, **which)
    (tmp_path / "agent-best.pt").touch()
    with pytest.raises(Refused, match="finish it with --resume, or take its best agent"):
        load(tmp_path)


def test_exploration_is_training_s(two):
    """`act` of the normalised observation and the noise by name; a seed begins the noise anew, else it goes on."""
    policy, obs = load(two), observations(3)
    drawn = policy(obs, explore=True, seed=7)
    stream, agent = torch.Generator().manual_seed(7), policy.agent
    for row, action in zip(obs, drawn):
        noise = hpo.NamedTuple("Noise", [("action", torch.Tensor), ("momentum", torch.Tensor)])
        noise = noise(*(torch.randn(1, 1, 2, generator=stream) for _ in range(2)))
        seen = agent.normaliser(torch.tensor(row[None, None], dtype=torch.float32))
        assert np.allclose(policy.in_units(agent.act(seen, noise)[0, 0].numpy()), action, atol=1e-6)
    assert not np.array_equal(policy(obs, explore=True), drawn)
    assert np.array_equal(policy(obs, explore=True, seed=7), drawn) and drawn.shape == (3, 2)
    assert policy(obs[0], explore=True).shape == (2,) and not np.allclose(policy(obs), drawn, atol=1e-3)


def test_observations_of_no_kind_are_refused(two):
    policy = load(two)
    wrong = np.zeros(3), np.zeros((2, 2, 2)), [[1, 2], [3]], "text", None, {"x": 1}, 1.0
    for obs in wrong:
        with pytest.raises(Refused, match=r"^an observation of .*hand over numbers of shape \(2,\)"):
            policy(obs)
    with pytest.raises(Refused, match="not finite"):
        policy([np.nan, 0])
    none = policy(np.zeros((0, 2)))
    assert none.shape == (0, 2) and none.dtype == policy(np.zeros(2)).dtype
    again = [policy(np.zeros(2), explore=True, seed=seed) for seed in (7, np.int64(7))]
    assert np.array_equal(*again)
    for call in (lambda: policy(np.zeros(2), explore=True, seed=1.5), lambda: load(two, seed=2.0)):
        with pytest.raises(Refused, match="give a whole number"):
            call()


def test_an_observation_in_parts():
    """A Dict as the environment gives it is its flat form; actions in float64."""
    policy = load(trained(sac, "Pieces-v0"))
    env, bare = make_env("Pieces-v0"), Pieces()
    flat, parts = env.reset()[0], bare.reset()[0]
    for _ in range(2):
        assert flat.shape == (2 + 3 + 2 + 2 + 3,)
        action = policy(flat)
        assert (
            np.array_equal(action, policy(parts)) and action.dtype == np.float64 and bare.action_space.contains(action)
        )
        assert np.allclose(policy(np.stack([flat, flat])), action)
        flat, parts = env.step(np.zeros(2, np.float32))[0], bare.step(action)[0]
    for space in (Pieces.observation_space, NUMBERS, gym.spaces.Tuple([NUMBERS, NUMBERS])):
        assert as_plain(as_space(as_plain(space))) == as_plain(space)


def test_the_environment_need_not_be_there(two, monkeypatch):
    """agent.pt alone is enough; a file of before that lacks `space` makes the environment, for the same policy."""
    obs, want = observations(4), load(two)(observations(4))
    saved = torch.load(two / "agent.pt", weights_only=True)
    assert saved["space"] == described(make_env("Counter-v0")) and saved["script"] == "sac_hpo_continuous"
    Path("alone").mkdir()
    torch.save(saved, "alone/agent.pt")
    with monkeypatch.context() as patch:
        patch.delitem(gym.registry, "Counter-v0")
        assert np.array_equal(load("alone")(obs), want)
    old = {name: value for name, value in saved.items() if name not in ("space", "script")}
    torch.save(old, "alone/agent.pt")
    (Path("alone") / "config.json").write_text((two / "config.json").read_text())
    assert np.array_equal(load("alone")(obs), want)
    torch.save(old | {"args": old["args"] | {"env_id": "evil:Counter-v0"}}, "alone/agent.pt")
    with pytest.raises(Refused, match="imports a module; if you trust it"):
        load("alone")
    for space in ({}, {"shape": [3], "low": [0.0, 0.0]}, saved["space"] | {"dtype": "no"}):
        torch.save(saved | {"space": space}, "alone/agent.pt")
        with pytest.raises(Refused, match=r"alone/agent.pt (is damaged|does not fit)"):
            load("alone")


def test_frames_go_in_too():
    args = pixels.Args(cuda=False)
    agent = built(args, pixels.Agent, 9, 2)
    agent.args = args
    space = {"shape": [9, 84, 84], "original": ["Box", [9, 84, 84], "uint8"], "low": [-1.0, 0.0], "high": [1.0, 2.0]}
    policy = home.Policy(agent, space | {"dtype": "float32"}, "base", 0)
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 84, 84), np.uint8)
    assert policy(frames).shape == (2, 2) and np.allclose(policy(frames[0]), policy(frames)[0], atol=1e-5)


def test_naming_load_imports_no_torch():
    code = "import sys; from runtime import load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---------------------------------------------------------------------------------------------------------------- ONNX
def test_export_says_what_it_needs(two, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name[:4] == "onnx" else find(name))
    with pytest.raises(Refused, match=r"needs onnx, onnxruntime, onnxscript: pip install -r requirements-onnx\.txt"):
        export.main(export.Args(two, Path("policy.onnx")))


def session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])


def has_onnx():
    for name in export.PACKAGES:
        pytest.importorskip(name)


CASES = {
    "sac": (sac, {}),
    "hpo": (hpo, {"normalize_observations": True}),
    "nf": (nf, {}),
    "hmc": (hmc, {"leapfrog_steps": 1}),  # a graph grows with K
    "langevin": (langevin, {"normalize_observations": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "flags"), CASES.values(), ids=CASES)
def test_an_exported_policy_is_the_policy(script, flags):
    """For any number of observations, in the environment's units, its dynamics and the normalisation with it."""
    has_onnx()
    folder = trained(script, "Pieces-v0" if script is sac else "Counter-v0", num_seeds=2, **flags)
    said = export.main(export.Args(folder, Path("policy.onnx"), seed=2))
    assert "of seed 2, step 120" in said and not list(Path().glob("*.part"))
    policy, graph = load(folder, seed=2), session("policy.onnx")
    for n in (1, 2, 7):
        obs = observations(n, policy.shape[0]).astype(np.float32)
        (action,) = graph.run(["action"], {"observation": obs})
        assert action.dtype == policy.box.dtype and action == pytest.approx(policy(obs), abs=1e-5)
    obs = observations(50, policy.shape[0]).astype(np.float32)
    (action,) = graph.run(["action"], {"observation": obs})
    assert np.ptp(action, axis=0).min() > 1e-3 and not np.allclose(action, load(folder)(obs), atol=1e-2)
    if len(policy.agent.policies()) > 1:  # the dynamics are in it
        assert not np.allclose(action, load(folder, seed=2, policy="base")(obs), atol=1e-4)


@pytest.mark.slow
def test_an_export_that_differs_is_not_kept(two, monkeypatch):
    """Nor is what stood under that name lost."""
    has_onnx()
    Path("policy.onnx").write_text("mine")
    original = export.whole
    monkeypatch.setattr(export, "whole", lambda policy: lambda obs: original(policy)(obs) + 1e-3)
    with pytest.raises(Refused, match=r"policy.onnx is not written: its actions differ"):
        export.main(export.Args(two, Path("policy.onnx"), policy="base"))
    assert Path("policy.onnx").read_text() == "mine" and len(list(Path().iterdir())) == 1
    Path("folder").mkdir()
    with pytest.raises(Refused, match="--onnx folder is a folder"):
        export.main(export.Args(two, Path("folder")))


# ------------------------------------------------------------------------------------------------- a folder of its own
@pytest.mark.parametrize("script", [hpo, nf, hmc, langevin], ids=lambda script: script.__name__)
@pytest.mark.slow
def test_a_kept_agent_plays_as_its_run(script):
    """One seed's, at a step, by every policy to the bit; the targets take no room; config.json tells its returns."""
    folder = trained(script, num_seeds=2, seed=4, keep_agents=True)
    said = keep.main(keep.Args(folder, Path("agents/mine"), seed=5, step=60, episodes=2))
    assert said.startswith("agents/mine: seed 5 at step 60, 0.") and "over 2 episodes" in said
    obs = observations(7)
    for name in home.filled(home.read(folder), 2, 2).policies():
        mine, theirs = (
            load(path, policy=name, **more) for path, more in (("agents/mine", {}), (folder, {"seed": 5, "step": 60}))
        )
        assert np.array_equal(mine(obs), theirs(obs)) and (mine.seed, mine.step) == (5, 60)
        assert np.array_equal(mine(obs, explore=True, seed=1), theirs(obs, explore=True, seed=1))
    config = records.config_of(Path("agents/mine"))
    rows = {row[2]: row[3] for row in play.play(play.Args(Path("agents/mine"), episodes=2))}
    told = config["kept"]["returns"]
    assert told.keys() == rows.keys() and all(np.allclose(told[k], rows[k], atol=0.01) for k in told)
    assert (config["args"]["seed"], config["args"]["num_seeds"], config["kept"]["from"]) == (5, 1, folder.name)
    weights = torch.load("agents/mine/agent.pt", weights_only=True)["agent"]
    critics = [k for k in weights if k.startswith("critic.") and k.replace("critic.", "target.", 1) in weights]
    assert critics and all(
        weights[k].data_ptr() == weights[k.replace("critic.", "target.", 1)].data_ptr() for k in critics
    )
    with pytest.raises(Refused, match="agents/mine is there already"):
        keep.main(keep.Args(folder, Path("agents/mine")))
    with pytest.raises(Refused, match="--seed 9: choose one of 4 to 5"):
        keep.main(keep.Args(folder, Path("agents/other"), seed=9))
    assert not Path("agents/other").exists()


@pytest.mark.slow
def test_keep_leaves_no_half_made_folder():
    """A folder that keep.py does not finish is not there; a file in the way stays as it was."""
    folder = trained(sac, num_seeds=2)
    Path("file").write_text("mine")
    for place, more, said in [("a", {"episodes": 0}, "--episodes is 0"), ("file/a", {}, "nothing can be written in"),
                              ("file", {}, "is there already"), ("a" * 300, {}, "name another folder")]:  # fmt: skip
        with pytest.raises(Refused, match=said):
            keep.main(keep.Args(folder, Path(place), **more))
    content = torch.load(folder / "agent.pt", weights_only=True)
    torch.save(content | {"agent": {k: x * float("nan") for k, x in content["agent"].items()}}, folder / "agent.pt")
    with pytest.raises(Refused, match="seed 1 plays by numbers that are not finite"):
        keep.main(keep.Args(folder, Path("a"), episodes=1))
    assert Path("file").read_text() == "mine" and not Path("a").exists()


def test_pictures_of_two_dimensions_refuse_one():
    folder = trained(hpo, "Pendulum-v1")
    for draw, args in (
        (landscape.main, landscape.Args(Path("a.png"), folder)),
        (policy_shape.main, policy_shape.Args(folder)),
    ):
        with pytest.raises(Refused, match="acts in one dimension and the picture needs two: choose a run"):
            draw(args)


@pytest.mark.slow
def test_a_gif_of_an_episode():
    """So many frames of the counting policy's first episode, and its return."""
    folder = trained(sac, "Pendulum-v1", num_seeds=2)
    text = play.film(play.Args(folder, gif=Path("a.gif")))
    with Image.open("a.gif") as image:
        assert (image.n_frames, image.width, image.info["loop"]) == (64, play.SIDE, 0)
    (row, *_) = play.play(play.Args(folder, episodes=1))
    assert text.startswith("a.gif: 64 frames") and text.endswith(f"returns {row[3][0]:.1f}")
    assert f"policy base of step {load(folder).step}, in an episode" in text
    with pytest.raises(Refused, match="--gif"):
        play.film(play.Args(folder, gif=Path("a.gif/b.gif")))
    with pytest.raises(Refused, match=r"ends in \.gif"):
        play.film(play.Args(folder, gif=Path("a.txt")))
    with pytest.raises(Refused, match="leave --video"):
        play.film(play.Args(folder, gif=Path("b.gif"), video=Path("films")))
    assert not any(Path(name).exists() for name in ("a.txt", "b.gif", "films"))
