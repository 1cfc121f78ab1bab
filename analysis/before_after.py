"""Two results files of one script side by side, over the steps that both have: did new code change learning?

    cd results && python ../analysis/before_after.py {,fast_path/}Hopper-v4__sac_continuous.csv

For each step the mean and standard deviation over seeds before and after; then the mean over those evaluations, its
difference, and Welch's 95 % interval.
"""

import sys
from pathlib import Path

from scipy import stats
from tables import load


def main(before: Path, after: Path) -> None:
    (old_steps, old), (new_steps, new) = ((steps, x.mean(2)) for steps, x in map(load, (before, after)))
    steps = [step for step in old_steps if step in new_steps]
    old, new = old[:, [s in steps for s in old_steps]], new[:, [s in steps for s in new_steps]]
    print(f"| {after.stem}, step | before | after |\n| --- | --- | --- |")
    for i, step in enumerate(steps):
        print(f"| {step:,} | {old[:, i].mean():.0f} ± {old[:, i].std(ddof=1):.0f} | "
              f"{new[:, i].mean():.0f} ± {new[:, i].std(ddof=1):.0f} |")  # fmt: skip
    old, new = old.mean(1), new.mean(1)
    low, high = stats.ttest_ind(new, old, equal_var=False).confidence_interval()
    print(f"| mean | {old.mean():.0f} ± {old.std(ddof=1):.0f} | {new.mean():.0f} ± {new.std(ddof=1):.0f} |")
    print(f"\nDifference {new.mean() - old.mean():+.0f}, 95 % interval [{low:+.0f}, {high:+.0f}], "
          f"{len(old)} and {len(new)} seeds.")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("before_after: name two results files of one script", file=sys.stderr)
        raise SystemExit(2)
    main(*map(Path, sys.argv[1:]))
