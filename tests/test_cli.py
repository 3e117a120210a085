"""The command line as a newcomer meets it: help, typos, bad input, one clear line each."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from cellfeat import cli
from cellfeat.demo import write_demo
from cellfeat.plugin_choice import VARIABLES
from cellfeat.registry import Offer, Registry

HEAVY = ("torch", "sklearn", "xgboost", "timm", "peft", "lance", "segment_anything", "cv2")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Two cells per class and laboratory, 48 px."""
    return write_demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=2, size=48).parent


@pytest.fixture
def cellfeat(monkeypatch, capsys, tmp_path):
    """Run `cellfeat ARGUMENTS` in a folder of its own; gives (exit status, stdout, stderr)."""
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    for name in VARIABLES:  # options go into the environment, which other tests share
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cellfeat", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def one_line(err: str) -> str:
    """The error, which must be one line."""
    lines = [line for line in err.splitlines() if line and not line.startswith("note:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: "), err
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["data", "--help"],
        ["plugins", "list"],
        ["weights", "list"],
        ["plugins", "info", "cae"],
    ],
)
def test_help_and_listings_import_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['cellfeat', *{arguments!r}]\n"
        "from cellfeat import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def helps(command) -> list[str]:
    """Every help text below a command."""
    inside = getattr(command, "commands", {}).values()
    return [one.help or "" for one in command.params] + [text for one in inside for text in helps(one)]


