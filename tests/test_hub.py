"""Sharing by the hub: through the real client, to and from a server on this machine; nothing private goes out."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import TOKENS, running
from typer.testing import CliRunner

from cellfeat import cli, hub, use
from cellfeat.console import SilentReporter
from cellfeat.errors import CellfeatError
from cellfeat.registry import installed
from cellfeat.sharing import Wishes
from cellfeat.workplace import Workplace

pytestmark = pytest.mark.usefixtures("one_thread")
OWNER = next(iter(TOKENS))
WARD, GROUP = "ward-zeisig", "MRN-77"


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.fixture(autouse=True)
def client(server, monkeypatch, tmp_path):
    """The hub's own client speaks to the server, with a cache and a token of the test's."""
    from huggingface_hub import constants

    for name in ("CELLFEAT_OFFLINE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server stores as Git LFS does


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp(WARD)


@pytest.fixture(scope="module", autouse=True)
def own_cache(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(place / "cache"))
        yield


def work() -> Workplace:
    return Workplace(installed(), SilentReporter(), "cpu")


@pytest.fixture(scope="module")
def private_run(place) -> Path:
    """A run on cells with a patient's number in ids, groups and file names."""
    from cellfeat import compose
    from cellfeat.demo import write_demo
    from cellfeat.run import run

    drawn = write_demo(place / "scans", per_class=10, size=32)
    rows = list(csv.DictReader(drawn.open()))
    for number, row in enumerate(rows):
        name = f"patient{number:04d}{Path(row['path']).suffix}"
        (drawn.parent / row["path"]).rename(drawn.parent / name)
        row |= {"path": name, "id": f"patient{number:04d}-cell", "group": f"{GROUP}{number // 2:04d}"}
        row.pop("mask_path", None)
    manifest = drawn.parent / "our-patients.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    recipe = compose.recipe(
        data=str(manifest),
        backbone="colour",
        align="none",
        classifier="lr",
        sets=["backbone.bins=3", "protocol.source=[lab-a, lab-b]", "protocol.target=[lab-b]", "protocol.folds=2"],
    )
    out, _ = run(recipe, place / "runs" / "first", work(), pictures=False)
    return out


@pytest.fixture(scope="module")
def adapter(place) -> Path:
    """An adapter of cell-tiny in the form that fine-tuning leaves, pictures of cells and a path beside it."""
    import torch
    from cellfeat_lora_sam.adapter import add_lora, save_adapter
    from cellfeat_lora_sam.checkpoints import build_network, read_weights
    from cellfeat_lora_sam.named import NAMED_WEIGHTS

    weights = NAMED_WEIGHTS["cell-tiny-v1"]
    network = build_network(read_weights(weights.path), 64)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        lora = add_lora(network)
    folder = place / "adapter"
    folder.mkdir()
    about = {"base": "cell-tiny-v1", "base_sha256": weights.digest.removeprefix("sha256:"), "own_colours": True}
    about |= {"saw": ["nuclei"], "images": 12, "settings": {"weights": str(place / "weights.safetensors"), "rank": 4}}
    save_adapter(folder, network, lora, about)
    (folder / "masks.png").write_bytes(b"\x89PNG\r\n\x1a\n a cell")
    return folder


def push(source: Path, repo: str, wishes: Wishes = Wishes(), **options) -> hub.Pushed:  # noqa: B008
    return hub.push(source, repo, wishes, installed(), **options)


@pytest.fixture
def pushed_run(private_run, server) -> str:
    """The repository of lab-a's pipeline; pushed once."""
    repo = "me/wards"
    if repo not in server.repositories:
        wishes = Wishes(source="lab-a", licence="CC-BY-4.0", datasets=("me/smears",), base_model="me/base")
        assert push(private_run, repo, wishes).url.startswith(f"{server.url}/{repo}/commit/")
    return repo


@pytest.fixture
def pushed_adapter(adapter, server) -> str:
    repo = "me/adapter"
    if repo not in server.repositories:
        push(adapter, repo)
    return repo


