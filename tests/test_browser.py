"""The widgets in a real browser: they move by key and by mouse, say their names, and do not flicker.

JupyterLab is started once. The notebooks are copies with the smoke profile that read a finished smoke run. What the
window showed is kept in artifacts/browser/.
"""

import json
import os
import shutil
import time

import browser_tools as tools
import nbformat
import pytest

from fairrecon_core.steps.folder import begin
from fairrecon_lab.classroom.exercises import EXERCISES
from fairrecon_lab.classroom.grading import grade_class
from fairrecon_lab.classroom.sets import BLANK, make_class
from fairrecon_lab.explorer.still import write_still
from fairrecon_lab.plots import canvas
from fairrecon_lab.widgets import drawn_page, frames_slider, slider_image

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted((tools.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
WITH_WIDGETS = [path for path in NOTEBOOKS if tools.has_widget(path.with_suffix(".py"))]
IN_DEPTH = [path for path in WITH_WIDGETS if path.name[:2] in ("01", "02", "03")]
LONG = (
    "04",
    "05",
    "06",
    "07",
    "08",
    "10",
    "11",
    "12",
    "13",
)  # minutes each: FAIRRECON_BROWSER=all opens them too
OTHERS = [path for path in WITH_WIDGETS if path not in IN_DEPTH]
if os.environ.get("FAIRRECON_BROWSER") != "all":
    OTHERS = [path for path in OTHERS if path.name[:2] not in LONG]
SLIDER, PICTURE = ".widget-slider .noUi-handle", "img.widget-image"
WATCH = """
const image = arguments[0]; window.seen = new Set();
const look = () => {
  const box = image.getBoundingClientRect();
  window.seen.add([image.isConnected, Math.round(box.width), Math.round(box.height)].join());
  requestAnimationFrame(look);
};
look();
"""
CONTRAST = """
const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
const light = rgb => { const [r, g, b] = rgb.slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] > 0.9) return c; } return [255, 255, 255]; };
const weak = [];
for (const e of document.querySelectorAll(arguments[0] + " *")) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!own || style.visibility === "hidden" || box.width < 2 || e.closest("[disabled]")) continue;
  const ink = e.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(numbers(ink)), light(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) weak.push(e.textContent.trim().slice(0, 40) + ": " + ratio.toFixed(1));
}
return weak;
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A copy of a finished smoke run, for what the browser's kernels read and write."""
    tools.require_browser()
    folder = tmp_path_factory.mktemp("browser") / "runs"
    shutil.copytree(tools.smoke_run(tmp_path_factory), folder)
    return folder


@pytest.fixture(scope="module")
def lab(runs):
    """Address of a JupyterLab whose notebooks are smoke copies."""
    folder = runs.parent / "lab"
    for path in WITH_WIDGETS:
        tools.smoke_copy(path, folder / "notebooks")
    home = {"FAIRRECON_RUNS": str(runs), "FAIRRECON_HOME": str(tools.ROOT)}
    with tools.serving("lab", folder, runs.parent / "scratch", **home) as address:
        yield address


@pytest.fixture(scope="module")
def page():
    """One browser window for all tests of this file."""
    tools.require_browser()
    window = tools.Page()
    yield window
    window.close()


@pytest.fixture
def opened(lab, page):
    """`opened(path)` runs all of a notebook in JupyterLab and hands over the page; its kernel ends with the test."""

    def run(path):
        tools.run_all(page, lab, f"notebooks/{path.name}")
        return page

    yield run
    tools.stop_kernels(lab)


def value(page):
    """Readout of the first slider."""
    return page.first(".widget-slider .widget-readout").text


# ---------------------------------------------------------------------------------------------------- JupyterLab


@pytest.mark.parametrize("path", IN_DEPTH, ids=lambda path: path.stem)
def test_a_slider_moves_by_key_and_by_mouse_and_does_not_flicker(opened, path):
    from selenium.webdriver import Keys

    page = opened(path)
    picture, handle = page.first(PICTURE), page.first(SLIDER)
    page.script(WATCH, picture)
    start, before = value(page), page.hash(picture)
    page.press(handle, Keys.ARROW_RIGHT)
    page.new_picture(picture, before)
    assert value(page) != start
    stepped, before = value(page), page.hash(picture)
    track = page.first(".widget-slider .noUi-base").size["width"]
    page.drag(handle, -track if stepped != start else track)
    page.new_picture(picture, before)
    assert value(page) != stepped
    page.screenshot(path.stem)
    seen = page.script("return [...window.seen]")
    assert len(seen) == 1 and seen[0].startswith("true"), f"the picture left the page or changed its size: {seen}"
    assert not page.severe()


@pytest.mark.parametrize("path", IN_DEPTH[:1], ids=lambda path: path.stem)
def test_controls_and_pictures_say_what_they_are(opened, path):
    from selenium.webdriver import Keys

    page = opened(path)
    handle, picture = page.first(SLIDER), page.first(PICTURE)
    page.wait(lambda: handle.get_attribute("aria-label"), "the slider has no name")
    page.press(handle, Keys.ARROW_RIGHT)
    page.wait(lambda: handle.get_attribute("aria-valuetext") == value(page), "the slider does not say its value")
    page.wait(lambda: value(page) in picture.get_attribute("alt"), "the picture's text does not say the value")
    controls = page.all(".fairrecon-controls [role=slider], .fairrecon-controls select, .fairrecon-controls input")
    assert all(control.get_attribute("aria-label") for control in controls)
    menu = page.first(".fairrecon-controls select")
    before, chosen = page.hash(picture), menu.get_attribute("value")
    page.press(menu, Keys.ARROW_DOWN)  # JupyterLab would go to the next cell
    page.new_picture(picture, before)
    assert menu.get_attribute("value") != chosen


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_every_other_notebook_with_a_widget_runs_and_moves(opened, path):
    from selenium.webdriver import Keys

    page = opened(path)
    picture = page.first(PICTURE)
    control = page.first(f".fairrecon-controls {SLIDER}, .fairrecon-controls select")
    before = page.hash(picture)
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP):
        page.press(control, key)
        time.sleep(0.3)
    page.press(control, Keys.HOME)
    page.press(control, Keys.END)
    page.new_picture(picture, before)
    page.screenshot(path.stem)
    assert not page.severe()


# ---------------------------------------------------------------------------------------------------- no kernel


def growing(level=1):
    figure, ax = canvas(4, 2)
    ax.plot([0, level])
    return figure


def test_a_pre_drawn_slider_moves_on_a_page_without_a_kernel(page, tmp_path):
    from nbconvert import HTMLExporter
    from selenium.webdriver import Keys

    shown = nbformat.v4.new_output(
        "execute_result", {"text/html": frames_slider(growing, "level", [1, 2, 4], alt="a line").data}
    )
    cell = nbformat.v4.new_code_cell("frames_slider(...)", outputs=[shown])
    body = HTMLExporter(template_name="basic").from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))[0]
    still = tmp_path / "still.html"
    still.write_text(f"<!doctype html><meta charset='utf-8'><title>still</title>{body}", encoding="utf-8")
    page.open(still.as_uri())
    slider, picture = page.first(".frames-slider input"), page.first(".frames-slider img")
    said = page.first(".frames-slider output")
    seen = {picture.get_attribute("src")}
    page.press(slider, Keys.ARROW_RIGHT)
    assert said.text == slider.get_attribute("aria-valuetext") == "2"
    seen.add(picture.get_attribute("src"))
    page.drag(slider, slider.size["width"] / 2)
    assert said.text == "4"
    seen.add(picture.get_attribute("src"))
    assert len(seen) == 3 and picture.get_attribute("alt") == "a line"
    page.screenshot("frames_slider")
    assert not page.severe()


