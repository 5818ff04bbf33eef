"""Pixels of films and masks: decoded as they are meant, scaled to [0, 1], fitted to a square.

Conventions: a film becomes float32 in [0, 1] first and a square second, as in the published code. What the file does
not say for sure is refused by the file's name: a whole number beyond 16 bits, several pages, a mask of another size.
"""

import io

import numpy as np
from PIL import Image, ImageOps

MOST_PIXELS = 2**26  # of one film; the largest radiographs have a quarter
MOST_PACKED = 4000  # pixels that a byte of a file can hold, at most
FULL_SCALES = (1, 255, 65535)  # what a mask says where there is tumour
HIGH_PERCENTILE = 99.9  # of a volume: what becomes 1 with --scale volume-percentile


def decode(data: bytes, name: str) -> np.ndarray:
    """Pixels of a PNG, JPEG or TIFF file.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        Its name, for the message.

    Returns
    -------
    ndarray, shape (H, W), or (H, W, 3) of a colour TIFF
        uint8 or uint16; int32 or float32 where the file holds that. Other colour images are turned into grey; the
        camera's orientation is applied.

    Raises
    ------
    ValueError
        The file is truncated or no image, has several pages, too many pixels, or pixels that are NaN or infinite.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as film:
            if film.width * film.height > min(MOST_PIXELS, 2**16 + MOST_PACKED * len(data)):
                raise ValueError(f"it claims {film.width} x {film.height} pixels")
            if getattr(film, "n_frames", 1) > 1:
                raise ValueError(f"it holds {film.n_frames} pages, one image a file is expected")
            film.load()
            film = film if film.format == "TIFF" else ImageOps.exif_transpose(film)  # of a TIFF, Pillow has done it
            pixels = np.asarray(film if film.mode in ("F", "I") or film.mode.startswith("I;16") else _plain(film))
    except Exception as error:  # whatever Pillow raises on a damaged file
        raise ValueError(
            f"{name} is truncated or no image ({error}): fetch that file again, then start again"
        ) from error
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(pixels)).sum())} pixels that are NaN or infinite: mend it")
    whole = pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1
    return pixels.astype(np.uint16) if whole and pixels.min() >= 0 and pixels.max() < 2**16 else pixels


def _plain(film: Image.Image) -> Image.Image:
    """A colour TIFF as it is (its channels are sequences), everything else as 8-bit grey."""
    return film if film.format == "TIFF" and film.mode == "RGB" else film.convert("L")


def to_unit(image: np.ndarray, scale: str, name: str = "an image", bits: int | None = None) -> np.ndarray:
    """Grey values as float32 in [0, 1].

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Of any type; 8 or 16 bits without a sign tell the full scale.
    scale : {"image", "fixed"}
        Minimum to 0 and maximum to 1 of this image, as published (an even image becomes 0); or 0 to the largest
        number of its type, which keeps the brightness of images comparable.
    name : str
        For the message.
    bits : int, optional
        That a grey value of the source had, for "fixed": a file of 16 bits often holds 12 and would come out black.

    Raises
    ------
    ValueError
        "fixed", and `image` does not say what its full scale is: its type has none that a film would use, or its 16
        bits are half empty and `bits` is not given; or it exceeds `bits`.
    """
    image = np.asarray(image)
    if scale == "fixed" and image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{name} has pixels of type {image.dtype}, {image.min():g} to {image.max():g}, whose full "
                         "scale is not known: use --scale image")  # fmt: skip
    if scale == "fixed" and bits is None and image.dtype == np.uint16 and image.max() < 2**15:
        n = int(image.max()).bit_length()
        raise ValueError(f"{name} has 16-bit pixels of at most {image.max()}, as a film of {n} bits would: say what it "
                         "is with --bits 12 (10, 14, 16), or use --scale image")  # fmt: skip
    if scale == "fixed" and bits is not None and image.max() >= 2**bits:
        raise ValueError(
            f"{name} has pixels up to {image.max()}, more than --bits {bits} allows: give the right number"
        )
    full = 2**bits - 1 if bits else np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 0
    low, high = (0, full) if scale == "fixed" else (float(image.min()), float(image.max()))
    exact = image.astype(np.float64 if image.dtype.itemsize > 2 else np.float32)  # int32 beyond 2**24
    return ((exact - exact.dtype.type(low)) / exact.dtype.type(high - low if high > low else 1)).astype(np.float32)


def to_square(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Fit an image to a square.

    Parameters
    ----------
    image : ndarray, float32, shape (H, W), in [0, 1]
    size : int
        Side of the square, in pixels.
    fit : {"squeeze", "pad"}
        Stretch both sides to `size`, as published; or keep the proportions and put black beside the short side.

    Returns
    -------
    ndarray, float32, shape (size, size)
        Resampled bilinearly with antialiasing; an image of that size is returned as it is.
    """
    height, width = image.shape
    if fit == "pad":
        height, width = (max(1, round(side * size / max(image.shape))) for side in image.shape)
    else:
        height = width = size
    if image.shape != (height, width):
        film = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
        image = np.asarray(film.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(image, ((top, size - height - top), (left, size - width - left)))


def mask_to_square(mask: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Fit a mask, bool (H, W), to a square as `to_square` does: True where at least half is covered (`size`, `fit`)."""
    return to_square(mask.astype(np.float32), size, fit) >= 0.5


def mask_of(pixels: np.ndarray, name: str) -> np.ndarray:
    """A mask as bool (H, W): where a file says at least half of its full scale (1, 255 or 65535).

    Parameters
    ----------
    pixels : ndarray
        Of `decode`.
    name : str
        Name of the file, for the message.

    Raises
    ------
    ValueError
        Its channels differ, a value is negative, or its largest value is no full scale: 2 may be a label or noise.
    """
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise ValueError(f"{name} is a mask in colour whose channels differ: save it as one channel")
        pixels = pixels[..., 0]
    low, high = float(pixels.min()), float(pixels.max())
    full = next((full for full in FULL_SCALES if high <= full), None)
    if low < 0 or full is None or (0 < high < 0.75 * full):
        raise ValueError(
            f"{name} is a mask with values {low:g} to {high:g}: tumour should be 1, 255 or 65535, the rest 0"
        )
    return pixels >= full / 2


def check_shape(pixels: np.ndarray, shape: tuple, name: str, other: str) -> None:
    """Refuse, with a ValueError, the image `name` if its mask `other` has another `shape` than its `pixels`."""
    if pixels.shape[:2] != tuple(shape[:2]):
        raise ValueError(f"{name} has {pixels.shape[:2]} pixels, its mask {other} {tuple(shape[:2])}: fetch both again")


def to_unit_percentile(image: np.ndarray, high: float) -> np.ndarray:
    """Grey values from 0 to `high`, a percentile of the whole volume, as float32 in [0, 1]; beyond is 1."""
    return (image.astype(np.float32) / np.float32(high if high > 0 else 1)).clip(0, 1)


def high_of(slices) -> float:
    """The HIGH_PERCENTILE of all values above 0 in some `slices`; 0 if there is none."""
    values = np.concatenate([part[part > 0].ravel() for part in slices])
    return float(np.percentile(values, HIGH_PERCENTILE)) if values.size else 0.0


def weak_images(cohort, chunk: int = 256) -> tuple[list[str], list[str]]:
    """Ids of the images with one grey value, and of those of which 99 % are darker than a tenth of the brightest pixel.

    Parameters
    ----------
    cohort : fairrecon_core.cohort.folder.Cohort
    chunk : int
        Images in memory at a time.
    """
    flat, dim = [], []
    for start in range(0, len(cohort), chunk):
        images = np.asarray(cohort.images[start : start + chunk])
        images = images.reshape(len(images), -1)
        top, low = images.max(axis=1), images.min(axis=1)
        bright = np.partition(images, int(0.99 * images.shape[1]), axis=1)[:, int(0.99 * images.shape[1])]
        ids = cohort.table["image_id"].to_numpy()[start : start + chunk]
        flat += ids[top == low].tolist()
        dim += ids[(top > low) & (bright < top / 10)].tolist()
    return flat, dim
