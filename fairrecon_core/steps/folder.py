"""One run: the folder of a profile, and how a notebook opens it.

A run lives in `runs/<profile>/` (with overrides: `runs/<profile>+name=value/`, so that settings never mix) and holds
`cohorts/ reconstructions/ tables/ figures/ notebooks/ run.json`. Notebooks talk through these files alone.
What a notebook reads, writes and loads is traced, so that the runner can tell by content whether it is still current.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from fairrecon_core import tables
from fairrecon_core.cohort.folder import Cohort, load_cohort
from fairrecon_core.settings import Settings, as_kind, load_settings, project_folder
from fairrecon_core.steps.siblings import read_mark, taken_over
from fairrecon_core.steps.stamps import NOT_MADE, code_of, content_hash, is_ours, stamp, why

MADE_BY = {"cohort": "01", "reconstructions": "04 to 06", "quality": "07", "predictions": "08", "overlap": "08",
           "thresholds": "08", "audit": "10"}  # fmt: skip


class Run:
    """The folder of one run, and everything that a notebook reads from or writes to it.

    Parameters
    ----------
    folder : Path
        `runs/<profile>`; made when missing.
    settings : Settings
    within : Path, optional
        Folder of the run that this one is a part of, such as a trial of other settings inside a notebook.
    example : Path, optional
        The run that is read where this one has nothing: that of results/tutorial/, for a notebook opened alone.
    """

    def __init__(self, folder: Path, settings: Settings, within: Path | None = None, example: Path | None = None):
        self.folder, self.settings = Path(folder), settings
        self._traced_from = Path(within or folder)
        self._example = example or project_folder() / "results" / "tutorial"
        self.folder.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------ reading
    def cohort(self, name: str) -> Cohort:
        """Open the cohort `name` ("brain", "chest", or a real one) of this run, or of the shipped example run.

        Raises
        ------
        FileNotFoundError
            If neither has it; the message names the notebook that makes it.
        """
        folder = self._source(Path("cohorts") / name, f"cohort '{name}'", "01")
        self._trace("read", folder)
        return load_cohort(folder)

    def read(self, table: str, **where) -> pd.DataFrame:
        """Read a table of this run, or of the shipped example run; `where` selects by column value.

        Raises
        ------
        FileNotFoundError
            If the table, or the selection, is missing; the message names the notebook that makes it.
        """
        folder = self._source(Path("tables") / table, f"table '{table}'", MADE_BY.get(table, "before"))
        self._trace("read", folder)
        return tables.read_table(folder.parents[1], table, **where)

    def has(self, name: str) -> bool:
        """Whether this run (or the shipped example) has the table or cohort `name`."""
        there = lambda base: any((base / kind / name).is_dir() for kind in ("tables", "cohorts"))
        return there(self.folder) or (there(self._example) and self._lends())

    def _lends(self) -> bool:
        """Whether the example may stand in: this run has nothing of its own, or the same cohorts and settings."""
        if not any(next((self.folder / kind).glob("*/*"), None) for kind in ("cohorts", "tables")):
            return True
        said = lambda folder, name: json.loads(file.read_text()) if (file := folder / name).exists() else {}
        for own in (self.folder / "cohorts").glob("*"):
            theirs = said(self._example / "cohorts" / own.name, "cohort.json")
            whole = theirs.get("excerpt_of", theirs.get("content_hash"))
            if said(own, "cohort.json").get("content_hash") not in (whole, theirs.get("content_hash")):
                return False
        theirs = said(self._example, "run.json").get("settings", {})
        ours = json.loads(json.dumps(asdict(self.settings)))
        return all(value == theirs[name] for name, value in ours.items() if name in theirs and name != "profile")

    def _source(self, part: Path, what: str, notebook: str) -> Path:
        if (self.folder / part).is_dir():
            return self.folder / part
        if (self._example / part).is_dir() and self._lends():
            print(f"{what} comes from the shipped example run: this run has none yet (notebook {notebook} makes it)")
            return self._example / part
        raise FileNotFoundError(f"no {what} in {self.folder.name}: run notebook {notebook} first")

    # ------------------------------------------------------------------ writing
    def save(self, table: str, frame: pd.DataFrame, **parts) -> list[Path]:
        """Check `frame` against its schema and write it, atomically: one file per cohort, arm and level.

        Parameters
        ----------
        table : str
            quality, predictions, overlap, thresholds or audit (`tables.SCHEMAS`).
        frame : DataFrame
        **parts
            Key columns with the one value that they have in `frame`; absent columns are filled with it.

        Returns
        -------
        list of Path
            The files written. Files of other cohorts, arms and levels stay as they are.
        """
        paths = tables.write_table(self.folder, table, tables.with_defaults(table, frame), **parts)
        for path in paths:
            self._trace("write", path)
        return paths

    def make(
        self, table: str, compute: Callable[[], pd.DataFrame], *, made_from: Mapping | None = None, **parts
    ) -> pd.DataFrame:
        """The rows that `compute()` gives, computed only when what they are made from changed, otherwise read back.

        Parameters
        ----------
        table : str
            As in `save`.
        compute : callable
            Makes the frame; its code counts, unless it is a step of the core, which stamps itself.
        made_from : mapping, optional
            A stamp of all that the result depends on, see `stamps.stamp`; all settings of the run if left out.
        **parts
            As in `save`; they name this piece of work.

        Returns
        -------
        DataFrame
        """
        made = code_of(compute, values=False)
        made |= stamp(settings=asdict(self.settings)) if made_from is None else made_from
        return self.make_parts(table, lambda numbers: [compute()], [(made, parts)])

    def make_parts(
        self,
        table: str,
        compute: Callable[[list[int]], Iterable[pd.DataFrame]],
        pieces: Sequence[tuple[Mapping, dict]],
    ) -> pd.DataFrame:
        """`make` for several pieces of work that are cheaper done in one go.

        Parameters
        ----------
        table : str
        compute : callable
            Gets the numbers of the pieces that are not current, and makes a frame for each, in that order.
        pieces : sequence of (made_from, parts)
            Each as in `make`.

        Returns
        -------
        DataFrame
            The rows of all pieces, in order.
        """
        marks = [self._mark(table, parts) for _, parts in pieces]
        found = [self._current(table, mark, made, parts) for mark, (made, parts) in zip(marks, pieces)]
        stale = [number for number, frame in enumerate(found) if frame is None]
        for number, frame in zip(stale, compute(stale) if stale else [], strict=True):
            (made, parts), mark = pieces[number], marks[number]
            mark.unlink(missing_ok=True)  # a product and its stamp never disagree, whenever this is killed
            paths = self.save(table, frame, **parts)
            write_json(mark, {"stamp": made, "files": {path.name: content_hash([path]) for path in paths}})
            found[number] = pd.concat([tables.read_parquet(path, table) for path in paths], ignore_index=True)
        return pd.concat(found, ignore_index=True)

    def _mark(self, table: str, parts: dict) -> Path:
        """Where the stamp of a piece of work lies."""
        return self.folder / "tables" / table / f"made-{content_hash([sorted(parts.items())])}.json"

    def is_current(self, table: str, made: Mapping, **parts) -> bool:
        """Whether `make` with the stamp `made` would read a piece of work back, in place of computing it."""
        return not self._why_anew(self._mark(table, parts), made)[0]

    def _why_anew(self, mark: Path, made: Mapping) -> tuple[str, list[Path]]:
        """Why a piece of work is computed, "" if it is not, and its files; one of a sibling run is taken over."""
        old = read_mark(mark)
        if why(old["stamp"], made) and taken_over(self.folder, mark, made, beside=lambda found: found["files"]):
            old = read_mark(mark)
        files = {mark.with_name(name): content for name, content in old.get("files", {}).items()}
        reason = why(old["stamp"], made)
        if not reason and not all(path.exists() and content_hash([path]) == files[path] for path in files):
            reason = "its file was changed by hand"
        return reason, list(files)

    def _current(self, table: str, mark: Path, made: Mapping, parts: dict) -> pd.DataFrame | None:
        """The rows of a piece of work as they are on disk, if they are current; otherwise says why they are not."""
        reason, files = self._why_anew(mark, made)
        if reason:
            self.remade(f"{table} of {' '.join(map(str, parts.values()))}", reason)
            return None
        for path in files:
            self._trace("write", path)
        return pd.concat([tables.read_parquet(path, table) for path in files], ignore_index=True)

    def remade(self, what: str, reason: str) -> None:
        """Say why `what` is made anew, here and in the runner; nothing when it is made for the first time."""
        if reason and reason != NOT_MADE:
            print(f"made anew: {what}: {reason}")
            self._trace("why", None, {"text": f"{what}: {reason}"})

    def figure(self, figure, name: str):
        """Save a figure as `figures/<name>.png` and return it, so that a cell can end with this call.

        Pictures of a run on converted cohorts are not saved, unless $FAIRRECON_WITH_IMAGES is set: they show patients.
        """
        pictures = self.settings.cohort_folder and any(axes.images for axes in figure.axes)
        if pictures and "FAIRRECON_WITH_IMAGES" not in os.environ:
            return figure
        folder = self.folder / "figures"
        folder.mkdir(exist_ok=True)
        part = tables.unfinished(folder / f"{name}.png")
        figure.savefig(part, format="png", dpi=110)
        part.replace(folder / f"{name}.png")
        return figure

    def note(self, key: str, value) -> None:
        """Add a fact to the run's record, such as `note("weights", {"unet": "unet-brain.safetensors"})`."""
        self._trace("note", None, {key: value})

    def wrote(self, path: Path) -> None:
        """Tell the runner about a file or folder that was written without `save`, such as a cohort or weights."""
        self._trace("write", Path(path))

    def _trace(self, action: str, path: Path | None, facts: dict | None = None) -> None:
        """One line for the series runner; nothing when a person runs the notebook."""
        if log := os.environ.get("FAIRRECON_TRACE"):
            entry = {"action": action, "path": path and os.path.relpath(path, self._traced_from)} | (facts or {})
            with Path(log).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")


