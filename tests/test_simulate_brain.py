"""The simulated brain: what must hold of its physics, its anatomy, its mask and its random numbers."""

import hashlib
import importlib.util
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from fairrecon_lab.simulate import brain
from fairrecon_lab.simulate.brain import TUMOUR_KINDS, BrainPatient, Sequence, render, signal
from fairrecon_lab.simulate.fields import Field, trilinear

PIXEL = brain.FIELD_OF_VIEW / 128  # mm


def people(n, **causes):
    return [BrainPatient((404, i), **causes) for i in range(n)]


def mean_latent(name, n=16, **causes):
    return np.mean([render(p, 64, 1, tumour=False).latents[name] for p in people(n, **causes)])


# ---- random numbers


def digest(size=64):
    slices = [render(p, size, 2, kspace=True) for p in people(3, age=0.7, sex=1.0, aggressiveness=1.2)]
    return hashlib.sha256(
        b"".join(s.images.tobytes() + s.kspace.tobytes() + s.masks.tobytes() for s in slices)
    ).hexdigest()


def test_another_process_draws_the_same_bytes():
    here = Path(__file__)
    code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as t; print(t.digest())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest()


def test_order_and_company_change_no_byte():
    first, second = people(2)
    alone = render(second, 64, 1).images[0]
    render(first, 64, 3)
    assert np.array_equal(render(second, 64, 3).images[0], alone)


def test_size_of_the_stack_and_extras_change_no_byte():
    (person,) = people(1)
    full = render(person, 64, 4, kspace=True)
    assert np.array_equal(render(person, 64, 2).images, full.images[:2])
    assert render(person, 64, 2).kspace is None


def test_without_an_anatomical_effect_sex_and_age_leave_the_image_bit_identical():
    male, female = (BrainPatient((9,), sex=sex * 0.0, age=age * 0.0) for sex, age in ((1, 1.5), (-1, -1.5)))
    for one, other in zip(render(male, 64, kspace=True), render(female, 64, kspace=True)):
        assert np.array_equal(one, other)


def test_an_attribute_changes_the_anatomy_and_nothing_that_was_drawn():
    young, old = (render(BrainPatient((9,), age=age, snr=50), 64, 1, kspace=True) for age in (-1.0, 1.5))
    assert not np.array_equal(young.images, old.images)
    assert young.latents["radius_mm"] == old.latents["radius_mm"]
    overlap = (young.masks & old.masks).sum() / (young.masks | old.masks).sum()
    assert overlap > 0.5  # the same tumour at the same place


def test_two_patients_differ():
    first, second = (render(p, 64, 1).images[0] for p in people(2))
    both = (first > 0) & (second > 0)
    assert abs(np.corrcoef(first[both], second[both])[0, 1]) < 0.8


# ---- fields


def test_trilinear_reads_a_linear_function_exactly():
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (5, 6, 7)), indexing="ij")
    volume = np.stack([2 * x - y + 3 * z, x * 0 + 1], axis=-1)
    points = np.random.default_rng(0).uniform(0, 3.9, (3, 50)).astype(np.float32)
    linear, one = trilinear(volume, points)
    assert linear == pytest.approx(2 * points[0] - points[1] + 3 * points[2], abs=1e-5)
    assert one == pytest.approx(1, abs=1e-6)


def test_a_field_has_unit_variance_and_the_correlation_it_promises():
    rng = np.random.default_rng(3)
    here = rng.uniform(-80, 80, (3, 4000)).astype(np.float32)
    product, square = [], []
    for _ in range(20):
        field = Field(rng, 5.0)
        a, b = field(here), field(here + np.array([[5.0], [0], [0]], np.float32))
        product.append((a * b).mean())
        square.append((a**2).mean())
    assert np.mean(square) == pytest.approx(0.96, abs=0.06)  # reading between samples loses a little
    assert np.mean(product) / np.mean(square) == pytest.approx(math.exp(-1 / 2), abs=0.05)


# ---- physics


def test_csf_is_nulled_at_the_inversion_time_of_the_formula():
    t1, tr = brain.TISSUES["csf"][0], 9000.0
    null = t1 * math.log(2 / (1 + math.exp(-tr / t1)))
    assert signal("csf", Sequence(tr, null)) == pytest.approx(0, abs=1e-12)
    assert signal("csf", Sequence(tr, null + 300)) > 0.01


def test_signals_by_hand():
    # white: 0.70 (1 - 2 e^(-2500/850) + e^(-9000/850)) e^(-100/70) = 0.70 * 0.894404 * 0.239651
    assert signal("white") == pytest.approx(0.150042, abs=2e-6)
    assert signal("grey") / signal("white") == pytest.approx(1.2505, abs=1e-4)
    assert signal("csf") / signal("white") < 0.04
    order = ["csf", "calcified", "necrosis", "white", "deep_grey", "grey", "solid", "mismatch", "rim", "lesion"]
    values = [signal(tissue) for tissue in [*order, "oedema", "low_grade"]]
    assert values == sorted(values)


