"""`cellfeat info`: artifacts of ours are known by what stands in them; damaged and foreign ones are one line."""

from __future__ import annotations

import csv
import json
import pickle
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from cellfeat_lora_sam import described
from helpers import cache_in
from PIL import Image

from cellfeat import CellfeatError, artifact_info, cli, recipe, use
from cellfeat.artifact_files import HEADER
from cellfeat.artifact_info import describe
from cellfeat.console import SilentReporter
from cellfeat.conversion import convert
from cellfeat.demo import write_demo
from cellfeat.registry import installed
from cellfeat.run import run
from cellfeat.workplace import Workplace

ROOT = Path(__file__).resolve().parent.parent
CLASSIFIER = [  # `lr`, as it is saved
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.StandardScaler",
]
WEIGHTS = ROOT / "plugins" / "cellfeat_lora_sam" / "weights" / "cell-tiny-v1.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with what the commands leave."""
    folder = tmp_path_factory.mktemp("made")
    manifest = write_demo(folder / "demo", per_class=4, size=32)
    with cache_in(folder / "cache"):
        work = Workplace(installed(), SilentReporter(), "cpu")
        parts = {"backbone": {"name": "colour", "bins": 3}, "align": {"name": "per-domain-z"}}
        content = {"dataset": {"manifest": str(manifest)}, **parts, "classifier": {"name": "lr"}}
        chosen = recipe.parse({**content, "protocol": {"folds": 2, "source": ["lab-a"]}})
        use.extract(chosen, folder / "features.parquet", work)
        run(chosen, folder / "run 1", work, pictures=False)
        use.transform(folder / "run 1", str(manifest), folder / "aligned.h5ad", None, False, work)
        shots = [next((manifest.parent / "images").glob("lab-a*"))]
        use.predict(folder / "run 1", shots, folder / "predictions.csv", "lab-a", None, False, work)
        ward, shares = folder / "ward", folder / "shares.csv"
        (ward / "p-1").mkdir(parents=True)
        shutil.copy(shots[0], ward / "p-1")
        use.predict(folder / "run 1", [ward], folder / "p.csv", "lab-a", None, False, work, shares)
        convert(folder / "features.parquet", str(folder / "store"))
    return _with_others(folder)


