"""What an environment may observe and how it may act: numbers, flattened to a vector, and a bounded continuous Box."""

from runtime.messages import fail, note

import gymnasium as gym
import numpy as np

WIDEST = 1e6  # width of an action's range; a wider one is as good as unbounded
CHOICES = 1000  # most values of a discrete number, whose flat form has one place for each


def fitted(env: gym.Env, named: str) -> gym.Env:
    """The environment with observations (n,), n > 0; Refused, with the space at fault, where that or acting cannot be.

    `named` is how the environment was asked for."""
    check(env, named)
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return env
    env = gym.wrappers.FlattenObservation(env)
    note(f"{named} observes {space}: flattened to {env.observation_space.shape[0]} numbers, in that order")
    return env


def check(env: gym.Env, named: str) -> None:
    """Refuses spaces of observations or actions that no run can use."""
    acts(env.action_space, named)
    space = env.observation_space
    if odd := next((leaf for leaf in leaves(space) if not numbers(leaf)), None):
        why = "an image: these scripts learn from numbers" if image(odd) else f"{odd}, which is not numbers"
        fail(f"{named} observes {space}, with {why}: wrap it so that it observes a Box of shape (n,)")
    if not gym.spaces.flatdim(space):
        fail(f"{named} observes {space}, which is nothing: let it observe a Box of shape (n,) with n > 0")


def leaves(space: gym.Space) -> list[gym.Space]:
    """The spaces that a Dict or a Tuple is made of, however deep."""
    parts = {gym.spaces.Dict: lambda: space.spaces.values(), gym.spaces.Tuple: lambda: space.spaces}
    return [leaf for part in parts[type(space)]() for leaf in leaves(part)] if type(space) in parts else [space]


def described(env: gym.Env) -> dict:
    """What an agent must know of an environment (`make_env`'s), in plain values that a file holds."""
    inner = env.env  # whose actions are in its own units
    seen, act = inner.env if isinstance(inner, gym.wrappers.FlattenObservation) else inner, inner.action_space
    about = {"shape": list(env.observation_space.shape), "original": as_plain(seen.observation_space)}
    return about | {"low": act.low.tolist(), "high": act.high.tolist(), "dtype": str(act.dtype)}


def as_plain(space: gym.Space) -> list:
    """A space's kind, and what its flat form depends on."""
    match space:
        case gym.spaces.Dict():
            return ["Dict", [[name, as_plain(part)] for name, part in space.spaces.items()]]
        case gym.spaces.Tuple():
            return ["Tuple", [as_plain(part) for part in space.spaces]]
        case gym.spaces.Discrete():
            return ["Discrete", int(space.n), int(space.start)]
        case gym.spaces.MultiDiscrete():
            return ["MultiDiscrete", space.nvec.tolist(), space.start.tolist()]
        case gym.spaces.MultiBinary():
            return ["MultiBinary", list(space.shape)]
    return ["Box", list(space.shape), str(space.dtype)]


def as_space(plain: list) -> gym.Space:
    """A space whose flat form is that of the one described; a Box has lost its bounds."""
    kind, what, *more = plain
    if kind == "Dict":
        return gym.spaces.Dict([(name, as_space(part)) for name, part in what])
    if kind == "Tuple":
        return gym.spaces.Tuple([as_space(part) for part in what])
    if kind == "MultiDiscrete":
        return gym.spaces.MultiDiscrete(np.array(what), start=np.array(more[0]))
    if kind == "Box":
        return gym.spaces.Box(0, 1, what, np.dtype(more[0]))
    return gym.spaces.Discrete(what, start=more[0]) if kind == "Discrete" else gym.spaces.MultiBinary(what)


def image(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1


def numbers(space: gym.Space) -> bool:
    """Whether a space is of a few numbers."""
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return np.max(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec) <= CHOICES
    return isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary) and not image(space)


def acts(act: gym.Space, named: str) -> None:
    """Refuses an action space that cannot be normalised to [-1, 1] in each dimension."""
    wanted, wrap = "a bounded continuous Box of shape (n,)", "gymnasium.wrappers.TransformAction"
    if not isinstance(act, gym.spaces.Box) or act.dtype.kind != "f":
        fail(f"{named} acts in {act}: choose a task that acts in {wanted}")
    if len(act.shape) != 1 or not act.shape[0]:
        fail(f"{named} acts in {act}: choose one that acts in {wanted} with n > 0, or wrap it ({wrap})")
    low, high = act.low.astype(np.float64), act.high.astype(np.float64)
    if not act.is_bounded() or (high - low).max() > WIDEST:
        fail(f"{named} acts in {act}, which is not bounded to any use: choose one that acts in {wanted}, or wrap it so "
             f"that it does ({wrap} with the range that makes sense)")  # fmt: skip
    if (flat := np.flatnonzero(act.low >= act.high)).size:
        fail(f"{named}: its action space has low = high in dimension {flat[0]}: there is nothing to learn")
    middle = ((low + high) / 2).astype(act.dtype)
    with np.errstate(over="ignore"):
        told = (act.low < middle) & (middle < act.high) & np.isfinite(2 / (act.high - act.low))
    if not told.all():
        fail(f"{named}: its action space is so narrow in dimension {np.flatnonzero(~told)[0]} that its middle is one "
             f"of its ends: wrap it so that it acts in wider units ({wrap})")  # fmt: skip
