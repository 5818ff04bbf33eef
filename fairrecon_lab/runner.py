"""The runner: the numbered notebooks in order, under papermill, resumable, with a record of what each one cost.

A notebook is *current* when its text, the settings, the code that it loaded, and the content of everything it read and
wrote are as they were when it last finished; a current notebook is not run again, and otherwise one line says why. So a
killed series continues at the notebook that was running. The record is `run.json`; executed notebooks lie in
`notebooks/`.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from fairrecon_core.settings import Settings, load_settings, project_folder, suggest
from fairrecon_core.steps.folder import commit, run_folder, write_json
from fairrecon_core.steps.stamps import NOT_MADE, Stamp, code_name, content_hash, is_code, module_digests, stamp, why
from fairrecon_lab.analysis.support import left_out
from fairrecon_lab.engine.lock import held, now
from fairrecon_lab.engine.memory import PeakMemory
from fairrecon_lab.engine.room import check, hours, room, starts_of
from fairrecon_lab.plots.watched import STARTS_WITH
from fairrecon_lab.progress import Progress
from fairrecon_lab.report import write_report

RECORDED = (
    "numpy",
    "scipy",
    "pandas",
    "torch",
    "torchvision",
    "scikit-image",
    "scikit-learn",
    "papermill",
    "fairrecon",
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class SeriesError(RuntimeError):
    """A notebook failed; the text says which one, the cell and the error, and fits on one screen."""


def run_series(
    profile: str,
    overrides: dict | None = None,
    *,
    only: list[str] | None = None,
    start: str = "",
    again: bool = False,
    folder: Path | None = None,
    with_images: bool = False,
) -> dict:
    """Run the notebooks of a profile in order and return the record that `run.json` holds.

    Parameters
    ----------
    profile : str
        Name of a profile, or a YAML file.
    overrides : dict, optional
        Settings by name; an unknown one is refused.
    only : list of str, optional
        Numbers of the notebooks to run, such as ["04", "7"]; all by default.
    start : str
        Number of the first notebook to run.
    again : bool
        Run notebooks even if nothing changed.
    folder : Path, optional
        Where the notebooks are; the clone's `notebooks/` by default.
    with_images : bool
        Whether the report shows figures that may hold images of real patients.

    Returns
    -------
    dict
        The content of `run.json`.

    Raises
    ------
    ValueError
        Unknown profile, setting, notebook number or notebook parameter.
    SeriesError
        A cell failed, a widget callback raised, or a kernel died.
    InUseError
        Another process has the run's folder.
    """
    settings = load_settings(profile, **(overrides or {}))
    if str(profile).endswith(".yml"):  # a kernel works in another folder
        profile = str(Path(profile).resolve())
    notebooks = choose(sorted((folder or project_folder() / "notebooks").glob("[0-9][0-9]_*.ipynb")), only or [], start)
    for path in notebooks:
        check_parameters(path)
    out = run_folder(settings.profile, overrides or {})
    try:
        (out / "notebooks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {out} ({error.strerror}): set FAIRRECON_RUNS to a folder of yours") from None
    print(f"{len(notebooks)} notebooks, profile {settings.profile}, results in {os.path.relpath(out)}")
    check(settings)
    print("\n".join(filter(None, [room(settings, out), hours(settings, out)])))
    with held(out, f"run {out.name}"):
        try:
            record = _open_record(out, settings)
            _run_all(notebooks, record, profile, overrides or {}, settings, out, again)
        finally:
            report(out, with_images)
    return record


def _run_all(notebooks, record: dict, profile: str, overrides: dict, settings, out: Path, again: bool) -> None:
    """Run those of the notebooks that are not current, and put each into the record when it is done."""
    with Progress(notebooks, record) as progress:
        for path in notebooks:
            if line := left_out(path.stem[:2], out, settings):
                record["left_out"][path.stem] = line
                record["notebooks"].pop(path.stem, None)
                progress.skip(path, f"left out, {line}")
                continue
            reason = why_run(record["notebooks"].get(path.stem), path, settings, out)
            if not (reason or again):
                progress.skip(path)
                continue
            record["notebooks"].pop(path.stem, None)  # one that fails is not in the record; one that is kept stays
            progress.say(f"{path.stem}: {reason}" if reason not in ("", NOT_MADE) else "")
            record["notebooks"][path.stem] = _run_one(path, profile, overrides, settings, out, progress)
            record["finished"] = now()
            write_json(out / "run.json", record)


def report(out: Path, with_images: bool = False) -> Path | None:
    """Put what the run in `out` has so far on one page; a page that fails costs a line, never the run's results.

    Images of real patients are shown only `with_images`.
    """
    if not (out / "run.json").exists():  # the first notebook failed
        return None
    try:
        page = write_report(out, with_images=True) if with_images else write_report(out)
    except Exception as error:
        print(f"no report.html: {type(error).__name__}: {str(error)[:300]}")
        return None
    print(f"report in {os.path.relpath(page)}")
    return page


def choose(paths: list[Path], only: list[str], start: str) -> list[Path]:
    """Those of the notebooks `paths` whose numbers are in `only` (all if empty) and not before `start`.

    Raises
    ------
    ValueError
        If a number belongs to no notebook, or nothing is left.
    """
    numbers = {path.name[:2]: path for path in paths}
    wanted, start = [number.zfill(2) for number in only], start.zfill(2) if start else ""
    for number in [*wanted, *([start] if start else [])]:
        if number not in numbers:
            raise ValueError(f"no notebook {number!r}; there are {', '.join(numbers) or 'none (run tools/pairs.py)'}")
    chosen = [path for number, path in numbers.items() if (not wanted or number in wanted)]
    chosen = [path for path in chosen if not start or path.name[:2] >= start]
    if not chosen:
        raise ValueError("no notebook is left to run: --only and --from exclude each other")
    return chosen


def check_parameters(path: Path, given=("profile", "overrides")) -> None:
    """Refuse a notebook that does not declare the parameters we pass: papermill itself would only warn.

    Raises
    ------
    ValueError
        Names the parameter and the nearest one that the notebook has.
    """
    known = papermill.inspect_notebook(str(path))
    for name in given:
        if name not in known:
            raise ValueError(f"{path.name} has no parameter '{name}'{suggest(name, known)}")


def why_run(entry: dict | None, path: Path, settings: Settings, out: Path) -> str:
    """Why the notebook at `path` must run: what is new since the `entry` of its last run in `out`; "" if nothing."""
    if entry is None or not isinstance(entry["made_from"], dict):
        return NOT_MADE
    modules = [name for name in entry["made_from"] if name.startswith("the code of ")]
    if reason := why(entry["made_from"], made_from(path, settings, modules)):
        return reason
    for name, digest in {**entry["read"], **entry["wrote"]}.items():
        if not (out / name).exists() or content_hash([(out / name).resolve()]) != digest:
            return f"{name} {'changed' if (out / name).exists() else 'is gone'}"
    return ""


def made_from(path: Path, settings: Settings, modules: Iterable[str]) -> Stamp:
    """What decides the result of the notebook at `path` besides its input files: text, `settings`, and loaded code.

    So do the tables of `results/` where the text names them. `modules` are keys of `module_digests`.
    """
    source, code = path.with_suffix(".py"), module_digests()
    source = source if source.exists() else path
    decides = {name: code.get(name, "gone") for name in sorted(modules)}
    if "results/" in source.read_text(encoding="utf-8"):
        decides["the tables of results"] = content_hash(sorted((project_folder() / "results").rglob("*.csv")))
    return stamp(settings=asdict(settings), its_text=source) | decides


def _run_one(path: Path, profile: str, overrides: dict, settings, out: Path, progress) -> dict:
    """Execute one notebook; its entry for the record."""
    target, trace, before = out / "notebooks" / path.name, out / f".trace-{path.stem}", module_digests()
    trace.unlink(missing_ok=True)
    began, memory = time.time(), PeakMemory()
    try:
        with memory, warnings.catch_warnings(), progress.notebook(path), _told_to_kernels(trace):
            warnings.simplefilter("ignore")
            notebook = papermill.execute_notebook(
                str(path), str(target), parameters={"profile": profile, "overrides": overrides}, cwd=str(path.parent),
                engine_name="fairrecon", progress_bar=False, kernel_name="python3", tick=progress.tick,
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise SeriesError(_one_screen(path, error)) from None
    except Exception as error:
        raise SeriesError(f"{path.name}: {type(error).__name__}: {str(error)[:600]}") from None
    if failures := widget_failures(notebook):
        raise SeriesError(f"{path.name}: a widget callback raised:\n" + "\n".join(failures)[:3000])
    read, wrote, notes, loaded, remade = _read_trace(trace, out)
    trace.unlink(missing_ok=True)
    for reason in remade:
        progress.say(f"{path.stem}, made anew: {reason}")
    made = made_from(path, settings, loaded)
    made |= {name: before[name] for name in loaded if name in before}  # code as it was when the kernel started
    return {
        "made_from": made, "wall_s": round(time.time() - began, 1),
        "peak_memory_mb": round(memory.peak / 2**20), "read": read, "wrote": wrote, **notes,
    }  # fmt: skip


class OwnKernel(AsyncKernelManager):
    """The kernel of the running interpreter, whatever kernelspec is called python3 on this machine."""

    @property
    def kernel_spec(self):
        """How this interpreter starts a kernel."""
        return KernelSpec(**get_kernel_dict())


class _Engine(NBClientEngine):
    """papermill's own engine, with a call after every cell."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, tick=None, log_output=False, **options):
        complete = nb_man.cell_complete

        def cell_complete(cell, cell_index=None, **kwargs):
            complete(cell, cell_index, **kwargs)
            if tick:
                tick(cell_index, len(nb_man.nb.cells))

        nb_man.cell_complete = cell_complete
        quiet = ["--IPKernelApp.log_level=ERROR"]  # else every kernel warns that it talks over TCP
        log = logging.getLogger("papermill")
        # what a kernel writes is on disk when its cell ends, so it need not be asked, for some seconds, to leave
        watched = [f"--IPKernelApp.exec_lines={STARTS_WITH}"] if os.environ.get("FAIRRECON_LEGIBLE") else []
        how = {"extra_arguments": quiet + watched, "shutdown_kernel": "immediate"}
        how |= {"kernel_manager_class": OwnKernel}
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, log=log, **how)
        return client.execute(env=os.environ.copy())