def test_sliders_drawn_for_the_book_move_by_key_and_by_mouse_without_a_kernel(page, tmp_path):
    from selenium.webdriver import Keys

    def two(level=1, width=1.0, dashed=False):
        figure, ax = canvas(4, 2)
        ax.plot([0, level], linewidth=width, linestyle="--" if dashed else "-")
        ax.set_ylim(0, 5)
        return figure

    controls = slider_image(two, level=[1, 2, 3, 4], width=[1.0, 4.0], dashed=False).controls
    still = tmp_path / "drawn.html"
    body = drawn_page(two, controls, {}, "a line")
    still.write_text(f"<!doctype html><meta charset='utf-8'><title>drawn</title>{body}", encoding="utf-8")
    page.open(still.as_uri())
    picture = page.first(".drawn-slider img")
    first = picture.get_attribute("src")
    for slider in page.all(".drawn-slider input"):
        before = picture.get_attribute("src")
        page.press(slider, Keys.ARROW_RIGHT)
        after = picture.get_attribute("src")
        assert after not in (before, first), "every control changes the picture by key"
        page.press(slider, Keys.HOME)
    page.drag(page.first(".drawn-slider input"), 400)
    assert picture.get_attribute("alt").startswith("a line 4") and picture.get_attribute("src") != first
    assert not page.severe()


# ---------------------------------------------------------------------------------------------------- a class


