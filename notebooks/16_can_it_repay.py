# %% [markdown]
# # 16. Can the reconstructor repay it?
# - **You will** build an equal-odds constraint by hand and see its gradient; find three published forms that mitigate nothing because no gradient
#   arrives or because signs are reversed; fine-tune a network and its twin; read what a smaller gap costs, and whom
# - **Time** 100 s to run, about 15 min to work through, **memory** 1200 MB (tutorial); **needs** nothing: it reads `results/mitigation/`; **makes** nothing
# - **In the paper** Sec. 5 asks for it; the follow-up (arXiv:2604.10904) tries reweighting, an EODD constraint and, in its code, an adversary

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from fairrecon_core.steps.folder import begin
from fairrecon_lab.mitigation import figures, plan, registered, summary, tables
from fairrecon_lab.mitigation.terms import Adversarial, EqualOdds, Seen

settings, run = begin(profile, overrides)

# %% [markdown]
# ## A constraint by hand
# Readers and thresholds stay frozen; only the reconstructor learns. Its loss gets a second part, times a weight lambda: the gap that it should close. A decision has no
# gradient, so it is made soft: sigmoid((logit - threshold) / T). Eight people, two groups, four of them ill:

# %%
logits = torch.tensor([2.0, 1.0, -1.0, -2.0, 0.5, -1.0, -1.0, -3.0], requires_grad=True)
ill = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0])
group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
soft = torch.sigmoid(logits / 0.5)
rate = lambda label, who: soft[(ill == label) & (group == who)].mean()
by_hand = ((rate(1, 0) - rate(1, 1)) ** 2 + (rate(0, 0) - rate(0, 1)) ** 2) / 2
by_hand.backward()
print(round(by_hand.item(), 3), logits.grad.numpy().round(3))

# %% [markdown]
# **What to look for:** the signs of the gradient. Training goes against it: it raises the ill of group 1, *and it lowers the ill of group 0*. A gap also closes when the
# better-off are made worse. That is called *levelling down*, and nothing in the constraint forbids it.
#
# The library's term does the same for any number of groups, tasks and attributes. A rate needs more people than a batch of eight, so it remembers the last
# 512, and it skips cells in which nobody is: a rate of nobody is not 0.

# %%
nothing = torch.zeros(8, 1, 1, 1)
seen = Seen(nothing, nothing, ill[:, None].float(), group[:, None], torch.ones(8), logits=logits.detach()[:, None])
assert np.isclose(float(EqualOdds(torch.zeros(1))(seen)), by_hand.item(), atol=0.05), "up to the smooth maximum"

# %% [markdown]
# ## Three ways to mitigate nothing
# 1. **The published SDE form.** The constraint is computed on the *best state one step earlier*, which is made of the noised state and the clean image. The
#    network does not occur in it. Its gradient is not small, it is exactly zero, and the arm is further training under another name.
# 2. **A constant attribute.** Sex is coded as 0 for "F" and as 1 otherwise; the table says "Female" and "Male". Everybody is 1, no gap
#    exists, nothing is learned.
# 3. **Reversed signs.** An adversary should learn to read the attribute from the reader's features while the reconstructor hides it. In the released code
#    the adversary lowers its correlation and the reconstructor raises it.
#
# The second, measured; the others are tests of this repository (`tests/test_mitigation.py`):

# %%
alike = Seen(
    nothing, nothing, ill[:, None].float(), torch.ones(8, 1, dtype=torch.long), torch.ones(8), logits=logits[:, None]
)
logits.grad = None
EqualOdds(torch.zeros(1))(alike).backward()
assert logits.grad.abs().max() == 0
published = Adversarial(4, [2], signs="published")
print(
    "gradient of the constraint, everybody coded alike:",
    float(logits.grad.abs().sum()),
    "| sign of the adversary:",
    published.sign,
)

