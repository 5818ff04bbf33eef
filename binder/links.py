"""Addresses that open a notebook on mybinder.org, and the badge for the README.

    python binder/links.py              one Markdown line per notebook
    python binder/links.py --ref v0.1   of a tag or commit: a tag's image is built once and kept

The repository is named in one place, pyproject.toml: `[project.urls]`, key `Repository`.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
BINDER = "https://mybinder.org"
VOILA = ("explorer",)  # notebooks that are shown as a page, without their code


def repository(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """Address of the public repository.

    Raises
    ------
    LookupError
        pyproject.toml does not name it; the message says where to.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository", "")
    if not address:
        raise LookupError('the public repository is not named yet: add Repository = "https://..." to [project.urls]')
    return address.removesuffix("/").removesuffix(".git")


def source(address: str, ref: str) -> str:
    """The part of a Binder address that names a repository and a branch, tag or commit."""
    host, path = urlsplit(address).netloc, urlsplit(address).path.strip("/")
    if host == "github.com":
        return f"gh/{path}/{quote(ref, safe='')}"
    if host == "gitlab.com":
        return f"gl/{quote(path, safe='')}/{quote(ref, safe='')}"
    return f"git/{quote(address, safe='')}/{quote(ref, safe='')}"


def launch(notebook: str, address: str, ref: str = "main") -> str:
    """Address that starts the repository on Binder and opens a notebook, such as "02_mri_undersampling"."""
    view = "voila/render" if notebook in VOILA else "lab/tree"
    return f"{BINDER}/v2/{source(address, ref)}?urlpath={view}/notebooks/{quote(notebook)}.ipynb"


def badge(notebook: str, address: str, ref: str = "main") -> str:
    """Markdown of the badge that opens a notebook."""
    return f"[![Open on Binder]({BINDER}/badge_logo.svg)]({launch(notebook, address, ref)})"


def main(argv: list[str] | None = None) -> int:
    """Print a line per notebook; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ref", default="main", help="branch, tag or commit")
    options.add_argument("--repository", default="", help="instead of the one in pyproject.toml")
    chosen = options.parse_args(argv)
    try:
        address = chosen.repository or repository()
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    print(badge("00_start_here", address, chosen.ref))
    for path in sorted((ROOT / "notebooks").glob("[0-9e]*.ipynb")):
        print(f"- [{path.stem}]({launch(path.stem, address, chosen.ref)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
