"""The command line: flags that every run has, limits, --help, and what a resumed run may change."""

import contextlib
import dataclasses
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

from runtime import flags, machine
from runtime.contract import form_of
from runtime.messages import fail, note

import torch


@dataclasses.dataclass
class RunArgs:
    env_id: str = "Hopper-v4"  # Gymnasium environment with numbers to observe and a bounded Box to act in, or
    # dm_control/<domain>-<task>-v0, or module:Name-v0 from the working folder (docs/your_task.md)
    env_kwargs: dict | None = None  # the environment's own arguments: key=value .., or a JSON object
    max_episode_steps: int = 0  # time limit of an episode, instead of the environment's; 0: its own
    normalize_observations: bool = False  # networks see observations less their running mean, over their deviation
    seed: int = 1  # first seed
    num_seeds: int = 1  # seeds trained together: seed, seed + 1, ...
    total_timesteps: int = 1_000_000  # environment steps of each seed
    updates_per_step: int = 1  # updates in a step, each on a batch of its own
    eval_frequency: int = 10_000  # steps between two evaluations
    eval_episodes: int = 10  # episodes in an evaluation of one seed
    eval_max_steps: int = 10_000  # where an evaluation's episode is cut if the task has no time limit
    exp_name: str | None = None  # name in the run's folder, which tells the arms of a sweep apart
    cuda: bool = torch.cuda.is_available()  # train on a GPU; by default if there is one
    compile: bool = True  # compile acting and the gradients, half a minute at the start; short runs skip it
    matmul_precision: Literal["highest", "high", "medium"] = "highest"  # PyTorch's names; medium is bfloat16 on a CPU
    products: Literal["auto", "default", "onednn"] = "auto"  # library of a CPU's float32 products; auto picks by a rule
    cuda_graphs: bool = True  # on a GPU, record acting and updating once and replay them
    env_workers: int | None = None  # processes that step the environments, 0: none; by default some on a GPU
    checkpoint_frequency: int = 0  # steps between two checkpoints; 0: one at every evaluation
    resume: Path | None = None  # continue the run in this folder, with its own values
    start_from: Path | None = None  # begin with the weights of this run's agent.pt, or of another file of an agent
    keep_agents: bool = False  # keep the agent of every evaluation, agents/step-N.pt
    track: bool = False  # log to Weights & Biases: a run for each seed, all in one group
    wandb_project_name: str = "hamiltonian-policy-optimisation"  # project of --track
    wandb_entity: str | None = None  # user or team of --track
    capture_video: bool = False  # record the first episode of every evaluation

    CAMERA = False  # no flag: whether a script sees its environment by a camera


LATER = "env_kwargs env_workers max_episode_steps normalize_observations start_from target_entropy updates_per_step"
LATER = LATER.split()  # which older runs lack: they had the default
SHORT = 10_000  # updates; a run of fewer takes longer to compile than it gains (docs/speed.md)
LIMITS = {  # smallest and largest value of each number
    "seed": (0, 2**32 - 1), "num_seeds": (1, 1024), "total_timesteps": (1, 10**10), "eval_frequency": (1, 10**12),
    "eval_episodes": (1, 10**4), "eval_max_steps": (1, 10**9), "max_episode_steps": (0, 10**9),
    "checkpoint_frequency": (0, 10**12), "updates_per_step": (1, 1000), "env_workers": (0, 1024),
    # and of those that many methods have
    "learning_starts": (0, 10**12), "random_steps": (0, 10**12), "batch_size": (1, 10**6), "buffer_size": (1, 10**10),
    "gamma": (0, 1), "tau": (1e-9, 1), "policy_lr": (1e-12, 1), "q_lr": (1e-12, 1),
}  # fmt: skip
LOGGING = ["exp_name", "keep_agents", "capture_video", "track", "wandb_project_name", "wandb_entity"]
MACHINE = ["cuda", "cuda_graphs", "compile", "matmul_precision", "products", "env_workers"]
EXACT = {*LOGGING, "eval_episodes", "checkpoint_frequency", "env_workers"} - {"exp_name"}  # a run stays what it is
CHANGEABLE = EXACT | {"cuda", "cuda_graphs", "compile"}


