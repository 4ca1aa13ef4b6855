"""How what a request costs, and what the daemon keeps in memory, grow with connections, callers, models, records and the size
of an answer. Instructions are counted where a request can be counted under callgrind; for the rest stands what the kernel
accounts."""

import dataclasses
import datetime
import hashlib
import hmac
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import instructions
import valgrind
from rig import Rig
from subjects import Running, daemon

MIB = 1 << 20
#: How an entry of [[callers]] is matched.
MATCHES = ["user", "group", "token", "key"]
#: The secret of every local key: what has to be looked for is the key's identifier.
SECRET = "local/secret/of/forty/characters/0123456"


@dataclasses.dataclass
class Sizes:
    connections: list[int]
    #: Requests of all connections together, and those that are counted under callgrind.
    requests: int
    counted: int
    callers: list[int]
    models: list[int]
    records: list[int]
    #: Bytes of an answer, and how often it is asked for.
    answers: list[tuple[int, int]]


def full(records: int) -> Sizes:
    return Sizes(
        connections=[1, 16, 256, 1000, 4000],
        requests=20_000,
        counted=500,
        callers=[1, 100, 1000, 10_000],
        models=[1, 100, 1000, 10_000],
        records=[0, *(10**power for power in range(4, 12) if 10**power < records), records],
        answers=[(1000, 5000), (10**6, 300), (10**8, 3), (10**9, 1)],
    )


CHECK = Sizes([1, 3], 20, 10, [1, 3], [1, 3], [0, 20], [(1000, 2), (10**6, 1)])
#: As many connections when records are loaded.
LOADERS = 32


def measure(rig: Rig, sizes: Sizes, only: str) -> str:
    """Tables of those whose name contains `only`."""
    tables = {
        "connections": connections,
        "callers": callers,
        "models": models,
        "records": records,
        "answers": answers,
    }
    text = f"build: {rig.programs.description}\n"
    for name, table in tables.items():
        if only not in name:
            continue
        print(f"growth: {name}", file=sys.stderr)
        text += "\n" + table(rig, sizes)
    return text


def connections(rig: Rig, sizes: Sizes) -> str:
    rows = []
    for count in sizes.connections:
        with daemon("http1")(rig) as running:
            told = load(rig, "counted", running, connections=count, requests=sizes.requests)
        each = told["each"]
        more = (told["resident_kib"] - told["resident_closed_kib"]) / count
        rows.append([count, f"{each['cpu_us']:.0f}", f"{each['kernel_us']:.0f}", f"{told['resident_kib'] / 1024:.0f}", f"{more:.1f}"])
    heads = ["connections", "CPU a request, µs", "of it in the kernel", "RSS, MiB", "RSS a connection, KiB"]
    return table(heads, rows)


def callers(rig: Rig, sizes: Sizes) -> str:
    """The entry that fits is the last."""
    rows = []
    for count in sizes.callers:
        counted = []
        for match in MATCHES:
            kind = daemon("http1", more=lambda folder: entries(folder, match, count))  # noqa: B023
            counted.append(a_request(rig, kind, sizes.counted, signed if match == "key" else None, match == "token"))
        with daemon("http1", more=lambda folder: entries(folder, "user", count))(rig) as running:  # noqa: B023
            at_start = used(running)
        rows.append([count, *counted, f"{at_start.cpu_ms:.0f}", f"{at_start.resident_mib:.0f}"])
    heads = ["callers", *(f"instructions a request, by {match}" for match in MATCHES), "CPU of the start, ms", "RSS, MiB"]
    return table(heads, rows)


def models(rig: Rig, sizes: Sizes) -> str:
    """Of the listing, by their profiles; and those that are learned by asking for each."""
    rows = []
    for count in sizes.models:
        figures = []
        for reached in ["by-profile", "by-profile-unsaid"]:
            with rig.upstream_with("--models", str(count), "--reached", reached):
                figures.append(a_request(rig, daemon("http1"), sizes.counted, models=count, warm=count))
                with daemon("http1")(rig) as running:
                    rig.load("counted", running.address, requests=count, models=count)
                    figures.append(f"{used(running).resident_mib:.0f}")
        rows.append([count, *figures])
    heads = ["models", "instructions a request, profile listed", "RSS, MiB", "instructions a request, profile learned", "RSS, MiB"]
    return table(heads, rows)


def records(rig: Rig, sizes: Sizes) -> str:
    """Records of requests that the daemon has answered before, in one state directory that grows."""
    rows, had = [], 0
    with tempfile.TemporaryDirectory(prefix="growth-", dir=valgrind.build.TARGET) as folder:
        state = Path(folder) / "state"
        kind = daemon("http1", state=state, ledger_bytes=1 << 40)
        for count in sizes.records:
            if count > had:
                with kind(rig) as running:
                    rig.load("counted", running.address, requests=count - had, connections=min(LOADERS, count - had))
            counted = a_request(rig, kind, sizes.counted)
            with kind(rig) as running:
                start, before = running.start_ms or 0, used(running)
                load(rig, "counted", running, requests=sizes.requests, connections=min(LOADERS, sizes.requests))
                after = used(running)
            each = (after.cpu_ms - before.cpu_ms) * 1000 / sizes.requests
            disk = sum(file.stat().st_size for file in state.rglob("*") if file.is_file()) / MIB
            had = max(count, had) + sizes.requests + sizes.counted
            rows.append([count, counted, f"{each:.0f}", f"{start:.0f}", f"{before.resident_mib:.0f}", f"{after.resident_mib:.0f}", f"{disk:,.0f}"])
    heads = ["records", "instructions a request", "CPU a request, µs", "start to ready, ms", "RSS at the start, MiB"]
    return table([*heads, "RSS after requests, MiB", "on disk, MiB"], rows)