def predictions(folder: Path, images: Path, out: Path, **options) -> tuple[list[str], np.ndarray]:
    use.predict(folder, [images], out, "new", None, options.get("refit", False), work())
    rows = list(csv.DictReader(out.open()))
    numbers = [[float(row[name]) for name in row if name.startswith("p_")] for row in rows]
    return [row["label"] for row in rows], np.array(numbers)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    import cv2

    from cellfeat.onnx_export import drawn_batches

    folder = tmp_path_factory.mktemp("new-images")
    for number, image in enumerate(drawn_batches(48, seed=1, counts=(6,))[0]):
        cv2.imwrite(str(folder / f"{number}.png"), image.transpose(1, 2, 0)[..., ::-1])
    return folder


def test_a_pulled_pipeline_predicts_the_same_without_the_data(pushed_run, private_run, images, tmp_path, place):
    done = hub.pull(pushed_run, tmp_path / "pulled")
    assert (done.about["kind"], done.from_cache, done.about["classes"][0]) == ("pipeline", False, "basophil")
    labels, wanted = predictions(private_run / "pipelines" / "lab-a", images, tmp_path / "here.csv")
    (place / "scans").rename(place / "gone")
    try:
        again, found = predictions(tmp_path / "pulled", images, tmp_path / "there.csv")
        with pytest.raises(CellfeatError, match=r"shared without the cells .* Leave it out: .* any laboratory$"):
            predictions(tmp_path / "pulled", images, tmp_path / "refit.csv", refit=True)
    finally:
        (place / "gone").rename(place / "scans")
    assert again == labels
    np.testing.assert_array_equal(found, wanted)
    data = str(place / "scans" / "our-patients.csv")
    assert use.transform(tmp_path / "pulled", data, tmp_path / "features.parquet", None, False, work())[0] == 150


def test_nothing_private_goes_out(pushed_run, pushed_adapter, private_run, server, place):
    content = b"\n".join(server.received)
    text = content + b"\n".join(one.encode() for one in server.asked)
    assert len(content) > 100_000
    rows = list(csv.DictReader((place / "scans" / "our-patients.csv").open()))
    private = {row[name] for row in rows for name in ("id", "group", "path")}
    private |= {WARD, GROUP, "patient0", "our-patients", "scans", str(place), str(Path.home()), sys.prefix}
    for word in private:
        assert word.encode() not in text, word
        assert word.encode("utf-32-le") not in content, word  # as NumPy writes text
    assert b"\x89PNG" not in content
    about = json.loads(server.files(pushed_run)["pipeline.json"])
    assert about["recipe"]["dataset"] == {"manifest": "withheld", "labels": None, "domains": [], "leave_out": []}
    assert set(about["facts"]["dataset"]) == {"digest", "cells"}
    settings = json.loads(server.files(pushed_adapter)["adapter.json"])["settings"]
    assert settings == {"weights": "weights.safetensors", "rank": 4}


def test_a_pulled_adapter_is_the_adapter(pushed_adapter, adapter, server, tmp_path):
    from cellfeat.testing import cpu_context

    assert {"lora/adapter_config.json", "lora/adapter_model.safetensors"} < set(server.files(pushed_adapter))
    hub.pull(pushed_adapter, tmp_path / "pulled")
    assert not (tmp_path / "pulled" / "masks.png").exists()
    frames = __import__("torch").from_numpy(np.random.default_rng(0).integers(0, 255, (1, 3, 64, 64), dtype=np.uint8))
    found = []
    for folder in (adapter, tmp_path / "pulled"):
        params = {"adapter": str(folder), "image_size": 64}
        product = installed().create("backbone", "lora-sam", params, cpu_context(tmp_path))
        found.append((product.weights_sha256, product.weights_saw, product.encode(frames).embedding))
    assert found[0][:2] == found[1][:2]
    assert bool((found[0][2] == found[1][2]).all())


@pytest.fixture(scope="module")
def adapted_run(private_run, place) -> Path:
    """The same cells with the method that is recommended, which must adapt to every laboratory."""
    from cellfeat import recipe
    from cellfeat.run import run

    content = yaml.safe_load((private_run / "recipe.yaml").read_text())
    content |= {"align": {"name": "per-domain-z"}}
    content["protocol"] |= {"source": ["lab-a"], "target": ["lab-b"]}
    return run(recipe.parse(content), place / "runs" / "adapted", work(), pictures=False)[0]