def test_no_help_text_is_taken_for_markup(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cellfeat", "lora-sam"])
    cli.add_plugin_commands(["lora-sam"])
    texts = helps(typer.main.get_command(cli.app))
    assert len(texts) > 80
    assert not [text for text in texts if re.search(r"(?<!\\\\)\[[a-z/]", text)], "Rich would leave it out; escape it"


def commands(command) -> list:
    """A command and all that are below it."""
    return [command, *(one for below in getattr(command, "commands", {}).values() for one in commands(below))]


def test_a_paragraph_of_help_is_folded_by_the_terminal_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cellfeat", "lora-sam"])
    cli.add_plugin_commands(["lora-sam"])
    found = commands(typer.main.get_command(cli.app))
    assert {"smear", "review", "correct", "train-detector"} <= {one.name for one in found}
    assert not [one.name for one in found if "\n" in (one.help or "").replace("\n\n", "")]


def test_help_names_every_command(cellfeat):
    code, out, _ = cellfeat("--help")
    assert code == 0
    for name in ("run", "extract", "transform", "predict", "smear", "review", "data", "plugins", "weights", "lora-sam"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--align", "cea"], ["no align named 'cea'", "Did you mean 'tca' or 'cae'?", "per-domain-z"]),
        (["run", "--clf", "svm"], ["no classifier named 'svm'", "svm-linear"]),
        (["run", "--backbone", "lora_sam"], ["no backbone named 'lora_sam'", "'lora-sam'"]),
        (["run", "--set", "align.epoch=3"], ["no parameter of align 'cae' named 'epoch'", "Did you mean 'epochs'"]),
        (["run", "--set", "align.epochs=many"], ["align 'cae': epochs is 'many', but must be int"]),
        (["run", "--set", "align.epochs"], ["not of the form section.key=value"]),
        (["run", "--set", "aline.epochs=3"], ["no section named 'aline'", "'align'"]),
        (["run", "--align", "cae,per-domain-z", "--set", "align.epochs=3"], ["say which of the aligners"]),
        (["run", "--adapt", "tset"], ["adapt", "'none', 'test' or 'heldout'"]),
        (["run", "--folds", "1"], ["folds", "greater than or equal to 2"]),
        (["run", "--folds", "0"], ["folds", "greater than or equal to 2"]),
        (["run", "--seed", "-5"], ["seeds", "greater than or equal to 0"]),
        (["run", "--align", "per-domain-z,cae"], ["'cae' reads map, crop, mask and not the vectors"]),
        (["run", "--recipe", "dmeo"], ["no recipe named 'dmeo'", "'demo'"]),
        (["run", "--data", "absent.csv"], ["absent.csv", "no such manifest"]),
        (["run", "--data", "."], ["folder", "cellfeat data index"]),
        (["run", "--device", "cuda:99"], ["cuda:99"]),
        (["run", "--device", "gpu"], ["no device named 'gpu'"]),
        (["run", "--precision", "fp8"], ["no precision named 'fp8'"]),
        (["extract", "absent.csv", "-o", "features.txt"], ["must end in .parquet or .h5ad"]),
        (["predict", "absent", "image.png"], ["absent is no run folder"]),
        (["plugins", "info", "nothing"], ["no method named 'nothing'"]),
        (["weights", "fetch", "vit_c"], ["vit_c", "vit_b"]),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(cellfeat, arguments, parts):
    code, out, err = cellfeat(*arguments)
    assert code == 2
    line = one_line(err)
    for part in parts:
        assert part in line
    assert not out
    assert not Path("runs").exists()


def test_a_form_without_its_package_is_refused_before_anything_is_read(cellfeat, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    code, _, err = cellfeat("extract", "absent.csv", "-o", "features.h5ad")
    assert (code, 'pip install "cellfeat[anndata]"' in one_line(err)) == (2, True)


def test_a_mistyped_command_or_option_is_told_the_nearest(cellfeat):
    code, _, err = cellfeat("rnu")
    assert code == 2
    assert "run" in err
    code, _, err = cellfeat("run", "--algin", "cae")
    assert code == 2
    assert "--align" in err


def bad_manifest(folder: Path, drawn: Path, name: str) -> Path:
    """A manifest whose last row is bad in one way."""
    rows = (drawn / "manifest.csv").read_text().splitlines()
    header, rows = rows[0].split(",")[:5], [row.split(",")[:5] for row in rows[1:]]
    for row in rows:
        row[1] = str(drawn / row[1])
        row[4] = str(drawn / row[4])
    image = folder / f"{name}.png"
    if name == "text":
        image.write_text("not an image")
    elif name == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "x.jpg")
        image.write_bytes((folder / "x.jpg").read_bytes()[:900])
    elif name == "bomb":
        Image.new("1", (20_000, 20_000)).save(image)
    bad = ["zz", str(image), "monocyte", "lab-c", ""]
    if name == "duplicate":
        bad = rows[-1]
    elif name == "unknown-label":
        bad = ["zz", rows[-1][1], "monocite", "lab-c", ""]
    path = folder / "bad.csv"
    path.write_text("\n".join(",".join(row) for row in [header, *rows, bad]) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("text", "text.png"),
        ("truncated", "truncated"),
        ("bomb", "20000 x 20000 pixels"),
        ("missing", "no such file"),
        ("duplicate", "ids must be unique"),
        ("unknown-label", "Did you mean 'monocyte'"),
    ],
)
def test_bad_data_stops_before_any_work_and_skip_bad_goes_on(cellfeat, drawn, tmp_path, name, part):
    path = bad_manifest(tmp_path, drawn, name)
    arguments = ["run", "--data", path, "--labels", "five-class", "--backbone", "colour", "--clf", "lr", "--folds", "2"]
    code, _, err = cellfeat(*arguments, "--out", "out")
    assert code == 2
    assert part in one_line(err)
    assert not Path("out").exists()
    assert not (tmp_path / "cache" / "stores").exists()
    code, out, _ = cellfeat(*arguments, "--out", "out", "--skip-bad", "--source", "lab-a")
    assert code == 0
    assert "lab-a → lab-b" in out
    assert part in Path("out/skipped.csv").read_text()


def test_the_first_hour(cellfeat, drawn):
    """Index, merge, describe, run, predict, and what a second attempt says."""
    for lab in ("lab-a", "lab-b"):
        for image in (drawn / "images").glob(f"{lab}_*"):
            folder = Path("ward") / lab / image.name.split("_")[1]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / image.name).write_bytes(image.read_bytes())
        code, _, err = cellfeat("data", "index", "folders", f"ward/{lab}", "--domain", lab, "--out", f"{lab}.csv")
        assert code == 0, err
    assert cellfeat("data", "merge", "lab-a.csv", "lab-b.csv", "--out", "both.csv")[0] == 0
    code, out, _ = cellfeat("data", "info", "both.csv")
    assert code == 0
    assert "lab-b" in out
    arguments = ["run", "--data", "both.csv", "--backbone", "colour", "--folds", "2", "--out", "first"]
    code, out, err = cellfeat(*arguments)
    assert code == 0, err
    assert "colour · none · svm-linear" in out
    assert "Next: cellfeat predict first IMAGES --source lab-a" in err
    assert "\x1b" not in out + err, "control characters in a pipe"
    code, _, err = cellfeat(*arguments)
    assert code == 2
    assert "never overwritten" in one_line(err)
    code, out, err = cellfeat("predict", "first", drawn / "images", "--source", "lab-a", "-o", "answers.csv")
    assert code == 0, err
    assert len(Path("answers.csv").read_text().splitlines()) == 31
    empty = Path("empty")
    empty.mkdir()
    code, _, err = cellfeat("predict", "first", empty, "--source", "lab-a", "-o", "more.csv")
    assert code == 2
    assert "no images in this folder" in one_line(err)