def table(script: ModuleType, given: dict) -> tuple[str, dict]:
    """The name of the table that a script's values come from, and those values, by the flags that it asks for:
    --env-id, and --autotune."""
    if not hasattr(script, "table"):
        return "", {}
    return script.table(**{name: given[name] for name in given.keys() & inspect.signature(script.table).parameters})


def parse(script: ModuleType, argv: list[str], program: str | None = None) -> tuple[RunArgs, dict[str, str]]:
    """A script's arguments in force, and where each comes from: the command line, which wins, its table, or a default.

    With --resume they are the run's own, and Refused if the command line contradicts them.
    """
    given = flags.given(script.Args, argv)
    asked, folder = given.pop("help", False), given.get("resume")
    config = resumed_config(script, folder, program) if folder else None
    env_id = given.get("env_id", script.Args.env_id)
    if config and ":" in config["args"]["env_id"] and env_id != config["args"]["env_id"]:  # a stranger's, perhaps
        own = config["args"]["env_id"]
        fail(f"--resume {folder}: its environment {own} imports a module; if you trust it, give --env-id {own}")
    origin, values = table(script, given | {"env_id": config["args"]["env_id"] if config else env_id})
    known = (config["args"] if config else {"env_id": env_id} | values) | {"resume": None}
    if asked:
        about = script.__doc__.splitlines()[0] + (f" From {origin}: {', '.join(values)}." if values else "")
        defaults = vars(script.Args(**known))
        text = flags.help_text(script.Args, defaults, LIMITS | script.LIMITS, grouped(script.Args), about)
        with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough
            print(text, flush=True)
        raise SystemExit(0)
    for name in given.keys() - {"resume"} if config else ():
        value, old = given[name], known[name]
        value = str(value) if isinstance(value, Path) else value  # as config.json has it
        newest = name == "env_id" and re.fullmatch(rf"{re.escape(value)}-v\d+", old)
        if newest or (name, value) == ("products", "auto"):
            given[name] = old  # what it became
        elif value != old and name in CHANGEABLE:
            now = flags.dashed(f"no_{name}" if value is False else name) + f" {value}" * (type(value) is not bool)
            note(f"the run goes on with {now}, not {old} as before" + ", no longer to the bit" * (name not in EXACT))
        elif value != old and not (name == "total_timesteps" and value > old):
            fail(f"{flags.dashed(name)} {value} contradicts the run to resume, which has {old}: leave it out")
    alone = "learning_starts" in given and "random_steps" not in given and hasattr(script.Args, "random_steps")
    together = {"random_steps": given["learning_starts"]} if alone and not config else {}
    args = script.Args(**known | given | together)
    for switch, names in getattr(script, "IDLE", {}).items():
        for name in [name for name in names.split() if name in given and not getattr(args, switch)]:
            note(f"{flags.dashed(name)} does nothing at {flags.dashed(switch)} 0")
    source = config["source"] if config else {name: origin if name in values else "default" for name in vars(args)}
    source |= dict.fromkeys(together, "as --learning-starts")
    return args, source | dict.fromkeys(given.keys() - {"resume"}, "command line")


def todays(script: ModuleType, values: dict) -> dict:
    """Values by name without those whose flag the script has given up and whose value it has kept."""
    former = getattr(script, "FORMER", {})
    return {name: value for name, value in values.items() if name not in former or former[name] != value}


def grouped(cls: type) -> dict[str, list[str]]:
    """The flags of --help in groups: what is the method's own first."""
    every = [field.name for field in dataclasses.fields(RunArgs)]
    others = {"logging": LOGGING, "machine": MACHINE}
    run = [name for name in every if name not in LOGGING + MACHINE]
    return {"method": [f.name for f in dataclasses.fields(cls) if f.name not in every], "run": run} | others


