"""Agents outside of a run: reading them, and one to take home.

    from runtime import load

    policy = load("runs/...")   # a run's folder
    action = policy(obs)        # observations as the environment gives them, actions in its units, numpy

The environment need not be installed: agent.pt says what it observes and how it acts.
"""

import dataclasses
import importlib
import json
import operator
import re
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, get_type_hints

from runtime.arguments import RunArgs, in_range, misfits, todays
from runtime.checkpoints import BAD_CONTENT, read_agent
from runtime.contract import Learner, form_of
from runtime.environments import in_units, make_env
from runtime.messages import Refused, fail, said, tell
from runtime.normalisation import Normaliser
from runtime.seeds import side_by_side
from runtime.spaces import as_space, described

import gymnasium as gym
import numpy as np
import torch

ROOT, CPU = Path(__file__).resolve().parents[1], torch.device("cpu")


# ------------------------------------------------------------------------------------------------------------ scripts
def script_file(script: str) -> Path | None:
    """Where a script of the repository lies; None if it is none."""
    paths = [ROOT / f"{script}.py", ROOT / "ablations" / f"{script}.py"]
    return next((path for path in paths if path.is_file()), None) if re.fullmatch(r"\w+", script) else None


def module_of(script: str) -> ModuleType:
    path = script_file(script)
    if path is None:
        fail(f"{script}.py is not a script here")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return importlib.import_module(script)


# ------------------------------------------------------------------------------------------------------------- files
class Saved(NamedTuple):
    """A file of agents: where it lies, whose it is, and what it holds."""

    path: Path
    module: ModuleType
    args: RunArgs
    content: dict

    @property
    def steps(self) -> list[int]:
        """When each seed's agent was kept; that of its best evaluation has a step of its own."""
        return self.content.get("steps") or [self.content["step"]] * self.args.num_seeds


def read(folder: Path, step: int | None = None, best: bool = False, of_values: Callable | None = None) -> Saved:
    """agent.pt of a run's folder, agent-best.pt, or that of a step; Refused where it cannot be used.

    `of_values` maps a script and the run's values to the module that takes the script's place, for an experiment."""
    if best and step is not None:
        fail("best and a step name two agents: choose one")
    path = folder / (f"agents/step-{step}.pt" if step is not None else "agent-best.pt" if best else "agent.pt")
    try:
        content = read_agent(path)
        config = folder / "config.json"  # without which the file goes alone
        script = str((json.loads(config.read_text(encoding="utf-8")) if config.exists() else content)["script"])
    except (OSError, *BAD_CONTENT) as error:
        if (folder / "config.json").exists() and not path.exists():
            fail(f"{path} is not there: {instead(folder, step, best)}")
        fail(f"{path}: {said(error)}; name a run's folder")
    if script_file(script) is None:
        fail(f"{folder} is a run of {script}.py, which is not a script here")
    module = module_of(script)
    if of_values and isinstance(content, dict):
        module = of_values(module, content.get("args"))
    return Saved(path, module, arguments_of(module, path, content), content)


def instead(folder: Path, step: int | None, best: bool) -> str:
    """What to do where a run's folder lacks an agent."""
    if step is not None:
        kept = sorted(int(path.stem[5:]) for path in folder.glob("agents/step-*.pt"))
        return f"choose one of the steps {kept}" if kept else "only a run with --keep-agents keeps those of its steps"
    if best:
        return "the run has evaluated nothing yet; finish it with --resume"
    more = ", or take its best agent" if (folder / "agent-best.pt").exists() else ""
    return f"the run was killed, or goes on still; finish it with --resume{more}"


def tell_changed(saved: Saved) -> None:
    """Tells whose agent acts where an experiment trained it with another in the place of the script's."""
    config = saved.path.parents["step-" in saved.path.name] / "config.json"
    try:
        program = json.loads(config.read_text(encoding="utf-8")).get("program") or ""
    except (OSError, *BAD_CONTENT):  # the file goes alone, or has none
        return
    script = Path(saved.module.__file__).stem
    if program and program.split()[-1] != script:
        tell(f"{saved.path} was trained by {program}; it acts here as an agent of {script}.py does")


