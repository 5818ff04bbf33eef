"""Fuzz of the readers: random faults in tables, films and volumes give an answer or our error, in bounded memory.

    python benchmarks/fuzz_inputs.py --tables 2000 --minutes 10 --json FILE

A child process with a limit of address space reads what is spoilt, so a crash, a hang (30 s) or a gigabyte that is
asked for shows as such. Not a test: the suite holds a short, repeatable part of it (tests/test_as_they_come.py).
"""

import argparse
import gzip
import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data_scripts")]
HEADROOM = 2**30  # bytes of address space that reading one input may add
PATIENCE = 30  # seconds for one input


def tables(rng) -> tuple[bytes, bytes]:
    """A sound pair of tables."""
    n = 60
    ids = [f"img{i:03d}" for i in range(n)]
    cohort = pd.DataFrame(
        {"image_id": ids, "patient_id": [f"p{i // 2}" for i in range(n)], "sex": ["female", "male"] * 30}
    )
    cohort["y_edema"] = rng.integers(0, 2, n)
    parts = [pd.DataFrame({"image_id": ids, "arm": arm, "task": "edema", "score": rng.random(n).round(3)})
             for arm in ("clean", "unet")]  # fmt: skip
    return pd.concat(parts).to_csv(index=False).encode(), cohort.to_csv(index=False).encode()


def spoilt_table(data: bytes, rng) -> bytes:
    """Up to four faults of cells, rows, columns, delimiters, encodings."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    words = [
        "",
        " ",
        "NA",
        "nan",
        "inf",
        "-1",
        "1e309",
        "0,5",
        '"',
        "'",
        "é",
        "\0",
        "999",
        "\u2028",
        "=1+1",
        "0x10",
        "1_0",
        "١",
    ]
    heads = ["sex", "fold", "split", "level", "arm", "", "sample", "train_seed", "cohort", "psnr_db", "score"]
    for _ in range(rng.integers(0, 5)):
        row, column = rng.integers(len(rows)), rng.integers(4)
        kind = rng.choice(["cell", "many", "drop", "twice", "reverse", "header", "column"])
        if kind == "cell":
            rows[row][column % len(rows[row])] = rng.choice(words)
        elif kind == "many":
            word = rng.choice(words)
            for line in rows[1 :: rng.integers(1, 6)]:
                line[column % len(line)] = word
        elif kind == "drop" and len(rows) > 1:
            del rows[row : row + rng.integers(1, 30)]
            rows = rows or [["x"]]
        elif kind == "twice":
            rows.insert(row, list(rows[row]))
        elif kind == "reverse":
            rows[row].reverse()
        elif kind == "header":
            rows[0][column % len(rows[0])] = rng.choice(heads)
        else:
            rows = [[*line, rng.choice(heads) if i == 0 else str(rng.integers(4))] for i, line in enumerate(rows)]
    raw = "\n".join(rng.choice([",", ",", ";", "\t", "|"]).join(line) for line in rows) if rng.random() < 0.1 else ""
    mark = rng.choice([",", ",", ";", "\t"])
    raw = (raw or "\n".join(mark.join(line) for line in rows)).encode(
        rng.choice(["utf-8", "utf-8", "utf-16", "cp1252"]), "replace"
    )
    return spoilt_bytes(raw, rng) if rng.random() < 0.2 else gzip.compress(raw) if rng.random() < 0.1 else raw


def spoilt_bytes(data: bytes, rng) -> bytes:
    """A few bytes changed, cut off, doubled or put in."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(data) or 1))
        kind = rng.integers(5)
        if kind == 0 and data:
            data[place] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = data[place : place + 64]
        elif kind == 3:
            data[place : place + 4] = rng.bytes(4)
        else:
            data[place : place + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


def films(rng) -> list[bytes]:
    """Sound films of several kinds."""
    grey = rng.integers(0, 255, (24, 32), dtype=np.uint8)
    kinds = [("PNG", grey), ("JPEG", grey), ("TIFF", grey), ("TIFF", np.stack([grey] * 3, 2))]
    kinds += [
        ("PNG", grey.astype(np.uint16) * 9),
        ("TIFF", grey.astype(np.float32)),
        ("TIFF", grey.astype(np.int32) - 9),
    ]
    out = []
    for form, pixels in kinds:
        file = io.BytesIO()
        options = (
            {"compression": rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])} if form == "TIFF" else {}
        )
        Image.fromarray(pixels).save(file, form, **options)
        out.append(file.getvalue())
    return out


def volumes(rng) -> list[bytes]:
    """Sound NIfTI volumes, not yet packed."""
    import nibabel

    kinds = (np.int16, np.uint8, np.float32, np.float64)
    return [nibabel.Nifti1Image(rng.integers(0, 200, (12, 12, 8)).astype(kind), np.diag([-1, -1, 1, 1])).to_bytes()
            for kind in kinds]  # fmt: skip


