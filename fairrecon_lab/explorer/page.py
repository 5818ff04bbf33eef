"""The explorer's page: a column of controls, pictures and scores for each modality.

Made for a projector: one screen of 1400 x 900 pixels, text of at least 17 pixels, black or nearly black on white.
Pictures and scores are plain HTML with text for those who do not see them, replaced as one piece, so nothing flickers.
"""

import base64
import html
import math
from io import BytesIO

import ipywidgets
import numpy as np
from matplotlib import colormaps
from PIL import Image

from fairrecon_core.steps.folder import Run
from fairrecon_lab.explorer.scenes import Choice, Scene, View, scenes
from fairrecon_lab.plots import colour_of
from fairrecon_lab.widgets import accessible, labelled_control, status_line

ERROR_LIMIT = 0.3  # of the error map, the same for every image, so that a faint map means a small error
WIDTH = 440  # of the drawing of the scores, in its own units
DARK = "#595959"  # grey text: 7 to 1 against white
STYLE = """<style>
.fairrecon-explorer { --jp-widgets-font-size: 17px; --jp-widgets-inline-height: 34px; color: #000; background: #fff;
  --jp-widgets-label-color: #000; --jp-widgets-readout-color: #000; --jp-ui-font-color1: #000;
  font-family: system-ui, "DejaVu Sans", sans-serif; }
.fairrecon-explorer .noUi-handle:focus, .fairrecon-explorer select:focus { outline: 3px solid #0072B2; }
.fairrecon-explorer .widget-label, .fairrecon-explorer select, .fairrecon-explorer .widget-readout
  { font-size: 17px; color: #000; }
.fairrecon-explorer .widget-readout { min-width: 5em; }
.fairrecon-explorer h2 { font-size: 22px; line-height: 1.2; margin: 2px 0; }
.fairrecon-explorer .fairrecon-patient .widget-readout { min-width: 14em; }
.fairrecon-tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 2px 8px; font-size: 18px;
  line-height: 1.25; padding-right: 8px; color: #000; }
.fairrecon-tiles figure { margin: 0; }
.fairrecon-tiles img { width: 100%; aspect-ratio: 1; display: block; image-rendering: pixelated; }
.fairrecon-tiles figcaption { min-height: 2.5em; }
.fairrecon-scores { grid-column: 2 / span 2; font-size: 17px; }
.fairrecon-scores table { border-collapse: collapse; width: 100%; color: #000; }
.fairrecon-scores th, .fairrecon-scores td { text-align: right; padding: 1px 3px; font-weight: normal; }
.fairrecon-scores th:first-child { text-align: left; }
.fairrecon-scores th[scope=col] { white-space: nowrap; }
.fairrecon-scores svg { vertical-align: middle; }
.fairrecon-scores b { font-size: 19px; }
</style>"""


def explorer(run: Run) -> ipywidgets.Box:
    """The page: one column for MRI, one for X-ray.

    Parameters
    ----------
    run : Run
        Its settings give seed, image size and levels; its weights and thresholds are used where it has them.

    Returns
    -------
    VBox
        `box.columns` maps "mri" and "xray" to a `Column`.
    """
    found = scenes(run)
    columns = {kind: Column([scene for scene in found if scene.modality == kind]) for kind in ("mri", "xray")}
    side_by_side = ipywidgets.HBox(
        [column.box for column in columns.values()], layout={"justify_content": "space-between"}
    )
    box = ipywidgets.VBox([ipywidgets.HTML(STYLE, layout={"height": "0", "margin": "0"}), side_by_side])
    box.add_class("fairrecon-explorer")
    box.columns = columns
    return box


