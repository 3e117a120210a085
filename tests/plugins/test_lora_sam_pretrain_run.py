"""From settings and a manifest to weights: what is read, what is left out, what is kept, what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from cellfeat_lora_sam import pretrain_run
from cellfeat_lora_sam.checkpoints import read_weights, save_weights
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_pool import Pool
from cellfeat_lora_sam.pretrain_run import pretrain_from
from cellfeat_lora_sam.sizes import BUILDS
from helpers import with_nucleus
from pretraining import MINI, QUICK, write_manifest, write_photographs

from cellfeat import CellfeatError, Workplace
from cellfeat.console import SilentReporter
from cellfeat.images import read_rgb
from cellfeat.registry import installed

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = replace(QUICK, steps=2, export_every=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def mini_build(monkeypatch) -> None:
    monkeypatch.setitem(BUILDS, "mini", MINI)


@pytest.fixture
def work() -> Workplace:
    return Workplace(installed(), SilentReporter(), "cpu")


@pytest.fixture
def manifest(tmp_path) -> Path:
    return write_photographs(tmp_path)


@pytest.fixture
def handed(monkeypatch) -> list[tuple[Pool, Pool | None, list[str]]]:
    """What would be trained on, instead of a training."""
    seen: list[tuple[Pool, Pool | None, list[str]]] = []

    def pretrain(config, drawn, photographed, saw, output, context) -> dict[str, float]:
        seen.append((drawn, photographed, list(saw)))
        return {"cell": 1.0}

    monkeypatch.setattr(pretrain_run, "pretrain", pretrain)
    return seen


def run(
    config: PretrainConfig,
    output: Path,
    work: Workplace,
    manifest: Path | None = None,
    domains: tuple[str, ...] = (),
    leave_out: Path | None = None,
) -> dict[str, float]:
    return pretrain_from(config, output, manifest and str(manifest), domains, leave_out, work)


def relabelled(manifest: Path, labels: list[str]) -> Path:
    with manifest.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    for row, label in zip(rows, labels, strict=True):
        row[2] = label
    return write_manifest(manifest.with_name("relabelled.csv"), rows)


def test_labels_change_nothing(manifest, tmp_path, work, monkeypatch):
    other = relabelled(manifest, ["neutrophil", "monocyte", "", "no such class"])
    weights = []
    for index, path in enumerate((manifest, other)):
        monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / f"cache-{index}"))
        output = tmp_path / f"{index}.safetensors"
        run(FAST, output, work, path)
        weights.append(output.read_bytes())
        assert not list((tmp_path / f"cache-{index}").rglob("*.safetensors"))  # the pools are large
    assert weights[0] == weights[1]
    meta = read_weights(output).meta
    assert meta["saw"] == ["drawn cells", "one (images without labels)", "two (images without labels)"]
    assert meta["steps"] == 2
    assert set(meta["held_out"]) == {"cell", "nucleus"}


def test_images_that_are_left_out_are_not_in_the_pool(manifest, tmp_path, work, handed):
    ids = tmp_path / "ids.txt"
    ids.write_text("cell-3\n\n  cell-0  \n")
    run(replace(FAST, pool_size=64), tmp_path / "own.safetensors", work, manifest, leave_out=ids)
    _, photographed, saw = handed[-1]
    seen = [image.numpy().tobytes() for image in photographed.images]
    assert seen == [read_rgb(tmp_path / f"{index}.png").tobytes() for index in (1, 2)]
    assert saw == ["drawn cells", *(f"{name} (images without labels, 2 left out)" for name in ("one", "two"))]


def test_domains_are_chosen_and_named(manifest, tmp_path, work, handed):
    run(FAST, tmp_path / "own.safetensors", work, manifest, domains=("two",))
    drawn, photographed, saw = handed[-1]
    assert saw == ["drawn cells", "two (images without labels)"]
    assert len(photographed.images) == 2
    assert drawn.images.shape == (4, 80, 80, 3)
    assert photographed.images.shape == (2, 80, 80, 3)
    assert drawn.descriptors.shape[1] == photographed.descriptors.shape[1]


def test_drawn_cells_alone_will_do(tmp_path, work, handed):
    run(FAST, tmp_path / "own.safetensors", work)
    drawn, photographed, saw = handed[-1]
    assert photographed is None
    assert saw == ["drawn cells"]
    assert drawn.descriptors.shape == (4, 1)


def test_a_second_start_takes_the_pools_that_were_kept(manifest, tmp_path, work, handed, monkeypatch):
    kept = pretrain_run.pretrain

    def killed(*arguments: object) -> None:
        kept(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_run, "pretrain", killed)
    with pytest.raises(KeyboardInterrupt):
        run(FAST, tmp_path / "own.safetensors", work, manifest)

    def never(*arguments: object) -> Pool:
        raise AssertionError("made again")

    for name in ("drawn_pool", "photographed_pool"):
        monkeypatch.setattr(pretrain_run, name, never)
    with pytest.raises(KeyboardInterrupt):
        run(FAST, tmp_path / "own.safetensors", work, relabelled(manifest, ["a", "b", "c", "d"]))  # labels are nothing
    for first, second in zip(handed[0][:2], handed[1][:2], strict=True):
        assert (first.images == second.images).all()
    ids = tmp_path / "ids.txt"
    ids.write_text("cell-0")
    for changes in (
        {"config": replace(FAST, seed=2)},
        {"domains": ("one",)},
        {"leave_out": ids},
    ):
        with pytest.raises(AssertionError, match="made again"):
            run(
                **(
                    {"config": FAST, "output": tmp_path / "own.safetensors", "work": work, "manifest": manifest}
                    | changes
                )
            )


def test_a_changed_image_is_another_pool(manifest, tmp_path, work, handed):
    for index in range(2):
        run(FAST, tmp_path / f"{index}.safetensors", work, manifest)
        (tmp_path / "0.png").write_bytes((tmp_path / "1.png").read_bytes())
    assert (handed[0][1].images[0] != handed[1][1].images[0]).any()


def test_masks_can_come_from_the_weights_of_an_earlier_stage(manifest, tmp_path, work, handed):
    weights = with_nucleus(tmp_path / "stage.safetensors")
    run(replace(FAST, masks=str(weights), trusted=-9.0), tmp_path / "own.safetensors", work, manifest)
    by_network = handed[-1][1]
    run(FAST, tmp_path / "own.safetensors", work, manifest)
    by_colour = handed[-1][1]
    assert (by_network.images == by_colour.images).all()
    assert (by_network.masks != by_colour.masks).any()
    with_nucleus(weights, own_colours=False)  # the same path, other weights: nothing kept may be taken
    run(replace(FAST, masks=str(weights), trusted=-9.0), tmp_path / "own.safetensors", work, manifest)
    assert (handed[-1][1].masks != by_network.masks).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "folder"}, "folder: the weights become a file; name one that ends in .safetensors"),
        ({"output": "there.safetensors"}, r"there\.safetensors exists already; name another file, or remove this one"),
        ({"output": "weights.pt"}, r"weights\.pt: the weights become a file"),
        (
            {"config": {"masks": "otsu"}},
            "masks: otsu cannot be used for pre-training, .* no cells_and_nuclei and no plaus",
        ),
        ({"config": {"masks": "otsuu"}}, "no segmenter named 'otsuu'. Did you mean 'otsu'"),
        ({"config": {"masks": "gone.safetensors"}}, r"masks: gone\.safetensors: no such file of weights; run the ear"),
        ({"config": {"start_from": "gone.safetensors"}}, r"start_from: gone\.safetensors: no such file of weights"),
        ({"ids": "cell-0\ncell-9\n"}, "1 of the ids to leave out are not among its 4 images, the first is 'cell-9'"),
        ({"ids": "cell-1", "domains": ("one",)}, "1 of the ids to leave out are not among its 2 images, .* 'cell-1'"),
        ({"ids": "cell-0\ncell-1\ncell-2\ncell-3"}, r"cells\.csv: no image is left"),
        ({"ids": " \n\n"}, r"ids\.txt names no id; leave --leave-out away to use every image"),
        ({"output": "there.safetensors/own.safetensors"}, "there.safetensors"),
        ({"output": "begun.safetensors"}, r"begun\.interim\.safetensors exists already and belongs to another run"),
        ({"ids": None}, r"ids\.txt cannot be read as a list of ids: "),
        ({"domains": ("three",)}, "no domain named 'three'"),
    ],
)
def test_what_cannot_be_is_one_clear_line(manifest, tmp_path, work, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    (tmp_path / "begun.interim.safetensors").write_bytes(b"mine")
    ids = None
    if "ids" in changes:
        ids = tmp_path / "ids.txt"
        if changes["ids"] is not None:
            ids.write_text(changes["ids"])
    config, output = replace(FAST, **changes.get("config", {})), Path(changes.get("output", "own.safetensors"))
    with pytest.raises(CellfeatError, match=message) as caught:
        run(config, output, work, manifest, changes.get("domains", ()), ids)
    assert "\n" not in str(caught.value)
    assert not output.is_file() or output.read_bytes() == b"mine"
    assert (tmp_path / "begun.interim.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("named", [{"domains": ("one",)}, {"leave_out": Path("ids.txt")}])
def test_photographs_cannot_be_chosen_without_a_manifest(tmp_path, work, named):
    with pytest.raises(CellfeatError, match=r"name photographs; name their manifest too \(--data\)"):
        run(FAST, tmp_path / "own.safetensors", work, **named)


def test_what_earlier_weights_saw_is_not_forgotten(manifest, tmp_path, work, handed):
    first, second = (with_nucleus(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    weights = read_weights(first)
    save_weights(first, weights.state, weights.meta | {"saw": ["tecom (labels)", "drawn cells"]})
    weights = read_weights(second)
    save_weights(second, weights.state, {key: value for key, value in weights.meta.items() if key != "saw"})
    config = replace(FAST, masks=str(second), start_from=str(first), trusted=0.0)
    run(config, tmp_path / "own.safetensors", work, manifest, domains=("one",))
    saw = ["tecom (labels)", "drawn cells", "second.safetensors (what is not known)", "one (images without labels)"]
    assert handed[-1][2] == saw


def test_another_version_of_the_segmenter_is_another_maker(work, monkeypatch):
    offer = work.registry.find("segmenter", "classical")
    before = pretrain_run._makers(FAST, (), work)
    monkeypatch.setattr(type(work.registry), "find", lambda *_: replace(offer, version="99"))
    assert pretrain_run._makers(FAST, (), work) != before


def test_a_broken_photograph_is_an_error_or_skipped(manifest, tmp_path, work, handed):
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(CellfeatError, match=r"1\.png"):
        run(FAST, tmp_path / "own.safetensors", work, manifest)
    run(FAST, tmp_path / "own.safetensors", replace(work, skip_bad=True), manifest)
    assert len(handed[-1][1].images) == 3
