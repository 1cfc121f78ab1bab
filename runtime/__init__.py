"""What keeps a run alive, whatever it learns: no method lives here, and nothing here imports a script.

messages.py      one clear line for what cannot be, exit code 2
contract.py      what a run asks of a script: its module, its agent
seeds.py         layers, Adam and numbers with a place for each seed
convolutions.py  convolutions with weights of each seed
replay.py        a ring of rows for each seed
normalisation.py observations less their mean, over their deviation
arguments.py     flags of every run, limits, what a resumed run may change
flags.py         a command line's flags as typed values, --help
machine.py       what this machine has: GPU, compiler, packages, memory, cores
environments.py  environments, and episodes that come back
spaces.py        what an environment may observe, and how it may act
trial.py         a task tried before the run: its interface, its random numbers
control.py       tasks of the DeepMind Control Suite, from their state
pixels.py        and seen by a camera
frames.py        a replay's frames, each kept once
evaluation.py    episodes with the noise off, and their films
streams.py       random numbers that need no saving
workers.py       processes that step environments beside one another
device.py        compilation, CUDA graphs, copies that nobody waits for
products.py      matrix products by the fastest library, at the precision asked for
agents.py        agent.pt, the best weights, those of every evaluation
home.py          agents outside of a run: `from runtime import load`
checkpoints.py   files that are whole or absent, --resume
logs.py          the run's folder: config.json, evaluations.csv, TensorBoard, W&B, terminal
signals.py       what a signal ends, and when
run.py           the loop around a script's `train`: evaluation, checkpoints, signals, faults

contract.py says what a script must be, and CONTRIBUTING.md how to begin one.
"""

import importlib.util
import sys
from pathlib import Path

if sys.platform == "win32":
    print(f"{Path(sys.argv[0]).stem}: Windows lacks signals and file locks that a run needs: use Linux, or WSL there",
          file=sys.stderr)  # fmt: skip
    raise SystemExit(2)
_needed = ("torch", "numpy", "gymnasium", "tyro", "tqdm", "filelock", "tensorboard")
if _missing := [name for name in _needed if importlib.util.find_spec(name) is None]:
    print(f"{Path(sys.argv[0]).stem}: {', '.join(_missing)} not found: install what {Path(__file__).parent.parent}"
          "/requirements.txt names (pip install -r), and start with that Python", file=sys.stderr)  # fmt: skip
    raise SystemExit(2)


def load(folder, **which):
    """A trained agent, to call with observations: runtime/home.py says how."""
    from runtime import home  # and PyTorch with it

    return home.load(folder, **which)
