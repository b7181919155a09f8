"""lossd beside PyTorch and others: accuracy.py [--markdown] [--write]. scripts/accuracy runs it.

Starts lossd, asks every case of accuracy_cases.py of it and of the case's peer, and compares both with mpmath.
Exit code 1 where lossd is outside its documented bound.
"""

import argparse
import sys
import time

import stubs

# All others import the stubs, so nothing here may import them before main() made those.


def rows(server):
    from accuracy_cases import CASES
    from accuracy_judge import run

    for number, case in enumerate(CASES, 1):
        print(f"[{number:2}/{len(CASES)}] {case.name} ({case.issues})", file=sys.stderr, flush=True)
        yield run(case, server)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/numerics.md has it")
    parser.add_argument("--write", action="store_true", help="put the table into docs/numerics.md")
    arguments = parser.parse_args()
    with stubs.generate():
        import accuracy_table
        from process import Lossd

        start = time.monotonic()
        with Lossd() as server:
            table = list(rows(server))
    print((accuracy_table.as_markdown if arguments.markdown else accuracy_table.as_text)(table))
    if arguments.write:
        accuracy_table.write(table)
    failed = [row.case.name for row in table if not row.passed]
    print(f"{len(table)} rows in {time.monotonic() - start:.1f} s; lossd outside its bound: {failed or 'nowhere'}",
          file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
