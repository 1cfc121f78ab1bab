"""Does a change of the code change what is learned? One line a script, the same before and after if it does not.

    python analysis/checks/fingerprint.py                        # all scripts
    python analysis/checks/fingerprint.py sac_continuous

Each script trains two seeds for 600 steps of Hopper-v4 (one thread, uncompiled), is killed with SIGKILL after the first
evaluation and resumed. The line has the SHA-256 of evaluations.csv and of the final weights, 16 digits each. Only lines
printed by one machine, torch and numpy compare.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from analysis import ROOT
from analysis.report import Parser, start
from runtime.messages import fail

import torch

FLAGS = """--env-id Hopper-v4 --num-seeds 2 --total-timesteps 600 --random-steps 100 --learning-starts 100
    --batch-size 32 --eval-frequency 200 --eval-episodes 2 --checkpoint-frequency 50
    --no-compile --no-cuda""".split()


def fingerprint(script: Path, folder: Path) -> tuple[str, str]:
    """Hashes of the evaluations and the weights that a killed and resumed run leaves."""
    options = {"cwd": folder, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
    tuned = ["--autotune"] if "autotune:" in script.read_text(encoding="utf-8") else []  # MCMC-PO has no temperature
    process = subprocess.Popen([sys.executable, "-u", str(script), *FLAGS, *tuned], **options)
    run = re.search(r"runs/\S+", process.stdout.readline()).group()
    for line in process.stdout:
        if line.startswith("step 200,"):
            break
    process.kill()
    process.communicate()
    subprocess.run([sys.executable, str(script), "--resume", run], check=True, **options)
    weights = hashlib.sha256()
    for name, value in torch.load(folder / run / "agent.pt", weights_only=True)["agent"].items():
        weights.update(name.encode() + value.numpy().tobytes())
    return hashlib.sha256((folder / run / "evaluations.csv").read_bytes()).hexdigest(), weights.hexdigest()


def main(argv: list[str]) -> None:
    known = {path.stem: path for path in sorted([*ROOT.glob("*_continuous.py"), *ROOT.glob("ablations/*.py")])}
    parser = Parser(__doc__)
    parser.add_argument("scripts", nargs="*", help="scripts to train; none: all")
    scripts = parser.parse_args(argv).scripts
    if unknown := {*scripts} - {*known}:
        fail(f"no script {', '.join(unknown)}; there are {', '.join(known)}")
    for name in scripts or known:
        with tempfile.TemporaryDirectory() as folder:
            print(name, *(digest[:16] for digest in fingerprint(known[name], Path(folder))), flush=True)


if __name__ == "__main__":
    start(main)
