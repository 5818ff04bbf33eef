"""Figures: one look, one grey scale, nothing leaks."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from fairrecon_core.reconstruct import HOMES
from fairrecon_lab import plots


def test_every_arm_has_its_own_colour_or_marker():
    arms = ["clean", "placebo", "planted", *HOMES, "unet_dc", "yours"]
    looks = [tuple(plots.arm_style(arm).values()) for arm in arms]
    assert len(set(looks)) == len(looks)
    markers = [plots.arm_style(arm)["marker"] for arm in arms]
    assert len(set(markers)) == len(markers), "told apart in grey print as well"


def test_no_verdict_has_the_colour_of_an_arm_and_each_has_a_shape_of_its_own():
    arms = {plots.colour_of(arm) for arm in ("placebo", "planted", "unet", "pix2pix", "sde", "yours")}
    assert not arms & set(plots.VERDICT_COLOURS.values())
    assert len(set(plots.VERDICT_MARKERS.values())) == len(plots.VERDICT_COLOURS)


def test_distributions_are_drawn_as_outlines_and_count_what_is_there():
    _, ax = plots.canvas()
    plots.distributions(ax, {"a": [0.1, 0.1, 0.9], "b": [0.5]}, {"b": {"color": "#E69F00"}}, bins=np.linspace(0, 1, 11))
    first, second = ax.lines
    assert max(first.get_ydata()) == 2 and max(second.get_ydata()) == 1 and same_color(second.get_color(), "#E69F00")
    assert [text.get_text() for text in ax.legend().get_texts()] == ["a", "b"]


def test_a_heat_table_says_and_shades_each_cell():
    text = pd.DataFrame([["1", "2"], ["3", "-"]], index=["edema", "fracture"], columns=["clean", "unet"])
    shade = pd.DataFrame([["white", "red"], ["red", "white"]], text.index, text.columns)
    ink = pd.DataFrame([["black", "grey"], ["black", "black"]], text.index, text.columns)
    _, ax = plots.canvas()
    plots.heat_table(ax, text, shade, ink)
    assert [label.get_text() for label in ax.texts] == ["1", "2", "3", "-"]
    assert [label.get_color() for label in ax.texts] == ["black", "grey", "black", "black"]
    drawn = ax.collections[0].to_rgba(ax.collections[0].get_array().ravel())
    assert (drawn[0] == drawn[3]).all() and (drawn[1] == drawn[2]).all() and drawn[1].tolist() == [1, 0, 0, 1]


def test_arms_stand_side_by_side_in_each_category():
    frame = pd.DataFrame(
        {"who": ["sex", "age"] * 2, "arm": ["unet", "unet", "sde", "sde"], "gap": [1.0, 2.0, 3.0, 4.0]}
    )
    _, ax = plots.canvas()
    plots.by_arm(ax, frame, "who", "gap")
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    assert [sorted(line.get_ydata()) for line in drawn] == [[1, 2], [3, 4]]
    assert len({float(x) for line in drawn for x in line.get_xdata()}) == 4, "none hides another"
    assert all(same_color(line.get_color(), plots.colour_of(arm)) for line, arm in zip(drawn, ("unet", "sde")))


def test_images_in_a_row_share_one_grey_scale_and_say_where_they_come_from():
    figure = plots.image_row([np.zeros((8, 8)), np.full((8, 8), 3.0)], ["a", "b"], limits=None)
    limits = {ax.images[0].get_clim() for ax in figure.axes}
    assert limits == {(0.0, 3.0)} and figure.get_supxlabel() == "simulated"


@pytest.mark.parametrize("n_lines", [1, 2, 3])
@pytest.mark.parametrize("n_images", [1, 2, 6])
def test_titles_of_several_lines_stay_inside_the_figure_and_do_not_shrink_the_images(n_images, n_lines):
    image, title = np.zeros((8, 8)), "\n".join(["a title"] * n_lines)
    for draw in (plots.image_row, lambda *args: plots.error_row(image, *args)):
        figure, plain = draw([image] * n_images, [title] * n_images), draw([image] * n_images, ["x"] * n_images)
        for one in (figure, plain):
            one.draw_without_rendering()
        for ax in figure.axes:
            assert ax.title.get_window_extent().y1 <= figure.bbox.y1
        sides = [ax.get_window_extent().width for one in (figure, plain) for ax in one.axes if ax.images]
        assert np.ptp(sides) <= 0.03 * max(sides)


def test_a_row_needs_a_title_for_each_image():
    with pytest.raises(ValueError, match="one title per image"):
        plots.image_row([np.zeros((8, 8))], ["a", "b"])
    with pytest.raises(ValueError, match="at least one image"):
        plots.image_row([])


def test_a_difference_is_centred_on_zero_and_states_its_range():
    _, ax = plots.canvas()
    assert plots.draw_difference(ax, np.array([[-0.2, 0.1]])) == pytest.approx(0.2)
    assert ax.images[0].get_clim() == pytest.approx((-0.2, 0.2)) and "0.2" in ax.get_title()


def test_noise_grows_to_the_right_for_both_modalities():
    for modality, levels in (("mri", [4, 8, 16]), ("xray", [100_000, 10_000, 3_000])):
        figure, ax = plots.canvas()
        plots.error_bars(ax, levels, [3, 2, 1], [2, 1, 0], [4, 3, 2], "unet")
        plots.level_axis(ax, modality, levels)
        figure.canvas.draw()
        left_to_right = ax.transData.transform([(level, 1) for level in levels])[:, 0]
        assert np.all(np.diff(left_to_right) > 0)


def test_figures_do_not_pile_up_in_pyplot():
    before = plt.get_fignums()
    plots.error_row(np.zeros((8, 8)), [np.ones((8, 8))], ["x"])
    plots.pipe_figure({"cohort": "people", "audit": "gaps"}, "note")
    assert plt.get_fignums() == before


def test_forest_draws_interval_band_and_margin_for_each_effect():
    _, ax = plots.canvas()
    effects = {"value": [0.1, np.nan], "low": [0.0, np.nan], "high": [0.2, np.nan]}
    bands = [(-0.05, 0.05), (np.nan, np.nan)]
    plots.forest(ax, ["a (n = 9)", "b (n = 8)"], **effects, verdicts=["changed", "x"], bands=bands, margin=0.05)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a (n = 9)", "b (n = 8)"]
    assert len(ax.collections) == 1


def test_a_noise_curve_shows_every_estimate_and_leaves_a_gap_for_the_undefined():
    frame = pd.DataFrame(
        {
            "arm": ["clean", "clean", "unet", "unet"],
            "level": [4.0, 8.0, 4.0, 8.0],
            "value": [0.8, 0.8, 0.7, np.nan],
            "low": [0.7, 0.7, 0.6, np.nan],
            "high": [0.9, 0.9, 0.8, np.nan],
            "hollow": [False, True, False, True],
        }
    )
    _, ax = plots.canvas()
    plots.noise_curves(ax, frame, "mri", "AUROC")
    lines = {line.get_label(): line for line in ax.containers}
    assert set(lines) == {"clean", "unet"}, "one curve per arm"
    drawn = lines["unet"].lines[0].get_ydata()
    assert drawn[0] == 0.7 and np.isnan(drawn[1])
    at = [lines[arm].lines[0].get_xdata() for arm in ("clean", "unet")]
    assert (at[0] < at[1]).all() and np.abs(np.concatenate(at) - np.tile([4, 8], 2)).max() < 0.5, "side by side"
    assert ax.get_ylabel() == "AUROC"


def test_training_curves_count_epochs_from_one_and_give_a_judge_its_own_panel():
    plain = pd.DataFrame({"epoch": [0, 1, 2], "train_net": [3.0, 2.0, 1.0], "validation": [3.0, 2.5, 2.0]})
    figure = plots.training_curves({"brain, simulated": plain, "chest, real: x": plain}, "unet", "Error", log=True)
    assert [ax.get_title() for ax in figure.axes] == ["brain, simulated", "chest, real: x"]
    for ax in figure.axes:
        drawn = {line.get_label(): line for line in ax.lines}
        assert list(drawn["training"].get_ydata()) == [3, 2, 1] and list(drawn["validation"].get_xdata()) == [1, 2, 3]
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("Epoch", "Error", "log")
        assert drawn["validation"].get_color() == plots.colour_of("unet")
    judged = plain.drop(columns="train_net").assign(train_judge=[0.1, 0.2, 2.0])
    above, below = plots.training_curves({"a": judged}, "pix2pix", "L1").axes
    assert [line.get_label() for line in above.lines] == ["validation"] and below.get_ylim()[1] > 2
    assert below.lines[1].get_ydata()[0] == pytest.approx(np.log(2)), "a judge that cannot tell"


def test_the_origin_of_a_cohort_is_simulated_only_if_a_simulator_made_it():
    assert plots.origin(SimpleNamespace(name="brain", info={"simulator_version": "1"})) == "simulated"
    assert plots.origin(SimpleNamespace(name="lgg", info={})) == "real: lgg"


def test_heat_is_transparent_where_there_is_none_and_fills_the_image():
    _, ax = plots.canvas()
    limit = plots.draw_heat(ax, np.zeros((8, 8)), [[0, 1], [2, 4]], "map")
    heat = ax.images[-1]
    assert limit == 4 and plots.draw_heat(ax, np.zeros((8, 8)), [[0, 1], [2, 4]], limit=10) == 10
    assert heat.get_alpha().shape == (8, 8), "a pixel each"
    assert heat.get_alpha()[0, 0] == 0 and heat.get_alpha()[-1, -1] == pytest.approx(0.6)
