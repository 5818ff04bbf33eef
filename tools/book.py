"""Build the book: the executed notebooks of a run, the guides of book/, and the API, as a site that works offline.

    python tools/book.py [profile] [--out FOLDER] [--no-answers]

The site is FOLDER/html, by default in _book/<profile>/. `--no-answers` leaves out solutions, folded answers, the answer
key and the teacher's guide: a book to hand out. Notebooks that the run lacks are run first. No notebook is executed
here: the site shows what the run gave. A slider moves over pictures that the run drew beforehand; where a run has none,
its last picture stands in for it. Only the explorer's page is drawn here (simulated patients; two minutes). Any warning
of Sphinx is an error.
"""

import argparse
import copy
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

import fairrecon_core
import fairrecon_lab
from fairrecon_core.settings import load_settings, project_folder
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_lab import plots
from fairrecon_lab.classroom import install
from fairrecon_lab.explorer.still import write_still
from fairrecon_lab.report import cell_texts

BOOK = Path(__file__).resolve().parents[1] / "book"
ROOMS = ("settings", "tables", "columns", "measures", "cohort", "degrade", "learn", "reconstruct", "predict", "audit",
         "steps", "simulate", "paper", "analysis", "plots", "widgets", "explorer", "report", "runner")  # fmt: skip
LEFT_OUT = {"cli"}
VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
DETAILS = re.compile(r"<details>\s*<summary>(?:<b>)?(.*?)</summary>.*?</details>", re.S)
# what the first page says of teaching: a row of its table, and two pages of its contents
TEACHING = re.compile(r"^\* - teach\n  - .*\n|^teachers_guide\n|^answer_key\n", re.M)
WORD = re.compile(r'\[([^\]]+)\]\(\.\./book/glossary\.md "([^:"]+): [^"]*"\)')  # a link that tools/pairs.py made
HEADER = {"time": "Time", "memory": "memory", "needs": "needs", "makes": "makes", "paper": "In the paper"}