def test_one_laboratory_alone_is_tested_on_itself_and_told_so(cellfeat, drawn):
    rows = (
        (drawn / "manifest.csv").read_text().replace("images/", f"{drawn}/images/").replace("masks/", f"{drawn}/masks/")
    )
    alone = [line for line in rows.splitlines() if line.startswith("id,") or ",lab-a," in line]
    Path("alone.csv").write_text("\n".join(alone) + "\n")
    arguments = ["run", "--data", "alone.csv", "--backbone", "colour", "--align", "per-domain-z", "--folds", "2"]
    code, out, err = cellfeat(*arguments, "--out", "alone", "--no-pictures")
    assert code == 0, err
    assert "lab-a (held-out folds)" in out
    assert "→ lab" not in out.replace("majority class → lab-a", "")
    assert "all cells are lab-a's: tested on its own held-out folds alone" in err
    assert "Next: cellfeat predict alone IMAGES --refit -o predictions.csv" in err
    assert cellfeat("report", "alone")[0] == 0
    assert cellfeat("predict", "alone", drawn / "images", "--refit")[0] == 0
    for protocol in ("leave-one-domain-out", "few-shot"):
        code, _, err = cellfeat(*arguments, "--set", f"protocol.name={protocol}", "--out", protocol)
        assert code == 2
        assert "all 10 cells belong to the domain 'lab-a'; comparisons between laboratories need at least two" in err


def test_the_version_is_the_distribution_s(cellfeat):
    assert cellfeat("--version") == (0, f"cellfeat {importlib.metadata.version('cellfeat')}\n", "")


def test_a_name_in_one_slot_of_one_distribution_is_told_of(cellfeat, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align():\n    return {'otsu': lambda: None}\n"
    )
    code, out, _ = cellfeat("plugins", "info", "mine.py:otsu", "--plugins-dir", tmp_path / "mine.py")
    assert (code, out.splitlines()[0].startswith("align otsu, mine.py ")) == (0, True)
    code, out, _ = cellfeat("plugins", "info", "cellfeat:otsu")
    assert (code, out.startswith("segmenter otsu, cellfeat ")) == (0, True)


def test_a_default_that_is_made_anew_is_shown_as_what_it_is(cellfeat, monkeypatch):
    @dataclass
    class Listed:
        sizes: tuple[int, ...] = field(default_factory=lambda: (4, 2))

    offers = [Offer("align", "listed", Listed, "plugin", "dist", "1")]
    monkeypatch.setattr("cellfeat.registry.installed", lambda: Registry(offers))
    code, out, err = cellfeat("plugins", "info", "listed")
    assert code == 0, err
    [line] = [line for line in out.splitlines() if "align.sizes" in line]
    assert "(4, 2)" in line