def answers(rig: Rig, sizes: Sizes) -> str:
    rows = []
    for size, count in sizes.answers:
        with daemon("http1")(rig) as running:
            told = load(rig, "flood", running, bytes=size, streams=count)
        cpu = told["each"]["cpu_us"]
        peak, before = (told[name] / 1024 for name in ("resident_peak_kib", "resident_before_kib"))
        rows.append([size, f"{cpu:,.0f}", f"{cpu / told['bytes'] * 1e6:,.0f}", f"{before:.0f}", f"{peak:.0f}"])
    return table(["bytes of a stream", "CPU a stream, µs", "CPU a MB, µs", "RSS before, MiB", "RSS at most, MiB"], rows)


def entries(folder: Path, match: str, count: int) -> str:
    """So many [[callers]]."""
    (folder / "key").touch(0o600)
    (folder / "key").write_text(SECRET)
    text = ""
    for number in range(1, count + 1):
        # Names of nobody, but for the last.
        of_nobody = 1_000_000 + number
        match match:
            case "user":
                criterion = f'users = ["{os.getuid() if number == count else of_nobody}"]'
            case "group":
                criterion = f'groups = ["{os.getgid() if number == count else of_nobody}"]'
            case "token":
                file = folder / f"token-{number}"
                file.touch(0o600)
                file.write_text(token(number if number < count else 0))
                criterion = f'bearer_token_file = "{file}"'
            case _:
                criterion = f'access_key_id = "{access_key(number if number < count else 0)}"\n'
                criterion += f'secret_access_key_file = "{folder / "key"}"'
        text += f'[[callers]]\nname = "caller-{number}"\n{criterion}\n'
    return text


def token(number: int) -> str:
    return f"a-local-token-of-callers-{number:06}"


def access_key(number: int) -> str:
    return f"LOCALKEY{number:06}"


def a_request(rig: Rig, kind, count: int, authorise=None, has_token: bool = False, models: int = 0, warm: int = 0) -> str:
    """Instructions of each of so many requests on one connection. Those before, and the start, are not counted."""
    if not shutil.which("valgrind"):
        return "NOT RUN"
    out = rig.folder / "callgrind.growth"
    out.unlink(missing_ok=True)
    rig.wrapper = valgrind.command("callgrind", out, "--instr-atstart=no")
    try:
        with kind(rig) as running:
            asked = {"models": models} if models else {}
            if authorise or has_token:
                file = rig.folder / "request"
                file.write_bytes(authorise(running.address) if authorise else bearing(running.address))
                asked = {"request": file}
            rig.load("counted", running.address, requests=warm + 100, **asked)
            control(running, "on")
            rig.load("counted", running.address, requests=count, **asked)
            control(running, "off")
    finally:
        rig.wrapper = []
    return f"{instructions.total(out.read_text(errors='replace')) / count:,.0f}"


def control(running: Running, state: str) -> None:
    command = ["callgrind_control", f"--instr={state}", str(running.processes[0])]
    subprocess.run(command, check=True, capture_output=True)


BODY = b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":512,"messages":[{"role":"user","content":"hello"}]}'
PATH = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke"


def request(address: str, headers: dict[str, str]) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", f"host: {address}", "content-type: application/json", f"content-length: {len(BODY)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + BODY


def bearing(address: str) -> bytes:
    """With the token of the last entry."""
    return request(address, {"authorization": f"Bearer {token(0)}"})


def signed(address: str) -> bytes:
    """With the local key of the last entry."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/us-gov-west-1/bedrock/aws4_request"
    digest = lambda data: hashlib.sha256(data).hexdigest()  # noqa: E731
    path = PATH.replace("%", "%25")
    canonical = f"POST\n{path}\n\nhost:{address}\nx-amz-date:{now}\n\nhost;x-amz-date\n{digest(BODY)}"
    key = f"AWS4{SECRET}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest(canonical.encode())}".encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={access_key(0)}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
    return request(address, {"x-amz-date": now, "authorization": authorization})


@dataclasses.dataclass
class Used:
    cpu_ms: float
    resident_mib: float


def used(running: Running) -> Used:
    """By the daemon so far, as the kernel accounts it."""
    home = Path(f"/proc/{running.processes[0]}")
    fields = (home / "stat").read_text().rsplit(")", 1)[1].split()
    resident = re.search(r"^VmRSS:\s+(\d+)", (home / "status").read_text(), re.MULTILINE)
    return Used((int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK"), int(resident[1]) / 1024 if resident else 0)


def load(rig: Rig, command: str, running: Running, **options: object) -> dict:
    """Ends the program if a request has failed."""
    told = rig.load(command, running.address, process=running.processes, **options)
    failed = told.get("failed", {"count": 0})
    if failed["count"]:
        sys.exit(f"{command}: {failed['count']} failed, the first: {failed['first']}")
    return told


def table(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ["---"] * len(heads), *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
