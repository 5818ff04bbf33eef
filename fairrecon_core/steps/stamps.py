"""Is it still current? What every product of a run was made from, and one line that says why it is made anew.

A *stamp* is a dict of short texts: the inputs by content, the settings that matter by value, and the code by its parsed
source. It lies beside its product (`<product>.json`, or the card of weights). Code counts file by file: the module that
makes the product and all that it imports, as far as they are stages of the pipe. What enters by value or content does
not count as code (`BY_VALUE`), and neither does what only shows things (`SHOWING`), nor comments, docstrings, and the
colours and labels of an arm. What a reader of the notebooks defined, such as an arm of one's own, counts by its
compiled code, with all that it refers to outside the core.
"""

import ast
import dis
import hashlib
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fairrecon_core", "fairrecon_lab")
SHOWN_BY = ("plots", "widgets", "report", "explorer", "runner", "progress", "cli", "auditing", "engine")
SHOWING = tuple(f"fairrecon_lab.{room}" for room in SHOWN_BY)
# what settings, tables and cohorts hold is stamped by value or content; a step counts in its own products alone
BUT = ("fairrecon_core.cohort.pixels",)
BY_VALUE = tuple(f"fairrecon_core.{room}" for room in ("settings", "columns", "tables", "measures", "cohort", "steps"))
SHOWN = {"label", "colour", "marker", "line"}  # attributes of an arm's class that only show it
NOT_MADE = "not made yet"

Stamp = dict[str, str]


# ---------------------------------------------------------------------- what a product was made from
def stamp(*code: Any, settings: Mapping[str, Any] | None = None, **inputs: Any) -> Stamp:
    """What a product is made from.

    Parameters
    ----------
    *code : module names, functions, classes or objects
        Whatever computes it, see `code_of`.
    settings : mapping, optional
        The settings that matter, by name.
    **inputs
        Plain values; a `Path` counts by its content, a stamp by its digest. `_` in a name stands for a space.

    Returns
    -------
    dict of str to str
        For example {"the code of degrade/mri.py": "5d41...", "setting seed": "1", "weights": "9a0c..."}.
    """
    made: Stamp = {}
    for thing in code:
        made |= code_of(thing)
    made |= {f"setting {name}": repr(value) for name, value in (settings or {}).items()}
    return made | {name.replace("_", " "): _as_text(value) for name, value in inputs.items()}


def digest(made: Mapping) -> str:
    """A stamp, or any plain value, as one short text."""
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=repr).encode()).hexdigest()[:24]


def why(old: Mapping | None, new: Mapping) -> str:
    """Why a product with the stamp `old` must be made anew to have the stamp `new`; "" if it is current."""
    if old is None:
        return NOT_MADE
    changed = [key for key in new if old.get(key) != new[key]] + [key for key in old if key not in new]
    said = [_difference(key, old.get(key), new.get(key)) for key in changed]
    return "; ".join(said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else "")


def _difference(key: str, old: str | None, new: str | None) -> str:
    if old is None or new is None:
        return f"{key} {'counts now' if old is None else 'no longer counts'}"
    hidden = key.startswith("the code of ") or any(re.fullmatch("[0-9a-f]{24}", text) for text in (old, new))
    return f"{key} changed" if hidden else f"{key} is {new}, it was {old}"


def read_stamp(product: Path) -> dict | None:
    """What lies beside a product: its stamp and, perhaps, more; None if the product or its stamp is not there."""
    mark = product.with_suffix(".json")
    try:
        return json.loads(mark.read_text(encoding="utf-8")) if product.exists() else None
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def content_hash(items: Iterable) -> str:
    """Hash of `items`: plain values, and the content (never the times) of files and folders given as `Path`."""
    whole = hashlib.sha256()
    for item in items:
        if isinstance(item, Path):
            files = sorted(path for path in item.rglob("*") if path.is_file()) if item.is_dir() else [item]
            for file in files:
                whole.update(str(file.relative_to(item.parent)).encode() + _file_digest(file))
        else:
            whole.update(repr(item).encode() + b"\0")
    return whole.hexdigest()[:24]


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _as_text(value: Any) -> str:
    if isinstance(value, Path):
        return content_hash([value])
    if isinstance(value, Mapping):
        return digest(value)
    text = repr(value)
    return text if len(text) <= 60 else digest({"value": text})


