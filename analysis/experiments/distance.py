"""How far do Hamiltonian dynamics move an action, and which of their parts moves it?

    python analysis/experiments/distance.py train --env-id Hopper-v4 --num-seeds 4       # SAC-HPO's flags, --resume too
    python analysis/experiments/distance.py collect runs/Hopper-v4__sac_hpo_continuous__1__*  # -> results/distance/
    python analysis/experiments/distance.py table results/distance/*.csv
    python analysis/experiments/distance.py draw results/distance/*.csv --output docs/lab/distance.png

`train` is `sac_hpo_continuous.py`, which it imports (a stopped run goes on by `train` too), and measures every 1,000
steps, on the batch of that update, the move of the chain, x_K - x_0 (of u, or with spaces.py's --leapfrog-space action
of a before the clamp), once with the momentum of training and once with exploration's. With the forces that the
trajectory met, a leapfrog is linear in ρ_0 and in F = σ g + (1 - σ) T, so the move is exactly the sum of three: what
the momentum alone, σ g alone (explicit gradient) and (1 - σ) T alone (implicit gradient) would do. A distance is the
root mean square over batch and action dimensions. `played` is how far the action moves, whose range is [-1, 1].
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import sac_hpo_continuous as hpo
from analysis import ROOT, report
from analysis.experiments.spaces import chosen, script_of
from analysis.gap import Noise
from analysis.records import (
    check_output,
    config_of,
    csv_text,
    given_flags,
    read_rows,
    save_figure,
    variant,
    write_whole,
)
from runtime.arguments import parse
from runtime.messages import fail
from runtime.run import Run

import torch

PROGRAM = "analysis/experiments/distance.py train"
EVERY = 1_000  # steps between two measurements
PARTS = ("noise", "explicit", "implicit", "total", "played")
COLUMNS = ("step", "seed", "momentum", *PARTS)


def split(force: hpo.Force, obs, action, g) -> tuple[torch.Tensor, torch.Tensor]:
    """σ g and (1 - σ) T, (S, B, d) each, whose sum is `force(obs, action, g)`."""
    x = torch.cat([obs, action, g] if force.sees_state else [action, g], dim=-1)
    gate = force.gate(x)
    return gate * g, (1 - gate) * force.implicit(x)


@torch.no_grad()
def moves(agent: hpo.Agent, obs: torch.Tensor, noise: Noise, std: float) -> dict[str, torch.Tensor]:
    """The parts of x_K - x_0, (S, B, d) each, at obs (S, B, ds), for noise (S, B, d) of a_0 and ρ_0."""
    start, log_prob = agent.policy.sample(obs, noise.action)
    momentum, met, squash = std * noise.momentum, [], script_of(agent).squash
    hook = agent.force.register_forward_hook(lambda force, inputs, _: met.append(split(force, *inputs)))
    try:
        end, _ = agent.evolve(agent.critic, obs, start, noise.momentum, std)
    finally:
        hook.remove()
    size, stds = agent.args.step_size, hpo.momentum_stds(std, agent.args.leapfrog_steps)
    still = torch.zeros_like(start)
    parts = {"noise": hpo.leapfrog(lambda _: still, still, momentum, size, stds, with_momentum=False)[0]}
    for i, name in enumerate(("explicit", "implicit")):
        forces = iter([f[i] for f in met]).__next__
        parts[name] = hpo.leapfrog(lambda _, f=forces: f(), still, still, size, stds, with_momentum=False)[0]
    played = squash(end, log_prob)[0] - squash(start, log_prob)[0]
    return parts | {"total": end - start, "played": played}


def train(flags: list[str]) -> int:
    """A run of SAC-HPO that also writes distances.csv into its folder. Measuring draws from a stream of its own."""
    script, flags = chosen(hpo, flags)
    return Measured(script, *parse(script, flags, PROGRAM), program=PROGRAM).train()


class Measured(Run):
    """A run that measures after every EVERY-th update, on the batch of that update."""

    def record(self, metrics) -> None:
        super().record(metrics)
        step = self.envs.count + 1  # which this update belongs to
        if step % EVERY:
            return
        (uniform, _), *_ = self.numbers(self.envs.count).updates
        obs, agent = self.replay.sample(uniform).obs, self.agent
        generator = torch.Generator(obs.device).manual_seed(step)
        shape = len(self.seeds), 2, *obs.shape[1:-1], agent.act_dim
        action, momentum = torch.randn(shape, generator=generator, device=obs.device).unbind(1)
        noise = Noise(None, action, momentum, None)  # of which a chain has no other
        with (self.folder / "distances.csv").open("a", encoding="utf-8") as file:
            if not file.tell():
                print(*COLUMNS, sep=",", file=file)
            for which in ("train", "explore"):
                parts = moves(agent, obs, noise, getattr(self.args, f"momentum_std_{which}"))
                for i, seed in enumerate(self.seeds):
                    sizes = (f"{parts[part][i].square().mean().sqrt():.6g}" for part in PARTS)
                    print(step, seed, which, *sizes, sep=",", file=file)


def read(path: Path) -> dict:
    """{(step, seed, momentum): the distances}; of steps that a resumed run met again, the last."""
    rows = read_rows(path, COLUMNS)
    return {(int(row["step"]), int(row["seed"]), row["momentum"]): [float(row[p]) for p in PARTS] for row in rows}


def collect(folder: Path) -> Path:
    """Copies a run's distances, all of its seeds, to results/distance/, below the command that made them."""
    config = config_of(folder)
    name = "__".join([config["args"]["env_id"].replace("/", "_"), *variant(config)])
    path = ROOT / "results" / "distance" / f"{name}.csv"
    flags, cells = " ".join(given_flags(config)), sorted(read(folder / "distances.csv").items())
    last, total = cells[-1][0][0], config["args"]["total_timesteps"]
    about = f"{config['device']}; stopped after step {last}" if last + EVERY <= total else config["device"]
    comments = [f"# python {PROGRAM} {flags}", f"#   commit {config['commit']}; {about}"]
    write_whole(path, csv_text(comments, COLUMNS, [[*key, *values] for key, values in cells]))
    return path


