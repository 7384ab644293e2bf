"""The first thing a newcomer runs: from nothing to an answer, and through the whole life of a pool.

Standard library only. Every step checks what it shows; the exit code is 1 when one did not hold.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "snakepit-demo"
POOL = "counter"
BEGAN = time.monotonic()
COLOUR = sys.stdout.isatty()


class StepError(Exception):
    """A step of the story did not hold."""


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


def step(title: str) -> None:
    """Begin a step, with the time since the start."""
    mark = f"[{time.monotonic() - BEGAN:6.1f} s]"
    say(f"\n\033[1m{mark} {title}\033[0m" if COLOUR else f"\n{mark} {title}")


def run(*command: str, show: bool = True, check: bool = True, text_in: str | None = None) -> str:
    """Run a command; show it as a user would type it, with what it prints."""
    shown = " ".join("kubectl" if part == kubectl() else part for part in command)
    if show:
        say(f"  $ {shown}")
    done = subprocess.run(command, cwd=ROOT, input=text_in, text=True, capture_output=True, check=False)
    output = done.stdout + done.stderr
    if show and output.strip():
        say("    " + output.rstrip().replace("\n", "\n    "))
    if check and done.returncode != 0:
        raise StepError(f"{shown} ended with {done.returncode}: {output.strip()[-600:]}")
    return done.stdout


def make(*targets: str) -> None:
    """Run make targets with their own progress on the terminal."""
    say(f"  $ make {' '.join(targets)}")
    if subprocess.run(["make", *targets], cwd=ROOT, check=False).returncode != 0:
        raise StepError(f"make {' '.join(targets)} failed; its message is above")


def local() -> bool:
    """Say whether the cluster is the local one, which the demo starts and removes."""
    return os.environ.get("CLUSTER", "local") == "local"


def kubectl() -> str:
    """The kubectl that speaks to the chosen cluster."""
    return os.environ.get("KUBECTL", "kubectl")


def k(*arguments: str, show: bool = True, check: bool = True) -> str:
    """Run kubectl in the demo's namespace."""
    return run(kubectl(), "-n", NAMESPACE, *arguments, show=show, check=check)


