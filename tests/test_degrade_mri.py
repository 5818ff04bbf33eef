"""Undersampled MRI: laws of the transform and the masks, golden numbers, and what `published` does differently."""

import doctest
import importlib.util
import itertools
import math

import numpy as np
import pytest
import torch

from fairrecon_core.degrade import mri, noise_generator
from fairrecon_core.degrade.mri import (
    GOLDEN_ANGLE,
    RadialMRI,
    achieved_acceleration,
    acquire,
    data_consistency,
    radial_mask,
    spokes_for,
    to_image,
    to_kspace,
    undersample,
    zero_filled,
)
from fairrecon_lab.analysis.short_forms import sampling_ratios


def head(size: int = 64) -> torch.Tensor:
    """A lopsided head (N, N) in [0, 1]: bright skull, grey brain, a ventricle and a small lesion."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    oval = lambda cy, cx, ry, rx: (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1).float()
    image = 0.9 * oval(0, 0, 0.9, 0.75) - 0.5 * oval(0, 0, 0.8, 0.65)
    return image - 0.3 * oval(0.1, -0.2, 0.3, 0.12) + 0.4 * oval(-0.3, 0.3, 0.08, 0.08)


def psnr_db(image: torch.Tensor, truth: torch.Tensor) -> float:
    return -10 * math.log10(float(((image - truth) ** 2).mean()))


def mirrored(mask: torch.Tensor) -> torch.Tensor:
    """Mask at -k, for k that have a mirror on the grid."""
    return mask[1:, 1:].flip(0, 1)


def random_complex(*shape: int, seed: int = 0, dtype=torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The transform


def test_transform_keeps_energy_and_inverts():
    image = head().double()
    kspace = to_kspace(image)
    assert float(kspace.abs().square().sum()) == pytest.approx(float(image.square().sum()), rel=1e-12)
    torch.testing.assert_close(to_image(kspace), image.to(torch.complex128))


def test_transform_is_the_fourier_sum_centred_on_n_over_2():
    size = 8
    image = random_complex(size, size)
    position = torch.arange(size, dtype=torch.float64) - size // 2
    wave = torch.exp(-2j * math.pi * position[:, None] * position[None, :] / size) / math.sqrt(size)
    torch.testing.assert_close(to_kspace(image), wave @ image @ wave.T)


def test_transform_of_a_batch_is_the_transform_of_each_image():
    images = torch.stack([head(), head().flip(0)])
    assert torch.equal(to_kspace(images[None])[0, 1], to_kspace(images[1]))


# The masks


def test_one_spoke_by_hand():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[4, 1:] = True  # radii -3 ... 3 along the row through the centre
    assert torch.equal(radial_mask(8, 1), mask)
    mask[1:, 4] = True
    assert torch.equal(radial_mask(8, 2, "uniform"), mask)


@pytest.mark.parametrize("order", ["golden", "uniform"])
@pytest.mark.parametrize("size", [16, 64, 250])
@pytest.mark.parametrize("n_spokes", [1, 9, 32])
def test_mask_is_point_symmetric_and_leaves_the_unpaired_edge_alone(size, n_spokes, order):
    mask = radial_mask(size, n_spokes, order)
    assert torch.equal(mask[1:, 1:], mirrored(mask))
    assert not mask[0].any() and not mask[:, 0].any()


def test_spokes_have_no_gaps():
    for k in range(12):  # the spoke that the twelfth golden mask adds to the eleventh, and so on
        row, column = torch.nonzero(radial_mask(64, 1, "golden") if k == 0 else spoke_alone(64, k)).T - 32
        ring = torch.maximum(row.abs(), column.abs())
        reach = int(31 * max(abs(math.sin(GOLDEN_ANGLE * k)), abs(math.cos(GOLDEN_ANGLE * k))))
        assert set(range(reach + 1)) <= set(ring.tolist()), "a spoke crosses every square ring that it can reach"


def spoke_alone(size: int, k: int) -> torch.Tensor:
    """Samples nearest to golden spoke k, point by point in plain Python."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    angle = k * math.radians(180 / ((1 + math.sqrt(5)) / 2))
    for half_steps in range(2 - size, size - 1):
        y, x = half_steps / 2 * math.sin(angle), half_steps / 2 * math.cos(angle)
        mask[round(y) + size // 2, round(x) + size // 2] = True
    return mask


def test_golden_mask_is_the_union_of_spokes_111_25_degrees_apart():
    expected = torch.stack([spoke_alone(64, k) for k in range(9)]).any(0)
    assert torch.equal(radial_mask(64, 9), expected)
    assert math.degrees(GOLDEN_ANGLE) == pytest.approx(111.246, abs=1e-3)


def test_a_further_golden_spoke_never_loses_a_sample_a_uniform_one_does():
    for n_spokes in range(1, 20):
        assert (radial_mask(64, n_spokes) <= radial_mask(64, n_spokes + 1)).all()
    assert not (radial_mask(64, 8, "uniform") <= radial_mask(64, 9, "uniform")).all()


def test_a_written_to_mask_does_not_spoil_the_next():
    radial_mask(32, 4)[:] = False
    assert radial_mask(32, 4).any()


# Grid samples per sampled one at 256 px. The published column is that of `reference` measurements made with another
# program; golden and uniform are our own (half-sample readout, unpaired edge left out).
GOLDEN_NUMBERS = {  # full spokes: golden, uniform, published with twice as many half-spokes
    8: (29.27, 33.08, 35.35),
    16: (14.84, 15.56, 17.42),
    20: (11.95, 12.40, 14.18),
    25: (9.61, 9.59, 11.12),
    32: (7.58, 7.83, 8.75),
    50: (4.99, 4.97, 5.74),
    64: (4.00, 4.01, 4.58),
    100: (2.72, 2.72, 3.09),
    200: (1.67, 1.61, 1.79),
    402: (1.30, 1.28, 1.33),
}


@pytest.mark.parametrize("n_spokes", GOLDEN_NUMBERS)
def test_achieved_acceleration_golden_numbers(n_spokes):
    masks = [
        radial_mask(256, n_spokes),
        radial_mask(256, n_spokes, "uniform"),
        radial_mask(256, 2 * n_spokes, "published"),
    ]
    assert [achieved_acceleration(mask) for mask in masks] == pytest.approx(GOLDEN_NUMBERS[n_spokes], abs=0.006)


def test_spokes_never_leave_the_disc():
    row, column = torch.nonzero(radial_mask(64, 400)).T - 32
    assert float(torch.hypot(row.float(), column.float()).max()) <= 31 + math.sqrt(0.5)
    assert achieved_acceleration(radial_mask(64, 400)) > 4 / math.pi


@pytest.mark.parametrize(
    ("acceleration", "order", "spokes", "scan_time", "pixels", "nyquist"),
    [
        (4, "golden", 64, 4.0, 4.00, 6.28),
        (8, "golden", 32, 8.0, 7.58, 12.57),
        (16, "golden", 16, 16.0, 14.84, 25.13),
        (4, "published", 70, 3.66, 4.22, 5.74),
        (8, "published", 30, 8.53, 9.32, 13.40),
        (16, "published", 16, 16.0, 17.42, 25.13),
    ],
)
def test_three_meanings_of_acceleration(acceleration, order, spokes, scan_time, pixels, nyquist):
    ratios = sampling_ratios(256, acceleration, order)
    expected = {"spokes": spokes, "scan_time": scan_time, "pixels": pixels, "nyquist": nyquist}
    assert ratios == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("size", "tolerance"), [(64, 0.25), (128, 0.1), (240, 0.1), (256, 0.1)])