# %% [markdown]
# ## A network, a method and its twin
# Fine-tuning changes a network even without any fairness term: other patients, more steps. So each method gets a **twin**: the same network, patients,
# order, noise and steps, with the gradient of the term cut. Only the difference to the twin is the method's. The network below never saw an effusion in
# a woman, and none without one in a man (notebook 15).
#
# *Who fine-tunes decides what can be learned.* Give both sexes their effusions, and the data alone may repair, twin included. Give women none, and no
# term knows what an effusion in a woman should look like. Here a few of the women have it, one in twenty, as a cohort of a clinic might that
# was not collected for this purpose. A plain loss hardly sees them; a method that weighs subgroups does.
#
# The method is *task consistency*: the reader should say of the reconstruction what it says of the clean image, whoever the patient is. (Weighing
# the subgroup where it fails most is an arm of the study below.) All of it happens here, on few patients and with the reader that the series ships.

# %%
recipe = plan.RECIPES.get(settings.profile, plan.RECIPES["tutorial"])
study = plan.Study(recipe, run.folder / "mitigation")
arms = tables.Arms(study, registered.PRIMARY)
live = tables.mitigation_table(arms, {registered.METHOD: (registered.WEIGHT,)}, say=lambda line: None)

# %%
shown = live.query("quantity in ('tpr', 'fpr', 'psnr_db') and method == @registered.METHOD and subgroup != 'bias'")
shown[["threshold", "quantity", "subgroup", "control", "skewed", "other", "value", "delta", "low", "high"]].round(3)

# %% [markdown]
# Each arm is read at two thresholds: *control*, chosen on the control network's validation images and the same for all, as in a clinic that changes its
# reconstructor and nothing else; and *own*, chosen on the arm's own validation images, the twin's as well. A method that makes images look cleaner moves all
# scores, and at the old threshold that looks like a change of everybody's rates.
#
# *control* is the network without the skew, *skewed* the one that is repaired, *other* the twin, *value* the method; *delta* is method minus twin. One
# training seed and about a hundred test patients: look at how wide the intervals are before you believe a sign.
#
# ## The study
# `tools/mitigation.py` did the same on more patients and several training seeds, with its choices committed beforehand
# (`results/mitigation/REGISTERED.md`). It is the third of its kind: the first two decided nothing, because their networks had not finished learning and
# their reader, the shipped one, is near chance in this world. Now the networks normalise, and the reader was taught on other patients of the same world. One method at one lambda carries the claim; all others explore. The bias is that of the *same patients* drawn as women
# and as men. What was asked, and the answers by rule:

# %%
answers = tables.kept("answers")
asked = answers[answers["question"].str.contains("twin|removes|price|half")]
Markdown("\n".join(f"- {line}" for line in summary.sentences(asked)))

# %% [markdown]
# Every method beside its twin: a repair above 0 means less bias; the last three columns are what the subgroup paid that paid most, again against the
# twin. Does the interval of a repair leave out 0? What did it cost, and whom?

# %%
repaired = tables.kept("repaired")
summary.costs(repaired)

# %% [markdown]
# The rows *as it comes* give the women who fine-tune their effusions back. Compare the two twins: what did the data alone repair? And the two methods: what did the
# term add where the data were good?

# %%
shares = repaired[
    (repaired["threshold"] == registered.THRESHOLD) & repaired["method"].isin(["twin", registered.METHOD])
]
shares = shares[(shares["method"] == "twin") | (shares["weight"] == registered.WEIGHT)]
shares[["method", "share", "bias", "bias_low", "bias_high", "twin_bias", "change", "change_low", "change_high"]].round(
    3
)

# %% [markdown]
# ## Other networks
# Does the same term help Pix2Pix, or the SDE? Their own losses have another scale, so lambda is another. For Pix2Pix a pilot found none that repaired anything, and
# the one that harmed least was registered; for the SDE that lambda was, at which the term pulls about as hard as on the U-Net. Three training seeds each. The bias before
# fine-tuning, after it without any term (the twin), and with the term:

# %%
beside = {arm: tables.kept(f"repaired_{arm}") for arm in ("pix2pix", "sde")}
steps = {}
for arm, table in beside.items():
    twin, method = table[table["threshold"] == registered.THRESHOLD].to_dict("records")
    told = summary.figure_of
    steps[arm] = {"before": told(twin, "twin_bias"), "twin": told(twin, "bias"), "method": told(method, "bias"),
                  "repair": told(method, "change")}  # fmt: skip
pd.DataFrame(steps).T

# %% [markdown]
# **What to look for:** a method that repairs one network need not repair another. With three seeds the intervals are wide: of which network is a bias shown at all? And
# Pix2Pix' twin: with few women who have the finding, plain fine-tuning may *make* a bias that was not shown before.
#
# ## The trade-off in one picture
# Left is more equal, up (for FPR, down) is better for whom it is worst. Lines join the lambdas of a method. Hollow marks are
# twins and published forms, which cannot repair. The red cross is the skewed network, the star the one without a skew.

# %%
mitigated = tables.kept("mitigation")
mitigated = mitigated[mitigated["share"] == mitigated["share"].iloc[0]]
note = summary.note({"mitigation": mitigated})
run.figure(figures.pareto_figure(mitigated, note), "16_pareto")

# %% [markdown]
# ## Levelled up, or down?
# The same in rates. A gap that closes because women's TPR rises is a repair. One that closes because men's falls, or because both sexes' FPR rises
# until everybody is called ill, is equality of another kind.

# %%
run.figure(figures.levels_figure(mitigated, note.split("; bars")[0]), "16_levels")

# %% [markdown]
# Which way did each method go? *TPR, worse-off* is the change of the sex that the twin served worse, *TPR, better-off* that of the other. Both up: levelled up.
# The second down: levelled down.

# %%
rates = mitigated.query("threshold == @registered.THRESHOLD and quantity == 'tpr' and subgroup in @plan.SEXES")
rates = rates.pivot_table(index=["method", "weight"], columns="subgroup", values=["other", "delta"], sort=False)
worse_off = np.where(rates["other"]["female"] < rates["other"]["male"], "female", "male")
better_off = np.where(worse_off == "female", "male", "female")
took = lambda who: [rates["delta"][sex].iloc[k] for k, sex in enumerate(who)]
pd.DataFrame({"worse-off": worse_off, "TPR, worse-off": took(worse_off), "TPR, better-off": took(better_off)},
             index=rates.index).round(3)  # fmt: skip

# %% [markdown]
# ## Check your understanding
# A reconstructor makes all images so bright that the reader calls everybody ill. What are its EODD, its worst TPR and its worst FPR? Would the constraint alone
# refuse it?

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
everybody = Seen(nothing, nothing, ill[:, None].float(), group[:, None], torch.ones(8), logits=torch.full((8, 1), 9.0))
gap = float(EqualOdds(torch.zeros(1))(everybody))
worst_tpr, worst_fpr = 1.0, 1.0  # all of the ill are found, all of the healthy are alarmed
assert gap < 1e-6 and worst_fpr == 1.0, "perfectly equal and useless: always show the rates beside the gap"

# %% [markdown]
# **Against the follow-up.** Same: only the reconstructor is fine-tuned, readers are frozen, lambda is varied. Different: each method stands beside its twin; the forms whose
# gradient is zero or reversed are named options, not results; rates per subgroup stand beside the gap; and every difference has an
# interval over patients and training seeds.
# ## Takeaways
# - An equal-odds constraint is a difference of soft rates. Its gradient may as well make the better-off worse; with a long memory of rates it swings past equality.
# - Before a method is judged, ask whether its gradient arrives: in three published forms it does not, or points the wrong way.
# - Only the difference to a twin belongs to the method; further training changes a network by itself.
# - A smaller gap is worth what it cost, and in whom: read TPR, FPR and PSNR of each subgroup beside it.