def test_what_must_adapt_is_told_to_serve_nobody_else(adapted_run, images, tmp_path):
    """Warned before anything is sent; what the card prints works, and what cannot work says why."""
    from cellfeat.artifact_info import describe

    done = command("push", adapted_run, "me/z", "--dry-run", "--out", tmp_path / "model")
    assert "warning: it answers for images of lab-a, lab-b alone" in done.stderr
    assert "--align none" in done.stderr
    card = (tmp_path / "model" / "README.md").read_text()
    [line] = [one for one in card.splitlines() if one.startswith("cellfeat predict")]
    assert line == "cellfeat predict model IMAGES --domain lab-a -o predictions.csv"
    assert "**For images of these very laboratories only:** it answers for images of lab-a, lab-b alone" in card
    found = describe(tmp_path / "model")
    assert found.next == (line.replace(" model ", f" {tmp_path / 'model'} "),)
    assert "alone" in found.facts["limit"]
    known = use.predict(tmp_path / "model", [images], tmp_path / "known.csv", "lab-a", None, False, work())
    assert known[1] == 6
    with pytest.raises(CellfeatError, match=r"adapt to new\. It answers for images .* knows \(lab-a, lab-b\)"):
        predictions(tmp_path / "model", images, tmp_path / "new.csv")
    with pytest.raises(CellfeatError, match=r"--refit cannot be done\. It answers for images that were made in"):
        predictions(tmp_path / "model", images, tmp_path / "new.csv", refit=True)


def test_what_needs_no_refit_is_shared_without_a_word(private_run, tmp_path):
    done = command("push", private_run, "me/n", "--source", "lab-a", "--dry-run", "--out", tmp_path / "model")
    assert "warning" not in done.stderr
    card = (tmp_path / "model" / "README.md").read_text()
    assert "cellfeat predict model IMAGES -o predictions.csv" in card
    assert "very laboratories" not in card


def test_the_card_is_read_by_the_hub_and_by_people(pushed_run, private_run, server):
    from huggingface_hub import ModelCard

    from cellfeat import records

    text = server.files(pushed_run)["README.md"].decode()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("cellfeat", "image-classification", "cc-by-4.0")
    assert (data.datasets, data.base_model) == (["me/smears"], "me/base")
    wanted = [one for one in records.read(private_run / "records.jsonl") if one["source"] == "lab-a"]
    assert [one["target"] for one in wanted] == ["lab-a", "lab-b"]
    results = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    for record, result in zip(wanted, results, strict=True):
        assert result["dataset"]["name"] == record["target"]
        assert result["dataset"]["args"]["adapt"] == record["adapt"]
        for metric, name in zip(result["metrics"], ("accuracy", "balanced_accuracy", "macro_f1"), strict=True):
            score = record["scores"][name]
            assert metric["value"] == score["mean"]
            assert metric["args"]["interval_95"] == {"low": score["low"], "high": score["high"]}
    assert {one.metric_type for one in data.eval_results} == {"accuracy", "balanced_accuracy", "f1"}
    score = wanted[1]["scores"]["balanced_accuracy"]
    told = f"{100 * score['mean']:.1f} ({100 * score['low']:.1f}–{100 * score['high']:.1f})"
    assert f"| lab-b | {wanted[1]['adapt']} | 1234 | {wanted[1]['cells']} |" in text
    assert told in text
    assert "not a medical device" in text
    assert f"cellfeat hub pull {pushed_run} --out model" in text


def test_the_card_of_an_adapter_says_what_it_needs_and_saw(pushed_adapter, server):
    text = server.files(pushed_adapter)["README.md"].decode()
    assert "The adapter was tuned on: nuclei. The weights below it saw: drawn cells, acevedo20" in text
    assert "cell-tiny-v1 (Apache-2.0)" in text
    assert "backbone.weights=cell-tiny-v1 --set backbone.adapter=model" in text
    assert "model-index" not in text
    about = json.loads(server.files(pushed_adapter)["cellfeat.json"])
    assert about["needs"]["weights_sha256"].startswith("e592ac54")


def command(*words: object):
    return CliRunner().invoke(cli.app, ["hub", *map(str, words)])


