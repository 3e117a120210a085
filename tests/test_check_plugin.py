"""`cellfeat plugins check`: what is looked at, what is told, and with which status it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from typer.testing import CliRunner
from warm_interpreter import warm_interpreter

from cellfeat import cli, registry
from cellfeat.errors import CellfeatError
from cellfeat.testing import checks_of

ROOT = Path(__file__).resolve().parent.parent

GOOD = '''
import numpy as np
from cellfeat import Features, hookimpl

class Mean:
    """Mean colours."""
    image_size, interpolation = 8, "area"
    def __init__(self, scale: float = 1.0, shift: int = 0) -> None:
        self.scale, self.shift = scale, shift
    def encode(self, images):
        return Features(images.float().mean((2, 3)) * self.scale + self.shift)

class Dark:
    """What is dark."""
    def segment(self, images):
        return images.float().mean(1) < 150

@hookimpl
def cellfeat_backbone():
    return {"mean": Mean}

@hookimpl
def cellfeat_segmenter():
    return {"mean": Dark}
'''
FAULTY = """
import gc
from pathlib import Path
import numpy as np
from cellfeat import Cells, Features, SavesState, hookimpl

class Base:
    image_size, interpolation = 8, "area"
    def encode(self, images):
        return Features(images.float().mean((2, 3)))

class WrongShape(Base):
    def encode(self, images):
        return Features(super().encode(images).embedding[:, :, None])

class Writes(Base):
    def encode(self, images):
        Path("last.txt").write_text("seen")
        return super().encode(images)

class Identity(SavesState):
    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, False
    def fit(self, cells, context):
        self.mean_ = cells.pooled.mean(0)
        return self
    def transform(self, cells, context):
        return cells.pooled - self.mean_

class Peeks(Identity):
    # It says that it uses no labels, and looks for them wherever they may still lie.
    def fit(self, cells, context):
        super().fit(cells, context)
        found = [one for one in gc.get_objects() if type(one) is Cells and len(one) == len(cells)]
        labels = [one.label[one.is_target] for one in found if one.is_target.any()]
        sums = [label @ np.arange(len(label)) for label in labels if label.min() >= 0]
        self.mean_ = self.mean_ + np.float32(max(sums, default=0))
        return self

class Beside(Identity):
    # Its checkpoint lies in the working folder.
    def fit(self, cells, context):
        Path("best.json").write_text("{}")
        return super().fit(cells, context)

@hookimpl
def cellfeat_align():
    return {"peeks": Peeks, "writes-beside": Beside, "right": Identity}

class Interrupted(Base):
    def encode(self, images):
        raise KeyboardInterrupt

@hookimpl
def cellfeat_backbone():
    return {"wrong-shape": WrongShape, "writes-everywhere": Writes, "interrupted": Interrupted}
"""


def install(site: Path, name: str, source: str) -> None:
    """A distribution of one module, as pip leaves it."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cellfeat]\n{name} = {module}\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Plugins beside each other: a good one, faulty ones, and three that do not load."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "check-good", GOOD)
    install(folder, "check-faulty", FAULTY)
    install(folder, "check-raises", "raise RuntimeError('no [GPU] here')")
    install(folder, "check-api", f"CELLFEAT_API_VERSION = 99\n{GOOD}")
    return folder


@pytest.fixture(scope="module", autouse=True)
def loaded(site):
    """The registry of the installed plugins and of the site's."""
    shipped = registry.installed().offers  # before the site can be found
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(site))
        points = [point for one in distributions(path=[str(site)]) for point in one.entry_points]
        found = registry.load(points)
        found.offers += shipped
        patched.setattr(registry, "installed", lambda: found)
        with warm_interpreter():
            yield found


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def asked(*arguments: str):
        return CliRunner().invoke(cli.app, ["plugins", "check", *arguments], catch_exceptions=False)

    return asked


def test_a_good_method_is_told_check_by_check(check):
    done = check("mean", "--slot", "backbone", "--set", "scale=2")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "backbone mean, check-good 1.0, scale=2.0"
    assert [line[12:].split()[0] for line in lines[1:20]] == [item.name for item in checks_of("backbone")]
    row = next(line for line in lines if " row-order " in line)
    assert row.startswith("  ok        row-order ")
    assert row.endswith(" s  Images in another order give the same rows in that order")
    assert any(line.startswith("  not asked facts ") and line.endswith("has no `facts`") for line in lines)
    assert lines[-1].startswith("backbone mean: 17 of 19 checks passed, 2 not asked, ")


def test_a_name_is_looked_at_in_every_slot_that_has_it(check):
    done = check("check-good:mean", "--only", "members", "--only", "features", "--only", "shape")
    assert done.exit_code == 0
    headings = [line for line in done.stdout.splitlines() if line.endswith("check-good 1.0")]
    assert headings == ["backbone mean, check-good 1.0", "segmenter mean, check-good 1.0"]
    assert "backbone mean: 2 of 2 checks passed, " in done.stdout
    assert "segmenter mean: 2 of 2 checks passed, " in done.stdout


def test_parameters_go_to_the_methods_that_have_them(check):
    done = check("check-good", "--set", "shift=1", "--set", "backbone.scale=3", "--only", "runs")
    assert done.exit_code == 0
    assert "backbone mean, check-good 1.0, shift=1, scale=3.0\n" in done.stdout
    assert "segmenter mean, check-good 1.0\n" in done.stdout


