# %% [markdown]
# ## The degradation explorer: what is lost on the way to the reader, and for whom?

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
from fairrecon_lab.explorer import explorer
from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides)
explorer(run)
