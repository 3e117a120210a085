"""Reading images safely, resizing, the cell's crop and pooling over its tokens."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile
from scipy import ndimage

from cellfeat import images
from cellfeat.decode import read_size
from cellfeat.errors import CellfeatError
from cellfeat.images import ImageError, read_mask, read_rgb
from cellfeat.scan import ImageFacts, examine_all, find_images


@pytest.fixture
def colours() -> np.ndarray:
    """(20, 30, 3) uint8 RGB in which every corner differs."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(side: int) -> bytes:
    """A valid 1-bit PNG of side × side pixels in a few kilobytes."""
    packer = zlib.compressobj(1)
    row = bytes(1 + (side + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _png_chunk(b"IDAT", body) + _png_chunk(b"IEND", b"")


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_rgb_is_read_as_it_is(colours, tmp_path, kind):
    path = tmp_path / f"cell.{kind.lower()}"
    Image.fromarray(colours).save(path)
    read = read_rgb(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, colours)
    assert np.array_equal(read_rgb(path.read_bytes()), colours)


def test_the_content_decides_not_the_name(colours, tmp_path):
    path = tmp_path / "tiff_inside.jpg"
    path.write_bytes(_saved(Image.fromarray(colours), "TIFF"))
    assert np.array_equal(read_rgb(path), colours)


def test_rgba_tiff_of_400_px_loses_its_opaque_alpha(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    rgba = np.dstack([colours, np.full((400, 400), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "BAS_0001.tiff")
    assert np.array_equal(read_rgb(tmp_path / "BAS_0001.tiff"), colours)


def test_alpha_is_composited_on_white(colours):
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:10] = 255
    alpha[10:15] = 128
    read = read_rgb(_saved(Image.fromarray(np.dstack([colours, alpha])), "PNG"))
    assert np.array_equal(read[:10], colours[:10])
    expected = (colours[10:15] * (128 / 255) + 255 * (127 / 255)).round()
    assert np.abs(read[10:15] - expected).max() <= 1
    assert (read[15:] == 255).all()


def test_alpha_that_is_zero_everywhere_says_nothing(colours):
    empty = np.dstack([colours, np.zeros((20, 30), np.uint8)])
    assert np.array_equal(read_rgb(_saved(Image.fromarray(empty), "PNG")), colours)


def test_transparent_palette_and_grey_alpha(colours):
    palette = Image.fromarray(np.repeat([[0, 1]], 4, axis=0).astype(np.uint8), "P")
    palette.putpalette([200, 10, 20, 30, 40, 50])
    read = read_rgb(_saved(palette, "PNG", transparency=1))
    assert read[0].tolist() == [[200, 10, 20], [255, 255, 255]]
    grey = Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8), "LA")
    assert read_rgb(_saved(grey, "PNG")).tolist() == [[[90] * 3, [255] * 3]]


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("CMYK", "TIFF"), ("CMYK", "JPEG")])
def test_other_modes_become_rgb(colours, mode, kind):
    image = Image.fromarray(colours).convert(mode)
    read = read_rgb(_saved(image, kind))
    assert read.shape == (20, 30, 3)
    if kind != "JPEG":
        assert np.array_equal(read, np.array(image.convert("RGB")))


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_become_8_by_dividing_by_257(kind, channels):
    deep = np.random.default_rng(2).integers(0, 65536, (7, 9, channels), dtype=np.uint16)
    deep[0, 0, :3] = 65535
    deep[..., 3:] = 65535
    stored = deep[..., [2, 1, 0, 3][:channels]] if channels > 1 else deep
    read = read_rgb(bytes(cv2.imencode(kind, stored)[1]))
    expected = np.broadcast_to((deep[..., :3] / 257).round().astype(np.uint8), (7, 9, 3))
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_16_are_refused(tmp_path, channels):
    path = tmp_path / "dark.png"
    deep = np.random.default_rng(3).integers(0, 4096, (7, 9, channels), dtype=np.uint16)
    deep[0, 0] = 4095
    path.write_bytes(bytes(cv2.imencode(".png", deep)[1]))
    with pytest.raises(ImageError, match=r"dark\.png: 16 bits .* 4095 of 65535 .* rescale it to 8 bits first"):
        read_rgb(path)


def test_32_bit_values_are_refused():
    with pytest.raises(ImageError, match="32 bits per sample; convert it to 8 bits first"):
        read_rgb(_saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "depth"), [("PNG", 8), ("TIFF", 8), ("PNG", 16), ("JPEG", 8)])