def _with_others(folder: Path) -> Path:
    shutil.copytree(folder / "run 1", folder / "run-2.partial-0a1b2c3d")
    shutil.rmtree(folder / "run-2.partial-0a1b2c3d" / "pipelines")
    adapter = folder / "adapter"
    (adapter / described.LORA).mkdir(parents=True)
    (adapter / described.DECODER).write_bytes(b"")
    about = {"base": "cell-tiny-v1", "base_sha256": "ab", "saw": ["lab-a (masks: truth)"], "settings": {"epochs": 3}}
    (adapter / described.ABOUT).write_text(json.dumps(about))
    (folder / "labels.yaml").write_text("classes: [white, red]\nmap: {lymphocyte: white, rbc: red, platelet: null}\n")
    (folder / "plain.yaml").write_text("lymphocyte: white\nrbc: red\nplatelet: null\n")
    draft = 'classes: [white, red]\nmap:\n  "l": white  # 3 cells\n  "q": null  # EDIT: 2 cells; write its class\n'
    (folder / "draft.yaml").write_text(f'{draft}  "r": red  # EDIT: 1 cell; decided since\n  "s": null  # 1 cell\n')
    (folder / "words.csv").write_text("id,path,label,domain\na,a.png,Lymphos,one\n")
    (folder / "hidden.csv").write_text("id,path,label,domain\na,a.png,,one\n")
    shutil.copytree(folder / "ward", folder / "levels" / "lymphocyte")
    (folder / "recipe.yaml").write_text("dataset: {manifest: cells.csv}\nalign: [{name: cae}, {name: coral}]\n")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "mine.py").write_text("raise SystemExit('it ran')\ndef cellfeat_align(): return {}\n")
    (folder / "photo").write_bytes(next((folder / "demo" / "images").iterdir()).read_bytes())
    Image.new("RGBA", (4, 6), (10, 20, 30, 128)).save(folder / "glass.png")
    failure = {"address": "a", "source": "lab-a", "error": "no"}
    (folder / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    (folder / "wards").mkdir()
    shutil.copytree(folder / "demo" / "images", folder / "wards" / "lymphocyte")
    return folder


KNOWN = {
    "demo/manifest.csv": ("manifest", {"images": 60, "optional columns": ["mask_path"]}),
    "demo": ("folder of images", {"images in folders": {"images": 60, "masks": 60}}),
    "wards": ("folder of images", {"images in folders": {"lymphocyte": 60}}),
    "wards/lymphocyte": ("folder of images", {"images": 60}),
    "features.parquet": ("feature file", {"features": "pooled", "cells": 60, "backbone": "colour"}),
    "aligned.h5ad": ("feature file", {"features": "aligned", "pipeline": "lab-a", "backbone": "colour"}),
    "predictions.csv": ("predictions of `cellfeat predict`", {"images": 1}),
    "shares.csv": (
        "class shares of `cellfeat predict --per-group`",
        {"groups": 1, "cells": 1, "classes": ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]},
    ),
    "levels": ("folder of images", {"images in folders": {"lymphocyte": 1}}),
    "run 1/pipelines": ("pipelines of a run, one for each source", {"pipelines": ["lab-a"]}),
    "run 1/observations": ("what a run keeps for its report", {}),
    "draft.yaml": ("label vocabulary", {"classes": ["white", "red"], "labels": 4, "left out": 1, "undecided": 1}),
    "store": ("store of encoded images", {"images": {"pooled": 60}}),
    "run 1": ("run", {"pipelines": ["lab-a"], "records": 3, "align": ["per-domain-z"], "classifier": "lr"}),
    "run-2.partial-0a1b2c3d": ("run that was interrupted", {"records": 3, "pipelines": []}),
    "run 1/pipelines/lab-a": ("pipeline of one source", {"fitted on": ["lab-a", "lab-b", "lab-c"]}),
    "run 1/pipelines/lab-a/align-0": ("fitted method", {"arrays": 6, "parameters": {}}),
    "run 1/records.jsonl": ("records", {"records": 3}),
    "run 1/predictions.parquet": ("predictions of a run", {"rows": 100}),
    "run 1/recipe.yaml": ("recipe of a run", {"backbone": "colour", "protocol": "cross-domain, adapt test"}),
    "run 1/skipped.csv": ("list of images that --skip-bad left out", {"images": 0}),
    "run 1/observations/features.parquet": ("cells that results or a report are about, without features", {}),
    "run 1/pipelines/lab-a/classifier.skops": ("fitted classifier", {}),
    "run 1/pipelines/lab-a/confidence.json": ("how far a pipeline's probabilities can be trusted", {}),
    "run 1/pipelines/lab-a/reference.json": ("what the cells look like that", {"laboratories": ["lab-a"]}),
    "run 1/pipelines/lab-a/reference.safetensors": ("what the cells look like that a pipeline learnt from", {}),
    "run 1/pipelines/lab-a/align-0/state.safetensors": ("arrays of a fitted method", {"tensors": 6}),
    "cache": ("cache of encoded images", {}),
    "cache/stores": ("cache of encoded images", {}),
    "adapter": ("adapter of lora-sam", {"base": "cell-tiny-v1", "saw": ["lab-a (masks: truth)"]}),
    "labels.yaml": ("label vocabulary", {"classes": ["white", "red"], "labels": 3, "left out": 1, "undecided": 0}),
    "plain.yaml": ("label vocabulary", {"classes": ["red", "white"]}),
    "recipe.yaml": ("recipe of a run", {"align": ["cae", "coral"], "backbone": "lora-sam"}),
    "plugins/mine.py": ("plugin as a single file", {"name": "mine", "offers": ["align"]}),
    "plugins": ("folder of plugins", {"offers": {"mine.py": ["align"]}}),
    "photo": ("image", {"format": "PNG", "mode": "RGB", "size, px": "32 x 32"}),
    "glass.png": ("image", {"mode": "RGBA", "read as": "8-bit RGB, 4 x 6 px, upright"}),
    "failures.jsonl": ("failures of a suite", {"fits": 1}),
}
SHIPPED = {
    "benchmarks/suites/laboratories.yaml": ("benchmark suite", {"name": "laboratories", "seeds": [1, 2, 3]}),
    "benchmarks/results/laboratories": ("results of a suite", {"failures": 0}),
    "docs/report/index.html": ("report of a run", {}),
    "docs/leaderboard/index.html": ("leaderboard", {}),
    "docs/examples/cellfeat-combat": ("repository of a plugin", {"entry points": {"combat": "cellfeat_combat"}}),
    "plugins/cellfeat_da": ("folder of plugins", {"offers": {"__init__.py": ["align"]}}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_commands_leave_is_known(made, name):
    check(describe(made / name), *KNOWN[name])


@pytest.mark.parametrize("name", SHIPPED)
def test_what_the_repository_has_is_known(name):
    check(describe(ROOT / name), *SHIPPED[name])


def check(found, kind: str, facts: dict) -> None:
    assert found.kind.startswith(kind)
    assert {key: found.facts[key] for key in facts} == facts
    json.dumps(found._asdict(), allow_nan=False)
    for command in found.next:
        assert is_command(shlex.split(command)), command


def is_command(words: list[str]) -> bool:
    """Whether there is such a command with such options."""
    if words[:2] == ["pip", "install"]:
        return True
    program, *rest = words
    command = typer.main.get_command(cli.app)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    used = {word.partition("=")[0] for word in rest if word.startswith("-")}
    return program == "cellfeat" and not hasattr(command, "commands") and used <= options | {"--plugins-dir"}


def test_the_next_command_is_about_this_artifact(made):
    folder = shlex.quote(str(made / "run 1"))
    predict = "IMAGES --refit -o predictions.csv"
    assert describe(made / "run 1").next == (f"cellfeat report {folder}", f"cellfeat predict {folder} {predict}")
    pipeline = shlex.quote(str(made / "run 1" / "pipelines" / "lab-a"))
    assert describe(made / "run 1" / "pipelines" / "lab-a").next == (
        f"cellfeat predict {pipeline} {predict}",
        f"cellfeat transform {pipeline} cells.csv --refit -o f.h5ad",
    )
    assert describe(made / "run 1" / "pipelines").next[0] == f"cellfeat predict {pipeline} {predict}"
    assert describe(made / "run 1" / "observations").next == (f"cellfeat report {folder}",)
    assert describe(made / "words.csv").next[0].startswith(f"cellfeat data labels {made}/words.csv --to five-class")
    assert describe(made / "hidden.csv").next == (f"cellfeat predict RUN {made}/hidden.csv",)
    assert describe(made / "demo" / "manifest.csv").next[1].endswith("demo/manifest.csv --labels five-class")
    assert "--levels class/patient" in describe(made / "levels").next[0]
    assert describe(made / "demo").next == (f"cellfeat info {made}/demo/manifest.csv",)
    assert describe(made / "wards").next[0].startswith(f"cellfeat data index folders {made}/wards --domain wards")
    assert f"cellfeat convert {made}/features.parquet cache" in describe(made / "features.parquet").next
    assert not any(command.endswith("cache") for command in describe(made / "aligned.h5ad").next)
    assert f"--recipe {made}/run-2.partial-0a1b2c3d/recipe.yaml" in describe(made / "run-2.partial-0a1b2c3d").next[0]
    assert describe(made / "run-2.partial-0a1b2c3d").next[0].endswith(f"--out {made}/run-2")
    assert list(describe(made / "cache").facts["stores"].values()) == ["colour"]
    assert describe(made / "run 1" / "pipelines" / "lab-a" / "classifier.skops").facts["objects"] == CLASSIFIER
    assert f"--set backbone.adapter={made}/adapter" in describe(made / "adapter").next[0]


def onnx_file(path: Path, said: dict[str, str]) -> Path:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, said)
    onnx.save(model, path)
    return path


def test_an_exported_backbone_is_known_by_its_metadata(tmp_path, monkeypatch):
    path = onnx_file(tmp_path / "cell.onnx", {"cellfeat_version": "1", "backbone": "lora-sam", "image_size": "224"})
    check(describe(path), "backbone as ONNX", {"backbone": "lora-sam", "image_size": "224"})
    with pytest.raises(CellfeatError, match="not a file that cellfeat knows"):
        describe(onnx_file(tmp_path / "other.onnx", {}))
    (tmp_path / "bad.onnx").write_bytes(b"mine")
    with pytest.raises(CellfeatError, match="is not read by onnxruntime"):
        describe(tmp_path / "bad.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CellfeatError, match=r"reading an ONNX file needs onnxruntime.*cellfeat\[onnx\]"):
        describe(path)


def test_a_shared_folder_is_known_and_checked(made, tmp_path):
    from cellfeat.hub import push
    from cellfeat.sharing import Wishes

    about = {"classes": ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]}
    pipeline = made / "run 1" / "pipelines" / "lab-a"
    push(pipeline, "me/x", Wishes(), installed(), dry_run=True, out=tmp_path / "pipeline")
    check(describe(tmp_path / "pipeline"), "shared pipeline", about)
    estimator = shutil.copytree(pipeline, tmp_path / "estimator")
    saved = json.loads((estimator / "pipeline.json").read_text())
    saved["facts"] = {"made_by": "CellFeatures"}
    (estimator / "pipeline.json").write_text(json.dumps(saved))
    assert describe(estimator).next == (f"cellfeat transform {estimator} cells.csv -o f.h5ad",)
    with pytest.raises(CellfeatError, match=r"was saved by CellFeatures in Python, .* it is not shared"):
        push(estimator, "me/x", Wishes(), installed(), dry_run=True)
    push(pipeline / "align-0", "me/x", Wishes(), installed(), dry_run=True, out=tmp_path / "method")
    check(describe(tmp_path / "method"), "shared method", {"files": 2})
    (tmp_path / "method" / "state.json").write_text("{}")
    with pytest.raises(CellfeatError, match=r"state\.json has the sha256 .* damaged"):
        describe(tmp_path / "method")


def test_named_weights_are_known_by_their_content_whatever_they_are_called(tmp_path):
    shutil.copy(WEIGHTS, tmp_path / "colleague.safetensors")
    found = describe(tmp_path / "colleague.safetensors")
    assert found.kind == "named weights"
    assert found.facts["known as"] == ["cell-tiny", "cell-tiny-v1"]
    assert found.facts["says"]["build"] == "tiny"
    assert found.facts["numbers"] > 4_000_000
    assert "--backbone lora-sam --set backbone.weights=cell-tiny-v1" in found.next[0]


def test_a_large_file_under_another_digest_is_known_too(tmp_path, monkeypatch):
    import pooch

    from cellfeat import NamedWeights, artifact_files
    from cellfeat.registry import Offer, Registry

    (tmp_path / "x.pth").write_bytes(b"0" * 1_000_000)
    digest = "xxh128:" + pooch.file_hash(str(tmp_path / "x.pth"), alg="xxh128")

    def factory():
        raise AssertionError("nothing is built")

    factory.named_weights = {
        "far": NamedWeights("far", digest, size_mb=2.0),
        "near": NamedWeights("near", digest, size_mb=1.0),
    }

    monkeypatch.setattr(
        artifact_files, "installed", lambda: Registry([Offer("backbone", "mine", factory, "p", "d", "1")])
    )
    found = describe(tmp_path / "x.pth")
    assert found.facts["known as"] == ["near"]
    assert "--backbone mine --set backbone.weights=near" in found.next[0]


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_no_code_of_a_checkpoint_is_run(tmp_path):
    bomb = Bomb()
    bomb.path = str(tmp_path / "ran")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(bomb))
        archive.writestr("x/data/0", b"1234")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(bomb))
    found = describe(tmp_path / "x.pth")
    assert (found.kind, found.facts["container"], found.facts["tensors"]) == ("weights", "PyTorch", 1)
    assert describe(tmp_path / "old.pt").facts["container"].startswith("no ZIP")
    assert not (tmp_path / "ran").exists()


