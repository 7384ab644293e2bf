"""How the adapter's import, its start method and its setup may go wrong, and heal."""

from __future__ import annotations

import os
import textwrap

import pytest

from conftest import Starter
from fake_router import FakeRouter
from router_view import eventually
from snakepit.bridge.protocol import AdapterPhase, StartMethod
from snakepit.supervisor.resources import cgroup

GOOD = """
    import os, random, sys, threading
    from snakepit import tool

    class App:
        @tool
        def facts(self) -> dict[str, object]:
            return {
                "ppid": os.getppid(),
                "preloaded": getattr(App, "preloaded", None) == os.getpid(),
                "random": random.random(),
                "threads": os.environ.get("OMP_NUM_THREADS"),
            }
"""


def failed(router: FakeRouter, condition: str = "") -> object:
    return router.wait_told(
        lambda m: m.adapter.phase == AdapterPhase.FAILED and condition in m.adapter.error_type, "adapter failed"
    ).adapter


@pytest.mark.parametrize(
    ("source", "kind", "place"),
    [
        ("import json\nimport no_such_module\n", "ModuleNotFoundError", "app.py:2"),
        ("x = 1\ndef broken(:\n", "SyntaxError", "app.py:2"),
        ("class Other:\n    pass\n", "AttributeError", ""),
        ("def f():\n    raise SystemExit(3)\n\nf()\n", "SystemExit", "app.py:2"),
        ("import os\nos._exit(4)\n", "ProcessExited", ""),
        ("class App:\n    pass\n", "DeclarationError", ""),
        ("from snakepit import tool\n\nclass App:\n    @tool\n    def f(self, *a: int) -> int: ...\n",
         "DeclarationError", "app.py:4"),
        ("import json\nfrom snakepit import tool\n\n@tool\ndef f(self): ...\n\nclass App:\n    g = f\n\n"
         "    @classmethod\n    def preload(cls):\n        json.loads('x')\n", "JSONDecodeError", "app.py:12"),
    ],
    ids=["import", "syntax", "missing-class", "exit", "os-exit", "no-tools", "var-args", "preload"],
)  # fmt: skip
def test_a_broken_adapter_is_reported_and_heals(start: Starter, source: str, kind: str, place: str) -> None:
    container = start(source=source)
    router = container.router
    router.desire(0)
    state = failed(router, kind)
    assert state.error_place == place  # type: ignore[attr-defined]
    assert container.process is not None and container.process.poll() is None, "the container stays up"
    (container.folder / "app.py").write_text(textwrap.dedent(GOOD))
    worker = router.wait_worker(0)
    assert router.call(worker, "facts").code == 0
    last = [m.adapter for m in router.told if m.WhichOneof("kind") == "adapter"][-1]
    assert (last.phase, last.error_type) == (AdapterPhase.LOADED, "")


def test_a_hanging_import_fails_at_its_timeout_and_says_where(start: Starter) -> None:
    router = start(source="import time\n\n\ndef wait():\n    time.sleep(1000)\n\n\nwait()\n").router
    router.desire(0, startup=3.0)
    state = failed(router)
    assert (state.error_type, state.error_place) == ("StartupTimeout", "app.py:5")  # type: ignore[attr-defined]


def test_fork_preloads_once_and_reseeds(start: Starter) -> None:
    source = GOOD + (
        "\n        @classmethod\n        def preload(cls):\n"
        "            random.seed(1)\n            cls.preloaded = os.getpid()\n"
    )
    router = start(source=source).router
    router.desire(0, 1)
    facts = [router.call(router.wait_worker(slot), "facts").result for slot in (0, 1)]
    assert facts[0]["random"] != facts[1]["random"]
    assert not facts[0]["preloaded"], "preload ran in the zygote, not in the worker"
    share = max(1, int((cgroup.cpu_limit(cgroup.own("cpu")) or len(os.sched_getaffinity(0))) / 2))
    assert facts[0]["threads"] == str(share), "each worker's share of the CPUs"


@pytest.mark.parametrize("method", [StartMethod.AUTO, StartMethod.FORK])
def test_preload_that_starts_a_thread(start: Starter, method: StartMethod) -> None:
    source = GOOD + (
        "\n        @classmethod\n        def preload(cls):\n"
        "            threading.Thread(target=threading.Event().wait, name='background', daemon=True).start()\n"
    )
    router = start(source=source).router
    router.desire(0, method=method)
    worker = router.wait_worker(0)
    state = [m.adapter for m in router.told if m.adapter.phase == AdapterPhase.LOADED][-1]
    assert "background" in state.fork_unsafe
    assert state.method == (StartMethod.SPAWN if method == StartMethod.AUTO else StartMethod.FORK)
    assert router.call(worker, "facts").code == 0