def test_physical_masks_save_about_what_they_promise(size, tolerance):
    for acceleration in (4, 8, 16):
        for order in ("golden", "uniform"):
            assert sampling_ratios(size, acceleration, order)["pixels"] == pytest.approx(acceleration, rel=tolerance)


def test_published_counts_follow_the_image_size_in_pairs():
    assert [spokes_for(256, R, "published") for R in (4, 8, 16, 24)] == [140, 60, 32, 22]
    assert [spokes_for(128, R, "published") for R in (4, 8, 16)] == [70, 30, 16]
    assert [spokes_for(64, R, "published") for R in (4, 8, 16)] == [36, 16, 8]


# What the published mask does


def published_by_loop(size: int, n_rays: int) -> torch.Tensor:
    """Half-lines from the centre, one sample at a time, coordinates cut to integers."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    for angle in np.linspace(0, 2 * np.pi, n_rays, endpoint=False):
        for radius in range(size // 2):
            mask[int(size // 2 + radius * np.sin(angle)), int(size // 2 + radius * np.cos(angle))] = True
    return mask


@pytest.mark.parametrize(("size", "n_rays"), [(64, 16), (64, 35), (256, 60), (256, 140)])
def test_published_mask_is_the_published_procedure(size, n_rays):
    assert torch.equal(radial_mask(size, n_rays, "published"), published_by_loop(size, n_rays))


@pytest.mark.parametrize("acceleration", [4, 8, 16])
def test_most_samples_of_the_published_mask_lack_their_mirror(acceleration):
    mask = radial_mask(256, spokes_for(256, acceleration, "published"), "published")
    paired = int((mask[1:, 1:] & mirrored(mask)).sum()) / int(mask.sum())
    assert paired < 0.5
    physical = radial_mask(256, spokes_for(256, acceleration))
    assert int((physical[1:, 1:] & mirrored(physical)).sum()) == int(physical.sum())


def test_published_spokes_are_a_uniform_fan_not_a_golden_one():
    place = (torch.nonzero(radial_mask(256, 8, "published")).T - 128).double()
    angle = torch.rad2deg(torch.atan2(*place[:, place.norm(dim=0) > 100]))
    assert float((angle / 45 - (angle / 45).round()).abs().max()) < 1 / 45, "all at multiples of 45 degrees"


def test_docstring_examples_run():
    assert doctest.testmod(mri).attempted > 0 and doctest.testmod(mri).failed == 0


# The zero-filled image


def four_shifts(images: torch.Tensor, mask: torch.Tensor, part: str) -> torch.Tensor:
    """The textbook chain in numpy and double precision."""
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images.double().numpy(), axes)), axes) * mask.numpy()
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes)), axes)
    return torch.from_numpy(np.clip(np.abs(image) if part == "magnitude" else np.abs(image.real), 0, 1)).float()


@pytest.mark.parametrize("part", ["magnitude", "real"])
@pytest.mark.parametrize("mode", ["physical", "published"])
def test_fast_path_equals_the_four_shift_chain(mode, part):
    images = torch.stack([head(), head().flip(1), torch.rand(64, 64, generator=torch.Generator().manual_seed(0))])
    order = "published" if mode == "published" else "golden"
    mask = radial_mask(64, spokes_for(64, 8, order), order)
    degraded = undersample(images, 8, mode, part=part)
    torch.testing.assert_close(degraded, four_shifts(images, mask, part), rtol=0, atol=1e-6)


def test_measured_kspace_gives_the_degraded_image():
    for mode in ("physical", "published"):
        degraded, measured = RadialMRI(mode).measure(head(), 8, "a")
        torch.testing.assert_close(zero_filled(measured.kspace).clamp(0, 1), degraded, rtol=0, atol=1e-6)
        assert not measured.kspace[~measured.mask].any()
        assert torch.equal(measured.kspace[measured.mask], to_kspace(head())[measured.mask])


@pytest.mark.parametrize("option", [{}, {"mode": "published"}, {"noise": 2.0}])
def test_what_leaves_the_unit_range_is_clipped(option):
    degraded, measured = RadialMRI(**option).measure(1 - head(), 4, "a")
    assert zero_filled(measured.kspace).max() > 1, "bright surroundings overshoot"
    assert degraded.max() == 1


def test_a_mask_of_ones_is_the_identity():
    everything = torch.ones(64, 64, dtype=torch.bool)
    torch.testing.assert_close(zero_filled(acquire(head()[None], everything))[0], head(), rtol=0, atol=1e-6)


def test_acceleration_one_returns_the_image_bit_by_bit():
    for mode in ("physical", "published"):
        assert torch.equal(undersample(head(), 1, mode), head())


def test_image_of_a_physical_mask_is_real_that_of_the_published_one_is_not():
    def imaginary_share(order: str) -> float:
        image = to_image(to_kspace(head(256)) * radial_mask(256, spokes_for(256, 8, order), order))
        return float(image.imag.square().sum() / image.abs().square().sum())

    assert imaginary_share("golden") < 1e-12 and imaginary_share("uniform") < 1e-12
    assert 0.01 < imaginary_share("published") < 0.10


def test_real_part_and_magnitude_differ_in_published_mode_only():
    image = head(256)
    magnitude, real = (undersample(image, 8, "published", part=part) for part in ("magnitude", "real"))
    assert 26 < psnr_db(real, magnitude) < 38, "training and evaluation saw different inputs"
    assert psnr_db(real, image) > psnr_db(magnitude, image) + 0.2, "and the evaluation's were better"
    magnitude, real = (undersample(image, 8, part=part) for part in ("magnitude", "real"))
    assert torch.equal(magnitude, real)


@pytest.mark.parametrize("order", ["golden", "uniform"])
def test_quality_falls_as_acceleration_rises(order):
    quality = [psnr_db(undersample(head(128), R, order=order), head(128)) for R in (2, 4, 8, 16, 32)]
    assert all(better > worse + 1 for better, worse in itertools.pairwise(quality))


def test_gradient_reaches_the_clean_image():
    image = (0.2 + 0.6 * head(16)).requires_grad_()
    undersample(image, 4).sum().backward()
    assert float(image.grad.abs().max()) > 0.1 and image.grad.isfinite().all()


# Noise


def generators(names, seed: int = 0, level: float = 4):
    return [noise_generator(seed, name, level) for name in names]


def test_noise_has_the_stated_spread_on_samples_and_none_elsewhere():
    images, mask = torch.zeros(20, 64, 64), radial_mask(64, 16)
    kspace = acquire(images, mask, noise=0.1, generators=generators(range(20)))
    samples = kspace[:, mask]
    assert not kspace[:, ~mask].any()
    error = 4 / math.sqrt(2 * samples.numel())  # four standard errors of a standard deviation, relative
    for component in (samples.real, samples.imag):
        assert float(component.std()) == pytest.approx(0.1, rel=error)
        assert abs(float(component.mean())) < 4 * 0.1 / math.sqrt(samples.numel())


def test_noise_of_the_image_is_that_of_the_samples_times_the_root_of_their_share():
    mask = radial_mask(64, 16)
    image = to_image(acquire(torch.zeros(20, 64, 64), mask, noise=0.1, generators=generators(range(20))))
    assert float(image.real.std()) == pytest.approx(0.1 / math.sqrt(achieved_acceleration(mask)), rel=0.03)


def test_magnitude_of_noise_alone_follows_rayleigh():
    everything = torch.ones(64, 64, dtype=torch.bool)
    image = zero_filled(acquire(torch.zeros(20, 64, 64), everything, noise=0.1, generators=generators(range(20))))
    assert float(image.mean()) == pytest.approx(0.1 * math.sqrt(math.pi / 2), rel=0.01)


def test_a_noisy_scan_is_worse_and_repeats_by_name():
    images = torch.stack([head()] * 3)
    noisy = undersample(images, 4, noise=0.2, image_ids=["a", "b", "a"], seed=5)
    assert psnr_db(noisy[0], head()) < psnr_db(undersample(head(), 4), head())
    assert torch.equal(noisy[0], noisy[2]) and not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy[1], undersample(head(), 4, noise=0.2, image_ids="b", seed=5))
    assert not torch.equal(noisy[1], undersample(head(), 4, noise=0.2, image_ids="b", seed=6))


def test_another_acceleration_is_another_scan_with_noise_of_its_own():
    four, eight = (RadialMRI(noise=0.1).measure(head(), R, "a")[1] for R in (4, 8))
    both = four.mask & eight.mask
    assert both.any() and (four.kspace[both] != eight.kspace[both]).all()


# Data consistency


def measured_and_guess(mode: str, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth, its samples, the mask, and a wrong reconstruction."""
    truth, order = head(32).to(dtype), "published" if mode == "published" else "golden"
    mask = radial_mask(32, 8, order)
    return truth, to_kspace(truth) * mask, mask, truth.roll(1, 0) * 0.8


