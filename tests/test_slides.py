"""Slides and sheets: the notebooks' own figures, no code, no answers, no request, and keys that turn the pages."""

import re

import nbformat
import pytest
from test_book import PIXEL, code, executed, picture
from test_tools import tool


@pytest.fixture(scope="module")
def slides(root):
    return tool(root, "slides")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "notebooks").mkdir()
    for name, number in {"00_start": 0, "02_mri": 2}.items():
        notebook = executed(number, "MRI & more")
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    return folder


def test_a_deck_has_title_figures_questions_and_takeaways_in_order(slides):
    notebook = executed(2, "MRI")
    notebook.cells.insert(7, code("two()", picture(), picture()))
    made = slides.slides_of(notebook)
    assert [heading for heading, _ in made] == ["2. MRI", *["The idea"] * 3, "Check your understanding", "Takeaways"]
    assert "<li>see</li>" in made[0][1] and made[1][1].count(PIXEL) == 1
    assert 'alt="The idea. Streaks at the edge."' in made[1][1] and "<p>Streaks at the edge.</p>" in made[1][1]


def test_a_sentence_that_announces_numbers_is_not_on_a_slide(slides):
    for text, kept in (("One. Two (x; y):", "One."), ("Is it? By arm:", "Is it?"), ("By arm:", ""), ("One: two.",) * 2):
        assert slides.ANNOUNCED.sub("", text) == kept


def test_neither_holds_code_or_answers_and_nothing_is_fetched(slides, run, tmp_path):
    for sheet in (False, True):
        made = slides.write(run, tmp_path / str(sheet), sheet=sheet)
        assert [path.name for path in made] == ["00_start.html", "02_mri.html"]
        for path in made:
            text = path.read_text(encoding="utf-8")
            for held in ("run.figure", "assert 2", "Because.", "Possible answer", "said\n", "overrides"):
                assert held not in text, held
            assert "Which is larger?" in text and "MRI &amp; more" in text
            assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", text)
            assert all(address.startswith("data:") for address in re.findall(r'<img[^>]* src="([^"]*)"', text))


def test_a_sheet_has_formulas_tables_and_room_to_write(slides):
    text = slides.page_of(executed(2, "MRI"), sheet=True)
    assert text.count("<math") == 2 and "<table>" in text and text.count(PIXEL) == 1, "the solution's picture is out"
    assert text.count('<p class="room">') == 2 * 4, "one for the solution, one for the folded answer"


def test_what_was_not_run_is_named(slides, run, tmp_path, capsys):
    assert len(slides.write(run, tmp_path, ["02"])) == 1
    with pytest.raises(FileNotFoundError, match="notebook 07 executed in .*run the series first"):
        slides.write(run, tmp_path, ["02", "07"])
    with pytest.raises(FileNotFoundError, match="no notebook executed"):
        slides.write(tmp_path, tmp_path / "out")
    assert slides.main(["tutorail"]) == 1 and "did you mean 'tutorial'" in capsys.readouterr().err


@pytest.mark.browser
def test_keys_turn_the_slides_and_nothing_leaves_the_page(slides, run, tmp_path):
    from browser_tools import Page, require_browser

    require_browser()
    from selenium.webdriver.common.keys import Keys

    (path,) = slides.write(run, tmp_path, ["02"])
    page = Page(1000, 700)
    try:
        page.open(path.as_uri())
        body = page.script("return document.body")  # `first` would scroll to its middle
        top = lambda: round(page.script("return scrollY / innerHeight"))
        for keys, place in ((Keys.ARROW_RIGHT, 1), (Keys.PAGE_DOWN, 2), (Keys.ARROW_LEFT, 1), (Keys.END, 3)):
            page.press(body, keys)
            page.wait(lambda place=place: top() == place, f"slide {place} did not come", 10)
        fits = "return [...document.querySelectorAll('section')].every(s => s.scrollHeight <= innerHeight + 1)"
        assert page.script(fits) and not page.severe()
        assert (
            page.script("return performance.getEntriesByType('resource').filter(r => !/^data:/.test(r.name)).length")
            == 0
        )
    finally:
        page.close()
