"""Image files to arrays, safely: whatever a file holds, it gives right pixels or one clear `ImageError`."""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfeat import storage
from cellfeat.errors import CellfeatError

if TYPE_CHECKING:
    from PIL import ImageFile

MAX_PIXELS = 50_000_000  # e.g. 8,660 × 5,770; as RGB takes 150 MB
_BYTES_PER_PIXEL = 8  # 16-bit RGBA, uncompressed: no larger file can be an image of MAX_PIXELS
_TWELVE_BITS = 4096
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
_FORMATS = "JPEG, PNG, TIFF, BMP or GIF"


class ImageError(CellfeatError):
    """An image that cannot be used; the message names the file, what was found and what to do."""


class _Refused(Exception):
    """What is wrong with an image, without its name."""


class _Stream(io.BytesIO):
    """Bytes that refuse to be read past their end.

    Pillow can be told by any library in the process (`LOAD_TRUNCATED_IMAGES`) to fill what is missing with grey;
    a file that ends too early must fail here whatever that setting is.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data and size:
            raise EOFError("the file ends before the image does")
        return data


def read_rgb(source: Path | str | bytes, max_pixels: int = MAX_PIXELS, name: str | None = None) -> np.ndarray:
    """Decode an image file, or its bytes, to (H, W, 3) uint8 RGB, upright (EXIF orientation applied).

    Alpha is dropped where it is fully opaque (or transparent everywhere, so that it says nothing) and composited on
    white otherwise. Grey, palette, 1-bit and CMYK become RGB. 16 bits become 8 by dividing by 257; 16-bit images
    whose largest value is below 4096 come from a 12-bit camera and are refused, because they would be almost black.
    Further pages are ignored when they are smaller (previews); a stack or an animation is refused.
    The size is checked in the header, before anything is decoded.

    Raises: ImageError, whose message begins with the path (or with `name`).
    """
    with _explained(name or _title(source)):
        pixels = _pixels(source, max_pixels, _rgb_of_pillow)
        return _eight_bits(pixels) if pixels.dtype == np.uint16 else pixels


def read_mask(source: Path | str | bytes, max_pixels: int = MAX_PIXELS, name: str | None = None) -> np.ndarray:
    """Decode a mask file to (H, W) bool, True on the cell: every value above 0, in any channel but alpha.

    Palette images count their indices. JPEG is refused: its artefacts would put cells into the background.
    """
    with _explained(name or _title(source)):
        values = _pixels(source, max_pixels, _values_of_pillow)
    return np.asarray(values > 0 if values.ndim == 2 else np.any(values[..., :3] > 0, axis=2))


def read_size(source: Path | str | bytes, name: str | None = None) -> tuple[int, int]:
    """(width, height) of an image, upright, from its header; its pixels may still turn out to be damaged."""
    with _explained(name or _title(source)):
        image = _open(source if isinstance(source, bytes) else read_bytes(source))
        width, height = image.size
        # Pillow swaps the sides of TIFF itself, and only of TIFF.
        return (height, width) if image.format != "TIFF" and _orientation(image) in _SIDEWAYS else (width, height)


def image_digest(data: bytes) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path | str, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of a regular file, or of a URL that `storage` reads, small enough to be an image of `max_pixels`."""
    try:
        if storage.is_url(path):
            data = storage.read(str(path), _BYTES_PER_PIXEL * max_pixels)
            _check_length(path, len(data), max_pixels)
            return data
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"{path}: {kind}, where an image file was expected")
        _check_length(path, status.st_size, max_pixels)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # no permission, name too long, a zero byte in the name
        raise ImageError(f"{path}: cannot be read ({_one_line(error)})") from None


def _check_length(path: Path | str, length: int, max_pixels: int) -> None:
    if length > _BYTES_PER_PIXEL * max_pixels:
        more = "more than " if storage.is_url(path) else ""  # no more than that was read
        raise ImageError(
            f"{path}: {more}{length / 1e6:,.0f} MB, too large for an image of {max_pixels / 1e6:g} million pixels; "
            "cut the cells out first"
        )