def table(paths: list[Path]) -> str:
    """The first and the last measurement: each part's mean over seeds, and its smallest and largest seed."""
    rows = []
    for path in sorted(paths):
        cells = read(path)
        steps, seeds = (sorted({key[i] for key in cells}) for i in (0, 1))
        for momentum in ("train", "explore"):
            for step in (steps[0], steps[-1]):
                values = torch.tensor([cells[step, seed, momentum] for seed in seeds]).numpy()
                rows.append([path.stem, momentum, f"{step:,}", *(report.ranged(part, ".3f") for part in values.T)])
    return report.table(["environment", "momentum", "step", *PARTS], rows)


def draw(paths: list[Path], output: Path) -> None:
    """A panel for each environment and momentum: each part's mean over seeds, and its smallest and largest seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(paths), 2, figsize=(9, 3 * len(paths)), squeeze=False, sharex="row", sharey="row")
    for line, path in zip(axes, sorted(paths)):
        cells = read(path)
        steps, seeds = (sorted({key[i] for key in cells}) for i in (0, 1))
        for axis, momentum in zip(line, ("train", "explore")):
            values = torch.tensor([[cells[step, seed, momentum] for step in steps] for seed in seeds])
            for i, part in enumerate(PARTS):
                curve = values[..., i]
                (drawn,) = axis.plot([step / 1000 for step in steps], curve.mean(0), label=part,
                                     linestyle="--" if part in ("total", "played") else "-")  # fmt: skip
                axis.fill_between([step / 1000 for step in steps], curve.amin(0), curve.amax(0), alpha=0.15,
                                  color=drawn.get_color())  # fmt: skip
            name = "training" if momentum == "train" else "exploration"
            axis.set(title=f"{path.stem}, {name}, {len(seeds)} seeds", xlabel="thousand steps", yscale="log")
            axis.grid(alpha=0.3, which="both")
        line[0].set_ylabel("distance, action units")
        line[0].set_ylim(bottom=1e-3)  # less than this moves nothing
    axes[0, 0].legend(ncols=2, fontsize=8)
    figure.tight_layout()
    save_figure(figure, output, 100)


def main(argv: list[str]) -> int:
    if argv[:1] == ["train"]:
        return train(argv[1:])
    parser = report.Parser(__doc__)
    parser.add_argument("what", choices=["train", "collect", "table", "draw"], help="train: SAC-HPO's flags follow")
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or CSV files of results/distance/")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/lab/distance.png", help="the figure of draw")
    options = parser.parse_args(argv)
    wanted = "distances.csv" if options.what == "collect" else ""
    if missing := [str(path) for path in options.paths if not (path / wanted).exists()]:
        fail(f"{', '.join(missing)}: no {wanted or 'such file'} there; train first")
    if options.what == "draw":
        check_output(options.output, picture=True)
        draw(options.paths, options.output)
    elif options.what == "table":
        print(table(options.paths))
    elif len({config_of(path)["args"]["env_id"] for path in options.paths}) < len(options.paths):
        fail("two runs of one environment: train all seeds in one run, with --num-seeds")
    else:
        print("\n".join(str(collect(path)) for path in options.paths))
    return 0


if __name__ == "__main__":
    report.start(main)
