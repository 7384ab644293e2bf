"""Runs in the client pod: one JSON command a line on stdin, one JSON answer a line on stdout, matched by id.

It holds the real Python client, so that stories written in Go speak through what users use.
"""

import json
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from snakepit import Client, messages

clients: dict[str, Client] = {}
sessions: dict[str, Any] = {}
lock = threading.Lock()
stops: dict[str, threading.Event] = {}
loads: dict[str, Any] = {}
pool = ThreadPoolExecutor(max_workers=64)


def client(address: str) -> Client:
    with lock:
        if address not in clients:
            clients[address] = Client(address, timeout=30)
        return clients[address]


def target(command: dict[str, Any]) -> Any:
    """The client, or the named session of it."""
    name = command.get("session")
    base = client(command["address"])
    if name is None:
        return base
    key = command["address"] + "/" + name
    with lock:
        if key not in sessions:
            sessions[key] = base.session(name).__enter__()
        return sessions[key]


def with_token(address: str, name: str, token: str) -> dict[str, Any]:
    """Call count in the life that the token names."""
    with Client(address, timeout=5) as base:
        session = base.session(name)
        session._life.token = token
        got = session.call("count")
        return {"value": got["n"], "by": got["by"], "token": session.token}


def look(address: str, name: str) -> str | None:
    """The token of a session that a router holds, without touching it; None when it holds none."""
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        get = channel.unary_unary(
            "/snakepit.v1alpha1.Pool/GetSession",
            request_serializer=messages.GetSessionRequest.SerializeToString,
            response_deserializer=messages.GetSessionResponse.FromString,
        )
        try:
            answer = get(messages.GetSessionRequest(), timeout=10, metadata=[("snakepit-session", name)])
        except grpc.RpcError as error:
            if error.code() in (
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.FAILED_PRECONDITION,
            ):
                return None
            raise
    token: str = answer.session.token
    return token


def scrape(url: str) -> str:
    """What a router's /metrics says."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def run_load(command: dict[str, Any]) -> dict[str, Any]:
    """Sessions that each count calls, in parallel; every count must be the one before plus one, on one worker."""
    base = client(command["address"])
    calls = int(command["calls"])
    stop = stops.setdefault(command.get("name", ""), threading.Event())

    def one(name: str) -> dict[str, Any]:
        answers = wrong = 0
        workers: set[str] = set()
        lives: set[tuple[str, str]] = set()
        errors: dict[str, int] = {}
        try:
            with base.session(name) as session:
                while answers < calls and not stop.is_set():
                    got = session.call("count")
                    answers += 1
                    wrong += got["n"] != answers
                    workers.add(session.worker)
                    lives.add((session.token, got["by"]))
        except Exception as error:  # every outcome is part of the story
            errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
        return {"calls": answers, "wrong": wrong, "workers": sorted(workers), "lives": sorted(lives), "errors": errors}

    names = [f"{command['prefix']}-{i}" for i in range(int(command["sessions"]))]
    with ThreadPoolExecutor(max_workers=len(names)) as threads:
        return dict(zip(names, threads.map(one, names), strict=True))


def run(command: dict[str, Any]) -> Any:
    op = command["op"]
    if op == "call":
        who = target(command)
        options = command.get("options") or {}
        if options:
            who = who.with_options(**options)
        value, by = who.call(command["tool"], **command.get("args", {})), None
        if isinstance(value, dict) and "by" in value:
            value, by = value["n"], value["by"]
        return {"value": value, "by": by, "worker": getattr(who, "worker", None), "token": getattr(who, "token", None)}
    if op == "stream":
        return {"value": list(target(command).stream(command["tool"], **command.get("args", {})))}
    if op == "reopen":
        target(command).reopen()
        return {}
    if op == "close":
        key = command["address"] + "/" + command["session"]
        with lock:
            session = sessions.pop(key, None)
        if session is not None:
            session.__exit__(None, None, None)
        return {}
    if op == "forget":
        with lock:
            sessions.pop(command["address"] + "/" + command["session"], None)
        return {}
    if op == "wait_ready":
        client(command["address"]).wait_ready(command.get("timeout", 60))
        return {}
    if op == "with_token":  # as a caller that kept the token of an earlier answer, and knows nothing since
        return with_token(command["address"], command["session"], command["token"])
    if op == "look":
        return {"token": look(command["address"], command["session"])}
    if op == "scrape":
        return {"value": scrape(command["url"])}
    if op == "load":
        return {"value": run_load(command)}
    if op == "stop":
        stops.setdefault(command["name"], threading.Event()).set()
        return {}
    raise ValueError(f"unknown op {op}")


def answer(command: dict[str, Any]) -> None:
    began = time.monotonic()
    try:
        reply = {"id": command["id"], **run(command)}
    except Exception as error:
        reply = {
            "id": command["id"],
            "error": type(error).__name__,
            "bases": [base.__name__ for base in type(error).__mro__],
            "message": str(error),
            "reason": getattr(error, "reason", None),
            "execution": getattr(error, "execution", None),
            "cause": getattr(error, "cause", None),
        }
    reply["seconds"] = round(time.monotonic() - began, 4)
    with lock:
        print(json.dumps(reply, default=str), flush=True)


print(json.dumps({"id": 0}), flush=True)
for line in sys.stdin:
    pool.submit(answer, json.loads(line))
