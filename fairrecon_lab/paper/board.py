"""The switchboard: what each choice of text, code and practice changes, measured offline and live, in one table.

Rows that need networks or new images lie in `results/switchboard` (`tools/switchboard.py`; `tools/trained_switches.py`
where networks are trained anew); those that need scores only, or a few images, are measured here.
"""

import numpy as np
import pandas as pd

from fairrecon_core.degrade.mri import undersample
from fairrecon_core.predict.quality import psnr_db
from fairrecon_core.settings import project_folder
from fairrecon_lab.bootstrap import patient_bootstrap
from fairrecon_lab.paper.ours import Ours
from fairrecon_lab.paper.switches import SWITCHES, switch_evaluation
from fairrecon_lab.simulate import Bias, patient_table, reference_reader

COLUMNS = ["choice", "setting", "published", "recommended", "quantity", "cohort", "effect", "low", "high",
           "moves_a_conclusion", "note"]  # fmt: skip
OFFLINE = ("switchboard.csv", "trained.csv")
TASKS = ("pleural_effusion", "edema", "atelectasis", "cardiomegaly")
MOVES_DB = 0.5


def offline() -> pd.DataFrame:
    """Rows measured offline, or none."""
    folder = project_folder() / "results" / "switchboard"
    found = [pd.read_csv(path)[COLUMNS] for name in OFFLINE if (path := folder / name).exists()]
    if not found:
        print(f"no {' or '.join(OFFLINE)} yet: only the rows measured here are shown")
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat(found, ignore_index=True).assign(measured="offline")
    moves = rows["moves_a_conclusion"].astype(str).str.lower().isin(["true", "yes", "1"])
    return rows.assign(moves_a_conclusion=moves)


