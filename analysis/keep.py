"""Takes one seed's agent out of a run, into a small folder of its own: agent.pt and config.json.

    python analysis/keep.py runs/HalfCheetah-v4__sac_hpo_continuous__1__1763720000 agents/HalfCheetah-v4__sac_hpo
    python analysis/keep.py RUN FOLDER --seed 3 --best          # seed 3's best agent
    python analysis/play.py agents/HalfCheetah-v4__sac_hpo      # plays it, as the run's

The targets, which no policy looks at, are left out: the file has the critics' weights in their place. config.json is
the run's, for the one seed, with what play.py's first episodes returned under "kept".
"""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis import play
from analysis.experiments.spaces import of_values
from analysis.records import config_of, write_whole
from analysis.report import parsed, start
from runtime.checkpoints import write_file
from runtime.home import alone, read
from runtime.messages import fail, said

import tyro


@dataclasses.dataclass
class Args:
    run: tyro.conf.Positional[Path]  # a run's folder
    folder: tyro.conf.Positional[Path]  # the folder to make
    seed: int | None = None  # which of the run's seeds; by default the first
    step: int | None = None  # the agent of this step, from a run with --keep-agents; otherwise agent.pt
    best: bool = False  # agent-best.pt: the agent of the seed's best evaluation
    episodes: int = 10  # episodes whose returns config.json tells
    env_id: str | None = None  # the environment once more, if it is one that imports a module


def without_targets(weights: dict) -> dict:
    """Weights whose `target.` entries are the critics' own tensors, which a file holds once."""
    return {k: weights.get(k.replace("target.", "critic.", 1), x) if k.startswith("target.") else x
            for k, x in weights.items()}  # fmt: skip


def main(args: Args) -> str:
    if args.episodes < 1:
        fail(f"--episodes is {args.episodes}: choose 1 or more")
    try:
        there = os.path.lexists(args.folder)
        near = next(folder for folder in args.folder.absolute().parents if folder.exists())
    except OSError as error:  # a name too long
        fail(f"{said(error)}; name another folder")
    if there:
        fail(f"{args.folder} is there already: name another folder, or delete it first")
    if not (near.is_dir() and os.access(near, os.W_OK)):
        fail(f"{args.folder} cannot be made: nothing can be written in {near}")
    config, saved = config_of(args.run), read(args.run, args.step, args.best, of_values)
    seeds = range(saved.args.seed, saved.args.seed + saved.args.num_seeds)
    seed = seeds[0] if args.seed is None else args.seed
    if seed not in seeds:
        fail(f"--seed {seed}: choose one of {seeds[0]} to {seeds[-1]}, which {args.run} has")
    one, content = alone(saved, seed - seeds[0]), {}
    (step,) = one.steps
    for name in ("script", "form", "space"):
        if name in saved.content:
            content[name] = saved.content[name]
    mine = {"seed": seed, "num_seeds": 1}
    content |= {"step": step, "args": saved.content["args"] | mine}
    content["agent"] = {name: x.clone() for name, x in one.content["agent"].items()}
    content["agent"] = without_targets(content["agent"])
    config["args"] |= mine
    try:
        args.folder.mkdir(parents=True)
    except OSError as error:
        fail(f"{args.folder} cannot be made: {error.strerror}; name another folder")
    try:
        write_file(args.folder / "agent.pt", content, checksum=False)
        write_whole(args.folder / "config.json", json.dumps(config, indent=2) + "\n")
        played = play.play(play.Args(args.folder, episodes=args.episodes, env_id=args.env_id))
        policies = {name: [round(float(x), 2) for x in returns] for _, _, name, returns, _ in played}
        if not policies:
            fail(f"{saved.path}: seed {seed} plays by numbers that are not finite; choose another, or the best agent")
        config["kept"] = {"from": args.run.resolve().name, "step": step, "returns": policies}
        write_whole(args.folder / "config.json", json.dumps(config, indent=2) + "\n")
    except BaseException:  # Ctrl-C too: whole or absent
        shutil.rmtree(args.folder, ignore_errors=True)
        raise
    size, (name, returns) = (args.folder / "agent.pt").stat().st_size / 1e6, next(iter(policies.items()))
    mean = sum(returns) / len(returns)
    told = f"{name} returns {mean:.1f} over {len(returns)} episodes"
    return f"{args.folder}: seed {seed} at step {step}, {size:.2f} MB; {told}"


if __name__ == "__main__":
    start(lambda argv: print(main(parsed(Args, __doc__, argv))))
