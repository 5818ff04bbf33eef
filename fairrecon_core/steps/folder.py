"""One run: the folder of a profile, and how a notebook opens it.

A run lives in `runs/<profile>/` (with overrides: `runs/<profile>+name=value/`, so that settings never mix) and holds
`cohorts/ reconstructions/ tables/ figures/ notebooks/ run.json`. Notebooks talk through these files alone.
What a notebook reads and writes is traced, so that the series runner can tell by content whether it is still current.
"""

import hashlib
import inspect
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from fairrecon_core import tables
from fairrecon_core.cohort.folder import Cohort, load_cohort
from fairrecon_core.settings import Settings, as_kind, load_settings, project_folder

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
    """

    def __init__(self, folder: Path, settings: Settings, within: Path | None = None):
        self.folder, self.settings = Path(folder), settings
        self.traced_from = Path(within or folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.example = project_folder() / "results" / "tutorial"  # shipped, for a notebook that is opened alone

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
        return any(
            (base / kind / name).is_dir() for base in (self.folder, self.example) for kind in ("tables", "cohorts")
        )

    def _source(self, part: Path, what: str, notebook: str) -> Path:
        if (self.folder / part).is_dir():
            return self.folder / part
        if (self.example / part).is_dir():
            print(f"{what} comes from the shipped example run: this run has none yet (notebook {notebook} makes it)")
            return self.example / part
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

    def make(self, table: str, compute: Callable[[], pd.DataFrame], *, inputs: Iterable = (), **parts) -> pd.DataFrame:
        """The rows that `compute()` gives, computed only when their inputs changed, otherwise read back.

        Parameters
        ----------
        table : str
            As in `save`.
        compute : callable
            Makes the frame; its source text counts as an input.
        inputs : iterable
            Files or folders (`Path`, by content) and plain values that the result depends on. The settings and the
            core's code always count.
        **parts
            As in `save`; they name this piece of work.

        Returns
        -------
        DataFrame
        """
        return self.make_together(table, lambda numbers: [compute()], [([_source_text(compute), *inputs], parts)])

    def make_together(
        self,
        table: str,
        compute: Callable[[list[int]], Iterable[pd.DataFrame]],
        pieces: Sequence[tuple[Iterable, dict]],
    ) -> pd.DataFrame:
        """`make` for several pieces of work that are cheaper done together.

        Parameters
        ----------
        table : str
        compute : callable
            Gets the numbers of the pieces whose inputs changed, and makes a frame for each, in that order.
        pieces : sequence of (inputs, parts)
            Each as in `make`.

        Returns
        -------
        DataFrame
            The rows of all pieces, in order.
        """
        folder, stale = self.folder / "tables" / table, {}
        paths: list[list[Path]] = []
        for number, (inputs, parts) in enumerate(pieces):
            stamp = content_hash([self.settings.fingerprint(), core_hash(), *inputs])
            mark = folder / f"made-{content_hash([sorted(parts.items())])}.json"
            made = json.loads(mark.read_text()) if mark.exists() else {"stamp": "", "files": {}}
            files = {folder / name: digest for name, digest in made["files"].items()}
            paths.append(list(files))
            if made["stamp"] != stamp or not all(p.exists() and content_hash([p]) == files[p] for p in files):
                stale[number] = (mark, stamp, parts)
        frames = compute(list(stale)) if stale else []
        for (number, (mark, stamp, parts)), frame in zip(stale.items(), frames, strict=True):
            paths[number] = self.save(table, frame, **parts)
            write_json(mark, {"stamp": stamp, "files": {path.name: content_hash([path]) for path in paths[number]}})
        every = [path for piece in paths for path in piece]
        for path in every:
            self._trace("write", path)
        return pd.concat([tables.read_parquet(path, table) for path in every], ignore_index=True)

    def figure(self, figure, name: str):
        """Save a figure as `figures/<name>.png` and return it, so that a cell can end with this call."""
        folder = self.folder / "figures"
        folder.mkdir(exist_ok=True)
        part = folder / f"{name}.png.part"
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
            entry = {"action": action, "path": path and os.path.relpath(path, self.traced_from)} | (facts or {})
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


def content_hash(items: Iterable) -> str:
    """Hash of `items`: plain values, and the content (never the times) of files and folders given as `Path`."""
    digest = hashlib.sha256()
    for item in items:
        if isinstance(item, Path):
            files = sorted(p for p in item.rglob("*") if p.is_file()) if item.is_dir() else [item]
            for file in files:
                digest.update(str(file.relative_to(item.parent)).encode() + _file_digest(file))
        else:
            digest.update(repr(item).encode() + b"\0")
    return digest.hexdigest()[:24]


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


@cache
def core_hash() -> str:
    """Hash of the core's source code: results made with other code are not reused.

    What only shows or starts things (report, explorer, runner, command line) does not count.
    """
    core, lab = Path(__file__).parents[1], house_of_the_lab()
    rooms = [lab / name for name in ("simulate", "paper", "plots.py", "widgets.py")] if lab.is_dir() else []
    return content_hash([*sorted(core.rglob("*.py")), *rooms])


def house_of_the_lab() -> Path:
    """Folder of the lab beside the core."""
    return Path(__file__).parents[2] / "fairrecon_lab"


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
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    part.replace(path)


def _source_text(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", repr(function))


def _show_figures() -> None:
    """Let a notebook show a `Figure` that was made without pyplot; nothing outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(shell, {"png"}, bbox_inches=None)
