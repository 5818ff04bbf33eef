"""Figures of notebook 07: samples, arms against noise, perception against distortion, subgroups.

Conventions: `cohort` names the data in the caption; means are frames from `estimates.means_by_level`.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairrecon_core.audit.inference import contrast
from fairrecon_core.measures import label_of
from fairrecon_lab import plots
from fairrecon_lab.analysis.estimates import GREY, caption, legend_beside, whose
from fairrecon_lab.analysis.quality import Subgroups
from fairrecon_lab.bootstrap import patient_bootstrap

MEASURES = {
    "psnr_db": "PSNR (dB), higher is better",
    "ssim": "SSIM, higher is better",
    "lpips": "LPIPS, lower is better",
}
LABELS = {name: label_of(name) for name in ("psnr_db", "lpips", "psnr_foreground_db")}


def samples_figure(gains: pd.DataFrame, n_samples: int, arm: str, cohort, level: float) -> Figure:
    """What averaging samples of an arm gains, beside a perfect sampler.

    Parameters
    ----------
    gains : DataFrame
        From `quality.sample_gains`; empty where no arm samples.
    n_samples : int
    arm : str
    cohort, level
        Named in the caption.
    """
    figure, ax = plots.canvas(5.5, 3)
    n = np.arange(1, n_samples + 1)
    ax.plot(n, 10 * np.log10(2 / (1 + 1 / n)), "--", color=GREY, label="perfect sampler")
    if len(gains):
        found = [patient_bootstrap(part["gain"], part["patient"], n_boot=1000) for _, part in gains.groupby("n")]
        plots.error_bars(ax, n, *zip(*[one[:3] for one in found]), arm)
    ax.set(xlabel="Samples averaged", ylabel="Gain over one sample (dB)", xticks=n)
    ax.legend(frameon=False, fontsize=9)
    return caption(figure, whose(cohort, level))


def quality_curves(means: dict[str, pd.DataFrame], cohort) -> Figure:
    """One panel per measure of `means`: arms against the noise level, with intervals; the patients in the caption."""
    figure, axes = plots.canvas(11, 3.2, 1, len(MEASURES))
    for ax, (metric, label) in zip(axes, MEASURES.items()):
        plots.noise_curves(ax, means[metric], cohort.modality, label)
    legend_beside(axes[-1])
    n = means["psnr_db"].groupby("level")["patients"].first()
    sizes = ", ".join(f"{count} at {level:,.0f}" for level, count in n.items())
    return caption(figure, f"{whose(cohort)}; patients: {sizes}")


def perception_distortion(means: dict[str, pd.DataFrame], cohort) -> Figure:
    """LPIPS against PSNR from `means`, a point per arm and level, joined from little to much noise."""
    figure, ax = plots.canvas(6.4, 3.8)
    for arm in dict.fromkeys(means["psnr_db"]["arm"]):
        frames = [means[metric] for metric in ("psnr_db", "lpips")]
        x, y = [table[table["arm"] == arm].sort_values("level", ascending=cohort.modality == "mri") for table in frames]
        bars = [[part["value"] - part["low"], part["high"] - part["value"]] for part in (x, y)]
        style = plots.arm_style(arm) | {"linewidth": 1, "elinewidth": 0.7, "markersize": 6, "label": arm}
        ax.errorbar(x["value"], y["value"], xerr=bars[0], yerr=bars[1], **style)
    ax.set_xlabel("PSNR (dB): less error to the right")
    ax.set_ylabel("LPIPS: less visible error below")
    legend_beside(ax)
    return caption(figure, whose(cohort))


def draw_subgroup_means(ax: Axes, means: Subgroups, label: str) -> None:
    """Mean of every subgroup and arm with its interval on `ax`, arms side by side; `label` names the measure."""
    low, high = contrast(means.result, "level").interval()
    for a, arm in enumerate(means.arms):
        x, value = np.arange(len(means.groups)) + 0.11 * (a - (len(means.arms) - 1) / 2), means.result.value[0, a]
        bars = [value - low[0, a], high[0, a] - value]
        style = plots.arm_style(arm) | {"linestyle": "", "markersize": 5, "label": arm}
        ax.errorbar(x, value, yerr=bars, capsize=2, **style)
    names = [
        f"{plots.RACE_LABELS.get(group, group)}\nn = {n}" for group, n in zip(means.groups, means.result.n_patients[0])
    ]
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set_ylabel(label, fontsize=9)
    legend_beside(ax)


def subgroup_figure(means: Subgroups, cells: pd.DataFrame, metric: str, cohort, level: float) -> Figure:
    """Subgroup means of every arm, and beside them what each arm added to the signed gap.

    Parameters
    ----------
    means : Subgroups
    cells : DataFrame
        Signed rows of an audit with `degraded` as baseline.
    metric : str
        One of `LABELS`.
    cohort, level
        Named in the caption.
    """
    cells = cells[cells["metric"] == metric]
    cells = cells.sort_values("arm", key=lambda column: column.map(means.arms.index), kind="stable")
    figure, axes = plots.canvas(11, max(2.8, 1.3 + 0.24 * len(cells)), 1, 2)
    draw_subgroup_means(axes[0], means, LABELS[metric])
    short = lambda group: plots.RACE_LABELS.get(group, group)
    labels = [
        f"{row.arm}: {short(row.subgroup)} − {short(row.reference)} (n = {row.smallest_group})"
        for row in cells.itertuples()
    ]
    effect = cells[["delta", "delta_ci_low", "delta_ci_high"]].to_numpy(float).T
    bands, margin = cells[["band_low", "band_high"]].to_numpy(float), cells["margin"].iloc[0]
    plots.forest(axes[1], labels, *effect, verdicts=list(cells["verdict"]), bands=bands, margin=margin)
    axes[1].set_xlabel(f"Added to the gap in {LABELS[metric]}, against degraded", fontsize=9)
    return caption(figure, whose(cohort, level))