@pytest.mark.parametrize("mode", ["physical", "published"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_data_consistency_is_a_projection_that_keeps_the_samples(mode, dtype):
    truth, kspace, mask, guess = measured_and_guess(mode, dtype)
    once = data_consistency(guess, kspace, mask)
    assert once.dtype == dtype and once.shape == guess.shape
    torch.testing.assert_close(to_kspace(once)[mask], kspace[mask].to(torch.complex128))
    torch.testing.assert_close(data_consistency(once, kspace, mask), once)
    torch.testing.assert_close(data_consistency(truth, kspace, mask), truth)
    assert float((once - truth).abs().square().sum()) < float((guess - truth).abs().square().sum())


def test_what_was_not_measured_is_left_alone():
    _, kspace, mask, guess = measured_and_guess("physical")
    once = data_consistency(guess, kspace + 7 * ~mask, mask)  # values outside the mask must not matter
    torch.testing.assert_close(to_kspace(once)[~mask], to_kspace(guess)[~mask])


def test_a_real_image_also_takes_the_mirror_of_each_sample():
    truth, kspace, mask, guess = measured_and_guess("published")
    mirror = kspace.flip(0, 1).roll((1, 1), (0, 1)) != 0
    once = to_kspace(data_consistency(guess, kspace, mask))
    torch.testing.assert_close(once[mirror & ~mask], to_kspace(truth)[mirror & ~mask])
    complex_once = to_kspace(data_consistency(guess.to(torch.complex128), kspace, mask))
    torch.testing.assert_close(complex_once[mirror & ~mask], to_kspace(guess)[mirror & ~mask])


def test_noisy_mirrors_are_averaged_in_a_real_image():
    truth, kspace, mask, guess = measured_and_guess("physical")
    noisy = kspace + 0.1 * random_complex(32, 32) * mask
    once = data_consistency(guess, noisy, mask)
    complex_once = data_consistency(guess.to(torch.complex128), noisy, mask)
    torch.testing.assert_close(once, complex_once.real)
    torch.testing.assert_close(data_consistency(once, noisy, mask), once)
    error = lambda image: float((to_kspace(image) - to_kspace(truth))[mask].abs().square().mean())
    assert error(once) == pytest.approx(error(complex_once) / 2, rel=0.2)


def test_strength_goes_from_the_guess_to_the_samples():
    _, kspace, mask, guess = measured_and_guess("physical")
    none, half, full = (data_consistency(guess, kspace, mask, strength) for strength in (0, 0.5, 1))
    torch.testing.assert_close(none, guess)
    torch.testing.assert_close(half, (guess + full) / 2)


def test_data_consistency_of_a_batch_is_that_of_each_image():
    images = torch.stack([head(32), head(32).flip(0)])
    degraded, measured = RadialMRI().measure(images, 4, ["a", "b"])
    together = data_consistency(degraded, measured.kspace, measured.mask)
    assert torch.equal(together[1], data_consistency(degraded[1], measured.kspace[1], measured.mask))


def test_half_precision_images_of_mixed_training_are_corrected_too():
    _, kspace, mask, guess = measured_and_guess("physical", torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        once = data_consistency(guess.to(dtype), kspace, mask)
        assert once.dtype == dtype
        torch.testing.assert_close(once.float(), data_consistency(guess, kspace, mask), rtol=0, atol=0.02)


def test_data_consistency_is_differentiable():
    mask = radial_mask(8, 2)
    image, kspace = random_complex(8, 8, seed=1).real.clone().requires_grad_(), random_complex(8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: data_consistency(x, y * mask, mask, 0.7), (image, kspace))
    complex_image = random_complex(8, 8, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: data_consistency(x, kspace.detach() * mask, mask), (complex_image,))


@pytest.mark.parametrize("order", ["golden", "published"])
def test_adjoint_of_sampling_is_zero_filling(order):
    mask = radial_mask(32, 6, order)
    image, samples = random_complex(32, 32, seed=1), random_complex(32, 32, seed=2)
    forward = torch.vdot((to_kspace(image) * mask).flatten(), samples.flatten())
    back = torch.vdot(image.flatten(), to_image(samples * mask).flatten())
    torch.testing.assert_close(forward, back)


def test_data_consistency_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        data_consistency(head(32), to_kspace(head(64)), radial_mask(64, 4))
    with pytest.raises(ValueError, match=r"one shape.*\(2, 1, 32, 32\)"):  # a channel axis would broadcast in silence
        data_consistency(torch.zeros(2, 1, 32, 32), to_kspace(torch.zeros(2, 32, 32)), radial_mask(32, 4))
    with pytest.raises(ValueError, match="strength"):
        data_consistency(head(32), to_kspace(head(32)), radial_mask(32, 4), strength=1.5)


# Refusals


@pytest.mark.parametrize("acceleration", [1.5, 0.5, 0, -8, 65, math.inf, math.nan])
def test_impossible_accelerations_are_refused(acceleration):
    with pytest.raises(ValueError, match="from 2 to the size 64"):
        undersample(head(), acceleration)


@pytest.mark.parametrize("acceleration", [2, 3, 6.5, 64])
def test_any_acceleration_from_two_to_the_size_works(acceleration):
    assert undersample(head(), acceleration).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: undersample(torch.zeros(63, 63), 4), "even size.*63.*pad or crop"),
        (lambda: radial_mask(63, 4), "even size"),
        (lambda: radial_mask(64, 0), "whole spokes, at least one"),
        (lambda: radial_mask(64, 7.5), "whole spokes"),
        (lambda: radial_mask(64, 8, "goldn"), "did you mean 'golden'"),
        (lambda: undersample(head(), 8, "publishd"), "did you mean 'published'"),
        (lambda: undersample(head(), 8, order="spiral"), "golden, uniform"),
        (lambda: undersample(head(), 8, order="published"), "golden, uniform"),
        (lambda: undersample(head(), 8, part="imaginary"), "magnitude, real"),
        (
            lambda: undersample(head(), 6, "published"),
            "no published spoke count for acceleration 6; there are: 4, 8, 16",
        ),
        (lambda: undersample(head(), 8, noise=0.1), "give image_ids"),
        (lambda: acquire(head()[None], radial_mask(64, 8), noise=0.1), "noise 0.1 needs generators, one per image"),
        (lambda: RadialMRI(noise=-1), "noise is 0 or"),
        (lambda: RadialMRI(noise=math.nan), "noise is 0 or"),
        (lambda: RadialMRI("published", noise=0.1), "published mode"),
    ],
)
def test_bad_requests_name_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Elsewhere than on the CPU, and between the grid points


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("option", [{}, {"mode": "published"}, {"noise": 0.1}])
def test_gpu_agrees_with_the_cpu(option):
    images = torch.stack([head(), head().flip(0)])
    here, there = (RadialMRI(**option).measure(images.to(device), 8, "ab", 1) for device in ("cpu", "cuda"))
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(there[1].kspace.cpu(), here[1].kspace, rtol=0, atol=1e-4)


