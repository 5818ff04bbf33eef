"""Figures of notebook 08: a cut that could not be chosen has no mark, and hides nobody else's."""

import numpy as np
import pandas as pd

from fairrecon_lab.analysis.downstream_figures import threshold_figure


def test_a_task_without_a_threshold_leaves_the_others_marked():
    frozen = pd.DataFrame({"task": ["oedema", "mass"], "arm": "clean", "value": [np.nan, np.nan]})
    per_arm = pd.DataFrame(
        {
            "task": ["oedema", "mass"] * 2,
            "arm": ["clean"] * 2 + ["unet"] * 2,
            "value": [0.5, np.nan, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))],
        }
    )
    lines = {line.get_label(): line for line in threshold_figure(per_arm, frozen, ["unet"], "").axes[0].lines}
    assert not len(lines["frozen, validation, clean"].get_xdata())
    assert np.allclose(lines["clean, own test labels"].get_xdata(), 0)
    unet = lines["unet, own test labels"]
    assert sorted(np.round(unet.get_xdata(), 6)) == [-2, 1]
    upper, lower = unet.get_ydata()[np.argmax(unet.get_xdata())], unet.get_ydata()[np.argmin(unet.get_xdata())]
    assert (round(upper), round(lower)) == (1, 0)  # the first task is on top