FAULTS = {
    "peeks": ("align", "hidden-labels", "", ""),
    "writes-beside": (
        "align",
        "scratch",
        "it wrote best.json, outside of its scratch folder",
        "Write into `context.scr",
    ),
    "wrong-shape": (
        "backbone",
        "features",
        "embedding has the shape (3, 3, 1), must be",
        "Return cellfeat.Features with rows",
    ),
    "writes-everywhere": ("backbone", "scratch", "it wrote, moved or removed ", "Write into `context.scratch` alone"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_what_to_do_and_the_status_is_1(name, check):
    slot, fault, text, remedy = FAULTS[name]
    done = check(name)
    assert done.exit_code == 1
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  FAILED ")] == [fault]
    place = done.stdout.index(f"\n{slot} {name}: {fault}: {text}")
    assert done.stdout[place:].splitlines()[2].startswith(f"  what to do: {remedy}")
    assert f"{slot} {name}: 1 of {len(checks_of(slot))} checks failed, " in done.stdout


def test_a_right_method_beside_faulty_ones_passes(check):
    done = check("right")
    assert done.exit_code == 0, done.stdout


def test_all_methods_of_a_plugin_are_looked_at_whatever_one_of_them_does(check):
    done = check("check-faulty", "--only", "features", "--only", "scratch")
    assert done.exit_code == 1
    assert "backbone wrong-shape: features: " in done.stdout
    assert "backbone writes-everywhere: scratch: " in done.stdout
    assert done.stdout.splitlines()[-1] == "Interrupted; what had been found by then is above."


def test_an_interruption_ends_with_what_was_found(check):
    done = check("interrupted", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["complete"], report["passed"]) == (False, False)
    assert [finding["check"] for finding in report["methods"][0]["findings"]] == ["members"]
    assert "backbone interrupted: 1 of 19 checks passed, 18 not reached, " in check("interrupted").stdout


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("check-raises", "check-raises of check-raises did not load: RuntimeError: no [GPU] here", ""),
        ("check-api", "check-api of check-api did not load: ", "API"),
    ],
)
def test_a_plugin_that_did_not_load_is_told_with_its_reason_and_remedy(name, reason, remedy, check):
    done = check(name)
    assert done.exit_code == 1
    first, second = done.stdout.splitlines()
    assert first.startswith(reason)
    assert second.startswith("  what to do: ")
    assert remedy in done.stdout
    report = json.loads(check(name, "--json").stdout)
    assert report["passed"] is False
    assert report["broken"][0]["plugin"] == name
    assert report["broken"][0]["remedy"]


def test_the_report_is_one_json_document(check):
    done = check("mean", "--slot", "segmenter", "--json", "--budget", "30")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert (report["passed"], report["complete"], report["broken"]) == (True, True, [])
    (method,) = report["methods"]
    assert (method["slot"], method["distribution"]) == ("segmenter", "check-good")
    assert [finding["check"] for finding in method["findings"]] == [item.name for item in checks_of("segmenter")]
    assert {finding["passed"] for finding in method["findings"]} == {"passed", "not asked"}
    assert all(finding["remedy"] and finding["promise"] for finding in method["findings"])


def test_a_plugin_that_is_called_as_one_of_its_methods_is_named(check, capsys):
    done = check("classical", "--only", "members")
    assert done.exit_code == 0
    assert "segmenter classical: 1 of 1 checks passed" in done.stdout
    assert "backbone colour" in done.stderr
    assert (
        "backbone colour: 1 of 1 checks passed" in check("classical", "--slot", "backbone", "--only", "members").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mena"], r"no method or plugin named 'mena'\. Did you mean 'mean'.*Not loaded: check-api, check-raises"),
        (["mean", "--slot", "backbones"], r"no slot named 'backbones'\. Did you mean 'backbone'"),
        (["mean", "--slot", "classifier"], r"'mean' has nothing in the slot classifier; it is in: backbone, segmenter"),
        (["mean", "--only", "roworder"], r"no check named 'roworder'\. Did you mean 'row-order'"),
        (["mean", "--set", "scal=2"], r"no parameter of backbone 'mean' named 'scal'\. Did you mean 'scale'"),
        (["mean", "--set", "segmenter.scale=2"], r"no parameter of segmenter 'mean' named 'scale'"),
        (
            ["mean", "--set", "align.scale=2"],
            r"--set align\.scale: no align is looked at, but backbone mean, segmenter",
        ),
        (["mean", "--set", "scale"], r"--set 'scale' is not of the form key=value"),
        (["mean", "--set", "scale=wide"], r"backbone 'mean': scale is 'wide', but must be float"),
    ],
)
def test_a_wrong_question_is_one_clear_line(arguments, message, check):
    with pytest.raises(CellfeatError, match=message):
        check(*arguments)


def test_the_command_ends_with_2_for_a_wrong_question_and_1_for_a_fault(site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (site, ROOT, ROOT / "plugins")))}

    def status(*arguments: str) -> int:
        command = [sys.executable, "-m", "cellfeat", "plugins", "check", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode

    assert status("mena") == 2
    assert status("check-raises") == 1
