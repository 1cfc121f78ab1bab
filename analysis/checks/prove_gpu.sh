#!/usr/bin/env bash
# What no machine without a GPU can prove, in 8 minutes on one with: that 1 and 16 seeds train there, compiled and
# recorded; that a GPU computes what a CPU does, and recorded graphs what plain calls do; that a killed run goes on;
# frames; and how fast. With the requirements installed (frames need libegl1 and a driver that draws, too):
#
#     bash analysis/checks/prove_gpu.sh                                     # all parts
#     bash analysis/checks/prove_gpu.sh speed "python /path/to/peer.py"     # one part; a peer prints "<number> steps/s" last
#
# All but the speeds run at once, which takes under two minutes on an H200 with 16 cores; then the speeds, alone. Every
# part runs, whatever became of the others, and ends at its limit (a Ctrl-C, after which what was measured is kept).
# RESULTS names the folder of what they leave, results/ otherwise; what they print is in its gpu/.
set -uo pipefail
cd "$(dirname "$0")/../.."
parts=${1:-train same kills pixels speed} peer=${2:-}
export RESULTS=${RESULTS:-$PWD/results}
mkdir -p "$RESULTS/survival" "$RESULTS/throughput" "$RESULTS/gpu"
python3 -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || { echo "no GPU here" >&2; exit 2; }

within() { # seconds, name, command ..: in the background, its output in a file
    local limit=$1 name=$2
    shift 2
    (
        timeout -s INT -k 10 "$limit" "$@" > "$RESULTS/gpu/$name.log" 2>&1
        code=$?
        echo "$name: exit code $code after $SECONDS s"
        tail -n "${LINES_TOLD:-2}" "$RESULTS/gpu/$name.log"
        exit $code
    ) &
    jobs+=($!)
}

trained() { # seconds, name, script, flags ..: keeps what the run leaves in evaluations.csv
    within "$1" "$2" bash -c '
        mark=$(mktemp)
        python3 "$1.py" --exp-name "prove-$0" --cuda --compile "${@:2}"
        code=$?
        find runs -path "*__prove-$0__*/evaluations.csv" -newer "$mark" -exec cp {} "$RESULTS/gpu/$0.csv" \;
        rm "$mark"
        exit $code' "${@:2}"
}

finish() { # waits for all that was started
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    jobs=()
}

failed=0 jobs=()
for part in $parts; do
    case $part in
    train) # with 3,000 steps of which 2,000 learn
        short="--env-id Hopper-v4 --total-timesteps 3000 --learning-starts 1000 --eval-frequency 1500 --eval-episodes 1"
        for seeds in 16 1; do
            for script in sac_hpo_continuous sac_continuous; do
                trained 120 "${script}_$seeds" $script $short --num-seeds $seeds
            done
        done ;;
    same) within 150 same python3 -m pytest -q tests/test_fast.py tests/test_run.py -k gpu ;;
    kills) # a resumed run: what differs, and by how much
        within 120 kills python3 analysis/checks/survival.py kill --kills 3 --steps-per-kill 1000 --cuda \
            --output "$RESULTS/survival/kill__gpu.csv" ;;
    pixels) MUJOCO_GL=${MUJOCO_GL:-egl} trained 120 pixels sac_hpo_pixels --total-timesteps 700 --learning-starts 200 \
        --eval-frequency 700 --eval-episodes 1 --amp ;;
    speed) # an H100 runs LeanRL's SAC at some 725 steps/s
        finish
        LINES_TOLD=12 within 330 speed python3 analysis/checks/throughput.py --cuda --num-seeds 1 16 64 \
            --leapfrog-steps 3 --steps 3000 --warm-up 1000 --rounds 1 --output "$RESULTS/throughput/gpu.csv" \
            ${peer:+--vs "$peer"} ;;
    *) echo "no part is called $part: train, same, kills, pixels or speed" >&2; failed=1 ;;
    esac
done
finish
exit $failed
