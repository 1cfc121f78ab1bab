"""The loop around a script's `train`: it resumes, evaluates, saves, logs, and ends on a signal or a fault."""

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from runtime import device, machine, products
from runtime.agents import Agents, begin_with, faults
from runtime.arguments import RunArgs, check, parse, skip_compiling
from runtime.checkpoints import Checkpoints
from runtime.contract import Learner, form_of
from runtime.environments import Episodes, make_env
from runtime.evaluation import Evaluation
from runtime.logs import Logs, describe, header, new_folder
from runtime.messages import Fault, Refused, fail, out_of, tell, tell_notes
from runtime.normalisation import Normaliser
from runtime.replay import Ring
from runtime.seeds import everything, side_by_side
from runtime.signals import Overdue, Signals
from runtime.spaces import described
from runtime.streams import Draws, Numbers
from runtime.trial import seed_globals
from runtime.workers import Lost, unasked

import numpy as np
import torch

LOG_EVERY = 500  # steps between two rows of losses


def launch(script: ModuleType, argv: list[str] | None = None, agent: type | None = None, program: str = "") -> int:
    """Runs a script with a command line; the exit code. Bad input ends with one line, code 2, and nothing written.

    `agent` takes the place of the script's own, for an experiment; `program` is the command that runs it so."""
    try:
        args, source = parse(script, sys.argv[1:] if argv is None else argv, program or None)
        return Run(script, args, source, agent, program).train()
    except Refused as refusal:
        tell(refusal)
        return 2


