"""Grey levels of images and of the cells in them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cellfeat.decode import ImageError
from cellfeat.grey_levels import grey_levels


def test_grey_levels_are_shares_of_pixels_and_of_those_in_the_mask(tmp_path):
    from cellfeat.datasets import read_manifest

    images = []
    for number in range(2):
        pixels = np.full((20, 20, 3), 200, np.uint8)
        pixels[5:15, 5:15] = 40 + 10 * number
        images.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(images[-1])
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,path,label,domain\n" + "".join(f"{i},{p},x,d\n" for i, p in enumerate(images)))
    mask = np.zeros((10, 10), bool)
    mask[3:7, 3:7] = True
    found = grey_levels(read_manifest(manifest), np.array([0, 1]), np.array([0]), lambda row: mask)
    frame = found["frame"]["d"]
    assert frame["images"] == 2
    assert [frame["millionths"][level] for level in (40, 50, 200)] == [125_000, 125_000, 750_000]
    assert found["cell"]["d"] == {"images": 1, "millionths": [0] * 40 + [1_000_000] + [0] * 215}
    data = read_manifest(manifest)

    def gone(row):
        raise ImageError("no such file")

    without = grey_levels(data, np.array([0, 1]), np.array([0]), gone)
    assert without["frame"]["d"]["images"] == 2
    assert without["cell"] == {}
    assert without["unreadable"] == {"images": 0, "masks": 1}
    images[1].unlink()
    fewer = grey_levels(data, np.array([0, 1]), np.array([]), lambda row: mask)
    assert fewer["frame"]["d"]["images"] == fewer["unreadable"]["images"] == 1