def test_a_dry_run_asks_no_server_and_keeps_exactly_what_would_go(private_run, server, tmp_path, monkeypatch):
    before = len(server.asked)
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    done = command("push", private_run, "me/dry", "--source", "lab-b", "--dry-run", "--out", tmp_path / "kept")
    assert (done.exit_code, len(server.asked)) == (0, before)
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in done.stdout.splitlines()}
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert listed == {path.relative_to(tmp_path / "kept").as_posix(): path.stat().st_size for path in files}
    assert {"README.md", "cellfeat.json", "pipeline.json", "classifier.skops"} < set(listed)
    assert "names that can be read in it: lab-a, lab-b, basophil" in done.stderr
    assert "no licence is named" in done.stderr
    assert "not searched" not in done.stderr
    assert "nothing was sent" in done.stderr


def test_the_commands_say_what_came_of_it_and_what_is_next(adapter, server, tmp_path):
    done = command("push", adapter, "me/by-command", "--licence", "Apache-2.0", "--private")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith(f"{server.url}/me/by-command/commit/")
    assert "stays here: masks.png" in done.stderr
    assert "not searched: ids of cells, since a saved adapter does not say which it was fitted on" in done.stderr
    assert server.repositories["me/by-command"].private
    pulled = command("pull", "me/by-command", "--out", tmp_path / "mine")
    assert pulled.stdout.startswith("Next: cellfeat run --data cells.csv --set backbone.weights=cell-tiny-v1 --set ")
    assert f"backbone.adapter={tmp_path / 'mine'}" in pulled.stdout
    assert "4 files checked" in pulled.stderr


def test_a_second_push_takes_stale_files_of_the_first_away_and_nothing_else(adapter, server, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "notes.txt").write_text("of the first")
    push(tmp_path / "adapter", "me/twice")
    server.change("me/twice", "figure.svg", b"<svg/>")  # added on the hub's page
    (tmp_path / "adapter" / "notes.txt").unlink()
    push(tmp_path / "adapter", "me/twice")
    assert "notes.txt" not in server.files("me/twice")
    assert server.files("me/twice")["figure.svg"] == b"<svg/>"
    push(tmp_path / "adapter", "me/twice", revision="tuned")
    assert set(server.repositories["me/twice"].branches) == {"main", "tuned"}
    assert hub.pull("me/twice", tmp_path / "branch", "tuned").about["kind"] == "adapter"


def test_what_is_on_the_hub_already_is_not_spoilt(adapter, pushed_run, server):
    push(adapter, "me/public")
    with pytest.raises(CellfeatError, match="me/public exists and is public, so that --private would change nothing"):
        push(adapter, "me/public", private=True)
    with pytest.raises(CellfeatError, match=r"me/wards has a shared pipeline, and this is another kind \(adapter\)"):
        push(adapter, pushed_run)
    server.change("me/public", "cellfeat.json", None)
    with pytest.raises(CellfeatError, match=r"has files that cellfeat did not push \(adapter\.json, .*Name another"):
        push(adapter, "me/public")


def test_a_change_in_between_is_told(adapter, server, monkeypatch):
    push(adapter, "me/race")
    real = hub._stale

    def slow(*arguments):
        server.change("me/race", "README.md", b"---\n---\nby somebody else")
        return real(*arguments)

    monkeypatch.setattr(hub, "_stale", slow)
    with pytest.raises(CellfeatError, match=r"me/race was changed by somebody else at the same time \(412\)"):
        push(adapter, "me/race")


def changed(server, pushed: str, repo: str, **files: bytes) -> str:
    """A copy of a repository with some files changed; `cellfeat_json` is called so."""
    from hub_server import Repository

    server.repositories[repo] = Repository()
    content = dict(server.files(pushed)) | {name.replace("_", "."): one for name, one in files.items()}
    server.repositories[repo].commit("main", content)
    return repo


def about_with(server, pushed: str, **changes) -> bytes:
    return json.dumps(json.loads(server.files(pushed)["cellfeat.json"]) | changes).encode()