def test_exif_orientation_is_applied(kind, depth, orientation):
    grey = np.zeros((16, 32), np.uint16 if depth == 16 else np.uint8)
    grey[:8, :16] = 60000 if depth == 16 else 230  # the bright quarter shows how it was turned
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(grey)
    read = read_rgb(_saved(image, kind, exif=exif))
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(np.transpose(a), 2),
        8: np.rot90,
    }[orientation](grey > 0)
    assert np.array_equal(read[..., 0] > 115, upright)
    assert read_size(_saved(image, kind, exif=exif)) == upright.shape[::-1]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image(colours):
    data = _saved(Image.fromarray(colours), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_rgb(data).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("forgiving", [False, True])
def test_a_truncated_file_is_refused_whatever_pillow_was_told(colours, tmp_path, monkeypatch, kind, forgiving):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", forgiving)
    big = Image.fromarray(colours).resize((200, 200))
    path = tmp_path / "half.img"
    data = _saved(big, kind)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"half\.img: (truncated|damaged)"):
        read_rgb(path)


def test_a_truncated_jpeg_is_called_so(colours):
    data = _saved(Image.fromarray(colours).resize((200, 200)), "JPEG")
    with pytest.raises(ImageError, match="image: truncated, the file ends before the image does; copy it again"):
        read_rgb(data[:-200])


