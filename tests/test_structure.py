"""The shape of the core: imports go one way, the audit is light, and public names say what they do."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE, LAB = ROOT / "fairrecon_core", ROOT / "fairrecon_lab"
FILES = sorted([*CORE.rglob("*.py"), *LAB.rglob("*.py")])

# The pipe, then what teaches and shows: a room may import from rooms of a lower number. A new one gets a place here.
RANK = {name: rank for rank, rooms in enumerate((
    ["fairrecon_core.settings"], ["fairrecon_core.columns", "fairrecon_core.measures"], ["fairrecon_core.tables"],
    ["fairrecon_core.cohort"], ["fairrecon_core.degrade"],
    ["fairrecon_core.learn"], ["fairrecon_core.reconstruct"], ["fairrecon_core.predict"], ["fairrecon_core.audit"],
    ["fairrecon_core.steps"], ["fairrecon_lab.bootstrap"], ["fairrecon_lab.simulate"],
    ["fairrecon_lab.plots", "fairrecon_lab.widgets"],
    ["fairrecon_lab.auditing"], ["fairrecon_lab.paper"], ["fairrecon_lab.analysis"], ["fairrecon_lab.mitigation"],
    ["fairrecon_lab.explorer"], ["fairrecon_lab.report"],
    ["fairrecon_lab.progress"], ["fairrecon_lab.engine"], ["fairrecon_lab.runner"],
    ["fairrecon_lab.classroom"], ["fairrecon_lab.cli"],
)) for name in rooms}  # fmt: skip
HEAVY = {"torch", "torchvision", "lightning_fabric"}
AUDIT_MAY_IMPORT = {f"fairrecon_core.{room}" for room in ("settings", "columns", "measures", "tables", "audit")}
TRIVIAL, SHORT = 8, 15  # lines of a body that needs one sentence, and one that needs no section


def name_of(path):
    """Dotted module name of a file of the core."""
    parts = path.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def room(module):
    """The module or package right below `fairrecon_core` or `fairrecon_lab`; empty for these themselves."""
    return ".".join(module.split(".")[:2]) if "." in module else ""


def imports(path):
    """Modules of the core that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name_of(path).split(".")
            base = base if path.name == "__init__.py" else base[:-1]
            base = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            below = {f"{origin}.{alias.name}" for alias in node.names} & set(MODULES)
            names_module_itself = {alias.name for alias in node.names} - {name.rsplit(".", 1)[1] for name in below}
            found |= below | ({origin} if names_module_itself else set())
    return (found & set(MODULES)) - {name_of(path)}


def test_every_module_has_a_place_in_the_pipe():
    missing = {room(module) for module in MODULES} - {""} - set(RANK)
    assert not missing, f"give {sorted(missing)} a place in RANK, after everything that it imports"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for other in imports(MODULES[module]):
        assert room(module) == room(other) or RANK[room(module)] > RANK[room(other)], f"{module} imports {other}"


def test_no_imports_run_in_a_circle():
    graph, done = {module: imports(path) for module, path in MODULES.items()}, set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_the_audit_is_understood_from_ten_files():
    seen, ahead = set(), ["fairrecon_core.audit.change"]
    while ahead:
        module = ahead.pop()
        seen.add(module)
        ahead += imports(MODULES[module]) - seen
    assert len(seen) <= 10, sorted(seen)


def test_the_core_stays_thin():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CORE.rglob("*.py")}
    assert sum(lines.values()) <= 12_000
    assert not [f"{path.name} {n}" for path, n in lines.items() if n > 400]
    for path in lines:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
                assert len([name for name in names if not name.startswith("_")]) <= 12, f"{path.name}: {node.name}"


def test_the_core_knows_nothing_of_the_lab_and_no_step_compares_an_arm():
    for path in CORE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(from|import) fairrecon_lab", text), path.name
        if path.parent.name == "steps":
            arms = "degraded|tv|nlm|unet|pix2pix|sde|placebo|planted"
            assert not re.search(rf"""[=!]= ?["']({arms})["']|["']({arms})["'] [=!]=""", text), path.name


def test_the_audit_imports_nothing_but_tables():
    for module in MODULES:
        if room(module) == "fairrecon_core.audit":
            assert {room(other) for other in imports(MODULES[module])} <= AUDIT_MAY_IMPORT, module


@pytest.mark.parametrize("light", ["core.audit", "core.tables", "core.cohort", "lab.paper.numbers", "lab.auditing"])
def test_what_should_be_light_loads_no_torch(light):
    modules = [module for module in MODULES if f"{module}.".startswith(f"fairrecon_{light}.")]
    assert modules
    script = f"import sys, {', '.join(modules)}; print(sorted({HEAVY} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CORE.parent)
    assert answer.stdout.strip() == "[]"


# docstrings