def test_a_damaged_file_is_named_and_nothing_is_kept(pushed_adapter, server, tmp_path):
    good = server.files(pushed_adapter)["decoder.safetensors"]
    repo = changed(server, pushed_adapter, "me/damaged", decoder_safetensors=good[:-1] + b"\0")
    with pytest.raises(CellfeatError, match=r"me/damaged: decoder\.safetensors has the sha256 \w{64}, .*hf cache rm"):
        hub.pull(repo, tmp_path / "a" / "pulled")
    server.change(repo, "decoder.safetensors", None)
    with pytest.raises(CellfeatError, match=r"me/damaged lacks decoder\.safetensors, which its cellfeat\.json names"):
        hub.pull(repo, tmp_path / "a" / "pulled")
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "program"}, r"no kind of shared folder named 'program'.* Available: adapter, method, pipeline"),
        ({"format": 2}, "has format 2, and this cellfeat reads 1: pip install -U cellfeat"),
        ({"files": {"../../evil.json": {"sha256": "0"}}}, r"a file '\.\./\.\./evil\.json' that cannot be"),
        ({"files": {"/etc/x.json": {"sha256": "0"}}}, "a file '/etc/x.json' that cannot be"),
        ({"files": {"model.pkl": {"sha256": "0"}}}, r"has a file model\.pkl, which is not loaded; possible are \.json"),
        ({"files": {}}, r"names no files in its cellfeat\.json"),
        ({"method": ["x; touch PWN #"]}, r"names a method 'x; touch PWN #', which can be none"),
        ({"method": ["--out"]}, "names a method '--out', which can be none"),
        ({"method": "cae"}, r"its cellfeat\.json is not as cellfeat writes it"),
        ({"needs": ["weights"]}, r"its cellfeat\.json is not as cellfeat writes it"),
        ({"classes": ["a\x1b[2J"]}, r"has signs that a terminal would obey, in 'a\\x1b\[2J'"),
    ],
)
def test_what_is_not_ours_is_refused_before_it_is_fetched(pushed_adapter, server, tmp_path, changes, message):
    repo = changed(server, pushed_adapter, "me/odd", cellfeat_json=about_with(server, pushed_adapter, **changes))
    before = len(server.asked)
    with pytest.raises(CellfeatError, match=message):
        hub.pull(repo, tmp_path / "pulled")
    assert not any("safetensors" in line for line in server.asked[before:])
    assert not (tmp_path / "pulled").exists()


def test_a_pickle_under_another_name_is_refused(pushed_adapter, server, tmp_path):
    import hashlib

    content = pickle.dumps({"a": 1})
    files = {"adapter.json": {"sha256": hashlib.sha256(content).hexdigest()}}
    about = about_with(server, pushed_adapter, files=files)
    repo = changed(server, pushed_adapter, "me/pickle", cellfeat_json=about, adapter_json=content)
    with pytest.raises(CellfeatError, match=r"adapter\.json is or holds a pickle, which could run code"):
        hub.pull(repo, tmp_path / "pulled")
    repo = changed(server, pushed_adapter, "me/pickle", cellfeat_json=b"{")
    with pytest.raises(CellfeatError, match=r"its cellfeat\.json is no JSON"):
        hub.pull(repo, tmp_path / "pulled")
    server.change(repo, "cellfeat.json", None)
    with pytest.raises(CellfeatError, match=r"has no cellfeat\.json: it was not pushed by cellfeat"):
        hub.pull(repo, tmp_path / "pulled")


def test_refusals_of_the_server_are_one_line_each(adapter, pushed_adapter, server, tmp_path, monkeypatch):
    push(adapter, "me/closed", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(CellfeatError, match=r"refuses me/closed \(403\): the token may not write there"):
        push(adapter, "me/closed")
    with pytest.raises(CellfeatError, match=r"no repository me/closed at http.*, or it is private and may not be read"):
        hub.pull("me/closed", tmp_path / "pulled")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(CellfeatError, match=r"does not know who asks \(401\)\. The token is wrong or has expired"):
        push(adapter, "me/closed")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CellfeatError, match=r"no repository me/closed .* No token is set: HF_TOKEN=…, or `hf auth"):
        hub.pull("me/closed", tmp_path / "pulled")
    with pytest.raises(CellfeatError, match=r"does not know who asks \(401\)\. No token is set"):
        push(adapter, "me/new")
    with pytest.raises(CellfeatError, match="me/adapter has no revision 'v9'"):
        hub.pull(pushed_adapter, tmp_path / "pulled", "v9")
    with pytest.raises(CellfeatError, match="no repository me/nothing at "):
        hub.pull("me/nothing", tmp_path / "pulled")
    with pytest.raises(CellfeatError, match="'blood-cells' is no repository of the hub: it is written OWNER/NAME"):
        hub.pull("blood-cells", tmp_path / "pulled")
    (tmp_path / "there").mkdir()
    with pytest.raises(CellfeatError, match="there exists and is never overwritten"):
        hub.pull(pushed_adapter, tmp_path / "there")


