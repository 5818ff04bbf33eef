"""Mitigation: each right term reaches the reconstructor, each published fault does not; a twin is plain training."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from fairrecon_core.learn.loop import Batch, Images
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.reconstruct import reconstructor
from fairrecon_lab.mitigation.finetune import Eye, FineTune, People, fine_tune, term_gradient
from fairrecon_lab.mitigation.groups import balancing_weights, joint_codes, subgroup_codes
from fairrecon_lab.mitigation.methods import METHODS
from fairrecon_lab.mitigation.terms import (
    Adversarial,
    Consistency,
    EqualOdds,
    PixelDRO,
    Reweighting,
    Seen,
    smooth_range,
    squared_correlation,
)

SIZE, N, LEVEL = 32, 24, 1000.0


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(N)],
            "patient_id": [f"p{k}" for k in range(N)],
            "sex": ["female", "female", "female", "male"] * (N // 4),  # unequal shares, or no weight differs from 1
            "age_years": rng.integers(20, 90, N),
            "y_effusion": [0, 1] * (N // 2),
        }
    )


@pytest.fixture(scope="module")
def eye():
    torch.manual_seed(0)
    reader = Classifier(["effusion", "edema"], "resnet18_half")
    for module in reader.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # its means are those of the next batch, so that no logit is extreme
    reader.net.train()(torch.rand(8, 1, 64, 64))
    return Eye(reader, ["effusion"], 64)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(N, 1, SIZE, SIZE, generator=generator)
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    return Batch(noisy, clean, LEVEL, [f"i{k}" for k in range(N)])


def network(arm):
    torch.manual_seed(5)
    made = reconstructor(arm, "xray", width=4)
    for value in made.net.parameters():  # the last layer starts at zero, and would cut most gradients
        nn.init.normal_(value, std=0.1)
    if arm == "sde":
        made.average.load_state_dict(made.net.state_dict(), strict=False)
    return made


TERMS = {
    "reweighting": lambda eye, people: Reweighting(),
    "group_dro": lambda eye, people: PixelDRO(),
    "consistency": lambda eye, people: Consistency(),
    "eodd": lambda eye, people: EqualOdds(torch.zeros(1)),
    "adversarial": lambda eye, people: Adversarial(eye.n_features, people.n_groups),
}


# gradients


@pytest.mark.parametrize("arm", ["unet", "pix2pix", "sde"])
@pytest.mark.parametrize("name", TERMS)
def test_every_right_term_reaches_every_reconstructor(arm, name, eye, batch, table):
    people = People(table, ["effusion"], ("sex", "age_years"))
    torch.manual_seed(2)
    recipe = FineTune(network(arm), TERMS[name](eye, people), people, eye=eye)
    assert term_gradient(recipe, batch) > 1e-8


@pytest.mark.parametrize("name", ["eodd", "adversarial", "consistency"])
def test_the_published_sde_form_gives_exactly_no_gradient(name, eye, batch, table):
    people = People(table, ["effusion"])
    recipe = FineTune(network("sde"), TERMS[name](eye, people), people, eye=eye, estimate="published")
    assert term_gradient(recipe, batch) == 0.0


@pytest.mark.parametrize("arm", ["unet", "pix2pix", "sde"])
@pytest.mark.parametrize("name", ["eodd", "adversarial", "reweighting"])
def test_a_constant_attribute_gives_exactly_no_gradient_and_is_refused_unless_published(arm, name, eye, batch, table):
    alike = table.assign(sex="male") if name == "reweighting" else table  # its cells are those of the recorded sex
    published = People(alike, ["effusion"], weights_by=("sex",), sex_code="published")
    assert set(published.groups[:, 0]) == {1}, "'female' is not 'F': everybody gets the same code"
    recipe = FineTune(network(arm), TERMS[name](eye, published), published, eye=eye)
    assert term_gradient(recipe, batch) == 0.0
    with pytest.raises(ValueError, match="'sex' has one value"):
        People(table.assign(sex="female"), ["effusion"])


def test_every_method_of_the_study_has_a_gradient_unless_its_published_form_has_none(eye, batch, table):
    """What the tables call a method is what these tests look at: the terms as `methods.METHODS` makes them."""
    silent = {"eodd, published sex code": "unet", "eodd, published sde form": "sde"}
    for name, method in METHODS.items():
        if method.term is None:
            continue
        people = dict(method.people)
        if "weights_by" in people:
            people["weights_by"] = ("sex", "y_effusion")
        people = People(table, ["effusion"], **people)
        recipe = FineTune(network(silent.get(name, "unet")), method.term(eye, torch.zeros(1), people), people, eye=eye,
                          estimate=method.estimate)  # fmt: skip
        assert (term_gradient(recipe, batch) == 0.0) == (name in silent), name


def test_a_clean_image_is_read_once_and_its_answer_is_that_of_the_reader(eye, batch, table):
    people, reads = People(table, ["effusion"]), []
    recipe = FineTune(network("unet"), Consistency(), people, eye=eye)
    direct = eye(batch.clean)[0].detach()
    answers = recipe._answers(batch.names, batch.clean)
    recipe._eye = lambda images: reads.append(len(images))
    assert torch.allclose(answers, direct, atol=1e-6)
    assert torch.equal(recipe._answers(batch.names[::-1], batch.clean.flip(0)), answers.flip(0)) and not reads


def test_the_one_step_estimate_is_the_clean_image_for_a_perfect_network(batch, table):
    """Give the network the answer: then skip z + gain F is the residual, and the estimate is the clean image."""
    sde, people = network("sde"), People(table, ["effusion"])
    recipe = FineTune(sde, Reweighting(), people)
    t = torch.full((N,), 30)
    alpha, sigma = sde._at(sde.schedule.alpha, t), sde._at(sde.schedule.sigma, t)
    residual = batch.clean - batch.degraded
    z = alpha * residual + sigma * torch.randn(residual.shape, generator=torch.Generator().manual_seed(0))
    skip, gain, into = sde._scales(alpha, sigma)
    image, rows = recipe._image(batch, (into * z, batch.degraded, 0.0, t), (residual - skip * z) / gain)
    assert len(rows) == N and torch.allclose(image, batch.clean, atol=1e-5)


# the adversary


@pytest.mark.parametrize(("signs", "direction"), [("right", -1), ("published", 1)])
def test_right_signs_hide_the_attribute_from_a_linear_probe_and_published_ones_show_it(signs, direction):
    """Images of 16 values, a linear reconstructor, a frozen nonlinear reader of 4 features; sex leaks a little.

    The probe shares no code with the term: it is fitted to half of the people and judged on the others.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    sex = rng.integers(0, 2, 600)
    raw = rng.normal(size=(600, 16))
    raw[:, :4] += 2.0 * (sex[:, None] - 0.5)
    images, groups = torch.tensor(raw, dtype=torch.float32), torch.tensor(sex)[:, None]
    into = torch.randn(16, 4, generator=generator) / 4
    read = lambda made: torch.tanh(made @ into)
    net = nn.Linear(16, 16)
    with torch.no_grad():
        net.weight.copy_(torch.eye(16))
        net.bias.zero_()
    term = Adversarial(4, [2], inner=10, signs=signs, learning_rate=1e-2, memory=600)
    optimizer, empty = torch.optim.Adam(net.parameters(), lr=1e-2), torch.zeros(600, 1, 1, 1)
    before = probe(read(images).numpy(), sex)
    for _ in range(150):
        made = net(images)
        seen = Seen(empty, empty, torch.zeros(600, 1), groups, torch.ones(600), features=read(made))
        loss = term(seen) + 0.02 * ((made - images) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = probe(read(net(images)).detach().numpy(), sex)
    assert 0.1 < before < 0.6 and direction * (after - before) > 0.05, (before, after)


def probe(features, attribute):
    """R2 of a linear probe on the half of the people that it has not seen."""
    return Ridge(1e-3).fit(features[::2], attribute[::2]).score(features[1::2], attribute[1::2])


def test_the_published_adversary_looks_at_the_first_attribute_alone():
    assert Adversarial(4, [2, 5]).predictor[-1].out_features == 1 + 4
    assert Adversarial(4, [2, 5], signs="published").predictor[-1].out_features == 1
    with pytest.raises(ValueError, match="unknown signs 'both'"):
        Adversarial(4, [2], signs="both")


def test_squared_correlation_by_hand():
    a, b = torch.tensor([[1.0], [2], [3], [10]]), torch.tensor([[0.0], [1], [1], [torch.nan]])
    wanted = np.corrcoef([1, 2, 3], [0, 1, 1])[0, 1] ** 2
    assert float(squared_correlation(a, b)) == pytest.approx(wanted, abs=1e-6)
    assert float(squared_correlation(a, torch.ones(4, 1))) == 0


# equal odds


def seen_of(logits, truth, groups):
    n = len(logits)
    column = lambda values, kind=torch.float32: torch.tensor(values, dtype=kind)[:, None]
    image = torch.zeros(n, 1, 1, 1)
    return Seen(image, image, column(truth), column(groups, torch.long), torch.ones(n),
                logits=column(logits).requires_grad_())  # fmt: skip


def test_equal_odds_by_hand():
    #  group 0: soft TPR 1, FPR 0.  group 1: soft TPR 0, FPR 1
    seen = seen_of([90.0, -90, -90, 90], [1, 0, 1, 0], [0, 0, 1, 1])
    assert EqualOdds(torch.zeros(1))(seen).item() == pytest.approx((1 - np.log(2) / 20) ** 2, rel=0.05)
    fair = seen_of([90.0, -90, 90, -90], [1, 0, 1, 0], [0, 0, 1, 1])
    assert EqualOdds(torch.zeros(1))(fair).item() == pytest.approx(0, abs=1e-8)


def test_an_empty_cell_is_skipped_and_not_counted_as_a_rate_of_zero():
    seen = seen_of([90.0, -90, -90], [1, 0, 0], [0, 0, 1])  # nobody in group 1 is ill
    value = EqualOdds(torch.zeros(1))(seen).item()
    assert value == pytest.approx(0, abs=1e-8), "a TPR of nobody counted as 0 would give 1 / 2"


def test_rates_come_from_memory_and_gradients_from_the_batch():
    term = EqualOdds(torch.zeros(1), memory=64)
    term(seen_of([90.0] * 8, [1] * 8, [0] * 8))
    seen = seen_of([0.0] * 2, [1] * 2, [1] * 2)  # alone, this batch has one group and no range
    value = term(seen)
    value.backward()
    assert value.item() > 0.1 and (seen.logits.grad < 0).all(), "raising group 1 narrows the range"


def test_the_constraint_does_not_divide_by_its_own_size():
    """With self-normalisation the second call would give about 1 whatever the gap."""
    term = EqualOdds(torch.zeros(1), memory=4)
    for gap in (4.0, 0.4):
        value = float(term(seen_of([gap, -4.0, -gap, -4.0], [1, 0, 1, 0], [0, 0, 1, 1])))
    assert value < 0.1


@pytest.mark.parametrize(("memory", "swings"), [(None, False), (512, True)])
def test_a_long_memory_answers_late_and_swings_past_equality(memory, swings):
    """Two groups whose logits a step can move, 100 batches of 8."""
    shift = torch.tensor([-1.0, 1.0], requires_grad=True)
    optimizer, generator = torch.optim.Adam([shift], lr=0.1), torch.Generator().manual_seed(1)
    term, gaps = EqualOdds(torch.zeros(1), **({} if memory is None else {"memory": memory})), []
    for _ in range(100):
        group, label = (torch.randint(0, 2, (8,), generator=generator) for _ in range(2))
        seen = seen_of([0.0] * 8, label.tolist(), group.tolist())
        logits = (shift[group] + 0.5 * torch.randn(8, generator=generator))[:, None]
        seen = dataclasses.replace(seen, logits=logits)
        optimizer.zero_grad()
        term(seen).backward()
        optimizer.step()
        gaps.append(float((shift[0] - shift[1]).detach()))
    late = max(abs(gap) for gap in gaps[60:])
    assert gaps[0] < -1 and (late > 2 if swings else late < 1)


def test_the_smooth_range_is_zero_for_equals_and_near_the_range():
    assert float(smooth_range(torch.full((5,), 0.3))) == pytest.approx(0, abs=1e-6)
    values = torch.tensor([0.1, 0.5, 0.9])
    assert 0.8 - 2 * np.log(3) / 40 - 1e-4 <= float(smooth_range(values)) <= 0.8


def test_the_worst_subgroup_weighs_more_with_time():
    term, clean = PixelDRO(), torch.zeros(4, 1, 2, 2)
    image = torch.tensor([0.1, 0.1, 0.5, 0.5])[:, None, None, None].expand(4, 1, 2, 2)
    seen = Seen(image, clean, torch.zeros(4, 1), torch.tensor([[0], [0], [1], [1]]), torch.ones(4))
    values = [float(term(seen)) for _ in range(60)]
    assert values[0] < values[-1] and term.worst.weight[1] > 1.5 > 0.5 > term.worst.weight[0]


# who weighs what


def test_reweighting_gives_every_cell_the_same_total_and_published_ages_give_most_people_a_cell_of_their_own(table):
    codes = joint_codes(table, ("sex", "age_years"))
    weights = balancing_weights(codes)
    totals = pd.Series(weights).groupby(codes).sum()
    assert totals.max() == pytest.approx(totals.min()) and weights.mean() == pytest.approx(1)
    raw = joint_codes(table, ("sex", "age_years"), ages="published")
    assert len(set(raw)) > len(set(codes))
    assert (pd.Series(raw).value_counts() == 1).sum() > N / 2


def test_an_unknown_attribute_takes_no_part(table):
    unknown = table.assign(sex=["unknown", None] + list(table["sex"][2:]))
    codes = subgroup_codes(unknown, ("sex",))[:, 0]
    assert list(codes[:2]) == [-1, -1] and set(codes[2:]) == {0, 1}
    assert balancing_weights(joint_codes(unknown, ("sex",)))[:2].tolist() == [1, 1]
    with pytest.raises(ValueError, match="no column 'race'"):
        subgroup_codes(table, ("race",))


# twins


def tuned(term, table, eye=None, arm="unet", **options):
    rng = np.random.default_rng(0)
    images = Images(rng.random((N, SIZE, SIZE), dtype=np.float32), list(table["image_id"]))
    made, people = network(arm), People(table, ["effusion"])
    made.learning_rate = 1e-3
    noisy = lambda images, level, names, seed=0: (images + 0.1).clamp(0, 1)
    losses = fine_tune(made, term, images, people, noisy, LEVEL, eye=eye, epochs=2, **options)
    return torch.cat([value.flatten() for value in made.net.state_dict().values()]), losses


def test_a_twin_is_plain_training_byte_for_byte_and_the_method_is_not(eye, table):
    method, losses = tuned(Consistency(), table, eye, weight=1.0)
    twin, _ = tuned(Consistency(), table, eye, weight=1.0, twin=True)
    plain, _ = tuned(None, table)
    assert torch.equal(twin, plain), "same images, order and steps; the gradient is cut"
    assert not torch.equal(method, twin)
    assert losses["term"].notna().all() and len(losses) == 2


def test_the_published_sde_form_is_its_twin_byte_for_byte_and_the_right_form_is_not(eye, table):
    twin, _ = tuned(None, table, arm="sde")
    published, losses = tuned(EqualOdds(torch.zeros(1)), table, eye, arm="sde", weight=100.0, estimate="published")
    assert losses["term"].gt(0).all(), "it has a value, and is printed as a loss"
    assert torch.equal(published, twin)
    assert not torch.equal(tuned(EqualOdds(torch.zeros(1)), table, eye, arm="sde", weight=100.0)[0], twin)


def test_the_reader_stays_as_it_was(eye, table):
    before = {name: value.clone() for name, value in eye.state_dict().items()}
    tuned(Consistency(), table, eye, weight=1.0)
    assert all(torch.equal(value, before[name]) for name, value in eye.state_dict().items())
    eye.train()
    assert not eye.net.training


def test_consistency_brings_the_readers_answer_nearer_to_that_of_the_clean_image(eye, table):
    plain = tuned(Consistency(), table, eye, weight=0.0)[1]["term"]
    method = tuned(Consistency(), table, eye, weight=1.0)[1]["term"]
    assert method.iloc[-1] < plain.iloc[-1]


def test_what_makes_no_sense_is_refused(eye, table):
    people = People(table, ["effusion"])
    with pytest.raises(ValueError, match="needs a frozen reader"):
        FineTune(network("unet"), Consistency(), people)
    with pytest.raises(ValueError, match="unknown estimate 'best'"):
        FineTune(network("sde"), Consistency(), people, eye=eye, estimate="best")
