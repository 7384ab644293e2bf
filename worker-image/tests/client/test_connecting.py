"""Addresses, waiting for a pool, and importing the client without grpcio."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from client.fake_router import Failure, Router
from snakepit import Client
from snakepit import client as api
from snakepit.client.options import resolve_address


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("demo", "demo:50051"),
        ("demo.shop", "demo.shop:50051"),
        ("demo.shop.svc.cluster.local", "demo.shop.svc.cluster.local:50051"),
        (" demo ", "demo:50051"),
        ("demo:1234", "demo:1234"),
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("dns:///demo:50051", "dns:///demo:50051"),
        ("unix:/run/router.sock", "unix:/run/router.sock"),
    ],
)
def test_addresses(given: str, target: str) -> None:
    assert resolve_address(given) == target


@pytest.mark.parametrize("given", ["", "  ", "Demo", "demo_1", "127.0.0.1", "-demo", "http://demo:80", 7])
def test_bad_addresses_say_what_to_do(given: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAKEPIT_ROUTER", raising=False)
    with pytest.raises(api.InvalidArguments, match="address: "):
        resolve_address(given)


def test_the_variable_is_used_without_an_argument(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAKEPIT_ROUTER", raising=False)
    with pytest.raises(api.InvalidArguments, match="SNAKEPIT_ROUTER"):
        Client()
    monkeypatch.setenv("SNAKEPIT_ROUTER", router.address)
    with Client() as client:
        assert client.address == router.address
        assert client.add(a=1, b=2) == 3


@pytest.mark.parametrize("timeout", [0, -1, None, "5"])
def test_every_client_has_a_timeout(timeout: object) -> None:
    with pytest.raises(api.InvalidArguments, match="timeout"):
        Client("demo", timeout=timeout)  # type: ignore[arg-type]


def test_a_proxy_of_the_environment_is_not_asked(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with Client(router.address, timeout=5) as client:
        assert client.add(a=1, b=2) == 3


# ---- wait_ready


def test_ready_at_once(client: Client) -> None:
    client.wait_ready(5)


def test_ready_after_a_while(client: Client, router: Router) -> None:
    router.health = [2, 3, 2, 1]
    client.wait_ready(5)


def test_ready_once_the_router_is_there() -> None:
    late = Router()
    late.start()
    port = late.port
    late.stop()
    late = Router()
    timer = threading.Timer(0.4, late.start, (port,))
    timer.start()
    try:
        with Client(f"127.0.0.1:{port}", timeout=5) as client:
            client.wait_ready(20)
    finally:
        timer.join()
        late.stop()


def test_never_ready(client: Client, router: Router) -> None:
    router.health = [2]
    began = time.monotonic()
    with pytest.raises(api.NotReady, match=r"not ready within 0\.4 s: the router answers, but no worker is ready"):
        client.wait_ready(0.4)
    assert time.monotonic() - began < 10


def test_never_there(router: Router) -> None:
    router.stop()
    with Client(router.address) as client, pytest.raises(api.NotReady, match="cannot reach"):
        client.wait_ready(0.6)


def test_waiting_for_what_is_no_router(client: Client, router: Router) -> None:
    router.health = [Failure("UNIMPLEMENTED", "", "unknown service grpc.health.v1.Health")]
    with pytest.raises(api.MethodUnknown, match="not a Snakepit router"):
        client.wait_ready(20)


def test_closing_ends_the_wait(client: Client, router: Router) -> None:
    router.health = [2]
    threading.Timer(0.2, client.close).start()
    with pytest.raises(api.Closed):
        client.wait_ready(20)


# ---- processes


def run_python(program: str, *arguments: str) -> str:
    """Run a program in a fresh Python, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_GRPC = """
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "grpc":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing())
"""


def test_without_grpcio_the_client_says_what_to_install() -> None:
    program = (
        WITHOUT_GRPC
        + """
    from snakepit import SessionLost, RemoteError, SnakepitError
    from snakepit.client.errors import QueueFull
    for name in ("Client", "Session"):
        try:
            getattr(__import__("snakepit.client").client, name)
        except ImportError as error:
            print(error)
    try:
        from snakepit import Client
    except ImportError as error:
        print(error)
    """
    )
    lines = run_python(program).splitlines()
    assert len(lines) == 3
    assert all("pip install 'snakepit-k8s[client]'" in line for line in lines)


def test_grpcio_is_loaded_with_the_client_only() -> None:
    program = """
    import sys
    import snakepit
    from snakepit import SessionLost
    assert "grpc" not in sys.modules
    from snakepit import Client
    assert "grpc" in sys.modules
    assert Client is snakepit.client.Client
    for name in snakepit.client.__all__:
        offered = getattr(snakepit.client, name)
        if isinstance(offered, type) and issubclass(offered, Exception):
            assert getattr(snakepit, name) is offered
    try:
        from snakepit import Cliemt
    except ImportError as error:
        print(error)
    """
    assert "cannot import name 'Cliemt'" in run_python(program)


def test_a_client_does_not_cross_a_fork(router: Router) -> None:
    program = """
    import os, sys
    from snakepit import Client
    client = Client(sys.argv[1], timeout=5)
    child = os.fork()
    if child == 0:
        try:
            client.add(a=1, b=2)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        client.close()
        os._exit(0)
    os.waitpid(child, 0)
    print(client.add(a=1, b=2))
    """
    out = run_python(program, router.address)
    assert "Closed this client was made before a fork; make a client in each process" in out
    assert out.splitlines()[-1] == "3"


def test_ctrl_c_ends_a_call_and_cancels_it(router: Router) -> None:
    cancelled = threading.Event()

    def hang(run: object) -> int:
        run.context.add_callback(cancelled.set)  # type: ignore[attr-defined]
        cancelled.wait(20)
        return 1

    router.tools["hang"] = hang
    program = """
    import os, signal, sys, threading
    from snakepit import Client
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
    client = Client(sys.argv[1], timeout=30)
    client.add(a=1, b=2)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        client.hang()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.stdin.read()  # the process lives on: only the cancel can have ended the call
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", textwrap.dedent(program), router.address]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert cancelled.wait(10)
        process.communicate("", timeout=20)
    assert process.returncode == 0
