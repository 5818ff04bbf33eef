"""The mean-reverting SDE on toys whose score is known exactly, and the network around it."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, wasserstein_distance

from fairrecon_core.degrade import degradation
from fairrecon_core.learn.loop import Images, fit, pairs
from fairrecon_core.reconstruct.sde import SAMPLERS, SCHEDULE, Schedule, SDEReconstructor, true_epsilon, walk_back


class Mixture:
    """Residuals from a mixture of normals: the expected z_0 given z_t in closed form."""

    def __init__(self, weights, means, sds, schedule=SCHEDULE):
        self.w, self.m, self.sd, self.schedule = np.array(weights), np.array(means), np.array(sds), schedule

    def draw(self, n, rng):
        k = rng.choice(len(self.w), n, p=self.w)
        return self.m[k] + self.sd[k] * rng.normal(size=n)

    def __call__(self, z, t):
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        variance = alpha**2 * self.sd**2 + sigma**2
        away = z[:, None] - alpha * self.m
        log_p = np.log(self.w) - np.log(variance) / 2 - away**2 / variance / 2
        p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        return (p / p.sum(axis=1, keepdims=True) * (self.m + alpha * self.sd**2 / variance * away)).sum(axis=1)


TWO_PEAKS = ([0.3, 0.7], [-0.15, 0.1], [0.03, 0.05])


def walked(denoise, n, rng, sampler, n_steps=None, schedule=SCHEDULE):
    start = schedule.scale * rng.normal(size=n)
    return walk_back(denoise, start, lambda: rng.normal(size=n), schedule, sampler, n_steps)


def test_the_schedule_ends_at_eps_and_its_noise_at_lambda():
    assert SCHEDULE.alpha[0] == 1 and SCHEDULE.sigma[0] == 0
    assert SCHEDULE.alpha[-1] == pytest.approx(0.005) and SCHEDULE.sigma[-1] == pytest.approx(10 / 255, rel=1e-4)
    assert [round(SCHEDULE.alpha[t], 3) for t in (10, 20, 40, 60, 80)] == [0.985, 0.916, 0.569, 0.195, 0.037]
    assert np.all(np.diff(SCHEDULE.alpha) < 0) and pytest.approx(0.104, abs=5e-4) == SCHEDULE.dt


@pytest.mark.parametrize(("steps", "tolerance"), [(100, 0.03), (2000, 0.01)])
def test_simulated_forward_steps_reach_the_closed_form(steps, tolerance):
    schedule, rng = Schedule(steps=steps), np.random.default_rng(0)
    z, until = np.full(20_000, 0.3), round(0.6 * steps)
    for t in range(1, until + 1):
        drift = schedule.theta[t] * schedule.dt
        z = z - drift * z + schedule.scale * np.sqrt(2 * drift) * rng.normal(size=z.size)
    assert z.mean() == pytest.approx(0.3 * schedule.alpha[until], abs=0.3 * tolerance)
    assert z.std() == pytest.approx(schedule.sigma[until], rel=tolerance)


def test_two_steps_forward_are_one():
    ratio = SCHEDULE.alpha[75] / SCHEDULE.alpha[25]
    variance = ratio**2 * SCHEDULE.sigma[25] ** 2 + SCHEDULE.scale**2 * (1 - ratio**2)
    assert variance == pytest.approx(SCHEDULE.sigma[75] ** 2, rel=1e-12)


@pytest.mark.parametrize(("t", "s"), [(40, 39), (100, 1), (1, 0)])
def test_the_posterior_step_is_bayes_rule(t, s):
    ratio = SCHEDULE.alpha[t] / SCHEDULE.alpha[s]
    prior, likelihood = SCHEDULE.sigma[s] ** 2, SCHEDULE.scale**2 * (1 - ratio**2)
    gain = prior * ratio / (ratio**2 * prior + likelihood)
    z_t, z_0 = 0.05, 0.2
    expected = SCHEDULE.alpha[s] * z_0 + gain * (z_t - ratio * SCHEDULE.alpha[s] * z_0)
    c_z, c_0, spread = SCHEDULE.posterior(t, s)
    assert c_z * z_t + c_0 * z_0 == pytest.approx(expected, abs=1e-10)
    assert spread == pytest.approx(np.sqrt(prior * (1 - gain * ratio)), abs=1e-10)


def test_a_normal_residual_keeps_mean_and_spread():
    rng = np.random.default_rng(1)
    z = walked(Mixture([1.0], [0.05], [0.1]), 40_000, rng, "ode2", 20)
    assert z.mean() == pytest.approx(0.05, abs=0.002) and z.std() / 0.1 == pytest.approx(1, abs=0.02)


def test_ten_steps_of_ode2_match_a_hundred_of_euler_and_every_sampler_finds_both_peaks():
    rng, toy, n = np.random.default_rng(2), Mixture(*TWO_PEAKS), 40_000
    truth = toy.draw(4 * n, rng)
    distance = {name: wasserstein_distance(walked(toy, n, rng, name), truth) for name in ("euler", "posterior", "ode2")}
    distance["sde2"] = wasserstein_distance(walked(toy, n, rng, "sde2", 100), truth)
    assert max(distance.values()) < 0.006
    assert distance["ode2"] < 1.1 * distance["euler"] + 5e-4  # sampling noise of the distance


def test_deterministic_and_random_sampler_have_the_same_law():
    rng, toy = np.random.default_rng(3), Mixture(*TWO_PEAKS)
    fine = Mixture(*TWO_PEAKS, schedule=Schedule(steps=1000))
    first, second = walked(toy, 3000, rng, "ode2", 100), walked(fine, 3000, rng, "posterior", schedule=fine.schedule)
    assert ks_2samp(first, second).pvalue > 0.01


def test_the_integrator_is_of_second_order():
    schedule = Schedule(steps=1920)
    toy, start = Mixture(*TWO_PEAKS, schedule=schedule), schedule.scale * np.random.default_rng(4).normal(size=500)
    ends = [walk_back(toy, start, None, schedule, "ode2", n) for n in (20, 40, 80, 1920)]
    errors = [np.sqrt(np.mean((end - ends[-1]) ** 2)) for end in ends[:-1]]
    assert np.log2(errors[0] / errors[1]) > 1.7 and np.log2(errors[1] / errors[2]) > 1.7


def test_a_perfect_sampler_doubles_the_error_and_averaging_takes_it_back():
    rng, n, k = np.random.default_rng(5), 30_000, 0.8  # x_0 ~ N(.5, .2^2), mu = x_0 + N(0, .1^2): weight .8 on mu
    x_0 = 0.5 + 0.2 * rng.normal(size=n)
    mu = x_0 + 0.1 * rng.normal(size=n)
    best, variance = 0.5 + k * (mu - 0.5), 0.2**2 * 0.1**2 / (0.2**2 + 0.1**2)

    def denoise(z, t):
        alpha, sigma = SCHEDULE.alpha[t], SCHEDULE.sigma[t]
        return best - mu + alpha * variance / (alpha**2 * variance + sigma**2) * (z - alpha * (best - mu))

    samples = np.stack([mu + walked(denoise, n, rng, "ode2", 20) for _ in range(4)])
    assert np.cov(samples[0], mu)[0, 1] / mu.var() == pytest.approx(0.8, abs=0.01)
    assert 0.95 < (samples[0] - best).var() / variance < 1.05
    excess = [((samples[:m].mean(axis=0) - x_0) ** 2).mean() / variance for m in (1, 2, 4)]
    assert excess == pytest.approx([2, 1.5, 1.25], abs=0.05)


def test_the_published_loss_can_be_corrected_for_fast_sampling():
    rng, toy, n = np.random.default_rng(6), Mixture(*TWO_PEAKS), 40_000
    truth = toy.draw(4 * n, rng)

    def learned(z, t):
        a, b, _ = SCHEDULE.published_epsilon(t)
        eps = (z - SCHEDULE.alpha[t] * toy(z, t)) / SCHEDULE.sigma[t]
        return a * eps + b * z / SCHEDULE.sigma[t]

    as_z_0 = lambda eps, z, t: (z - SCHEDULE.sigma[t] * eps) / SCHEDULE.alpha[t]
    raw = walked(lambda z, t: as_z_0(learned(z, t), z, t), n, rng, "ode2", 20)
    corrected = walked(lambda z, t: as_z_0(true_epsilon(learned(z, t), z, t, SCHEDULE), z, t), n, rng, "ode2", 20)
    true = walked(toy, n, rng, "ode2", 20)
    far = {name: wasserstein_distance(z, truth) for name, z in (("raw", raw), ("corrected", corrected), ("true", true))}
    assert far["raw"] > 2 * far["corrected"] and far["corrected"] < 1.3 * far["true"] + 1e-3
    euler_step = [SCHEDULE.published_epsilon(t)[:2] for t in (1, 50, 100)]
    assert all(1 <= a < 1.003 and -0.03 < b <= 1e-12 for a, b in euler_step)


def test_the_way_back_is_refused_when_it_makes_no_sense():
    with pytest.raises(ValueError, match="unknown sampler 'heun'; choose one of euler, posterior, ode2, sde2"):
        walk_back(None, None, None, SCHEDULE, "heun")
    with pytest.raises(ValueError, match="takes all 100 steps, got 10"):
        walk_back(None, None, None, SCHEDULE, "euler", 10)
    with pytest.raises(ValueError, match="between 1 and 100 reverse steps, got 101"):
        SCHEDULE.times(101)
    with pytest.raises(ValueError, match="steps >= 2"):
        Schedule(steps=1)


def arm(**options):
    torch.manual_seed(0)
    made = SDEReconstructor(width=4, **options)
    torch.nn.init.normal_(made.average.body.out.weight, std=0.02)
    made.ready()
    return made


def blobs(n, seed=0):
    return np.random.default_rng(seed).random((n, 4, 4)).repeat(4, axis=1).repeat(4, axis=2).astype(np.float32)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_adding_a_constant_to_both_images_adds_it_to_the_sample(sampler):
    reconstruct = arm(sampler=sampler)
    torch.nn.init.zeros_(reconstruct.average.body.out.weight)  # otherwise mu itself enters the network
    image = torch.from_numpy(0.4 + 0.1 * blobs(1))
    first, second = (reconstruct(image + c, 8, image_ids=["a"]) for c in (0.0, 0.1))
    assert torch.allclose(first + 0.1, second, atol=1e-5)


def test_samples_differ_and_repeat_by_seed_and_sample():
    reconstruct, image = arm(), torch.from_numpy(0.3 + 0.3 * blobs(2))
    draw = lambda **which: reconstruct(image, 8, image_ids=["a", "b"], **which)
    assert torch.equal(draw(seed=1, sample=2), draw(seed=1, sample=2))
    assert not torch.equal(draw(seed=1), draw(seed=2)) and not torch.equal(draw(sample=1), draw(sample=2))
    many = reconstruct.samples(image, 8, 3, image_ids=["a", "b"], seed=1)
    assert many.shape == (3, 2, 16, 16) and torch.equal(many[2], draw(seed=1, sample=2))
    assert torch.equal(draw(seed=1, sample=[2, 0])[0], many[2, 0]), "a sample for each image"
    assert torch.equal(draw(seed=1, sample=[2, 0])[1], many[0, 1])
    with pytest.raises(ValueError, match="one for each: got 3 for 2"):
        draw(sample=[0, 1, 2])


@pytest.mark.parametrize("loss", ["unbiased", "published"])
def test_training_lowers_the_loss_and_resumes_to_the_same_weights(loss, tmp_path):
    train, validation = Images(blobs(16, 1), [f"t{k}" for k in range(16)]), Images(blobs(8, 2), list("abcdefgh"))
    draw = pairs(train, validation, degradation("mri"), [4], batch_size=4)
    options = {"progress": False, "accelerator": "cpu"}

    def trained(epochs, folder=None):
        torch.manual_seed(1)
        recipe = SDEReconstructor(width=4, loss=loss, learning_rate=1e-2, average=0.9)
        table = fit(recipe, draw, epochs=epochs, folder=folder, **options)
        return table, recipe

    table, whole = trained(12)
    assert table["validation"].min() < 0.95 * table["validation"][0]
    trained(5, tmp_path)
    _, resumed = trained(12, tmp_path)
    for one, other in zip(whole.average.state_dict().values(), resumed.average.state_dict().values()):
        assert torch.equal(one, other)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="'unbiased' or 'published'"):
        SDEReconstructor(width=2, loss="l1")
