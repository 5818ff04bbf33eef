"""Settings of one run: a YAML profile read into one frozen object.

A profile names only what differs from the defaults below. An unknown key is refused with the nearest
known one, because papermill would pass a misspelt parameter on in silence. Core functions never take
`Settings`: a notebook hands them the numbers they need.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml


def project_folder() -> Path:
    """Folder that holds `notebooks/`: $FAIRRECON_HOME, or the nearest one above the working folder or the package.

    Raises
    ------
    FileNotFoundError
        If there is none, as after a bare `pip install` outside a clone.
    """
    candidates = [Path(os.environ["FAIRRECON_HOME"])] if os.environ.get("FAIRRECON_HOME") else []
    candidates += [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]]
    for folder in candidates:
        if (folder / "notebooks" / "profiles").is_dir():
            return folder
    raise FileNotFoundError("no notebooks/profiles here or above: run inside a clone, or set FAIRRECON_HOME to one")


@dataclass(frozen=True)
class Settings:
    """All choices of one run, flat, each with its default. The comments give unit and choices."""

    profile: str = "tutorial"
    seed: int = 1  # of simulation, degradation noise and resampling

    # cohorts
    cohorts: tuple[str, ...] = ("brain", "chest")  # folders of runs/<profile>/cohorts
    image_size: int = 128  # pixels, even
    brain_patients: int = 500  # simulated patients before splitting 70/10/20
    brain_slices: int = 2  # per patient
    chest_patients: int = 4000
    splits: tuple[str, ...] = ("validation", "test")  # simulated at once; "train" joins when something is trained
    bias: str = "realistic"  # preset of the causal model: null | realistic | injected
    bias_attribute: str = "sex"  # sex | age_group | race: whom an injected bias puts at a disadvantage
    race_shares: str = "paper"  # paper | balanced
    age_cut_years: float = 0.0  # young is below; 0: the patients' median
    n_folds: int = 1  # above 1: patient-wise cross-validation
    training_skew: str = ""  # who trains reconstructors: female-0.25 | female-without-tumour_grade; empty: everybody
    cohort_folder: str = ""  # holds converted real cohorts by name, made by data_scripts/; empty: simulate

    # degradation
    mri_levels: tuple[float, ...] = (4, 8, 16)  # acceleration R = image size / full spokes
    xray_levels: tuple[float, ...] = (100_000, 10_000, 3_000)  # photons per detector bin
    mri_audit_level: float = 8  # the level on which fairness is audited, as in the paper
    xray_audit_level: float = 10_000
    mri_mode: str = "physical"  # physical | published
    mri_order: str = "golden"  # golden | uniform
    mri_noise: float = 0.0  # standard deviation of complex k-space noise
    xray_mode: str = "physical"  # physical | published | radiograph
    level_subset: int = 64  # images at the levels other than the audited one

    # where it computes; what is made depends on it in its last bits alone (a GPU, another number of threads)
    device: str = "auto"  # | cpu | cuda | mps
    workers: str = ""  # who does the steps before a whole series, as `run.py --on` says it; empty: its notebooks
    inference_batch: int = 32  # images in memory, and on a GPU, at a time; halved where a GPU runs out of memory
    compile: bool = False  # torch.compile of networks that are asked on a GPU; what it gains has not been measured
    keep_images: int = 0  # pixels kept of an arm at a level, for pictures; 0: all. Else a shard of images is made,
    # measured, read and forgotten: rows are the same, and readers are trained before the first image is made
    classical_subset: int = 0  # with keep_images, test images of the arms that learn nothing and filter; 0: all

    # reconstructors
    train: bool = False  # False: use the shipped weights
    start_from: str = "random"  # first weights of what is trained: random | shipped | imagenet (of readers)
    classical: tuple[str, ...] = ("degraded", "tv", "nlm")  # arms that do not learn; `unet_dc`: with data consistency
    arms: tuple[str, ...] = ("unet", "pix2pix", "sde")
    width: int = 16  # feature maps of the first level; 64 in the paper
    published_width: int = 8  # of the U-Net in the published modes
    epochs: int = 8
    generative_epochs: int = 0  # of pix2pix and sde, which cost more; 0: as many as `epochs`
    batch_size: int = 8
    patience: int = 0  # epochs without a better validation loss after which a training stops; 0: never
    n_validation: int = 128  # images that choose the best weights; 0: the whole validation split
    mirror: bool = True  # networks learn from mirror images as well
    new_noise: bool = False  # degrade training images anew in every epoch, in place of once
    one_level_each: bool = False  # a network for every level, as in the paper, in place of one that is told the level
    recipes: dict = field(default_factory=dict, hash=False)  # options by network, see `recipe`
    precision: str = "auto"  # | 32-true | bf16-mixed, of training
    train_seeds: tuple[int, ...] = (0,)
    samples: int = 1  # per image, of a stochastic reconstructor
    sampler: str = "ode2"  # of the SDE: euler (published) | posterior | ode2 | sde2
    sde_steps: int = 0  # reverse steps of the others than euler; 0: 10 for ode2 and sde2, else all 100
    control_share: float = 0.3  # of the images that the control arms exchange

    # downstream readers
    tasks: tuple[str, ...] = ()  # of the cohorts' recorded labels; empty: all
    backbone: str = "resnet18_half"  # what ships; resnet50 in the paper's text; efficientnet_lite0: few patients
    reader_epochs: int = 6
    augment: bool = False  # readers learn from turned, zoomed, shifted and re-exposed images
    segmenter_width: int = 8
    threshold_policy: str = "validation_frozen"  # | validation_per_arm | test_per_arm (published)

    # audit
    n_boot: int = 10_000
    min_support: int = 10  # patients with and without the label, per subgroup
    margin: float = 0.05  # equivalence margin for changes of a rate
    alpha: float = 0.05
    eodd_agg: str = "mean"  # mean (published) | max (fairlearn)

    def mode(self, modality: str) -> str:
        """How images of a modality are degraded: `mri_mode` or `xray_mode`."""
        return self.mri_mode if modality == "mri" else self.xray_mode

    def levels(self, modality: str) -> tuple[float, ...]:
        """`mri_levels` or `xray_levels`."""
        return self.mri_levels if modality == "mri" else self.xray_levels

    def audit_level(self, modality: str) -> float:
        """`mri_audit_level` or `xray_audit_level`."""
        return self.mri_audit_level if modality == "mri" else self.xray_audit_level

    def recipe(self, network: str, *places: str) -> dict:
        """What `recipes` says of a network: an arm, `classifier` or `segmenter`.

        A value such as `{mri: 300, xray: 40}` is that of the first of `places`, a cohort or a modality, that it names.
        """
        found: dict = {}
        for name, value in (self.recipes.get(network) or {}).items():
            if isinstance(value, dict):
                value = next((value[place] for place in places if place in value), None)
            found |= {} if value is None else {name: value}
        return found

    def fingerprint(self) -> str:
        """Content hash of the settings: equal settings give equal text."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


