"""Instructions of the daemon for each request, as callgrind counts them: steady where times are not. The kernel's are not
among them. Valgrind knows no SHA instructions, so hashes count for more than they cost."""

import re
import shutil

import build
from rig import Rig
from subjects import daemon

KINDS = {
    "ours": daemon("http1"),
    "ours, HTTP/2 up": daemon("http2"),
    "ours, SigV4": daemon("http1", signs=True),
    "ours, table that answers at once": daemon("http1", table="stand-in"),
}
#: Those that tests/instructions holds to committed figures. How many records a shipment takes, and how many frames HTTP/2
#: reads at once, depends on the clock.
GATED = ["ours", "ours, SigV4"]
#: Requests of the two runs. What starting and ending costs is in both, and so is not in their difference.
FEW, MANY = 200, 1200


def measure(rig: Rig, only: str) -> str:
    """A table. What callgrind has found is left under target/compare, for callgrind_annotate."""
    if not shutil.which("valgrind"):
        return "NOT RUN: instructions: valgrind is not installed"
    lines = [f"build: {rig.programs.description}\n", "| | instructions a request |", "|---|---|"]
    for name in KINDS:
        if only in name:
            lines.append(f"| {name} | {a_request(rig, name):,} |")
    return "\n".join(lines)


def a_request(rig: Rig, name: str) -> int:
    """Instructions that each further request takes."""
    few, many = (count(rig, name, requests) for requests in (FEW, MANY))
    return round((many - few) / (MANY - FEW))


def count(rig: Rig, name: str, requests: int) -> int:
    """Instructions of a daemon that answers so many requests on one connection."""
    out = build.TARGET / "compare" / f"callgrind.{re.sub('[^A-Za-z0-9]+', '-', name)}.{requests}"
    out.parent.mkdir(parents=True, exist_ok=True)
    rig.wrapper = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={out}"]
    with KINDS[name](rig) as running:
        rig.load("counted", running.address, requests=requests)
    total = re.search(r"^(?:summary|totals): (\d+)", out.read_text(errors="replace"), re.MULTILINE)
    if not total:
        raise RuntimeError(f"callgrind has left no total in {out}")
    return int(total[1])