def arguments_of(module: ModuleType, path: Path, saved) -> RunArgs:
    """The arguments of a saved agent; Refused where they are not those of today's script, or not its weights'."""
    try:
        if saved.get("form", 1) != form_of(module):
            raise ValueError("an older one's, whose weights meant something else")
        values, hints, weights = todays(module, saved["args"]), get_type_hints(module.Args), saved["agent"]
        if unknown := [f"{name} {value}" for name, value in values.items() if name not in hints]:
            raise ValueError(f"it has {', '.join(unknown)}, which that does not know")
        args = module.Args(**values)
        if odd := misfits(vars(args), hints):
            raise ValueError(f"it lacks, or does not know, or mistakes {', '.join(odd)}")
        in_range(args, module.LIMITS)
        if not all(len(weight) and len(weight) % args.num_seeds == 0 for weight in weights.values()):
            raise ValueError(f"its weights are not those of {args.num_seeds} seeds")
        return dataclasses.replace(args, cuda=False, compile=False)
    except (Refused, *BAD_CONTENT) as error:
        fail(
            f"{path} is no agent of today's {module.__name__}.py ({said(error)}); play it with the code that trained it"
        )


def environment(saved: Saved, env_id: str | None) -> gym.Env:
    """The environment of an agent; Refused where it imports a module and is not named once more."""
    own = saved.args.env_id
    if ":" in own and env_id != own:  # a stranger's, perhaps
        fail(f"{saved.path}: its environment {own} imports a module; if you trust it, give --env-id {own} (or env_id=)")
    return make_env(own, args=saved.args)


def build(module: ModuleType, args: RunArgs, obs_dim: int, act_dim: int, kind: type | None = None):
    """A script's agent for all seeds that the arguments name, on the CPU; or another kind of object, such as its
    replay or an experiment's agent."""
    with side_by_side(range(args.seed, args.seed + args.num_seeds), CPU):
        made = (kind or module.Agent)(args, obs_dim, act_dim)
        if args.normalize_observations and isinstance(made, Learner):
            made.normaliser = Normaliser(obs_dim)
    return made


def filled(saved: Saved, obs_dim: int, act_dim: int, kind: type | None = None):
    """`build` with a file's weights."""
    agent = build(saved.module, saved.args, obs_dim, act_dim, kind)
    agent.args = saved.args  # which the contract does not ask an agent to keep
    try:
        agent.load_state_dict(saved.content["agent"])
        agent.steps = saved.steps
    except BAD_CONTENT as error:
        fail(f"{saved.path} does not fit {saved.args.env_id}: {said(error)}")
    return agent


def alone(saved: Saved, i: int) -> Saved:
    """A file of the i-th seed alone."""
    args, content = saved.args, saved.content | {"step": saved.steps[i], "steps": None}
    content["agent"] = {k: x.unflatten(0, (args.num_seeds, -1))[i] for k, x in content["agent"].items()}
    return saved._replace(args=dataclasses.replace(args, seed=args.seed + i, num_seeds=1), content=content)


