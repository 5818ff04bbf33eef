"""Sliders around plain functions.

A widget raises in silence when nobody watches it, so each one wraps a plain function `draw(**values) -> Figure` that
a notebook calls once in the cell before. `slider_image` redraws one picture in place (no flicker, one redraw when the
slider is released or stepped by key); `frames_slider` draws every picture beforehand and still moves on a page
without a kernel.

For those who do not see the page: ipywidgets gives its sliders no name and reads out the position instead of the
value, and its pictures have no text. `accessible` adds a few lines of script that repair both, and a status line that a
screen reader speaks after every redraw.
"""

import html
import inspect
import json
import os
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from itertools import count, product

import ipywidgets
from IPython.display import HTML
from matplotlib.figure import Figure

LABELS = {"photon_count": "photons per bin", "age_years": "age (years)", "acceleration": "acceleration (R)"}
_serial = count(1)
GRID = 12  # pictures of a slider in the book that are drawn for every combination
DRAWN = """
(() => {
  const box = document.getElementById("%(key)s"), facts = %(facts)s, image = box.querySelector("img");
  const inputs = [...box.querySelectorAll("input")];
  const show = moved => {
    if (!(inputs.map(input => input.value).join() in facts.frames))
      inputs.forEach((input, i) => { if (input !== moved) input.value = facts.start[i]; });
    const said = inputs.map(input => {
      const text = JSON.parse(input.dataset.texts)[input.value];
      input.setAttribute("aria-valuetext", text);
      input.closest("div").querySelector("output").value = text;
      return text;
    });
    image.src = facts.frames[inputs.map(input => input.value).join()];
    image.alt = facts.alt + " " + said.join("; ");
  };
  for (const input of inputs) {
    input.oninput = () => show(input);
    input.onkeydown = event => event.stopPropagation();
  }
})();
"""

# Runs where the widget is shown. A slider's handle gets its label's text as name and its readout as value, a menu and a
# check box get a name, a picture gets the words of the status line; observers keep them so. What wants them is looked
# up again whenever the box changes, because the front end draws the parts one after the other.
ARIA = """
(() => {
  const box = document.getElementById("%s").closest(".fairrecon-controls");
  const say = (part, name, value) => { if (part.getAttribute(name) !== value) part.setAttribute(name, value); };
  const name = () => {
    for (const label of box.querySelectorAll("label.widget-label, .widget-checkbox .widget-label-basic")) {
      const control = label.closest(".widget-slider, .widget-dropdown, .widget-checkbox");
      if (!control) continue;
      const readout = control.querySelector(".widget-readout");
      for (const part of control.querySelectorAll("[role=slider], select, input")) {
        say(part, "aria-label", label.innerText.trim());
        if (readout) say(part, "aria-valuetext", readout.innerText.trim());
      }
      if (readout) say(readout, "aria-label", label.innerText.trim() + ", value");
    }
    const status = box.querySelector("[role=status]");
    for (const image of box.querySelectorAll("img.widget-image")) if (status) say(image, "alt", status.textContent);
  };
  new MutationObserver(name).observe(box, {subtree: true, childList: true, characterData: true,
    attributes: true, attributeFilter: ["aria-valuetext", "src"]});
  name();
  box.addEventListener("keydown", event => {  // else JupyterLab takes arrows and letters for itself
    const forLab = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    if (!forLab) event.stopPropagation();
  });
})();
"""


