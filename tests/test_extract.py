"""Encoding: the predicted quality of masks is kept beside every column, told, and carried into what is written."""

from __future__ import annotations

import csv
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import Identity

from cellfeat import CellfeatError, Cells, Features, hookimpl, recipe, records, use, writing
from cellfeat import extract as extracting
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.extract import Encoder, doubtful_masks
from cellfeat.registry import Registry, installed
from cellfeat.report import caption
from cellfeat.run import run
from cellfeat.store import Store
from cellfeat.types import ArrayColumn
from cellfeat.workplace import Workplace

DOUBTED = "lab-b"


class Judging:
    """Mean colours, a mask, and a quality between 0 and 1: the images' mean brightness."""

    image_size, interpolation = 16, "area"

    def encode(self, images):
        colours = images.float().mean((2, 3))
        quality = colours.mean(1) / 255
        return Features(colours, images.float().mean(1) < 150, None, quality)


class Silent(Judging):
    def encode(self, images):
        return super().encode(images)._replace(quality=None)


class Mapping(Judging):
    """A token map, with a pooling of its own."""

    def encode(self, images):
        features = super().encode(images)
        return features._replace(embedding=torch.nn.functional.avg_pool2d(images.float(), 4), pooled=features.embedding)


class Everything:
    def segment(self, images):
        return torch.ones((len(images), *images.shape[-2:]), dtype=torch.bool)


def registry() -> Registry:
    def cellfeat_backbone():
        return {"judging": Judging, "silent": Silent, "mapping": Mapping}

    def cellfeat_segmenter():
        return {"everything": Everything}

    hooks = {"cellfeat_backbone": hookimpl(cellfeat_backbone), "cellfeat_segmenter": hookimpl(cellfeat_segmenter)}
    made = Registry(list(installed().offers), list(installed().broken))
    made.add("toys", "toys", "1.0", lambda: SimpleNamespace(**hooks))
    return made


def workplace() -> Workplace:
    return Workplace(registry(), SilentReporter(), device="cpu")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    return write_demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=2, size=32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def threshold(manifest, tmp_path, monkeypatch) -> float:
    """A quality below which four masks of one laboratory and none of others are doubtful, or nearly so."""
    use.extract(recipe_of(manifest), tmp_path / "look.parquet", workplace())
    quality = pq.read_table(tmp_path / "look.parquet").to_pandas().mask_quality
    found = float(np.sort(quality)[4])
    monkeypatch.setattr(extracting, "DOUBTFUL", found)
    return found


def recipe_of(manifest: Path, backbone: str = "judging", **sections) -> recipe.Recipe:
    content = {"dataset": {"manifest": str(manifest)}, "backbone": {"name": backbone}, "align": {"name": "none"}}
    return recipe.parse({**content, "classifier": {"name": "lr"}, "protocol": {"folds": 2}, **sections})


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)


def encoder(folder: Path, context, backbone=None, segmenter=None, way: str = "toy") -> Encoder:
    return Encoder(backbone or Judging(), segmenter, {"backbone": way}, folder, context)


@pytest.mark.parametrize("columns", [("pooled",), ("mask", "crop"), ("image", "pooled")])
def test_quality_is_kept_beside_every_column_and_read_back(tmp_path, context, columns):
    pictures = images(5)
    for _ in range(2):  # encoded, then found
        found = encoder(tmp_path, context).encode_images(ArrayColumn(pictures), columns, tmp_path)
        assert set(found) == {*columns, "quality"}
        assert found["quality"].dtype == np.float32
        assert found["quality"].shape == (5,)
        wanted = pictures.mean((1, 2, 3)) / 255
        np.testing.assert_allclose(found["quality"].read(np.array([3, 0])), wanted[[3, 0]], rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "segmenter", "columns"),
    [(Silent(), None, ("pooled",)), (Judging(), Everything(), ("mask",)), (Judging(), None, ("image",))],
)
def test_no_quality_is_told_of_masks_that_nobody_judged(tmp_path, context, backbone, segmenter, columns):
    found = encoder(tmp_path, context, backbone, segmenter).encode_images(ArrayColumn(images(3)), columns, tmp_path)
    assert set(found) == set(columns)


