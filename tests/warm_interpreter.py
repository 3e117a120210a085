"""An interpreter that has the libraries loaded and is copied (fork) for every question that a fresh process is asked.

A copy is as fresh as a new one, but for the libraries, whose import takes seconds each time.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cellfeat.testing import fresh

PROGRAM = """
import json, os, sys, torch, torchvision, sklearn.base, skops.io
from cellfeat.registry import installed
from cellfeat.testing import align, backbone, classifier, fresh, segmenter

installed()
for line in sys.stdin:
    question = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(question["folder"])
        sys.path[:] = question["path"]
        torch.set_num_threads(question["threads"])
        fresh.work(question["exchange"])
        os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


@functools.cache
def _server() -> subprocess.Popen:
    """Started when it is first asked, and there until the tests end."""
    command = [sys.executable, "-P", "-c", PROGRAM]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=fresh._environment(), **pipes)
    atexit.register(server.kill)
    return server


def _asked(arguments: list[str], **_: Any) -> SimpleNamespace:
    import torch

    server = _server()
    question = {
        "exchange": arguments[-1],
        "folder": str(Path.cwd()),
        "path": sys.path,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(question), file=server.stdin, flush=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "done\n"
    return SimpleNamespace(returncode=0, stderr="")


@contextmanager
def warm_interpreter() -> Iterator[None]:
    """Fresh processes are copies of one; where Python cannot copy one, they are new ones."""
    with pytest.MonkeyPatch.context() as patched:
        if hasattr(os, "fork"):
            stand_in = SimpleNamespace(run=_asked, TimeoutExpired=subprocess.TimeoutExpired)
            patched.setattr(fresh, "subprocess", stand_in)
        yield
