"""Writes a trained policy as ONNX: raw observations in, actions in the environment's units out, any number at a time.

    python analysis/export.py runs/Hopper-v4__sac_hpo_continuous__1__1763720000 --onnx policy.onnx
    python analysis/export.py RUN --onnx policy.onnx --seed 3 --best           # seed 3's best agent
    python analysis/export.py RUN --onnx policy.onnx --policy base            # another policy of the script's

The noise is off. All of the policy is in the file: normalised observations, the leapfrog with the critics' gradient,
the map to the environment's units. onnxruntime computes it once more, and the file is kept if that agrees with PyTorch.
Needs what requirements-onnx.txt names. Agents that see frames are not exported.
"""

import contextlib
import dataclasses
import importlib.util
import io
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.records import check_output
from analysis.report import parsed, start
from runtime.home import Policy, load
from runtime.messages import fail, said

import numpy as np
import torch
import tyro
from torch.fx.experimental.proxy_tensor import make_fx

PACKAGES = "onnx", "onnxruntime", "onnxscript"
TRIED, CLOSE = 256, 1e-5  # observations; half widths of an action's range
ALIKE = 0.99  # of the observations: next to a critic's kink rounding decides between two gradients, in either library


@dataclasses.dataclass
class Args:
    folder: tyro.conf.Positional[Path]  # a run's folder
    onnx: Path  # the file to write
    seed: int | None = None  # which of the run's seeds; by default the first
    policy: str | None = None  # which of the policies that the script evaluates; by default the one that counts
    step: int | None = None  # the agent of this step, from a run with --keep-agents; otherwise agent.pt
    best: bool = False  # agent-best.pt: the agent of the seed's best evaluation
    env_id: str | None = None  # for an agent of before: its environment once more, if it is one that imports a module


def whole(policy: Policy):
    """A policy as a function of tensors alone, (n, ds) -> (n, d), in the environment's units."""
    low, high = torch.from_numpy(policy.box.low), torch.from_numpy(policy.box.high)
    middle, half = low / 2 + high / 2, high / 2 - low / 2

    def function(obs: torch.Tensor) -> torch.Tensor:
        action = policy.function(obs[None])[0].to(low.dtype)
        return torch.minimum(torch.maximum(middle + half * action, low), high)

    return function


def written(policy: Policy, path: Path) -> None:
    """Writes a policy's graph, in which derivatives have become operations: make_fx records what autograd computes."""
    obs = torch.zeros(policy.shape[0] + 1, *policy.shape)  # of unlike sizes: like ones would become one symbol
    options = {"input_names": ["observation"], "output_names": ["action"], "verbose": False}
    policy.agent.requires_grad_(False)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        graph = make_fx(whole(policy), tracing_mode="symbolic", _allow_non_fake_inputs=True)(obs)
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(graph.eval(), (obs,), dynamo=True, dynamic_shapes=shapes, **options)
    program.save(path, external_data=False)


def distances(policy: Policy, path: Path) -> np.ndarray:
    """How far a file's actions are from the policy's, at TRIED observations of the size of training's and at one alone,
    each an action's largest, in half widths of its range."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    obs = np.random.default_rng(0).standard_normal((TRIED, *policy.shape)).astype(np.float32)
    if normaliser := policy.agent.normaliser:
        obs = (obs / normaliser.scale[0].numpy() + normaliser.shift[0].numpy()).astype(np.float32)
    half, found = (policy.box.high - policy.box.low) / 2, []
    for some in (obs, obs[:1]):
        (action,), ours = session.run(None, {"observation": some}), policy(some)
        if (action.dtype, action.shape) != (ours.dtype, ours.shape):
            raise ValueError(f"{action.dtype} of shape {action.shape} for {ours.dtype} of shape {ours.shape}")
        found.append(np.abs((action - ours) / half).max(1))
    return np.concatenate(found)


def main(args: Args) -> str:
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        fail(f"export.py needs {', '.join(missing)}: pip install -r requirements-onnx.txt")
    check_output(args.onnx, "--onnx")
    policy = load(args.folder, args.seed, args.policy, args.best, args.step, args.env_id)
    if len(policy.shape) > 1:
        fail(f"{args.folder}: its agent sees frames, and agents that observe numbers alone are exported")
    beside = args.onnx.with_name(f"{args.onnx.name}.part")
    try:
        written(policy, beside)
        far = distances(policy, beside)
        if not (far <= CLOSE).mean() >= ALIKE:
            raise ValueError(f"its actions differ from PyTorch's by up to {far.max():.1e} of half an action's range")
        beside.replace(args.onnx)
    except Exception as error:  # the exporter's and onnxruntime's are of many types
        fail(f"--onnx {args.onnx} is not written: {said(error)}")
    finally:
        beside.unlink(missing_ok=True)
    apart = f"; {(far > CLOSE).sum()} of {len(far)} next to a kink" if far.max() > CLOSE else ""
    return (
        f"{args.onnx}: policy {policy.name} of seed {policy.seed}, step {policy.step}. observation (batch, "
        f"{policy.shape[0]}) float32 -> action (batch, {policy.box.shape[0]}) {policy.box.dtype}, as PyTorch's to "
        f"{far[far <= CLOSE].max():.1e} of half an action's range{apart}"
    )


if __name__ == "__main__":
    start(lambda argv: print(main(parsed(Args, __doc__, argv))))
