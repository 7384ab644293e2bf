"""Makes a process fresh after a fork: signals, random generators, the streams, and what helps when it crashes."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import sys
from typing import Any, Final

from snakepit.zygote import linux

# Python ignores the first two from its start; the others are faulthandler's, or a library's crash reporter.
_KEPT: Final = frozenset(
    (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
)
# Random generators that existed before the heap was frozen, which hides them from gc.get_objects().
_generators: list[Any] = []


def reset(forked: bool) -> None:
    """Undo what a fork hands down: signal handlers, mask, and the state of random generators."""
    for number in (linux.caught_or_ignored() | {int(signal.SIGCHLD)}) - _KEPT:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    linux.unblock_signals()
    if forked:
        reseed()
        gc.enable()
    for stream in (sys.stdout, sys.stderr):
        # A pipe would be buffered by blocks, and a crash would take the last lines with it.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
    # By number, because the user's code may put other objects in the place of the streams.
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def note_generators() -> None:
    """Remember the random generators that the preloaded adapter holds; called before the heap is frozen."""
    kinds = _generator_types()
    # By type(), because isinstance() asks the object, and a proxy of the user's may answer with an exception.
    _generators[:] = [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]


def _generator_types() -> tuple[type, ...]:
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is None:
        return (random.Random,)
    return (random.Random, numpy_random.Generator, numpy_random.RandomState)


def reseed() -> None:
    """Give each worker random numbers of its own, in the libraries that are loaded and in the user's generators.

    OpenSSL, and with it the modules ssl and hashlib, sees a fork by itself.
    """
    random.seed()
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))
    for generator in _generators:
        if isinstance(generator, random.Random):
            # The base's method: a subclass may want arguments.
            random.Random.seed(generator)
        elif isinstance(generator, numpy_random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)().state
        else:
            generator.seed(int.from_bytes(os.urandom(4), "little"))
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "seed"):
        torch.seed()