class OneFile:
    """A source that holds one file."""

    def __init__(self, data: bytes):
        self.data = data

    def read(self, name: str) -> bytes:
        """Its bytes, whatever the `name`."""
        return self.data


def read(kind: str, data) -> str:
    """Read one input; "read", "refused", or a traceback's last line."""
    import films as film_reader
    import ucsf_pdgm

    from fairrecon_lab.auditing.command import main

    try:
        if kind == "table":
            with (
                tempfile.TemporaryDirectory() as folder,
                redirect_stdout(io.StringIO()),
                redirect_stderr(io.StringIO()) as said,
            ):
                paths = [Path(folder) / name for name in ("p.csv", "c.csv")]
                for path, part in zip(paths, data):
                    path.write_bytes(part)
                answer = ("read", "", "refused")[main([*map(str, paths), "--n-boot", "100", "--thresholds", ".5"])]
                short = "allocate" in said.getvalue() or "MemoryError" in said.getvalue()
                return f"memory: {said.getvalue()[:200]}" if short else answer
        if kind == "film":
            pixels = film_reader.decode(data, "x")
            film_reader.to_square(
                film_reader.to_unit(pixels if pixels.ndim == 2 else pixels[..., 0], "image"), 16, "pad"
            )
        else:
            ucsf_pdgm.read_volume(OneFile(data), "x")
    except ValueError:
        return "refused"
    except BaseException as error:  # what a user would see as a traceback
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


def worker(pipe) -> None:
    """Answer inputs until told to stop, within a limit of memory."""
    rng = np.random.default_rng(0)
    for sound in (("table", tables(rng)), ("film", films(rng)[0]), ("volume", gzip.compress(volumes(rng)[0]))):
        if (answer := read(*sound)) != "read":  # imports first, and a reader that reads nothing proves nothing
            raise SystemExit(f"a sound {sound[0]} is not read: {answer}")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes there by itself
    while (task := pipe.recv()) is not None:
        before = time.perf_counter()
        answer = read(*task)
        pipe.send((answer, time.perf_counter() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


class Reader:
    """The child process, started again where it died or hung."""

    def __init__(self):
        self.start()

    def start(self) -> None:
        """Start it."""
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=worker, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, kind: str, data) -> tuple[str, float, int]:
        """What became of one input (`kind`, `data`), seconds, and the largest memory so far."""
        try:
            self.pipe.send((kind, data))
            if self.pipe.poll(PATIENCE):
                return self.pipe.recv()
            answer = "hang"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            answer = "crash"
        self.process.kill()
        self.start()
        return answer, float(PATIENCE), 0


def main() -> int:
    """Run; the exit status is 1 if anything but an answer or our error came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tables", type=int, default=2000)
    options.add_argument("--minutes", type=float, default=10, help="for films and volumes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", metavar="FILE")
    options.add_argument("--keep", metavar="FOLDER", help="write inputs that failed there")
    chosen = options.parse_args()
    rng, reader, counts, slowest, memory, failed = np.random.default_rng(chosen.seed), Reader(), {}, {}, 0, []

    def one(kind, data):
        nonlocal memory
        answer, seconds, used = reader.ask(kind, data)
        word = answer if answer in ("read", "refused") else "FAILED"
        counts.setdefault(kind, {}).setdefault(word, 0)
        counts[kind][word] += 1
        slowest[kind], memory = max(slowest.get(kind, 0), seconds), max(memory, used)
        if word == "FAILED":
            failed.append(f"{kind}: {answer}")
            print(failed[-1], flush=True)
            if chosen.keep:
                Path(chosen.keep).mkdir(parents=True, exist_ok=True)
                for i, part in enumerate(data if isinstance(data, tuple) else (data,)):
                    (Path(chosen.keep) / f"{len(failed):03}-{i}").write_bytes(part)

    sound = tables(rng)
    for _ in range(chosen.tables):
        one("table", tuple(spoilt_table(part, rng) if rng.random() < 0.7 else part for part in sound))
    until = time.time() + 60 * chosen.minutes
    while time.time() < until:
        for data in films(rng):
            one("film", spoilt_bytes(data, rng))
        for data in volumes(rng):
            one("volume", gzip.compress(spoilt_bytes(data[:400], rng) + data[400:], 1) if rng.random() < 0.8
                else spoilt_bytes(gzip.compress(data, 1), rng))  # fmt: skip
    reader.pipe.send(None)
    result = {"counts": counts, "slowest_s": slowest, "peak_memory_mb": memory >> 20, "failed": failed[:50]}
    print(json.dumps(result, indent=1))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
