"""The simulated chest radiograph: its physics, its random streams, and what each finding does to the image."""

import time
import tracemalloc

import numpy as np
import pytest

from fairrecon_lab.simulate import chest_bones as bones
from fairrecon_lab.simulate.chest import FINDINGS, SEVERITY_FLOOR, SEVERITY_SCALE, ChestPatient, detect, render
from fairrecon_lab.simulate.chest_anatomy import FIELD_OF_VIEW, MU

FOCAL = ("lung_lesion", "consolidation", "pneumonia", "atelectasis", "pleural_other", "fracture")


def line_integral(*exogenous, size=64, **fields):
    return render(ChestPatient(exogenous, **fields), size).line_integral


def difference(finding, severity, *exogenous, size=64, **fields):
    """What a finding adds to the line integral of the same patient."""
    with_it = line_integral(*exogenous, severity={finding: severity}, size=size, **fields)
    return with_it - line_integral(*exogenous, size=size, **fields)


# ---------------------------------------------------------------- physics


@pytest.mark.parametrize("thickness", [0.0, 1.0, 5.0, 20.0])
def test_a_slab_attenuates_as_beer_and_lambert_say(thickness):
    slab = np.full((16, 16), MU["soft"] * thickness, np.float32)
    signal = detect(slab, scatter=0.0, photons=np.inf, noise=np.ones_like(slab), pixel=0.5)
    assert signal == pytest.approx(np.exp(-0.205 * thickness), rel=1e-5)


def test_a_splat_keeps_the_mass_that_falls_on_the_film():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.45, 0.45, (2, 5000)).astype(np.float32) * FIELD_OF_VIEW
    mass = rng.exponential(size=5000).astype(np.float32)
    for size in (32, 50, 128):
        thickness = bones.splat(x, y, mass, size)
        assert thickness.sum(dtype=float) * (FIELD_OF_VIEW / size) ** 2 == pytest.approx(
            mass.sum(dtype=float), rel=1e-5
        )


def test_a_splat_at_a_pixel_centre_fills_that_pixel_only():
    size, pixel = 34, FIELD_OF_VIEW / 34
    one = np.ones(1, np.float32)
    thickness = bones.splat(one * np.float32(2.5 * pixel), one * np.float32(-3.5 * pixel), one, size)
    assert thickness[17 - 4, 17 + 2] == pytest.approx(1 / pixel**2, rel=1e-4)
    assert np.count_nonzero(thickness > 1e-4) == 1


def test_points_outside_the_film_are_dropped():
    far = np.array([-100.0, 100.0, 3.0], np.float32)
    assert bones.splat(far, far[::-1] * 40, np.ones(3, np.float32), 32).sum() == 0


def test_a_straight_tube_has_the_mass_of_a_cylinder():
    x = np.linspace(-5, 5, 201, dtype=np.float32)
    radius = np.full_like(x, 0.8)
    points = bones.tube(x, np.zeros_like(x), radius, bones.solid, pixel=0.05)
    assert points.mass.sum() == pytest.approx(np.pi * 0.8**2 * 201 / 200 * 10, rel=0.01)


def test_twice_the_exposure_halves_the_noise_variance():
    object_ = line_integral(3)
    noise = np.random.default_rng(1).standard_normal(object_.shape, dtype=np.float32)
    quiet = detect(object_, 0.4, np.inf, noise, 0.5)
    variance = [np.var(detect(object_, 0.4, photons, noise, 0.5) - quiet) for photons in (1e4, 2e4)]
    assert variance[0] / variance[1] == pytest.approx(2, rel=1e-3)


def test_the_noise_of_a_patient_falls_with_exposure():
    roughness = []
    for exposure in (0.25, 1.0, 4.0):
        image = render(ChestPatient((4,), exposure=exposure), 64).image
        roughness.append(np.diff(image[30:50, 10:54], axis=1).std())
    assert roughness[0] > roughness[1] > roughness[2]


# ---------------------------------------------------------------- random streams


def test_the_same_patient_gives_the_same_bytes_in_any_order():
    patients = [ChestPatient((7, i), {"edema": 1.0, "fracture": 1.0}, sex=1.0, age=0.5) for i in range(3)]
    first = [render(p, 64).image.tobytes() for p in patients]
    np.random.seed(3)  # noqa: NPY002 the global generator plays no part
    again = [render(p, 64).image.tobytes() for p in reversed(patients)][::-1]
    assert first == again and len(set(first)) == 3