@pytest.mark.parametrize("limit", [None, 1, 2**40])
def test_a_bomb_is_refused_from_its_header(tmp_path, monkeypatch, recwarn, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the bomb was decoded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(_bomb(20_000))
    assert path.stat().st_size < 500_000
    with pytest.raises(ImageError, match=r"bomb\.png: 20000 x 20000 pixels, more than the 50 million .* shrink it"):
        read_rgb(path)
    assert not recwarn.list


def test_pillow_limits_of_others_do_not_matter(colours, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert np.array_equal(read_rgb(_saved(Image.fromarray(colours), "PNG")), colours)
    with pytest.raises(ImageError, match=r"30 x 20 pixels, more than the 0\.0001 million"):
        read_rgb(_saved(Image.fromarray(colours), "PNG"), max_pixels=100)


def test_reading_changes_no_global_of_pillow(colours):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    read_rgb(_saved(Image.fromarray(colours), "PNG"))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path):
    path = tmp_path / "slide.tiff"
    with path.open("wb") as file:
        file.truncate(500_000_000)  # sparse
    with pytest.raises(ImageError, match=r"slide\.tiff: 500 MB, too large"):
        read_rgb(path)


def test_files_that_are_no_images(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("hello world, this is text\n")
    with pytest.raises(ImageError, match=r"notes\.png: not a JPEG, PNG, TIFF, BMP or GIF image \(it begins with b'h"):
        read_rgb(text)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: an empty file"):
        read_rgb(empty)
    with pytest.raises(ImageError, match="a folder, where an image file was expected"):
        read_rgb(tmp_path)
    with pytest.raises(ImageError, match=r"absent\.png: no such file"):
        read_rgb(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_rgb(str(tmp_path / "zero\0byte.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ImageError, match=r"broken\.png: damaged \("):
        read_rgb(broken)


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_rgb(tmp_path / "pipe.png")


def test_every_error_is_one_line_and_a_cellfeat_error(tmp_path):
    path = tmp_path / "noise.jpg"
    path.write_bytes(b"\xff\xd8\xff" + np.random.default_rng(4).bytes(500))
    with pytest.raises(CellfeatError) as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("noise.jpg") == 1


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_a_stack_is_refused_and_a_preview_ignored(colours, kind):
    first, second = Image.fromarray(colours), Image.fromarray(255 - colours)
    stack = _saved(first, kind, save_all=True, append_images=[second, first])
    with pytest.raises(ImageError, match="3 pages or frames; save the one that shows the cell as its own file"):
        read_rgb(stack)
    if kind == "TIFF":
        preview = _saved(first, kind, save_all=True, append_images=[second.resize((10, 8))])
        assert np.array_equal(read_rgb(preview), colours)


def test_masks_count_every_value_above_zero(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 128
    mask[3, 3] = 255
    mask[5, 7] = 1
    truth = mask > 0
    sources = [
        Image.fromarray(mask),
        Image.fromarray(truth),
        Image.fromarray(mask.astype(np.uint16)),
        Image.fromarray(np.dstack([mask] * 3)),
        Image.fromarray(np.dstack([mask * 0, mask, mask * 0, np.full_like(mask, 255)])),
        Image.fromarray(np.dstack([mask, np.full_like(mask, 255)]), "LA"),
    ]
    for image in sources:
        image.save(tmp_path / "mask.png")
        read = read_mask(tmp_path / "mask.png")
        assert read.dtype == bool
        assert np.array_equal(read, truth), image.mode
    with pytest.raises(ImageError, match="JPEG is lossy; save it as PNG"):
        read_mask(_saved(Image.fromarray(mask), "JPEG"))


def test_resize_is_opencv_bilinear_and_refuses_unknown_names(colours):
    expected = cv2.resize(colours, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(images.resize(colours, 224), expected)
    assert images.resize(colours, (7, 5), "area").shape == (7, 5, 3)
    same = images.resize(colours, (20, 30))
    assert np.array_equal(same, colours)
    assert not np.shares_memory(same, colours)
    with pytest.raises(CellfeatError, match=r"no interpolation named 'bilinaer'\. Did you mean 'bilinear'"):
        images.resize(colours, 8, "bilinaer")


def test_resize_mask_takes_the_pixel_under_the_centre():
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    small = images.resize_mask(np.kron(mask, np.ones((3, 3), bool)), 4)
    assert small.dtype == bool
    assert np.array_equal(small, mask)


def test_largest_component_is_4_connected():
    mask = np.zeros((8, 8), bool)
    mask[0:2, 0:2] = True  # 4 pixels, touching the next part by a corner
    mask[2:5, 2:4] = True  # 6 pixels
    mask[7, 7] = True
    expected = np.zeros((8, 8), bool)
    expected[2:5, 2:4] = True
    assert np.array_equal(images.largest_component(mask), expected)
    assert not images.largest_component(np.zeros((3, 3), bool)).any()


def test_masked_crop_follows_the_published_steps():
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    mask = np.zeros((60, 60), bool)
    mask[10:41, 20:31] = True
    mask[10:15, 20:23] = False
    mask[50:55, 50:55] = True  # smaller: not the cell
    grey = np.where(mask[..., None], image, np.uint8(128))[10:40, 20:30]  # last row and column are lost
    padded = np.pad(grey, ((10, 10), (10, 10), (0, 0)), constant_values=128)
    expected = ndimage.zoom(padded, (128 / 50, 128 / 30, 1), order=3)
    crop = images.masked_crop(image, mask)
    assert crop.shape == (128, 128, 3)
    assert crop.dtype == np.uint8
    difference = np.abs(crop.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("mask", ["none", "empty", "row", "column", "pixel"])
def test_without_a_usable_mask_the_whole_image_is_the_cell(mask):
    image = np.random.default_rng(6).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    masks = {name: np.zeros((32, 32), bool) for name in ("empty", "row", "column", "pixel")}
    masks["row"][5] = True
    masks["column"][:, 5] = True
    masks["pixel"][5, 5] = True
    whole = images.masked_crop(image, np.ones((32, 32), bool))
    assert np.array_equal(images.masked_crop(image, masks.get(mask)), whole)
    assert not (whole == 128).all()


def test_masked_crops_are_the_single_crops():
    rng = np.random.default_rng(7)
    batch = rng.integers(0, 256, (3, 3, 40, 40), dtype=np.uint8)
    masks = np.zeros((3, 40, 40), bool)
    masks[0, 5:20, 8:30] = True
    masks[1, 10:39, 2:9] = True
    crops = images.masked_crops(batch, masks)
    assert crops.shape == (3, 3, 128, 128)
    for index in range(3):
        single = images.masked_crop(batch[index].transpose(1, 2, 0), masks[index])
        assert np.array_equal(crops[index].transpose(1, 2, 0), single)
    assert np.array_equal(images.masked_crops(batch)[2], crops[2])


def test_masked_mean_weighs_tokens_by_their_share_of_the_mask():
    import torch

    embedding = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, 0:4, 0:6] = True  # token (0, 0) wholly, token (0, 1) by half
    pooled = images.masked_mean(embedding, mask)
    assert pooled.dtype == torch.float32
    expected = (embedding[0, :, 0, 0] + 0.5 * embedding[0, :, 0, 1]) / 1.5
    assert torch.allclose(pooled[0], expected.float(), atol=1e-6)
    assert torch.allclose(pooled[1], embedding[1].mean(dim=(1, 2)).float(), atol=1e-6)  # an empty mask
    assert torch.allclose(images.masked_mean(embedding), embedding.mean(dim=(2, 3)).float(), atol=1e-6)
    assert torch.equal(images.masked_mean(embedding[:, :, 0, 0], mask), embedding[:, :, 0, 0].float())


def test_digest_is_sha256():
    assert images.image_digest(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_importing_loads_no_torch():
    code = "import cellfeat.images, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_examine_all_keeps_order_digests_and_errors(colours, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(colours, number, axis=0)).save(path)
    paths[3].write_text("no image")
    facts = examine_all(paths)
    assert isinstance(facts[3], ImageError)
    assert str(paths[3]) in str(facts[3])
    assert facts[0] == ImageFacts(images.image_digest(paths[0].read_bytes()), 30, 20)
    assert len({fact.sha256 for fact in facts if isinstance(fact, ImageFacts)}) == 4


def test_find_images_is_sorted_follows_links_and_skips_what_is_hidden(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for name in ("b/2.PNG", "a/1.jpg", "a/.DS_1.jpg", ".cache/3.png", "a/notes.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    other.mkdir()
    (other / "4.tiff").touch()
    (root / "link").symlink_to(other)
    (root / "a" / "circle").symlink_to(root)
    assert [path.relative_to(root).as_posix() for path in find_images(root)] == ["a/1.jpg", "b/2.PNG", "link/4.tiff"]
    with pytest.raises(CellfeatError, match="no such folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(CellfeatError, match="a file, not a folder"):
        find_images(root / "a" / "1.jpg")
