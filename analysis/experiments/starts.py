"""SAC and SAC-HPO with an older start of a run, part by part, to find out which part matters (docs/lab/start.md).

    python analysis/experiments/starts.py train none sac --env-id Ant-v4 --num-seeds 4       # SAC's flags, --resume too
    python analysis/experiments/starts.py train all hpo --env-id Ant-v4 --leapfrog-space action  # SAC-HPO, as spaces.py
    python analysis/experiments/starts.py train all unclamped --env-id Ant-v4 --num-seeds 4  # the same, unclamped
    python analysis/experiments/starts.py collect runs/Ant-v4__sac_continuous__start-none__*  # -> results/start/

A start is `all`, which is the scripts' own, `none`, which was theirs until November 2026, or `none` with parts of `all`
joined by +:
  weights    Xavier uniform weights and zero biases in every network, instead of both uniform on ±1/√in
  log-std    the network's output clamped to [-20, 2], instead of a scaled tanh to [-5, 2]
  random     10,000 steps of random actions, instead of 5,000
  updates    an update a step from step 256 on, instead of none before the random actions end
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_continuous as sac
import sac_hpo_continuous as hpo
from analysis import ROOT
from analysis.collect import collect
from analysis.experiments.spaces import chosen, unclamped
from analysis.records import config_of, program, write_whole
from analysis.report import start as run_program
from runtime.messages import fail
from runtime.run import launch
from runtime.seeds import as_pytorch

import torch
import torch.nn.functional as F

RESULTS = ROOT / "results" / "start"
PROGRAM = "analysis/experiments/starts.py"
PARTS = "weights", "log-std", "random", "updates"


def by_pytorch(weight: torch.Tensor, bias: torch.Tensor, stream: torch.Generator) -> None:
    """A script's `start` with weights and biases uniform on ±1/√in. A name of its own, since `initialise` draws
    PyTorch's otherwise."""
    as_pytorch(weight, bias, stream)


def squashed_log_std(policy, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Policy.forward with a log-std in [-5, 2] by a scaled tanh: form 1 of a script."""
    x = F.relu(policy.fc1(obs))
    x = F.relu(policy.fc2(x)) if policy.fc2 else x
    return policy.mean(x), 3.5 * policy.log_std(x).tanh() - 1.5


READINGS = "sac", "hpo", "unclamped"  # the last is SAC-HPO in action space, where a_K goes everywhere as it is


def train(start: str, reading: str, flags: list[str]) -> int:
    """A run with a start and a reading, whose names the run keeps as its --exp-name."""
    if reading == "unclamped":
        script = unclamped(hpo)
    else:
        script, flags = (sac, flags) if reading == "sac" else chosen(hpo, flags)
    parts = PARTS if start == "all" else [] if start == "none" else start.split("+")
    random = "10000" if "random" in parts else "5000"
    resumed = any(flag.split("=")[0] == "--resume" for flag in flags)  # whose values are its own
    own = ["--random-steps", random, "--learning-starts", "256" if "updates" in parts else random]
    flags = flags if resumed else own + flags
    if "weights" not in parts:
        script.start = by_pytorch
    if "log-std" not in parts:
        script.Policy.forward, script.FORM = squashed_log_std, 1
    flags = ["--exp-name", f"start-{start}__{reading}", *flags]
    return launch(script, flags, program=f"{PROGRAM} train {start} {reading}")


def keep(folders: list[Path]) -> Path:
    """Copies runs of one start and reading, of different seeds, to one file of results/start/, stopped ones too."""
    config = config_of(folders[0])
    args, name = config["args"], str(config["args"].get("exp_name"))
    if not name.startswith("start-") or name.count("__") != 1:
        fail(f"{folders[0]} is no run of {PROGRAM}")
    start, reading = name.removeprefix("start-").split("__")
    batches = [collect([folder], unfinished=True)[1].splitlines() for folder in folders]  # of seeds, perhaps of commits
    comments = [line for batch in batches for line in batch if line.startswith("#")]
    rows = [[line for line in batch if not line.startswith("#")] for batch in batches]
    if len({batch[0] for batch in rows}) > 1:
        fail("these runs have other columns: collect each by itself")
    text = "\n".join([*comments, rows[0][0], *(line for batch in rows for line in batch[1:])]) + "\n"
    text = text.replace(f"python {program(config)}", f"python {PROGRAM} train {start} {reading}")
    text = text.replace(f" --exp-name {args['exp_name']}", "")
    more = ["autotune"] * args["autotune"] + ["gpu"] * args["cuda"]
    path = RESULTS / ("__".join([args["env_id"], config["script"], f"start-{start}", reading, *more]) + ".csv")
    write_whole(path, text)
    return path


def main(argv: list[str]) -> int:
    what, *rest = argv or [""]
    known = rest and all(part in (*PARTS, "all", "none") for part in rest[0].split("+"))
    if what in ("-h", "--help"):
        print(__doc__)
        return 0
    if what == "train" and known and rest[1:] and rest[1] in READINGS:
        return train(rest[0], rest[1], rest[2:])
    if what != "collect" or not rest:
        starts, readings = ", ".join((*PARTS, "all", "none")), ", ".join(READINGS)
        fail(f"name train, a start ({starts}), one of {readings} and flags; or collect and run folders")
    print(keep([Path(folder) for folder in rest]))
    return 0


if __name__ == "__main__":
    run_program(main)
