"""`cellfeat doctor`: every problem forced, each told with what to do, and no check that takes the others down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from cellfeat import doctor, machine, torch_probe
from cellfeat.errors import CellfeatError
from cellfeat.extras import OPTIONAL
from cellfeat.findings import NOTE, OK, PROBLEM, Finding
from cellfeat.registry import Broken, Registry, installed
from cellfeat.weights import NamedWeights

HEALTHY = {
    **{"torch": "2.15.0", "torchvision": "0.29.2", "build": "13.2", "hip": None, "threads": 4},
    **{"mps": False, "available": False, "said": [], "gpus": []},
}


@pytest.fixture
def plain_torch(monkeypatch):
    """What a healthy torch on a CPU says; importing one takes seconds."""
    monkeypatch.setattr(torch_probe, "probed", lambda: dict(HEALTHY))


def only(check) -> Finding:
    [found] = check()
    return found


def by_name(check) -> dict[str, Finding]:
    return {one.what: one for one in check()}


def called(arguments, monkeypatch, capsys) -> tuple[int, str, str]:
    from cellfeat import cli

    monkeypatch.setattr(sys, "argv", ["cellfeat", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_a_sound_machine_has_no_problem_and_every_check_finds_something(plain_torch, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "not-yet"))
    monkeypatch.setattr(doctor, "packages", lambda: iter([]))  # an old installation may lie under a newer source tree
    code, out, err = called(["doctor"], monkeypatch, capsys)
    assert code == 0, out
    for what in ("Python", "torch", "device", "cores", "memory", "cache", "weights cell-tiny", "plugins", "extra onnx"):
        assert f"{what}: " in out
    assert "as they should be" in err
    assert "problem" not in out
    assert not (tmp_path / "not-yet").exists(), "looking must not make the cache"


def test_as_json_and_status_1_with_a_problem(plain_torch, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "file"))
    code, out, _ = called(["doctor", "--json"], monkeypatch, capsys)
    found = json.loads(out)
    [cache] = [one for one in found["findings"] if one["what"] == "cache"]
    assert (code, cache["state"]) == (1, "problem")
    assert cache["text"] == f"{tmp_path / 'file'} cannot be written to: {tmp_path / 'file'} is a file"
    assert "CELLFEAT_CACHE" in cache["remedy"]
    assert found["problems"] == sum(one["state"] == "problem" for one in found["findings"]) >= 1


def test_every_problem_has_a_remedy_on_the_screen(plain_torch, monkeypatch, capsys):
    broken = Finding("thing", PROBLEM, "is [broken]", 'pip install "thing[x]"')
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([broken]),))
    code, out, err = called(["doctor"], monkeypatch, capsys)
    assert (code, err) == (1, "1 to be mended\n")
    assert out.splitlines() == ["problem thing: is [broken]", '        what to do: pip install "thing[x]"']


@pytest.mark.parametrize("error", [RuntimeError("no\nluck"), SystemExit(3), CellfeatError("x")])
def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch, error):
    def failing():
        """of the moon."""
        raise error

    monkeypatch.setattr(doctor, "CHECKS", (failing, lambda: iter([Finding("next", OK, "well")])))
    first, second = doctor.examine()
    assert (first.what, first.state, second.what) == ("of the moon", PROBLEM, "next")
    assert type(error).__name__ in first.text
    assert "\n" not in first.text


def test_versions_below_the_bounds_and_absent_packages(monkeypatch):
    wanted = ["torch>=2.9", "peft>=0.18", "numpy>=2.0", 'anndata>=0.12; extra == "anndata"']
    here = {"torch": "2.3.1", "numpy": "2.1", "cellfeat": "0.1.0"}

    def version(name):
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(metadata, "version", version)
    found = by_name(doctor.packages)
    assert found["torch"] == Finding("torch", PROBLEM, "2.3.1, but cellfeat needs >=2.9", 'pip install "torch>=2.9"')
    assert found["peft"] == Finding("peft", PROBLEM, "is not installed", 'pip install "peft>=0.18"')
    assert found["packages"].text.startswith("1 of 3 as cellfeat 0.1.0 needs them")
    assert set(found) == {"torch", "peft", "packages"}


def test_the_real_packages_are_all_there():
    assert [one for one in doctor.packages() if one.state == PROBLEM] == []


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.2")
    assert only(doctor.python).state == PROBLEM
    assert "3.9.2, but cellfeat needs >=3.11" in only(doctor.python).text


def test_torch_that_cannot_be_imported_is_told_of_while_all_else_is_looked_at(tmp_path):
    """In a real process, with a torch that fails on import, as one of another processor does."""
    package = tmp_path / "broken"
    package.mkdir()
    (package / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    (tmp_path / "torch.py").write_text("")  # in the working folder it is no module
    environment = {**os.environ, "PYTHONPATH": f"{package}:{os.environ.get('PYTHONPATH', '')}"}
    environment["CELLFEAT_CACHE"] = str(tmp_path / "cache")
    command = [sys.executable, "-P", "-m", "cellfeat", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = {one["what"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["torch"]["text"] == "cannot be imported: OSError: libcudart.so.13: cannot open shared object file"
    assert "pip install" in found["torch"]["remedy"]
    assert found["weights cell-tiny"]["state"] == "ok"
    assert found["plugins"]["state"] == "ok"


def test_a_torch_that_takes_its_process_with_it(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = only(torch_probe.torch_and_device)
    assert (found.what, found.state) == ("torch", PROBLEM)
    assert "its process ended with status -6" in found.text
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(torch_probe, "SECONDS", 0.2)
    assert "no answer within 0.2 s" in only(torch_probe.torch_and_device).text


def test_the_real_torch_answers_with_all_that_is_asked():
    import torch

    found = torch_probe.probed()
    assert set(found) == set(HEALTHY), found
    assert found["torch"] == torch.__version__
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_torchvision_of_another_torch(monkeypatch):
    lost = {**HEALTHY, "torchvision_error": "RuntimeError: operator torchvision::nms does not exist"}
    monkeypatch.setattr(torch_probe, "probed", lambda: lost)
    first, *_ = torch_probe.torch_and_device()
    assert (first.what, first.state) == ("torchvision", PROBLEM)
    assert "does not go with torch 2.15.0: RuntimeError: operator" in first.text


@pytest.mark.parametrize(
    ("changes", "driver", "hidden", "state", "part"),
    [
        ({}, "", None, NOTE, "torch is built for CUDA 13.2, but no driver"),
        ({"build": None}, "", None, OK, "torch is built for CPUs, and no GPU was found"),
        ({"build": None}, "570.1", None, NOTE, "NVIDIA driver (570.1), but this torch is built for CPUs"),
        (
            {"said": ["driver too old"]},
            "470.2",
            None,
            PROBLEM,
            "driver is 470.2, and they do not work together (driver",
        ),
        ({}, "570.1", "", NOTE, "CUDA_VISIBLE_DEVICES hides the GPU"),
        ({"mps": True}, "", None, OK, "Apple GPU"),
        ({"build": None, "hip": "6.4"}, "", None, NOTE, "built for ROCm 6.4"),
        ({"gpus": [["H200", 100e9, 150e9]]}, "570.1", None, OK, "H200, 100 GB of 150 GB free; driver 570.1"),
    ],
)
def test_the_device_and_why_no_better_one(monkeypatch, changes, driver, hidden, state, part):
    monkeypatch.setattr(torch_probe, "nvidia_driver", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = torch_probe.device({**HEALTHY, **changes})
    assert found.state == state
    assert part in found.text
    assert bool(found.remedy) == (state != OK)


def test_the_driver_is_asked_of_nvidias_own_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert torch_probe.nvidia_driver() == ""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")
    program.chmod(0o755)
    assert torch_probe.nvidia_driver() == "570.86.15"


def test_little_memory_by_the_limit_of_a_container(monkeypatch, tmp_path):
    inner = tmp_path / "groups" / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job/step\n")
    limits = {inner: ("max", "10"), inner.parent: (str(3 << 30), str(2 << 30))}
    for folder, (most, used) in limits.items():
        (folder / "memory.max").write_text(most)
        (folder / "memory.current").write_text(used)
        (folder / "memory.stat").write_text(f"inactive_file {1 << 20}\nother 5\n")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 16000000 kB\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OLD_GROUP", tmp_path / "none")
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert machine.free_memory() == (1 << 30) + (1 << 20)
    found = only(doctor.memory)
    assert (found.state, "by the limit of this container" in found.text) == (PROBLEM, True)
    (inner.parent / "memory.max").write_text("max")
    assert machine.free_memory() == 16_000_000 * 1024
    assert only(doctor.memory) == Finding("memory", OK, "16.4 GB are free")


def test_limits_of_the_older_control_groups(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "none")
    monkeypatch.setattr(machine, "OLD_GROUP", tmp_path)
    (tmp_path / "memory.usage_in_bytes").write_text("1000\n")
    (tmp_path / "memory.limit_in_bytes").write_text("5000\n")
    assert machine.free_memory() == 4000
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.free_memory() != 4000


def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    """/proc takes no file from anybody, not even from root."""
    for variable, name, place in (("CELLFEAT_CACHE", "cache", "/proc/1/cache"), ("TMPDIR", "temporary files", "/proc")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, place)
            patch.setattr(doctor.tempfile, "gettempdir", lambda place=place: place)
            found = by_name(doctor.folders)[name]
        assert found.state == PROBLEM
        assert f"{place} cannot be written to: " in found.text
        assert variable in found.remedy
    assert machine.cannot_write(tmp_path / "new" / "deeper") == ""
    assert list(tmp_path.iterdir()) == [], "trying leaves nothing"


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=12e6))
    found = by_name(doctor.folders)["cache"]
    assert (found.state, found.text) == (PROBLEM, f"{tmp_path} has only 12.0 MB left")


def test_damaged_and_absent_weights(monkeypatch, tmp_path):
    shipped = installed().named_weights()["cell-tiny-v1"]
    copy = tmp_path / "weights.safetensors"
    shutil.copy(shipped.path, copy)
    named = {
        "sound": NamedWeights("sound", shipped.digest, path=copy),
        "away": NamedWeights("away", shipped.digest, path=tmp_path / "away.pt"),
        "later": NamedWeights("later", shipped.digest, urls=("https://example.org/w.pt",)),
    }
    monkeypatch.setattr(Registry, "named_weights", lambda registry: named)
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    found = by_name(doctor.weights)
    assert found["weights sound"].state == OK
    assert (found["weights away"].state, "reinstall" in found["weights away"].text) == (PROBLEM, True)
    assert found["weights to download"].text.startswith("later: ")
    with copy.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    damaged = by_name(doctor.weights)["weights sound"]
    assert damaged.state == PROBLEM
    assert str(copy) in damaged.text
    assert damaged.remedy == "pip install --force-reinstall cellfeat"


def test_switched_off_downloads_are_told_of(monkeypatch):
    monkeypatch.setattr(Registry, "named_weights", lambda registry: {})
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    assert only(doctor.weights) == Finding(
        "downloads", NOTE, "are switched off by CELLFEAT_OFFLINE", "unset CELLFEAT_OFFLINE"
    )
    monkeypatch.delenv("CELLFEAT_OFFLINE")
    assert only(doctor.weights).state == OK


def test_a_plugin_that_does_not_load_comes_with_reason_and_remedy(monkeypatch):
    broken = [
        Broken("mine", "my-plugin", "ImportError: no torchx (mine.py, line 3)", "pip install torchx"),
        Broken("mine", "my-plugin", "reads is no list", "tell the author", method="half", slot="align"),
    ]
    monkeypatch.setattr("cellfeat.registry.installed", lambda: Registry(broken=broken, left_out=["cae"]))
    first, second, third, last = doctor.plugins()
    assert first == Finding(
        "plugin",
        PROBLEM,
        "mine of my-plugin did not load: ImportError: no torchx (mine.py, line 3)",
        "pip install torchx",
    )
    assert "method half did not load: reads is no list" in second.text
    assert (third.state, third.text) == (NOTE, "cae, by CELLFEAT_PLUGINS or -p")
    assert last.state == PROBLEM  # there is nothing that could run


def test_optional_packages_that_are_absent_come_with_the_command(monkeypatch):
    known = {name for name, _ in OPTIONAL.values()} - {"umap-learn", "s3fs"}
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name in known else "")
    found = by_name(doctor.extras)
    assert found["extra report"] == Finding(
        "extra report", NOTE, "umap-learn absent", 'for what needs it: pip install "cellfeat[report]"'
    )
    assert found["extra cloud"].text == "s3fs absent, gcsfs 1.0, adlfs 1.0"
    assert found["extra onnx"].state == OK


def test_the_terminal_and_its_encoding(monkeypatch):
    def stream(encoding, terminal):
        return SimpleNamespace(encoding=encoding, isatty=lambda: terminal, fileno=lambda: 1)

    monkeypatch.setattr(doctor.sys, "stdout", stream("ANSI_X3.4-1968", False))
    first, second = doctor.terminal()
    assert (first.what, first.state) == ("encoding", NOTE)
    assert second.text.startswith("none: the output goes into a pipe")
    monkeypatch.setattr(doctor.sys, "stdout", stream("UTF-8", True))
    for columns, state in ((40, NOTE), (120, OK)):
        monkeypatch.setattr(doctor.os, "get_terminal_size", lambda descriptor, n=columns: SimpleNamespace(columns=n))
        first, second = doctor.terminal()
        assert (first.state, second.state, second.text.split()[0]) == (OK, state, str(columns))


def test_settings_of_the_environment_and_mistyped_ones(monkeypatch):
    for name in [name for name in os.environ if name.startswith("CELLFEAT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CELLFEAT_CACHE", "/elsewhere")
    monkeypatch.setenv("CELLFEAT_OFLINE", "1")
    found = by_name(doctor.environment)
    assert found["CELLFEAT_OFLINE"].remedy == "did you mean CELLFEAT_OFFLINE?"
    assert "CELLFEAT_CACHE=/elsewhere" in found["environment"].text


def test_the_variables_it_knows_are_those_that_the_sources_read():
    sources = Path(doctor.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "doctor.py")
    import re

    read = set(re.findall(r"\"(CELLFEAT_[A-Z_]+)\"", text)) - {"CELLFEAT_API_VERSION"}  # an attribute of plugins
    assert read <= set(doctor.KNOWN_VARIABLES)