def test_without_inversion_the_fluid_is_the_brightest():
    t2_weighted = Sequence(tr_ms=5000, ti_ms=0, te_ms=100)
    assert signal("csf", t2_weighted) == max(signal(tissue, t2_weighted) for tissue in brain.TISSUES)
    flair, t2 = (render(BrainPatient((5,), age=1.0), 64, 1, sequence=s) for s in (brain.SEQUENCE, t2_weighted))
    assert np.percentile(t2.images, 99.5) > 2 * np.median(t2.images[t2.images > 0])
    assert np.array_equal(flair.masks, t2.masks)


def test_a_sequence_that_nulls_white_matter_still_has_noise():
    t1 = brain.TISSUES["white"][0]
    null = t1 * math.log(2 / (1 + math.exp(-9000 / t1)))
    image = render(BrainPatient((5,)), 64, 1, sequence=Sequence(ti_ms=null)).images[0]
    assert np.isfinite(image).all() and 0.02 < image[image > 0].mean() < 0.9


def test_air_is_rayleigh_and_white_matter_has_the_asked_snr():
    residual, air = [], []
    for person in people(6, snr=20.0):
        clean = render(BrainPatient(person.exogenous, snr=1e9), 128, 1, kspace=True)
        noisy = render(person, 128, 1, kspace=True)
        noise = noisy.kspace - clean.kspace
        residual += [noise.real.std(), noise.imag.std()]
        magnitude = abs(to_image(noisy.kspace[0]))
        air.append(magnitude[:16, :16].mean())  # a corner, far from head and ringing
    sigma = brain.WHITE_LEVEL / 20
    assert np.mean(residual) == pytest.approx(sigma, rel=0.01)
    assert np.mean(air) == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.03)


def to_image(kspace):
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace), norm="ortho"))


def test_the_image_is_the_magnitude_behind_its_kspace():
    slices = render(BrainPatient((1, 2)), 96, 2, kspace=True)
    for image, kspace in zip(slices.images, slices.kspace):
        magnitude = np.abs(to_image(kspace))
        assert np.abs(magnitude - image)[image > 0].max() < 1e-5
        assert np.abs(np.angle(to_image(kspace))[image > 0]).std() > 0.02  # the object has a phase


# ---- geometry


def test_pixel_size_does_not_change_the_anatomy():
    for person in people(4, age=0.5, snr=1e6):
        coarse = render(person, 128, 1).images[0]
        binned = render(person, 256, 1).images[0].reshape(128, 2, 128, 2).mean(axis=(1, 3))
        both = (coarse > 0) & (binned > 0)
        assert np.corrcoef(coarse[both], binned[both])[0, 1] > 0.99


def test_slices_drift_apart_with_distance():
    def likeness(spacing_mm):
        values = []
        for person in people(8):
            here, there = render(person, 64, 2, spacing_mm).images
            both = (here > 0) & (there > 0)
            values.append(np.corrcoef(here[both], there[both])[0, 1])
        return np.mean(values)

    likenesses = [likeness(spacing) for spacing in (0.6, 1.5, 3.0, 6.0)]
    assert likenesses == sorted(likenesses, reverse=True)
    assert likenesses[0] > 0.93


def test_age_grows_ventricles_sulci_and_lesions_in_the_mean():
    for name in ("ventricle_mm2", "sulci_mm2", "lesion_mm2"):
        values = [mean_latent(name, age=age) for age in (-1.5, 0.0, 1.5)]
        assert values[0] * 1.2 < values[1] < values[2] / 1.2, name


def test_men_have_the_larger_heads_in_the_mean():
    female, none, male = (mean_latent("brain_mm2", sex=sex) for sex in (-1.0, 0.0, 1.0))
    assert female < none < male
    assert male / female == pytest.approx((1.02 / 0.98) ** 2, rel=0.01)


def test_the_brain_is_dark_outside_and_within_range():
    for person in people(6, sex=1.0, age=1.5):
        images = render(person, 64, 3).images
        assert images.dtype == np.float32 and images.min() == 0 and images.max() <= 1
        assert (images[0, [0, -1]] == 0).all() and (images[0][:, [0, -1]] == 0).all()  # inside the field of view


def test_beyond_the_atlas_slices_are_empty():
    slices = render(BrainPatient((3,)), 64, 9, spacing_mm=30, kspace=True)
    assert (slices.images[-2:] == 0).all() and not slices.masks[-2:].any()


# ---- tumour


@pytest.mark.parametrize("kind", TUMOUR_KINDS)
def test_mask_is_the_visible_abnormality(kind):
    dice = []
    for i, person in enumerate(people(14, tumour_kind=kind, snr=1e6)):
        person = BrainPatient(person.exogenous, aggressiveness=(i % 4) - 1.0, tumour_kind=kind, snr=1e6)
        with_it, without = (render(person, 128, 1, tumour=tumour) for tumour in (True, False))
        mask, image = with_it.masks[0], with_it.images[0]
        assert 60 < mask.sum() * PIXEL**2 < 8000
        assert (image[mask] > 0).mean() > 0.99
        assert not without.masks.any()
        # Mass effect moves tissue outside the mask, so compare coarsely.
        changed = np.abs(ndimage.gaussian_filter(image - without.images[0], 1.0)) > 0.06
        dice.append(2 * (changed & mask).sum() / (changed.sum() + mask.sum()))
    assert np.median(dice) > 0.7


