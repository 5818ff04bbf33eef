"""Image quality: known values, independence of the batch, agreement with scikit-image."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from fairrecon_core.learn.weights import read_safetensors
from fairrecon_core.predict import quality
from fairrecon_core.predict.quality import film_mask, head_mask, lpips_network, measure, psnr_db


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(4)
    clean = rng.random((5, 64, 64)).astype(np.float32)
    return (clean + rng.normal(0, 0.1, clean.shape)).astype(np.float32), clean


def test_psnr_by_hand():
    assert psnr_db(np.full((4, 4), 0.6), np.full((4, 4), 0.5)) == pytest.approx(20.0)
    assert psnr_db(np.ones((4, 4)), np.ones((4, 4))) == np.inf and np.isnan(psnr_db([], []))


def test_the_film_is_what_lies_within_its_border_by_hand():
    image = np.zeros((2, 6, 8))
    image[0, 1:4, 2] = image[0, 2, 6] = 0.5  # black between them belongs to the film
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:7] = True
    assert np.array_equal(film_mask(image)[0], expected) and not film_mask(image)[1].any()


def test_a_border_changes_the_whole_and_not_the_inside_of_a_film(pair):
    images, clean = (part.clip(0.01, 1) for part in pair)
    around = ((0, 0), (0, 0), (16, 16))
    plain = measure(images, clean, foreground=film_mask(clean), with_lpips=False)
    framed = np.pad(clean, around)
    for fill in (0.0, 0.3):  # an arm that keeps the border black, and one that paints it
        painted = np.pad(images, around, constant_values=fill)
        found = measure(painted, framed, foreground=film_mask(framed), with_lpips=False)
        assert np.allclose(found["psnr_foreground_db"], plain["psnr_db"], atol=1e-4)
        assert (found["psnr_db"] > plain["psnr_db"]).all() == (fill == 0.0)


def test_figures_agree_with_scikit_image(pair):
    images, clean = pair
    table = measure(images, clean, with_lpips=False)
    for image, truth, row in zip(images.clip(0, 1), clean, table.itertuples()):
        assert row.psnr_db == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1), abs=1e-6)
        wang = structural_similarity(truth, image, data_range=1, gaussian_weights=True, use_sample_covariance=False)
        assert row.ssim == pytest.approx(wang, abs=1e-4)
        assert row.nmse == pytest.approx(normalized_root_mse(truth, image, normalization="euclidean") ** 2, rel=1e-5)


def test_figures_do_not_depend_on_the_batch(pair):
    images, clean = pair
    whole = measure(images, clean)
    single = [measure(images[i : i + 1], clean[i : i + 1]).iloc[0] for i in range(len(clean))]
    assert np.array_equal(whole.to_numpy(), np.stack(single), equal_nan=True)


def test_arms_measured_together_have_the_figures_of_each_alone(pair):
    images, clean = pair
    together = quality.measure_arms([images, clean, images[::-1]], clean)
    for found, arm in zip(together, (images, clean, images[::-1]), strict=True):
        pd.testing.assert_frame_equal(found, measure(arm, clean), check_exact=True)
    with pytest.raises(ValueError, match="are both"):
        quality.measure_arms([images, images[:1]], clean)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_figures_do_not_depend_on_the_number_of_threads(pair, n_threads):
    expected, before = measure(*pair), torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        assert measure(*pair).equals(expected)
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)


def test_lpips_reproduces_the_published_value_of_the_alexnet_variant():
    torch.manual_seed(123)
    first, second = (torch.rand(10, 3, 100, 100) * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        assert float(lpips_network()(first, second).mean()) == pytest.approx(0.148562, abs=1e-4)


def test_lpips_is_that_of_the_package(pair):
    import lpips  # imports torchvision: seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses an argument that torchvision renamed
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)
    trunk, _ = read_safetensors(quality.TRUNK)
    for part in package.net.children():
        for name, layer in part.named_children():
            if f"features.{name}.weight" in trunk:
                layer.weight.copy_(trunk[f"features.{name}.weight"].float())
                layer.bias.copy_(trunk[f"features.{name}.bias"].float())
    images, clean = (torch.from_numpy(part).clamp(0, 1)[:, None].expand(-1, 3, -1, -1) * 2 - 1 for part in pair)
    with torch.inference_mode():
        expected = package(images, clean).flatten().numpy()
    assert np.allclose(quality.lpips_distances(pair[0].clip(0, 1), pair[1]), expected, rtol=1e-5)


def test_measuring_does_not_import_torchvision():
    code = (
        "import sys, numpy as np; from fairrecon_core.predict.quality import measure; "
        "measure(np.zeros((1, 64, 64)), np.ones((1, 64, 64))); sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "it takes 6 s and 150 MB in every notebook"


def test_equal_images_are_perfect_and_worse_ones_measure_worse(pair):
    _, clean = pair
    perfect = measure(clean, clean)
    assert np.isinf(perfect["psnr_db"]).all() and perfect["lpips"].abs().max() < 1e-6
    noise = np.random.default_rng(5).normal(0, 1, clean.shape)
    steps = [measure(clean + share * noise, clean).mean() for share in (0.02, 0.1, 0.3)]
    for column, sign in (("psnr_db", -1), ("ssim", -1), ("nmse", 1), ("lpips", 1)):
        assert all(np.diff([sign * step[column] for step in steps]) > 0), column


def test_foreground_leaves_the_background_out(pair):
    images, clean = pair
    half = np.zeros(clean.shape, bool)
    half[:, :32] = True
    table = measure(images, clean, foreground=half, with_lpips=False)
    assert table["psnr_foreground_db"][0] == pytest.approx(psnr_db(images[0, :32].clip(0, 1), clean[0, :32]))
    square = np.zeros((1, 32, 32))
    square[0, 10:20, 10:20] = 0.5
    assert head_mask(square).sum() == 14 * 14 - 12  # grown by two pixels, corners cut


def test_a_missing_trunk_is_an_error_never_random_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "TRUNK", tmp_path / "none.safetensors")
    lpips_network.cache_clear()
    with pytest.raises(FileNotFoundError, match="no weights at"):
        lpips_network()


def test_nonsense_is_refused(pair):
    images, clean = pair
    with pytest.raises(ValueError, match="both"):
        measure(images[:2], clean)
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure(np.full_like(clean, np.nan), clean)
