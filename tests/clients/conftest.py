"""Fixtures: one simulator and one daemon per credential mode for the whole run, and what must hold after every test."""

import json
import re

import pytest

from harness import (
    CACHE,
    COMMERCIAL_KEYS,
    GOV_KEYS,
    SECRETS,
    UPSTREAM_SECRETS,
    Client,
    Daemon,
    SecretsManager,
    Simulator,
    body_of,
    eventually,
)

# A word that every prompt holds, and so every answer: it may not be found where no prompt belongs.
CANARY = "canary-8c1f"

NOT_RUN = {}
for line in (CACHE / "not-run").read_text().splitlines() if (CACHE / "not-run").exists() else []:
    name, _, reason = line.partition(": ")
    NOT_RUN[name] = reason


def available(*names):
    """The clients of these that this machine has; the others are reported as not run."""
    return [name for name in names if name.split("-")[0] not in NOT_RUN]


ALL = available("boto3", "awscli", "js", "go", "java", "java-url", "anthropic")
STREAMING = available("boto3", "js", "go", "java", "anthropic")


def pytest_terminal_summary(terminalreporter):
    for name, reason in NOT_RUN.items():
        terminalreporter.write_line(f"NOT RUN: {name}: {reason}")


@pytest.fixture(scope="session")
def simulator(tmp_path_factory):
    running = Simulator(tmp_path_factory.mktemp("simulator"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def secrets():
    running = SecretsManager()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def daemons(simulator, secrets, tmp_path_factory):
    """A daemon per credential mode, started when first asked for."""
    running = {}

    def daemon(mode):
        if mode not in running:
            name = "cross-partition-commercial-creds" if mode == "bearer" else f"commercial-{mode}"
            secrets.put(name, SECRETS[mode])
            folder = tmp_path_factory.mktemp(mode) / "daemon"
            running[mode] = Daemon(folder, simulator, secrets, secret=name, mantle=mode == "mantle")
        return running[mode]

    daemon.running = running
    yield daemon
    for each in running.values():
        each.stop()


@pytest.fixture(scope="session")
def clients(simulator, daemons):
    """`clients(name, "direct")` or `clients(name, mode)`: started when first asked for, kept for the run."""
    running = {}

    def client(name, way):
        key = name, way
        if key not in running or running[key].process.poll() is not None:
            if way == "direct":
                running[key] = Client(name, simulator.plain, COMMERCIAL_KEYS, simulator.agent_plain)
            else:
                running[key] = Client(name, daemons(way).endpoint, GOV_KEYS)
        return running[key]

    yield client
    for each in running.values():
        each.stop()


@pytest.fixture
def both(clients):
    """Runs a case directly and through the daemon, and gives both outcomes with what may differ made alike."""

    def run(name, mode, case, /, **fields):
        fields.setdefault("text", f"{CANARY} hello there")
        direct = clients(name, "direct").run(case, **fields)
        via = clients(name, mode).run(case, **fields)
        return alike(direct), alike(via)

    return run


REQUEST_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MOMENT = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def alike(outcome):
    """Without request ids and the present moment, in which two calls always differ."""
    text = REQUEST_ID.sub("REQUEST-ID", json.dumps(outcome))
    return json.loads(MOMENT.sub("MOMENT", text))


@pytest.fixture(autouse=True)
def nothing_leaks_and_records_are_true(request, simulator, daemons):
    """After every test: nothing of the client arrived upstream, no key, prompt or answer stands in the log, and each record
    says what the simulator knows of its request."""
    seen = {mode: len(daemon.lines) for mode, daemon in daemons.running.items()}
    yield
    simulator.gate(closed=False)
    for daemon in daemons.running.values():
        eventually("an idle daemon", lambda daemon=daemon: daemon.process.poll() is not None or daemon.idle())
    eventually("the ends of all answers", lambda: all(r["ended"] != "open" for r in simulator.from_daemon()))
    requests = simulator.from_daemon()
    # The legacy REST API gives its client another body than Bedrock's.
    as_it_came = request.module.__name__ != "test_rest"
    leaks = [leak for one in requests for leak in leaks_of(one)]
    untrue = [
        fault
        for mode, daemon in daemons.running.items()
        for fault in untrue_records(daemon, seen.get(mode, 0), requests, as_it_came)
    ]
    simulator.reset()
    assert leaks == []
    assert untrue == []
    for mode, daemon in daemons.running.items():
        log = "".join(daemon.lines[seen.get(mode, 0) :])
        assert [text for text in [CANARY, *UPSTREAM_SECRETS] if text in log] == []
        assert daemon.process.poll() is None, f"the daemon ended: {daemon.log()[-2000:]}"


def untrue_records(daemon, start, requests, as_it_came):
    """What the daemon's records say otherwise than the simulator, which knows what it has sent."""
    sent = {request["request_id"]: request for request in requests}
    faults = []
    for record in daemon.records(start):
        request = sent.get(record.get("upstreamRequestId"))
        if request is None:
            if record["outcome"] == "completed" and record["attempts"] > 0:
                faults.append(f"completed, but nothing was sent: {record}")
            continue
        if record["outcome"] in ("completed", "upstream_error") and request["fault"] is None:
            told = {
                "statusCode": request["status"],
                # Anthropic's paths have one name on both hosts.
                "operation": request["operation"].replace("MantleMessages", "Messages"),
                "responseSize": request["bytes_sent"] if as_it_came else None,
                "inputTokens": request["input_tokens"],
                "outputTokens": request["output_tokens"],
            }
            wrong = {name: (record.get(name), value) for name, value in told.items() if value is not None and record.get(name) != value}
            if wrong:
                faults.append(f"{wrong} in {record}")
        if record["outcome"] == "completed" and request["ended"] != "completed":
            faults.append(f"completed, but the upstream's answer was {request['ended']}: {record}")
    return faults


# What the daemon may send: headers that HTTP needs, that sign, and that Bedrock defines.
DEFINED_HEADERS = {
    ":authority", "host", "accept", "accept-encoding", "content-type", "content-length", "authorization",
    "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "user-agent",
}
DEFINED_PREFIXES = ("x-amzn-bedrock-", "anthropic-", "openai-")
HOP_HEADERS = {"via", "forwarded", "x-real-ip", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade", "cookie"}


def leaks_of(request):
    head = request["path"] + "".join(f"\n{name}: {value}" for name, value in request["headers"])
    found = list(request["leaks"])
    for what in [GOV_KEYS["AWS_ACCESS_KEY_ID"], GOV_KEYS["AWS_SECRET_ACCESS_KEY"], GOV_KEYS["AWS_SESSION_TOKEN"]]:
        if what in head or what.encode() in body_of(request):
            found.append(f"{what} in {request['method']} {request['path']}")
    for what in ["us-gov", "aws-us-gov", "%3Aaws-us-gov"]:
        if what in head:
            found.append(f"{what} in {head}")
    for name, value in request["headers"]:
        if name.lower() not in DEFINED_HEADERS and not name.lower().startswith(DEFINED_PREFIXES):
            found.append(f"header {name}, which Bedrock does not define: {value}")
        if name.lower() == "user-agent" and not value.startswith("bedrock-sidecar/"):
            found.append(f"the client's header {name}: {value}")
        if name.lower() in HOP_HEADERS or name.lower().startswith(("x-forwarded", "x-bedrock-sidecar")):
            found.append(f"header {name}: {value}")
    return found