def test_a_kill_between_two_columns_leaves_no_row_without_its_quality(tmp_path, context, monkeypatch):
    pictures, write = images(3), Store._write

    def killed(self, column, *rest):
        if column == "pooled":
            raise KeyboardInterrupt
        write(self, column, *rest)

    monkeypatch.setattr(Store, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        encoder(tmp_path, context).encode_images(ArrayColumn(pictures), ("pooled",), tmp_path)
    monkeypatch.undo()
    found = encoder(tmp_path, context).encode_images(ArrayColumn(pictures), ("pooled",), tmp_path)
    np.testing.assert_allclose(found["quality"].read(np.arange(3)), pictures.mean((1, 2, 3)) / 255, rtol=1e-5)
    [store] = [path for path in (tmp_path / "painted").iterdir() if (path / "store.json").is_file()]
    assert sorted(path.name for path in store.glob("*.lance")) == ["pooled.lance", "quality.lance"]


class Counting(Judging):
    """Remembers how many images it was given; the padding of a batch counts too."""

    def __init__(self, meeting: threading.Barrier | None = None) -> None:
        self.seen, self.meeting = 0, meeting

    def encode(self, images):
        if self.meeting is not None:
            self.meeting.wait(30)
        self.seen += len(images)
        return super().encode(images)


def painted(root: Path, context, pictures, folder: str, backbone, columns=("pooled",), way: str = "toy") -> np.ndarray:
    """What is read of all rows of the first column."""
    made = encoder(root / "stores", context, backbone, way=way)
    found = made.encode_images(ArrayColumn(pictures), columns, root / folder)
    return found[columns[0]].read(np.arange(len(pictures)))


def test_pooled_features_of_painted_pixels_are_found_by_another_fold(tmp_path, context):
    pictures, first, second, third = images(40), Counting(), Counting(), Counting()
    wanted = painted(tmp_path, context, pictures, "fold-0", first)
    assert first.seen == 48, "three batches of 16"
    np.testing.assert_allclose(wanted, pictures.mean((2, 3)), rtol=1e-5)
    other = np.random.default_rng(0).permutation(40)[:30]
    np.testing.assert_array_equal(painted(tmp_path, context, pictures[other], "fold-1", second), wanted[other])
    assert second.seen == 0
    some_new = np.concatenate([pictures[5:8], images(4, seed=1)])
    found = painted(tmp_path, context, some_new, "fold-2", third)
    np.testing.assert_array_equal(found[:3], wanted[5:8])
    np.testing.assert_allclose(found[3:], some_new[3:].mean((2, 3)), rtol=1e-5)
    assert third.seen == 16, "the four new ones, padded"
    assert not list(tmp_path.glob("fold-*"))
    assert [path.name for path in (tmp_path / "stores").glob("*/*/store.json")] == ["store.json"]


def test_painted_features_belong_to_one_way_of_encoding(tmp_path, context):
    pictures, again = images(3), Counting()
    painted(tmp_path, context, pictures, "fold-0", Counting())
    painted(tmp_path, context, pictures, "fold-0", again, way="other weights")
    assert again.seen == 16


def test_a_kill_costs_no_painted_row_that_was_written(tmp_path, context, monkeypatch):
    pictures, killed, rest = images(40), Counting(), Counting()
    monkeypatch.setattr(writing, "ROWS_PER_VERSION", 16)
    really, count = Counting.encode, iter(range(3))

    def until(self, some):
        if self is killed and next(count) == 2:
            raise KeyboardInterrupt
        return really(self, some)

    monkeypatch.setattr(Counting, "encode", until)
    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path, context, pictures, "fold-0", killed)
    found = painted(tmp_path, context, pictures, "fold-1", rest)
    assert rest.seen == 16, "one batch was missing"
    np.testing.assert_allclose(found, pictures.mean((2, 3)), rtol=1e-5)


@pytest.mark.parametrize("columns", [("map",), ("crop", "pooled"), ("mask",)])
def test_large_columns_of_painted_images_go_with_the_fit(tmp_path, context, columns):
    pictures, again = images(3), Mapping()
    before = painted(tmp_path, context, pictures, "fold-0", Mapping(), columns)
    assert len(list((tmp_path / "fold-0").glob("*/store.json"))) == 1
    assert not (tmp_path / "stores" / "painted").exists()
    np.testing.assert_array_equal(painted(tmp_path, context, pictures, "fold-1", again, columns), before)
    assert len(list((tmp_path / "fold-1").glob("*/store.json"))) == 1


def test_two_that_paint_the_same_at_once_read_the_right_rows(tmp_path, context):
    """Both have looked before either writes, so that every row is written twice."""
    pictures, meeting = images(40), threading.Barrier(2)
    orders = [np.arange(40), np.random.default_rng(5).permutation(40)]
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(painted, tmp_path, context, pictures[order], f"fold-{i}", Counting(meeting))
            for i, order in enumerate(orders)
        ]
        answers = [one.result(60) for one in both]
    last = Counting()
    answers.append(painted(tmp_path, context, pictures, "fold-2", last))
    assert last.seen == 0
    for order, answer in zip([*orders, np.arange(40)], answers, strict=True):
        np.testing.assert_allclose(answer, pictures[order].mean((2, 3)), rtol=1e-5)


def test_a_method_may_not_read_the_quality(tmp_path, context):
    with pytest.raises(CellfeatError, match="there is no column quality to read; a method may read image, mask"):
        encoder(tmp_path, context).encode_images(ArrayColumn(images(1)), ("quality",), tmp_path)


