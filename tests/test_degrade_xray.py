"""X-ray degradation: the projector against exact ellipses and scikit-image, photons against theory, known defects."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.transform import iradon
from skimage.transform import radon as skimage_radon

from fairrecon_core.degrade import degradation, noise_generator
from fairrecon_core.degrade.radon import _beam, backproject, fbp, radon
from fairrecon_core.degrade.skimage_radon import bilinear_beam
from fairrecon_core.degrade.xray import (
    CHOICES,
    MODES,
    LowDoseXRay,
    bowtie,
    line_integrals,
    poisson,
    published_image,
    published_sinogram,
    view_bowtie,
    views_for,
)
from fairrecon_lab.analysis.short_forms import low_dose

BOTH = ("published", "physical")
# density, half axes, centre (right, up), rotation in degrees; lengths as parts of the field's radius
ELLIPSES = [(1.0, 0.69, 0.9, 0, 0, 0), (-0.4, 0.3, 0.4, 0.2, -0.1, 20), (0.3, 0.12, 0.25, -0.3, 0.2, -35)]
ONE = [(1.0, 0.5, 0.3, 0.15, -0.2, 30)]


def ellipse_image(size, ellipses, fine=8):
    """Area-averaged picture of ellipses."""
    at = (np.arange(size * fine) + 0.5) / fine - 0.5 - size // 2
    right, up = np.meshgrid(at, -at)
    image, radius = np.zeros((size * fine,) * 2), size // 2 - 1
    for density, a, b, x, y, turn in ellipses:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        u, v = right / radius - x, up / radius - y
        image += density * (((u * c + v * s) / a) ** 2 + ((v * c - u * s) / b) ** 2 <= 1)
    return image.reshape(size, fine, size, fine).mean((1, 3))


def ellipse_sinogram(size, n_detectors, n_views, ellipses):
    """Exact line integrals in pixels."""
    radius, theta = size // 2 - 1, np.arange(n_views) * np.pi / n_views
    t = (np.arange(n_detectors) - n_detectors // 2)[:, None] / radius
    total = 0
    for density, a, b, x, y, turn in ellipses:
        gamma = theta - math.radians(turn)
        reach2 = (a * np.cos(gamma)) ** 2 + (b * np.sin(gamma)) ** 2
        offset = t - x * np.cos(theta) - y * np.sin(theta)
        total = total + 2 * density * a * b * radius / reach2 * np.sqrt(np.maximum(reach2 - offset**2, 0))
    return total


def smooth(size, n=1, seed=0):
    """Random smooth images in [0, 1] inside a disc."""
    coarse = torch.rand(n, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[:, 0]
    return image.clamp(0, 1) * disc(size, 0.45 * size)


def disc(size, radius):
    at = torch.arange(size) - size // 2
    edge = radius + 0.5 - torch.hypot(at[:, None].float(), at[None].float())
    return edge.clamp(0, 1)


def angles(n_views):
    return np.arange(n_views) * 180 / n_views


def names(n):
    return [f"image-{i}" for i in range(n)]


def psnr(a, b):
    error = float(((a - b) ** 2).mean())
    return -10 * math.log10(error) if error else math.inf  # some processors round alike


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))


# --- the projector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [63, 64])
@pytest.mark.parametrize("n_views", [60, 180])
@pytest.mark.parametrize("circle", [True, False])
def test_sinogram_agrees_with_scikit_image(size, n_views, circle):
    image = smooth(size)
    ours = radon(image, n_views, n_detectors=size if circle else None)[0]
    theirs = skimage_radon(image[0].numpy(), angles(n_views), circle=circle)
    assert ours.shape == theirs.shape and relative(ours, theirs) <= 6e-3


def test_an_ellipse_has_the_exact_sinogram():
    image = torch.from_numpy(ellipse_image(128, ONE)).float()
    sinogram = radon(image, 96)
    assert relative(sinogram, ellipse_sinogram(128, len(sinogram), 96, ONE)) <= 0.015


def test_nearer_to_the_exact_phantom_than_scikit_image():
    size, n_views = 128, 128
    image = ellipse_image(size, ELLIPSES)
    inside = disc(size, size // 2 - 1).numpy() > 0.5
    rms = lambda found: math.sqrt(((np.asarray(found) - image)[inside] ** 2).mean())
    ours = radon(torch.from_numpy(image).float(), n_views)
    theirs = skimage_radon(image, angles(n_views), circle=False)
    exact = ellipse_sinogram(size, len(theirs), n_views, ELLIPSES)
    assert relative(ours, exact) < 0.95 * relative(theirs, exact)
    assert rms(fbp(ours, size)) <= 0.62 * rms(iradon(theirs, angles(n_views), circle=False, output_size=size))


@pytest.mark.parametrize("size,n_detectors", [(31, None), (48, None), (48, 200)])
@pytest.mark.parametrize("n_views", [1, 7, 12])
def test_every_view_holds_the_whole_mass(size, n_detectors, n_views):
    images = smooth(size, 2)
    mass = radon(images, n_views, n_detectors).sum(1)
    assert torch.allclose(mass, images.sum((1, 2))[:, None].expand_as(mass), rtol=1.5e-3)


def test_a_quarter_turn_permutes_the_views():
    image = torch.rand(33, 33, generator=torch.Generator().manual_seed(0))
    upright, turned = radon(image, 40, 47), radon(torch.rot90(image), 40, 47)
    assert torch.allclose(turned[:, 20:], upright[:, :20], atol=1e-4)
    assert torch.allclose(turned[:, :20], upright[:, 20:].flip(0), atol=1e-4)


@pytest.mark.parametrize("size,n_views,n_detectors", [(64, 60, None), (33, 45, 40), (16, 10, 61)])
def test_backprojection_is_the_transpose(size, n_views, n_detectors):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, size, size, generator=generator)
    projected = radon(images, n_views, n_detectors)
    values = torch.randn(projected.shape, generator=generator)
    left, right = (projected * values).sum(), (images * backproject(values, size)).sum()
    assert abs(left - right) <= 1e-5 * projected.norm() * values.norm()


def test_gradients_are_exact_to_second_order():
    generator = torch.Generator().manual_seed(2)
    image, small = (torch.rand(1, n, n, dtype=torch.float64, generator=generator, requires_grad=True) for n in (16, 5))
    assert torch.autograd.gradcheck(lambda x: radon(x, 8), image)
    assert torch.autograd.gradcheck(lambda x: fbp(radon(x, 4) ** 2, 5, "hann"), small)
    assert torch.autograd.gradgradcheck(lambda x: radon(x, 4) ** 2, small)


def test_the_filter_is_that_of_scikit_image():
    sinogram = radon(smooth(64), 180)[0]  # so smooth that linear interpolation is fair to it
    for window in ("ramp", "hann"):
        theirs = iradon(sinogram.numpy(), angles(180), filter_name=window, circle=False, output_size=64)
        assert relative(fbp(sinogram, 64, window), theirs) < 0.03
    assert relative(fbp(sinogram, 64, "ramp"), theirs) > 0.03, "the windows differ"


def test_there_and_back_share_one_table():
    _beam.cache_clear()
    fbp(radon(torch.rand(20, 20)), 20)
    assert _beam.cache_info().misses == 1


def test_chunks_and_batches_change_no_bit():
    images = smooth(32, 19)
    together, alone = radon(images, 32), torch.stack([radon(image, 32) for image in images])
    assert torch.equal(together, alone)
    assert torch.equal(fbp(together, 32), torch.stack([fbp(s, 32) for s in alone]))


@pytest.mark.parametrize("size", [63, 64])
@pytest.mark.parametrize("n_views", [60, 61, 180])
def test_the_bilinear_operator_is_that_of_scikit_image(size, n_views):
    images, beam = smooth(size, 2), bilinear_beam(size, n_views)
    theirs = np.stack([skimage_radon(image, angles(n_views), circle=False) for image in images.numpy()])
    assert relative(beam.radon(images), theirs) <= 1e-6
    back = [iradon(s, angles(n_views), filter_name="hann", circle=False, output_size=size) for s in theirs]
    assert np.abs(beam.iradon_hann(torch.from_numpy(theirs)).numpy() - np.stack(back)).max() <= 2e-6


# --- photons ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["exact", "fast"])
@pytest.mark.parametrize("mean", [0.3, 5.0, 10.0, 13.7, 100.0, 5000.0])
def test_counts_follow_poisson(mean, sampler):
    n = 400_000
    generator = torch.Generator().manual_seed(7)
    counts = poisson(torch.full((1, n), mean), [generator], sampler)[0].double().numpy()
    edges = np.unique(stats.poisson.ppf(np.linspace(0.001, 0.999, 40), mean))
    expected = np.diff(stats.poisson.cdf(np.concatenate([[-1], edges, [np.inf]]), mean))
    seen = np.histogram(counts, np.concatenate([[-0.5], edges + 0.5, [np.inf]]))[0] / n
    assert abs(seen - expected).sum() / 2 < 0.01
    if sampler == "exact":
        assert stats.chi2.sf(n * ((seen - expected) ** 2 / expected).sum(), len(seen) - 1) > 0.001
        assert abs(counts.mean() - mean) < 4 * math.sqrt(mean / n)


def test_thinned_counts_are_counts_at_a_lower_dose():
    n, mean, part = 200_000, 40.0, 0.3
    full = poisson(torch.full((1, n), mean), [torch.Generator().manual_seed(1)])[0]
    thinned = torch.binomial(full, torch.full_like(full, part), generator=torch.Generator().manual_seed(2))
    direct = poisson(torch.full((1, n), mean * part), [torch.Generator().manual_seed(3)])[0]
    assert abs(float(thinned.mean() - direct.mean())) < 4 * math.sqrt(2 * mean * part / n)
    assert float(thinned.var() / direct.var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("mean", [100.0, 1000.0])
@pytest.mark.parametrize("sigma_e", [0.0, 5.0])
def test_line_integrals_have_the_variance_and_bias_of_theory(mean, sigma_e):
    n, generator = 400_000, torch.Generator().manual_seed(4)
    counts = poisson(torch.full((1, n), mean, dtype=torch.float64), [generator])
    counts += sigma_e * torch.randn(1, n, generator=generator)
    log = torch.log(1e4 / counts.clamp(min=1))
    first_order = 1 / mean + sigma_e**2 / mean**2
    assert float(log.var()) == pytest.approx(first_order * (1 + 2.5 * first_order), rel=0.02)
    bias = float(log.mean()) - math.log(1e4 / mean)
    assert bias == pytest.approx(first_order / 2, abs=5 * math.sqrt(first_order / n) + first_order**2)


def water(size=64, radius=25, n=1):
    return (0.5 * disc(size, radius)).expand(n, -1, -1).contiguous()


def test_a_matched_bowtie_evens_out_a_cylinder():
    size, radius, pixel_cm = 128, 50, 35 / 128
    p = line_integrals(disc(size, radius)[None])[0]
    passed = bowtie(len(p), pixel_cm, radius * pixel_cm, math.exp(-2 * 0.2 * radius * pixel_cm))[:, None]
    behind = (passed * torch.exp(-p))[p > 1]
    assert float(behind.std() / behind.mean()) < 0.02
    assert float(torch.exp(-p)[p > 1].std() / torch.exp(-p)[p > 1].mean()) > 0.3, "without the filter it is uneven"


def test_the_bowtie_lies_along_the_detector_and_is_divided_out():
    filtered, open_ = (
        low_dose(water(n=40), 1e5, image_ids=names(40), edge_transmission=edge, n_views=32) for edge in (0.05, 1.0)
    )
    ratio = (filtered.sinogram.var(0) / open_.sinogram.var(0)).sqrt()  # (detector, view)
    by_bin, by_view = ratio.mean(1), ratio.mean(0)
    assert by_bin[2] > 3.5 and by_bin[45] == pytest.approx(1, abs=0.1), "fewer photons at the edge only"
    assert float(by_view.std() / by_view.mean()) < 0.05, "the same from every side"
    assert float((filtered.image.mean(0) - open_.image.mean(0)).abs()[20:44, 20:44].mean()) < 0.003


@pytest.mark.parametrize("window", ["ramp", "hann"])
def test_noise_in_the_centre_has_its_closed_form(window):
    size, n, photons = 64, 60, 1e5
    pixel_cm = 35 / size
    exposure = low_dose(water(n=n), photons, image_ids=names(n), edge_transmission=1.0, window=window)
    centre = exposure.image[:, 27:38, 27:38]
    depth = float(line_integrals(water())[0, 45].mean())
    f = (torch.arange(2000) + 0.5) / 4000
    power = f**2 * ((1 + torch.cos(2 * math.pi * f)) / 2) ** 2 if window == "hann" else f**2
    variance = math.pi**2 / (views_for(size) * photons * math.exp(-depth)) * 2 * float(power.mean()) / 2
    expected = math.sqrt(variance) / (pixel_cm * 0.2)
    assert float(centre.std(0).mean()) == pytest.approx(expected, rel=0.05)


def noise_power(noise):
    """Power per frequency of the middle, averaged over images; and its frequency and direction."""
    size = noise.shape[-1]
    middle = noise[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4]
    taper = torch.hann_window(middle.shape[-1], periodic=False)
    taper = taper[:, None] * taper  # without it, power leaks from high to low frequencies
    power = torch.fft.fft2(middle * taper).abs().square().mean(0) / taper.square().sum()
    f = torch.fft.fftfreq(middle.shape[-1])
    direction = torch.rad2deg(torch.atan2(f[:, None].expand(power.shape), f[None].expand(power.shape))) % 180
    return power, torch.hypot(f[:, None], f[None]), direction


def anisotropy(noise):
    power, f, direction = noise_power(noise)
    band = (f > 0.1) & (f < 0.3)
    sectors = [power[band & ((direction - middle + 15) % 180 < 30)].mean() for middle in range(0, 180, 30)]
    return float(max(sectors) / min(sectors))


def test_noise_power_follows_the_ramp_and_has_no_direction():
    n_views, mean = 128, 500
    white = torch.randn(80, 182, n_views, generator=torch.Generator().manual_seed(5)) / math.sqrt(mean)
    noise = fbp(white, 128)
    power, f, _ = noise_power(noise)
    for middle in (0.15, 0.25, 0.35, 0.45):
        ring = (f > middle - 0.03) & (f < middle + 0.03)
        assert float(power[ring].mean()) == pytest.approx(math.pi / n_views * float(f[ring].mean()) / mean, rel=0.06)
    assert anisotropy(noise) < 1.1


def test_published_noise_has_a_direction():
    image, n = smooth(64), 40
    published = low_dose(image.expand(n, -1, -1), 1e4, "published", image_ids=names(n))
    noise = published_image(published.sinogram, 64, eight_bit=False)
    noise = noise - noise.mean(0)
    assert anisotropy(noise) > 3
    physical = low_dose(0.4 * disc(64, 28).expand(n, -1, -1) + 0.2, 1e5, image_ids=names(n))
    assert anisotropy(physical.image - physical.image.mean(0)) < 1.5, "a square field is not quite round"


def test_ten_times_the_photons_are_ten_decibels():
    image = torch.from_numpy(0.3 + 0.4 * ellipse_image(64, ELLIPSES)).float()[None].clamp(0, 1)
    exposures = low_dose(image, [1e4, 1e5, 1e6, 1e12], image_ids=["a"])
    found = [psnr(e.image, exposures[-1].image) for e in exposures[:-1]]
    assert np.diff(found) == pytest.approx([10, 10], abs=1)


# --- the published mode ----------------------------------------------------------------------------------------------


def published_by_hand(image, counts=None, photon_count=1e4):
    """The published chain with scikit-image, up to the stretched image; noise-free without counts."""
    n_views = views_for(len(image))
    theta = np.linspace(0, 180, n_views, endpoint=False)
    arm = np.linspace(0.05, 1, n_views // 2)
    sinogram = skimage_radon(image, theta, circle=False) * np.concatenate([arm[::-1], arm])
    if counts is not None:
        sinogram = counts / photon_count * sinogram.max()
    found = iradon(sinogram, theta, filter_name="hann", circle=False)
    return (found - found.min()) / (found.max() - found.min())


def test_published_mode_is_the_chain_of_scikit_image():
    image = smooth(64)
    clean = published_image(published_sinogram(image), 64, eight_bit=False)[0]
    assert psnr(clean, torch.from_numpy(published_by_hand(image[0].numpy()))) >= 80
    exposure = low_dose(image, 1e4, "published", image_ids=["a"])
    counts = exposure.sinogram[0] / published_sinogram(image).max() * 1e4
    assert torch.allclose(counts, counts.round(), atol=0.01), "whole photons"
    by_hand = published_by_hand(image[0].numpy(), counts.round().double().numpy())
    assert np.abs(exposure.image[0].numpy() - by_hand).max() <= 1e-3 + 0.5 / 255  # stored in 8 bits
    stretched = published_image(exposure.sinogram, 64, eight_bit=False)[0]
    assert np.abs(stretched.numpy() - by_hand).max() <= 1e-3


def test_defect_the_published_bowtie_runs_over_the_views():
    image = smooth(64)
    plain = torch.from_numpy(skimage_radon(image[0].numpy(), angles(64), circle=False)).float()
    gain = (published_sinogram(image)[0] / plain)[40:50]
    assert torch.allclose(gain, gain[:1].expand_as(gain), atol=1e-4), "no change along the detector"
    assert gain[0, [0, 32, 63]].tolist() == pytest.approx([1, 0.05, 1], abs=1e-3)


def test_defect_the_published_image_is_spoilt_without_any_noise():
    image = torch.from_numpy(ellipse_image(64, ELLIPSES)).float()[None].clamp(0, 1)
    published, physical = (low_dose(image, 1e12, mode, image_ids=["a"]).image for mode in BOTH)
    assert psnr(published, image) < 20 < psnr(physical, image)
    doses = [psnr(low_dose(image, count, "published", image_ids=["a"]).image, image) for count in (1e5, 3e3)]
    assert abs(doses[0] - doses[1]) < 2, "and the photon count hardly matters"


def test_defect_published_counts_ignore_how_much_is_in_the_way():
    thin, thick = 0.25 * disc(64, 25)[None], disc(64, 25)[None]
    published, physical = (
        [low_dose(image.expand(20, -1, -1), 1e4, mode, image_ids=names(20)).sinogram.std(0) for image in (thin, thick)]
        for mode in BOTH
    )
    middle = slice(42, 49)
    thinner, thicker = (float(noise[middle].mean()) for noise in published)
    assert thicker / thinner == pytest.approx(4, rel=0.02), "the same relative noise"
    thinner, thicker = (float(noise[middle].mean()) for noise in physical)
    extra = (line_integrals(thick) - line_integrals(thin))[0, middle].mean()
    assert thicker / thinner == pytest.approx(math.exp(extra / 2), rel=0.1)
    assert published[1][1].max() == 0 and physical[1][1].min() > 0, "published: no noise in air"


def test_defect_published_images_are_stretched_and_stored_in_8_bits():
    image = 0.3 + 0.2 * smooth(64)
    published, physical = (low_dose(image, 1e4, mode, image_ids=["a"]).image for mode in BOTH)
    assert published.min() == 0 and published.max() == 1 and len(published.unique()) <= 256
    assert physical.max() < 0.9 and len(physical.unique()) > 1000


def test_noise_knows_body_size_only_in_the_physical_mode():
    """Twice the width: published line integrals are twice as noisy, physical ones by the root of exp(extra path)."""
    narrow, wide = 0.8 * disc(64, 14)[None], 0.8 * disc(64, 28)[None]

    def growth(mode):
        exposed = (low_dose(body.expand(30, -1, -1), 1e4, mode, image_ids=names(30)).image for body in (narrow, wide))
        small, large = (float(images[:, 27:38, 27:38].std(0).mean()) for images in exposed)
        return large / small

    assert growth("published") < 2.2 and growth("physical") > 3


# --- the published choices, one by one in the physical mode ----------------------------------------------------------

AS_PUBLISHED = {name: valid[1] for name, valid in CHOICES.items()}


def test_the_defaults_are_the_right_choices_and_change_no_bit():
    """The physical mode written out, as it was before there were choices."""
    images, ids, photon_count, pixel_cm = smooth(64, 2), names(2), 1e4, 35 / 64
    p = line_integrals(images)
    air = photon_count * bowtie(p.shape[1], pixel_cm, 35 / 2, 0.05)[:, None]
    counts = poisson(air * torch.exp(-p), [noise_generator(3, name, photon_count) for name in ids])
    recorded = torch.log(air / counts.clamp(min=1))
    by_hand = (fbp(recorded, 64, "hann") / (pixel_cm * 0.2)).clamp(0, 1)
    right = {name: valid[0] for name, valid in CHOICES.items()}
    for options in ({}, right):
        exposure = low_dose(images, photon_count, image_ids=ids, seed=3, **options)
        assert torch.equal(exposure.sinogram, recorded) and torch.equal(exposure.image, by_hand)
    assert vars(LowDoseXRay(**right)) == vars(LowDoseXRay()), "stamps of what has been made stay valid"
    assert not set(vars(LowDoseXRay())) & set(CHOICES)


def profile(axis, n_detectors, n_views, size=64):
    """The filter of an axis, (T, A)."""
    if axis == "view":
        return view_bowtie(n_views, 0.05)[None].expand(n_detectors, -1)
    return bowtie(n_detectors, 35 / size, 35 / 2, 0.05)[:, None].expand(-1, n_views)


@pytest.mark.parametrize("axis", CHOICES["bowtie_axis"])
@pytest.mark.parametrize("counts", CHOICES["counts"])
def test_with_photons_enough_a_filter_leaves_no_trace_once_divided_out(axis, counts):
    image = smooth(64)
    exposure = low_dose(image, 1e12, image_ids=["a"], bowtie_axis=axis, counts=counts)
    p = line_integrals(image).clamp(min=0)  # counts cannot be negative
    assert torch.allclose(exposure.sinogram, p if counts == "linear" else line_integrals(image), atol=1e-3)
    assert (exposure.image - low_dose(image, 1e12, image_ids=["a"]).image).abs().max() < 0.01


@pytest.mark.parametrize("axis", CHOICES["bowtie_axis"])
def test_without_a_flat_field_the_filter_stays_in_the_sinogram(axis):
    image = smooth(64)
    p = line_integrals(image)[0]
    passed = profile(axis, *p.shape)
    options = {"image_ids": ["a"], "bowtie_axis": axis, "flat_field": "none"}
    logarithm, linear = (low_dose(image, 1e12, counts=way, **options).sinogram[0] for way in CHOICES["counts"])
    assert torch.allclose(logarithm, p - passed.log(), atol=1e-3)
    assert torch.allclose(linear, (passed * p).clamp(min=0), atol=1e-3)


@pytest.mark.parametrize("axis", CHOICES["bowtie_axis"])
def test_linear_counts_vary_as_the_integral_and_logarithms_as_its_exponential(axis):
    n, photons = 300, 1e5
    image = smooth(32)
    p = line_integrals(image)[0]
    passed = profile(axis, *p.shape, size=32)
    options = {"photon_count": photons, "image_ids": names(n), "bowtie_axis": axis}
    linear, logarithm = (low_dose(image.expand(n, -1, -1), counts=way, **options) for way in ("linear", "beer_lambert"))
    seen = p > 0.1
    expected = (passed * p).max() * p / (photons * passed)  # counts photons b p / max(b p), times max(b p) / photons b
    ratio = (linear.sinogram.var(0) / expected)[seen]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01) and float(ratio.std()) < 1.3 * math.sqrt(2 / n)
    assert float(linear.sinogram.var(0)[p <= 0].max()) == 0, "no noise in air"
    ratio = (logarithm.sinogram.var(0) * photons * passed * torch.exp(-p))[seen]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01) and float(ratio.std()) < 1.3 * math.sqrt(2 / n)


@pytest.mark.parametrize("counts", CHOICES["counts"])
def test_a_filter_along_the_views_weighs_whole_projections_alike(counts):
    n, V = 60, view_bowtie(32, 0.05)
    options = {"photon_count": 1e5, "image_ids": names(n), "bowtie_axis": "view", "n_views": 32, "counts": counts}
    filtered, open_ = (low_dose(water(n=n), edge_transmission=edge, **options).sinogram for edge in (0.05, 1.0))
    p = line_integrals(water(), n_views=32)[0]
    if counts == "linear":  # the peak, too, is that of the filtered sinogram
        V = V * (p.max() / (V * p).max())
    lost = (filtered.var(0) / open_.var(0)) * V
    inside = slice(25, 66)
    assert lost[inside].mean(0).tolist() == pytest.approx([1] * 32, rel=0.2), "each view as its part of the V"
    along = lost[inside].mean(1)
    assert float(along.std()) < 0.1 and float(along[:10].mean() / along[-10:].mean()) == pytest.approx(1, abs=0.1)


def test_the_v_of_the_views_is_the_published_one():
    V = view_bowtie(256, 0.05)
    assert V[[0, 127, 128, 255]].tolist() == pytest.approx([1, 0.05, 0.05, 1]) and torch.equal(V, V.flip(0))
    plain = bilinear_beam(16, 16).radon(smooth(16))
    assert torch.equal(published_sinogram(smooth(16)), plain * view_bowtie(16, 0.05))


def test_without_a_filter_its_axis_and_flat_field_change_no_bit():
    image, open_ = smooth(32), {"photon_count": 1e4, "image_ids": ["a"], "edge_transmission": 1.0}
    usual = low_dose(image, **open_).image
    for option in ({"bowtie_axis": "view"}, {"flat_field": "none"}, {"bowtie_axis": "view", "flat_field": "none"}):
        assert torch.equal(low_dose(image, **open_, **option).image, usual)


def test_a_stretch_moves_grey_values_and_nothing_else():
    image = 0.3 + 0.2 * smooth(64)
    usual, one = (low_dose(image, 1e4, image_ids=["a"], stretch=way) for way in CHOICES["stretch"])
    assert torch.equal(usual.sinogram, one.sinogram) and one.clipped == 0
    found = fbp(one.sinogram, 64, "hann")[0]
    by_hand = torch.round(255 * (found - found.min()) / (found.max() - found.min())) / 255
    assert (one.image[0] - by_hand).abs().max() < 1.01 / 255 and psnr(one.image[0], by_hand) > 80
    assert one.image.min() == 0 and one.image.max() == 1 and len(one.image.unique()) <= 256
    alone = low_dose(torch.cat([image, smooth(64, seed=1)]), 1e4, image_ids=["a", "b"], stretch="per_image")
    assert torch.equal(alone.image[0], one.image[0]), "by the image itself, not by its batch"


@pytest.mark.parametrize("photon_count", [1e12, 1e4])
def test_all_choices_together_are_the_published_mode_but_for_the_projector(photon_count):
    image = torch.from_numpy(ellipse_image(64, ELLIPSES)).float()[None].clamp(0, 1)
    found = {}
    for left_out in (None, *AS_PUBLISHED):
        choices = {name: value for name, value in AS_PUBLISHED.items() if name != left_out}
        found[left_out] = low_dose(image, photon_count, image_ids=["a"], **choices).image
    published = low_dose(image, photon_count, "published", image_ids=["a"]).image
    assert psnr(found[None], published) > 35
    for left_out in AS_PUBLISHED:
        assert psnr(found[left_out], published) < 30, f"{left_out} is needed"


def test_electronic_noise_reaches_linear_counts():
    n, image = 200, water()
    options = {"photon_count": 1e4, "counts": "linear", "edge_transmission": 1.0, "n_views": 8}
    noise = low_dose(image.expand(n, -1, -1), image_ids=names(n), electronic_noise=30.0, **options).sinogram[:, :5]
    assert float(noise.std()) == pytest.approx(30 / 1e4 * float(line_integrals(image, n_views=8).max()), rel=0.05)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_named_and_belong_to_the_physical_mode(name):
    right, published = CHOICES[name]
    with pytest.raises(ValueError, match=f"unknown {name} 'other'.*choose one of {right}, {published}"):
        LowDoseXRay(**{name: "other"})
    for mode in ("published", "radiograph"):
        assert getattr(LowDoseXRay(mode, **{name: right}), name) == right
        with pytest.raises(ValueError, match=f"{name} is a choice of the physical mode, got {published!r}"):
            LowDoseXRay(mode, **{name: published})


# --- the radiograph and the contract ---------------------------------------------------------------------------------


def test_a_radiograph_has_white_noise_that_grows_with_attenuation():
    image, n = torch.full((64, 64), 0.25), 60
    image[:, 32:] = 0.75
    noise = low_dose(image.expand(n, -1, -1), 1e4, "radiograph", image_ids=names(n)).image - image
    depth = 0.2 * 20
    for part, value in ((noise[:, :, :32], 0.25), (noise[:, :, 32:], 0.75)):
        assert float(part.std()) == pytest.approx(math.exp(depth * value / 2) / 100 / depth, rel=0.03)
    left = noise[:, :, :32]
    neighbours = float((left[:, :, 1:] * left[:, :, :-1]).mean() / left.var())
    assert abs(neighbours) < 0.02


@pytest.mark.parametrize("mode", MODES)
def test_noise_belongs_to_the_image(mode):
    images, ids = smooth(33, 5), names(5)
    together = low_dose(images, 3e3, mode, image_ids=ids, seed=3)
    alone = low_dose(images[3:4], 3e3, mode, image_ids=ids[3:4], seed=3)
    assert torch.equal(together.image[3], alone.image[0])
    other = low_dose(images[3:4], 3e3, mode, image_ids=ids[3:4], seed=4)
    assert not torch.allclose(other.image, alone.image, atol=1e-3)
    again = low_dose(images, 3e3, mode, image_ids=ids, seed=3)
    assert torch.equal(again.image, together.image)


def test_several_doses_share_one_sinogram_and_change_nothing():
    images, ids = smooth(32, 3), names(3)
    for photon_count, exposure in zip([1e5, 3e3], low_dose(images, [1e5, 3e3], image_ids=ids)):
        assert torch.equal(exposure.image, low_dose(images, photon_count, image_ids=ids).image)


@pytest.mark.parametrize("mode", MODES)
def test_infinitely_many_photons_change_no_bit(mode):
    images = smooth(33, 2)
    assert torch.equal(low_dose(images, math.inf, mode, image_ids=names(2)).image, images)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [31, 32])
def test_images_keep_shape_and_range(mode, size):
    images = smooth(size, 2)
    for photon_count in (1.0, 1e4):
        exposure = low_dose(images, photon_count, mode, image_ids=names(2))
        assert exposure.image.shape == images.shape and exposure.image.dtype == torch.float32
        assert exposure.image.min() >= 0 and exposure.image.max() <= 1 and torch.isfinite(exposure.image).all()


def test_an_empty_image_stays_empty():
    for mode in MODES:
        assert low_dose(torch.zeros(1, 32, 32), 1e9, mode, image_ids=["a"]).image.max() < 0.02


def test_starved_readings_are_counted():
    dark = torch.ones(1, 64, 64)
    few, many = low_dose(dark, [100, 1e9], image_ids=["a"])
    assert few.starved > 0.2 and many.starved == 0
    assert few.starved == low_dose(dark, 100, image_ids=["a"], floor=0.5).starved


def test_the_degradation_measures_what_it_shows():
    operator = degradation("xray")
    image = smooth(64)[0]
    degraded, measurement = operator.measure(image, 1e4, "a", seed=1)
    assert torch.equal(operator(image, 1e4, "a", seed=1), degraded) and measurement.level == 1e4
    rebuilt = fbp(measurement.sinogram, 64, "hann") / (35 / 64 * 0.2)
    assert torch.allclose(rebuilt.clamp(0, 1), degraded, atol=1e-6)
    assert degradation("xray", mode="radiograph").measure(image, 1e4, "a")[1].sinogram is None


@pytest.mark.parametrize("bad,message", [
    (torch.rand(2, 8, 9), "square"), (torch.full((2, 8, 8), float("nan")), "NaN"), (torch.rand(2, 8, 8) + 0.5, "0, 1"),
])  # fmt: skip
def test_bad_images_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        low_dose(bad, 1e4, image_ids=names(2))


@pytest.mark.parametrize("photon_count", [0, -5.0, math.nan])
def test_impossible_photon_counts_are_refused(photon_count):
    with pytest.raises(ValueError, match="photon count is positive"):
        low_dose(smooth(16), photon_count, image_ids=["a"])


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="did you mean 'published'"):
        low_dose(smooth(16), 1e4, "publishd", image_ids=["a"])
    with pytest.raises(ValueError, match="edge_transmission"):
        low_dose(smooth(16), 1e4, image_ids=["a"], edge_transmission=0.0)
    with pytest.raises(ValueError, match="one image_id per image"):
        low_dose(smooth(16, 2), 1e4, image_ids=["a"])
    with pytest.raises(ValueError, match="even number of views"):
        low_dose(smooth(16), 1e4, "published", image_ids=["a"], n_views=15)
    with pytest.raises(ValueError, match="even number of views"):
        low_dose(smooth(16), 1e4, image_ids=["a"], n_views=15, bowtie_axis="view")
    with pytest.raises(ValueError, match="square"):
        radon(torch.rand(3, 4), 8)
    with pytest.raises(ValueError, match="float32"):
        radon(torch.ones(8, 8, dtype=torch.int64))


def test_a_batch_fits_into_memory():
    if not os.path.exists("/proc/self/status"):
        pytest.skip("peak memory is read from /proc, which this system lacks")
    code = (
        "import re, torch\nfrom fairrecon_core.degrade.radon import fbp, radon\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "torch.set_num_threads(1); before = peak(); fbp(radon(torch.rand(8, 256, 256), 256), 256)\n"
        "print(peak() - before)"
    )
    added = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 10 < added < 450, "MB beyond importing torch; with torch's 250 below 700"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_gives_the_same_quality(mode):
    images = smooth(64, 32)
    assert torch.allclose(radon(images.cuda(), 64).cpu(), radon(images, 64), atol=1e-3)
    here, there = (low_dose(batch, 1e4, mode, image_ids=names(32)).image.cpu() for batch in (images, images.cuda()))
    assert np.mean([psnr(*pair) for pair in zip(here, images)]) == pytest.approx(
        np.mean([psnr(*pair) for pair in zip(there, images)]), abs=0.05
    )


def test_generators_differ_between_levels():
    first, second = (torch.rand(4, generator=noise_generator(0, "a", level)) for level in (1e4, 3e3))
    assert not torch.equal(first, second)