def test_without_network_the_cache_serves_and_says_so(pushed_adapter, adapter, tmp_path, monkeypatch):
    first = hub.pull(pushed_adapter, tmp_path / "first")
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    reporter = SilentReporter()
    again = hub.pull(pushed_adapter, tmp_path / "second", reporter=reporter)
    assert (again.commit, again.from_cache) == (first.commit, True)
    assert f"me/adapter is taken from the hub's cache, commit {first.commit[:8]}" in str(reporter.notes)
    with pytest.raises(CellfeatError, match=r"me/wards is not whole in the hub's cache, and downloads are"):
        hub.pull("me/wards", tmp_path / "third")
    with pytest.raises(CellfeatError, match="pushing needs the network, which CELLFEAT_OFFLINE"):
        push(adapter, "me/offline")
    monkeypatch.delenv("CELLFEAT_OFFLINE")
    nowhere = "http://127.0.0.1:9"  # nobody listens there
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    assert hub.pull(pushed_adapter, tmp_path / "fourth").from_cache
    with pytest.raises(CellfeatError, match=rf"in the hub's cache, and {nowhere} cannot be reached\. Pull it"):
        hub.pull("me/wards", tmp_path / "third")
    with pytest.raises(CellfeatError, match=rf"{nowhere} cannot be reached \(ConnectError\); nothing was"):
        push(adapter, "me/offline")


def dry(what: Path, out: Path, /, **wishes) -> hub.Pushed:
    return push(what, "me/dry", Wishes(**wishes), dry_run=True, out=out)


def test_what_cannot_be_shared_is_named(adapter, private_run, tmp_path):
    out = tmp_path / "out"
    for source, wishes, message in (
        (tmp_path / "nothing", {}, "no folder at "),
        (tmp_path, {}, r"is neither an adapter \(adapter\.json\), nor a run"),
        (private_run, {}, r"has a pipeline per source: lab-a, lab-b; choose one with --source"),
        (private_run, {"source": "lab-x"}, "no source of this run named 'lab-x'"),
        (adapter, {"source": "lab-a"}, "is no run folder, so that --source lab-a means nothing"),
    ):
        with pytest.raises(CellfeatError, match=message):
            dry(source, out, **wishes)
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    for name, content, message in (
        ("state.pkl", b"x", r"state\.pkl: what is in it is not known, so it is not shared; possible: \.json"),
        ("more.txt", pickle.dumps({"a": 1}), r"holds a pickle, more\.txt: it could run code and is never shared"),
        ("more.txt", b"https://pypi.org/x made of /data/ward/x", r"more\.txt of .* would tell '/data/ward/x', a path"),
        ("more.json", json.dumps({str(copy): 1}).encode(), r"more\.json of .* would tell '/.*/copy', a path or an id"),
    ):
        (copy / name).write_bytes(content)
        with pytest.raises(CellfeatError, match=message):
            dry(copy, out)
        (copy / name).unlink()
    (copy / "link.json").symlink_to(adapter / "adapter.json")
    with pytest.raises(CellfeatError, match=r"link\.json is a link, which could lead to anything"):
        dry(copy, out)
    assert not out.exists()


