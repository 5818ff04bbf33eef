# %% [markdown]
# # 15. Who taught the reconstructor?
# - **You will** skew a training set by patients, and see why the published way skews less than it says; draw the same patient as a woman and as
#   a man, which tells the true bias of a network; read what a finding that one sex never showed in training does to that sex, and a curve
#   over the share of women beside the noise of training; translate T1 into T2, and catch a network drawing what its input cannot show
# - **Time** 60 s to run, about 20 min to work through, **memory** 1100 MB (tutorial); **needs** nothing: it reads `results/mitigation/`; **makes** nothing
# - **In the paper** Sec. 4, the side experiments without numbers (training-set skew, image translation)

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from fairrecon_core.degrade import degradation
from fairrecon_core.steps.folder import begin
from fairrecon_lab import plots
from fairrecon_lab.mitigation import figures, summary, tables, translation
from fairrecon_lab.mitigation.runs import beside_even
from fairrecon_lab.mitigation.skew import Skew, training_rows
from fairrecon_lab.simulate import counterfactual, patient_table

settings, run = begin(profile, overrides)

# %% [markdown]
# ## Who trains
# A training set can be skewed in two ways that sound alike. By *patients*: of 100 people who train, 25 are women. Or by *images*: all women stay, and a
# quarter of their slices is drawn. The published code does the second. A patient with ten slices is then still seen, with two or three
# of them, and the training set shrinks, so that fewer women also means less training for everybody. By hand, on people with ten slices each:

# %%
people = patient_table("chest", 300, seed=5)[["patient_id", "sex", "age_years", "true_pleural_effusion"]]
slices = pd.concat([people] * 10, ignore_index=True)
women = slices[slices["sex"] == "female"]
drawn = women.sample(frac=0.25, random_state=1)  # the published way, in one line
still_seen = drawn["patient_id"].nunique() / women["patient_id"].nunique()
print(f"a quarter of the women's slices: {still_seen:.0%} of the women are still seen")

# %% [markdown]
# The library's version of both. With `way="patients"` the number of patients, the length of the training and the patients' order are the
# same for every share; only who they are changes.

# %%
sizes = {}
for way in ("patients", "published"):
    chosen = slices.iloc[training_rows(slices, Skew("few women", share=0.25, way=way), 100, seed=1)]
    seen = chosen.drop_duplicates("patient_id")["sex"].value_counts()
    sizes[way] = {"images": len(chosen), "women": seen["female"], "men": seen["male"]}
assert sizes["patients"] == {"images": 1000, "women": 25, "men": 75}
pd.DataFrame(sizes)

# %% [markdown]
# **What to look for:** by images nearly all of the 50 women are still there, and a third of the images is gone.
#
# ## The same patient, twice
# What did the skew do to women? Women and men differ in more than what the network does to them: other bodies, other findings. The simulator can
# ask the question directly. It draws one patient as a woman and as a man, with the same lungs, the same effusion, the same luck and the same noise. The
# difference between the two, averaged over many patients, is the *truth* that the audit of real people only estimates.

# %%
as_sex = {
    sex: counterfactual("chest", 3, size=64, sex=sex, severity_pleural_effusion=2.0)[0] for sex in ("female", "male")
}
clean = np.stack(list(as_sex.values()))
degraded = degradation("xray")(clean, 1000.0, ["patient 3"] * 2, seed=1).numpy()
titles = ["as a woman", "as a man", "few photons", "few photons"]
run.figure(plots.image_row([*clean, *degraded], titles, note="simulated"), "15_same_patient")

# %% [markdown]
# ## A finding that one sex never showed
# The study behind the next figures (`tools/mitigation.py`) trained every network several times, from other random weights and on other
# patients of the same kinds. *Control*: half women, half men, findings as they come. *Finding in men alone, in all*: as many of each sex,
# but every man who trains has an effusion and no woman has: the reconstructor has never seen one in a woman. *No finding in women*: the
# women have none, the men have them as they come. *Women 50%, drawn again* is the control once more: a skew of nothing, and what it changes is chance.
#
# The frozen reader, taught on clean images of other patients of this world, looks at what each network makes of the same test patients, at so few photons
# that a network has to guess. Its threshold was chosen on the control network's images of other patients and is the same for all. Settings, questions and rules were committed before
# the first full run (`results/mitigation/REGISTERED.md`).
#
# Each mark is the change against the control, with its 95 % interval over patients *and* training seeds. The red stroke is the
# counterfactual truth of the gap. *Share of the finding left* compares the reconstruction with the same patient's images with and without the effusion: 1 is
# all of it.

