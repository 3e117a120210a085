"""Ctrl-C, a scheduler's SIGTERM, a closed terminal: the first ends a command tidily and says how to go on, a second one
at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))
STOPPING = "\nStopping; what is computed is written first. Once more stops at once.\n"
IMAGES = "every image that was encoded"
KEPT = {  # command -> what the next start finds; of all others nothing is half done
    "run": f"{IMAGES}, and the newest checkpoint of each training",
    "extract": IMAGES,
    "transform": IMAGES,
    "predict": f"{IMAGES}, and with --refit the newest checkpoint of a training",
    "smear": f"{IMAGES}, and with --refit the newest checkpoint of a training",
    "bench run": f"every fit that is recorded, {IMAGES}, and the newest checkpoint of each training",
    "lora-sam finetune": "the newest checkpoint of the training",
    "lora-sam pretrain": "the newest checkpoint of the training",
    "weights fetch": "what has arrived",
}


class Interruption:
    """Whether, and by which signal, this process was asked to stop."""

    signal: signal.Signals | None = None

    @property
    def status(self) -> int:
        """As a shell has it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + (self.signal or signal.SIGINT)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """As a handler: everything that is open is closed by its own `finally`, and the next signal is not caught."""
        self.signal = signal.Signals(number)
        for one in SIGNALS:
            # A terminal that closes hangs up twice, by the shell and by the kernel: only the first is about this.
            closed = one == HANGUP == self.signal or signal.getsignal(one) is signal.SIG_IGN
            signal.signal(one, signal.SIG_IGN if closed else signal.SIG_DFL)
        try:
            os.write(2, STOPPING.encode())  # Rich may be in the middle of a line
        except OSError:  # the terminal is gone, and what is written to it from now on would be an error each time
            _write_nowhere(2, *([1] if os.path.sameopenfile(1, 2) else []))
        raise KeyboardInterrupt


@contextmanager
def heeded(signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Interruption]:
    """The first of these signals ends the block by KeyboardInterrupt; one that the process was told to ignore, as nohup
    does, stays ignored. What was set before is set again."""
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield found
        return
    before = {one: signal.getsignal(one) for one in signals}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, found.receive)
        yield found
    finally:
        for one, handler in before.items():
            if signal.getsignal(one) != handler and handler is not None:
                signal.signal(one, handler)


def how_to_go_on(asked: Sequence[str], arguments: Sequence[str]) -> str:
    """What is kept, and the command to go on with, in a line of its own to be copied.

    asked: the whole command line. arguments: the same without the options that may stand before a command.
    """
    words = [argument for argument in arguments if not argument.startswith("-")]
    kept = KEPT.get(" ".join(words[:2])) or KEPT.get(" ".join(words[:1]))
    command = shlex.join(["cellfeat", *asked])
    if kept is None:
        return f"Interrupted. No file is left half written. To begin again:\n\n  {command}\n"
    return f"Interrupted. Kept: {kept}. To go on from there:\n\n  {command}\n"


def leave_quietly() -> None:
    """Nobody reads any more (`cellfeat … | head`): what is still to be written goes nowhere, without a complaint."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _write_nowhere(stream.fileno())
        except (OSError, ValueError):  # closed, or no file at all
            continue


def _write_nowhere(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for one in descriptors:
        os.dup2(nowhere, one)
    os.close(nowhere)