def stand_in(seed: int, n_patients: int = 3000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and cohort of a reference reader of simulated patients, two images each; no network is involved.

    Arms: clean; `placebo`, the same patients with fresh noise; `planted`, findings in women fainter. `seed` draws them,
    `n_patients` says how many, two thirds of them for the test.
    """
    rng = np.random.default_rng(seed)
    before, after = (patient_table("chest", n_patients, seed=seed, bias=Bias(conspicuity=c)) for c in (0.0, 0.8))
    people = before[["patient_id", "sex", "race", *(f"y_{task}" for task in TASKS)]].copy()
    people["split"] = np.where(np.arange(n_patients) % 3 == 0, "validation", "test")
    views = [people.assign(image_id=people["patient_id"] + view) for view in ("-1", "-2")]
    people, rows = pd.concat(views, ignore_index=True), []
    for task in TASKS:
        for arm, patients, noise in (("clean", before, 0), ("placebo", before, 1), ("planted", after, 2)):
            scores = np.tile(reference_reader(patients, task, noise_seed=noise).scores, 2)
            latent = scores + rng.normal(0, 0.2, len(people))
            rows.append(people[["image_id"]].assign(arm=arm, task=task, score=1 / (1 + np.exp(-3 * (latent - 0.8)))))
    return pd.concat(rows, ignore_index=True).assign(cohort="stand-in", level=1.0), people


def inputs(ours: Ours) -> list[tuple]:
    """Predictions, cohort and the published rate of an empty stratum: of this run, or of the stand-in."""
    found = []
    for cohort in ours.evaluated:
        scores = ours.audited(ours.rows_of("predictions", cohort), cohort)
        found.append((scores, cohort.table, 0.0 if cohort.modality == "mri" else 1.0))
    return found


def live(scores, people, empty_tpr: float, settings, switches=SWITCHES, **options) -> list[pd.DataFrame]:
    """Evaluation switches of one cohort, by sex and, where it is recorded, by race.

    Parameters
    ----------
    scores, people, empty_tpr
        Of `inputs`.
    settings : Settings
    switches, **options
        Of `switch_evaluation`.
    """
    found = []
    for attribute in ("sex", "race") if people["race"].nunique() > 1 else ("sex",):
        try:
            found.append(switch_evaluation(
                scores, people, attribute, switches=switches, empty_tpr=empty_tpr, n_boot=min(settings.n_boot, 400),
                min_support=settings.min_support, alpha=settings.alpha, seed=settings.seed, **options,
            ))  # fmt: skip
        except ValueError as error:  # a smoke run has too few patients
            print(f"{attribute}: {error}")
    for frame in found:
        if unmeasured := list(frame.loc[frame["effect"].isna(), "choice"]):
            print(f"not measured: {', '.join(unmeasured)} (this needs every arm's scores on validation images)")
    return [frame.dropna(subset=["effect"]) for frame in found]


def live_or_stand_in(ours: Ours, switches=SWITCHES) -> tuple[pd.DataFrame, tuple]:
    """Switches measured on all cohorts of a run, and the last input; on the stand-in where the run has no scores."""
    given = inputs(ours)
    found = [frame for one in given for frame in live(*one, ours.settings, switches)]
    if not found:
        given = [(*stand_in(ours.settings.seed), 1.0)]
        found = live(*given[0], ours.settings, switches)
    return pd.concat(found, ignore_index=True), given[-1]


def crossed(frame: pd.DataFrame, given: tuple, settings) -> pd.DataFrame:
    """The switches of one cohort by sex with everything else as recommended, beside everything else as published.

    `frame` and `given` are those of `live_or_stand_in`; `settings` are the run's.
    """
    last = frame[frame["cohort"] == frame["cohort"].iloc[-1]].groupby("choice", sort=False).first()
    other = [one.set_index("choice") for one in live(*given, settings, others="published")[:1]]
    names = ["others recommended", "others published"][: 1 + len(other)]
    return pd.concat([last, *other], axis=1, keys=names).loc[:, (slice(None), ["effect", "low", "high", "note"])]


def image_switches(ours: Ours, cohort, n: int = 48, batch: int = 16) -> pd.DataFrame:
    """PSNR of degraded slices: |real part| less magnitude, rescaled by batch less as they are.

    Parameters
    ----------
    ours : Ours
    cohort : Cohort
        Of MRI; the shipped example holds a few of its images.
    n, batch : int
        Slices; how many the published evaluation rescales together.
    """
    rows = ours.tested(cohort)
    rows = rows[rows["row"].isin(cohort.pixel_rows)].iloc[:n]
    clean = cohort.images_at(rows["row"].to_numpy())
    degrade = lambda part: undersample(clean, ours.level["mri"], mode="published", part=part).numpy()
    magnitude = degrade("magnitude")
    batches = [magnitude[i : i + batch] for i in range(0, len(rows), batch)]
    rescaled = np.concatenate([(images - images.min()) / (images.max() - images.min()) for images in batches])
    psnr = lambda images: [psnr_db(image, truth) for image, truth in zip(images, clean)]
    made = {
        ("magnitude", "part", "real", "magnitude"): degrade("real"),
        ("normalisation", "rescaling", "min-max", "none"): rescaled,
    }
    out = []
    for names, images in made.items():
        found = patient_bootstrap(
            psnr(images), rows["patient_id"], baseline=psnr(magnitude), n_boot=ours.n_boot, seed=ours.settings.seed
        )
        moves, note = bool(found.low > MOVES_DB or found.high < -MOVES_DB), "moves: beyond .5 dB"
        out.append([*names, "PSNR of degraded slices (dB)", cohort.name, *found[:3], moves, note])
    return pd.DataFrame(out, columns=COLUMNS)


def whole_board(ours: Ours, frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Rows measured offline, `frames` measured here, and the choices of images of the run's MRI cohorts."""
    images = [image_switches(ours, cohort) for cohort in ours.cohorts.values() if cohort.modality == "mri"]
    here = [frame.assign(measured="here") for frame in (*frames, *images) if len(frame)]
    board = pd.concat([frame for frame in (offline(), *here) if len(frame)], ignore_index=True)
    return board.reindex(columns=[*COLUMNS, "measured"])