def test_masks_have_no_satellite_islands():
    outside = []
    for person in people(30, aggressiveness=1.5):
        mask = render(person, 128, 1).masks[0]
        parts = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        outside.append(1 - parts.max() / parts.sum())
    assert np.mean(outside) < 0.03


def test_conspicuity_lowers_the_contrast_and_leaves_the_mask():
    def contrast(conspicuity):
        values = []
        for person in people(8, aggressiveness=-1.0, conspicuity=conspicuity, snr=1e6):
            slices = render(person, 64, 1)
            healthy = render(person, 64, 1, tumour=False).images[0]
            values.append((slices.images[0] - healthy)[slices.masks[0]].mean())
        return np.mean(values)

    assert contrast(0.6) / contrast(1.0) == pytest.approx(0.6**0.4, abs=0.04)
    for full, faint in zip(people(3), people(3, conspicuity=0.6)):
        assert np.array_equal(render(full, 64).masks, render(faint, 64).masks)


def test_aggressiveness_brings_oedema_necrosis_and_mass_effect():
    calm, wild = ([brain._person(p) for p in people(40, aggressiveness=a)] for a in (-1.5, 1.5))
    for trait in ("radius", "mass_effect", "oedema", "necrosis", "high_grade"):
        assert np.mean([getattr(p.tumour, trait) for p in calm]) < np.mean([getattr(p.tumour, trait) for p in wild]), (
            trait
        )


def test_astrocytoma_shows_the_mismatch_and_oligodendroglioma_the_calcium():
    def inner(kind, quantile):
        values = []
        for person in people(12, tumour_kind=kind, aggressiveness=-2.0, snr=1e6):
            slices = render(person, 128, 1)
            centre = ndimage.binary_erosion(slices.masks[0], iterations=4)
            values.append(np.quantile(slices.images[0][centre], quantile) if centre.any() else np.nan)
        return np.nanmean(values)

    assert inner("astrocytoma", 0.5) < inner("glioblastoma", 0.5) - 0.02
    assert inner("oligodendroglioma", 0.05) < inner("glioblastoma", 0.05) - 0.05


# ---- atlas, budget and bad input


def test_the_packaged_atlas_is_small_and_holds_what_the_docstring_says():
    path = Path(brain.__file__).with_name("atlas.npz")
    assert path.stat().st_size < 1.4e6
    with np.load(path) as stored:
        assert stored["maps"].shape == (4, 53, 131, 81) and stored["maps"].dtype == np.uint8
        assert stored["sites"].shape[1] == 3 and stored["sites"][:, 0].min() > 0
    atlas = brain._atlas()
    assert np.array_equal(atlas.maps, atlas.maps[::-1])
    tissue = atlas.maps[..., 0] + atlas.maps[..., 1]
    assert (tissue <= atlas.maps[..., 2] + 0.2).mean() > 0.99  # grey and white matter are inside the brain
    left, right = (brain._look_up(atlas.maps, np.array([[x], [-20], [30]], np.float32)) for x in (-33, 33))
    assert left == pytest.approx(right, abs=1e-5)
    assert left[1, 0] > 0.9  # deep frontoparietal white matter


def test_the_atlas_file_does_not_depend_on_the_time_of_day(tmp_path):
    script = Path(__file__).parents[1] / "data_scripts" / "make_atlas.py"
    spec = importlib.util.spec_from_file_location("make_atlas", script)
    make_atlas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_atlas)
    for name in ("one.npz", "two.npz"):
        make_atlas.write({"maps": np.arange(5), "sites": np.eye(3)}, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]
    assert np.array_equal(np.load(tmp_path / "one.npz")["maps"], np.arange(5))


def test_a_hundred_images_stay_within_time_and_memory():
    """The published budget is 12 ms and 300 MB (benchmarks); here only a regression by a factor is caught."""
    cohort = people(50)
    render(cohort[0], 128)
    begin = time.process_time()
    for person in cohort:
        render(person, 128)
    assert (time.process_time() - begin) / 100 < 0.040  # s per image


@pytest.mark.parametrize("size", [63, 30, 0, -64])
def test_a_bad_size_is_refused(size):
    with pytest.raises(ValueError, match=f"even and at least 32, got {size}"):
        render(BrainPatient((1,)), size)


def test_no_slice_is_refused():
    with pytest.raises(ValueError, match="n_slices must be at least 1, got 0"):
        render(BrainPatient((1,)), 64, n_slices=0)


def test_an_unknown_tumour_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'meningioma'; choose one of .*oligodendroglioma"):
        BrainPatient((1,), tumour_kind="meningioma")


@pytest.mark.parametrize("causes", [{"snr": 0}, {"snr": math.nan}, {"conspicuity": -1}])
def test_impossible_causes_are_refused(causes):
    with pytest.raises(ValueError, match="above 0"):
        BrainPatient((1,), **causes)
