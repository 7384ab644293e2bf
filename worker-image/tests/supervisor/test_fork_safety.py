"""S7b: what does not survive a fork is found, workers are spawned then, and forked ones share no random numbers."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from pathlib import Path

import pytest

from conftest import Starter
from container import Container
from fake_router import FakeRouter
from snakepit.bridge.protocol import AdapterPhase, StartMethod
from snakepit.supervisor.resources import cgroup

ADAPTER = """
    import ctypes, json, os, random, select, ssl, subprocess, sys, tempfile, threading, types, uuid
    from snakepit import tool

    class Lucky(random.Random):
        def seed(self, value, version=2):
            super().seed(value)

    class App:
        @classmethod
        def preload(cls):
            {preload}

        @tool
        def draw(self) -> list[str]:
            found = [str(random.random()), str(self.mine.random()), str(self.lucky.random()), ssl.RAND_bytes(8).hex()]
            found += [uuid.uuid4().hex, os.urandom(8).hex(), next(tempfile._get_candidate_names())]
            return found

        @tool
        def draw_numpy(self) -> list[str]:
            import numpy
            return [str(numpy.random.random()), str(self.generator.random()), str(self.legacy.random_sample()),
                    str(self.philox.integers(1 << 60))]

        @tool
        def method(self) -> str:
            return "forked" if os.path.basename(json.dumps(sys.argv)) and "snakepit.zygote.spawn" not in open(
                "/proc/self/cmdline").read() else "spawned"
