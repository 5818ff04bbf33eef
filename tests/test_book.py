"""The book: it builds without a warning, needs no network and no kernel, and every picture has words."""

import base64
import importlib.util
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fairrecon_lab.widgets import frames_slider

for package in ("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'fairrecon[book]'")

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("book_tool", ROOT / "tools" / "book.py")
book = importlib.util.module_from_spec(spec)
sys.modules["book_tool"] = book
spec.loader.exec_module(book)

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da63f8ffff3f0005fe02fe"
        "dccc59e70000000049454e44ae426082"
    )
).decode()
HEAD = (
    "# {n}. {title}\n- **You will** see\n"
    "- **Time** 2 min, **memory** 700 MB (tutorial); **needs** 01; **makes** nothing\n"
    "- **In the paper** Sec. 2.1, Fig. 2"
)
REPOSITORY = "https://github.com/someone/fairrecon"


def code(source, *outputs, tags=()):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags), "papermill": {"duration": 1.0}})


def picture():
    return new_output("execute_result", {"image/png": PIXEL, "text/plain": "<Figure>"}, execution_count=1)


def executed(number, title):
    """An executed notebook with all that ours hold: formula, table, figure, slider, exercise, moving pictures."""
    state = {
        "box": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_image"]}},
        "slider": {"model_name": "SelectionSliderModel",
                   "state": {"description": "acceleration (R)", "_options_labels": ["4", "8"], "index": 1}},
        "image": {"model_name": "ImageModel", "state": {},
                  "buffers": [{"path": ["value"], "encoding": "base64", "data": PIXEL}]},
    }  # fmt: skip
    slider = new_output("execute_result", {book.VIEW: {"model_id": "box"}, "text/plain": "VBox()"}, execution_count=2)
    moving = frames_slider(lambda level: Figure(figsize=(1, level)), "level", [1, 2], alt="a taller figure").data
    html = new_output("display_data", {"text/html": "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"})
    cells = [
        new_markdown_cell(HEAD.format(n=number, title=title)),
        code('profile = "tutorial"\noverrides = {}', tags=["parameters"]),
        code('profile = "secret"', tags=["injected-parameters"]),
        new_markdown_cell(
            "## The idea\nA rate $p_g$ of a group:\n\n$$\\mathrm{TPR}_g = \\frac{a}{b}$$\n\nWords before."
        ),
        code('print("said")', new_output("stream", name="stdout", text="said\n"), html),
        new_markdown_cell("**What to look for:** streaks at the *edge*."),
        code('run.figure(draw(), "one")', picture()),
        code("slider_image(draw)", slider, tags=["widget"]),
        code("frames_slider(draw)", new_output("display_data", {"text/html": moving})),
        new_markdown_cell("## Check your understanding\nWhich is larger? See [notebook 00](00_start.ipynb)."),
        code("assert 2 > 1", picture(), tags=["solution"]),
        new_markdown_cell(
            "Why?\n\n<details><summary>Possible answer</summary>\nBecause.\n</details>\n\n## Takeaways\n- it"
        ),
    ]
    metadata = book.KERNEL | {"papermill": {"input_path": "/somewhere"}, "widgets": {book.STATE: {"state": state}}}
    return new_notebook(cells=cells, metadata=nbformat.from_dict(metadata))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with two executed notebooks."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "notebooks").mkdir()
    for name, notebook in {"00_start": executed(0, "Start"), "02_mri": executed(2, "MRI")}.items():
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    costs = {"02_mri": {"wall_s": 12.3, "peak_memory_mb": 456}}
    (folder / "run.json").write_text(json.dumps({"profile": "tutorial", "notebooks": costs}))
    (folder / "report.html").write_text("<!doctype html><title>Run report</title><p>said</p>")
    return folder