def begin(profile: str = "tutorial", overrides: dict | None = None, needs: Iterable[str] = ()) -> tuple[Settings, Run]:
    """Open a run in a notebook: the settings, and the folder with everything the notebooks share.

    Parameters
    ----------
    profile : str
        Name of a profile, or a YAML file.
    overrides : dict, optional
        Settings by name, on top of the profile.
    needs : iterable of str
        "cohort" (every cohort of the profile) and tables that must be there.

    Returns
    -------
    settings : Settings
    run : Run

    Raises
    ------
    ValueError
        Unknown profile or setting.
    FileNotFoundError
        A needed input is missing; the message names the notebook that makes it.
    """
    settings = load_settings(profile, **(overrides or {}))
    run = Run(run_folder(settings.profile, overrides or {}), settings)
    for need in needs:
        for name in settings.cohorts if need == "cohort" else [need]:
            kind, what = ("cohorts", "cohort") if need == "cohort" else ("tables", "table")
            run._source(Path(kind) / name, f"{what} '{name}'", MADE_BY.get(need, "before"))
    _show_figures()
    _trace_modules()
    if settings.profile == "smoke":
        print("profile smoke: everything runs, the numbers mean nothing")
    return settings, run


def run_folder(profile: str, overrides: dict) -> Path:
    """`runs/<profile>`, with the overrides in the name; below $FAIRRECON_RUNS if that is set.

    The name follows what the settings make of the overrides, so that `arms: [unet]`, `"[unet]"` and `"unet"` are the
    same run. It ends in a hash where it would be long, or hold what a file name should not.
    """
    base = Path(os.environ.get("FAIRRECON_RUNS") or project_folder() / "runs")
    values = {name: _value_texts(as_kind(name, value)) for name, value in sorted(overrides.items())}
    text = ",".join(f"{name}={','.join(value)}" for name, value in values.items())
    plain = all(letter.isalnum() or letter in "._-" for value in values.values() for item in value for letter in item)
    if len(text) > 60 or not plain:
        text = hashlib.sha256(text.encode()).hexdigest()[:10]
    return base / (f"{profile}+{text}" if text else profile)


