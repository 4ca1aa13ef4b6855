"""Instructions of the daemon for each request, as callgrind counts them: steady where times are not. The kernel's are not
among them. Valgrind knows no SHA instructions, so hashes count for more than they cost."""

import re
import shutil

import valgrind
from rig import Rig


def measure(rig: Rig, only: str) -> str:
    """A table. What callgrind has found is left under target/compare, for callgrind_annotate."""
    if not shutil.which("valgrind"):
        return "NOT RUN: instructions: valgrind is not installed"
    lines = [f"build: {rig.programs.description}\n", "| | instructions a request |", "|---|---|"]
    for name in valgrind.KINDS:
        if only in name:
            lines.append(f"| {name} | {a_request(rig, name):,} |")
    return "\n".join(lines)


def a_request(rig: Rig, name: str) -> int:
    """Instructions that each further request takes."""
    few, many = (total(valgrind.run(rig, name, requests, "callgrind")) for requests in valgrind.RUNS)
    return round(valgrind.of_each(few, many))


def total(profile: str) -> int:
    """All instructions of a profile that callgrind has written."""
    found = re.search(r"^totals: (\d+)", profile, re.MULTILINE)
    if not found:
        raise RuntimeError("callgrind has left no total")
    return int(found[1])
