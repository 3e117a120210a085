"""Encoding: the predicted quality of masks is kept beside every column, told, and carried into what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import Identity

from cellfeat import CellfeatError, Cells, Features, hookimpl, recipe, records, use
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
    [store] = [path for path in tmp_path.iterdir() if (path / "store.json").is_file()]
    assert sorted(path.name for path in store.glob("*.lance")) == ["pooled.lance", "quality.lance"]


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
        [note] = [note for note in work.reporter.notes if "doubtful" in note]
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
        assert not [note for note in work.reporter.notes if "doubtful" in note]
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
    assert list(rows[0])[:5] == ["id", "path", "label", "probability", "mask_quality"]
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
