#!/usr/bin/env bash
# What no machine without a GPU can prove, in under 8 minutes on one with: that recorded CUDA graphs equal plain
# calls, that a GPU computes what a CPU does, that runs train there and survive, and how fast. With the requirements
# installed:
#
#     bash analysis/checks/prove_gpu.sh                                     # tests, kills, speed
#     bash analysis/checks/prove_gpu.sh speed "python /path/to/peer.py"     # one part; a peer prints "<number> steps/s" last
#
# Every part runs, whatever became of the one before; RESULTS names a folder for the CSV files, results/ otherwise.
set -uo pipefail
cd "$(dirname "$0")/../.."
parts=${1:-tests kills speed}
export RESULTS=${RESULTS:-$PWD/results}
mkdir -p "$RESULTS/survival" "$RESULTS/throughput"
python3 -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || { echo "no GPU here" >&2; exit 2; }
failed=0
for part in $parts; do
    case $part in
    tests) python3 -m pytest -q tests/test_fast.py tests/test_run.py -k gpu ;;
    kills) # a resumed run: what differs, and by how much
        python3 analysis/checks/survival.py kill --kills 3 --steps-per-kill 1000 --cuda --output "$RESULTS/survival/kill__gpu.csv" &&
            cat "$RESULTS/survival/kill__gpu.csv" ;;
    speed) python3 analysis/checks/throughput.py --cuda --num-seeds 1 16 --leapfrog-steps 3 --steps 3000 --warm-up 1000 \
        --rounds 1 --output "$RESULTS/throughput/gpu.csv" ${2:+--vs "$2"} ;;
    *) echo "no part is called $part: tests, kills or speed" >&2; false ;;
    esac || failed=1
done
exit $failed
