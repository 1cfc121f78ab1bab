"""Results files and runs' folders: what reads them, pools runs of one arm, and writes files that are whole or absent.

A results file is a CSV below lines that begin with # and name command, commit and machine; a run's folder holds
config.json, evaluations.csv, TensorBoard's seed-<n>/ and checkpoints/. All text is UTF-8. What cannot be read is
Refused in one line; what is left out of a table is told on stderr.
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from analysis import ROOT
from runtime.arguments import parse, todays
from runtime.checkpoints import BAD_CONTENT, read_file
from runtime.home import module_of
from runtime.messages import Refused, fail, tell

import numpy as np

PLACE = ("seed", "num_seeds", "cuda", "track", "wandb_project_name", "wandb_entity", "capture_video", "exp_name")
PLACE += ("compile", "cuda_graphs", "env_workers", "checkpoint_frequency", "resume", "keep_agents", "products")
# which are not the method
LENGTH = ("env_id", "total_timesteps", "eval_frequency", "eval_episodes", "eval_max_steps")  # nor tell arms apart
LOST_COMMIT = "#   that commit is not in the repository: no code can be shown to give these numbers"
NOT_CONFIG = "holds no config.json of a run"


# ------------------------------------------------------------------------------------------------------------- files
def write_whole(path: Path, text: str) -> None:
    """Writes beside, syncs, renames: under its name a file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


PICTURES = ".eps", ".jpeg", ".jpg", ".pdf", ".png", ".svg", ".tif", ".tiff", ".webp"


def check_output(path: Path | None, flag: str = "--output", picture: bool = False) -> None:
    """Refuses, before anything is measured, a place where no file can be written, or a picture of no known kind."""
    if path and path.is_dir():
        fail(f"{flag} {path} is a folder: name a file")
    near = next((folder for folder in path.absolute().parents if folder.exists()), None) if path else None
    if near and not (near.is_dir() and os.access(near, os.W_OK)):
        fail(f"{flag} {path}: nothing can be written in {near}")
    if path and picture and path.suffix.lower() not in PICTURES:
        fail(f"{flag} {path}: name a picture that ends in {', '.join(PICTURES)}")


def save_figure(figure, path: Path, dpi: int, flag: str = "--output") -> None:
    """Writes and closes a figure of matplotlib's, a PNG in the same bytes each time; refuses kinds it lacks."""
    import matplotlib.pyplot as plt  # where no figure is drawn nobody waits for it

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi, metadata={"Software": None} if path.suffix == ".png" else None)
    except (OSError, ValueError) as error:
        fail(f"{flag} {path}: {error}")
    finally:
        plt.close(figure)


def csv_text(comments: list[str], columns, rows) -> str:
    """A results file: comments, a head, and rows in the columns' order (or as dictionaries)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] if isinstance(row, dict) else row for row in rows)
    return "".join(f"{line}\n" for line in comments) + out.getvalue()


def parse_rows(text: str, path: Path, columns=()) -> list[dict]:
    """The rows of a CSV below its comments; Refused where it lacks a column or a cell."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    try:
        reader = csv.DictReader(lines, strict=True)
        rows = list(reader)
    except csv.Error as error:  # a line of 200,000 characters, say
        fail(f"{path} is no results file: {error}")
    if lacking := [name for name in columns if name not in (reader.fieldnames or [])]:
        fail(f"{path} is no file of this kind: it has no column {', '.join(lacking)}")
    if any(None in row or None in row.values() for row in rows):
        fail(f"{path} is broken: a row has other columns than its head")
    return rows


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path} cannot be read: {error}")


def read_rows(path: Path, columns=()) -> list[dict]:
    return parse_rows(read_text(path), path, columns)


# ----------------------------------------------------------------------------------------------------- what a run was
def config_of(folder: Path) -> dict:
    """config.json of a run: script, args, source, commit, device."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fail(f"{folder} {NOT_CONFIG}")
    kinds = {"script": str, "args": dict, "source": dict, "commit": str, "device": str}
    if not isinstance(config, dict) or not all(isinstance(config.get(name), kind) for name, kind in kinds.items()):
        fail(f"{folder} {NOT_CONFIG}")
    if not isinstance(config["args"].get("env_id"), str) or not config["args"].keys() <= config["source"].keys():
        fail(f"{folder} {NOT_CONFIG}")
    return config


def program(config: dict) -> str:
    """What a run's command runs: the program that changed its script, or the script."""
    if own := config.get("program"):
        return own
    if config["args"].get("leapfrog_space") == "action":  # once a flag of the scripts themselves
        return f"analysis/experiments/spaces.py {config['script']}"
    folder = "ablations/" if (ROOT / "ablations" / f"{config['script']}.py").exists() else ""
    return f"{folder}{config['script']}.py"