def offer_commands(monkeypatch, tmp_path, **sources: str) -> None:
    """Command plugins of one module each, in place of the installed ones."""
    points = []
    for name, source in sources.items():
        module = f"commands_{name}_{tmp_path.name}"
        (tmp_path / f"{module}.py").write_text(source)
        points.append(EntryPoint(name, f"{module}:app", "cellfeat.commands"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    monkeypatch.setattr(
        cli.app, "registered_groups", [group for group in cli.app.registered_groups if group.name in cli.CORE]
    )
    monkeypatch.setattr("cellfeat.console._said", set())


@pytest.mark.parametrize("name", ["run", "extract", "transform", "predict", "data", "plugins", "weights"])
def test_a_plugins_command_replaces_none_of_the_core(cellfeat, monkeypatch, tmp_path, name):
    offer_commands(monkeypatch, tmp_path, **{name: "raise AssertionError('it was imported')"})
    code, out, err = cellfeat(name, "--help")
    assert code == 0
    assert "Commands of the plugin" not in out + cellfeat("--help")[1]
    assert f"note: command {name!r} of an unknown distribution is left out" in err


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import sys; sys.exit('needs a licence')", "SystemExit: needs a licence"),
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
    ],
)
def test_a_plugins_command_that_does_not_load_is_one_line(cellfeat, monkeypatch, tmp_path, source, reason):
    offer_commands(monkeypatch, tmp_path, stain=source)
    code, _, err = cellfeat("stain", "normalise")
    assert code == 2
    assert one_line(err).startswith(f"error: command 'stain' of an unknown distribution did not load: {reason}; ")
    assert re.search("; (tell the author|install what it imports)", one_line(err))
    assert cellfeat("--help")[0] == 0


def test_a_place_that_cannot_be_written_to_is_one_line_with_the_path(cellfeat, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = cellfeat("data", "demo", tmp_path / "file" / "demo", "--per-class", 1, "--size", 32)
    assert code == 2
    assert str(tmp_path / "file") in one_line(err)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), "error: /runs/a: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", b"/runs/[a]"), "error: /runs/[a]: Permission denied"),
        (OSError(errno.EXDEV, "Cross-device link", "/a", None, "/b"), "error: /a -> /b: Cross-device link"),
        (OSError("lance: io error,\nsee above"), "error: lance: io error, see above"),
        (TimeoutError(), "error: TimeoutError"),
    ],
)
def test_what_the_system_refuses_is_one_line(cellfeat, monkeypatch, error, line):
    def refused(*arguments):
        raise error

    monkeypatch.setattr("cellfeat.demo.write_demo", refused)
    code, _, err = cellfeat("data", "demo", "demo")
    assert (code, one_line(err)) == (2, line)


