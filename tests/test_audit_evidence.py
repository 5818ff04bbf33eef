"""Evidence of an audit: what was changed afterwards is named, and what was declared before is held."""

import json
import shutil

import pytest
from test_audit_page import tables

from fairrecon_lab.auditing import evidence, run
from fairrecon_lab.auditing.command import main
from fairrecon_lab.cli import main as fairrecon


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with inputs, a plan, and the evidence of an audit that was declared."""
    folder = tmp_path_factory.mktemp("kept")
    results, cohort = tables()
    results.to_csv(folder / "scores.csv", index=False)
    cohort.to_csv(folder / "people.csv", index=False)
    assert fairrecon(["plan", "--groups", "150,150", "--margin", "0.1", "--out", str(folder / "plan.json")]) == 0
    assert main(line(folder, "--declared", str(folder / "plan.json"), "--evidence", str(folder / "audit"))) == 0
    return folder


def line(folder, *more, margin="0.1"):
    files = [str(folder / "scores.csv"), str(folder / "people.csv")]
    return [*files, "--attribute", "sex", "--margin", margin, "--n-boot", "100", *more]


@pytest.fixture
def copy(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_nobody_touched_is_the_same_also_elsewhere(copy, capsys):
    assert fairrecon(["verify", str(copy / "audit")]) == 0
    assert "byte for byte" in capsys.readouterr().out
    (copy / "moved").mkdir()
    for name in ("scores.csv", "people.csv", "plan.json"):
        (copy / name).rename(copy / "moved" / name)
    said = evidence.verify(copy / "audit")
    assert len(said) == 3 and all("is not there: say --inputs" in text for text in said)
    assert evidence.verify(copy / "audit", copy / "moved") == []


def test_a_changed_input_is_named_with_what_it_moves(copy):
    rows = (copy / "scores.csv").read_text().splitlines()
    head, image, task = rows[0], *rows[1].split(",")[:2]
    assert head == "image_id,task,score"
    (copy / "scores.csv").write_text("\n".join([head, f"{image},{task},0.9999", *rows[2:]]) + "\n")
    said = evidence.verify(copy / "audit")
    assert "scores.csv has changed: its SHA-256 was" in said[0]
    assert any("rates.csv is not what the audit gives: row" in text for text in said)


def test_a_changed_option_is_named(copy):
    path = copy / "audit" / evidence.RECORD
    record = json.loads(path.read_text())
    record["choices"]["min_support"] = 140
    path.write_text(json.dumps(record))
    said = evidence.verify(copy / "audit")
    assert "choice min_support: 140 recorded, the recorded command says 10" in said
    assert any("min_support 10, not 140" in text for text in said)  # and it is not what was declared


def test_an_option_changed_in_command_and_choices_is_seen_on_page_and_in_table(copy):
    path = copy / "audit" / evidence.RECORD
    record = json.loads(path.read_text())
    record["choices"]["seed"], record["command"] = 5, [*record["command"], "--seed", "5"]
    path.write_text(json.dumps(record))
    said = evidence.verify(copy / "audit")
    assert any("report.html is not what the audit gives" in text for text in said)
    assert any("rates.csv is not what the audit gives" in text for text in said)


@pytest.mark.parametrize("name", ["rates.csv", "report.html", "summary.txt"])
def test_a_changed_byte_is_named_even_with_its_hash(copy, name):
    path = copy / "audit" / name
    data = bytearray(path.read_bytes())
    at = data.index(b"0.", len(data) // 2) + 2
    data[at] = data[at] ^ 1  # another digit
    path.write_bytes(bytes(data))
    said = evidence.verify(copy / "audit")
    assert [text for text in said if f"{name} has changed since it was recorded" in text]
    record = json.loads((copy / "audit" / evidence.RECORD).read_text())
    record["files"][name] = evidence.digest(path)
    (copy / "audit" / evidence.RECORD).write_text(json.dumps(record))
    (again,) = evidence.verify(copy / "audit")
    assert f"{name} is not what the audit gives" in again
    if name == "rates.csv":
        row = data[:at].count(b"\n") + 1
        assert f"row {row}, column " in again


def test_another_version_and_a_missing_file_are_named(copy):
    path = copy / "audit" / evidence.RECORD
    record = json.loads(path.read_text())
    record["versions"]["numpy"] = "0.1"
    path.write_text(json.dumps(record))
    (copy / "audit" / "summary.txt").unlink()
    said = evidence.verify(copy / "audit")
    assert any(text.startswith("version of numpy: 0.1 recorded") for text in said)
    assert any("summary.txt is not there" in text for text in said) and len(said) == 2


def test_a_folder_without_a_record_is_one_line(tmp_path, capsys):
    assert fairrecon(["verify", str(tmp_path)]) == 2
    (tmp_path / evidence.RECORD).write_text("{")
    assert fairrecon(["verify", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "has no evidence.json" in lines[0] and "is damaged" in lines[1] and len(lines) == 2


def test_evidence_overwrites_nothing_that_is_not_its_own(kept, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(line(kept, "--evidence", str(tmp_path))) == 2
    assert "other files" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("more", "margin", "says"),
    [
        ((), "0.05", "margin of rate 0.1, not 0.05"),
        (("--min-support", "5"), "0.1", "min_support 10, not 5"),
        (("--value", "seconds:s:2"), "0.1", "no margin of seconds, and here is 2"),
    ],
)
def test_what_differs_from_what_was_declared_is_refused_before_scores_are_read(
    kept, tmp_path, capsys, more, margin, says
):
    missing = ["nothing.csv", *line(kept, "--declared", str(kept / "plan.json"), *more, margin=margin)[2:]]
    assert main([*missing, "--out", str(tmp_path / "out.csv")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said and "nothing.csv" in said and not list(tmp_path.iterdir())


def test_a_file_that_declares_nothing_is_refused(kept, tmp_path, capsys):
    (tmp_path / "x.json").write_text("[]")
    assert main(line(kept, "--declared", str(tmp_path / "x.json"))) == 2
    assert "is no file of 'fairrecon plan --out'" in capsys.readouterr().err


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path):
    nothing = tmp_path / "nothing"
    nothing.symlink_to("/dev/null")
    assert run.write_whole(nothing, b"x") == nothing and nothing.is_symlink()
    assert run.write_whole(tmp_path / "page.html", b"x").read_bytes() == b"x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nothing", "page.html"]