@pytest.mark.parametrize("finding", FINDINGS)
def test_conspicuity_scales_severity_exactly(finding):
    faded = render(ChestPatient((5,), {finding: 2.0}, conspicuity=0.25), 32).image
    milder = render(ChestPatient((5,), {finding: 0.5}), 32).image
    assert faded.tobytes() == milder.tobytes()


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_vanishes_continuously_with_its_severity(finding, view):
    healthy = line_integral(6, view=view)
    assert np.array_equal(healthy, line_integral(6, view=view, severity={finding: 0.0}))
    assert np.abs(difference(finding, 1e-4, 6, view=view)).max() < 0.02


def test_attributes_never_shift_a_random_draw():
    for change in ({"sex": 1e-5}, {"sex": -1e-5}, {"age": 1e-5}):
        assert np.abs(line_integral(8, **change) - line_integral(8)).max() < 1e-2


def test_one_finding_leaves_the_place_of_another_alone():
    both = line_integral(9, severity={"lung_lesion": 1.0, "consolidation": 1.0})
    consolidation_only = line_integral(9, severity={"consolidation": 1.0})
    with_it, alone = np.abs(both - consolidation_only), np.abs(difference("lung_lesion", 1.0, 9))
    assert with_it.max() > 0.05
    assert (with_it[alone < 1e-6] < 1e-5).all()


def test_another_visit_changes_the_noise_only():
    first, second = (render(ChestPatient((10,), visit=v), 64) for v in (0, 1))
    assert np.array_equal(first.line_integral, second.line_integral)
    assert not np.array_equal(first.image, second.image)


# ---------------------------------------------------------------- what findings do


@pytest.mark.parametrize("finding", FOCAL)
def test_a_focal_finding_leaves_most_of_the_film_untouched(finding):
    for seed in range(4):
        changed = np.abs(difference(finding, 1.0, 11, seed)) > 1e-4
        assert 0 < changed.mean() < 0.30
        assert not changed[:, 26:38][:14].any()  # the neck


def test_a_finding_never_changes_brightness_elsewhere():
    for seed in range(4):
        patient = {"exogenous": (12, seed)}
        shown = render(ChestPatient(**patient, severity={"pleural_effusion": 3.0}), 64).image
        healthy = render(ChestPatient(**patient), 64).image
        assert np.abs(shown - healthy)[:14].max() < 0.01  # five centimetres of shoulders and neck


def test_a_pneumothorax_is_one_sided_and_dark():
    for seed in range(6):
        change = difference("pneumothorax", 1.5, 13, seed, view="PA")
        left, right = np.abs(change[:, :32]).sum(), np.abs(change[:, 32:]).sum()
        assert min(left, right) < 0.02 * max(left, right)
        assert change.min() < -0.05 and change.sum() < 0


def test_filling_the_lung_only_adds_attenuation():
    for finding in ("consolidation", "pneumonia", "pleural_effusion", "lung_lesion", "pleural_other"):
        assert difference(finding, 1.0, 14).min() > -0.02


def test_the_cardiothoracic_ratio_rises_with_cardiomegaly():
    ratio = [
        render(ChestPatient((15,), {"cardiomegaly": s}), 64).latents["cardiothoracic_ratio"] for s in (0, 0.5, 1, 2, 3)
    ]
    assert np.all(np.diff(ratio) > 0) and ratio[0] < 0.55 < ratio[-1]


def test_fluid_rises_with_the_severity_of_an_effusion():
    for seed in range(3):
        latents = [render(ChestPatient((16, seed), {"pleural_effusion": s}), 64).latents for s in (0, 0.5, 1, 2, 3)]
        height, volume = ([known[key] for known in latents] for key in ("fluid_height_cm", "fluid_ml"))
        assert height[0] == volume[0] == 0
        assert np.all(np.diff(height) > 0) and np.all(np.diff(volume) > 0)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_graver_finding_changes_the_image_more(finding):
    change = [np.abs(difference(finding, s, 17)).sum() for s in (0.2, 0.6, 1.8)]
    assert change[0] < change[1] < change[2]


