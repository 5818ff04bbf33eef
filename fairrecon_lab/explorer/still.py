"""The explorer as one HTML file: drawn beforehand, so it moves with no kernel, no server and no network.

What can be chosen is a part of what the live explorer has: two patients with the finding and two without, as
recorded or with another sex or age, in two worlds, at every level, with each reconstructor that has weights here. The
pictures and words of a state are those of `page`; a picture that several states share is stored once, as WebP: without
loss, but for the error maps, which are there to be looked at.
"""

import base64
import html
import json
import re
from io import BytesIO
from itertools import product
from pathlib import Path

from PIL import Image

from fairrecon_core.steps.folder import Run
from fairrecon_lab.explorer.page import FIRST_TASK, STYLE, in_a_sentence, level_text, pictures, scores
from fairrecon_lab.explorer.scenes import AS_RECORDED, Choice, Scene, scenes

ADDRESS = re.compile(r'src="(data:image/png;base64,[^"]+)"')
N_EACH = 2  # patients with the finding, and without
WORLDS = ("as in life", "fainter in women")
DOS = {"as recorded": AS_RECORDED, "as a woman": (("sex", "female"),), "as a man": (("sex", "male"),),
       "aged 80": (("age_years", 80),)}  # fmt: skip
LABELS = {"patient": "patient", "do": "seen", "world": "groups differ", "level": "", "arm": "repair"}
SCRIPT = """
for (const column of document.querySelectorAll(".still-column")) {
  const {states, images, said} = JSON.parse(column.querySelector("script[type='application/json']").textContent);
  const controls = [...column.querySelectorAll("input, select")], shown = column.querySelector(".still-shown");
  const show = () => {
    for (const control of controls) if (control.type === "range") {
      const text = JSON.parse(control.dataset.texts)[control.value];
      control.setAttribute("aria-valuetext", text);
      control.parentElement.querySelector("output").value = text;
    }
    const key = controls.map(control => control.value).join();
    shown.innerHTML = states[key].replace(/src="@(\\d+)"/g, (whole, i) => `src="${images[i]}"`);
    column.querySelector("[role=status]").textContent = said[key];
  };
  controls.forEach(control => control.oninput = show);
  show();
}
"""
MORE_STYLE = """<style>
body { margin: 12px; font: 17px system-ui, "DejaVu Sans", sans-serif; color: #000; background: #fff; }
.still-columns { display: flex; flex-wrap: wrap; gap: 24px; }
.still-column { width: 660px; max-width: 100%; }
.still-controls { display: grid; grid-template-columns: 1fr 1fr; gap: 6px 16px; margin: 6px 0 10px; }
.still-controls label { display: flex; gap: 8px; align-items: center; min-width: 0; }
.still-controls :is(select, input) { flex: 1; font: inherit; min-width: 0; }
.still-controls :is(select, input):focus { outline: 3px solid #000; }
.still-controls .wide { grid-column: 1 / span 2; }
[role=status] { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
h1 { font-size: 24px; margin: 4px 0; } p { margin: 4px 0 12px; max-width: 80em; }
@media (max-width: 500px) { .still-controls { display: block; } .fairrecon-tiles { grid-template-columns: 1fr 1fr; }
  .fairrecon-scores { grid-column: 1 / span 2; } }
</style>"""