def test_doubtful_masks_are_counted_by_domain():
    cells = Cells.from_arrays(
        np.zeros(5), domain=["b", "a", "b", "a", "c"], quality=np.float32([0.1, 0.9, 0.79, 0.7999, 0.8])
    )
    assert doubtful_masks(cells) == {"a": 1, "b": 2}
    assert doubtful_masks(cells[[1, 4]]) == {}
    assert doubtful_masks(Cells.from_arrays(np.zeros(5))) is None


def test_doubtful_masks_are_said_also_when_everything_was_encoded_before(manifest, tmp_path, threshold):
    for name in ("first", "second"):
        work = workplace()
        use.extract(recipe_of(manifest), tmp_path / f"{name}.parquet", work)
        [note] = [note for note in work.reporter.notes if "look doubtful" in note]
        assert note.startswith("4 of 30 masks look doubtful (")
        assert f"below {threshold:g}" in note
    table = pq.read_table(tmp_path / "second.parquet").to_pandas()
    counts = table.domain[table.mask_quality < threshold].value_counts()
    assert all(f"{count} of {name}" in note for name, count in counts.items())


def test_nothing_is_said_of_good_or_unjudged_masks(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(extracting, "DOUBTFUL", 0.0)
    for name in ("judging", "silent"):
        work = workplace()
        use.extract(recipe_of(manifest, name), tmp_path / f"{name}.parquet", work)
        assert not [note for note in work.reporter.notes if "look doubtful" in note]
    assert "mask_quality" not in pq.read_table(tmp_path / "silent.parquet").column_names


def test_exports_carry_the_quality(manifest, tmp_path):
    import anndata

    use.extract(recipe_of(manifest), tmp_path / "f.parquet", workplace())
    use.extract(recipe_of(manifest), tmp_path / "f.h5ad", workplace())
    table, data = pq.read_table(tmp_path / "f.parquet").to_pandas(), anndata.read_h5ad(tmp_path / "f.h5ad")
    colours = table[["f0", "f1", "f2"]].to_numpy()
    np.testing.assert_allclose(table.mask_quality, colours.mean(1) / 255, rtol=1e-5)
    np.testing.assert_array_equal(data.obs.mask_quality, table.mask_quality)


def test_records_predictions_and_table_carry_the_quality(manifest, tmp_path, threshold):
    folder, written = run(recipe_of(manifest), tmp_path / "run", workplace())
    [counts] = {json.dumps(record["doubtful_masks"]) for record in written}
    counts = json.loads(counts)
    assert sum(counts.values()) == 4
    assert records.read(folder / "records.jsonl") == json.loads(json.dumps(written))
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    assert f"Masks that look doubtful, by their predicted quality: {listed}." in caption(written)
    quality = pq.read_table(tmp_path / "look.parquet").to_pandas().set_index("id").mask_quality
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    np.testing.assert_array_equal(table.mask_quality, quality[table.id])
    shots = sorted((manifest.parent / "images").glob("lab-c*"))
    use.predict(folder, shots, tmp_path / "p.csv", "new", "lab-a", False, workplace())
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["id", "path", "label", "probability", "novelty", "novel", "mask_quality"]
    by_name = {Path(row["path"]).stem: float(row["mask_quality"]) for row in rows}
    assert by_name == pytest.approx({path.stem: quality[path.stem] for path in shots}, rel=1e-5)


def test_old_records_and_unjudged_runs_have_no_count(manifest, tmp_path):
    folder, written = run(recipe_of(manifest, "silent"), tmp_path / "run", workplace())
    assert all("doubtful_masks" not in record for record in written)
    assert "doubtful" not in caption(written)
    assert "mask_quality" not in pq.read_table(folder / "predictions.parquet").column_names


def test_a_segmenter_leaves_the_backbones_pooling_and_its_judgement_aside(manifest, tmp_path):
    work = workplace()
    use.extract(recipe_of(manifest, "mapping", segmenter={"name": "everything"}), tmp_path / "f.parquet", work)
    table = pq.read_table(tmp_path / "f.parquet")
    assert "mask_quality" not in table.column_names
    assert any(
        "features are the mean over its cell's tokens, not what the backbone pools" in n for n in work.reporter.notes
    )
    work = workplace()
    use.extract(recipe_of(manifest, "mapping"), tmp_path / "g.parquet", work)
    assert not any("not what the backbone pools" in note for note in work.reporter.notes)


def test_quality_is_not_shown_to_methods(manifest, tmp_path):
    seen = []

    class Looking(Identity):
        def transform(self, cells, context):
            seen.append(set(cells.columns))
            return cells.pooled

    def cellfeat_align():
        return {"looking": Looking}

    work = workplace()
    work.registry.add("more", "more", "1.0", lambda: SimpleNamespace(cellfeat_align=hookimpl(cellfeat_align)))
    run(recipe_of(manifest, align={"name": "looking"}), tmp_path / "run", work)
    assert seen
    assert all(columns == {"pooled"} for columns in seen)