class Column:
    """Controls, pictures and scores of one modality.

    Parameters
    ----------
    found : list of Scene
        The cohorts of the modality; the first is shown first.

    Attributes
    ----------
    controls : dict of name -> Widget
        cohort, task, patient, sex, age_years, race, level, mode, arm, world.
    shown : HTML
        Pictures and scores.
    """

    def __init__(self, found: list[Scene]):
        self.scenes = {scene.name: scene for scene in found}
        scene, self._busy = found[0], False
        self.heading, self.shown, self.status = ipywidgets.HTML(), ipywidgets.HTML(), status_line()
        unit = "R" if scene.modality == "mri" else "photons"
        make = labelled_control
        self.controls = {
            "cohort": make("cohort", tuple(self.scenes), **look(6, 17)),
            "task": make("task", ("",), label="reader's task", **look(8, 24)),
            "patient": make("patient", [0], **look(6, 39)),
            "sex": make("sex", ("recorded",), **look(2.4, 10.4)),
            "age_years": make("age", ["recorded"], label="age (years)", **look(6, 18)),
            "race": make("race", ("recorded",), **look(2.6, 10.6)),
            "level": make("level", [0], label=unit, **look(4.6, 19)),
            "mode": make("mode", ("",), **look(3.4, 10.3)),
            "arm": make("arm", ("",), label="repair", **look(3.8, 10.3)),
            "world": make("world", ("",), label="groups differ", **look(8, 24)),
        }
        for name, control in self.controls.items():
            control.add_class(f"fairrecon-{name}")
            control.observe(lambda change, name=name: self._changed(name), names="value")
        rows = [("cohort", "world"), ("task",), ("patient",), ("sex", "age_years", "race"), ("level", "mode", "arm")]
        lines = [ipywidgets.HBox([self.controls[name] for name in row]) for row in rows]
        self.box = accessible([self.heading, *lines, self.status, self.shown])
        self.box.layout.width = "690px"
        self._fill()

    @property
    def scene(self) -> Scene:
        """The cohort that is shown."""
        return self.scenes[self.controls["cohort"].value]

    @property
    def choice(self) -> Choice:
        """What the controls ask for."""
        value = {name: control.value for name, control in self.controls.items()}
        set_to = tuple((name, value[name]) for name in ("sex", "age_years", "race") if value[name] != "")
        return Choice(
            value["patient"], value["level"], value["mode"], value["arm"], value["task"], value["world"], set_to
        )

    def redraw(self) -> None:
        """Show what the controls ask for."""
        choice = self.choice
        try:
            view = self.scene.see(choice)
            recorded = self.scene.see(Choice(**{**vars(choice), "do": ()})) if choice.do else None
        except Exception as error:
            self.status.show(f"This could not be shown ({error}); below is what was shown before.")
            raise
        self.shown.value = pictures(view, choice, self.scene) + scores(view, recorded, choice, self.scene)
        self.status.say(in_a_sentence(view, choice))

    def _changed(self, name: str) -> None:
        if self._busy:
            return
        if name in ("cohort", "mode", "task"):
            self._fill()
        else:
            self.redraw()

    def _fill(self) -> None:
        """Offer what the cohort, mode and task allow, keep what is still allowed, and redraw once."""
        self._busy, scene = True, self.scene
        self.heading.value = f"<h2>{html.escape(scene.title)}</h2>"
        self._offer("mode", list(scene.modes))
        self._offer("task", [(task.replace("_", " "), task) for task in scene.tasks], first=FIRST_TASK.get(scene.name))
        self._offer("arm", scene.arms(self.controls["mode"].value))
        self._offer("world", scene.worlds)
        self._offer("level", [(level_text(level), level) for level in scene.levels], first=scene.audit_level)
        self._offer("patient", list(scene.patients(self.controls["task"].value).items()))
        for name in ("sex", "age_years", "race"):
            values = scene.attributes.get(name, ())
            self._offer(name, [("recorded", ""), *((str(value).replace("_", " "), value) for value in values)])
            self.controls[name].disabled = not values
        self._busy = False
        self.redraw()

    def _offer(self, name: str, options: list, first=None) -> None:
        """New options of a control; its value stays if it is among them, else `first`, else the first of them."""
        control = self.controls[name]
        values = [option[1] if isinstance(option, tuple) else option for option in options]
        keep = control.value if control.value in values else first if first in values else values[0]
        if list(control.options) != options:
            control.options = options
        control.value = keep


FIRST_TASK = {"chest": "pleural_effusion", "brain": "tumour_grade"}


def look(label: float, width: float) -> dict:
    """Traits of a control: width of its label and of the whole, in units of 17 pixels."""
    return {"style": {"description_width": f"{label * 17:.0f}px"}, "layout": {"width": f"{width * 17:.0f}px"}}


def level_text(level: float) -> str:
    """A level as the slider shows it."""
    if level in (1, math.inf):
        return "clean"
    return f"{level:,.0f}"


# ---------------------------------------------------------------------------------------------------- what is shown


def pictures(view: View, choice: Choice, scene: Scene) -> str:
    """HTML of the images in `view`: clean, degraded, repaired, and the error that is left; each with PSNR and a text.

    `choice` is what the controls say, `scene` the cohort that it was made from.
    """
    where = f"{scene.name} of patient {choice.patient} ({view.person})"
    at = level_text(choice.level)
    at = at if at == "clean" else f"R = {at}" if scene.modality == "mri" else f"{at} photons"
    gain = view.psnr_db[choice.arm] - view.psnr_db["degraded"]
    plus = f" ({number(gain, '+.1f')})" if math.isfinite(gain) else ""
    captions = {
        "clean": ("clean", view.person, f"clean {where}"),
        "degraded": (at, decibels(view.psnr_db["degraded"]), f"{where}, degraded: {at}"),
        choice.arm: (choice.arm, decibels(view.psnr_db[choice.arm]) + plus, f"{where}, repaired by {choice.arm}"),
    }
    tiles = [tile(grey(view.images[arm]), *caption, colour_of(arm)) for arm, caption in captions.items()]
    error = view.images[choice.arm] - view.images["clean"]
    alt = f"error of {choice.arm}, root mean square {np.sqrt((error**2).mean()):.3f}"
    tiles.append(tile(signed(error), f"{choice.arm} \N{MINUS SIGN} clean, ± {ERROR_LIMIT:g}", "red: too bright", alt))
    return f'<div class="fairrecon-tiles">{"".join(tiles)}'


