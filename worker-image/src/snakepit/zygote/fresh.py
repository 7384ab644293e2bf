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

# Python ignores the first two from its start; the others are faulthandler's, or a library's crash reporter's.
_KEPT: Final = frozenset(
    (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
)
# What a process finds before it forks, so that its children need not look: signals with an action, and random
# generators, which the frozen heap hides from gc.get_objects().
_signals: list[int] = []
_generators: list[Any] = []
# What fills the pools, and stays.
_fillers: list[bytes] = []
# Of Python's allocator for small objects, since 3.10: a pool begins with a header and holds blocks of one size.
_POOL_BYTES: Final = 16 << 10
_POOL_HEADER_BYTES: Final = 48
_BLOCK_STEP: Final = 16
_LARGEST_BLOCK: Final = 512
# A size whose pools have more free room keeps the rest of it.
_MOST_FILLED_BYTES: Final = 1 << 20


def reset(forked: bool) -> None:
    """Undo what a fork hands down: signal handlers, mask, and the state of random generators."""
    for number in _signals:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    linux.unblock_signals()
    if forked:
        reseed()
        gc.enable()
    # By number, because the user's code may put other objects in the place of the streams.
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def note() -> None:
    """Find out and do once what each worker that is forked from here then need not; before the heap is frozen."""
    caught = linux.caught_or_ignored() - _KEPT
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Every worker sets it anyway.
        caught.discard(signal.SIGINT)
    # The zygote ignores it, and its keepers do so no more.
    caught.discard(signal.SIGCHLD)
    _signals[:] = caught
    for stream in (sys.stdout, sys.stderr):
        # A pipe would be buffered by blocks, and a crash would take the last lines with it.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
    kinds = _generator_types()
    # By type(), because isinstance() asks the object, and a proxy of the user's may answer with an exception.
    _generators[:] = [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]


def fill_pools() -> None:
    """Take the free blocks between the small objects that were made so far; before the heap is frozen.

    A worker's own objects would go there, one here and one there, and each copies a page that all workers share. With
    no such place left they go into new pools, side by side: 0.2 MiB less a worker. Where the allocator is another one,
    this fills nothing, and costs little.
    """
    if os.environ.get("PYTHONMALLOC"):
        return
    for size in range(3 * _BLOCK_STEP, _LARGEST_BLOCK + 1, _BLOCK_STEP):
        _fillers.extend(_free_blocks(size))


def _free_blocks(size: int) -> list[bytes]:
    """Return objects of a size, one for each free block of it in pools that were in use."""
    capacity, content = (_POOL_BYTES - _POOL_HEADER_BYTES) // size, size - sys.getsizeof(b"")
    made: list[bytes] = []
    taken: dict[int, int] = {}
    for _ in range(_MOST_FILLED_BYTES // size):
        block = bytes(content)
        pool = id(block) // _POOL_BYTES
        taken[pool] = taken.get(pool, 0) + 1
        if taken[pool] == capacity:
            # It had nothing else in it: all that were in use are full.
            return [block for block in made if id(block) // _POOL_BYTES != pool]
        made.append(block)
    return made


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