class Run:
    """One run of a script. Its `train` calls, in this order, `environments`, `fast`, and in the loop over `steps`
    `numbers` and `record`."""

    def __init__(self, script: ModuleType, args: RunArgs, source: dict[str, str] | None = None, agent=None, program=""):
        self.script, self.path, self.instead, self.program = script, Path(script.__file__), agent, program
        self.source = dict(source or dict.fromkeys(vars(args), "default"))
        args = skip_compiling(args, self.source)
        check(args, script.LIMITS)
        machine.check_batch(args, getattr(script, "HIDDEN", 1))
        self.args, self.device = args, torch.device("cuda" if args.cuda else "cpu")
        self.seeds = range(args.seed, args.seed + args.num_seeds)
        self.evaluated, self.saved = 0, -1  # steps of the last evaluation and of the last checkpoint
        self.signals, self.seen, self.logs, self.agent, self.checkpoints = Signals(self), None, None, None, None
        self.envs = self.evaluation = None
        self.began = False  # there is a folder, or about to be
        self.whole = True  # not amid a script's step, so that a checkpoint can be written
        if args.products == "auto":
            self.source["products"] = "auto"
        args.products = products.choose(args.matmul_precision, args.products, self.device, bool(args.resume))

    # ------------------------------------------------------------------------------------------- for a script's `train`
    def environments(self) -> Episodes:
        """The environments of all seeds, with those of evaluations made beside them."""
        args = self.args
        seed_globals(args.seed)  # which a simulator may draw from while it is made
        workers = unasked(args.num_seeds, args.cuda) if args.env_workers is None else args.env_workers
        self.envs = Episodes([make_env(args.env_id, None, args) for _ in self.seeds], self.seeds, workers)
        self.envs.fault = self.diverged
        self.evaluation = Evaluation(args, self.seeds, self.device, workers)
        if not re.search(r":|-v\d+$", args.env_id):  # Gymnasium took its newest version: let it stay that one
            args.env_id = self.envs.envs[0].spec.id
        if args.normalize_observations:
            self.envs.normaliser = self.side_by_side(Normaliser, self.envs.obs_dim)
            self.envs.normaliser.update(self.envs.obs)
        return self.envs

    def side_by_side(self, kind, *inputs):
        """An object of the script's, built so that it serves all seeds (runtime/seeds.py)."""
        with side_by_side(self.seeds, self.device):
            made = (self.instead or kind)(*inputs) if kind is self.script.Agent else kind(*inputs)
        if isinstance(made, Learner):
            made.normaliser = self.envs.normaliser
        elif isinstance(made, Ring) and self.envs.normaliser:
            made.sample = self.envs.normaliser.of_batches(made.sample)
        return made

    def fast(self, agent, *learns) -> tuple:
        """Acting, (S, ds) array and noise -> (S, d) actions, and each way of learning, as fast as the flags say."""
        args, shapes = self.args, agent.noise_shapes()
        self.agent = agent
        if args.start_from and not args.resume:
            begin_with(agent, args.start_from, self.seeds, form_of(self.script))
        self.draws = Draws(self.seeds, *shapes, args.batch_size, self.device, args.updates_per_step)
        act, *learns, self.policies = device.fast(args, agent, *learns)
        if args.compile:
            print("compiling, about half a minute ...", flush=True)
            device.warm_up(agent, self.draws, self.envs.obs.shape, act, *learns)
        return device.Acting(act, self.envs.obs.shape, self.device), *learns

    def numbers(self, step: int) -> Numbers:
        """The random numbers of a step: normal ones for acting, and for each update uniform and normal ones."""
        return self.draws.step(step)

    def record(self, seen: dict[str, torch.Tensor]) -> None:
        """Takes what an update returned, of which `agent.metrics` makes scalars (S,) every LOG_EVERY steps."""
        self.seen = (self.seen or {}) | seen  # updates of several kinds take turns

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
        if envs.count > self.evaluated and not self.signals:  # the end, which a longer run would not evaluate: after
            self.evaluate()  # the checkpoint, so that such a run forgets it

    # ----------------------------------------------------------------------------------------------------- what it does
    def open(self, replay) -> None:
        """Makes or takes the run's folder, and brings back what its last checkpoint holds."""
        args, self.replay, self.began = self.args, replay, True
        self.folder = args.resume or new_folder(args, self.path.stem)
        try:
            self.folder.mkdir(parents=True, exist_ok=bool(args.resume))
            self.checkpoints = Checkpoints(self.folder)
            self.agents = Agents(self.folder, self.script, args, self.agent, described(self.envs.envs[0]))
            state = self.checkpoints.load(replay, self.restore) if args.resume else {}
            if state:
                self.envs.load(state["episodes"])
            config = describe(self.path, args, self.source)
            config |= {"form": form_of(self.script), "program": self.program or None}
            columns = [f"return_{name}" for name in list(self.policies)[1:]]
            self.logs = Logs(self.folder, config, self.seeds, columns, self.envs.count, state.get("csv", ""))
        except Exception as error:
            if self.checkpoints:
                self.checkpoints.lock.release()
            if not args.resume and not isinstance(error, FileExistsError):
                shutil.rmtree(self.folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            fail(f"{self.folder} cannot be written: {error.strerror}; start where there is room and permission")
        self.logs.last = state.get("last", self.logs.last)
        print(header(config, self.seeds, self.folder), flush=True)
        tell_notes()
        if args.capture_video:
            self.evaluation.film(self.folder)

    def restore(self, state: dict) -> None:
        """Takes what `save` put into a checkpoint, the replay and the episodes apart; raises where something lacks."""
        episodes = state["episodes"]
        lengths = {len(episodes["numbers"]), len(episodes["actions"]), len(episodes["obs"])}
        if lengths != {len(self.seeds)} or episodes["count"] != state["step"] or "pending" not in episodes:
            raise ValueError("episodes of another run")
        for mine, kept in zip(everything(self.agent), state["agent"], strict=True):
            if mine.shape != kept.shape:
                raise ValueError(f"a tensor of shape {[*kept.shape]} where the agent has {[*mine.shape]}")
            mine.copy_(kept)
        self.evaluated, self.saved, _, _ = state["evaluated"], state["step"], state["csv"], state["last"]
        self.agents.load(state["best"])

    def save(self) -> None:
        """A checkpoint: all that the run needs to go on as if nothing had happened, and the logs that it counts on."""
        self.watch(self.agent.metrics(self.seen) if self.seen else {})
        state = {"step": self.envs.count, "evaluated": self.evaluated, "agent": everything(self.agent)}
        state |= {"episodes": self.envs.state(), "csv": self.logs.sync(), "last": self.logs.last}
        self.checkpoints.save(state | {"best": self.agents.best}, self.replay)
        self.saved = self.envs.count

    def evaluate(self) -> None:
        """One episode in each environment of evaluations, by each policy; begun again on --resume if a signal came."""
        step = self.envs.count
        while True:
            try:
                results = self.evaluation.play(self.policies, step, self.signals, self.logs, self.envs.alive)
                break
            except Fault as fault:
                self.diverged(fault)
        if not self.signals:
            self.logs.evaluation(step, results)
            self.evaluated = step
            self.agents.evaluated(step, next(iter(results.values()))[0].mean(1))
            self.logs.pictures(step, self.agent, self.replay)

    def end_step(self) -> None:
        """Logs what ended with a step, and begins the next episode where one is over."""
        envs, step = self.envs, self.envs.count
        over, lengths = np.flatnonzero(envs.over), [len(past) for past in envs.actions]
        self.logs.scalars(step, {"charts/episodic_return": envs.returns, "charts/episodic_length": lengths}, over)
        if self.seen and step % LOG_EVERY == 0:
            metrics = self.agent.metrics(self.seen)
            self.watch(metrics)
            rates = {"charts/SPS": [self.logs.rate] * len(self.seeds)}
            self.logs.scalars(step, metrics | rates, np.flatnonzero(envs.alive))
        for i in over:
            envs.begin(i)

    def watch(self, metrics: dict[str, torch.Tensor]) -> None:
        for fault in faults(self.agent, metrics, self.seeds, self.envs.alive):
            self.diverged(fault)

    def diverged(self, fault: Fault) -> None:
        """Lets a seed end alone: it plays no more, and its evaluations are NaN from here on. The last one ends the
        run."""
        if self.envs.alive.sum() == 1:
            raise fault
        self.envs.alive[fault.i] = False
        tell(f"{fault} is not finite at step {self.envs.count}: it has diverged, and the other seeds go on without it")

    # ------------------------------------------------------------------------------------------------------ how it ends
    def train(self) -> int:
        """Runs the script's `train` to its end. The exit code: 0, 128 + n after signal n, or 1 where a number is no
        longer finite or the machine has run out of disk, memory or file handles."""
        code = 0
        self.signals.catch()
        try:
            self.script.train(self.args, self)
        except Fault as fault:
            cause = next(faults(self.agent, {}, self.seeds, self.envs.alive), fault)  # a parameter may be
            code = self.give_up(f"{cause} is not finite")
            every = self.args.eval_frequency  # no more than a table can hold, of a run without end
            rest = range(every * (self.evaluated // every + 1), self.args.total_timesteps + 1, every)[:10_000]
            self.logs.lost(rest, self.args.eval_episodes)
        except Overdue as late:
            code = self.give_up(str(late))
        except Exception as error:
            if not (reason := out_of(error)):  # an environment failed, say
                if self.logs and (self.whole or self.envs.pending is not None):  # keep what there is
                    self.save()
                if not isinstance(error, Lost):
                    raise  # and let the traceback tell
                reason = str(error)
            code = self.give_up(reason)
        finally:
            self.signals.quiet()
            if self.logs:
                self.close()
            for stage in filter(None, (self.evaluation, self.envs)):
                stage.close()
            self.signals.release()
        ended = "stopped" if self.signals or code else "done"
        gone = ", ".join(str(self.seeds[i]) for i in np.flatnonzero(~self.envs.alive))
        gone = f", seeds {gone} diverged" if gone else ""
        print(f"{ended} at step {self.envs.count}{self.logs.speed()}{gone}: {self.folder}")
        if ended == "stopped" and self.saved >= 0:
            print(self.go_on().strip())
        return 128 + self.signals[0] if self.signals else code

    def give_up(self, reason: str) -> int:
        if self.logs is None:
            fail(f"{reason}, before the first step")
        self.logs.bar.close()
        kept = f"the checkpoint of step {self.saved} is whole" if self.saved >= 0 else "no checkpoint was written"
        tell(f"{reason} at step {self.envs.count}; {kept}")
        return 1

    def go_on(self) -> str:
        """The command that resumes, on a line of its own, if there is a folder."""
        folder = self.args.resume or (self.logs and self.folder)
        program = self.program or shlex.quote(os.path.relpath(self.script.__file__))
        named = f" --env-id {shlex.quote(self.args.env_id)}" if ":" in self.args.env_id else ""  # it imports a module
        return f"\ngo on with: python {program} --resume {shlex.quote(str(folder))}{named}" if folder else ""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            torn = self.signals.overdue or any(faults(self.agent, {}, self.seeds, self.envs.alive))
            if not torn:  # else agent.pt stays what it was
                self.agents.last(self.envs.count)
        self.logs.close()
        self.checkpoints.lock.release()