"""
# pthread_create of pause(): a native thread that Python knows nothing of.
NATIVE_THREAD = (
    "libc = ctypes.CDLL(None); thread = ctypes.c_ulong(); "
    "libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)"
)
STAND_INS = {
    "polars": ("import polars", "polars is imported"),
    "thread": ("threading.Thread(target=threading.Event().wait, name='ticker', daemon=True).start()", "ticker"),
    "native-thread": (NATIVE_THREAD, "1 native threads running"),
    "cuda": ("import torch", "CUDA is initialised by torch"),
    "gpu": ("cls.gpu = open('/dev/null'); import fake_gpu", "JAX has initialised its backends"),
    "tensorflow": ("import tensorflow.python.eager.context", "TensorFlow has initialised its runtime"),
    "epoll": ("cls.poll = select.epoll()", "an event loop or selector (epoll)"),
    "asyncio": ("import asyncio; cls.loop = asyncio.new_event_loop()", "an event loop or selector (epoll)"),
}
MODULES = {
    "polars.py": "",
    "torch.py": "class cuda:\n    @staticmethod\n    def is_initialized():\n        return True\n\ndef seed(): ...\n",
    "fake_gpu.py": "import sys, types\nm = types.ModuleType('jax._src.xla_bridge')\nm._backends = {'gpu': 1}\n"
    "sys.modules['jax._src.xla_bridge'] = m\n",
    "tensorflow/__init__.py": "",
    "tensorflow/python/__init__.py": "",
    "tensorflow/python/eager/__init__.py": "",
    "tensorflow/python/eager/context.py": "class _context:\n    _initialized = True\n",
}


def begin(start: Starter, preload: str, *slots: int, method: StartMethod = StartMethod.AUTO) -> FakeRouter:
    container = start(source="")
    for name, text in MODULES.items():
        file = container.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    source = textwrap.dedent(ADAPTER).replace("{preload}", preload.replace("\n", "\n        "))
    (container.folder / "app.py").write_text(source)
    container.router.desire(*slots, method=method)
    return container.router


def loaded(router: FakeRouter) -> object:
    return router.wait_told(lambda m: m.adapter.phase == AdapterPhase.LOADED, "the adapter is loaded").adapter


@pytest.mark.parametrize("name", STAND_INS)
def test_auto_spawns_and_says_why(start: Starter, name: str) -> None:
    preload, why = STAND_INS[name]
    router = begin(start, preload, 0)
    worker = router.wait_worker(0)
    state = loaded(router)
    assert why in state.fork_unsafe  # type: ignore[attr-defined]
    assert state.method == StartMethod.SPAWN  # type: ignore[attr-defined]
    assert router.call(worker, "method").result == "spawned"


def test_grpc_channels_in_preload_are_named(start: Starter) -> None:
    preload = (
        "import grpc\ncls.channel = grpc.insecure_channel('unix:/nowhere')\n"
        "try:\n    grpc.channel_ready_future(cls.channel).result(timeout=0.2)\n"
        "except grpc.FutureTimeoutError:\n    pass"
    )
    router = begin(start, preload, 0)
    worker = router.wait_worker(0)
    assert "threads" in loaded(router).fork_unsafe  # type: ignore[attr-defined]
    assert router.call(worker, "method").result == "spawned"


@pytest.mark.parametrize("name", ["polars", "native-thread", "epoll"])
def test_fork_is_obeyed_and_the_danger_told(start: Starter, name: str) -> None:
    preload, why = STAND_INS[name]
    router = begin(start, preload, 0, 1, method=StartMethod.FORK)
    workers = [router.wait_worker(slot) for slot in (0, 1)]
    assert why in loaded(router).fork_unsafe  # type: ignore[attr-defined]
    assert [router.call(worker, "method").result for worker in workers] == ["forked", "forked"]


def test_forked_workers_draw_different_numbers(start: Starter) -> None:
    preload = "random.seed(1)\ncls.mine = random.Random(2)\ncls.lucky = Lucky(3)\nssl.RAND_bytes(1)\nuuid.uuid4()"
    router = begin(start, preload, 0, 1, 2)
    drawn = [router.call(router.wait_worker(slot), "draw").result for slot in (0, 1, 2)]
    assert loaded(router).method == StartMethod.FORK  # type: ignore[attr-defined]
    assert len({text for found in drawn for text in found}) == 3 * 7, "two workers drew the same number"


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not installed")
def test_numpy_generators_of_the_user_differ_too(start: Starter) -> None:
    preload = (
        "import numpy\nnumpy.random.seed(1)\ncls.generator = numpy.random.default_rng(2)\n"
        "cls.legacy = numpy.random.RandomState(3)\ncls.philox = numpy.random.Generator(numpy.random.Philox(4))"
    )
    router = begin(start, preload, 0, 1, 2)
    drawn = [router.call(router.wait_worker(slot), "draw_numpy").result for slot in (0, 1, 2)]
    assert loaded(router).method == StartMethod.FORK, "numpy alone is no reason to spawn"  # type: ignore[attr-defined]
    assert len({text for found in drawn for text in found}) == 3 * 4, "two workers drew the same number"


def test_hooks_of_fork_run_in_workers_and_not_in_keepers(start: Starter) -> None:
    preload = (
        "os.register_at_fork(after_in_child=lambda: os.write(log, b'%d ' % os.getpid()))\n"
        "global log\nlog = os.open('forks', os.O_WRONLY | os.O_CREAT | os.O_APPEND)"
    )
    router = begin(start, preload, 0, 1)
    pids = {router.wait_worker(slot).pid for slot in (0, 1)}
    with open(f"{os.path.dirname(router.path)}/forks") as file:
        assert {int(word) for word in file.read().split()} == pids


THREADS = """
    import os
    from snakepit import tool

    class App:
        @classmethod
        def preload(cls):
            cls.preloaded = os.environ["OMP_NUM_THREADS"]

        @tool
        def threads(self) -> dict[str, str]:
            return {"preloaded": getattr(App, "preloaded", ""), "omp": os.environ["OMP_NUM_THREADS"],
                    "mkl": os.environ["MKL_NUM_THREADS"], "ours": [n for n in os.environ if "ORIGINAL" in n]}
"""


@pytest.mark.parametrize("method", [StartMethod.FORK, StartMethod.SPAWN])
def test_threads_of_numeric_libraries(folder: Path, method: StartMethod) -> None:
    (folder / "app.py").write_text(textwrap.dedent(THREADS))
    container = Container(folder, "app:App")
    container.env = {"OMP_NUM_THREADS": "7"}
    try:
        container.start()
        container.router.desire(0, method=method)
        found = container.router.call(container.router.wait_worker(0), "threads").result
        cpus = cgroup.cpu_limit(cgroup.own("cpu")) or len(os.sched_getaffinity(0))
        assert found["omp"] == "7", "what the user chose stays"
        assert found["mkl"] == str(max(1, int(cpus))), "the only worker may use all CPUs"
        assert found["preloaded"] == ("1" if method == StartMethod.FORK else "7"), "a spawned worker preloads by itself"
        assert found["ours"] == []
    finally:
        container.close()
