"""Writes the stubs of cases.proto with grpcio's own generator, as a user does, and puts them on the path."""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@functools.cache
def generate() -> str:
    """Return the folder with cases_pb2.py and cases_pb2_grpc.py."""
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    folder = tempfile.mkdtemp(prefix="snp-stubs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    code = protoc.main(
        [
            "protoc",
            f"-I{FOLDER}",
            f"-I{well_known}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            "cases.proto",
        ]
    )
    assert code == 0
    sys.path.insert(0, folder)
    return folder