def command(config: dict) -> str:
    """The command line that gives these arguments."""
    return shlex.join(["python", *program(config).split(), *given_flags(config)])


def origin(config: dict, word: str = "of ") -> list[str]:
    """The comments of a results file: the command, the commit and the machine of a run."""
    return [f"# {word}{command(config)}", f"#   commit {config['commit']}; {config['device']}"]


def given_flags(config: dict) -> list[str]:
    """The flags of a run's command line, and those for values that have ceased to be the script's own."""
    args = todays(module_of(config["script"]), config["args"])
    given = {k: v for k, v in args.items() if config["source"][k] == "command line"}
    return words(given | unlike(config))


def words(values: dict) -> list[str]:
    """Values as flags."""
    out = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        out += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", text]
    return out


def unlike(config: dict) -> dict:
    """Values of the method that are not the script's own on this environment; last those of flags that it gave up."""
    args, script = config["args"], module_of(config["script"])
    own = vars(parse(script, ["--env-id", args["env_id"]])[0]) | getattr(script, "FORMER", {})
    names = [name for name in own if name not in (*PLACE, *LENGTH) and args.get(name, own[name]) != own[name]]
    both = args.get("random_steps") == args.get("learning_starts")  # which --learning-starts alone sets
    return {name: args[name] for name in names if not (both and name == "random_steps")}


def variant(config: dict) -> list[str]:
    """The same as parts of a file's name."""
    flags = [(name.replace("_", "-"), value) for name, value in unlike(config).items()]
    parts = [name if value is True else f"no-{name}" if value is False else f"{name}-{value}" for name, value in flags]
    return [re.sub(r"[^\w.,+-]+", "_", part).strip("_") for part in parts]  # a folder's name, or keyword arguments


def file_stem(config: dict) -> str:
    """The name of a run's results file: environment, script, and what is unlike the script's own."""
    return "__".join([safe(config["args"]["env_id"]), config["script"], *variant(config)])


def safe(env_id: str) -> str:
    """An environment's name as part of a file's."""
    return re.sub("[^A-Za-z0-9._-]", "_", env_id)


# ------------------------------------------------------------------------------------------------------- evaluations
def table_of(path: Path) -> Path:
    """The evaluations of a run's folder, or a results file itself."""
    return path / "evaluations.csv" if path.is_dir() else path


def checkpoint_table(folder: Path) -> tuple[int, str]:
    """Step and evaluations.csv of a run's newest whole checkpoint; (-1, "") without one."""
    paths = [path for path in folder.glob("checkpoints/step-*.pt") if re.fullmatch(r"step-\d+", path.stem)]
    for path in sorted(paths, key=lambda path: -int(path.stem[5:])):
        try:
            state = read_file(path)
            return state["step"], state["csv"]
        except BAD_CONTENT:
            continue
    return -1, ""


def evaluations(path: Path) -> str:
    """The text of a run's evaluations, or of a results file, up to its last whole row.

    A machine that loses power leaves a row torn, and half of a number is a number: where a file does not end in a
    line the checkpoint's copy is taken, if that is longer than what is whole; and what is lost is told."""
    text = read_text(table_of(path))
    if not text or text.endswith("\n"):
        return text
    whole = text[: text.rfind("\n") + 1]
    kept = checkpoint_table(path)[1] if path.is_dir() else ""
    if kept.count("\n") > whole.count("\n"):
        return kept
    tell(f"{path}: its last row is torn and left out" + "; --resume mends it" * path.is_dir())
    return whole