needs_finufft = pytest.mark.skipif(importlib.util.find_spec("finufft") is None, reason="needs the extra 'nufft'")


@needs_finufft
def test_true_radial_samples_on_grid_points_are_kspace():
    from fairrecon_lab.analysis import nufft

    image = head(32).numpy()
    samples = nufft.sample(image, nufft.spoke_positions(32, 1, oversampling=1))
    np.testing.assert_allclose(samples, to_kspace(head(32))[16].numpy(), atol=1e-5)


@needs_finufft
def test_true_radial_sampling_is_the_fourier_sum_and_has_its_adjoint():
    from fairrecon_lab.analysis import nufft

    random = np.random.default_rng(0)
    image = random.standard_normal((16, 16)) + 1j * random.standard_normal((16, 16))
    positions = nufft.spoke_positions(16, 5)
    pixel = np.arange(16) - 8
    wave = lambda frequency: np.exp(-2j * np.pi * frequency[:, None] * pixel / 16) / 4  # (M, 16)
    direct = np.einsum("my,yx,mx->m", wave(positions[0]), image, wave(positions[1]))
    np.testing.assert_allclose(nufft.sample(image, positions), direct, atol=1e-4)
    samples = random.standard_normal(positions.shape[1]) + 0j
    forward, back = (
        np.vdot(nufft.sample(image, positions), samples),
        np.vdot(image, nufft.adjoint(samples, positions, 16)),
    )
    assert forward == pytest.approx(back, rel=1e-5)


