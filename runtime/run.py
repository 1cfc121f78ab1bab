"""The loop around a script's `train`: it resumes, evaluates, saves, logs, and ends on a signal or a fault."""

import contextlib
import errno
import json
import math
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from runtime import device, products
from runtime.arguments import RunArgs, check, parse
from runtime.checkpoints import Checkpoints, write_file
from runtime.environments import Episodes, evaluate, make_env
from runtime.logs import Logs, describe, new_folder
from runtime.messages import Fault, Refused, tell
from runtime.streams import Draws

import gymnasium as gym
import numpy as np
import torch

LOG_EVERY = 500  # steps between two rows of losses
DISK_IS_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def launch(script: ModuleType, argv: list[str] | None = None) -> int:
    """Runs a script with a command line; the exit code. Bad input ends with one line, code 2, and nothing written."""
    try:
        return Run(script, *parse(script, sys.argv[1:] if argv is None else argv)).train()
    except Refused as refusal:
        tell(refusal)
        return 2


class Run:
    """One run of a script. Its `train` calls, in this order, `environments`, `fast`, and in the loop over `steps`
    `numbers` and `record`."""

    def __init__(self, script: ModuleType, args: RunArgs, source: dict[str, str] | None = None):
        check(args, script.LIMITS)
        self.script, self.args, self.source = script, args, source or dict.fromkeys(vars(args), "default")
        self.device = torch.device("cuda" if args.cuda else "cpu")
        self.seeds = range(args.seed, args.seed + args.num_seeds)
        self.evaluated, self.saved = 0, -1  # steps of the last evaluation and of the last checkpoint
        self.signals, self.seen, self.logs, self.agent = [], None, None, None
        self.whole = True  # not amid a script's step, so that a checkpoint can be written
        kept = json.loads((args.resume / "config.json").read_text())["products"] if args.resume else None
        self.products = products.choose(args.matmul_precision, self.device, 2 * args.num_seeds, kept)

    # ------------------------------------------------------------------------------------------- for a script's `train`
    def environments(self) -> Episodes:
        """The environments of all seeds, with those of evaluations made beside them."""
        film = ["rgb_array" if self.args.capture_video and e == 0 else None for e in range(self.args.eval_episodes)]
        self.envs = Episodes([make_env(self.args.env_id) for _ in self.seeds], self.seeds)
        self.eval_envs = [[make_env(self.args.env_id, mode) for mode in film] for _ in self.seeds]
        return self.envs

    def fast(self, agent, learn) -> tuple:
        """Acting, (S, ds) array and noise -> (S, d) actions, and learning, compiled and recorded as the flags say."""
        self.agent = agent
        self.draws = Draws(self.seeds, *agent.noise_shapes(), self.args.batch_size, self.device)
        act, learn, self.policies = device.fast(agent, learn)
        return device.Acting(act, self.envs.obs.shape, self.device), learn

    def numbers(self, step: int) -> list[torch.Tensor]:
        """The random numbers of a step: normal for acting and for updating, uniform for drawing the batch."""
        return self.draws.step(step)

    def record(self, metrics: dict[str, torch.Tensor]) -> None:
        """Takes what an update returned, scalars (S,) by name; every LOG_EVERY steps it goes to the logs."""
        self.seen = metrics

    def steps(self, replay) -> Iterator[int]:
        """The steps that are left, each played by one `envs.step`. Between them it does all that keeps a run alive."""
        args, envs = self.args, self.envs
        self.open(replay)
        if envs.pending is not None:  # what an environment could not play before
            replay.add(*envs.step(envs.pending))
            self.end_step()
        while True:
            if due := envs.count > self.evaluated and envs.count % args.eval_frequency == 0:
                self.evaluate()
            if envs.count > self.saved and envs.count % (args.checkpoint_frequency or args.eval_frequency) == 0:
                self.save()
            self.logs.progress(envs.count, due)
            if self.signals or envs.count >= args.total_timesteps:
                break
            self.whole = False
            yield envs.count
            self.whole = True
            self.end_step()
        if envs.count > self.saved:
            self.save()

    # ----------------------------------------------------------------------------------------------------- what it does
    def open(self, replay) -> None:
        """Makes or takes the run's folder, and brings back what its last checkpoint holds."""
        args, path, self.replay = self.args, Path(self.script.__file__), replay
        self.folder = args.resume or new_folder(args.env_id, path.stem, args.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(self.folder)
        config = describe(path, args, self.source, self.products)
        seeds = f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        print(f"{path.stem} on {args.env_id}, {seeds}, {config['device']}: {self.folder}")
        for origin in dict.fromkeys(self.source.values()):
            values = ", ".join(f"{k} {v}" for k, v in config["args"].items() if self.source.get(k) == origin)
            print(f"  {origin}: {values}", flush=True)
        state = self.checkpoints.load(replay) if args.resume else {}
        for mine, kept in zip(self.agent.tensors(), state["agent"], strict=True) if state else ():
            mine.copy_(kept)
        if state:
            self.evaluated, self.saved = state["evaluated"], state["step"]
            self.envs.load(state["episodes"])
        columns = [f"return_{name}" for name in list(self.policies)[1:]]
        self.handlers = {n: signal.signal(n, self.on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        self.logs = Logs(self.folder, config, self.seeds, columns, self.envs.count, state.get("csv", 0))
        self.logs.last = state.get("last", self.logs.last)
        for seed, row in zip(self.seeds, self.eval_envs if args.capture_video else ()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a resumed run's folder has films already
                film = str(self.folder / f"seed-{seed}" / "videos")
                row[0] = gym.wrappers.RecordVideo(row[0], film, episode_trigger=lambda _: True)

    def evaluate(self) -> None:
        """One episode in each environment of evaluations, by each policy; begun again on --resume if a signal came."""
        step, results = self.envs.count, {}
        for name, policy in self.policies.items():
            for row in self.eval_envs:
                row[0].name_prefix = f"step-{step}-{name}"  # of its films, if it films
            results[name] = evaluate(policy, self.eval_envs, self.seeds, step, self.device, self.signals)
        if not self.signals:
            self.logs.evaluation(step, results)
            self.evaluated = step
            if self.args.keep_agents:
                (self.folder / "agents").mkdir(exist_ok=True)
                write_file(self.folder / "agents" / f"step-{step}.pt", self.content(), checksum=False)

    def save(self) -> None:
        """A checkpoint: all that the run needs to go on as if nothing had happened, and the logs that it counts on."""
        for fault in self.faults({}):
            raise fault
        state = {"step": self.envs.count, "evaluated": self.evaluated, "agent": self.agent.tensors()}
        state |= {"episodes": self.envs.state(), "csv": self.logs.sync(), "last": self.logs.last}
        self.checkpoints.save(state, self.replay)
        self.saved = self.envs.count

    def end_step(self) -> None:
        """Logs what ended with a step, and begins the next episode where one is over."""
        envs, step = self.envs, self.envs.count
        over, lengths = np.flatnonzero(envs.over), [len(past) for past in envs.actions]
        self.logs.scalars(step, {"charts/episodic_return": envs.returns, "charts/episodic_length": lengths}, over)
        if self.seen and step % LOG_EVERY == 0:
            for fault in self.faults(self.seen):
                raise fault
            self.logs.scalars(step, self.seen | {"charts/SPS": [self.logs.rate] * len(self.seeds)})
        for i in over:
            envs.begin(i)

    def faults(self, metrics: dict[str, torch.Tensor]) -> Iterator[Fault]:
        """A Fault for every parameter, and every metric (S,), that is not finite. Parameters lie seed by seed."""
        sums = {f"parameter {k}": p.detach().view(len(self.seeds), -1).sum(1) for k, p in self.agent.named_parameters()}
        for name, values in (sums | metrics).items():
            for seed, value in zip(self.seeds, values.tolist()):
                if not math.isfinite(value):
                    yield Fault(f"{name} of seed {seed}")

    def on_signal(self, number: int, _) -> None:
        """The first signal ends the run after this step of training or evaluation; a second one kills."""
        if self.signals:
            os._exit(128 + number)
        self.signals.append(number)

    def content(self) -> dict:
        """What agent.pt holds."""
        return {"step": self.envs.count, "args": vars(self.args) | {"resume": None}, "agent": self.agent.state_dict()}

    # ------------------------------------------------------------------------------------------------------ how it ends
    def train(self) -> int:
        """Runs the script's `train` to its end. The exit code: 0, 128 + n after signal n, or 1 where a number is no
        longer finite or the disk is full."""
        code = 0
        try:
            self.script.train(self.args, self)
        except Refused:
            if hasattr(self, "checkpoints"):
                self.checkpoints.lock.release()
            raise
        except Fault as fault:
            fault = next(self.faults({}), fault)  # where the cause may lie
            self.logs.bar.close()
            tell(f"{fault} is not finite at step {self.envs.count}; {self.kept()}")
            code = 1
        except Exception as error:
            if getattr(error, "errno", None) not in DISK_IS_FULL:  # an environment failed, say
                if self.logs and (self.whole or self.envs.pending is not None):  # keep what there is
                    self.save()
                raise  # and let the traceback tell
            self.logs.bar.close()
            tell(f"{error.strerror} at step {self.envs.count}; {self.kept()}")
            code = 1
        finally:
            if self.logs:
                self.close()
        ended = "stopped" if self.signals or code else "done"
        print(f"{ended} at step {self.envs.count}, {self.logs.rate:.1f} steps/s: {self.folder}")
        if ended == "stopped" and self.saved >= 0:
            script = shlex.quote(os.path.relpath(self.script.__file__))
            print(f"go on with: python {script} --resume {shlex.quote(str(self.folder))}")
        return 128 + self.signals[0] if self.signals else code

    def kept(self) -> str:
        return f"the checkpoint of step {self.saved} is whole" if self.saved >= 0 else "no checkpoint was written"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            write_file(self.folder / "agent.pt", self.content(), checksum=False)
        for env in [*self.envs.envs, *(env for row in self.eval_envs for env in row)]:
            env.close()
        self.logs.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.checkpoints.lock.release()