@dataclasses.dataclass
class Arm:
    """Runs of one script with the same flags and length, pooled over their seeds."""

    env_id: str
    script: str
    flags: tuple[str, ...]  # what is unlike the script's own, as --flags, and the run's name in brackets
    length: int
    seeds: list[int]
    steps: np.ndarray  # (T,)
    values: dict[str, np.ndarray]  # column -> (S, T, E); NaN from where a seed has diverged
    form: int = 1  # of the script, as contract.py says

    @property
    def name(self) -> str:
        return " ".join([self.script, *self.flags])

    def curve(self, column: str = "return") -> np.ndarray:
        """Means of the evaluations' episodes, (S, T); a seed that diverged is NaN from there on."""
        curve = self.values[column].mean(2)
        return np.where(np.logical_or.accumulate(np.isnan(curve), axis=1), np.nan, curve)

    def up_to(self, step: int | None) -> "Arm":
        keep = self.steps <= (self.steps[-1] if step is None else step)
        values = {name: x[:, keep] for name, x in self.values.items()}
        return dataclasses.replace(self, steps=self.steps[keep], values=values)


class Key(NamedTuple):
    """What makes an arm. A results file's length is None: its rows tell it."""

    env_id: str
    script: str
    flags: tuple[str, ...]
    length: int | None

    @property
    def name(self) -> str:
        return " ".join([self.script, *self.flags])


def comments(path: Path) -> list[str]:
    """The lines above a results file's table; none where it cannot be read, which whoever reads the table tells."""
    with contextlib.suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        return list(itertools.takewhile(lambda line: line.startswith("#"), file))
    return []


def identity(path: Path) -> Key:
    """The arm of a run, by its config.json, or of a results file, by its name."""
    if not path.is_dir():
        env_id, _, rest = path.stem.partition("__")
        if not rest:
            fail(f"{path} is no results file: its name has no environment and script between two underscores each")
        script, *flags = rest.split("__")
        named = re.search(r'"env_id": "([^"]+)"', "".join(comments(path)))  # the file's name has _ for : and /
        env_id = named[1] if named and safe(named[1]) == env_id else env_id
        return Key(env_id, script, tuple(f"--{flag}" for flag in flags), None)
    config = config_of(path)
    name = [f"({config['args']['exp_name']})"] if config["args"].get("exp_name") else []
    flags = (*(f"--{flag}" for flag in variant(config)), *name)
    return Key(config["args"]["env_id"], config["script"], flags, config["args"].get("total_timesteps"))


def begun(path: Path) -> int:
    """When a run was begun, by its folder's name; 0 of other files."""
    stamp = path.name.rsplit("__", 1)[-1]
    return int(stamp) if path.is_dir() and stamp.isdigit() else 0


def form_in(path: Path) -> int:
    """The form of a run's script, by its config.json or its results file: of another form, a run began otherwise."""
    if path.is_dir():
        return config_of(path).get("form", 1)
    forms = [re.search(r'"form": (\d+)', line) for line in comments(path)]
    return max((int(found[1]) for found in forms if found), default=1)


def read_arm(paths: list[Path], key: Key) -> Arm | None:
    """The arm that these paths make together; None, and told, where nothing has been evaluated."""
    seeds, name = {}, f"{key.env_id} {key.name}"  # seed -> step -> episode -> row
    for path in sorted(paths, key=begun):
        rows, mine = parse_rows(evaluations(path), path, ("step", "seed", "episode", "return")), {}
        for row in rows:
            try:
                numbers = {column: float(value) for column, value in row.items()}
                seed, step, episode = (int(row[column]) for column in ("seed", "step", "episode"))
            except ValueError as error:
                fail(f"{path} is broken: {error}")
            mine.setdefault(seed, {}).setdefault(step, {})[episode] = numbers
        if not mine:
            tell(f"{path} has no evaluation yet: left out")
        if again := sorted(mine.keys() & seeds.keys()):
            tell(f"{name}: seed {', '.join(map(str, again))} ran twice: {path} is taken, the others' are left out")
        seeds |= mine
    if not seeds:
        return None
    steps = sorted(set.intersection(*(set(own) for own in seeds.values())))
    if not steps:
        tell(f"{name}: its runs have no evaluation at the same step: left out")
        return None
    lost = len({step for own in seeds.values() for step in own}) - len(steps)
    if lost:
        tell(f"{name}: {lost} evaluations that not every seed has are left out, {len(steps)} stay, to step {steps[-1]}")
    episodes = min(len(own[step]) for own in seeds.values() for step in steps)
    if any(len(own[step]) > episodes for own in seeds.values() for step in steps):
        tell(f"{name}: evaluations have unlike numbers of episodes: the first {episodes} of each are taken")
    columns = set.intersection(*(set(row) for own in seeds.values() for own in own.values() for row in own.values()))
    order = sorted(seeds)

    def table(column: str) -> np.ndarray:
        ordered = [[sorted(seeds[seed][step].items())[:episodes] for step in steps] for seed in order]
        return np.array([[[row[column] for _, row in each] for each in own] for own in ordered])

    values = {column: table(column) for column in columns if column.startswith(("return", "length"))}
    return Arm(*key[:3], key.length or steps[-1], order, np.array(steps), values)


