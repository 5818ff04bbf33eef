"""The frozen readers: what they learn from, what they write, and Grad-CAM beside an independent implementation."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fairrecon_core import tables
from fairrecon_core.learn.loop import Images
from fairrecon_core.learn.weights import read_safetensors
from fairrecon_core.predict.classifier import Classifier, positive_weights
from fairrecon_core.predict.readers import augmented, check_labels, labelled
from fairrecon_core.predict.reading import read_arm
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_lab.analysis.heat import grad_cam
from fairrecon_lab.analysis.patients import dice_table, patient_scores

KEY = {"cohort": "toy", "arm": "clean", "level": 1}


def squares(n, seed=0):
    """Images with a bright square (or without, label 0), their masks and labels."""
    rng = np.random.default_rng(seed)
    images, masks = rng.random((n, 32, 32)).astype(np.float32) * 0.3, np.zeros((n, 32, 32), bool)
    labels = rng.integers(0, 2, n)
    for image, mask, label in zip(images, masks, labels):
        top, left = rng.integers(2, 18, 2)
        if label:
            image[top : top + 12, left : left + 12] += 0.6
            mask[top : top + 12, left : left + 12] = True
    return images, masks, labels.astype(float)


def named(images, prefix="i"):
    return Images(images, [f"{prefix}{k}" for k in range(len(images))])


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    reader = Classifier(["a", "b"], "resnet18")
    reader.ready()
    return reader


def test_a_classifier_learns_and_ignores_missing_labels():
    images, _, truth = squares(32)
    labels = np.stack([truth, np.full(32, np.nan)], axis=1)
    draw = labelled(named(images), labels, named(images[:8], "v"), labels[:8], batch_size=8)
    reader = Classifier(["a", "b"], "resnet18", learning_rate=1e-3)
    losses = reader.fit(draw, epochs=4, progress=False, accelerator="cpu")
    assert losses["train_net"].iloc[-1] < 0.7 * losses["train_net"].iloc[0] and np.isfinite(losses["validation"]).all()


def test_missing_labels_weigh_nothing_or_what_the_policy_says():
    images, _, _ = squares(4)
    batch = next(labelled(named(images), [[1], [np.nan], [0], [np.nan]], named(images), [[1]] * 4, batch_size=4)(0))
    losses = {}
    for policy in ("ignore", "zeros", "ones"):
        torch.manual_seed(1)
        reader = Classifier(["a"], "resnet18", label_policy=policy)
        reader.net.eval()
        losses[policy] = float(reader.validation_loss(batch).detach())
        known = ~batch.targets[:, 0].isnan()
        if policy == "ignore":
            logits = reader.net(batch.images[known])
            by_hand = nn.functional.binary_cross_entropy_with_logits(logits, batch.targets[known])
            assert losses["ignore"] == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert len({round(value, 6) for value in losses.values()}) == 3


def test_rare_positives_weigh_more_up_to_a_limit():
    labels = [[1, 0, 0, 1], [0, 0, np.nan, np.nan], [0, 0, 1, 1]] + [[0, 0, 0, 1]] * 30
    assert positive_weights(labels) == pytest.approx([10.0, 1.0, 10.0, 0.0])


@pytest.mark.parametrize("value", [-1, 2, 0.5])
def test_a_label_outside_the_vocabulary_is_refused(value):
    with pytest.raises(ValueError, match=f"found {value:g}: map uncertain codes first"):
        check_labels([[0], [value]])
    with pytest.raises(ValueError, match="2 images and 1 targets"):
        labelled(named(np.zeros((2, 8, 8))), [[1]], named(np.zeros((1, 8, 8))), [[1]])


def test_masks_are_mirrored_with_their_images():
    images, masks, _ = squares(16)
    marked = images * 0 + masks  # the image is its own mask
    draw = labelled(named(marked), masks, named(marked), masks, batch_size=4, flips=True)
    for batch in draw(0):
        assert torch.equal(batch.images, batch.targets)
    first, second = ([name for batch in draw(epoch) for name in batch.names] for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)


def test_scores_do_not_depend_on_the_batch_or_on_what_runs_beside(classifier):
    images, *_ = squares(4)
    whole = classifier.scores(images)
    assert np.array_equal(whole, np.concatenate([classifier.scores(image[None]) for image in images]))
    alone, _ = read_arm([(images, list("abcd"))], [classifier], **KEY)
    again, _ = read_arm([(images[:1], ["a"]), (images[1:], list("bcd"))], [classifier], **KEY)
    order = ["image_id", "task"]
    assert alone.sort_values(order, ignore_index=True).equals(again.sort_values(order, ignore_index=True))


def test_rows_fit_the_tables(classifier):
    images, masks, _ = squares(3)
    torch.manual_seed(0)
    segmenter = Segmenter(width=2)
    segmenter.ready()
    predictions, overlap = read_arm([(images, list("abc"), masks)], [classifier], segmenter, **KEY)
    assert len(tables.check("predictions", predictions)) == 6 and set(predictions["task"]) == {"a", "b"}
    assert len(tables.check("overlap", overlap)) == 3
    found = segmenter.masks(images)
    assert overlap["intersection"].tolist() == (found & masks).sum(axis=(1, 2)).tolist()
    nothing, _ = read_arm([(images, list("abc"))], **KEY)
    assert nothing.empty and "score" in nothing


def test_an_image_that_is_not_finite_is_refused_with_its_arm(classifier):
    with pytest.raises(ValueError, match="arm 'clean' holds an image that is not finite"):
        read_arm([(np.full((1, 32, 32), np.nan), ["a"])], [classifier], **KEY)


def test_a_segmenter_learns_the_square():
    images, masks, _ = squares(32)
    draw = labelled(named(images), masks, named(images[:8], "v"), masks[:8], batch_size=4)
    reader = Segmenter(width=4, learning_rate=3e-3)
    reader.fit(draw, epochs=12, progress=False, accelerator="cpu")
    found = reader.masks(images)
    assert 2 * (found & masks).sum() / (found.sum() + masks.sum()) > 0.8


def test_dice_by_hand_for_slices_and_volumes():
    rows = [("a", 2, 4, 4), ("b", 0, 0, 0), ("c", 3, 3, 3)]
    overlap = pd.DataFrame([dict(zip(("image_id", "intersection", "predicted", "actual"), row)) | KEY for row in rows])
    patients = pd.Series({"a": "p", "b": "p", "c": "q"})
    assert dice_table(overlap, patients)["dice"].tolist() == pytest.approx([0.5, np.nan, 1.0], nan_ok=True)
    assert dice_table(overlap, patients, empty=1.0)["dice"].tolist() == [0.5, 1.0, 1.0]
    volumes = dice_table(overlap, patients, per="patient").set_index("patient_id")["dice"]
    assert volumes.to_dict() == {"p": 0.5, "q": 1.0}
    with pytest.raises(ValueError, match="1 images have no patient, such as 'c'"):
        dice_table(overlap, patients.drop("c"))


def test_patient_scores_by_median_and_mean():
    rows = [{"image_id": name, "task": "t", "score": score} | KEY for name, score in zip("abcd", (0.1, 0.2, 0.9, 0.5))]
    patients = pd.Series({"a": "p", "b": "p", "c": "p", "d": "q"})
    assert patient_scores(pd.DataFrame(rows), patients)["score"].tolist() == [0.2, 0.5]
    assert patient_scores(pd.DataFrame(rows), patients, "mean")["score"].tolist() == pytest.approx([0.4, 0.5])
    with pytest.raises(ValueError, match="'median' or 'mean'"):
        patient_scores(pd.DataFrame(rows), patients, "max")


def test_grad_cam_equals_an_independent_implementation(classifier):
    captum = pytest.importorskip("captum.attr", reason="captum is the independent implementation")
    pixels = torch.from_numpy(squares(1)[0])[None].requires_grad_(True)
    for layer in (classifier.net.layer2, classifier.net.layer3):
        both = [grad_cam(classifier.net, layer, pixels[0, 0].detach(), output) for output in (0, 1)]
        there = captum.LayerGradCam(classifier.net, layer)
        for output, ours in enumerate(both):
            theirs = there.attribute(pixels, target=output, relu_attributions=True)[0, 0].detach().numpy()
            assert np.abs(ours - theirs).max() < 1e-5
        assert max(ours.max() for ours in both) > 0


def test_grad_cam_by_hand():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Identity()

        def forward(self, x):
            return torch.stack([self.features(x).sum() * 3, -self.features(x).sum()])[None]

    network, image = Two(), np.arange(4.0).reshape(2, 2)
    assert grad_cam(network, network.features, image, 0) == pytest.approx(3 * image)
    assert not grad_cam(network, network.features, image, 1).any()


def test_saved_weights_load_into_the_same_reader_only(classifier, tmp_path):
    path = tmp_path / "reader.safetensors"
    classifier.save(path, seed=4)
    assert Classifier(["a", "b"], "resnet18").load(path)["seed"] == 4
    with pytest.raises(ValueError, match=r"has tasks \['a', 'b'\], this run needs \['a'\]"):
        Classifier(["a"], "resnet18").load(path)
    with pytest.raises(ValueError, match="has reader 'classifier'"):
        Segmenter(width=2).load(path)


def test_the_published_backbone_scales_its_input_and_is_asked_for_by_name():
    pytest.importorskip("torchxrayvision", reason="optional backbone")
    reader = Classifier(["a"], "xrv_densenet")
    reader.ready()
    seen = []
    reader.net.net.features.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert reader.scores(np.stack([np.zeros((64, 64)), np.ones((64, 64))])).shape == (2, 1)
    black, white = torch.cat(seen)
    assert float(black.min()) == -1024 and float(white.max()) == 1024


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="backbone='vgg'"):
        Classifier(["a"], "vgg")
    with pytest.raises(ValueError, match="label_policy='drop'"):
        Classifier(["a"], label_policy="drop")


def test_a_classifier_starts_from_another_and_keeps_its_own_head_for_other_tasks(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "first.safetensors"
    Classifier(["effusion", "edema"], "resnet18_half").save(path)
    stored = read_safetensors(path)[0]
    same, other = Classifier(["effusion", "edema"], "resnet18_half"), Classifier(["edema"], "resnet18_half")
    own_head = other.net.fc.weight.clone()
    for reader in (same, other):
        reader.start_from(path)
        assert reader.started_from == "first.safetensors"
        assert torch.equal(reader.net.conv1.weight, stored["conv1.weight"].float())
    assert torch.equal(same.net.fc.weight, stored["fc.weight"].float()) and torch.equal(other.net.fc.weight, own_head)
    with pytest.raises(ValueError, match="first.safetensors has backbone 'resnet18_half'"):
        Classifier(["edema"], "resnet18").start_from(path)


def test_augmentation_moves_masks_with_their_images_and_repeats_itself():
    images = torch.zeros(6, 1, 64, 64)
    images[:, :, 20:36, 24:44] = 0.6
    masks = (images > 0).float()
    moved, turned = augmented(images, masks, np.random.default_rng(3))
    again = augmented(images, masks, np.random.default_rng(3))
    assert torch.equal(moved, again[0]) and torch.equal(turned, again[1])
    assert (
        moved.shape == images.shape
        and moved.min() >= 0
        and moved.max() <= 1
        and set(turned.unique().tolist()) == {0, 1}
    )
    for image, mask, before in zip(moved[:, 0], turned[:, 0].bool(), masks[:, 0].bool()):
        inside = image > image.max() / 2
        assert (inside & mask).sum() > 0.9 * (inside | mask).sum()  # the mask is where the square went
        assert not torch.equal(mask, before) and 0.7 < mask.sum() / before.sum() < 1.4
        assert float(image.max()) != pytest.approx(0.6, abs=1e-4)


class Still:
    """Draws of `augmented` that change nothing, but for where a crop lies: -1 the first corner, 1 the last."""

    def __init__(self, place):
        self.place = place

    def uniform(self, low, high, size):
        return np.full(size, self.place if (low, high) == (-1, 1) else 0.0)


@pytest.mark.parametrize(("place", "top", "left"), [(-1, 0, 0), (0, 8, 16), (1, 16, 32)])
def test_a_crop_is_a_square_of_the_image_at_its_own_scale(place, top, left):
    images = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(1))
    masks = (images > 0.5).float()
    cropped, cut = augmented(images, masks, Still(place), 16)
    square = (..., slice(top, top + 16), slice(left, left + 16))
    assert torch.allclose(cropped, images[square], atol=1e-5) and torch.equal(cut, masks[square])


def test_crops_lie_everywhere_and_without_one_nothing_else_is_drawn():
    place = torch.linspace(0, 1, 64).expand(400, 1, 64, 64)
    cropped, _ = augmented(place, torch.zeros(400), np.random.default_rng(2), 32)
    middle = cropped[:, 0, 16, 16].numpy()
    assert cropped.shape == (400, 1, 32, 32) and middle.min() < 0.3 and middle.max() > 0.7
    images, drawn, by_hand = torch.rand(3, 1, 32, 32), np.random.default_rng(4), np.random.default_rng(4)
    assert augmented(images, images, drawn)[0].shape == images.shape
    by_hand.random(3 * 5)  # angle, zoom, shift in x and in y, and gamma of three images
    assert drawn.random() == by_hand.random()


def test_a_crop_that_cannot_be_is_refused():
    images = torch.rand(1, 1, 32, 48)
    with pytest.raises(ValueError, match="a crop of 48 px does not fit into images of 32 x 48 px"):
        augmented(images, images, np.random.default_rng(1), 48)
    few = named(np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="a crop of 4 px is cut out of augmented images: set augment: true"):
        labelled(few, np.zeros((2, 8, 8), bool), few, np.zeros((2, 8, 8), bool), crop=4)


def test_only_what_is_learned_from_is_cropped():
    images, masks, _ = squares(4)
    draw = labelled(named(images), masks, named(images), masks, batch_size=2, augment=True, crop=16)
    train, validation = next(draw(0)), next(draw(None))
    assert train.images.shape == train.targets.shape == (2, 1, 16, 16)
    assert torch.equal(validation.images[:, 0], torch.from_numpy(images[:2]))


def test_augmentation_leaves_labels_and_validation_alone():
    pixels = np.random.default_rng(1).random((4, 32, 32), dtype=np.float32)
    images = Images(pixels, list("abcd"))
    draw = labelled(images, np.array([0, 1, np.nan, 1]), images, np.array([1, 0, 1, 0]), augment=True)
    train, validation = next(draw(0)), next(draw(None))
    assert torch.equal(validation.images[:, 0], torch.from_numpy(pixels))
    assert not torch.equal(next(draw(1)).images, train.images)
    order = [list("abcd").index(name) for name in train.names]
    assert np.array_equal(train.targets[:, 0], np.array([0, 1, np.nan, 1])[order], equal_nan=True)