def png(figure: Figure, dpi: int = 80) -> bytes:
    """The figure as PNG bytes at `dpi` dots per inch."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def slider_image(
    draw: Callable[..., Figure],
    *,
    start: dict | None = None,
    labels: dict | None = None,
    dpi: int = 80,
    alt: str = "",
    **arguments,
) -> ipywidgets.VBox:
    """Controls above one picture that is redrawn in place.

    Parameters
    ----------
    draw : callable
        `draw(**values) -> Figure`; a plain function, called once in the cell before.
    start : dict, optional
        First value of a control; otherwise the first of its values.
    labels : dict, optional
        Text beside a control; otherwise the argument's name and unit.
    dpi : int
        Resolution of the picture.
    alt : str
        What the picture shows, for those who do not see it; otherwise the first line of `draw`'s docstring. The values
        of the controls are added to it.
    **arguments
        A list gives a slider over its values, a tuple a drop-down menu, a bool a check box; anything else is handed
        to `draw` unchanged.

    Returns
    -------
    VBox
        Its children are the controls, a status line and, last, the picture; `box.controls` maps names to controls.

    Raises
    ------
    ValueError
        If a list or tuple is empty, or a start value is not among the values.
    """
    controls = {
        name: labelled_control(name, values, (start or {}).get(name), (labels or {}).get(name))
        for name, values in arguments.items()
        if isinstance(values, list | tuple | bool)
    }
    fixed = {name: value for name, value in arguments.items() if name not in controls}
    shows = alt or (inspect.getdoc(draw) or "A figure.").splitlines()[0]

    def redraw():
        return png(draw(**fixed, **{name: control.value for name, control in controls.items()}), dpi)

    picture, status = ipywidgets.Image(value=redraw(), format="png"), status_line()
    picture.layout.max_width, picture.layout.align_self = "100%", "flex-start"  # never blown up

    def update(change):
        try:
            picture.value = redraw()
        except Exception as error:
            status.show(f"This picture could not be drawn ({error}); the one below is the one before.")
            raise
        status.say(_in_words(shows, controls))

    for control in controls.values():
        control.observe(update, names="value")
    status.say(_in_words(shows, controls))
    frozen = []
    if os.environ.get("FAIRRECON_DRAWN"):  # the runner asks for it: the book shows this where no kernel answers
        page = drawn_page(draw, controls, fixed, shows, min(dpi, 70))
        frozen = [ipywidgets.HTML(page, layout={"display": "none"})]
    box = accessible([*controls.values(), status, *frozen, picture])
    box.controls, box.picture, box.status = controls, picture, status
    return box


def drawn_page(draw: Callable[..., Figure], controls: dict, fixed: dict, alt: str, dpi: int = 70) -> str:
    """The controls of `slider_image` in plain HTML over pictures drawn beforehand: they move with no kernel.

    Up to `GRID` combinations are all drawn. Of more, only those in which one control differs from its first value:
    moving a control then puts the others back.

    Parameters
    ----------
    draw, fixed
        The function, and its arguments that no control sets.
    controls : dict
        Widgets by argument, at their first values.
    alt : str
        What the picture shows; the values are added to it.
    dpi : int
        Resolution of the pictures.
    """
    options = {name: _options(control) for name, control in controls.items()}
    start = tuple([v for _, v in options[name]].index(control.value) for name, control in controls.items())
    every = list(product(*(range(len(choices)) for choices in options.values())))
    whole = len(every) <= GRID
    places = every if whole else [p for p in every if sum(a != b for a, b in zip(p, start)) <= 1]
    frames = {}
    for place in places:
        values = {name: options[name][i][1] for name, i in zip(options, place)}
        picture = b64encode(png(draw(**fixed, **values), dpi)).decode()
        frames[",".join(map(str, place))] = f"data:image/png;base64,{picture}"
    key, first = f"drawn-{next(_serial)}", ",".join(map(str, start))
    lines = [
        _plain_control(controls[name].description, choices, i) for (name, choices), i in zip(options.items(), start)
    ]
    note = (
        ""
        if whole
        else "<p><small>Moving one control puts the others back; the notebook has all combinations.</small></p>"
    )
    facts = json.dumps({"frames": frames, "start": start, "alt": alt}).replace("</", "<\\/")
    return (
        f'<div id="{key}" class="drawn-slider">{"".join(lines)}{note}'
        f'<img alt="{html.escape(alt)}" src="{frames[first]}" style="max-width:100%"></div>'
        f"<script>{DRAWN % {'key': key, 'facts': facts}}</script>"
    )


def _options(control) -> list:
    """Texts and values that a control can take."""
    return list(control.options) if hasattr(control, "options") else [("no", False), ("yes", True)]


def _plain_control(label: str, choices: list, place: int) -> str:
    """A range with its readout, whatever the widget was: it moves by mouse and key."""
    texts = html.escape(json.dumps([text for text, _ in choices]), quote=True)
    said = html.escape(choices[place][0])
    return (
        f'<div><label>{html.escape(label)} <input type="range" min="0" max="{len(choices) - 1}" step="1" '
        f'value="{place}" data-texts="{texts}" aria-valuetext="{said}"></label> <output>{said}</output></div>'
    )


def accessible(children: list, kind: type = ipywidgets.VBox) -> ipywidgets.Box:
    """A box around `children` whose controls and pictures have names that a screen reader speaks.

    Parameters
    ----------
    children : list of Widget
        Boxes inside it count; the last one stays last.
    kind : type
        VBox or HBox.

    Returns
    -------
    Box
        With one more child before the last, which holds nothing to see.
    """
    key = f"fairrecon-aria-{next(_serial)}"
    script = f'<i id="{key}"></i><script>{ARIA % key}</script>'
    shown = {"output_type": "display_data", "data": {"text/html": script, "text/plain": ""}, "metadata": {}}
    helper = ipywidgets.Output(outputs=(shown,), layout={"height": "0", "margin": "0", "overflow": "hidden"})
    box = kind([*children[:-1], helper, children[-1]])
    box.add_class("fairrecon-controls")
    return box


def status_line() -> ipywidgets.HTML:
    """A line that screen readers speak when it changes: `say(text)` unseen, `show(text)` for everybody."""
    line = ipywidgets.HTML(layout={"margin": "0"})
    unseen = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"

    def put(text, style):
        line.value = f'<span role="status" style="{style}">{html.escape(text)}</span>'

    line.say = lambda text: put(text, unseen)
    line.show = lambda text: put(text, "color:#A40000;font-weight:bold")
    return line


def _in_words(shows: str, controls: dict) -> str:
    """What is shown, and at which values."""
    values = [f"{control.description}: {_text(control.value)}" for control in controls.values()]
    return f"{shows} {'; '.join(values)}".strip()


def labelled_control(name: str, values, start=None, label: str | None = None, **look):
    """One labelled control: a check box for a bool, a drop-down menu for a tuple, a slider for a list.

    Parameters
    ----------
    name : str
        Of the argument; with its unit it is the label, unless `label` is given.
    values : bool, tuple or list
    start : optional
        The first value to show.
    label : str, optional
    **look
        Traits of the widget, such as `layout` and `style`.

    Raises
    ------
    ValueError
        Nothing to choose from, or a start that is not among the values.
    """
    label = label or _label(name)
    look = {"style": {"description_width": "11em"}, "layout": {"width": "32em"}} | look
    look |= {"description": label, "tooltip": label}  # without a tooltip the front end writes "null"
    if isinstance(values, bool):
        return ipywidgets.Checkbox(value=values, indent=True, **look)
    if not values:
        raise ValueError(f"the control {name!r} has no values to choose from")
    start = values[0] if start is None else start
    if start not in values:
        raise ValueError(f"the control {name!r} cannot start at {start!r}; choose one of {list(values)}")
    options = [(_text(value), value) for value in values]
    kind = ipywidgets.Dropdown if isinstance(values, tuple) else ipywidgets.SelectionSlider
    extra = {} if isinstance(values, tuple) else {"continuous_update": False}
    return kind(options=options, value=start, **extra, **look)


def _label(name: str) -> str:
    """The name of an argument as a reader wants it, with its unit where it has one."""
    return LABELS.get(name, name.replace("_", " "))


def _text(value) -> str:
    """A value as a reader wants it: thousands separated, no needless decimals."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
    return str(value)


