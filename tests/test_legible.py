"""Figures can be read at the size at which they are shown; and the checks that say so can fail."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from gallery import GALLERIES, Example
from matplotlib.figure import Figure
from matplotlib.text import Text

from fairrecon_lab import plots
from fairrecon_lab.plots import legible, watched

NAMES = [gallery.__name__ for gallery in GALLERIES]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The shipped example, opened where nothing has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRRECON_RUNS", str(tmp_path_factory.mktemp("runs")))
        return Example()


@pytest.mark.parametrize("gallery", GALLERIES, ids=NAMES)
def test_every_figure_of_the_tutorial_can_be_read_at_a_thousand_pixels(gallery, example):
    found = {name: flaws for name, figure in gallery(example) if (flaws := legible.flaws(figure))}
    assert not found, "\n".join(f"{name}: {'; '.join(flaws[:4])}" for name, flaws in found.items())


def two_words(gap: float, size: float = 10, width: float = 4) -> Figure:
    """A figure with two words, the second `gap` inches to the right of where the first begins."""
    figure = Figure(figsize=(width, 1))
    figure.text(0.1, 0.5, "first", fontsize=size)
    figure.text(0.1 + gap / width, 0.5, "second", fontsize=size)
    return figure


def test_text_on_text_is_found_by_what_is_drawn():
    assert legible.overlapping_text(two_words(0.1)) == [("first", "second")]
    assert legible.overlapping_text(two_words(1.5)) == []
    hidden = two_words(0.1)
    hidden.findobj(Text)[1].set_visible(False)
    assert legible.overlapping_text(hidden) == []


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_turned_text_are_those_that_matplotlib_gives(seed):
    """Beside `Text.get_window_extent`, which shares no code with the listening renderer."""
    rng, figure = np.random.default_rng(seed), Figure(figsize=(6, 4), dpi=100)
    angle = [0, 90, 270, 30][seed % 4]
    text = figure.text(*rng.uniform(0.3, 0.6, 2), "Agj", rotation=angle, fontsize=rng.uniform(6, 14), ha="center")
    drawn = legible.drawn_text(figure)[0].box
    figure.draw_without_rendering()
    theirs = text.get_window_extent()
    assert np.allclose(drawn.get_points(), theirs.get_points(), atol=2.5), (drawn, theirs)


def test_a_wide_figure_is_shown_smaller_and_its_text_with_it():
    """By hand: 20 inches on 1 000 pixels, 96 to an inch, are 10.4 inches, so 10 points become 5.2."""
    (first, _), (wide, _) = (legible.drawn_text(two_words(2, width=w)) for w in (9.6, 20))
    assert first.points == pytest.approx(10 * 100 / 96) and wide.points == pytest.approx(10 * 1000 / 96 / 20)
    assert legible.small_text(two_words(2, width=20)) and not legible.small_text(two_words(2))
    assert legible.small_text(two_words(2, size=6)) == ["'first': 6.2 pt", "'second': 6.2 pt"]


def test_text_that_leaves_the_figure_is_found():
    assert legible.cut_text(two_words(3.6)) == ["second"] and legible.cut_text(two_words(1)) == []


def test_a_legend_on_top_of_points_or_bars_is_found():
    for place, hides in (("upper left", False), ("lower left", True)):
        figure, ax = plots.canvas(4, 3)
        ax.bar([0, 1, 2], [0.2, 0.2, 0.2], label="bars")
        ax.set_ylim(0, 1)
        ax.legend(loc=place)
        assert bool(legible.hidden_data(figure)) == hides
    assert "the legend from 'bars' hides data" in legible.flaws(figure)


def test_a_tick_that_is_not_drawn_does_not_count():
    figure, ax = plots.canvas(4, 3)
    ax.set_xticks([0.1, 0.100001, 5], ["one", "two", "far away"])
    ax.set_xlim(0, 1)
    assert legible.overlapping_text(figure) == [("one", "two")]
    assert "far away" not in [line.words for line in legible.drawn_text(figure)]


# ---------------------------------------------------------------------- while a notebook runs
def test_a_watched_notebook_notes_the_flaws_of_what_it_shows(tmp_path, monkeypatch):
    from IPython.core import pylabtools

    log = tmp_path / "trace"
    monkeypatch.setattr(pylabtools, "print_figure", pylabtools.print_figure)  # put back afterwards
    monkeypatch.setenv("FAIRRECON_TRACE", str(log))
    watched.watch()
    watched.watch()
    assert pylabtools.print_figure(two_words(0.1)) is None, "IPython shows no figure without axes"
    for gap in (1.5, 0.1):
        figure = two_words(gap)
        figure.subplots().set_axis_off()
        assert pylabtools.print_figure(figure)
    notes = [json.loads(line)["legible"] for line in log.read_text().splitlines()]
    assert [list(note.values()) for note in notes] == [[[]], [["'first' lies on 'second'"]]], "each asked once"
    record = {"notebooks": {"05_x": {"legible": notes[0] | notes[1]}}}
    assert watched.unreadable(record) == ["05_x, figure 02 first / second: 'first' lies on 'second'"]
    with pytest.raises(ValueError, match="06_y were not asked"):
        watched.unreadable({"notebooks": {"05_x": {"legible": {}}, "06_y": {}}})


# ---------------------------------------------------------------------- colours
MACHADO = {  # linear RGB as seen without one kind of cone, Machado et al. 2009, severity 1
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "all cones": np.eye(3),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, eye: str) -> np.ndarray:
    """CIE L*a*b* of a hex colour."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(MACHADO[eye]) @ linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", MACHADO)
def test_arms_are_told_apart_with_any_colour_vision(eye):
    arms = ["clean", "degraded", "tv", "nlm", "unet", "pix2pix", "sde", "placebo", "planted", "yours"]
    seen = {arm: lab(plots.colour_of(arm), eye) for arm in arms}
    near = [(a, b) for a in arms for b in arms if a < b and np.linalg.norm(seen[a] - seen[b]) < 12]
    assert not near, near
    before = {"degraded": "#8C8C8C", "tv": "#5A5A5A", "nlm": "#A9A9A9"}  # three greys, which this test refuses
    assert np.linalg.norm(lab(before["degraded"], eye) - lab(before["nlm"], eye)) < 12


def test_what_is_not_an_arm_has_no_arms_colour():
    arms = {plots.colour_of(arm) for arm in ("placebo", "planted", "tv", "nlm", "unet", "pix2pix", "sde", "yours")}
    for module in [module for name, module in sys.modules.items() if name.startswith("fairrecon_lab.")]:
        text = Path(module.__file__).read_text(encoding="utf-8") if getattr(module, "__file__", None) else ""
        if text and not module.__name__.endswith(("plots.look", "explorer.page")):
            assert not [colour for colour in arms if colour in text], module.__name__


def test_a_bar_that_is_nowhere_is_hidden_by_no_legend():
    figure = Figure(figsize=(8, 3), layout="constrained")
    ax = figure.subplots()
    ax.barh([0, 1], [np.nan, 0.5], left=[np.nan, 0.1], label="a bar of NaN and another")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    assert legible.hidden_data(figure) == []
    ax.legend(loc="center")
    assert legible.hidden_data(figure) == ["a bar of NaN and another"]