papermill_engines.register("fairrecon", _Engine)


@contextlib.contextmanager
def _told_to_kernels(trace: Path) -> Iterator[None]:
    """The environment of kernels that start meanwhile: what they use goes to `trace`, the book gets drawn sliders."""
    told = {"FAIRRECON_DRAWN": os.environ.get("FAIRRECON_DRAWN", "1"), "FAIRRECON_TRACE": str(trace.resolve())}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def widget_failures(notebook) -> list[str]:
    """Errors that a headless run would hide: in the saved state of output widgets, and tracebacks on stderr.

    Parameters
    ----------
    notebook : NotebookNode
        An executed notebook.

    Returns
    -------
    list of str
        One text per failure; empty when all is well.
    """
    saved = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    outputs = [("widget", output) for model in saved.values() for output in model.get("state", {}).get("outputs") or []]
    for number, cell in enumerate(notebook.cells, start=1):
        outputs += [(f"cell {number}", output) for output in cell.get("outputs", [])]
    failures = []
    for place, output in outputs:
        text = output.get("text", "")
        if output["output_type"] == "error":
            failures.append(f"{place}: {output['ename']}: {output['evalue']}")
        elif output.get("name") == "stderr" and "Traceback (most recent call last)" in text:
            failures.append(f"{place}: {ANSI.sub('', text).strip().splitlines()[-1]}")
    return failures