# ---------------------------------------------------------------------- code
def code_of(thing: Any, values: bool = True) -> Stamp:
    """The code that `thing` runs: parsed files of our packages, compiled functions and classes of everybody else's.

    Parameters
    ----------
    thing : str, module, function, class or object
        A text is the name of a module of ours; an object counts by its class.
    values : bool
        Whether constants, arrays and tables that code of others refers to count as well.

    Raises
    ------
    RuntimeError
        A file was edited after this process had loaded it: what runs here is no longer what is written there.
    """
    tracer = _Tracer(values)
    tracer.trace(thing)
    return tracer.found


def module_code(module: str) -> Stamp:
    """Parsed code of a module of ours and of what it imports, without `SHOWING`; beyond itself without `BY_VALUE`."""
    return {code_name(name): parsed_digest(name) for name in sorted(_closure(module))}


def module_digests() -> Stamp:
    """Parsed code of every module of ours as it is written now, by `code_name`, without `SHOWING`."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    return {code_name(name): on_disk(name) for name in sorted(names) if is_code(name)}


def code_name(module: str) -> str:
    """How a module of ours is named in a stamp: `the code of degrade/mri.py`."""
    return f"the code of {_short(module)}"


def is_code(module: str) -> bool:
    """Whether a module of ours may decide a result; one of `SHOWING` does not."""
    return not _below(module, SHOWING)


@cache
def _closure(module: str) -> frozenset[str]:
    """Modules of ours that a module needs, itself included."""
    seen, ahead = {module}, [module]
    while ahead:
        for other in imported(ahead.pop()) - seen:
            if _counts(other):
                seen.add(other)
                ahead.append(other)
    return frozenset(seen)


@cache
def imported(module: str) -> frozenset[str]:
    """Modules of ours that a module imports, anywhere in its text."""
    return frozenset(imports_in(_file(module).read_text(encoding="utf-8"), module))


def imports_in(text: str, module: str = "") -> set[str]:
    """Modules of ours that Python text imports; `module` is the name of the module that the text is."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return {name for name in found if is_ours(name)} - {module}


@cache
def is_ours(module: str) -> bool:
    """Whether a name is that of a module of our packages."""
    return module.split(".")[0] in PACKAGES and _file(module).exists()


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _short(module: str) -> str:
    return _file(module).relative_to(ROOT).as_posix().removeprefix("fairrecon_core/")


def _counts(module: str) -> bool:
    """Whether a module counts as code of what uses it."""
    return module in BUT or (is_code(module) and not _below(module, BY_VALUE))


