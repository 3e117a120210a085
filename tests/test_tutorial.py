"""The tutorial "publish an alignment method", every command of it, as a newcomer types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cellfeat.results_folder import read_records

PAGE = Path(__file__).resolve().parent.parent / "docs" / "plugins" / "publish.md"
STEP = re.compile(
    r"(?:<!-- file: (?P<path>\S+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
END = "END-OF-FILE"


def script() -> str:
    """Every command of the page in order; a block under `<!-- file: PATH -->` is written to that file."""
    steps = []
    for step in STEP.finditer(PAGE.read_text()):
        if step["path"]:
            steps.append(f"cat > {step['path']} <<'{END}'\n{step['text']}{END}\n")
        elif step["language"] == "sh":
            steps.append(step["text"])
    return "set -euxo pipefail\n" + "".join(steps)


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Variables of a fresh virtual environment that sees the packages of this one."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "installed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in {"cellfeat": "cellfeat.cli", "pip": "pip._internal.cli.main"}.items():
        command = folder / "bin" / name
        command.write_text(f"#!{folder}/bin/python\nfrom {module} import main\nraise SystemExit(main())\n")
        command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder),
        "CELLFEAT_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "OMP_NUM_THREADS": "1",
    }


def test_from_an_idea_to_a_verified_record(environment, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-c", script()], cwd=work, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    results = work / "cellfeat-robust-z" / "results" / "robust-z"
    own = [record for record in read_records(results) if record["row"] == "robust-z"]
    assert len(own) == 18, "three sources on three laboratories under two seeds"
    assert {record["plugins"]["align:robust-z"] for record in own} == {"cellfeat-robust-z 0.1.0"}
    assert all("doi 10.1080" in record["plugin_facts"]["align:robust-z"]["paper"] for record in own)
    verdicts = {line for line in done.stdout.splitlines() if "robust-z/transfers" in line and "%" in line}
    assert sum("100.00 %" in line and "holds" in line for line in verdicts) == len(own)