def resumed_config(script: ModuleType, folder: str, program: str | None) -> dict:
    """config.json of the run in a folder, which must be the script's own, or the program's that runs it changed."""
    try:
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        if (name := config["script"]) != Path(script.__file__).stem:
            fail(f"--resume {folder} is a run of {name}.py: resume it with that script")
        if (own := config.get("program")) != program:
            fail(f"--resume {folder} is a run of {own or name + '.py'}: resume it with that")
        if config.get("form", 1) != form_of(script):
            fail(f"--resume {folder} is a run of an older {name}.py, whose weights meant something else: resume it "
                 f"with the code of commit {str(config.get('commit'))[:12]}, or begin anew")  # fmt: skip
        hints, default = get_type_hints(script.Args), script.Args()
        later = {name: getattr(default, name) for name in LATER if name in hints}
        gone = config["args"].keys() - todays(script, config["args"]).keys()
        config["args"] = args = later | todays(script, config["args"])
        config["source"] = dict.fromkeys(later, "default") | config["source"]
        config["source"] = {name: word for name, word in config["source"].items() if name not in gone}
        if odd := misfits(args, hints):
            raise ValueError(f"it lacks, or does not know, or mistakes {', '.join(odd)}")
        if config["source"].keys() != args.keys() or not all(fits(value, str) for value in config["source"].values()):
            raise ValueError("its sources are not those of its arguments")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        fail(f"--resume {folder}: no run that this script can read ({error}); name a folder under runs/")
    return config


def misfits(args: dict, hints: dict) -> list[str]:
    """Names that are missing, unknown, or whose value is not of its type."""
    wrong = {name for name in {*args} & {*hints} if not fits(args[name], hints[name])}
    return sorted(map(str, {*args} ^ {*hints} | wrong))


def fits(value, hint) -> bool:
    """Whether a value of JSON is of an argument's type."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):  # a union
        return any(fits(value, option) for option in get_args(hint))
    if hint is dict:  # of JSON
        return isinstance(value, dict) and value == flags.through_json(value)
    kinds = {float: (int, float), Path: str}.get(hint, hint)
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


def skip_compiling(args: RunArgs, source: dict[str, str]) -> RunArgs:
    """The arguments with --no-compile where nobody asked for either and a new run is too short to gain by it."""
    short = (args.total_timesteps - getattr(args, "learning_starts", 0)) * args.updates_per_step < SHORT
    if args.resume or not (args.compile and short and source["compile"] == "default"):
        return args
    source["compile"] = "short run"
    return dataclasses.replace(args, compile=False)


def check(args: RunArgs, limits: dict[str, tuple]) -> None:
    """Refuses values out of range, and what this machine lacks, before anything is written."""
    in_range(args, limits)
    if getattr(args, "target_entropy", None) is not None and not (getattr(args, "autotune", True) or args.resume):
        fail("--target-entropy is aimed at by --autotune alone: add that, or leave it out")
    machine.check(args)


def in_range(args: RunArgs, limits: dict[str, tuple]) -> None:
    """Refuses values out of range, and those that do not go together."""
    for name, (low, high) in (LIMITS | limits).items():
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:  # refuses NaN too
            fail(f"{flags.dashed(name)} is {getattr(args, name)}: choose a value from {low} to {high}")
    if args.CAMERA and args.normalize_observations:
        fail("--normalize-observations is for numbers, and this script sees frames, all of one range: leave it out")
    if args.seed + args.num_seeds > 2**32:
        fail(f"--seed {args.seed} leaves no room for {args.num_seeds} seeds below 2**32: choose a smaller one")
    if len(args.exp_name or "") > 100:
        fail(f"--exp-name has {len(args.exp_name)} characters: it names a folder, choose at most 100")
    for name in ("learning_starts", "random_steps"):
        if args.total_timesteps <= (first := getattr(args, name, 0)):
            fail(f"--total-timesteps {args.total_timesteps} must exceed {flags.dashed(name)} {first}")
