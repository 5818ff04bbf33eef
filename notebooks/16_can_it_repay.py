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
import torch

from fairrecon_core.steps.folder import begin
from fairrecon_lab.mitigation import figures, plan, tables
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
# a woman (notebook 15). The method is *task consistency*: the reader should say of the reconstruction what it says of the clean image, and the
# subgroup where it fails most weighs most. All of it happens here, on few patients.

# %%
recipe = plan.RECIPES.get(settings.profile, plan.RECIPES["tutorial"])
study = plan.Study(recipe, run.folder / "mitigation")
live = tables.mitigation_table(study, {"consistency": (1e-3,)}, say=lambda line: None)

# %%
shown = live.query("quantity in ('tpr', 'fpr', 'psnr_db') and method == 'consistency'")
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
# `tools/mitigation.py` did the same on more patients and several training seeds. `fall` is how much the size of the TPR gap fell against
# the twin, `removed` the share of the bias that the skew had added; the last three columns are the price, in the subgroup that paid most.
#
# **It explores, it confirms nothing.** One lambda, three seeds, one method; and dose, anatomy and the rule for thresholds were set after a first look at
# results in which both rates were near their ends. A confirming study fixes them beforehand and draws other patients: `tools/mitigation.py --recipe full`.

# %%
tables.kept("repaired").round(3)

# %% [markdown]
# Read it row by row: at which threshold is a bias repaired, does the interval of `fall` leave out 0, and what do the last three columns say it cost?
#
# Left is fair, up (or, for FPR, down) is good. Hollow marks are twins and published forms, which cannot repair. The red cross is the skewed network, the star the
# one without a skew.

# %%
mitigated = tables.kept("mitigation")
note = "simulated, 64 px, 300 photons; intervals over patients and training seeds, of the difference to the twin"
run.figure(figures.pareto_figure(mitigated, note), "16_pareto")

# %% [markdown]
# ## Levelled up, or down?
# The same in rates. A gap that closes because women's TPR rises is a repair. One that closes because men's falls, or because both sexes' FPR rises
# until everybody is called ill, is equality of another kind.

# %%
run.figure(figures.levels_figure(mitigated, note), "16_levels")

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
# - An equal-odds constraint is a difference of soft rates, and its gradient may as well make the better-off worse.
# - Before a method is judged, ask whether its gradient arrives: in three published forms it does not, or points the wrong way.
# - Only the difference to a twin belongs to the method; further training changes a network by itself.
# - A smaller gap is worth what it cost, and in whom: read TPR, FPR and PSNR of each subgroup beside it.
