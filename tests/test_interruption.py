"""Ctrl-C, SIGTERM and a closed terminal in the middle of a command: how it ends, what is kept, and how it goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellfeat import interruption
from cellfeat.interruption import heeded, how_to_go_on

# A backbone that is slow after its first batch, so that a signal meets it at work, and the commands as they are.
PLUGIN = """
import time
from pathlib import Path
import torch
from cellfeat import Features, hookimpl

class Slow:
    image_size, interpolation, weights_sha256 = 32, "area", None

    def encode(self, images):
        here = Path("batches")
        here.mkdir(exist_ok=True)
        number = len(list(here.iterdir()))
        (here / str(number)).touch()
        if number == 1 and not Path("quick").exists():
            time.sleep(60)
        return Features(images.float().mean(dim=(2, 3)))

@hookimpl
def cellfeat_backbone():
    return {"slow": Slow}
"""
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom cellfeat.cli import main; main()"


def started(arguments: list[str], folder: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "CELLFEAT_CACHE": str(folder / "cache"),
        "CELLFEAT_PLUGINS_DIR": str(folder / "slow.py"),
    }
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "slow.py").write_text(PLUGIN)
    return tmp_path


def test_a_signal_ends_tidily_and_the_printed_command_goes_on(folder, laboratories):
    """SIGTERM; Ctrl-C in a run is among the tests of the command line."""
    arguments = ["extract", str(laboratories), "-o", "my features.parquet", "--backbone", "slow", "--batch", "50"]
    process = started(arguments, folder)
    wait_for(folder / "batches" / "1")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert err.count("Interrupted. Kept: every image that was encoded. To go on from there:") == 1
    [line] = [line for line in err.splitlines() if line.startswith("  cellfeat ")]
    assert not (folder / "my features.parquet").exists()
    assert not list(folder.glob("*.partial*"))
    (folder / "quick").touch()
    again = started(shlex.split(line)[1:], folder)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert "50 of 150 images were encoded before" in err
    assert len(list((folder / "batches").iterdir())) == 2 + 2, "the second batch was lost, the first was kept"
    assert (folder / "my features.parquet").is_file()


def test_a_second_signal_ends_at_once(folder, laboratories, monkeypatch):
    """The first one is held up by work that does not end; the second does not wait for it."""
    (folder / "slow.py").write_text(PLUGIN.replace("time.sleep(60)", "self.stubborn()").replace(
        "    def encode",
        "    def stubborn(self):\n"
        "        while True:\n"
        "            try:\n"
        "                time.sleep(60)\n"
        "            except KeyboardInterrupt:\n"
        "                Path('told').touch()\n\n"
        "    def encode",
    ))  # fmt: skip
    process = started(["extract", str(laboratories), "-o", "f.parquet", "--backbone", "slow", "--batch", "50"], folder)
    wait_for(folder / "batches" / "1")
    process.send_signal(signal.SIGTERM)
    wait_for(folder / "told")
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 5
    assert process.returncode == -signal.SIGINT
    assert "Once more stops at once" in err


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["run", "--data", "c.csv"], "and the newest checkpoint of each training"),
        (["bench", "run", "s.yaml"], "every fit that is recorded"),
        (["predict", "run-1", "x"], "every image that was encoded"),
        (["lora-sam", "finetune", "c.csv"], "the newest checkpoint of the training"),
    ],
)
def test_what_is_kept_and_the_command_to_be_copied(arguments, kept):
    whole = [*arguments, "-o", "my file; rm x"]
    text = how_to_go_on(["-p", "no:stain", *whole], whole)  # an option with a value may stand before the command
    assert kept in text
    assert f"\n  cellfeat -p no:stain {' '.join(arguments)} -o 'my file; rm x'\n" in text


def test_what_keeps_nothing_says_so():
    words = ["data", "info", "c.csv"]
    assert how_to_go_on(words, words).startswith("Interrupted. No file is left half written.")


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored():
    before = {one: signal.getsignal(one) for one in interruption.SIGNALS}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with heeded() as found:
            assert signal.getsignal(signal.SIGINT) == found.receive
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
        with pytest.raises(KeyboardInterrupt), heeded() as found:
            os.kill(os.getpid(), signal.SIGINT)
        assert found.status == 130
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


HUNG_UP = """
import sys, time
from pathlib import Path
from cellfeat.artifacts import atomic_folder
from cellfeat.interruption import heeded
here = Path(sys.argv[1])
with heeded() as found:
    try:
        with atomic_folder(here / "out"):
            (here / "begun").touch()
            time.sleep(60)
    except KeyboardInterrupt:
        print("told to nobody", file=sys.stderr, flush=True)
        (here / "status").write_text(str(found.status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no terminal there hangs up")
def test_a_terminal_that_closes_ends_tidily_too(tmp_path):
    import pty

    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run by nohup, which is heeded too
        os.execv(sys.executable, [sys.executable, "-c", HUNG_UP, str(tmp_path)])
    wait_for(tmp_path / "begun")
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "status").read_text() == "129"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "status"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_a_shell_that_hangs_up_too_does_not_cut_the_tidying_short():
    before = {one: signal.getsignal(one) for one in interruption.SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with heeded() as found:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            assert found.status == 129
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
