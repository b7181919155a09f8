"""The rows of accuracy_judge.py as a table: for a terminal, and for docs/numerics.md."""

import re

from accuracy_cases import PYTORCH
from accuracy_judge import format_bound, format_error, format_number, format_place
from stubs import ROOT

PAGE = ROOT / "docs/numerics.md"
BEGIN, END = "<!-- accuracy table begin -->", "<!-- accuracy table end -->"
INTRODUCTION = f"""
## Beside PyTorch

Every case in which others had trouble, and one for each rule of exactness, computed by `scripts/accuracy` (which also
writes this table: `--write`) with the PyTorch of Debian 12 on a CPU, in the type that lossd is sent; the truth is
mpmath's, with 50 digits. What is not installed is represented by the formula it used, and says so. Shown is the loss
or, where only a gradient is wrong, the entry on which the peer is worst; an ulp is one of the answer's own type. The
last column begins with who is within the bounds above on every number, "both" or "lossd"; anything else fails the
script.

Rules of exactness: 1 large common offsets, 2 confident rows, 3 the true class's gradient, 4 no logarithm of an
underflowed softmax, 5 low-precision logits, 6 a row's bits do not depend on its place, 7 sizes in 64 bits.

{BEGIN}
{END}
"""

PROJECTS = {"pytorch": "pytorch/pytorch", "flash-attention": "Dao-AILab/flash-attention", "mlx": "ml-explore/mlx",
            "optax": "google-deepmind/optax", "apple/ml-cross-entropy": "apple/ml-cross-entropy",
            "Liger": "linkedin/Liger-Kernel", "trl": "huggingface/trl", "fla": "fla-org/flash-linear-attention",
            "tinker-cookbook": "thinking-machines-lab/tinker-cookbook"}


# ---- as text ---------------------------------------------------------------------------------------------------------


def cells(row):
    def answer(side):
        return side.says[:60] if side.entry is None else format_number(side.entry.value)

    def error(side):
        return "" if side.entry is None else format_error(side.entry)

    place = next((format_place(side.entry) for side in (row.peer, row.lossd) if side.entry), "")
    return (f"{row.case.name} ({row.case.issues})", row.case.input, place, row.truth, row.case.peer_name,
            answer(row.peer), error(row.peer), answer(row.lossd), error(row.lossd), format_bound(row.lossd.entry),
            row.verdict)


HEADER = ("case", "input", "number", "truth", "peer", "peer's answer", "its error", "lossd's answer", "its error",
          "bound", "right")


def as_text(table):
    lines = [HEADER, *map(cells, table)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


# ---- as Markdown -----------------------------------------------------------------------------------------------------


def linked(issues):
    """'mlx 4188' as a link to it; rules as they are."""
    def link(match):
        project, number = match.groups()
        return f"[{project} {number}](https://github.com/{PROJECTS[project]}/issues/{number})"

    return re.sub(rf"({'|'.join(PROJECTS)}) (\d+)", link, issues)


def markdown_error(entry):
    """In ulp where few, in percent where many."""
    if format_error(entry) in ("exact", "wrong"):
        return format_error(entry)
    if entry.ulps >= 100:
        return f"{100 * float(entry.relative):,.0f} % off"
    return f"{float(entry.ulps):.2g} ulp" + (f" of {entry.dtype}" if entry.dtype != "float32" else "")


def markdown_answer(side):
    if side.entry is None:
        says = re.sub(r"\s+", " ", side.says).replace("|", "\\|")
        return f"`{says[:97] + '...' if len(says) > 100 else says}`" if says else "no numbers"
    return f"`{format_number(side.entry.value)}` ({markdown_error(side.entry)})"


def markdown_row(row):
    peer = markdown_answer(row.peer)
    if row.case.peer_name != PYTORCH:
        peer = f"{row.case.peer_name}: {peer}"
    truth = f"; truth of {format_place(row.lossd.entry)} `{row.truth}`" if row.lossd.entry else ""
    return (f"| {row.case.name} ({linked(row.case.issues)}): {row.case.input} | {peer} "
            f"| {markdown_answer(row.lossd)} | {row.verdict}{truth}; {row.case.why} |")


def as_markdown(table):
    return "\n".join(["| case | PyTorch | lossd | why |", "|---|---|---|---|", *map(markdown_row, table)])


def write(table):
    """Replaces what is between the markers of docs/numerics.md; makes the section where there is none."""
    page = PAGE.read_text()
    if BEGIN not in page:
        page = page.rstrip("\n") + "\n" + INTRODUCTION
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{as_markdown(table)}\n{END}{rest.split(END)[1]}")
