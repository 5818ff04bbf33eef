"""Sliders: they redraw, keep their values, and refuse nonsense."""

import re

import pytest

from fairrecon_lab.plots import canvas
from fairrecon_lab.widgets import drawn_page, frames_slider, png, slider_image


def draw(level=1, order="a", shown=True, scale=1.0):
    figure, ax = canvas(2, 1)
    ax.plot([0, level * scale], [0, 1 + shown])
    ax.set_title(order)
    return figure


def test_moving_a_control_redraws_the_picture_with_its_value():
    box = slider_image(draw, level=[1, 2, 4], order=("a", "b"), shown=True, scale=2.0, start={"level": 2})
    assert box.controls["level"].value == 2 and set(box.controls) == {"level", "order", "shown"}
    seen = {box.picture.value}
    for name, value in (("level", 4), ("order", "b"), ("shown", False)):
        box.controls[name].value = value
        assert box.picture.value not in seen
        seen.add(box.picture.value)
    assert box.picture.value == png(draw(level=4, order="b", shown=False, scale=2.0))


def test_controls_are_labelled_with_the_unit_and_redraw_on_release_only():
    box = slider_image(draw, level=[1, 100_000], labels={"level": "Photons per bin"})
    control = box.controls["level"]
    assert control.description == "Photons per bin" and not control.continuous_update
    assert control.options[1][0] == "100,000"


def test_an_unknown_start_and_an_empty_list_are_refused():
    with pytest.raises(ValueError, match=r"'level' cannot start at 3; choose one of \[1, 2\]"):
        slider_image(draw, level=[1, 2], start={"level": 3})
    with pytest.raises(ValueError, match="'level' has no values"):
        slider_image(draw, level=[])


def test_a_widget_that_cannot_draw_says_so_at_once():
    with pytest.raises(TypeError):
        slider_image(draw, nonsense=[1, 2])


def test_frames_slider_embeds_every_picture_and_a_text_for_those_who_do_not_see_it():
    page = frames_slider(draw, "level", [1, 2, 4], alt="a line", order="b").data
    assert len(set(re.findall(r"data:image/png;base64,[^\"]+", page))) == 3
    assert 'alt="a line"' in page and 'max="2"' in page
    with pytest.raises(ValueError, match="at least one value"):
        frames_slider(draw, "level", [], alt="nothing")


def test_a_status_line_puts_the_picture_into_words_and_follows_the_controls():
    box = slider_image(draw, level=[1, 100_000], order=("a", "b"), alt="A line.")
    assert 'role="status"' in box.status.value and "A line. level: 1; order: a" in box.status.value
    box.controls["level"].value = 100_000
    assert "A line. level: 100,000; order: a" in box.status.value


def test_a_picture_that_cannot_be_drawn_stays_as_it_was_and_the_page_says_why():
    def fragile(level=1):
        if level > 1:
            raise ValueError("no such level")
        return draw(level)

    box = slider_image(fragile, level=[1, 2])
    before = box.picture.value
    with pytest.raises(ValueError, match="no such level"):
        box.controls["level"].value = 2
    assert box.picture.value == before and "could not be drawn (no such level)" in box.status.value


def pictures_of(page):
    return dict(re.findall(r'"([\d,]+)": "(data:image/png;base64,[^"]+)"', page))


def test_a_drawn_slider_holds_every_combination_while_they_are_few():
    box = slider_image(draw, level=[1, 2, 4], order=("a", "b"), start={"level": 2})
    frames = pictures_of(drawn_page(draw, box.controls, {}, "a line"))
    assert set(frames) == {f"{i},{j}" for i in range(3) for j in range(2)} and len(set(frames.values())) == 6


def test_of_many_combinations_each_control_still_moves_alone():
    box = slider_image(draw, level=[1, 2, 4, 8], order=("a", "b"), shown=True, start={"level": 4})
    frames = pictures_of(drawn_page(draw, box.controls, {}, "a line"))
    assert set(frames) == {"2,0,1", "0,0,1", "1,0,1", "3,0,1", "2,1,1", "2,0,0"}


def test_the_runner_gets_a_hidden_page_and_a_reader_none(monkeypatch):
    hidden = lambda box: [child for child in box.children if "drawn-slider" in str(getattr(child, "value", ""))]
    monkeypatch.delenv("FAIRRECON_DRAWN", raising=False)
    assert not hidden(slider_image(draw, level=[1, 2]))
    monkeypatch.setenv("FAIRRECON_DRAWN", "1")
    (page,) = hidden(slider_image(draw, level=[1, 2]))
    assert page.layout.display == "none"
