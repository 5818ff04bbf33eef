"""Pixels as they are stored, and as they are computed with."""

import numpy as np


def as_float(stored) -> np.ndarray:
    """Stored pixels (uint8, uint16) as float32 in [0, 1]; what is not stored as whole numbers stays what it is."""
    stored = np.asarray(stored)
    pixels = stored.astype(np.float32)
    return pixels / np.float32(np.iinfo(stored.dtype).max) if stored.dtype.kind == "u" else pixels


def as_uint16(images) -> np.ndarray:
    """Images, cut to [0, 1], as they are stored: uint16."""
    return np.round(np.asarray(images).clip(0, 1) * 65535).astype(np.uint16)