def public(path):
    """Every public class, function and method of a file: label -> (node, docstrings of its module and class)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {"module": (tree, "")}
    for node in members(tree):
        found[node.name] = (node, text(tree))
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{child.name}": (child, text(tree) + text(node)) for child in members(node)}
    return found


def members(node):
    """Public classes and functions right inside a module or a class."""
    kinds = ast.ClassDef | ast.FunctionDef
    return [child for child in node.body if isinstance(child, kinds) and not child.name.startswith("_")]


def text(node):
    return ast.get_docstring(node) or ""


def n_lines(function):
    """Lines of the body without the docstring."""
    body = function.body[1:] if text(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def parameters(function):
    """Names of the parameters but self and cls."""
    every = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def raised(function):
    """Names of the errors that a function raises itself."""
    errors = [
        node.exc.func for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return {error.id for error in errors if isinstance(error, ast.Name) and error.id != "NotImplementedError"}


def overloads(function):
    return any("overload" in ast.unparse(decorator) for decorator in function.decorator_list)


def undocumented(function, around=""):
    """What the docstring of a function should say and does not; empty if all is well.

    Conventions that a whole file or class shares may stand in its docstring, `around`.
    """
    docs, n = text(function), n_lines(function)
    absent = [name for name in parameters(function) if not re.search(rf"(?<!\w){name}(?!\w)", docs + around)]
    if n > TRIVIAL and absent:
        return f"its {n} lines do not explain themselves: say what {', '.join(absent)} is"
    if n > SHORT and parameters(function) and "Parameters\n----------" not in docs:
        return f"{n} lines: give it a section Parameters"
    silent = [error for error in sorted(raised(function)) if error not in docs]
    return f"raises {', '.join(silent)} and does not say so" if silent else ""


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    without = [label for label, (node, _) in public(MODULES[module]).items() if not text(node)]
    assert not without, f"without a docstring: {', '.join(without)}"


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_say_what_goes_in_and_what_goes_wrong(module):
    """Parameters in a numpydoc section, or up to SHORT lines in a sentence that names them; errors by their name."""
    found = public(MODULES[module]).items()
    functions = {
        label: pair for label, pair in found if isinstance(pair[0], ast.FunctionDef) and not overloads(pair[0])
    }
    wanting = [f"{label}: {undocumented(*pair)}" for label, pair in functions.items() if undocumented(*pair)]
    assert not wanting, "\n".join(["", *wanting])


# the tests of this file can fail


def test_a_function_that_says_nothing_would_be_seen():
    silent = "def f(x):\n    '''Do it.'''\n" + "    x += 1\n" * 9 + "    raise ValueError(x)\n"
    function = ast.parse(silent).body[0]
    assert (n_lines(function), parameters(function), raised(function)) == (10, ["x"], {"ValueError"})
    assert "say what x is" in undocumented(function)
    assert "raises ValueError" in undocumented(ast.parse(silent.replace("Do it", "Add to x")).body[0])
    assert undocumented(ast.parse(silent.replace("Do it", "Add to x; ValueError at the end")).body[0]) == ""


def test_imports_of_a_known_file_are_seen():
    assert {"fairrecon_core.settings"} <= imports(CORE / "tables.py")
    assert {"fairrecon_core.tables", "fairrecon_core.cohort.splits"} <= imports(CORE / "cohort" / "folder.py")


# the map


def test_the_readme_and_the_folders_say_the_same():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text[text.index("## What is where") : text.index("## What these numbers")]
    for package in (CORE, LAB):
        part = text[text.index(f"| `{package.name}/`") :].split("\n\n")[0]
        told = set(re.findall(r"`([a-z_.]+?)/?`", part)) - {package.name}
        there = {path.name for path in package.iterdir() if not path.name.startswith("_")}
        assert told == there, f"README tells {told - there} that are not there, not {there - told}"
    below = {path.name for path in ROOT.iterdir() if path.is_dir() and (ROOT / path / "README.md").exists()}
    for folder in ("notebooks", "tests", "tools", "benchmarks", "results", "book", "data_scripts", "binder"):
        assert f"`{folder}/`" in text and (ROOT / folder).is_dir(), folder
    assert not below


def test_the_design_and_the_folders_say_the_same():
    path = ROOT.parent / "shared" / "DESIGN.md"
    if not path.exists():
        pytest.skip("DESIGN.md lies beside the clone on the machines that build this; it is not there")
    tree = path.read_text(encoding="utf-8").split("```")[1]
    for package in (CORE, LAB):
        part = tree[tree.index(f"{package.name}/") :].split("\n")[1:]
        lines = list(itertools.takewhile(lambda line: line.startswith("  "), part))
        rooms = {word for line in lines for word in re.findall(r"(?<!\S)([a-z_]+(?:/|\.py))(?!\S)", line[:30])}
        there = {path.name + "/" * path.is_dir() for path in package.iterdir()}
        assert rooms and rooms <= there, f"DESIGN names {sorted(rooms - there)}"
