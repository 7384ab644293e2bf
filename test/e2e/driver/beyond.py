"""Runs in a pod on a node that is cut off: calls one session at one router on and on, and says who answered.

Each line of its log is one change of what it sees, so that a story can read afterwards what happened beyond the cut.
"""

import json
import sys
import time

from snakepit import Client


def main(address: str, name: str) -> None:
    """Call until the end of the pod; an error that says that the session is over is told, and never passed over."""
    seen = None
    with Client(address, timeout=5) as client, client.session(name) as session:
        while True:
            try:
                got = session.call("count")
                now = {"token": session.token, "by": got["by"]}
            except Exception as error:  # every outcome is part of the story
                now = {"error": type(error).__name__, "message": str(error)}
            if now != seen:
                print(json.dumps({**now, "at": time.time()}), flush=True)
                seen = now
            time.sleep(0.2)


main(*sys.argv[1:])
