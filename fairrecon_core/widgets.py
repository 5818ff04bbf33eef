"""Sliders around plain functions.

A widget raises in silence when nobody watches it, so each one wraps a plain function `draw(**values) -> Figure` that
a notebook calls once in the cell before. `slider_image` redraws one picture in place (no flicker, one redraw when the
slider is released or stepped by key); `frames_slider` draws every picture beforehand and still moves on a page
without a kernel.
"""

import html
import json
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from itertools import count

import ipywidgets
from IPython.display import HTML
from matplotlib.figure import Figure

UNITS = {"photon_count": "photons", "age_years": "years", "acceleration": "R"}
_serial = count(1)


def png(figure: Figure, dpi: int = 80) -> bytes:
    """The figure as PNG bytes at `dpi` dots per inch."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def slider_image(
    draw: Callable[..., Figure], *, start: dict | None = None, labels: dict | None = None, dpi: int = 80, **arguments
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
    **arguments
        A list gives a slider over its values, a tuple a drop-down menu, a bool a check box; anything else is handed
        to `draw` unchanged.

    Returns
    -------
    VBox
        Its children are the controls and, last, the picture; `box.controls` maps names to controls.

    Raises
    ------
    ValueError
        If a list or tuple is empty, or a start value is not among the values.
    """
    controls = {
        name: _control(name, values, (start or {}).get(name), (labels or {}).get(name))
        for name, values in arguments.items()
        if isinstance(values, list | tuple | bool)
    }
    fixed = {name: value for name, value in arguments.items() if name not in controls}

    def redraw(change=None):
        return png(draw(**fixed, **{name: control.value for name, control in controls.items()}), dpi)

    picture = ipywidgets.Image(value=redraw(), format="png")
    picture.layout.max_width = "100%"

    def update(change):
        picture.value = redraw()

    for control in controls.values():
        control.observe(update, names="value")
    box = ipywidgets.VBox([*controls.values(), picture])
    box.controls, box.picture = controls, picture
    return box


def _control(name: str, values, start, label: str | None):
    """One labelled control: check box for a bool, drop-down for a tuple, slider for a list."""
    label = label or name.replace("_", " ") + (f" ({UNITS[name]})" if name in UNITS else "")
    look = {"description": label, "style": {"description_width": "11em"}, "layout": {"width": "32em"}}
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
    label = html.escape(name.replace("_", " "))
    return HTML(
        f'<div id="{key}" class="frames-slider"><label>{label} '
        f'<input type="range" min="0" max="{len(values) - 1}" value="0" aria-valuetext="{texts[0]}"></label> '
        f'<output>{texts[0]}</output><br><img alt="{html.escape(alt)}" src="{frames[0]}"></div>'
        f'<script>(() => {{ const box = document.getElementById("{key}"), input = box.querySelector("input");'
        f"const frames = {json.dumps(frames)}, texts = {json.dumps(texts)};"
        'input.oninput = () => { box.querySelector("img").src = frames[input.value];'
        'box.querySelector("output").value = texts[input.value];'
        'input.setAttribute("aria-valuetext", texts[input.value]); }; })();</script>'
    )
