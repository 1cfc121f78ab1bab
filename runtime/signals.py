"""Signals: the first ends a run after its step, and a step that then takes too long is given up."""

import os
import signal

GRACE = 30.0  # seconds that a step may still take once a signal has come


class Overdue(Exception):
    """A step that goes on too long after a signal."""


class Signals(list):
    """The numbers of the signals that have come to a run.

    The first ends it after this step of training or evaluation; then only Ctrl-C kills, as a machine that shuts down
    sends several. Before there is a folder the first kills, and takes a compiler with it. `overdue` is whether a step
    was given up: its agent is torn."""

    def __init__(self, run):
        super().__init__()
        self.run, self.overdue, self.handlers, self.terminals = run, False, {}, []

    def catch(self) -> None:
        """Takes over, up to `release`."""
        hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]  # nohup ignores it
        self.terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        self.handlers = {n: signal.signal(n, self.come) for n in (signal.SIGINT, signal.SIGTERM, *hangup)}
        self.handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self.ring)

    def quiet(self) -> None:
        """No step is given up any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def release(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def come(self, number: int, _) -> None:
        if number == signal.SIGHUP:  # the terminal has gone: nothing can be written to it
            for stream in self.terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if not self.run.began:
            print(f"stopped before the first step: nothing was written{self.run.go_on()}", flush=True)
        if not self.run.began or (self and number == signal.SIGINT):
            os._exit(128 + number)
        self.append(number)
        if len(self) == 1:
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def ring(self, *_) -> None:
        """Gives up a step; evaluating and saving end by themselves."""
        if not self.run.whole:
            self.overdue = True
            raise Overdue(f"a step did not end within {GRACE:.0f} s of the signal")
