"""Adds a figure for each fault test of the catalogue that runs here to the file that FIGURES names.

Every test of such a module is a story with its own checks: the figure says how many ran and how many of them failed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

_IDS = {"test_trees.py": "O6", "test_orphans.py": "O7", "test_fork_safety.py": "S7b", "test_machine.py": "F6"}
_passed: Counter[str] = Counter()
_failed: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the stories."""
    id = _IDS.get(Path(report.location[0]).name)
    if id is None:
        return
    if report.failed:
        _failed[id] += 1
    elif report.when == "call" and report.passed:
        _passed[id] += 1


def pytest_sessionfinish() -> None:
    """Write what was counted; nothing for what did not run."""
    target = os.environ.get("FIGURES", "")
    if not target or not (_passed or _failed):
        return
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with Path(target).open("a") as file:
        for id in sorted(_passed.keys() | _failed.keys()):
            runs, failed = _passed[id] + _failed[id], _failed[id]
            figure = {
                "id": id, "figure": "stories failed", "value": failed, "unit": "stories", "bound": "<=0",
                "ok": failed == 0, "runs": runs, "seed": 0, "commit": commit, "command": "make test-python",
            }  # fmt: skip
            file.write(json.dumps(figure) + "\n")