def main(argv: list[str] | None = None) -> int:
    """Build the book of a profile; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile", nargs="?", default="tutorial")
    options.add_argument("--out", type=Path, help="where the site goes")
    options.add_argument("--no-answers", action="store_true", help="a book for learners: no solutions, no answer key")
    chosen = options.parse_args(argv)
    try:
        profile = load_settings(chosen.profile).profile
        run = run_folder(profile, {})
        sources = sorted((project_folder() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
        if missing := [path.name for path in sources if not (run / "notebooks" / path.name).exists()]:
            print(f"the run lacks {', '.join(missing)}: running the series first")
            run_series(chosen.profile)
        name = f"{profile}-no-answers" if chosen.no_answers else profile
        page = build(run, chosen.out or project_folder() / "_book" / name, answers=not chosen.no_answers)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the book is in {os.path.relpath(page)}")
    return 0


def run_series(profile: str) -> None:
    """The series of a profile; imported late, because papermill takes a second to load."""
    from fairrecon_lab import runner as series

    series.run_series(profile)


def build(run: Path, target: Path, rooms: tuple | None = None, answers: bool = True) -> Path:
    """Build the site of one run.

    Parameters
    ----------
    run : Path
        Folder of a run: `notebooks/`, and as far as there are any `run.json`, `figures/`, `report.html`.
    target : Path
        Gets `source/` (made anew) and `html/`.
    rooms : tuple of str, optional
        Rooms of the core in the API reference; all by default.
    answers : bool
        Whether solutions, folded answers, the answer key and the teacher's guide are in it.

    Returns
    -------
    Path
        `index.html`.

    Raises
    ------
    FileNotFoundError
        The run has no executed notebook.
    RuntimeError
        Sphinx warned; the text holds its warnings.
    """
    source, site = target / "source", target / "html"
    for folder in (source, site):
        shutil.rmtree(folder, ignore_errors=True)
    gather(run, source, rooms, answers)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E"]
    done = subprocess.run(
        [*command, "-d", str(target / "doctrees"), str(source), str(site)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the book has warnings:\n{done.stderr[-6000:]}")
    return site / "index.html"


def gather(run: Path, source: Path, rooms: tuple | None = None, answers: bool = True) -> None:
    """Everything that Sphinx reads, in one folder: the guides, the prepared notebooks, and what is made from them."""
    paths = sorted((run / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"no executed notebooks in {run / 'notebooks'}: run the series first")
    shutil.copytree(BOOK, source, ignore=shutil.ignore_patterns("__pycache__"))
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    record = json.loads((run / "run.json").read_text("utf-8")) if (run / "run.json").exists() else {}
    (source / "notebooks").mkdir()
    for name, notebook in notebooks.items():
        ready = prepare(notebook) if answers else unanswered(prepare(notebook))
        nbformat.write(installing(ready, repository()), source / "notebooks" / f"{name}.ipynb")
    if answers:
        nbformat.write(answer_key(notebooks), source / "answer_key.ipynb")
    else:
        (source / "teachers_guide.md").unlink()
        index = source / "index.md"
        index.write_text(TEACHING.sub("", index.read_text("utf-8")), encoding="utf-8")
    for path in source.glob("*.md"):
        path.write_text(with_links(path.read_text("utf-8"), notebooks, run, record), encoding="utf-8")
    write_api(source / "api", rooms)
    picture = run / "figures" / "00_three_images.png"
    if picture.exists():
        shutil.copy(picture, source / "picture.png")
    else:
        stages = {
            "cohort": "who",
            "degrade": "less data",
            "reconstruct": "repair",
            "predict": "read",
            "audit": "compare",
        }
        plots.pipe_figure(stages).savefig(source / "picture.png")
    (source / "extra").mkdir()
    if (run / "report.html").exists():
        shutil.copy(run / "report.html", source / "extra" / "report.html")
    if record.get("profile") and has_explorer(run):
        write_still(Run(run, load_settings(record["profile"])), source / "extra" / "explorer.html")
    facts = {"profile": record.get("profile", run.name), "report": (run / "report.html").exists()}
    facts |= {"repository": repository(), "version": fairrecon_core.__version__, "simulated": simulated(run)}
    (source / "book.json").write_text(json.dumps(facts))


def simulated(run: Path) -> bool:
    """Whether all cohorts of the run were drawn by the simulator."""
    infos = [json.loads(path.read_text("utf-8")) for path in run.glob("cohorts/*/cohort.json")]
    return all("simulator_version" in info for info in infos)


def has_explorer(run: Path) -> bool:
    """Whether the explorer can be drawn: the run has cohorts, all of them simulated."""
    return simulated(run) and any(run.glob("cohorts/*/cohort.json"))


def repository() -> str:
    """The public repository by pyproject's `[project.urls]`; empty while none is named there."""
    return install.repository(BOOK.parent)


# ---------------------------------------------------------------------- notebooks
def prepare(notebook):
    """A copy for the book: pictures with alternative text, sliders as their last picture, solutions folded.

    What only this machine is concerned with (papermill's times and paths, the injected parameters) is removed.
    """
    notebook = copy.deepcopy(notebook)
    models = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    notebook.metadata.pop("papermill", None)
    for cell, (heading, text) in zip(notebook.cells, cell_texts(notebook)):
        tags = set(cell.metadata.get("tags", []))
        folded = {"hide-cell"} if "solution" in tags else {"remove-cell"} if "injected-parameters" in tags else set()
        cell.metadata = nbformat.from_dict({"tags": sorted(tags | folded)})
        if cell.cell_type == "markdown":
            cell.source = WORD.sub(r"{term}`\1 <\2>`", cell.source)
        if cell.cell_type == "code":
            cell.outputs = [part for output in cell.outputs for part in still(output, models)]
            alt = f"{heading}. {text}".strip(" .") + "."
            cell.metadata["mystnb"] = {"image": {"alt": alt if len(alt) > 1 else "Figure of this notebook."}}
    return notebook