def test_the_names_in_an_adapter_are_the_plugins():
    assert (described.ABOUT, described.DECODER, described.LORA) == artifact_info.ADAPTER
    assert described.HEADER == HEADER


def put(name: str, content: str | bytes):
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "absent", "no such file or folder"),
        (lambda folder: folder, "not a folder that cellfeat knows. It knows manifests"),
        (put("notes.md", "# notes"), "not a file that cellfeat knows"),
        (put("x.csv", "a,b\n1,2\n"), "not a file that cellfeat knows"),
        (put("x.csv", b"\xff\xfe\x00"), "cannot be read as a UTF-8 CSV"),
        (put("x.yaml", "a: [1, 2]"), "not a file that cellfeat knows"),
        (put("x.yaml", "- a"), "not a file that cellfeat knows"),
        (put("x.yaml", "a: ["), "is not YAML"),
        (put("x.yaml", "backbone: {names: x}"), "backbone"),
        (put("x.yaml", "rows: {}\nprotocols: {}"), "x.yaml: "),
        (put("x.jsonl", "{"), "not a file that cellfeat knows"),
        (put("x.jsonl", "{\n"), "line 1: not JSON"),
        (put("x.jsonl", "[1]\n"), "not a file that cellfeat knows"),
        (put("x.html", "<p>mine</p>"), "not a file that cellfeat knows"),
        (put("x.py", "def f(): pass"), "not a file that cellfeat knows"),
        (put("x.py", "def cellfeat_align(:"), "not a file that cellfeat knows"),
        (put("x.parquet", "mine"), "cannot be read as Parquet"),
        (put("x.h5ad", "mine"), "it is no HDF5 file"),
        (put("x.safetensors", "mine"), "cannot be read as safetensors"),
        (put("x.png", "mine"), "x.png: "),
        (put("x.skops", "mine"), "cannot be read as a skops file"),
        (lambda folder: put("adapter.json", "{")(folder / "a").parent, "not a folder that cellfeat knows"),
        (lambda folder: put("pyproject.toml", "[")(folder / "a").parent, "is not TOML"),
        (lambda folder: put("store.json", "{")(folder / "a").parent, "is damaged"),
        (lambda folder: put("pipeline.json", "{}")(folder / "a").parent, "has pipeline format None"),
    ],
)
def test_what_is_not_ours_or_damaged_is_one_line(tmp_path, make, said):
    with pytest.raises(CellfeatError) as error:
        describe(make(tmp_path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_adapter_and_method_are_told(made, tmp_path):
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / described.ABOUT).write_text("[1]")
    with pytest.raises(CellfeatError, match=r"adapter\.json is damaged"):
        describe(tmp_path / "adapter")
    shutil.copytree(made / "run 1" / "pipelines" / "lab-a" / "align-0", tmp_path / "method")
    (tmp_path / "method" / "state.safetensors").write_bytes(b"")
    with pytest.raises(CellfeatError, match="method is damaged"):
        describe(tmp_path / "method")


def test_a_table_with_many_rows_is_counted(tmp_path):
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain"])
        writer.writerows([i, f"{i}.png", "monocyte" if i % 2 else "", "a"] for i in range(20_000))
    facts = describe(tmp_path / "x.csv").facts
    assert (facts["images"], facts["labels"]) == (20_000, {"(none)": 10_000, "monocyte": 10_000})


def test_the_command_prints_a_few_lines_or_json(made, monkeypatch, capsys):
    def said(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["cellfeat", "info", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr()

    out, err = said(str(made / "features.parquet"))
    lines = out.splitlines()
    assert lines[0] == f"{made / 'features.parquet'}: feature file"
    assert "  cells: 60" in lines
    assert "  laboratories: lab-a 20; lab-b 20; lab-c 20" in lines
    assert err.splitlines()[0].startswith("Next: cellfeat convert ")
    out, err = said(str(made / "store"), "--json")
    found = json.loads(out)
    assert (found["kind"], found["facts"]["images"], err) == ("store of encoded images", {"pooled": 60}, "")
    assert found["next"] == [f"cellfeat convert {made}/store features.parquet --data cells.csv"]


def test_it_is_quick_because_no_network_is_loaded(made):
    paths = [str(made / name) for name in ("features.parquet", "run 1", "glass.png", "store")] + [str(WEIGHTS)]
    code = (
        "import sys\nfrom pathlib import Path\nfrom cellfeat.artifact_info import describe\n"
        f"for path in {paths}: print(describe(Path(path)).kind)\n"
        "print(sorted({'torch', 'sklearn', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
    assert np.size(done.stdout.splitlines()) == 6
