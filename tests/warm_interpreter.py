"""An interpreter that has the libraries loaded and is copied (fork) for every question that a fresh process is asked.

A copy is as fresh as a new one, but for the libraries, whose import takes seconds each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from cellfeat.testing import fresh

PROGRAM = """
import os, sys, torch, torchvision, sklearn.base, skops.io
from cellfeat.registry import installed
from cellfeat.testing import backbone, classifier, fresh, segmenter

installed()
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        fresh.work(line.strip())
        os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


@contextmanager
def warm_interpreter() -> Iterator[None]:
    """Fresh processes are copies of one that is started now; where Python cannot copy one, they are new ones."""
    if not hasattr(os, "fork"):
        yield
        return
    command = [sys.executable, "-P", "-c", PROGRAM]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, env=fresh._environment(), **pipes) as server,
        pytest.MonkeyPatch.context() as patched,
    ):

        def asked(arguments: list[str], **_: Any) -> SimpleNamespace:
            print(arguments[-1], file=server.stdin, flush=True)
            assert server.stdout is not None
            assert server.stdout.readline() == "done\n"
            return SimpleNamespace(returncode=0, stderr="")

        patched.setattr(fresh, "subprocess", SimpleNamespace(run=asked, TimeoutExpired=subprocess.TimeoutExpired))
        yield
        assert server.stdin is not None
        server.stdin.close()