def test_a_probe_that_hangs_after_fork_falls_back_to_spawn(start: Starter) -> None:
    source = """
        import os, threading
        from snakepit import tool

        main = os.getpid()
        lock = threading.Lock()
        lock.acquire()

        class App:
            def setup(self, ctx):
                # A lock that a fork left held, as a library's thread pool would leave it.
                if os.getpid() != main:
                    lock.acquire()

            @tool
            def ping(self) -> str:
                return "pong"
    """
    router = start(source=source).router
    router.desire(0, 1, startup=4)
    worker = router.wait_worker(0)
    assert router.call(worker, "ping").result == "pong"
    router.wait_worker(1)
    state = [m.adapter for m in router.told if m.WhichOneof("kind") == "adapter"][-1]
    assert state.method == StartMethod.SPAWN
    assert "did not end its setup" in state.fork_unsafe
    exits = [m.exited for m in router.told if m.WhichOneof("kind") == "exited"]
    assert [e.cause for e in exits] == ["STARTUP_TIMEOUT"], "only the probe was lost"


def test_spawn_imports_in_each_worker(start: Starter) -> None:
    container = start(source=GOOD)
    router = container.router
    router.desire(0, 1, method=StartMethod.SPAWN)
    workers = [router.wait_worker(slot) for slot in (0, 1)]
    assert all(router.call(worker, "facts").code == 0 for worker in workers)
    state = [m.adapter for m in router.told if m.adapter.phase == AdapterPhase.LOADED][-1]
    assert (state.method, state.fork_unsafe) == (StartMethod.SPAWN, "")
    started = [m.started for m in router.told if m.WhichOneof("kind") == "started"]
    assert {s.method for s in started} == {StartMethod.SPAWN}


def test_spawn_reports_an_import_error(start: Starter) -> None:
    container = start(source="import nothing_like_it\n")
    router = container.router
    router.desire(0, method=StartMethod.SPAWN)
    state = failed(router)
    assert (state.error_type, state.error_place) == ("ModuleNotFoundError", "app.py:1")  # type: ignore[attr-defined]
    exited = router.wait_told(lambda m: m.exited.cause == "SETUP_FAILED", "exit").exited
    assert exited.error_place == "app.py:1"
    (container.folder / "app.py").write_text(textwrap.dedent(GOOD))
    router.wait_worker(0)


def test_setup_that_raises_backs_off_and_names_its_place(start: Starter) -> None:
    source = """
        from snakepit import tool

        class App:
            def setup(self, ctx):
                raise RuntimeError("no model")

            @tool
            def ping(self) -> str:
                return "pong"
    """
    router = start(source=source).router
    router.desire(0)
    exits = eventually(
        lambda: [e for e in (m.exited for m in list(router.told)) if e.cause == "SETUP_FAILED"][:2][1:], "two tries"
    )
    assert exits[0].error_type == "RuntimeError"
    assert exits[0].error_place == "app.py:6"
    state = [m.adapter for m in router.told if m.WhichOneof("kind") == "adapter"][-1]
    assert (state.phase, state.method) == (AdapterPhase.LOADED, StartMethod.FORK), (
        "an exception is no doubt about forks"
    )


def test_inherited_sockets_are_not_shared(start: Starter) -> None:
    source = """
        import os, socket
        from snakepit import tool

        listener = socket.create_server(("127.0.0.1", 0))
        kept = open(__file__)

        class App:
            @tool
            def kinds(self) -> dict[str, str]:
                fds = {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                       if os.path.exists(f"/proc/self/fd/{n}")}
                return {"listener": fds[str(listener.fileno())], "kept": fds[str(kept.fileno())],
                        "sockets": str(sum(v.startswith("socket:") for v in fds.values()))}

            @tool
            def in_child(self) -> int:
                read, write = os.pipe()
                if os.fork() == 0:
                    links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                             if os.path.exists(f"/proc/self/fd/{n}")]
                    os.write(write, bytes([sum(link.startswith("socket:") for link in links)]))
                    os._exit(0)
                os.wait()
                return os.read(read, 1)[0]
    """
    router = start(source=source).router
    router.desire(0)
    worker = router.wait_worker(0)
    kinds = router.call(worker, "kinds").result
    assert kinds["listener"] == "/dev/null"
    assert kinds["kept"].endswith("app.py")
    assert kinds["sockets"] == "3", "DATA, CONTROL and the report to the supervisor"
    assert router.call(worker, "in_child").result == 0, "a child of the worker would hide its death"
