"""Sphinx's settings. `book.json` beside this file is written by tools/book.py; nothing here needs the network."""

import json
import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

facts = json.loads((Path(__file__).parent / "book.json").read_text())

project = "fairrecon"
author = copyright = "The fairrecon authors"
version = release = facts["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_static", "extra", "jupyter_execute", "**.ipynb_checkpoints"]
html_theme = "sphinx_book_theme"
html_title = "fairrecon"
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["book.css"]
html_context = {"default_mode": "light"}
html_math_renderer = "mathml"
html_show_search_summary = False  # a page opened as a file may not fetch others

nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
default_role = "code"
napoleon_use_param = False  # types are prose here, not names to be looked up
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme_options = {
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands in the side bar
    "use_download_button": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if facts["profile"] == "smoke":
    html_theme_options["announcement"] = "Smoke run: everything ran, as small as it goes. The numbers mean nothing."
elif facts["simulated"]:
    html_theme_options["announcement"] = "Simulated patients: these numbers say nothing about real people or scanners."
if facts["repository"]:
    html_theme_options |= {
        "repository_url": facts["repository"],
        "repository_branch": "main",
        "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }


def mathml(tex: str, display: str) -> str:
    """A formula as MathML, which browsers draw and read aloud by themselves; an unknown command stops the build."""
    text = convert(tex, display=display)
    unknown = re.findall(r"<mi>(\\\w+|&)</mi>", text)
    if unknown:
        raise ValueError(f"the formula {tex!r} has {unknown[0]!r}, which cannot be written as MathML: rephrase it")
    return text


def visit_inline(self, node):
    """Formula within a line."""
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(self, node):
    """Formula on its own line, which scrolls by itself on a narrow screen."""
    self.body.append(f'<div class="formula" tabindex="0">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def escape(app, what, name, obj, options, lines):
    """Docstrings as they are written here: |x|, y_<task> and * mean themselves, an indented drawing stays a drawing."""
    kept, drawing = [], False
    for line in lines:
        before = kept[-1] if kept else ""
        indented = line.startswith("    ")
        if what == "module" and indented and not before.strip() and not drawing:
            announced = next((text for text in reversed(kept) if text.strip()), "").endswith("::")
            kept += [] if announced else ["::", ""]
            drawing = True
        elif what == "module" and line and not line[0].isspace():
            drawing = False
            if before.startswith(" "):
                kept.append("")
        plain = drawing or line.lstrip().startswith((">>>", "...")) or re.fullmatch(r"\s*-+\s*", line)
        kept.append(line if plain else escaped(line))
    lines[:] = kept


def escaped(line: str) -> str:
    """A line whose signs, outside of `code`, are no markup."""
    parts = re.split(r"(``?[^`]+``?)", line)
    parts[::2] = [re.sub(r"[|*]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def without_links(app, what, name, obj, options, lines):
    """Types of attributes are prose here, not names to be looked up."""
    lines[:] = [re.sub(r"^(\s*):type: (.+)$", r"\1(\2)", line) for line in lines]


def setup(app):
    """Our formulas, and docstrings as they are written here."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("autodoc-process-docstring", escape, priority=100)  # napoleon has 500
    app.connect("autodoc-process-docstring", without_links, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
