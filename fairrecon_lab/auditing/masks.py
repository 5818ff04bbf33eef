"""Masks in two folders, predicted and true, as a table: Dice and how far apart their surfaces are.

Conventions: a mask is where a file is not 0. Surface: the pixels of a mask with a neighbour outside of it (across a
face, in 2 or 3 dimensions; beyond the array is outside). Distances are Euclidean between pixel centres, in mm by the
spacing of a NIfTI, in pixels for PNG. `hd95`: the larger of the two directions' 95th percentiles. `surface`: the mean
over the pixels of both surfaces. Two empty masks have a Dice of 1 and no distance; where one alone is empty the Dice is
0 and the distance NaN. Source: Maier-Hein et al. 2024, "Metrics reloaded" (doi:10.1038/s41592-023-02151-z).
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, distance_transform_edt

ENDINGS = (".nii.gz", ".nii", ".png")


def measured(predicted: str | Path, true: str | Path) -> pd.DataFrame:
    """The measures of every pair of masks that have the same name.

    Parameters
    ----------
    predicted, true : path
        Folders of masks; a file and its partner have the same name up to the ending.

    Returns
    -------
    DataFrame
        Columns `image_id` (the name without ending), `dice`, and `hd95_mm surface_mm` or `hd95_px surface_px`.

    Raises
    ------
    ValueError
        A mask has no partner, another shape or spacing, or cannot be read; the message names the file.
    ImportError
        The package that reads them is not installed.
    """
    folders = [_masks(Path(folder)) for folder in (predicted, true)]
    lone = sorted(set(folders[0]) ^ set(folders[1]))
    if lone:
        home = predicted if lone[0] in folders[0] else true
        other = true if home == predicted else predicted
        raise ValueError(f"mask {lone[0]!r} of {home} has no partner in {other} ({len(lone)} such): add or drop it")
    rows, units = [], set()
    for name in sorted(folders[0]):
        (one, spacing), (two, theirs) = (read_mask(folder[name]) for folder in folders)
        if (
            one.shape != two.shape
            or not np.allclose(spacing or 1, theirs or 1, rtol=1e-3)
            or bool(spacing) != bool(theirs)
        ):
            raise ValueError(f"{folders[0][name]} is {_size(one, spacing)}, {folders[1][name]} {_size(two, theirs)}: "
                             "resample one to the other")  # fmt: skip
        units.add("mm" if spacing else "px")
        rows.append({"image_id": name, **compared(one, two, spacing)})
    if len(units) > 1:
        raise ValueError(f"{predicted} has masks with and without a spacing (NIfTI and PNG): audit them one by one")
    unit = units.pop()
    frame = pd.DataFrame(rows).rename(columns={"hd95": f"hd95_{unit}", "surface": f"surface_{unit}"})
    frame.attrs = {
        "file": Path(predicted).name,
        "notes": [f"{len(frame)} pairs of masks measured, distances in {unit}"],
    }
    lost = int(frame[f"hd95_{unit}"].isna().sum())
    if lost:
        frame.attrs["notes"].append(
            f"{lost} pairs with an empty mask have no surface distance: left out of it, not of Dice"
        )
    return frame


def compared(one: np.ndarray, two: np.ndarray, spacing=None) -> dict[str, float]:
    """`dice`, `hd95` and `surface` of two masks (bool, of one shape); `spacing` by axis, default 1."""
    total = int(one.sum()) + int(two.sum())
    if not one.any() or not two.any():
        return {"dice": float(total == 0), "hd95": np.nan, "surface": np.nan}
    box = tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(one | two))
    one, two = one[box], two[box]  # distances between the masks do not change
    edges = [mask & ~binary_erosion(mask) for mask in (one, two)]
    far = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    apart = far[1][edges[0]], far[0][edges[1]]
    return {
        "dice": 2 * int((one & two).sum()) / total,
        "hd95": float(max(np.percentile(each, 95) for each in apart)),
        "surface": float(np.concatenate(apart).mean()),
    }


def read_mask(path: Path) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """A mask from a file.

    Parameters
    ----------
    path : Path
        NIfTI or PNG.

    Returns
    -------
    mask : bool array
    spacing : tuple of float, in mm by axis; None for PNG

    Raises
    ------
    ValueError, ImportError
        As in `measured`.
    """
    package = "nibabel" if ".nii" in path.name else "pillow"
    try:
        if package == "nibabel":
            import nibabel

            image = nibabel.load(path)
            return _bool(np.asanyarray(image.dataobj), path), tuple(
                float(mm) for mm in image.header.get_zooms()[: image.ndim]
            )
        from PIL import Image

        with Image.open(path) as picture:
            values = np.asarray(picture)
        return _bool(values[..., :3].max(axis=-1) if values.ndim == 3 else values, path), None
    except ImportError:
        raise ImportError(f"{path} needs {package}: pip install {package}") from None
    except ValueError:
        raise
    except Exception as error:  # what the two packages raise for a damaged file is no closed list
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0][:100]}): write it again") from None


def _bool(values: np.ndarray, path: Path) -> np.ndarray:
    found = np.unique(values)
    if not np.isfinite(found).all() or found.size > 2:
        shown = ", ".join(f"{value:g}" for value in found[:5].astype(float))
        raise ValueError(f"{path} has {found.size} values ({shown} ...): a mask has two, 0 and another")
    return np.squeeze(values) != 0 if values.ndim > 3 else values != 0


def _masks(folder: Path) -> dict[str, Path]:
    """Name without ending -> file."""
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: --masks takes two folders of NIfTI or PNG masks")
    out = dict[str, Path]()
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")
        name = path.name[: len(path.name) - len(ending)]
        if ending and name in out:
            raise ValueError(f"{folder} has {out[name].name} and {path.name}: drop one")
        out |= {name: path} if ending else {}
    if not out:
        raise ValueError(f"{folder} has no masks that end in {', '.join(ENDINGS)}")
    return out


def _size(mask: np.ndarray, spacing) -> str:
    shown = "" if spacing is None else f" at {' x '.join(f'{mm:g}' for mm in spacing)} mm"
    return " x ".join(map(str, mask.shape)) + shown
