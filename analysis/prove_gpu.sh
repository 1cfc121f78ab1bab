#!/usr/bin/env bash
# What no machine without a GPU can prove, in under 8 minutes on one with: that recorded CUDA graphs equal plain
# calls, that both scripts train there, and how fast. From the repository's root, with the requirements installed:
#
#     bash analysis/prove_gpu.sh                                   # ours alone
#     bash analysis/prove_gpu.sh "python leanrl_sac.py ..."        # and a peer that prints "<number> steps/s" last
set -euo pipefail
cd "$(dirname "$0")/.."
export MUJOCO_GL=egl
python - <<'PY'
import torch

assert torch.cuda.is_available(), "no GPU here"
PY
python -m pytest -q tests -k gpu
python analysis/survival.py kill --kills 3 --steps-per-kill 200 --cuda   # a resumed run: what differs, and by how much
python analysis/throughput.py --cuda --num-seeds 1 16 --leapfrog-steps 3 --steps 4000 --rounds 1 ${1:+--vs "$1"}