def test_an_id_that_a_method_kept_stops_the_push(private_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(private_run, run)
    state = run / "pipelines" / "lab-a" / "align-0" / "extra.json"
    state.parent.mkdir(exist_ok=True)
    state.write_text(json.dumps({"hardest": ["patient0003-cell"]}))
    with pytest.raises(CellfeatError, match=r"align-0/extra\.json of .* would tell 'patient0003-cell'"):
        dry(run, tmp_path / "out", source="lab-a")
    state.write_text(json.dumps({"groups": {f"{GROUP}0001": 3}}))
    with pytest.raises(CellfeatError, match=rf"would tell '{GROUP}0001'"):
        dry(run, tmp_path / "out", source="lab-a")


def test_what_cannot_be_searched_for_is_told(private_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(private_run, run)
    path = run / "pipelines" / "lab-a" / "pipeline.json"
    about = json.loads(path.read_text())
    about["recipe"]["dataset"]["manifest"] = str(tmp_path / "moved.csv")
    path.write_text(json.dumps(about))
    line = "groups and file names, since moved.csv is not where the run had it"
    assert dry(run, tmp_path / "a", source="lab-a").not_searched == line
    alone = shutil.copytree(run / "pipelines" / "lab-a", tmp_path / "b" / "c" / "lab-a")
    assert dry(alone, tmp_path / "out").not_searched == f"ids, {line.replace('names,', 'names of its cells,')}"
    path.write_text("[[")
    with pytest.raises(CellfeatError, match=r"pipeline\.json is damaged: "):
        dry(run, tmp_path / "d", source="lab-a")


def test_pictures_inside_of_a_method_stay_here(tmp_path):
    from cellfeat.artifacts import load_state, save_state

    source = tmp_path / "method"
    source.mkdir()
    arrays = {"network/w": np.ones((2, 2), np.float32), "examples/image": np.zeros((2, 3, 8, 8), np.uint8)}
    save_state(source, arrays, {"method": "cae", "params": {"weights": "/data/ward/cae.safetensors"}})
    done = dry(source, tmp_path / "out")
    assert done.about["method"] == ["cae"]
    tensors, meta = load_state(tmp_path / "out")
    assert (set(tensors), meta["params"]) == ({"network/w"}, {"weights": "cae.safetensors"})
    assert "--align cae --set align.weights=model" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "bare").mkdir()
    save_state(tmp_path / "bare", {"frames": np.zeros((2, 3, 8, 8), np.uint8)})
    with pytest.raises(CellfeatError, match=r"has a tensor frames of \[2, 3, 8, 8\], which look like pictures"):
        dry(tmp_path / "bare", tmp_path / "out-2")


def test_files_of_a_backbone_come_along_where_they_may(adapter, private_run, tmp_path):
    from cellfeat.pipeline import read_about
    from cellfeat.recipe import parse
    from cellfeat.run import saved_recipe

    run = tmp_path / "run"
    shutil.copytree(private_run, run)
    path = run / "pipelines" / "lab-a" / "pipeline.json"
    about = json.loads(path.read_text())
    about["recipe"]["backbone"] = {"name": "lora-sam", "weights": "cell-tiny", "adapter": str(adapter)}
    path.write_text(json.dumps(about))
    dry(run, tmp_path / "out", source="lab-a")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    params = saved_recipe(moved, parse(read_about(moved)["recipe"])).backbone.params
    assert params == {"weights": "cell-tiny", "adapter": str(moved / "files" / "backbone-adapter")}
    assert (moved / "files" / "backbone-adapter" / "lora" / "adapter_model.safetensors").is_file()
    assert not list(moved.rglob("*.png"))
    weights = tmp_path / "mine.safetensors"
    shutil.copyfile(adapter / "decoder.safetensors", weights)
    shutil.copyfile(weights, tmp_path / "mine.pth")
    for value, wishes, message in (
        (str(weights), {}, r"backbone\.weights is the file mine\.safetensors of this machine, .*--with-weights"),
        (str(tmp_path / "gone.safetensors"), {}, r"backbone\.weights is .*, which is not there"),
        (str(tmp_path / "mine.pth"), {"with_weights": True}, r"mine\.pth, which is not shared: reading it could"),
    ):
        about["recipe"]["backbone"] = {"name": "lora-sam", "weights": value}
        path.write_text(json.dumps(about))
        with pytest.raises(CellfeatError, match=message):
            dry(run, tmp_path / "out", source="lab-a", **wishes)
    about["recipe"]["backbone"] = {"name": "lora-sam", "weights": str(weights)}
    path.write_text(json.dumps(about))
    dry(run, tmp_path / "out", source="lab-a", with_weights=True)
    assert json.loads((tmp_path / "out" / "pipeline.json").read_text())["recipe"]["backbone"]["weights"] == (
        "files/backbone-weights.safetensors"
    )
