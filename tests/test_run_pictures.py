"""Examples of cells in a report: what is said of their outlines."""

from __future__ import annotations

import pytest

from cellfeat.depicted import RECONSTRUCTED, WRITTEN
from cellfeat.observation_files import Observations
from cellfeat.observations import DATA_SET
from cellfeat.run_pictures import cell_tables
from cellfeat.thumbnails import ORIGINAL, OUTLINE, Thumbnail

PAINTED = "These are masks of the originals; features come from masks of the images as written."


@pytest.mark.parametrize(
    ("masks", "kind", "painted"),
    [("lora-sam", WRITTEN, True), (DATA_SET, WRITTEN, False), ("lora-sam", RECONSTRUCTED, False)],
)
def test_outlines_that_are_empty_or_of_unpainted_originals_are_told(masks, kind, painted):
    pictures = {("1", one, source): Thumbnail("1", one, source, 8, 8, b"") for one, source in
                ((ORIGINAL, ""), (OUTLINE, ""), (kind, "a"))}  # fmt: skip
    summary = {"shown": [("1", "a", "x")], "classes": ["x"], "masks": masks, "depicted": {"a": f"{kind} by stain"}}
    summary |= {"features": {"before": {}, "after a": {}, "after b": {}}, "masks_of_originals": kind == WRITTEN}
    summary |= {"empty_masks": {"a": 2}, "examples_left_out": {"a": ["y", ""]}}
    (table,) = cell_tables(Observations(summary, {}, pictures))
    assert [name for name, _ in table.rows][:2] == ["original", "mask"]
    assert f"The orange line is the edge of the mask by {masks}. Empty masks, without a line: 2." in table.caption
    assert "Not among them for want of room: y, cells without a class." in table.caption
    assert "Drawn is what 1 of the 2 pipelines made of them." in table.caption
    assert (PAINTED in table.caption) == painted