def installing(notebook, address: str):
    """The notebook with the cell that installs, not shown on its page, for who downloads it; needs an `address`."""
    for cell in filter(install.is_install, install.with_install(notebook, address).cells):
        cell.metadata["tags"] = [*cell.metadata["tags"], "remove-cell"]
    return notebook


def unanswered(notebook):
    """The notebook without its solutions and folded answers; what they ask stays."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata["tags"]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = DETAILS.sub(lambda found: "" if "nswer" in found[1] else f"**{found[1]}**", cell.source)
    return notebook


def still(output, models: dict) -> list:
    """An output as it can be shown without a kernel: a slider becomes its picture and a line about its controls."""
    view = output.get("data", {}).get(VIEW)
    if view is None:
        return [output]
    parts = list(descend(view["model_id"], models))
    pages = [text for model in parts if 'class="drawn-slider"' in (text := str(model["state"].get("value", "")))]
    if pages:
        return [nbformat.v4.new_output("display_data", {"text/html": page}) for page in pages]
    pictures = [buffer["data"] for model in parts for buffer in model.get("buffers", [])
                if model["model_name"] == "ImageModel" and buffer["path"] == ["value"]]  # fmt: skip
    controls = [said for model in parts if (said := control_text(model["state"]))]
    line = f'<p class="no-kernel">Open the notebook to move: {"; ".join(controls)}.</p>' if controls else ""
    shown = [nbformat.v4.new_output("display_data", {"text/html": line})] if line else []
    return shown + [nbformat.v4.new_output("display_data", {"image/png": data}) for data in pictures]


def descend(identity: str, models: dict):
    """A widget's model and those of its children, in order."""
    model = models.get(identity, {"model_name": "", "state": {}})
    yield model
    for child in model["state"].get("children", []):
        yield from descend(child.removeprefix("IPY_MODEL_"), models)


def control_text(state: dict) -> str:
    """A control in words: its name, the value shown, and the others it has; empty for what is no control."""
    options, place = state.get("_options_labels"), state.get("index")
    if options:
        rest = ", ".join(option for i, option in enumerate(options) if i != place)
        return f"{state.get('description', '')} = {options[place or 0]} (or {rest})"
    return f"{state['description']} = {state['value']}" if state.get("description") and "value" in state else ""


def answer_key(notebooks: dict):
    """One notebook with every exercise: the question, its solution with what it gave, and the folded answers."""
    cells = [nbformat.v4.new_markdown_cell(
        "# Answer key\nMade from the solution cells of the notebooks, with what they gave in this run. "
        "In a notebook a solution is folded; learners see it when they ask for it.")]  # fmt: skip
    for name, notebook in notebooks.items():
        found, question = [], None
        for cell in prepare(notebook).cells:
            if cell.cell_type == "markdown":
                question = cell
                if "<details>" in cell.source:
                    found.append(cell)
            elif "solution" in cell.metadata["tags"]:
                cell.metadata["tags"] = []
                found += [cell] if question is None or question in found else [question, cell]
        if found:
            link = f"[Open the notebook](notebooks/{name}.ipynb)"
            cells += [nbformat.v4.new_markdown_cell(f"## {title(notebook)}\n{link}"), *map(below, found)]
    for i, cell in enumerate(cells):
        cell["id"] = f"answer-{i}"
    return nbformat.v4.new_notebook(cells=cells, metadata=KERNEL)


def below(cell):
    """The cell without what is no exercise: headings a level deeper, folded answers open, links as from the key."""
    cell = copy.deepcopy(cell)
    if cell.cell_type == "markdown":
        text = re.sub(r"(?s).*(?=^## Check your understanding)", "", cell.source, count=1, flags=re.M)
        text = re.split(r"^(?:\*\*Against|## Takeaways)", text, flags=re.M)[0]
        text = re.sub(r"\]\((?=\d\d_\w+\.ipynb\))", "](notebooks/", text)  # the key lies one folder above the notebooks
        cell.source = re.sub(r"^#+ ", "### ", text, flags=re.M).replace("<details>", "<details open>")
    return cell


