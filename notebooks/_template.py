# %% [markdown]
# # N. Title: the question in one line
# - **You will** do one thing; understand another
# - **Time** 2 min to run, about 15 min to work through, **memory** 700 MB (tutorial); **needs** 01; **makes** nothing
# - **In the paper** Sec. 2.1, Fig. 2

# %% tags=["parameters"]
profile = "tutorial"  # smoke | tutorial | lgg | covid_cxr | nih | paper
overrides = {}  # for example {"seed": 1}

# %%
import numpy as np

from fairrecon_core.steps.folder import begin

settings, run = begin(profile, overrides, needs=["cohort"])

# %% [markdown]
# ## The idea by hand
# Build it on one image, in a line or two; about ten words of prose for each line of code.

# %%
image = run.cohort("brain").image(0)
by_hand = image.mean()

# %% [markdown]
# The core does the same:

# %%
from fairrecon_lab.plots import image_row

assert np.isclose(by_hand, np.mean(image))

# %% [markdown]
# **What to look for:** say it before the figure, not after.


# %%
def show_brightness(image, factor=1.0):
    """A plain function that draws; the slider below only wraps it."""
    return image_row([np.clip(factor * image, 0, 1)], [f"times {factor:g}"])


show_brightness(image)

# %% tags=["widget"]
from fairrecon_lab.widgets import slider_image

slider_image(show_brightness, image=image, factor=[0.5, 1.0, 1.5])

# %% [markdown]
# ## Check your understanding
# A question with one answer. Predict, then run.

# %% tags=["solution"] jupyter={"source_hidden": true, "outputs_hidden": true}
answer = float(np.clip(2 * image, 0, 1).mean())
assert answer >= by_hand, "brightening cannot darken"

# %% [markdown]
# **Against Fig. 2.** Same: what agrees. Different: what does not, and why.
# ## Takeaways
# - one bullet for each part of "You will" above
# - in the same order