# %%
skew, seeds, answers = (tables.kept(name) for name in ("skew", "seeds", "answers"))
note = summary.note({"seeds": seeds})
by_sex = skew[(skew["attribute"] == "sex") & (skew["way"] == "patients")]
run.figure(figures.skew_figure(by_sex, note), "15_skew")

# %% [markdown]
# As numbers, the gaps alone. `seed_sd` is the standard deviation of the change over training seeds: what training again changes by
# itself. An effect of that order is no effect of the data.

# %%
gaps = by_sex[by_sex["subgroup"] == "gap"]
gaps[["skew", "quantity", "delta", "low", "high", "truth", "truth_low", "truth_high", "seed_sd"]].round(3)

# %% [markdown]
# And what the audit, which does not know the truth, says of the same change. Rows *nested* count the choice of a training seed as chance, too;
# they carry the claim that a skew *does* something. Rows *plug_in* speak of these trained networks alone.

# %%
audit = tables.kept("audit")
signed = audit[(audit["subgroup"].fillna("") != "") & (audit["reference"].fillna("") != "")]
signed[["skew", "metric", "subgroup", "estimator", "delta", "delta_ci_low", "delta_ci_high", "verdict"]].round(3)

# %% [markdown]
# The questions that were registered, with the rule's own answer, the figure it looks at and its interval:

# %%
asked = answers[~answers["question"].str.contains("twin|removes|price|half")]
Markdown("\n".join(f"- {line}" for line in summary.sentences(asked)))

# %% [markdown]
# **What to look for:** the audit compares different people, women and men as they are; the truth compares each patient with the same patient. Which of the two
# has the wider interval? Does the audit's cover the truth? An *undetermined* row beside a truth whose interval leaves out 0 would be a bias that so few
# patients and seeds cannot show.
#
# ## Dose and response
# How many women does it take? Each mark is the change of the gap against half women; by sex it is that of the same patients as women and as men. Small dots
# are the training seeds, one by one, and the grey band is what the control's own kind changes when other patients train it: noise of training, at the size
# of the study. Hollow marks are the published way, which draws images and keeps the patients of an image each: here, with one image a patient, what is
# left of it is the smaller set.

# %%
doses = skew[~skew["skew"].str.contains("finding|again")]
if doses["share"].nunique() > 1:
    display(run.figure(figures.dose_figure(skew, seeds, note), "15_dose"))
else:
    print("no shares in results/mitigation/skew.csv: python tools/mitigation.py")

# %% [markdown]
# The response beside its noise, share by share: `signal` is the change over the standard deviation that the skew of nothing has over seeds.

# %%
nothing = skew[skew["skew"].str.contains("again")].set_index(["quantity", "subgroup"])["seed_sd"]
response = doses[(doses["subgroup"] == "gap") & doses["quantity"].isin(["psnr_db", "tpr", "fpr"])]
noise = [nothing.get((quantity, "gap"), np.nan) for quantity in response["quantity"]]
response.assign(noise=noise, signal=response["delta"] / noise)[["skew", "quantity", "delta", "noise", "signal"]].round(
    2
)

# %% [markdown]
# ## Another organ
# The same question of brains. The finding is a *large* tumour, 13 cm2 or more of the slice; women who train have none, men have one each. 16-fold radial
# undersampling takes fine detail and leaves what is large, so a network has less to guess here than at 40 photons. Below that skew: the control once more, and no large tumour in the training images of
# one sex. Dice is that of a segmenter of this world. Predict: does the skew do as much as in chests?

# %%
brain = tables.kept("skew_brain")
brain_note = summary.note({"seeds": tables.kept("seeds_brain")})
run.figure(figures.skew_figure(brain, brain_note, figures.OF_BRAINS), "15_skew_brain")

# %%
display(Markdown("\n".join(f"- {line}" for line in summary.sentences(tables.kept("answers_brain")))))
summary.changes(brain)

# %% [markdown]
# **What to look for:** the same skew, the same network and the same number of patients, and another physics. Which of the two worlds would you have tested, had you
# had one only?
#
# ## A cohort of your own
# Any run can be skewed: `python3 run.py lgg -p training_skew=female-0` trains every reconstructor of the real cohort on men alone, `female-0.5` on as many
# patients, half of them women, and `female-without-tumour_grade` on women without the label. Test patients and readers stay the same. Where both runs are there, their
# networks stand side by side in the audit. A truth is not known there: nobody can draw a real patient as somebody else.