def tile(png: str, name: str, detail: str, alt: str, colour: str | None = None) -> str:
    """One picture with two lines below it; the bar above it has the arm's `colour`."""
    bar, caption = f"border-top:5px solid {colour or '#FFFFFF'}", f"{html.escape(name)}<br>{html.escape(detail)}"
    image = f'<img decoding="sync" alt="{html.escape(alt)}" src="{png}">'
    return f'<figure style="{bar}">{image}<figcaption>{caption}</figcaption></figure>'


def scores(view: View, recorded: View | None, choice: Choice, scene: Scene) -> str:
    """HTML of the reader's scores on a line and in a table, as set (`view`) and as recorded; closes the tiles.

    `choice` is what the controls say, `scene` the cohort that it was made from.
    """
    rows = {view.person: view} | ({f"as recorded: {recorded.person}": recorded} if recorded else {})
    task = choice.task.replace("_", " ")
    head = f"<b>{html.escape(task)}</b>: {view.truth}. Score of the reader ({scene.reader})"
    arms = list(view.images)
    legend = '<svg width="20" height="20" aria-hidden="true">{}</svg>'
    cells = "".join(f'<th scope="col">{legend.format(mark(arm, 10, 10))}{html.escape(arm)}</th>' for arm in arms)
    table = f'<tr><th scope="col">patient</th>{cells}<th scope="col">change</th></tr>'
    for who, one in rows.items():
        values = "".join(f"<td>{number(one.scores[arm])}</td>" for arm in arms)
        change = number(one.scores[choice.arm] - one.scores["clean"], "+.2f")
        table += f'<tr><th scope="row">{html.escape(who)}</th>{values}<td><b>{change}</b></td></tr>'
    drawn = strip(rows, choice.arm, view.threshold)
    return f'<div class="fairrecon-scores">{head}{drawn}<table>{table}</table></div></div>'


def strip(rows: dict[str, View], arm: str, threshold: float) -> str:
    """SVG of scores as marks on lines from 0 to 1: square clean, cross degraded, circle repaired by `arm`.

    Parameters
    ----------
    rows : dict of str to View
        By what is written beside each line.
    arm : str
    threshold : float
        Drawn upright; none if it is not finite.
    """
    width, left, right, gap = WIDTH, 14, 14, 34
    height = gap * len(rows) + 26
    x = lambda score: left + score * (width - left - right)
    parts = []
    if math.isfinite(threshold):
        parts.append(f'<path d="M{x(threshold):.1f} 2V{height - 22}" stroke="{DARK}" stroke-dasharray="4 3"/>')
    for line, view in enumerate(rows.values()):
        y = 18 + gap * line
        parts.append(f'<path d="M{left} {y}H{width - right}" stroke="#B0B0B0" stroke-width="2"/>')
        for name, score in view.scores.items():
            if math.isfinite(score):
                parts.append(mark(name, x(score), y))
    base = height - 4
    ticks = [(left, "start", "0: no"), (x(0.5), "middle", "0.5"), (width - right, "end", "1: yes")]
    parts += [
        f'<text x="{at:.0f}" y="{base}" text-anchor="{to}" font-size="16">{text}</text>' for at, to, text in ticks
    ]
    values = "; ".join(
        f"{who}: " + ", ".join(f"{name} {number(score)}" for name, score in view.scores.items())
        for who, view in rows.items()
    )
    return f'<svg role="img" aria-label="{html.escape(values)}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'


def mark(arm: str, x: float, y: float) -> str:
    """The mark of an arm: its shape and its colour."""
    if arm == "clean":
        return f'<rect x="{x - 8:.1f}" y="{y - 8}" width="16" height="16" fill="none" stroke="#000" stroke-width="3"/>'
    if arm == "degraded":
        cross = f"M{x - 8:.1f} {y - 8}l16 16m0 -16l-16 16"
        return f'<path d="{cross}" stroke="{DARK}" stroke-width="3.5"/>'
    return f'<circle cx="{x:.1f}" cy="{y}" r="7" fill="{colour_of(arm)}" stroke="#000"/>'


def in_a_sentence(view: View, choice: Choice) -> str:
    """What a screen reader says after a redraw."""
    values = ", ".join(f"{arm} {number(score)}" for arm, score in view.scores.items())
    return (
        f"Patient {choice.patient}, {view.person}, at {level_text(choice.level)}: {choice.arm} "
        f"{decibels(view.psnr_db[choice.arm])}. Score for {choice.task.replace('_', ' ')}: {values}."
    )


def decibels(value: float) -> str:
    """A PSNR in words."""
    return f"{value:.1f} dB" if math.isfinite(value) else "unchanged"


def number(value: float, form: str = ".2f") -> str:
    """A score, or a dash where there is none; a minus sign as a reader knows it."""
    return format(value, form).replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "\N{EN DASH}"


def grey(image: np.ndarray) -> str:
    """An image in [0, 1] as a data address, one byte a pixel."""
    return _address(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def signed(error: np.ndarray) -> str:
    """A signed image within plus and minus `ERROR_LIMIT` as a data address: red above, blue below, white at 0."""
    scaled = np.clip(error / (2 * ERROR_LIMIT) + 0.5, 0, 1)
    return _address(colormaps["RdBu_r"](scaled, bytes=True)[..., :3])


def _address(pixels: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
