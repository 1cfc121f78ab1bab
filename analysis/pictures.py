"""Frames and what the decoder makes of them, as a run from pixels logged them: a PNG.

    python analysis/pictures.py runs/dm_control_finger-spin-v0__sac_hpo_pixels__1__1795700000 --output mine.png
    python analysis/pictures.py RUN --steps 1000 5000 10000 --output mine.png    # one pair of rows for each

Above, the newest frame of observations from all over the replay, as the decoder's target has it (5 bits); below, its
reconstruction. The pictures are of the run's first seed, from TensorBoard's files.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.records import event_logs
from analysis.report import Parser, start
from runtime.messages import fail

import numpy as np
from matplotlib import image

TAG = "eval/reconstructions"


def logged(folder: Path) -> dict[int, np.ndarray]:
    """{step: picture (H, W, 3) in [0, 1]} of a run's first seed."""
    logs = event_logs(folder, "images")
    if not logs:
        fail(f"{folder} is no run's folder: it holds no seed-*")
    log = logs[0][1]
    if TAG not in log.Tags()["images"]:
        fail(f"{folder} has logged no {TAG}: it is no run from pixels, or has not evaluated yet")
    return {x.step: image.imread(io.BytesIO(x.encoded_image_string)) for x in log.Images(TAG)}


def main(argv: list[str]) -> None:
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="a run's folder")
    parser.add_argument("--steps", type=int, nargs="+", help="evaluations to show; the last one if left out")
    parser.add_argument("--output", type=Path, required=True, help="the picture, a .png")
    options = parser.parse_args(argv)
    if options.output.suffix != ".png" or not options.output.parent.is_dir():
        fail(f"--output {options.output}: name a .png in a folder that is there")
    pictures = logged(options.folder)
    steps = options.steps or [max(pictures)]
    if unknown := [step for step in steps if step not in pictures]:
        fail(f"no pictures of step {unknown[0]}: choose among {', '.join(map(str, sorted(pictures)))}")
    image.imsave(options.output, np.concatenate([pictures[step] for step in steps]).clip(0, 1))


if __name__ == "__main__":
    start(main)
