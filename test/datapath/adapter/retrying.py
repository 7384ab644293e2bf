"""A caller with grpcio's own retries, which prints code and message.

python retrying.py TARGET TOOL KEY [metadata key, value]…
"""

from __future__ import annotations

import json
import sys

import grpc
from snakepit import messages

_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.05s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"],
}


def main(target: str, tool: str, key: str, *pairs: str) -> None:
    """Make one call."""
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _POLICY}]})
    request = messages.ExecuteRequest(tool=tool)
    if key:
        request.arguments["key"].text = key
    with grpc.insecure_channel(target, options=[("grpc.service_config", config)]) as channel:
        call = channel.unary_unary(
            "/snakepit.v1alpha1.Pool/Execute", messages.ExecuteRequest.SerializeToString, lambda answer: answer
        )
        try:
            call(request, timeout=30, metadata=tuple(zip(pairs[::2], pairs[1::2], strict=True)))
        except grpc.RpcError as error:
            print(error.code().name, error.details())
        else:
            print("OK")


main(*sys.argv[1:])