def test_a_reader_that_has_gone_is_no_error(cellfeat, monkeypatch):
    def refused(*arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("cellfeat.demo.write_demo", refused)
    assert cellfeat("data", "demo", "demo") == (1, "", "")
    monkeypatch.setattr(cli, "add_plugin_commands", refused)
    assert cellfeat("data", "demo", "demo") == (1, "", "")


def test_random_resnext_weights_must_be_asked_for(cellfeat, drawn, monkeypatch):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    code, _, err = cellfeat("run", "--data", drawn / "manifest.csv", "--backbone", "resnext50", "--folds", "2")
    assert code == 2
    assert "weights=random" in one_line(err)
    assert "weights fetch" in one_line(err)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(drawn, tmp_path):
    """A real signal to a real process, in the middle of its work."""
    import signal
    import time

    environment = {**os.environ, "CELLFEAT_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "cellfeat.cli", "run", "--data", str(drawn / "manifest.csv")]
    command += ["--backbone", "lora-sam", "--align", "cae", "--folds", "2", "--out", "stopped"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts tests in the background has them, and their children, ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(600):
        if (tmp_path / "cache" / "scratch" / "run").is_dir() and any(
            (tmp_path / "cache" / "scratch" / "run").iterdir()
        ):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"\n  {shlex.join(['cellfeat', *command[3:]])}\n" in err, "the command to go on with, to be copied"
    assert "Kept: every image that was encoded" in err
    assert "Traceback" not in err
    assert not (tmp_path / "stopped").exists()


def test_seed_0_is_a_seed(cellfeat, drawn):
    arguments = ["--backbone", "colour", "--folds", "2", "--source", "lab-a", "--target", "lab-b", "--seed", "0"]
    code, _, err = cellfeat("run", "--data", drawn / "manifest.csv", *arguments, "--out", "out")
    assert code == 0, err
    assert "seeds:\n  - 0\n" in Path("out/recipe.yaml").read_text()


def test_a_segmenter_that_changes_nothing_is_refused(cellfeat, drawn):
    arguments = ["--backbone", "colour", "--segmenter", "otsu", "--folds", "2"]
    code, _, err = cellfeat("run", "--data", drawn / "manifest.csv", *arguments)
    assert code == 2
    assert "leave --segmenter out" in err


def test_every_backbones_weights_are_listed_with_what_they_have_seen(cellfeat, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    code, out, _ = cellfeat("weights", "list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert {"cell-tiny", "vit_b_lm", "resnext50", "dinov2-s", "dinov2-g-reg", "dinobloom-l"} < set(rows)
    assert set(rows["dinov2-b"]) == {"name", "size_mb", "licence", "saw", "path", "digest", "card"}
    assert (rows["dinov2-b"]["saw"], rows["dinov2-b"]["path"]) == (["LVD-142M"], None)
    assert rows["dinov2-b"]["digest"].startswith("sha256:0b8b82f8")
    assert (rows["dinobloom-l"]["saw"], rows["dinobloom-l"]["digest"]) == (None, None)  # not known; the hub's
    assert rows["cell-tiny"]["path"].endswith("cell-tiny-v1.safetensors")
    code, out, _ = cellfeat("weights", "list")
    assert code == 0
    for text in ("has seen", "not known", "LVD-142M", "the hub's", "dinobloom-g", "sha256:e592ac54…"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 160, "the whole is in --json"


def test_weights_of_the_hub_are_fetched_and_verified_by_their_names(cellfeat, tmp_path, monkeypatch):
    blob = tmp_path / hashlib.sha256(b"weights").hexdigest()

    def download(repository, name, local_files_only=False):
        assert (repository, name) == ("MarrLab/DinoBloom", "pytorch_model_b.bin")
        if local_files_only and not blob.exists():
            raise FileNotFoundError
        blob.write_bytes(blob.read_bytes() if blob.exists() else b"weights")
        return str(blob)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    code, _, err = cellfeat("weights", "verify", "dinobloom-b")
    assert code == 2
    assert "cellfeat weights fetch dinobloom-b" in one_line(err)
    assert cellfeat("weights", "fetch", "dinobloom-b")[0] == 0
    code, out, err = cellfeat("weights", "verify", "dinobloom-b")
    assert code == 0
    assert "dinobloom-b" in out + err
    assert "is intact" in out + err
    blob.write_bytes(b"damaged")
    code, _, err = cellfeat("weights", "verify", "dinobloom-b")
    assert (code, "is damaged" in one_line(err)) == (2, True)


def test_a_balanced_classifier_by_the_command_line(cellfeat, drawn):
    methods = ("--backbone", "colour", "--align", "none", "--clf", "lr", "--folds", "2", "--no-pictures")
    arguments = ("--data", drawn / "manifest.csv", *methods)
    code, _, err = cellfeat("run", *arguments, "--set", "classifier.class_weight=balanced", "--out", "balanced")
    assert code == 0, err
    recipe = yaml.safe_load(Path("balanced/recipe.yaml").read_text())
    assert recipe["classifier"]["class_weight"] == "balanced"
    code, _, err = cellfeat("run", *arguments, "--set", "classifier.class_weight=equal")
    assert code == 2
    assert "class_weight is 'equal', but must be Literal['none', 'balanced']" in one_line(err)
