#!/usr/bin/env bash
# What no machine without a GPU can prove, in 8 minutes on one with, the most worth first: that 1 and 16 seeds train
# there, compiled and recorded; that a GPU computes what a CPU does, and recorded graphs what plain calls do; that a
# killed run goes on; how fast; and frames. With the requirements installed:
#
#     bash analysis/checks/prove_gpu.sh                                     # all parts
#     bash analysis/checks/prove_gpu.sh speed "python /path/to/peer.py"     # one part; a peer prints "<number> steps/s" last
#
# Every part runs, whatever became of the one before, and ends at its limit (a Ctrl-C, after which what was measured is
# kept). It has written its files before the next begins. RESULTS names their folder, results/ otherwise.
set -uo pipefail
cd "$(dirname "$0")/../.."
parts=${1:-train same kills speed pixels}
export RESULTS=${RESULTS:-$PWD/results}
mkdir -p "$RESULTS/survival" "$RESULTS/throughput" "$RESULTS/gpu"
python3 -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || { echo "no GPU here" >&2; exit 2; }

within() { # seconds, command ..
    timeout -s INT -k 10 "$@"
}

trained() { # seconds, name, script, flags ..: keeps what the run leaves in evaluations.csv
    local limit=$1 name=$2 script=$3 mark
    mark=$(mktemp)
    within "$limit" python3 "$script.py" --exp-name "prove-$name" --cuda --compile "${@:4}"
    local code=$?
    find runs -path "*__prove-${name}__*/evaluations.csv" -newer "$mark" -exec cp {} "$RESULTS/gpu/$name.csv" \;
    rm "$mark"
    return $code
}

failed=0
for part in $parts; do
    SECONDS=0
    case $part in
    train) # with 3,000 steps of which 2,000 learn
        short="--env-id Hopper-v4 --total-timesteps 3000 --learning-starts 1000 --eval-frequency 1500 --eval-episodes 1"
        for seeds in 16 1; do
            for script in sac_hpo_continuous sac_continuous; do
                trained 60 "${script}_$seeds" $script $short --num-seeds $seeds || failed=1
            done
        done ;;
    same) within 60 python3 -m pytest -q tests/test_fast.py tests/test_run.py -k gpu ;;
    kills) # a resumed run: what differs, and by how much
        within 60 python3 analysis/checks/survival.py kill --kills 3 --steps-per-kill 1000 --cuda \
            --output "$RESULTS/survival/kill__gpu.csv" && cat "$RESULTS/survival/kill__gpu.csv" ;;
    speed) # an H100 runs LeanRL's SAC at some 725 steps/s
        within 120 python3 analysis/checks/throughput.py --cuda --num-seeds 1 16 64 --leapfrog-steps 3 --steps 3000 \
            --warm-up 1000 --rounds 1 --output "$RESULTS/throughput/gpu.csv" ${2:+--vs "$2"} ;;
    pixels) trained 60 pixels sac_hpo_pixels --total-timesteps 700 --learning-starts 200 --eval-frequency 700 \
        --eval-episodes 1 --amp ;;
    *) echo "no part is called $part: train, same, kills, speed or pixels" >&2; false ;;
    esac || failed=1
    echo "$part: $SECONDS s, failed so far: $failed"
done
exit $failed
