"""SAC of another code base at our settings, beside ours: Stable-Baselines3's (sb3) or SBX's (docs/lab/outside.md).

    peers/bin/python analysis/experiments/outside.py sbx --seed 1 --output HalfCheetah-v4__sbx_sac.1.csv   # one seed
    python analysis/experiments/outside.py published --num-seeds 4   # our SAC, at the settings of published runs
    python analysis/experiments/outside.py beside results/outside/HalfCheetah-v4__published.csv      # what that reached
    python analysis/experiments/outside.py join *__sbx_sac.*.csv --output results/outside/HalfCheetah-v4__sbx_sac.csv

`peers` is a virtual environment of its own: pip install sbx-rl gymnasium==1.4.0 mujoco==3.17.0 imageio packaging. Ours
are what every script had by default until November 2026: two hidden layers of 256, 3e-4 for all, batch 256, an update a
step after 5,000 random ones. First weights and the range of log-std are theirs. Every 10,000 steps come ten episodes
without noise.

`published` takes our script's flags, after those of the SAC whose ten seeds are in results/published/: a learning rate
of 1e-3, Adam's first beta of 0.5, a temperature tuned from 1, 5,000 random steps without an update.
"""

import argparse
import csv
import importlib
import importlib.metadata
import sys
from pathlib import Path

COLUMNS = "step", "seed", "episode", "return", "length"


def train(options: argparse.Namespace) -> list[tuple]:
    """Rows of evaluations of one seed."""
    import gymnasium as gym

    library = importlib.import_module({"sb3": "stable_baselines3"}.get(options.library, options.library))
    envs = [gym.make(options.env_id) for _ in range(2)]
    model = library.SAC(
        "MlpPolicy", envs[0], learning_rate=options.learning_rate, buffer_size=options.total_timesteps,
        learning_starts=options.learning_starts, batch_size=256, tau=0.005, gamma=0.99, train_freq=1, gradient_steps=1,
        ent_coef=f"auto_{options.alpha}" if options.autotune else options.alpha,
        policy_kwargs={"net_arch": [256, 256]}, seed=options.seed,
    )  # fmt: skip
    rows = []
    for step in range(options.eval_frequency, options.total_timesteps + 1, options.eval_frequency):
        model.learn(options.eval_frequency, reset_num_timesteps=False)
        for episode in range(options.eval_episodes):
            obs, _ = envs[1].reset(seed=10_000 * options.seed + 100 * (step // options.eval_frequency) + episode)
            total, length, over = 0.0, 0, False
            while not over:
                obs, reward, terminated, truncated, _ = envs[1].step(model.predict(obs, deterministic=True)[0])
                total, length, over = total + reward, length + 1, terminated or truncated
            rows.append((step, options.seed, episode, total, length))
        last = [row[3] for row in rows[-options.eval_episodes :]]
        print(f"step {step}, last evaluation {sum(last) / len(last):.1f}", flush=True)
        write(options.output, comments(options), rows)
    return rows


PUBLISHED = "--policy-lr 1e-3 --q-lr 1e-3 --autotune --alpha 1 --random-steps 5000 --learning-starts 5000"


def published(flags: list[str]) -> int:
    """A run of our SAC, in our environment, with the settings of the published one."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import sac_continuous as sac
    from runtime.run import launch

    class Adam(sac.Adam):
        def __init__(self, parameters, lr):
            super().__init__(parameters, lr, betas=(0.5, 0.999))

    sac.Adam = Adam
    flags = ["--exp-name", "published", *(PUBLISHED.split() if "--resume" not in flags else []), *flags]
    return launch(sac, flags, program="analysis/experiments/outside.py published")


def beside(path: Path) -> int:
    """Prints our runs' evaluations and the published seeds', where their steps are within 1% of each other."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from analysis.benchmark.page import published as others
    from analysis.records import Key, read_arm
    from analysis.report import interval, spread, table
    from runtime.messages import Refused, fail, tell

    try:
        env_id, rows = path.name.split("__")[0], []
        if env_id not in others():
            fail(f"{path.name}: its name begins with none of {', '.join(others())}, of which there are published seeds")
        steps, returns = others()[env_id]
        arm = read_arm([path], Key(env_id, "sac_continuous", (), None)) or fail(f"{path} has no evaluations")
    except Refused as refusal:
        tell(refusal)
        return 2
    for step, mine in zip(arm.steps, arm.curve().T):
        near = abs(steps - step).argmin()
        if abs(steps[near] - step) <= 0.01 * step:
            theirs = returns[:, near]
            x, low, high = interval(mine, theirs)
            told = f"{x:+.0f} [{low:+.0f}, {high:+.0f}]"
            rows.append([f"{step:,}", spread(mine), f"{steps[near]:,}", spread(theirs), told])
    ours, published = f"ours, {len(arm.seeds)} seeds", f"published, {len(returns)} seeds"
    print(table(["step", ours, "step", published, "difference"], rows))
    return 0


def comments(options: argparse.Namespace) -> list[str]:
    """How these rows came to be."""
    flags = "env_id", "seed", "total_timesteps", "alpha", "learning_starts", "learning_rate"
    given = [f"--{name.replace('_', '-')} {getattr(options, name)}" for name in flags]
    given += ["--autotune"] * options.autotune
    names = {"sb3": ["stable_baselines3", "torch"], "sbx": ["sbx-rl", "jax", "stable_baselines3"]}[options.library]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in [*names, "gymnasium", "mujoco"])
    return [f"# analysis/experiments/outside.py {options.library} {' '.join(given)}", f"#   {versions}"]


def write(path: Path, head: list[str], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{line}\n" for line in head)
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def join(options: argparse.Namespace) -> None:
    """One file of the seeds' files."""
    head, rows = [], []
    for path in sorted(options.files):
        lines = path.read_text(encoding="utf-8").splitlines()
        head += [line for line in lines if line.startswith("#")]
        rows += list(csv.reader(line for line in lines if not line.startswith("#")))[1:]
    rows.sort(key=lambda row: [int(cell) for cell in row[:3]])
    write(options.output, head, rows)


class Parser(argparse.ArgumentParser):  # not the others': there is no package of ours in that environment
    def error(self, message: str):
        print(f"outside: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str]) -> int:
    if argv[:1] == ["published"]:
        return published(argv[1:])
    if argv[:1] == ["beside"] and not {"-h", "--help"} & {*argv}:
        if len(argv) == 2:
            return beside(Path(argv[1]))
        print("outside: beside takes one file of evaluations", file=sys.stderr)
        return 2
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["sb3", "sbx", "join"], help="whose SAC; or join the files of seeds")
    parser.add_argument("files", nargs="*", type=Path, help="join: files of one seed each")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("--env-id", default="HalfCheetah-v4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--eval-frequency", type=int, default=10_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--learning-starts", type=int, default=5_000)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--alpha", type=float, default=0.2, help="temperature, with --autotune its first value")
    parser.add_argument("--autotune", action="store_true", help="tune the temperature")
    options = parser.parse_args(argv)
    try:
        join(options) if options.library == "join" else train(options)
    except (OSError, ImportError, ValueError) as error:
        print(f"outside: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