def read_arms(paths: list[Path], until: int | None = None) -> list[Arm]:
    """The arms of results files and run folders, in the order of their first path, up to a step.

    Runs with the same script, flags and length are one arm. Refused where a path is none of the two; told where
    one has nothing to show."""
    known = {path for path in paths if table_of(path).is_file() or (path / "config.json").is_file()}
    if missing := [str(path) for path in paths if path not in known]:
        fail(f"{', '.join(missing)}: no such results file or run folder (results/*.csv, runs/*)")
    groups = {}
    for path in paths:
        try:
            key = identity(path)
        except Refused as refusal:
            tell(f"{refusal}: left out")
            continue
        if not table_of(path).is_file():
            tell(f"{path} has no evaluation yet: left out")
            continue
        groups.setdefault(key, []).append(path)
    for own in groups.values():
        if len(forms := {form_in(path): path for path in own}) > 1:
            older, newer = (forms[form] for form in sorted(forms)[:2])
            fail(f"{older} and {newer} are of one name and of code that begins a run otherwise: show them apart")
    arms = [(read_arm(own, key), form_in(own[0])) for key, own in groups.items()]
    arms = [dataclasses.replace(arm, form=form) for arm, form in arms if arm]
    short = [arm for arm in arms if until is not None and arm.steps[0] > until]
    for arm in short:
        tell(f"{arm.env_id} {arm.name} has no evaluation up to step {until}: left out")
    return [arm.up_to(until) for arm in arms if arm not in short]


def labels(arms: list[Arm] | list[Key]) -> tuple[str, list[str]]:
    """The flags that all arms share, for a title, and a name of each arm without them.

    Arms that differ in length alone have it in their names; one arm alone keeps its flags."""
    kinds = {(arm.script, arm.flags) for arm in arms}
    shared = [flag for flag in arms[0].flags if all(flag in flags for _, flags in kinds)] if len(kinds) > 1 else []
    names = [" ".join([arm.script, *(flag for flag in arm.flags if flag not in shared)]) for arm in arms]
    places = [(arm.env_id, name) for arm, name in zip(arms, names)]
    names = [
        f"{name} ({arm.length:,} steps)" if places.count((arm.env_id, name)) > 1 else name
        for arm, name in zip(arms, names)
    ]
    return " ".join(shared), names


def alike(left: Arm, right: Arm) -> tuple[Arm, Arm] | None:
    """Two arms as far as they were evaluated alike: at the same steps, in the first episodes that both have, which have
    the same starts. None where they share no step."""
    steps = sorted({*left.steps.tolist()} & {*right.steps.tolist()})
    if not steps:
        return None
    episodes = min(arm.values["return"].shape[2] for arm in (left, right))

    def part(arm: Arm) -> Arm:
        values = {name: x[:, np.isin(arm.steps, steps), :episodes] for name, x in arm.values.items()}
        return dataclasses.replace(arm, steps=np.array(steps), values=values)

    return part(left), part(right)


def each(folders: list[Path], work) -> Iterator[tuple[Path, object]]:
    """(folder, work(folder)) of the runs that `work` does not refuse; the others are told. Refused if none is left."""
    refused = 0
    for folder in folders:
        try:
            found = work(folder)
        except Refused as refusal:
            if len(folders) == 1:
                raise
            tell(f"{refusal}: left out")
            refused += 1
            continue
        yield folder, found
    if refused == len(folders):
        fail("none of these runs can be used")


# ------------------------------------------------------------------------------------------------------------ events
def event_logs(folder: Path, kind: str = "scalars") -> list[tuple[int, object]]:
    """(seed, TensorBoard's reader) of each seed of a run, by seed; nothing of their `kind` is thinned out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    logs = []
    for path in sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name)):
        if path.is_dir() and path.name[5:].isdigit():
            log = EventAccumulator(str(path), size_guidance={kind: 0})
            log.Reload()
            logs.append((int(path.name[5:]), log))
    return logs