@pytest.fixture(scope="module")
def site(run, tmp_path_factory):
    """The built site, with two rooms of the core that load quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "repository", lambda: REPOSITORY)
        return book.build(run, tmp_path_factory.mktemp("book"), rooms=("settings", "tables")).parent


class Tags(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, path):
        super().__init__()
        self.tags = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


# the site (that it builds at all means: no warning)


def test_it_has_the_guides_the_notebooks_the_key_and_the_reference(site):
    for name in ("index", "getting_started", "teachers_guide", "glossary", "unfit", "answer_key", "search", "report",
                 "notebooks/00_start", "notebooks/02_mri", "api/index", "api/tables"):  # fmt: skip
        assert (site / f"{name}.html").exists(), name


def test_nothing_is_loaded_from_elsewhere(site):
    for path in pages(site):
        for tag, attributes in Tags(path).tags:
            loads = [attributes.get("src")] + [attributes.get("href")] * (tag == "link")
            foreign = [url for url in loads if url and re.match(r"(https?:)?//", url)]
            assert not foreign, f"{path.name}: {tag} {foreign}"
    for path in site.rglob("*.css"):
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", path.read_text(encoding="utf-8")), path.name


def test_every_picture_has_words(site):
    n = 0
    for path in pages(site):
        for image in Tags(path).of("img"):
            n += 1
            assert image.get("alt", "").strip(), f"{path.name}: {image.get('src', '')[:80]}"
            assert not image["alt"].endswith(".png"), "a file name is no description"
    assert n >= 2 * 4 + 1
    figures = [image["alt"] for image in Tags(site / "notebooks/02_mri.html").of("img")]
    assert figures.count("The idea. Streaks at the edge.") == 2  # the figure and the slider's picture


def test_formulas_are_mathml_and_need_no_script(site):
    text = (site / "notebooks/02_mri.html").read_text(encoding="utf-8")
    assert text.count("<math") == 2 and "<mfrac>" in text
    scripts = [script.get("src") or "" for script in Tags(site / "notebooks/02_mri.html").of("script")]
    assert scripts and not any("mathjax" in script.lower() for script in scripts)


def test_a_slider_without_a_kernel_is_its_picture_and_says_what_it_would_do(site):
    text = (site / "notebooks/02_mri.html").read_text(encoding="utf-8")
    assert "Open the notebook to move: acceleration (R) = 8 (or 4)." in text
    assert "widget-view" not in text and "require.js" not in text and "VBox()" not in text


def test_solutions_are_folded_in_the_notebook_and_open_in_the_key(site):
    page, key = ((site / f"{name}.html").read_text(encoding="utf-8") for name in ("notebooks/02_mri", "answer_key"))
    folded = page[page.index("Which is larger?") :]
    assert "<details" in folded[: folded.index("assert")]
    plain = re.sub(r"<[^>]+>", "", key)
    assert plain.count("Which is larger?") == 2 and plain.count("assert 2 &gt; 1") == 2 and "Possible answer" in plain
    assert key.count("<details open>") == 2 and "Takeaways" not in plain and 'href="notebooks/02_mri.html"' in key


def test_what_only_this_machine_is_concerned_with_is_gone(site):
    everything = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.ipynb*"))
    assert everything and "/somewhere" not in everything and "duration" not in everything
    assert "secret" not in (site / "notebooks/02_mri.html").read_text(encoding="utf-8")


def test_the_launch_button_opens_the_notebook_where_a_repository_is_named(site):
    links = [link.get("href", "") for link in Tags(site / "notebooks/02_mri.html").of("a")]
    wanted = "https://mybinder.org/v2/gh/someone/fairrecon/main?urlpath=lab/tree/notebooks/02_mri.ipynb"
    assert wanted in links


def test_every_page_offers_its_notebook_whose_first_cell_installs(site):
    for name in ("00_start", "02_mri"):
        page = site / "notebooks" / f"{name}.html"
        links = [link.get("href", "") for link in Tags(page).of("a")]
        (offered,) = {link for link in links if link.endswith(f"{name}.ipynb") and "://" not in link}
        notebook = nbformat.read((page.parent / offered).resolve(), as_version=4)
        title, first = notebook.cells[0].source, notebook.cells[1].source
        compile(first, name, "exec")
        assert f'"{REPOSITORY}"' in first and "pip" in first and "find_spec" in first
        assert "find_spec" not in page.read_text(encoding="utf-8"), "it is not shown on the page"
        assert title.startswith("# ") and "find_spec" not in "".join(cell.source for cell in notebook.cells[2:])


def test_every_page_opens_its_notebook_on_colab_where_a_repository_is_named(site):
    links = [link.get("href", "") for link in Tags(site / "notebooks/02_mri.html").of("a")]
    assert "https://colab.research.google.com/github/someone/fairrecon/blob/main/notebooks/02_mri.ipynb" in links


def test_without_a_repository_nothing_is_installed_and_with_one_once():
    count = lambda notebook: sum("find_spec" in cell.source for cell in notebook.cells)
    assert count(book.installing(executed(2, "MRI"), "")) == 0
    named = book.installing(executed(2, "MRI"), REPOSITORY)
    assert count(named) == 1 and count(book.installing(named, REPOSITORY)) == 1, "a source may have it already"


def test_the_explorer_is_offered_where_all_cohorts_are_simulated(tmp_path):
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    offered = lambda: "explorer.html" in book.with_links(index, {}, tmp_path, {"profile": "smoke"})
    assert not offered(), "no cohort: nothing to draw"
    for name, facts in (("brain", {"simulator_version": 1}), ("mine", {})):
        (tmp_path / "cohorts" / name).mkdir(parents=True)
        (tmp_path / "cohorts" / name / "cohort.json").write_text(json.dumps(facts))
        assert offered() == (name == "brain"), "never an image of a real patient"


def test_the_search_index_knows_words_of_guides_notebooks_and_docstrings(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for word in ("binder", "streak", "parquet"):
        assert f'"{word}"' in index or f"{word}:" in index, word


def test_the_guides_link_the_notebooks_that_exist_and_name_those_that_do_not(site):
    text = (site / "teachers_guide.html").read_text(encoding="utf-8")
    assert 'href="notebooks/02_mri.html"' in text and "[[" not in text
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "2 min, 700 MB (tutorial)" in plain and "12 s, 456 MB" in plain


@pytest.mark.series
def test_every_docstring_of_the_core_can_be_read_as_a_page(run, tmp_path):
    page = book.build(run, tmp_path)
    for name in ("audit", "degrade", "reconstruct", "simulate", "steps"):
        assert (page.parent / "api" / f"{name}.html").exists()


# its parts


def test_a_warning_of_sphinx_stops_the_build_and_is_shown(run, tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "conf.py").write_text("")
    (tmp_path / "book" / "index.rst").write_text("Title\n=====\n\nSee :doc:`nowhere`.\n")
    monkeypatch.setattr(book, "BOOK", tmp_path / "book")
    monkeypatch.setattr(book, "repository", lambda: "")
    with pytest.raises(RuntimeError, match=r"(?s)has warnings.*nowhere"):
        book.build(run, tmp_path / "out", rooms=())


def test_a_run_without_notebooks_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the series first"):
        book.build(tmp_path, tmp_path / "book")


def test_what_the_run_lacks_is_run_first(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "tiny.yml").write_text("seed: 3\n")
    (tmp_path / "notebooks" / "00_start.ipynb").write_text("{}")
    monkeypatch.setenv("FAIRRECON_HOME", str(tmp_path))
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path / "runs"))
    done = []
    monkeypatch.setattr(book, "run_series", lambda profile: done.append(profile))
    built_with = lambda run, target, answers: done.append((run, target)) or target / "index.html"
    monkeypatch.setattr(book, "build", built_with)
    built = (tmp_path / "runs" / "tiny", tmp_path / "_book" / "tiny")
    assert book.main(["tiny"]) == 0 and done == ["tiny", built]
    (built[0] / "notebooks").mkdir(parents=True)
    (built[0] / "notebooks" / "00_start.ipynb").write_text("{}")
    assert book.main(["tiny"]) == 0 and done == ["tiny", built, built]
    assert book.main(["tinny"]) == 1 and "did you mean 'tiny'" in capsys.readouterr().err


def test_preparing_leaves_the_original_alone():
    notebook = executed(2, "MRI")
    before = nbformat.writes(notebook)
    prepared = book.prepare(notebook)
    assert nbformat.writes(notebook) == before
    assert [output["output_type"] for output in prepared.cells[7].outputs] == ["display_data"] * 2
    assert "widgets" not in prepared.metadata and "papermill" not in prepared.metadata


def test_the_header_of_every_notebook_of_the_series_can_be_read():
    sources = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert sources
    for path in sources:
        says = book.header(nbformat.read(path, as_version=4))
        assert all(says.values()), f"{path.name}: {says}"
        assert (
            re.match(r"[\d.]+ (min|s) to run, about \d+ min to work through$", says["time"]) and "MB" in says["memory"]
        ), says


def test_a_repository_is_taken_from_pyproject_or_left_out(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    monkeypatch.setattr(book, "BOOK", tmp_path / "book")
    assert book.repository() == ""
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n[project.urls]\nRepository = "{REPOSITORY}"\n')
    assert book.repository() == REPOSITORY


def configuration(folder, **facts):
    """Sphinx's settings with facts of one's own."""
    shutil.copy(ROOT / "book" / "conf.py", folder)
    usual = {"profile": "tutorial", "simulated": True, "repository": "", "version": "1", "report": False}
    (folder / "book.json").write_text(json.dumps(usual | facts))
    spec = importlib.util.spec_from_file_location("book_conf", folder / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_banner_and_launch_button_follow_the_run(tmp_path):
    options = configuration(tmp_path).html_theme_options
    assert "Simulated" in options["announcement"] and "launch_buttons" not in options
    assert "mean nothing" in configuration(tmp_path, profile="smoke").html_theme_options["announcement"]
    assert "announcement" not in configuration(tmp_path, profile="nih", simulated=False).html_theme_options


def test_a_formula_that_cannot_be_written_stops_the_build(tmp_path):
    conf = configuration(tmp_path)
    assert "<mfrac>" in conf.mathml(r"\tfrac12", "inline")
    with pytest.raises(ValueError, match="rephrase"):
        conf.mathml(r"\begin{aligned} a &= b \end{aligned}", "block")


def test_docstrings_mean_what_they_say(tmp_path):
    conf = configuration(tmp_path)
    assert conf.escaped("y_ and |real|, `a_` kept") == r"y\_ and \|real\|, `a_` kept"
    lines = ["A drawing:", "", "    a --> b_", "    c", "Next line."]
    conf.escape(None, "module", "m", None, {}, lines)
    assert lines == ["A drawing:", "", "::", "", "    a --> b_", "    c", "", "Next line."]


# in a browser

THEME = """
const still = {textContent: '* { transition: none !important }'};
document.head.append(Object.assign(document.createElement('style'), still));
document.documentElement.dataset.theme = arguments[0];
"""
CONTRAST = """
const light = c => { const p = c.map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 });
  return .2126 * p[0] + .7152 * p[1] + .0722 * p[2] };
