"""`fairrecon audit scores.csv`, or `predictions.csv cohort.csv`: the audit from a shell, for anybody's tables."""

import sys

from fairrecon_lab.auditing.options import parse


def main(argv: list[str] | None = None) -> int:
    """Run the audit, write its tables if asked for, and print who was audited and the summary.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: the command line's.

    Returns
    -------
    status : int
        0, or 2 with one line on stderr when the tables do not fit.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    options = parse(argv)
    for stream in (sys.stdout, sys.stderr):  # a console without a character shows a mark in its place
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    from fairrecon_lab.auditing import evidence, page, run  # here, so that --help answers at once

    try:
        if options.declared:
            evidence.refuse_undeclared(options)
        found = run.run(options)
        said = [run.write(table, path) for table, path in run.files(found, options.out)]
        unseen = {}
        if options.report:
            report = page.AuditReport(found, options)
            unseen = {"bounds": report.unrecorded, "search": report.search}
            said.append(f"Page written to {report.save(options.report)}")
        if options.evidence:
            said.append(evidence.keep(found, options, argv))
        if options.json:
            text = run.as_json(found, options, **unseen)
            if options.json == "-":
                print(text)
                return 0
            run.write_whole(options.json, f"{text}\n".encode())
            said.append(f"JSON written to {options.json}")
        print(found.text, end="")
        print("".join(f"{line}\n" for line in said), end="")
    except (ValueError, OSError, MemoryError, ImportError) as error:
        print(f"error: {run.with_files(error, options)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