KINDS = typing.get_type_hints(Settings)


def load_settings(profile: str = "tutorial", **overrides) -> Settings:
    """Read `profiles/<profile>.yml` and put `overrides` on top.

    Parameters
    ----------
    profile : str
        Name of a profile in `notebooks/profiles`, or the path of a YAML file (ends in .yml).
    **overrides
        Settings by name. Text is read as YAML, so that `n_boot="200"` and `n_boot=200` are the same.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
        Unknown profile or setting (with the nearest known name), or a value of the wrong kind or without effect.
    """
    path = (
        Path(profile)
        if str(profile).endswith(".yml")
        else project_folder() / "notebooks" / "profiles" / f"{profile}.yml"
    )
    if not path.exists():
        raise ValueError(f"unknown profile {profile!r}{suggest(profile, profiles())}; known: {', '.join(profiles())}")
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} should hold `name: value` lines, found {type(values).__name__}")
    values |= {name: _merged(name, values.get(name), value) for name, value in overrides.items()}
    values = {name: as_kind(name, value) for name, value in values.items()}
    settings = Settings(**{"profile": path.stem} | values)
    if settings.keep_images < 0 or (settings.classical_subset and not settings.keep_images):
        raise ValueError("keep_images is a number of images, or 0 for all, and no classical_subset then")
    if "published_width" in values and "published" not in (settings.mri_mode, settings.xray_mode):
        raise ValueError("published_width is of the published modes: set width, or mri_mode or xray_mode: published")
    return settings


def _merged(name: str, old, new):
    """An override: of `recipes` network by network and option by option, otherwise in place of the profile's value."""
    new = as_kind(name, new)
    if not isinstance(new, dict):
        return new
    old = as_kind(name, old or {})
    return old | {network: (old.get(network) or {}) | (options or {}) for network, options in new.items()}


def profiles() -> list[str]:
    """Names of the profiles in `notebooks/profiles`."""
    return sorted(path.stem for path in (project_folder() / "notebooks" / "profiles").glob("*.yml"))


def suggest(name: str, known) -> str:
    """', did you mean ...?' for the nearest known name, or an empty text."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.4)
    return f", did you mean '{close[0]}'?" if close else ""


def as_kind(name: str, value):
    """Check one value against the field's type; text is read as YAML, lists become tuples, numbers floats where asked.

    Raises
    ------
    ValueError
        Unknown setting (with the nearest known name), or a value of the wrong kind.
    """
    if name not in KINDS:
        raise ValueError(f"unknown setting '{name}'{suggest(name, KINDS)}")
    kind = KINDS[name]
    if isinstance(value, str) and kind is not str:
        value = yaml.safe_load(value)
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_as_scalar(name, item, typing.get_args(kind)[0]) for item in items)
    return _as_scalar(name, value, kind)


def _as_scalar(name: str, value, kind: type):
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"setting '{name}' takes {kind.__name__}, got {value!r}")
    return value