const parse = s => { const m = s.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1] };
const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const paper = e => { const all = [];
  for (; e; e = e.parentElement) all.push(parse(getComputedStyle(e).backgroundColor));
  return all.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]) };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = new Set();
for (let node; node = walker.nextNode();) { const e = node.parentElement;
  const seen = e.checkVisibility({opacityProperty: true, visibilityProperty: true}) && !e.closest('math');
  if (!seen || !node.data.trim()) continue;
  const back = paper(e), ink = over(parse(getComputedStyle(e).color), back);
  const [a, b] = [light(ink), light(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) poor.add(ratio.toFixed(2) + ' ' + e.className + ': ' + node.data.trim().slice(0, 40)) }
return [...poor];
"""


@pytest.mark.browser
def test_in_a_browser_pages_are_readable_pictures_move_and_the_search_finds(site):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromedriver"):
        pytest.skip("needs chromium and its driver (apt-get install chromium chromium-driver)")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for name in ("index", "teachers_guide", "glossary", "notebooks/02_mri", "answer_key", "api/tables"):
            driver.get((site / f"{name}.html").as_uri())
            for theme in ("light", "dark"):
                driver.execute_script(THEME, theme)
                assert driver.execute_script(CONTRAST) == [], (name, theme)
        driver.get((site / "notebooks/02_mri.html").as_uri())
        slider = driver.find_element(By.CSS_SELECTOR, ".frames-slider input")
        source = "return document.querySelector('.frames-slider img').src"
        before = driver.execute_script(source)
        slider.send_keys("\ue014")  # the right arrow
        assert driver.execute_script(source) != before
        driver.get((site / "search.html").as_uri() + "?q=spoke")
        found = WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#search-results li a"))
        assert any("glossary" in link.get_attribute("href") for link in found)
        asked = [entry["message"] for entry in driver.get_log("performance") if "requestWillBeSent" in entry["message"]]
        assert asked and not any(re.search(r'"url":"https?://', message) for message in asked)
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
    finally:
        driver.quit()


def test_a_book_without_answers_holds_none(run, tmp_path):
    book.gather(run, tmp_path / "source", rooms=("settings",), answers=False)
    source = tmp_path / "source"
    assert not (source / "answer_key.ipynb").exists() and not (source / "teachers_guide.md").exists()
    for path in (source / "notebooks").glob("*.ipynb"):
        asked = nbformat.read(run / "notebooks" / path.name, as_version=4)
        text = path.read_text(encoding="utf-8")
        solutions = [cell.source for cell in asked.cells if "solution" in cell.metadata.get("tags", [])]
        folded = [m for cell in asked.cells for m in re.findall(r"(?s)</summary>(.*?)</details>", cell.source)]
        assert solutions and folded, "the run of this test has answers to leave out"
        for answer in [*solutions, *(part.strip() for part in folded)]:
            assert json.dumps(answer)[1:-1] not in text, f"{path.name} holds {answer!r}"
        assert "Check your understanding" in text, "the question stays"
    for page in source.glob("*.md"):
        assert not re.search(r"answer[_ ]key|teachers_guide|Teacher's guide", page.read_text(encoding="utf-8")), (
            page.name
        )