def title(notebook) -> str:
    """The heading of a notebook."""
    return next(m[1] for cell in notebook.cells if (m := re.match(r"# (.+)", cell.source)))


# ---------------------------------------------------------------------- what the guides leave open
def with_links(text: str, notebooks: dict, run: Path, record: dict) -> str:
    """Fill a guide: `[[04]]` becomes a link where there is such a notebook, `<!-- catalogue -->` the table of all."""
    row = '* - see what this run gave\n  - <a href="report.html">The report of the run</a>, on one page\n'
    text = text.replace("<!-- report -->", row if (run / "report.html").exists() else "")
    row = '* - try it out\n  - <a href="explorer.html">The explorer</a>: one patient, measured less, repaired, read\n'
    text = text.replace("<!-- explorer -->", row if record.get("profile") and has_explorer(run) else "")
    by_number = {name[:2]: name for name in notebooks}

    def link(match):
        name = by_number.get(match[1])
        return f"[{match[1]}](notebooks/{name}.ipynb)" if name else match[1]

    text = re.sub(r"\[\[(\d\d)\]\]", link, text)
    return text.replace("<!-- catalogue -->", catalogue(notebooks, record)).replace(
        "<!-- toc -->", "\n".join(f"notebooks/{name}" for name in notebooks)
    )


def header(notebook) -> dict[str, str]:
    """What the first cell of a notebook says about time, memory, needs, makes, paper; empty where nothing."""
    text = next((cell.source for cell in notebook.cells if cell.source.startswith("# ")), "")
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", re.sub(r"\n +", " ", text))
    return {key: m[1].strip(" ,;") if (m := re.search(rf"\*\*{word}\*\* ([^*\n]+)", text)) else ""
            for key, word in HEADER.items()}  # fmt: skip


def catalogue(notebooks: dict, record: dict) -> str:
    """A table of the notebooks: what each says that it needs, and what it took in this run."""
    rows = ["| notebook | stated | took here | needs | makes | in the paper |", "|---|---|---|---|---|---|"]
    for name, notebook in notebooks.items():
        says, cost = header(notebook), record.get("notebooks", {}).get(name, {})
        took = f"{cost['wall_s']:.0f} s, {cost['peak_memory_mb']} MB" if cost else ""
        stated = ", ".join(filter(None, [says["time"], says["memory"]]))
        cells = [
            f"[{title(notebook)}](notebooks/{name}.ipynb)",
            stated,
            took,
            says["needs"],
            says["makes"],
            says["paper"],
        ]
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def write_api(folder: Path, rooms: tuple | None = None) -> None:
    """One page per room of the core and the lab (or those in `rooms`), in the order of the pipe, and a first page."""
    folder.mkdir()
    modules = {}
    for package in (fairrecon_core, fairrecon_lab):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            modules.setdefault(module.name.split(".")[1], []).append(module.name)
    names = [name for name in ROOMS if name in modules] + sorted(set(modules) - set(ROOMS) - LEFT_OUT)
    names = [name for name in names if rooms is None or name in rooms]
    for name in names:
        page = [name, "=" * len(name), ""]
        for module in sorted(modules[name]):
            heading = [] if module.count(".") == 1 else [module.split(".", 2)[2], "-" * len(module), ""]
            page += [*heading, f".. automodule:: {module}", "   :members:", "   :ignore-module-all:", ""]
        (folder / f"{name}.rst").write_text("\n".join(page) + "\n", encoding="utf-8")
    index = ["API reference", "=============", "",
             "Data flows one way: cohort, degrade, reconstruct, predict, audit. A module imports from earlier ones.",
             "Each page is made from the docstrings.", "",
             ".. autosummary::", "   :nosignatures:", "", *(f"   {min(modules[name], key=len)}" for name in names), "",
             ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), ""]  # fmt: skip
    (folder / "index.rst").write_text("\n".join(index), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