# %%
if settings.training_skew:
    display(beside_even(run, profile, overrides).round(3))
else:
    print("this run trains on everybody: its setting training_skew is empty")

# %% [markdown]
# ## From T1 to T2
# The paper also let its network turn T1 images into T2 images. Both are made of the same three numbers per tissue: T1, T2 and the proton density PD. A
# spin echo with repetition time TR and echo time TE gives PD (1 - exp(-TR/T1)) exp(-TE/T2). A short TR shows T1, a long TE shows T2. By hand,
# for fluid and for white matter:

# %%
from fairrecon_lab.simulate.brain import TISSUES, BrainPatient, signal
from fairrecon_lab.simulate.contrasts import SEQUENCES, render_contrasts

echo = lambda t1, t2, pd, tr, te: pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)
for kind, tr, te in (("t1", 600, 12), ("t2", 4500, 100)):
    by_hand = {tissue: echo(*TISSUES[tissue], tr, te) for tissue in ("csf", "white")}
    assert all(np.isclose(value, signal(tissue, SEQUENCES[kind])) for tissue, value in by_hand.items())
    print(kind, {tissue: round(float(value), 3) for tissue, value in by_hand.items()})

# %% [markdown]
# ## What the input does not show
# In these simulated patients oedema lengthens T2 and leaves the T1 image as it was, bit by bit. So two patients, one with oedema and one without, have *the same* T1
# image. Whatever a network makes of it, it makes for both.

# %%
patient = BrainPatient((1, 3, 2), aggressiveness=1.6)
wet, dry = (render_contrasts(patient, 128, oedema=oedema) for oedema in (True, False))
assert wet.images["t1"].tobytes() == dry.images["t1"].tobytes(), "no network can tell them apart"
pictures = [wet.images["t1"], dry.images["t1"], wet.images["t2"], dry.images["t2"]]
titles = ["T1, with oedema", "T1, without", "T2, with oedema", "T2, without"]
run.figure(plots.image_row(pictures, titles, note="simulated", outlines=[None, None, wet.silent, None]), "15_contrasts")

# %% [markdown]
# A small network learns T1 to T2, here and now, on a few dozen patients. It sees cores of tumours, and around most of them, in T2, oedema. *silent share*
# says how much of the invisible oedema it draws: 0 is nothing, 1 is all.

# %%
recipe = translation.RECIPES.get(settings.profile, translation.RECIPES["tutorial"])
live = translation.Translation(recipe, run.folder / "mitigation")
table = translation.translation_table(live.readings(), recipe.n_boot)
table.round(3)

# %% [markdown]
# The longer training of the study, by sex:

# %%
tables.kept("translation").query("quantity != 'error_rest'").round(3)

# %% [markdown]
# The same audit as for any reconstruction, of PSNR: the translated image beside the T1 image that it was made of, women less men. Does translation change
# the gap?

# %%
changed = tables.kept("translation_audit").query("reference == 'male' and subgroup == 'female'")
changed[["metric", "estimator", "baseline", "value", "delta", "delta_ci_low", "delta_ci_high", "verdict"]].round(3)

# %% [markdown]
# **What to look for:** a share well above 0 is knowledge of a kind: where a core is, oedema tends to be. It is right on average and made up for the one patient
# who has none. A share near 0 is a network that leaves out what is there. The mean error in the silent part is what either choice
# costs the patient with oedema.
#
# ## Check your understanding
# A network draws a share s of the oedema that it cannot see. A patient has oedema with probability p. Which s has the smallest expected squared error?
# Predict for p = .7, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
share, p = np.linspace(0, 1, 101), 0.7
error = p * (1 - share) ** 2 + (1 - p) * share**2  # with oedema, and without
assert np.isclose(share[error.argmin()], p)

# %% [markdown]
# **Against the paper.** Same: the skew by sex and age, and T1 to T2 with the reconstructor's own network. Different: the paper prints no numbers and says that
# it found no correlation; here the size of the training set stays fixed, the truth is known patient by patient, and training noise stands
# beside every effect.
# ## Takeaways
# - Skewed by images, most patients of the minority are still seen and the set shrinks: it is another experiment than it seems.
# - The same patient as woman and man gives the bias of a network without any comparison of different people.
# - What a skew does has to be larger than what another training seed does, or it is nothing.
# - A network cannot know what its input does not show: it draws the average, which is wrong for each of two patients who look the same.