def test_attributes_act_on_the_anatomy():
    woman, man = (line_integral(18, sex=s) for s in (-1.0, 1.0))
    breast = (woman - man)[36:46, 8:24]
    assert breast.mean() > 0.1
    young, old = (render(ChestPatient((18,), age=a), 64).latents["physique"] for a in (-2.0, 2.0))
    assert old.unfolding > young.unfolding and old.bone < young.bone and young.calcium <= old.calcium


def test_coarse_findings_are_easier_to_detect_than_fine_ones():
    def detectability(finding):  # of a matched filter against photon noise, at mean severity, up to a constant
        severity, values = SEVERITY_FLOOR[finding] + SEVERITY_SCALE[finding], []
        for seed in range(8):
            change = difference(finding, severity, 19, seed)
            values.append(np.sqrt((change**2 * np.exp(-line_integral(19, seed))).sum()))
        return np.mean(values)

    coarse = [detectability(f) for f in ("pleural_effusion", "edema", "cardiomegaly", "consolidation")]
    fine = [detectability(f) for f in ("lung_lesion", "pleural_other", "fracture", "pneumonia")]
    assert np.mean(coarse) > 1.5 * np.mean(fine)
    assert np.median(coarse) > max(fine)


# ---------------------------------------------------------------- images


def test_the_chest_keeps_its_shape_at_every_size():
    for seed in range(3):
        patient = ChestPatient((20, seed), {"lung_lesion": 1.0, "support_devices": 1.0}, sex=-1.0)
        small, large = render(patient, 128), render(patient, 256)
        binned = large.image.reshape(128, 2, 128, 2).mean((1, 3))
        assert np.corrcoef(small.image.ravel(), binned.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("size", [32, 34, 64, 130])
def test_images_are_finite_float32_in_range_whatever_the_patient(size):
    everything = dict.fromkeys(FINDINGS, 6.0)
    for sex, age, view in ((1.0, 2.0, "AP"), (-1.0, -2.5, "PA"), (0.0, 0.0, "AP")):
        chest = render(ChestPatient((21,), everything, sex, age, view, exposure=0.05), size)
        for picture in (chest.image, chest.line_integral):
            assert picture.dtype == np.float32 and picture.shape == (size, size) and np.isfinite(picture).all()
        assert chest.image.min() >= 0 and chest.image.max() <= 1


def test_the_window_comes_from_the_geometry():
    levels = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        view = "AP" if rng.uniform() < 0.5 else "PA"
        chest = render(ChestPatient((22, seed), sex=rng.choice([-1.0, 1.0]), age=rng.normal(), view=view), 64)
        levels.append((np.median(chest.image[chest.latents["lung"]]), np.median(chest.image[38:46, 30:38])))
    lung, centre = np.array(levels).T
    assert lung.min() > 0.10 and lung.max() < 0.65  # no washed-out film
    assert (centre - lung).min() > 0.2


def test_fifty_images_stay_inside_the_budget():
    patients = [ChestPatient((23, i), {FINDINGS[i % 12]: 1.0}, sex=1.0) for i in range(50)]
    render(patients[0])
    tracemalloc.start()
    render(patients[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    started = time.process_time()
    for patient in patients:
        render(patient)
    assert (time.process_time() - started) / 50 < 0.060  # 0.012 on a quiet machine
    assert peak < 40e6


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({}, 30, "at least 32 pixels, got 30"),
        ({}, 65, "even and at least 32 pixels, got 65"),
        ({"view": "lateral"}, 64, "unknown view 'lateral'"),
        ({"severity": {"edoema": 1.0}}, 64, "unknown finding .*edoema.*choose among"),
        ({"severity": {"edema": -0.1}}, 64, "edema must be a finite number >= 0, got -0.1"),
        ({"severity": {"edema": float("nan")}}, 64, "edema must be a finite number"),
        ({"exposure": 0.0}, 64, "exposure must be a finite number > 0, got 0.0"),
        ({"exposure": -1.0}, 64, "exposure"),
        ({"conspicuity": -1.0}, 64, "conspicuity must be a finite number >= 0"),
        ({"age": float("nan")}, 64, "sex and age must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(fields, size, message):
    with pytest.raises(ValueError, match=message):
        render(ChestPatient((1,), **fields), size)


def test_every_finding_has_a_severity():
    assert set(SEVERITY_FLOOR) == set(SEVERITY_SCALE) == set(FINDINGS)
    assert min(SEVERITY_FLOOR.values()) >= 0 and min(SEVERITY_SCALE.values()) > 0
