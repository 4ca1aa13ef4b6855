"""The daemon under a tool of valgrind: what starting and ending cost is in a run of few requests as in one of many, and so not
in their difference."""

import re
from pathlib import Path

import build
from rig import Rig
from subjects import daemon

#: ConverseStreams that come as fast as they are read.
STREAMS = "ours, ConverseStream"
#: Of the events of such a stream: as many as fit into one TLS record, so that each run reads them in the same pieces.
STREAM_BYTES = 12_000
KINDS = {
    "ours": daemon("http1"),
    "ours, HTTP/2 up": daemon("http2"),
    "ours, SigV4": daemon("http1", signs=True),
    STREAMS: daemon("http1"),
    "ours, table that answers at once": daemon("http1", table="stand-in"),
}
#: Those that tests/instructions holds to committed figures. How many records a shipment takes, and how many frames HTTP/2
#: reads at once, depends on the clock.
GATED = ["ours", "ours, SigV4", STREAMS]
#: Requests of the two runs.
RUNS = FEW, MANY = 200, 1200


def of_each(few: float, many: float) -> float:
    """What each further request has taken, by what both runs have taken."""
    return (many - few) / (MANY - FEW)


def run(rig: Rig, name: str, requests: int, tool: str, *options: str) -> str:
    """What a tool has written of a daemon that has answered so many requests on one connection. The file stays under
    target/compare."""
    out = build.TARGET / "compare" / f"{tool}.{re.sub('[^A-Za-z0-9]+', '-', name)}.{requests}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    rig.wrapper = command(tool, out, *options)
    try:
        with KINDS[name](rig) as running:
            if name == STREAMS:
                rig.load("flood", running.address, bytes=STREAM_BYTES, streams=requests)
            else:
                rig.load("counted", running.address, requests=requests)
    finally:
        rig.wrapper = []
    if not out.exists():
        raise RuntimeError(f"{tool} has not written {out}")
    return out.read_text(errors="replace")


def command(tool: str, out: Path, *options: str) -> list:
    return ["valgrind", f"--tool={tool}", "--quiet", f"--{tool}-out-file={out}", *options]
