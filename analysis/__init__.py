"""What reads runs, sorted by who runs it. A program is started by its file; --help says what it is for.

here          on your own run: play, keep, export, tables, curves, scalars, gap, policy_shape, landscape, collect, ..
benchmark/    the papers' matrix: its cells and their runner, verdicts, docs/results.md
experiments/  questions that were asked once: which reading, which space, which start, how far an action moves
checks/       whoever changes the code: does it learn the same, survive, and how fast

records.py reads results files and runs' folders, report.py makes tables and intervals of them; both for all.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for _folder in (ROOT / "ablations", ROOT):  # so that every script can be imported by its name, from wherever
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import runtime  # noqa: F401  # says in one line what is not installed
