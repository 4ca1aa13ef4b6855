"""How what a request costs, and what the daemon keeps in memory, grow with connections, callers, models, records and the size
of an answer. Instructions are counted where requests can be sent one after the other under callgrind; for the rest stands
what the kernel accounts."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import build
import instructions
import known
import valgrind
from rig import Rig
from subjects import Running, daemon

#: Before those that are counted under callgrind, on another connection.
FIRST = 100
MOST_CONNECTIONS = 5000
#: Connections over which records are made.
MAKERS = 32


@dataclasses.dataclass
class Sizes:
    connections: list[int]
    #: Of all connections together, and so many more for each size of the ledger.
    requests: int
    #: Under callgrind.
    counted: int
    under_callgrind: bool
    callers: list[int]
    models: list[int]
    records: list[int]
    #: Bytes of events in a stream, and how often it is asked for.
    streams: list[tuple[int, int]]


def full(records: int) -> Sizes:
    return Sizes(
        connections=[1, 16, 256, 1000, 4000],
        requests=20_000,
        counted=500,
        under_callgrind=True,
        callers=[1, 100, 1000, 10_000],
        models=[1, 100, 1000, 10_000],
        records=[0, *(size for size in (100_000, 1_000_000) if size < records), records],
        streams=[(1000, 5000), (10**6, 300), (10**8, 3), (10**9, 1)],
    )


#: Builds that tests use look for the kernel's vDSO, which valgrind hides: there requests are sent and not counted.
CHECK = Sizes([1, 3], 20, 5, False, [3], [3], [0, 50], [(1000, 2), (10**6, 1)])


def measure(rig: Rig, sizes: Sizes, only: str) -> str:
    """Tables of those whose name contains `only`."""
    text = f"build: {rig.programs.description}\n"
    for measured in [connections, callers, models, records, streams]:
        if only in measured.__name__:
            print(f"growth: {measured.__name__}", file=sys.stderr)
            text += "\n" + table(measured(rig, sizes))
    return text


def check(rig: Rig) -> None:
    """Fails if a figure is missing or a request failed."""
    for measured in [connections, callers, models, records, streams]:
        rows = measured(rig, CHECK)
        # What takes no hundredth of a second costs nothing here.
        must = [value for row in rows for name, value in row.items() if name.startswith(("RSS at", "bytes"))]
        if not must or not all(must):
            sys.exit(f"growth, {measured.__name__}: a figure is missing: {rows}")


Row = dict[str, float | str]


def connections(rig: Rig, sizes: Sizes) -> list[Row]:
    """All are open, and each has sent a request, before the requests that count begin on all at once."""
    rows = []
    # The upstream's connections are opened at once too. The daemon's number of places goes by the descriptors that it may have.
    kind = daemon("http1", connections=MOST_CONNECTIONS)
    for count in sizes.connections:
        with kind(rig) as running:
            told = load(rig, "counted", running, connections=count, requests=sizes.requests)
        row = {"connections": count, "CPU a request, µs": round(told["each"]["cpu_us"])}
        row |= {"of it in the kernel": round(told["each"]["kernel_us"]), "RSS at the end, MiB": mib(told["resident_kib"])}
        row["RSS a connection, KiB"] = round((told["resident_kib"] - told["resident_closed_kib"]) / count)
        rows.append(row)
    return rows


def callers(rig: Rig, sizes: Sizes) -> list[Row]:
    """The last entry is the one that fits."""
    rows = []
    for count in sizes.callers:
        row: Row = {"[[callers]]": count}
        for match in known.MATCHES:
            kind = daemon("http1", more=partial(known.entries, match=match, count=count))
            row[f"instructions a request, by {match}"] = counted(rig, kind, sizes, match=match)
        with daemon("http1", more=partial(known.entries, match="user", count=count))(rig) as running:
            row |= {"CPU of the start, ms": used(running).cpu_ms, "RSS at the start, MiB": used(running).resident_mib}
        rows.append(row)
    return rows


def models(rig: Rig, sizes: Sizes) -> list[Row]:
    """Requests ask for each model in turn. Its profile is known from the listing, or was learned when it was first asked for."""
    rows = []
    for count in sizes.models:
        row: Row = {"models": count}
        for reached, what in [("by-profile", "listed"), ("by-profile-unsaid", "learned")]:
            with rig.upstream_with("--models", str(count), "--reached", reached):
                row[f"instructions a request, profile {what}"] = counted(rig, daemon("http1"), sizes, models=count)
                with daemon("http1")(rig) as running:
                    row[f"RSS at the start, {what}, MiB"] = used(running).resident_mib
                    load(rig, "counted", running, requests=count, models=count)
                    row[f"RSS at the end, {what}, MiB"] = used(running).resident_mib
        rows.append(row)
    return rows


def records(rig: Rig, sizes: Sizes) -> list[Row]:
    """One state directory, which requests fill."""
    rows, had = [], 0
    build.TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=build.TARGET) as folder:
        state = Path(folder) / "state"
        kind = daemon("http1", state=state, ledger_bytes=1 << 40)
        for count in sizes.records:
            if count > had:
                with kind(rig) as running:
                    load(rig, "counted", running, requests=count - had, connections=MAKERS)
                had = count + MAKERS
            on_disk = sum(file.stat().st_size for file in state.rglob("*") if file.is_file())
            row: Row = {"records": had, "on disk, MiB": round(on_disk / (1 << 20))}
            row["instructions a request"] = counted(rig, kind, sizes)
            with kind(rig) as running:
                row |= {"CPU of the start, ms": used(running).cpu_ms, "RSS at the start, MiB": used(running).resident_mib}
                told = load(rig, "counted", running, requests=sizes.requests, connections=MAKERS)
                row |= {"CPU a request, µs": round(told["each"]["cpu_us"]), "RSS at the end, MiB": used(running).resident_mib}
            had += FIRST + sizes.counted + sizes.requests + MAKERS
            rows.append(row)
    return rows


def streams(rig: Rig, sizes: Sizes) -> list[Row]:
    """One after the other on one connection, as fast as they are read."""
    rows = []
    for size, count in sizes.streams:
        with daemon("http1")(rig) as running:
            told = load(rig, "flood", running, bytes=size, streams=count)
        row = {"bytes of a stream": told["bytes"], "streams": count, "CPU a stream, µs": round(told["each"]["cpu_us"])}
        row["CPU a MB, µs"] = round(told["each"]["cpu_us"] * 1e6 / told["bytes"])
        row |= {"RSS at the start, MiB": mib(told["resident_before_kib"]), "RSS at most, MiB": mib(told["resident_peak_kib"])}
        rows.append(row)
    return rows


def counted(rig: Rig, kind, sizes: Sizes, match: str = "", models: int = 0) -> int | str:
    """Instructions of each request on one connection. The start is not counted, nor are the first requests, in which each
    of these models is asked for."""
    is_counted = sizes.under_callgrind and shutil.which("valgrind")
    out = rig.folder / "callgrind.growth"
    out.unlink(missing_ok=True)
    if is_counted:
        rig.wrapper = valgrind.command("callgrind", out, "--instr-atstart=no")
    try:
        with kind(rig) as running:
            asked: dict = {"models": models}
            request = known.request(match, running.address)
            if request:
                asked = {"request": rig.folder / "request"}
                asked["request"].write_bytes(request)
            load(rig, "counted", running, requests=max(models, FIRST), **asked)
            if is_counted:
                count_instructions(running, "on")
            load(rig, "counted", running, requests=sizes.counted, **asked)
            if is_counted:
                count_instructions(running, "off")
    finally:
        rig.wrapper = []
    if not is_counted:
        return "NOT RUN: no valgrind"
    return round(instructions.total(out.read_text(errors="replace")) / sizes.counted)


def count_instructions(running: Running, state: str) -> None:
    command = ["callgrind_control", f"--instr={state}", str(running.processes[0])]
    subprocess.run(command, check=True, capture_output=True)


@dataclasses.dataclass
class Used:
    cpu_ms: int
    resident_mib: int


def used(running: Running) -> Used:
    """By the daemon so far, as the kernel accounts it."""
    home = Path(f"/proc/{running.processes[0]}")
    fields = (home / "stat").read_text().rsplit(")", 1)[1].split()
    resident = re.search(r"^VmRSS:\s+(\d+)", (home / "status").read_text(), re.MULTILINE)
    assert resident
    return Used((int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK"), mib(int(resident[1])))


def load(rig: Rig, command: str, running: Running, **options: object) -> dict:
    """Load of which nothing may fail, with what it takes of the daemon."""
    return rig.load(command, running.address, process=running.processes, **options)


def mib(kib: int) -> int:
    return round(kib / 1024)


def table(rows: list[Row]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[value if isinstance(value, str) else f"{value:,}" for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