def _one_screen(path: Path, error) -> str:
    """The failing cell and the end of its traceback, at most about 35 lines."""
    number = error.exec_count - 1  # of the notebook's own code cells: papermill put one in
    source = error.source.strip().splitlines()
    shown = source[:12] + (["..."] if len(source) > 12 else [])
    traceback = [line for text in error.traceback for line in ANSI.sub("", text).splitlines()]
    return "\n".join(
        [f"{path.name} failed in cell {number} ({error.ename})", *(f"    {line}" for line in shown), "  ..."]
        + [f"  {line[:150]}" for line in traceback[-14:]]
        + [f"{error.ename}: {error.evalue}"[:800]]
    )


def _read_trace(trace: Path, out: Path) -> tuple[dict, dict, dict, list[str], list[str]]:
    """What the kernel read and wrote, by content, its notes, the code it loaded, and why it made things anew."""
    paths, notes, loaded, reasons = {"read": set(), "write": set()}, {}, [], []
    for line in trace.read_text(encoding="utf-8").splitlines() if trace.exists() else []:
        entry = json.loads(line)
        if entry["action"] == "note":
            for key in entry.keys() - {"action", "path"}:  # a notebook may note weights several times
                both = isinstance(entry[key], dict) and isinstance(notes.get(key), dict)
                notes[key] = notes[key] | entry[key] if both else entry[key]
        elif entry["action"] == "why":
            reasons.append(entry["text"])
        elif entry["action"] == "module":
            loaded += [code_name(entry["path"])] if is_code(entry["path"]) else []
        else:
            paths[entry["action"]].add(entry["path"])
    digest = lambda names: {name: content_hash([(out / name).resolve()]) for name in sorted(names)}
    return digest(paths["read"] - paths["write"]), digest(paths["write"]), notes, loaded, reasons


def _open_record(out: Path, settings) -> dict:
    """The record of the run so far, brought up to date with this machine and these settings."""
    path = out / "run.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        "profile": settings.profile,
        "seed": settings.seed,
        "settings": asdict(settings),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in RECORDED}},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "started": now(),
        "steps": starts_of(out),
        "notebooks": old.get("notebooks", {}),
        "left_out": {},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
