"""Thresholds of resampled validation patients: what is chosen among them, and how much it should vary."""

import numpy as np
import pytest

from fairrecon_core.audit.metrics import smoothed
from fairrecon_core.audit.thresholds import RULES, choose_threshold, resampled_thresholds


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_resample_by_weights_chooses_as_the_repeated_images_do(rule):
    rng = np.random.default_rng(1)
    score, truth = rng.integers(1, 12, 60) / 12, rng.integers(0, 2, 60).astype(float)  # with ties
    truth[:3] = np.nan
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=40).astype(float)
    expected = [choose_threshold(np.repeat(score, row.astype(int)), np.repeat(truth, row.astype(int)), rule)
                for row in counts]  # fmt: skip
    assert resampled_thresholds(score[None], truth, counts, rule) == pytest.approx(expected, nan_ok=True)


def test_a_resample_without_one_of_the_labels_has_no_threshold():
    counts = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0]])
    found = resampled_thresholds(np.array([[0.1, 0.2, 0.7, 0.8]]), np.array([0.0, 0, 1, 1]), counts)
    assert np.isnan(found[0]) and found[1] == 0.7


def test_copies_of_an_image_are_apart_and_an_arm_that_is_shifted_is_shifted_in_every_draw():
    rng = np.random.default_rng(2)
    odds, truth, who = rng.normal(size=30), rng.integers(0, 2, 30).astype(float), rng.permutation(30)
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=20).astype(float)
    one, other = (smoothed(1 / (1 + np.exp(-odds - shift)), truth, weights, who) for shift in (0, 0.7))
    back = [np.log(part[0] / (1 - part[0])) for part in (one, other)]
    assert back[1] - back[0] == pytest.approx(0.7, abs=1e-6)
    assert one[2].sum(axis=1) == pytest.approx(np.minimum(weights, 5).sum(axis=1))
    assert len(np.unique(one[0][0])) == one[0].shape[1]
    order = rng.permutation(30)  # of rows
    again = smoothed(1 / (1 + np.exp(-odds[order])), truth[order], weights[:, order], who[order])
    shaped = [part.reshape(20, 5, 30) for part in (one[0], again[0])]
    assert shaped[1] == pytest.approx(shaped[0][..., order])


def test_cuts_of_two_arms_move_apart_as_much_as_with_other_patients_not_more():
    """100 patients, the second arm the first with noise; the cuts' difference over worlds, and over resamples."""
    rng = np.random.default_rng(3)
    true, plain, smooth, cut = [], [], [], lambda part: np.log(part / (1 - part))
    for world in range(400):
        truth = (rng.random(100) < 0.5).astype(float)
        odds = rng.normal(2 * truth - 1)
        arms = [1 / (1 + np.exp(-part)) for part in (odds, odds + 0.5 * rng.normal(size=100))]
        true.append(np.subtract(*(cut(choose_threshold(arm, truth)) for arm in arms)))
        if world < 60:
            weights = rng.multinomial(100, np.full(100, 0.01), size=100).astype(float)
            resampled = lambda arm, weights=weights, truth=truth: cut(resampled_thresholds(arm[None], truth, weights))
            plain.append(np.subtract(*map(resampled, arms)).var())
            drawn = [smoothed(arm, truth, weights, np.arange(100)) for arm in arms]
            smooth.append(np.subtract(*(cut(resampled_thresholds(*part)) for part in drawn)).var())
    ratio = [np.sqrt(np.mean(part)) / np.std(true) for part in (plain, smooth)]
    assert 0.93 < ratio[1] < 1.07 < ratio[0], ratio