# -------------------------------------------------------------------------------------------------------------- policy
class Policy:
    """One seed's policy, on the CPU. `args` are its run's, `seed` and `step` say whose it is and of when."""

    def __init__(self, agent: Learner, space: dict, name: str, step: int):
        self.agent, self.args, self.seed, self.step, self.name = agent, agent.args, agent.args.seed, step, name
        self.function, self.noise = agent.raw_policies()[name], torch.Generator()
        self.shape, self.original = tuple(space["shape"]), as_space(space["original"])
        low, high = (np.array(space[name], space["dtype"]) for name in ("low", "high"))
        self.box = gym.spaces.Box(low, high, dtype=low.dtype)  # in which the environment acts
        self.in_units = in_units(self.box)

    @torch.no_grad()
    def __call__(self, obs, explore: bool = False, seed: int | None = None) -> np.ndarray:
        """Actions (d,) or (n, d) at observations (ds,) or (n, ds), or at one that the environment gives unflattened.

        The noise is off; with `explore` the action is drawn as in training, by noise that goes on from call to call,
        and that `seed` begins anew."""
        rows = self.numbers(obs)
        if not rows.size:
            return np.zeros((0, *self.box.shape), self.box.dtype)
        many = torch.as_tensor(rows.reshape(1, -1, *self.shape), dtype=torch.float32)
        if seed is not None:
            self.noise.manual_seed(whole(seed) % 2**63)
        action = torch.cat([self.drawn(one) for one in many.split(1, 1)], 1) if explore else self.function(many)
        return self.in_units(action[0].numpy()).reshape(*rows.shape[: rows.ndim - len(self.shape)], -1)

    def drawn(self, obs: torch.Tensor) -> torch.Tensor:
        """Exploration's action (1, 1, d) at one observation (1, 1, ds)."""
        shapes, _ = self.agent.noise_shapes()
        noise = [torch.randn(1, *shape, generator=self.noise) for shape in shapes.values()]
        return self.agent.act(self.agent.sees(obs), namedtuple("Noise", shapes)(*noise))

    def numbers(self, obs) -> np.ndarray:
        """Observations as arrays of float64; Refused where they are not this environment's."""
        for read in (np.asarray, lambda obs: gym.spaces.flatten(self.original, obs)):
            try:
                rows = read(obs).astype(np.float64)
            except Exception:  # of whatever it is made
                continue
            if rows.shape[-len(self.shape) :] == self.shape and rows.ndim <= len(self.shape) + 1:
                if not np.isfinite(rows).all():
                    fail("an observation holds numbers that are not finite")
                return rows
        what = f"shape {obs.shape}" if isinstance(obs, np.ndarray) else " ".join(repr(obs).split())[:60]
        fail(f"an observation of {what}: hand over numbers of shape {self.shape}, several of them stacked, or what "
             f"{self.args.env_id} gives at once")  # fmt: skip


def whole(seed) -> int:
    """A seed as an int; Refused where it is none."""
    try:
        return operator.index(seed)
    except TypeError:
        fail(f"a seed of {seed!r}: give a whole number")


def load(folder: str | Path, seed: int | None = None, policy: str | None = None, best: bool = False,
         step: int | None = None, env_id: str | None = None) -> Policy:  # fmt: skip
    """A policy of a run's folder: of its last agent, of its best one, or with --keep-agents of the one at a step.

    `seed` is one of the run's, by default the first; `policy` one of those that the script evaluates, by default the
    one that counts. An older file does not say what its environment is: that is made then, and where it imports
    a module `env_id` must name it once more. Refused (runtime/messages.py), in one line, where that cannot be.
    """
    saved = read(Path(folder), step, best)
    seeds = range(saved.args.seed, saved.args.seed + saved.args.num_seeds)
    seed = seeds[0] if seed is None else whole(seed)
    if seed not in seeds:
        fail(f"{saved.path} has no seed {seed}: choose one of {seeds[0]} to {seeds[-1]}")
    tell_changed(saved)
    space = saved.content.get("space")
    if space is None:
        env = environment(saved, env_id)
        space = described(env)
        env.close()
    try:
        agent = filled(alone(saved, seed - seeds[0]), space["shape"][0], len(space["low"]))
        if not all(p.isfinite().all() for p in agent.parameters()):
            fail(f"{saved.path}: seed {seed} diverged, its weights are not finite; choose another, or the best agent")
        name = policy or next(iter(agent.policies()))
        if name not in agent.policies():
            fail(f"{saved.path} has no policy {name}: choose one of {', '.join(agent.policies())}")
        return Policy(agent, space, name, *agent.steps)
    except BAD_CONTENT as error:
        fail(f"{saved.path} is damaged: {said(error)}")