def _title(source: Path | str | bytes) -> str:
    return "image" if isinstance(source, bytes) else str(source)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _explained(title: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one `ImageError` about `title`."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except _Refused as refusal:
        raise ImageError(f"{title}: {refusal}") from None
    except EOFError:
        raise ImageError(f"{title}: truncated, the file ends before the image does; copy it again") from None
    except Exception as error:  # a damaged file can raise anything inside a decoder
        found = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise ImageError(f"{title}: {found} ({_one_line(error)}); copy or convert it again") from None


def _pixels(
    source: Path | str | bytes, max_pixels: int, convert: Callable[[ImageFile.ImageFile], np.ndarray]
) -> np.ndarray:
    """8-bit pixels by `convert`, or the (H, W), (H, W, 3) or (H, W, 4) uint16 values of a 16-bit image."""
    data = source if isinstance(source, bytes) else read_bytes(source, max_pixels)
    image = _open(data)
    _check_header(image, max_pixels)
    bits = _bits_per_sample(image, data)
    if bits > 16:
        raise _Refused(f"{bits} bits per sample; convert it to 8 bits first")
    if bits > 8:
        return _deep_values(image, data)
    image.load()
    if _orientation(image) != 1:
        from PIL import ImageOps

        ImageOps.exif_transpose(image, in_place=True)
    return convert(image)


def _open(data: bytes) -> ImageFile.ImageFile:
    """The format is decided by the content, never by the name; only the header is read.

    Pillow's classes are used directly: `Image.open` would apply limits that any library in the process can change.
    """
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

    tiff = TiffImagePlugin.TiffImageFile
    signatures: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
        (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
        (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
        *((magic, tiff) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        (b"BM", BmpImagePlugin.BmpImageFile),
        (b"GIF8", GifImagePlugin.GifImageFile),
    )
    if not data:
        raise _Refused("an empty file; copy it again")
    for magic, reader in signatures:
        if data.startswith(magic):
            return reader(_Stream(data))
    raise _Refused(f"not a {_FORMATS} image (it begins with {data[:12]!r}); remove or convert it")


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _Refused(
            f"{width} x {height} pixels, more than the {max_pixels / 1e6:g} million that are read; "
            "cut the cells out or shrink it first"
        )
    pages = getattr(image, "n_frames", 1)
    for page in range(1, pages):
        image.seek(page)
        if image.width * image.height >= width * height:
            raise _Refused(f"{pages} pages or frames; save the one that shows the cell as its own file")
    if pages > 1:
        image.seek(0)


def _bits_per_sample(image: ImageFile.ImageFile, data: bytes) -> int:
    # Pillow opens 16-bit RGB as 8-bit by cutting the low byte, so the mode does not tell.
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(np.max(image.tag_v2.get(258, 1)))  # type: ignore[attr-defined]
    return 8


def _deep_values(image: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    import cv2

    turned = image.format == "TIFF"  # OpenCV applies the orientation tag of TIFF, and ignores that of PNG
    orientation = 1 if turned else _orientation(image)
    image.load()  # OpenCV fills what a truncated file lacks; Pillow refuses it
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise _Refused("more than 8 bits per sample in a layout that cannot be read; convert it to 8 bits first")
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]  # OpenCV reads BGR(A)
    return np.ascontiguousarray(_turned(values, orientation))


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        return int(image.getexif().get(274, 1))
    except Exception:  # damaged EXIF beside good pixels: the image is taken as it is stored
        return 1


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array as EXIF orientation 1 to 8 wants it shown."""
    if orientation in _SIDEWAYS:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _rgb_of_pillow(image: ImageFile.ImageFile) -> np.ndarray:
    if image.has_transparency_data:
        return _on_white(np.array(image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _values_of_pillow(image: ImageFile.ImageFile) -> np.ndarray:
    if image.format == "JPEG":
        raise _Refused("a mask must be stored without loss, and JPEG is lossy; save it as PNG")
    values = np.array(image)
    return values[..., 0] if image.mode in ("LA", "La", "PA") else values


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """uint16 values, grey or colour, to (H, W, 3) uint8."""
    if (top := int((values if values.ndim == 2 else values[..., :3]).max())) < _TWELVE_BITS:
        raise _Refused(
            f"16 bits per sample, but its largest value is {top} of 65535 (a 12-bit camera?), so it would be almost "
            "black; rescale it to 8 bits first"
        )
    eight = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if eight.ndim == 2:
        return np.repeat(eight[..., None], 3, axis=2)
    return _on_white(eight) if eight.shape[2] == 4 else eight


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 to (H, W, 3) uint8."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255 or alpha.max() == 0:
        return np.ascontiguousarray(colour)
    weight = alpha.astype(np.uint32)
    return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