def frames_slider(draw: Callable[..., Figure], name: str, values: list, *, alt: str, dpi: int = 70, **fixed) -> HTML:
    """Pictures drawn beforehand with a slider in plain HTML: it moves on a published page, with no kernel.

    Parameters
    ----------
    draw : callable
        `draw(**{name: value}, **fixed) -> Figure`.
    name : str
        The argument that the slider varies.
    values : list
        Five to eight values; every picture is embedded in the page.
    alt : str
        Text for readers who do not see the picture.
    dpi : int
        Resolution; 70 keeps six pictures below one megabyte.
    **fixed
        Other arguments of `draw`.

    Raises
    ------
    ValueError
        If `values` is empty.
    """
    if not values:
        raise ValueError(f"frames_slider needs at least one value of {name!r}")
    frames = [
        "data:image/png;base64," + b64encode(png(draw(**{name: value}, **fixed), dpi)).decode() for value in values
    ]
    texts, key = [_text(value) for value in values], f"frames-{next(_serial)}-{name}"
    label = html.escape(_label(name))
    return HTML(
        f'<div id="{key}" class="frames-slider"><label>{label} '
        f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="0" aria-valuetext="{texts[0]}"></label> '
        f"<output>{texts[0]}</output><br>"
        f'<img alt="{html.escape(alt)}" src="{frames[0]}" style="max-width:100%"></div>'
        f'<script>(() => {{ const box = document.getElementById("{key}"), input = box.querySelector("input");'
        f"const frames = {json.dumps(frames)}, texts = {json.dumps(texts)};"
        "input.onkeydown = event => event.stopPropagation();"  # else JupyterLab takes the arrow keys for itself
        'input.oninput = () => { box.querySelector("img").src = frames[input.value];'
        'box.querySelector("output").value = texts[input.value];'
        'input.setAttribute("aria-valuetext", texts[input.value]); }; })();</script>'
    )