def _below(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


# A file may be edited while a notebook is open: the text that was loaded is read when this module is loaded, or when
# the file is first asked for, and an edit since then is refused.
_loaded: dict[str, str] = {}


def parsed_digest(module: str) -> str:
    """Digest of a module's parsed text, without comments, docstrings and what only shows an arm.

    Raises
    ------
    RuntimeError
        The file was edited after this process had loaded it.
    """
    now = _file(module).read_text(encoding="utf-8")
    before = _loaded.setdefault(module, now)
    if before != now and module in sys.modules and parsed_text(before) != parsed_text(now):
        raise RuntimeError(f"{_short(module)} was edited after it was loaded here: restart the kernel and run again")
    _loaded[module] = now
    return parsed_text(now)


def on_disk(module: str) -> str:
    """`parsed_digest` of what is written now, whatever was loaded."""
    return parsed_text(_file(module).read_text(encoding="utf-8"))


@cache
def parsed_text(text: str) -> str:
    """Digest of Python text as the interpreter sees it: without comments, docstrings and what only shows an arm."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for k, part in enumerate(node.body) if not _silent(part, node, k)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _silent(part: ast.stmt, parent: ast.AST, position: int) -> bool:
    """Whether a statement is a docstring, or says how an arm is shown."""
    if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
        return position == 0
    if not (isinstance(parent, ast.ClassDef) and isinstance(part, ast.Assign)):
        return False
    names = {name.id for target in part.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return bool(names & SHOWN) and names <= SHOWN | {"name"}


# ---------------------------------------------------------------------- code that is not ours
class _Tracer:
    """Collects the code of a thing, and of all that it refers to, in `found`."""

    def __init__(self, values: bool):
        self.values, self.found, self.seen = values, Stamp(), set[int]()

    def trace(self, thing: Any) -> None:
        """Add whatever code and constants `thing` stands for."""
        if isinstance(thing, str):
            self.found |= module_code(thing)
            return
        if id(thing) in self.seen:
            return
        self.seen.add(id(thing))
        home = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or ""
        if is_ours(home):
            self.found |= module_code(home) if _counts(home) else {}
        elif isinstance(thing, ModuleType):
            self._module(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, FunctionType):
            self._function(thing)
        else:
            self.trace(type(thing))

    def _all(self, things: Iterable) -> None:
        for thing in things:
            if isinstance(thing, FunctionType | type | ModuleType):
                self.trace(thing)

    def _add(self, name: str, text: str) -> None:
        """Add code under a name; several lambdas, say, may share one."""
        key, found = f"the code of {name}", self.found
        found[key] = text if found.get(key, text) == text else digest({"both": sorted([found[key], text])})

    def _module(self, module: ModuleType) -> None:
        """A file of the user's own, and the functions, classes and modules in it."""
        if module.__name__ != "__main__" and _is_local(module):
            self._add(module.__name__, parsed_text(inspect.getsource(module)))
            self._all(vars(module).values())

    def _class(self, kind: type) -> None:
        """A class that is not ours: its attributes, its methods, and its base classes."""
        if not _is_local(sys.modules.get(kind.__module__)):
            return
        plain = {}
        for name, value in sorted(vars(kind).items()):
            value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if isinstance(value, FunctionType):
                self.trace(value)
            elif not name.startswith("__") and name not in SHOWN:
                plain[name] = _constant(value)
        self._add(kind.__qualname__, digest(plain))
        self._all(base for base in kind.__bases__ if base is not object)

    def _function(self, function: FunctionType) -> None:
        """A function that is not ours: its compiled code, its defaults, and all that it refers to."""
        if not _is_local(sys.modules.get(function.__module__)):
            return
        given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        given += inspect.getclosurevars(function).nonlocals.values()
        names = sorted(_names(function.__code__) & function.__globals__.keys())
        used = [function.__globals__[name] for name in names]
        values = [names, [_constant(value) for value in [*used, *given]]] if self.values else []
        self._add(function.__qualname__, digest({"code": _instructions(function.__code__), "values": values}))
        self._all([*used, *given])


def _instructions(code: CodeType) -> list:
    """What the interpreter does, without names of files, numbers of lines and docstrings."""
    steps = [(step.opname, step.argval) for step in dis.get_instructions(code)]
    done = [(name, _instructions(value) if isinstance(value, CodeType) else _constant(value)) for name, value in steps]
    return [code.co_argcount, code.co_varnames, done]


def _names(code: CodeType) -> set[str]:
    """Global names and attributes that code and the functions inside it use."""
    inner = (_names(value) for value in code.co_consts if isinstance(value, CodeType))
    return set(code.co_names).union(*inner)


def _constant(value: Any) -> str:
    """A plain value, an array or a table as text; "" for what is neither."""
    if isinstance(value, str | int | float | complex | bytes | None):
        return repr(value)
    if isinstance(value, dict):
        return repr([(_constant(key), _constant(item)) for key, item in value.items()])
    if isinstance(value, list | tuple | set | frozenset):
        items = [_constant(item) for item in value]
        return repr(sorted(items) if isinstance(value, set | frozenset) else items)
    if isinstance(value, pd.DataFrame | pd.Series):
        return hashlib.sha256(pd.util.hash_pandas_object(value).to_numpy().tobytes()).hexdigest()
    if type(value).__module__ == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() if isinstance(value, np.ndarray) else ""


@cache
def _library_folders() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_local(module: ModuleType | None) -> bool:
    """Whether a module is neither Python's nor installed: a notebook, or a file of the user's own."""
    if module is None or module.__name__ == "__main__":
        return True
    path = getattr(module, "__file__", None) or ""
    return bool(path) and not any(folder in Path(path).resolve().parents for folder in _library_folders())


def parameters(thing: Any, without: Iterable[str] = ()) -> dict[str, Any]:
    """An object's class and own plain attributes, `without` some; where it computes never counts."""
    left_out = {"device", "inference_batch", *without}
    own = {key: value for key, value in vars(thing).items() if key not in left_out}
    kept = {key: value for key, value in own.items() if isinstance(value, str | int | float | tuple)}
    return {"class": type(thing).__name__, **dict(sorted(kept.items()))}


_loaded |= {name: _file(name).read_text(encoding="utf-8") for name in list(sys.modules) if is_ours(name)}