def write_still(run: Run, path: Path) -> Path:
    """Draw the page into the file `path`; only simulated patients are shown.

    Parameters
    ----------
    run : Run
        Its settings give seed, image size and levels; its weights and thresholds are used where it has them.
    path : Path
        Is replaced; its folder must exist.

    Returns
    -------
    Path
        `path`.
    """
    columns = [column(scene) for scene in scenes(run) if scene.simulated]
    title = "The degradation explorer: what is lost on the way to the reader, and for whom?"
    said = (
        "Simulated patients, drawn beforehand: this page needs no network. The live explorer "
        "(<code>voila notebooks/explorer.ipynb</code>) has more patients, questions and ways to degrade."
    )
    body = f'<h1>{title}</h1><p>{said}</p><div class="still-columns">{"".join(columns)}</div>'
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    page += '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    page += f'{STYLE}{MORE_STYLE}<body class="fairrecon-explorer">{body}<script>{SCRIPT}</script></body></html>'
    part = path.with_name(f"{path.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def column(scene: Scene) -> str:
    """HTML of one cohort: its controls, and every state that they can reach.

    Parameters
    ----------
    scene : Scene
        A simulated cohort.
    """
    options = choices(scene)
    states, said, images = {}, {}, {}
    for place in product(*(range(len(values)) for values in options.values())):
        value = {name: values[i][1] for (name, values), i in zip(options.items(), place)}
        key = ",".join(map(str, place))
        states[key], said[key] = drawn(scene, value)
        for address in ADDRESS.findall(states[key]):
            images.setdefault(address, len(images))
        states[key] = ADDRESS.sub(lambda found: f'src="@{images[found[1]]}"', states[key])
    facts = {"states": states, "images": [smaller(one) for one in images], "said": said}
    held = json.dumps(facts).replace("</", "<\\/")
    controls = "".join(control(name, values, scene) for name, values in options.items())
    return (
        f'<section class="still-column"><h2>{html.escape(scene.title)}</h2><div class="still-controls">{controls}</div>'
        f'<div role="status"></div><div class="still-shown"></div><script type="application/json">{held}</script>'
        "</section>"
    )


def smaller(address: str) -> str:
    """A picture as WebP: grey ones without loss, error maps (in colour) nearly so."""
    image, buffer = Image.open(BytesIO(base64.b64decode(address.split(",", 1)[1]))), BytesIO()
    how = {"lossless": True} if image.mode == "L" else {"quality": 85}
    image.save(buffer, format="webp", **how)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def choices(scene: Scene) -> dict[str, list[tuple[str, object]]]:
    """Texts and values of each control; the first shown first.

    Parameters
    ----------
    scene : Scene

    Returns
    -------
    dict of str to list of (str, value)
        patient, do, world, level, arm; levels from clean to degraded most.
    """
    task, mode = question(scene), scene.modes[0]
    people = list(scene.patients(task).items())
    found = {"present": [], "absent": []}
    for text, number in people:
        truth = scene.see(Choice(number, scene.levels[0], mode, "tv", task, WORLDS[0])).truth
        found.get(truth, []).append((text, number))
    levels = sorted(scene.levels, key=lambda level: (scene.modality == "xray" and -level) or level)
    return {
        "patient": [*found["present"][:N_EACH], *found["absent"][:N_EACH]],
        "do": list(DOS.items()),
        "world": [(world, world) for world in WORLDS if world in scene.worlds],
        "level": [(level_text(level), level) for level in levels],
        "arm": [(arm, arm) for arm in scene.arms(mode)],
    }


def question(scene: Scene) -> str:
    """What the reader is asked on the page."""
    first = FIRST_TASK.get(scene.name, "")
    return first if first in scene.tasks else scene.tasks[0]


def drawn(scene: Scene, value: dict) -> tuple[str, str]:
    """Pictures and scores of one state as HTML, and the state in a sentence."""
    kept = {name: value[name] for name in ("patient", "level", "arm", "world")}
    choice = Choice(**kept, mode=scene.modes[0], task=question(scene), do=value["do"])
    view = scene.see(choice)
    recorded = scene.see(Choice(**{**vars(choice), "do": AS_RECORDED})) if choice.do else None
    return pictures(view, choice, scene) + scores(view, recorded, choice, scene), in_a_sentence(view, choice)


def control(name: str, values: list[tuple[str, object]], scene: Scene) -> str:
    """A range for the level, a menu for everything else; both move by mouse and key.

    Parameters
    ----------
    name : str
        Key of `LABELS`.
    values : list of (str, value)
        From `choices`; a state is named by positions in them.
    scene : Scene
        Gives unit and first level.
    """
    label = LABELS[name] or ("acceleration R" if scene.modality == "mri" else "photons per bin")
    texts = [text for text, _ in values]
    if name != "level":
        chosen = "".join(f'<option value="{i}">{html.escape(text)}</option>' for i, text in enumerate(texts))
        wide = ' class="wide"' if name == "patient" else ""
        return f'<label{wide}>{label} <select aria-label="{label}">{chosen}</select></label>'
    start = texts.index(level_text(scene.audit_level))
    listed = html.escape(json.dumps(texts), quote=True)
    return (
        f'<label>{label} <input type="range" min="0" max="{len(texts) - 1}" step="1" value="{start}" '
        f'aria-label="{label}" data-texts="{listed}"><output>{html.escape(texts[start])}</output></label>'
    )
