"""What this machine has: a GPU, a compiler, packages, memory, cores."""

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.messages import fail

import torch


def memory(root: Path = Path("/")) -> float:
    """Bytes that this process may use in all: the host's, or less where a control group allows less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    own, groups = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in own.read_text(encoding="utf-8").splitlines() if own.exists() else ():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        top, name = (groups, "memory.max") if not controllers else (groups / "memory", "memory.limit_in_bytes")
        inside = top / place.strip("/")
        for level in [top, *(level for level in [inside, *inside.parents] if top in level.parents)]:  # each is a limit
            text = (level / name).read_text(encoding="utf-8").strip() if (level / name).is_file() else "max"
            limits += [int(text)] if text.isdigit() else []
    return float(min(limits))


def threads(default: int) -> int:
    """OMP_NUM_THREADS's first number, of the outermost level, or a default where it is empty or none."""
    first = re.match(r"\s*(\d+)", os.environ.get("OMP_NUM_THREADS", ""))
    return max(1, int(first[1])) if first else default


@functools.cache
def has_screen() -> bool:
    """Whether GLFW opens a window, tried by a process apart, because where it cannot it may abort."""
    code = "import glfw, sys; sys.exit(not (glfw.init() and glfw.create_window(8, 8, 'trial', None, None)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def check(args) -> None:
    """Refuses what a run wants and this machine lacks."""
    if args.cuda and not torch.cuda.is_available():
        advice = f"{'go on' if args.resume else 'start'} with --no-cuda"
        fail(f"--cuda: PyTorch finds no GPU; {advice}, or install a CUDA build of torch")
    if args.compile:
        try_compiler(*(("CC", "gcc", "clang") if args.cuda else ("CXX", "g++")))
    for flag, package in (("track", "wandb"), ("capture_video", "moviepy")):
        if getattr(args, flag) and importlib.util.find_spec(package) is None:
            fail(f"--{flag.replace('_', '-')} needs the package {package}: pip install {package}")
    if args.track:
        try:
            import wandb

            if os.environ.get("WANDB_MODE") not in ("offline", "disabled") and not wandb.login(prompt=False):
                raise ValueError("no account is known")
        except Exception as error:  # also a refused key, no network, half an installation
            fail(f"--track: {error}; run `wandb login`, or set WANDB_MODE=offline")


def check_batch(args, width: int) -> None:
    """Refuses a batch whose update cannot fit into a CPU's memory: it keeps at least eight arrays as wide as the hidden
    layers of its networks."""
    size = 8 * 4 * width * getattr(args, "batch_size", 1) * args.num_seeds
    if not args.cuda and size > memory():
        fail(f"--batch-size {args.batch_size} takes at least {size * 1e-9:.1f} GB with {args.num_seeds} seeds, and "
             f"there are {memory() * 1e-9:.1f} GB: choose a smaller one, or fewer seeds")  # fmt: skip


def try_compiler(variable: str, *names: str) -> None:
    """Compiles nothing much, so that a compiler that fails is told before the run and not at its first update."""
    named = [os.environ[variable]] if variable in os.environ else names
    command = next((name for name in named if shutil.which((shlex.split(name) or [""])[0])), None)
    advice = "install it, or start with --no-compile"
    if command is None:
        fail(f"--compile needs {' or '.join(names)}, or what {variable} names: {advice}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.cpp" if variable == "CXX" else "try.c")
        source.write_text("int main(void) { return 0; }\n")
        words = [*shlex.split(command), str(source), "-o", str(source.with_suffix(""))]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        fail(f"--compile: {command} fails ({said}): mend or {advice}")