def _value_texts(value) -> list[str]:
    """The texts of a setting's value, one per item: 8 for 8.0, as in the names of tables."""
    items = value if isinstance(value, tuple) else [value]
    return [str(int(item)) if isinstance(item, float) and item.is_integer() else str(item) for item in items]


def commit() -> str:
    """The commit of the clone, with `+changes` if files differ from it; empty outside git."""
    git = ["git", "-C", str(project_folder())]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+changes" if dirty.strip() else "")


def write_json(path: Path, value) -> None:
    """Write JSON under a temporary name that is then renamed."""
    part = tables.unfinished(path)
    part.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    part.replace(path)


def _trace_modules() -> None:
    """Tell the runner which of our modules this kernel has loaded, and loads later."""
    log = os.environ.get("FAIRRECON_TRACE")
    if not log or _told:
        return

    def tell(event: str, arguments: tuple) -> None:
        name = arguments[0] if event == "import" else ""
        if name.startswith("fairrecon_") and name not in _told and is_ours(name):
            _told.add(name)
            with Path(log).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"action": "module", "path": name}) + "\n")

    for name in list(sys.modules):
        tell("import", (name,))
    sys.addaudithook(tell)


_told: set[str] = set()


def _show_figures() -> None:
    """Let a notebook show a `Figure` that was made without pyplot; nothing outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(shell, {"png"}, bbox_inches=None)