def test_an_answer_typed_in_jupyterlab_is_graded(page, tmp_path):
    """A right answer by one student and a wrong one by the other, typed into the cell, saved, and marked."""
    from selenium.webdriver import Keys

    source = tools.ROOT / "notebooks" / "00_start_here.ipynb"
    record = make_class(2, 7, tmp_path / "class", [source])
    right = EXERCISES["00"].reference
    with tools.serving("lab", tmp_path / "class", tmp_path / "scratch") as address:
        for student, typed in (("student_01", right), ("student_02", "answer = 0.123")):
            path = tmp_path / "class" / student / source.name
            page.open(f"{address}/lab/tree/{student}/{source.name}?reset")
            page.wait(lambda: tools.cell_with(page, BLANK.splitlines()[0]), "the answer cell is not shown", 120)
            editor = tools.cell_with(page, BLANK.splitlines()[0]).find_element("css selector", ".cm-content")
            editor.click()
            for keys in (Keys.CONTROL + "a", Keys.DELETE, typed, Keys.CONTROL + "s"):
                page.keys(keys)
            page.wait(lambda path=path, typed=typed: json.dumps(typed)[1:-1] in path.read_text(), "it was not saved")
            page.screenshot(f"class_{student}")
            tools.stop_kernels(address)
    table = grade_class(tmp_path / "class").set_index("student")
    assert table["points"].to_dict() == dict(zip(record["students"], (1, 0)))


# ---------------------------------------------------------------------------------------------------- the explorer


def test_the_drawn_explorer_moves_by_key_and_mouse_and_asks_for_nothing(page, runs, tmp_path):
    from selenium.webdriver import Keys

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRRECON_RUNS", str(runs))
        drawn = write_still(begin("smoke")[1], tmp_path / "explorer.html")
    page.open(drawn.as_uri())
    html = "return document.querySelectorAll('.still-shown')[arguments[0]].innerHTML"
    moved = lambda number, before: page.wait(lambda: page.script(html, number) != before, "nothing changed", 10)
    for number, column in enumerate(page.all(".still-column")):
        for control in column.find_elements("css selector", "input, select"):
            before, slides = page.script(html, number), control.get_attribute("type") == "range"
            page.press(control, *([Keys.ARROW_LEFT] if slides else [Keys.ARROW_DOWN, Keys.ENTER]))
            moved(number, before)
            if slides:
                before = page.script(html, number)
                page.drag(control, control.size["width"] / 2)
                moved(number, before)
    assert number == 1, "two modalities"
    asked = page.script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [address for address in asked if not address.startswith("data:")] and not page.severe()
    page.screenshot("explorer_drawn")


@pytest.fixture(scope="module")
def explorer(runs, page):
    """The explorer under Voila, on a screen as a projector has it."""
    folder = runs.parent / "voila"
    tools.smoke_copy(tools.ROOT / "notebooks" / "explorer.ipynb", folder)
    home = {"FAIRRECON_RUNS": str(runs), "FAIRRECON_HOME": str(tools.ROOT)}
    with tools.serving("voila", folder, runs.parent / "voila-scratch", target="explorer.ipynb", **home) as address:
        page.resize(1400, 900)
        page.open(address)
        page.wait(lambda: len(page.all(".fairrecon-scores")) == 2, "the explorer did not appear", 120)
        yield page
        page.resize(1300, 1500)


def columns(page):
    return page.all(".fairrecon-controls")


def named(column, name):
    """The control of a column with this label."""
    for control in column.find_elements("css selector", "[role=slider], select"):
        if control.get_attribute("aria-label") == name:
            return control
    raise AssertionError(f"no control is called {name!r}")


def shown(column):
    """Everything that a column shows: pictures and scores."""
    return column.find_element("css selector", ".fairrecon-tiles").get_attribute("innerHTML")


def test_the_explorer_fits_one_screen_and_can_be_read(explorer):
    explorer.screenshot("explorer")
    size = explorer.script("const e = document.scrollingElement; return [e.scrollWidth, e.scrollHeight]")
    assert size[0] <= 1400 and size[1] <= 900, f"the page is {size[0]} x {size[1]} pixels"
    small = (
        "return [...document.querySelectorAll('.fairrecon-tiles *')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(explorer.script(small)) >= 16
    assert not explorer.script(CONTRAST, ".fairrecon-explorer")
    assert all(image.get_attribute("alt") for image in explorer.all(".fairrecon-explorer img"))
    assert all(drawing.get_attribute("aria-label") for drawing in explorer.all(".fairrecon-explorer svg[role=img]"))


@pytest.mark.parametrize("side", ["mri", "xray"])
def test_the_explorer_follows_the_keyboard(explorer, side):
    from selenium.webdriver import Keys

    column = columns(explorer)[("mri", "xray").index(side)]
    level = named(column, "R" if side == "mri" else "photons")
    seconds = {}
    for name, key in (("to clean", Keys.ARROW_LEFT), ("to degraded", Keys.ARROW_RIGHT)):
        before, began = shown(column), time.monotonic()
        explorer.press(level, key)
        explorer.wait(lambda before=before: shown(column) != before, f"the level did not move ({name})", 20, pause=0.01)
        seconds[name] = round(time.monotonic() - began, 2)
    before = shown(column)
    explorer.press(named(column, "age (years)"), Keys.END)
    explorer.wait(lambda: shown(column) != before and "as recorded: " in shown(column), "no counterfactual", 20)
    explorer.screenshot(f"explorer_{side}")
    tools.ARTIFACTS.joinpath(f"explorer_{side}.json").write_text(json.dumps(seconds))
    assert not explorer.severe()
