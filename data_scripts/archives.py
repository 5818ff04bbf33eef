"""Downloads read as they are: folders, zip and tar archives, one file at a time, nothing unpacked.

Conventions: a file is named by its path inside the download, with `/`; a file in an archive in a folder by the path of
the archive and its own. A member whose path would leave its archive is refused, links in an archive are not followed
(those in a folder, which its owner made, are), and nothing is ever written.
"""

import os
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST = 2**28  # bytes of one file; anything above is no film, and may be an archive bomb
MOST_PACKED = 1100  # times that deflate makes a file smaller, at most
DAMAGED = (OSError, EOFError, ValueError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError,
           RuntimeError, NotImplementedError, Image.DecompressionBombError)  # fmt: skip


class Source:
    """The files of a download, wherever they lie, read one by one without unpacking anything; threads may share it.

    Parameters
    ----------
    path : path
        A folder (archives in it count as folders too), a zip or a tar.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    ValueError
        An archive is damaged, or holds a member whose path climbs out; the message names it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._places: dict[str, tuple] = {}  # name -> (reader, place in it)
        self._fetched: dict[str, bytes] = {}
        if self.path.is_dir():
            self._add_folder()
        elif self.path.exists():
            self._add_archive(self.path, "")
        else:
            raise FileNotFoundError(f"nothing at {self.path}: give the folder or the archive as downloaded")

    @property
    def in_turn(self) -> bool:
        """Whether files should be read in the order of `ordered`, as going back in a compressed tar is dear."""
        return any(getattr(reader, "compressed", False) for reader in {place[0] for place in self._places.values()})

    @property
    def names(self) -> Iterable[str]:
        """Paths of all files, in no particular order."""
        return self._places.keys()

    def read(self, name: str) -> bytes:
        """Bytes of the file `name`; ValueError if it is damaged or larger than a film can be."""
        if name in self._fetched:
            return self._fetched[name]
        reader, place = self._places[name]
        try:
            return reader.read(place)
        except DAMAGED as error:
            raise ValueError(f"{name} in {self.path} cannot be read ({error}): fetch it again") from error

    def find(self, *wanted: str, required: bool = True) -> str | None:
        """Name of the one file called like one of `wanted`, in whatever folder; case does not matter.

        Raises
        ------
        FileNotFoundError
            There is none, and it is `required`.
        ValueError
            There are several, and they differ.
        """
        known = {name.lower() for name in wanted}
        found = sorted((n for n in self.names if n.rpartition("/")[2].lower() in known), key=lambda n: (len(n), n))
        if not found and required:
            names = " or ".join(wanted)
            raise FileNotFoundError(f"no {names} in {self.path}: give the folder or archive as downloaded")
        if len({self.read(name) for name in found}) > 1:
            raise ValueError(f"{self.path} holds {' and '.join(found[:2])}, which differ: leave only one there")
        return found[0] if found else None

    def ordered(self, labels: dict[str, str]) -> list[str]:
        """File names (keys) sorted by their labels, numbers as numbers; in a compressed tar, in the order stored."""
        return sorted(labels, key=lambda name: (self._rank(name), natural(labels[name])))

    def prefetch(self, names: Iterable[str]) -> None:
        """Read files of a compressed tar, where going back is dear, in one go; elsewhere nothing. Forgets the last."""
        names = [name for name in names if self._rank(name)[1] is not None]
        if set(names) != set(self._fetched):
            self._fetched = {}
            self._fetched = {name: self.read(name) for name in sorted(names, key=self._rank)}

    def _rank(self, name) -> tuple:
        """Archive and offset of a file in a compressed tar; the same for every other file of its container."""
        reader, place = self._places[name]
        return (reader.order, place[0]) if getattr(reader, "compressed", False) else ("", None)

    def _add_folder(self) -> None:
        reader, seen = _Folder(self.path), set()
        for folder, folders, files in os.walk(self.path, followlinks=True):  # data often lie behind a link
            if os.path.realpath(folder) in seen:
                folders.clear()
                continue
            seen.add(os.path.realpath(folder))
            folders[:] = sorted(name for name in folders if not name.startswith("."))  # .git and its like
            for file in sorted(files):
                name = (Path(folder) / file).relative_to(self.path).as_posix()
                if file.lower().endswith(ARCHIVES):
                    self._add_archive(Path(folder) / file, name + "/")
                elif not _is_litter(name):
                    self._places[name] = (reader, name)

    def _add_archive(self, path, prefix) -> None:
        kind = _Zip if zipfile.is_zipfile(path) else _Tar
        try:
            reader = kind(path)
            members = reader.members()
        except DAMAGED as error:
            if isinstance(error, _Climbs):
                raise ValueError(str(error)) from None
            reason = str(error).partition(":\n")[0]
            raise ValueError(f"{path} is not a whole zip or tar archive ({reason}): download it again") from error
        for name, place in members.items():
            if not _is_litter(name):
                self._places[prefix + name] = (reader, place)


class _Climbs(ValueError):
    """A member of an archive would land outside of it."""


class _Folder:
    def __init__(self, path):
        self.path = path

    def read(self, name) -> bytes:
        _check_size((self.path / name).stat().st_size)
        return (self.path / name).read_bytes()


class _Zip:
    def __init__(self, path):
        self.path, self.file, self.lock = path, zipfile.ZipFile(path), threading.Lock()

    def members(self) -> dict:
        return {_inside(info.filename, self.path): info for info in self.file.infolist() if not info.is_dir()}

    def read(self, info) -> bytes:
        _check_size(info.file_size, info.compress_size)
        with self.lock:  # opening and closing count references without a lock of their own
            member = self.file.open(info)
        try:
            return member.read()
        finally:
            with self.lock:
                member.close()


class _Tar:
    def __init__(self, path):
        self.path, self.order, self.lock = path, str(path), threading.Lock()
        self.file = tarfile.open(path)  # noqa: SIM115
        try:
            tarfile.open(path, "r:").close()
            self.compressed = False
        except tarfile.ReadError:
            self.compressed = True

    def members(self) -> dict:
        found = {}
        while (info := self.file.next()) is not None:
            name = _inside(info.name, self.path)
            if info.isreg():  # links and devices are not read
                found[name] = (info.offset_data, info.size)
            self.file.members.clear()  # tarfile would keep every header
        return found

    def read(self, place) -> bytes:
        offset, size = place
        _check_size(size)
        with self.lock:
            self.file.fileobj.seek(offset)
            data = self.file.fileobj.read(size)
        if len(data) < size:
            raise EOFError("the archive ends too early")
        return data


def _inside(name: str, archive) -> str:
    """A member's path with `/`; refused if it climbs out of the archive."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (parts[0] == "" and len(parts) > 1) or parts[0].endswith(":"):
        raise _Climbs(
            f"{archive} holds {name!r}, a path that climbs out of the archive: nothing was read; "
            "download it again from its publisher"
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _is_litter(name: str) -> bool:
    """Whether a file is a leftover of a file manager."""
    return "__MACOSX/" in name or name.rpartition("/")[2].startswith(("._", ".DS_Store"))


def _check_size(n_bytes: int, packed: int | None = None) -> None:
    if n_bytes > LARGEST or (packed is not None and n_bytes > MOST_PACKED * (packed + 1)):
        raise ValueError(f"{n_bytes:,} bytes are more than a film can have")


def natural(name: str) -> list:
    """Sort key under which `slice_10` comes after `slice_9`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
