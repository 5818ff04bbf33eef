"""Make `fairrecon_lab/simulate/atlas.npz`, the tissue atlas under the simulated brain cohort.

    pip install nilearn
    python data_scripts/make_atlas.py [--out FILE]

Reads the 1 mm MNI ICBM152 (2009a, symmetric) maps that ship inside nilearn, so nothing is downloaded, and keeps
one hemisphere at 1.5 mm: the maps are exactly left-right symmetric, which is checked. The run takes half a minute and
1.1 GB; running it again gives the same bytes, and the file is replaced only once the new one is complete.

atlas.npz holds
    maps    uint8 (4, 53, 131, 81): grey matter, white matter, brain, ventricle potential; 255 is 1, and what is
            left of the brain is CSF. Indices count 1.5 mm steps in x, y, z from (0, -114, -40) mm (MNI: right,
            anterior, superior).
    sites   int8 (n, 3): places in the white matter, in mm with x > 0, where a glioma may be centred.

Sources: Fonov et al. 2009, doi:10.1016/S1053-8119(09)70884-5; Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033.
The notice that goes with the maps is in NOTICE.
"""

import argparse
import io
import os
import zipfile
from pathlib import Path

import numpy as np
from scipy import ndimage

OUT = Path(__file__).resolve().parents[1] / "fairrecon_core" / "simulate" / "atlas.npz"
STEP = 1.5  # mm
LOW, HIGH = np.array([0, -114, -40]), np.array([78, 81, 80])  # mm, the box that is kept
POTENTIAL_BLUR = 7.0  # mm; how far a growing ventricle pushes


def load_maps() -> dict[str, np.ndarray]:
    """The three maps of nilearn as uint8 (197, 233, 189) with MNI (0, 0, 0) at index (98, 134, 72)."""
    try:
        import nibabel
        import nilearn
    except ImportError as error:
        raise SystemExit("the maps come with nilearn: pip install nilearn") from error
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    maps = {}
    for name in ("t1", "gm", "wm"):
        file = nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        maps[name] = np.asanyarray(file.dataobj)
        if maps[name].shape != (197, 233, 189) or not np.allclose(file.affine[:3, 3], (-98, -134, -72)):
            raise SystemExit(f"the {name} map has another shape or origin than nilearn 0.10 to 0.14 ship")
        if not np.array_equal(maps[name], maps[name][::-1]):
            raise SystemExit(f"the {name} map is not left-right symmetric, so half of it is not enough")
    return maps


def ventricles(csf: np.ndarray, depth: np.ndarray, mm: tuple[np.ndarray, ...]) -> np.ndarray:
    """Ventricular part of the CSF map: deep, central, and connected over more than 150 mm3."""
    x, y, z = mm
    box = (np.abs(x) < 42) & (y > -75) & (y < 45) & (z > -22) & (z < 36)
    deep = csf * (depth > 16) * box
    label, n = ndimage.label(deep > 0.5)
    volume = ndimage.sum(deep > 0.5, label, np.arange(1, n + 1))
    return deep * ndimage.binary_dilation(np.isin(label, 1 + np.flatnonzero(volume > 150)))


def sulci(t1: np.ndarray, brain: np.ndarray, depth: np.ndarray, mm: tuple[np.ndarray, ...]) -> np.ndarray:
    """Share of CSF in the folds of the cortex, 0 to 0.45, and to 0.65 between the hemispheres.

    The mean of 152 brains blurs narrow sulci until the tissue maps call them grey. They survive as valleys of the T1
    image: where its largest second derivative (T1 units per mm2, after a 1.2 mm blur) is well above 0.
    """
    smooth = ndimage.gaussian_filter(np.where(brain, t1, 60).astype(np.float32), 1.2)
    slopes = np.gradient(smooth)
    hessian = np.stack([np.stack(np.gradient(slope), axis=-1) for slope in slopes], axis=-1)[brain]
    valley = np.zeros_like(smooth)
    valley[brain] = np.linalg.eigvalsh(hessian)[:, 2]
    x, y, z = mm
    cortex = 1 - np.exp(-((x / 33) ** 8 + ((y + 3) / 36) ** 8 + ((z - 3) / 24) ** 8))  # not between the nuclei
    share = 0.45 + 0.20 * np.exp(-((x / 2) ** 2))
    return share * np.clip((valley - 2) / 6, 0, 1) * cortex * np.clip((depth - 1) / 2, 0, 1)


def glioma_sites(grey, white, depth, mm) -> np.ndarray:
    """Hemispheric white matter, at least 9 mm deep and off the midline, thinned to every 29th voxel."""
    x, y, z = mm
    cerebrum = (z > -12) & (z < 52) & ((y > -62) | (z > 2)) & (x > 12)
    inside = (np.clip(white + 0.4 * grey, 0, 1) > 0.5) & (depth > 9) & cerebrum
    index = np.argwhere(inside)[::29]
    return np.stack([axis.ravel()[i] for axis, i in zip(mm, index.T)], axis=1).astype(np.int8)


def resample(volume: np.ndarray, mm: tuple[np.ndarray, ...]) -> np.ndarray:
    """Trilinear samples of a 1 mm volume every `STEP` mm inside the box, slightly blurred first (0.6 mm)."""
    axes = [np.arange(low, high + 0.01, STEP) - axis.ravel()[0] for low, high, axis in zip(LOW, HIGH, mm)]
    points = np.meshgrid(*axes, indexing="ij")
    return ndimage.map_coordinates(ndimage.gaussian_filter(volume, 0.6), points, order=1)


def build() -> dict[str, np.ndarray]:
    """All arrays of atlas.npz."""
    maps = load_maps()
    mm = tuple(
        (np.arange(n) - zero).reshape(shape)
        for n, zero, shape in zip((197, 233, 189), (98, 134, 72), ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
    )
    grey, white = (maps[name].astype(np.float32) / 255 for name in ("gm", "wm"))
    brain = np.stack([ndimage.binary_fill_holes(layer > 0) for layer in np.moveaxis(maps["t1"], 2, 0)], axis=2)
    depth = ndimage.distance_transform_edt(brain).astype(np.float32)  # mm from the surface
    csf = np.clip(brain - grey - white, 0, 1).astype(np.float32)
    potential = ndimage.gaussian_filter(ventricles(csf, depth, mm), POTENTIAL_BLUR)
    sites = glioma_sites(grey, white, depth, mm)
    grey = np.minimum(grey, np.clip(1 - white - sulci(maps["t1"], brain, depth, mm), 0, 1))
    volumes = (grey, white, ndimage.gaussian_filter(brain.astype(np.float32), 0.7), potential / potential.max())
    maps = np.stack([np.rint(255 * np.clip(resample(volume, mm), 0, 1)) for volume in volumes]).astype(np.uint8)
    return {"maps": maps, "sites": sites}


def write(arrays: dict[str, np.ndarray], out: Path) -> None:
    """Write an .npz whose bytes depend on the arrays only (NumPy would stamp the time of day), atomically."""
    part = out.with_name(out.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)
    os.replace(part, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where to write (default: the packaged file)")
    out = parser.parse_args().out
    write(build(), out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