def python(title: str, code: str) -> str:
    """Run Python in the client pod, where the pool's Service has its name; show the code and the answer."""
    say(f"  python ({title}):")
    say("    " + code.strip().replace("\n", "\n    "))
    done = subprocess.run(
        [kubectl(), "-n", NAMESPACE, "exec", "-i", "client", "--", "python3", "-"],
        input=code,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise StepError(f"the Python above failed: {done.stderr.strip()[-800:]}")
    say("  prints:\n    " + done.stdout.rstrip().replace("\n", "\n    "))
    return done.stdout


def expect(held: bool, what: str) -> None:
    """Fail the story unless what it says holds."""
    if not held:
        raise StepError(f"expected: {what}")


def until(what: str, limit: float, holds: Callable[[], bool]) -> float:
    """Wait until something holds; return the seconds it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > limit:
            raise StepError(f"{what}: not within {limit:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - began


def pool_status() -> dict[str, object]:
    """The pool's status."""
    return json.loads(k("get", "wpool", POOL, "-o", "json", show=False)).get("status", {})


def pod() -> dict[str, str]:
    """The one pod of the pool: its name, uid, and the restarts of its containers."""
    items = json.loads(k("get", "pods", "-l", f"snakepit.dev/pool={POOL}", "-o", "json", show=False))["items"]
    expect(len(items) == 1, f"one pod, found {len(items)}")
    status = items[0]["status"]
    containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    return {
        "name": items[0]["metadata"]["name"],
        "uid": items[0]["metadata"]["uid"],
        "restarts": str(sum(c["restartCount"] for c in containers)),
    }


def manifest(path: str) -> str:
    """A manifest of the repository with the image repository that is in use."""
    text = (ROOT / path).read_text()
    return text.replace("localhost/snakepit", os.environ.get("IMAGE_REPOSITORY") or "localhost/snakepit")


def apply(path: str) -> None:
    """Apply a manifest with plain kubectl."""
    say(f"  $ kubectl apply -f {path}")
    run(kubectl(), "-n", NAMESPACE, "apply", "-f", "-", show=False, text_in=manifest(path))


def prepare() -> None:
    """Cluster, images, operator, and a pod to call from."""
    if shutil.which("go") is None:
        raise StepError("there is no go on the PATH, which builds all that follows; install Go 1.26 or newer")
    if local():
        step("A real one-node Kubernetes on this machine")
        make("cluster-up")
    step("Build the operator and worker images, and load them")
    make("images")
    step("Install the CRDs and the operator with kubectl apply")
    make("install")
    step("A pod to call from: Python with the snakepit client, in the restricted standard")
    run(kubectl(), "apply", "-f", "hack/demo/namespace.yaml")
    k("delete", f"wpool/{POOL}", "--ignore-not-found", "--timeout=120s", show=False)  # of a demo that was broken off
    apply("hack/demo/client.yaml")
    k("wait", "--for=condition=Ready", "pod/client", "--timeout=120s")


def first_answer() -> None:
    """Apply → Ready → call → stream."""
    step("Apply a WorkerPool and wait until it is Ready")
    began = time.monotonic()
    say((ROOT / "config/samples/counter.yaml").read_text().rstrip())
    apply("config/samples/counter.yaml")
    k("wait", "--for=condition=Ready", f"wpool/{POOL}", "--timeout=120s")
    say(f"  apply to Ready: {time.monotonic() - began:.1f} s")
    k("get", "wpool")

    step("Call a tool, and read a stream")
    out = python(
        "a call and a stream",
        f"""
from snakepit import Client
with Client("{POOL}") as pool:
    print(pool.call("add", a=1, b=2))
    print(list(pool.stream("countdown", start=3)))
""",
    )
    expect(out.split("\n")[:2] == ["3", "[3, 2, 1]"], "3 and [3, 2, 1]")


def sessions() -> None:
    """One session stays on one worker; others land on others."""
    step("A session keeps its state in one worker; another session gets another worker")
    out = python(
        "two sessions",
        f"""
from snakepit import Client
with Client("{POOL}") as pool, pool.session("alice") as alice, pool.session("bob") as bob:
    for _ in range(3):
        print("alice", alice.call("count"), "on", alice.worker)
    print("bob  ", bob.call("count"), "on", bob.worker)
""",
    )
    lines = [line.split() for line in out.strip().split("\n")]
    expect([line[1] for line in lines] == ["1", "2", "3", "1"], "alice counts 1, 2, 3 and bob begins at 1")
    expect(len({line[3] for line in lines[:3]}) == 1, "all calls of alice ran on one worker")
    expect(lines[0][3] != lines[3][3], "bob's worker is another one")


def scale() -> None:
    """More workers in the same pod."""
    step("Scale from 2 to 4 workers: the pod stays, its workers are forked in place")
    before = pod()
    k("scale", f"wpool/{POOL}", "--replicas=4")
    took = until("4 workers ready", 60, lambda: pool_status().get("readyWorkers") == 4)
    k("wait", "--for=condition=Ready", f"wpool/{POOL}", "--timeout=60s")
    k("get", "wpool")
    after = pod()
    expect(before == after, f"the same pod without a restart: {before} became {after}")
    say(f"  the same pod {after['name']}, no restart; the status showed 4 ready workers after {took:.1f} s")


CRASH = f"""
import sys
from snakepit import Client, SessionLost
with Client("{POOL}") as pool, pool.session("carol") as carol:
    carol.call("count")
    print(carol.worker, carol.call("whoami")["pid"], flush=True)
    sys.stdin.readline()
    try:
        carol.call("count")
        print("NO ERROR")
    except SessionLost as lost:
        print("SessionLost:", lost)
    carol.reopen()
    print("carol, acknowledged and reopened, counts", carol.call("count"), "on", carol.worker)
"""


def crash() -> None:
    """SIGKILL of the worker that owns a session."""
    step("SIGKILL of the worker that holds a session: its caller is told, a replacement is forked")
    say("  python (runs while the worker is killed):\n    " + CRASH.strip().replace("\n", "\n    "))
    before = pod()
    with subprocess.Popen(
        [kubectl(), "-n", NAMESPACE, "exec", "-i", "client", "--", "python3", "-c", CRASH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        owner = client.stdout.readline().split()
        expect(len(owner) == 2, "the session is open")
        k("exec", before["name"], "-c", "worker", "--", "python3", "-c", f"import os; os.kill({owner[1]}, 9)")
        client.stdin.write("\n")
        client.stdin.flush()
        rest = client.stdout.read().strip()
    say("  prints:\n    " + rest.replace("\n", "\n    "))
    expect(rest.startswith("SessionLost"), "SessionLost at the caller")
    expect("counts 1 on" in rest, "a new life that counts from 1")
    say(f"  worker killed → replacement ready: {replacement(before['name'])} ms (the router's log)")
    until("the pool is whole again", 60, lambda: pool_status().get("readySummary") == "4/4")
    k("wait", "--for=condition=Ready", f"wpool/{POOL}", "--timeout=60s")
    expect(pod() == before, "the same pod without a container restart")
    k("get", "wpool")


def replacement(name: str) -> str:
    """Milliseconds from the death of a worker to its ready replacement, as the router measured them."""
    found = ""

    def logged() -> bool:
        nonlocal found
        for line in k("logs", name, "-c", "router", show=False).splitlines():
            if line.startswith("{"):
                entry = json.loads(line)
                if "replacedAfterMilliseconds" in entry:
                    found = str(round(float(entry["replacedAfterMilliseconds"]), 1))
        return found != ""

    until("the replacement is in the router's log", 20, logged)
    return found


def delete() -> None:
    """Nothing is left."""
    step("Delete the pool: nothing is left")
    k("delete", f"wpool/{POOL}", "--timeout=120s")
    left = k("get", "wpool,wgroup,pods,services,serviceaccounts,roles,rolebindings", "-o", "name", show=False)
    ours = [name for name in left.split() if name not in ("pod/client", "serviceaccount/default")]
    k("get", "wpool,wgroup,pods,services,roles,rolebindings", check=False)
    expect(not ours, f"nothing of the pool, found {ours}")
    say("  left: the client pod of this demo, and nothing of the pool")


def go_on() -> None:
    """How to go on."""
    say(f"\nAll of it held. Elapsed: {time.monotonic() - BEGAN:.1f} s\n")
    if local():
        say("Go on with this cluster:    export KUBECONFIG=$PWD/.cluster/kubeconfig PATH=$PWD/.cluster/bin:$PATH")
    sample = "config/samples/counter.yaml"
    if repository := os.environ.get("IMAGE_REPOSITORY"):
        say(f"Make a pool to stay:        sed 's#localhost/snakepit#{repository}#' {sample} | kubectl apply -f -")
    else:
        say(f"Make a pool to stay:        kubectl apply -f {sample}")
    say("Write your own adapter:     docs/tutorial.md")
    say("Remove everything again:    make demo-clean")


def clean() -> None:
    """Remove what the demo made."""
    if local():
        make("cluster-down")
        return
    k("delete", "wpool", "--all", "--timeout=120s", check=False)
    run(kubectl(), "delete", "namespace", NAMESPACE, "--ignore-not-found", check=False)
    make("uninstall")


def main() -> int:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", action="store_true", help="remove what the demo made")
    options = parser.parse_args()
    try:
        if options.clean:
            clean()
            return 0
        for part in (prepare, first_answer, sessions, scale, crash, delete):
            part()
    except StepError as error:
        say(f"\nFAILED after {time.monotonic() - BEGAN:.1f} s: {error}")
        look = "make cluster-status" if local() else f"kubectl -n {NAMESPACE} get wpool,pods -o wide"
        say(f"Look around with: {look}; try again with: make demo; remove everything with: make demo-clean")
        return 1
    except KeyboardInterrupt:
        say("\nBroken off. Go on with: make demo; remove everything with: make demo-clean")
        return 130
    go_on()
    return 0


if __name__ == "__main__":
    sys.exit(main())