@needs_finufft
@pytest.mark.parametrize("acceleration", [4, 8, 16])
def test_least_squares_on_the_true_spokes_beats_the_rounded_mask(acceleration):
    from fairrecon_lab.analysis import nufft

    truth = head(128)
    positions = nufft.spoke_positions(128, spokes_for(128, acceleration))
    samples = nufft.sample(truth.numpy(), positions)
    image = torch.from_numpy(np.abs(nufft.least_squares(samples, positions, 128))).float()
    ramp = torch.from_numpy(np.abs(nufft.ramp_adjoint(samples, positions, 128))).float()
    gain = psnr_db(image, truth) - psnr_db(undersample(truth, acceleration), truth)
    assert 0.3 < gain < 4, "the rounded mask costs a decibel or two, not more"
    assert psnr_db(ramp, truth) < psnr_db(image, truth)


@needs_finufft
def test_ramp_weights_restore_a_fully_sampled_image():
    from fairrecon_lab.analysis import nufft

    positions = nufft.spoke_positions(64, 128)  # more than (pi / 2) 64 spokes: nothing is missing but the corners
    grid = np.arange(64) - 32
    smooth = np.exp(-((grid[:, None] - 3) ** 2 + 2 * grid**2) / 50)
    image = nufft.ramp_adjoint(nufft.sample(smooth, positions), positions, 64)
    assert np.linalg.norm(image - smooth) < 0.05 * np.linalg.norm(smooth)


def test_a_new_order_is_one_entry_of_the_table_and_never_another_order_in_disguise(monkeypatch):
    monkeypatch.setitem(mri.SPOKE_ANGLES, "half_golden", lambda n_spokes: mri.GOLDEN_ANGLE / 2 * np.arange(n_spokes))
    new, known = radial_mask(64, 9, "half_golden"), [radial_mask(64, 9, order) for order in ("golden", "uniform")]
    assert not any(torch.equal(new, other) for other in known)
    by_hand = torch.zeros(64, 64, dtype=torch.bool)
    for k in range(9):
        for radius in np.arange(63) / 2 * (1 + 1e-9):
            angle = k * np.deg2rad(111.24611797498108) / 2
            row, column = round(radius * np.sin(angle)), round(radius * np.cos(angle))
            by_hand[32 + row, 32 + column] = by_hand[32 - row, 32 - column] = True
    assert torch.equal(new, by_hand)
    assert mri.RadialMRI(order="half_golden").order == "half_golden"
    with pytest.raises(ValueError, match="unknown order 'spiral'"):
        radial_mask(64, 9, "spiral")
