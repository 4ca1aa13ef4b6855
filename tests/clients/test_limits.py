"""A 429 of the daemon's own limits: the SDKs wait and try again by themselves, and the application never sees it."""

import json
import urllib.parse

import pytest

from conftest import CANARY, available
from harness import GOV_KEYS, SECRET, SECRETS, Client, Daemon, eventually, http

MODEL = "anthropic.claude-3-haiku-20240307-v1:0"
CLIENTS = available("boto3", "js", "go", "java", "java-url")
STREAMING = available("boto3", "js", "go", "java")


@pytest.fixture
def limited(simulator, secrets, tmp_path):
    """A daemon with these limits, and a client of it."""
    running = []

    def start(name, limits):
        daemon = Daemon(tmp_path / "daemon", simulator, secrets, extra=f"[limits]\n{limits}\n")
        running.append(daemon)
        client = Client(name, daemon.endpoint, GOV_KEYS)
        running.append(client)
        return daemon, client

    # The daemon reads its key from here, whichever tests have run before.
    secrets.put(SECRET, SECRETS["bearer"])
    yield start
    for each in reversed(running):
        each.stop()


def refusals(daemon, limit):
    name = f'bedrock_sidecar_limited_total{{limit="{limit}",scope="host"}} '
    lines = http("GET", f"{daemon.admin}/metrics")[2].decode().splitlines()
    return int(sum(float(line.removeprefix(name)) for line in lines if line.startswith(name)))


def converse(daemon, text):
    """Straight to the daemon, by nobody who would try again."""
    body = {"messages": [{"role": "user", "content": [{"text": text}]}]}
    path = urllib.parse.quote(MODEL, safe="")
    return http("POST", f"{daemon.endpoint}/model/{path}/converse", body, {"content-type": "application/json"})


@pytest.mark.parametrize("case", ["converse", "converse_stream"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_full_daemon_is_tried_again_until_there_is_room(limited, simulator, client, case):
    """The only place is taken until the SDK has been refused once: no clock decides what happens."""
    if case == "converse_stream" and client not in STREAMING:
        pytest.skip("has no streams")
    daemon, app = limited(client, "concurrent_requests = 1")
    blocker = Client("boto3", daemon.endpoint, GOV_KEYS)
    try:
        simulator.gate(closed=True)
        blocker.start("converse_stream", model=MODEL, text=CANARY)
        eventually("the stream to wait at the gate", lambda: simulator.gate()["waiting"] == 1)
        status, headers, body = converse(daemon, CANARY)
        assert status == 429
        assert headers["x-amzn-errortype"] == "ThrottlingException"
        assert headers["retry-after"] == "1"
        assert "concurrent_requests = 1" in json.loads(body)["message"]

        before = refusals(daemon, "concurrent_requests")
        app.start(case, model=MODEL, text=CANARY, retries="default")
        eventually("a refusal", lambda: refusals(daemon, "concurrent_requests") > before)
        simulator.gate(closed=False)
        kind, outcome = app.next()
        while kind != "done":
            kind, outcome = app.next()
        assert outcome["ok"], outcome
        assert outcome["result"]["text"] == f"echo: {CANARY}"
    finally:
        simulator.gate(closed=False)
        blocker.stop()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_rate_is_kept_by_retries_alone(limited, client):
    """Calls in a row, faster than the limit: some get a 429 first, and all succeed."""
    daemon, app = limited(client, "requests_per_minute = 1200\nrequest_burst = 1")
    calls = 0
    while refusals(daemon, "requests_per_minute") == 0 or calls < 3:
        outcome = app.run("converse", model=MODEL, text=CANARY, retries="default")
        calls += 1
        assert outcome["ok"], outcome
        assert calls < 200, "nothing was ever refused"


@pytest.mark.parametrize("client", CLIENTS)
def test_without_retries_the_429_is_a_throttling_exception(limited, client):
    daemon, app = limited(client, "requests_per_minute = 1\nrequest_burst = 1")
    assert converse(daemon, CANARY)[0] == 200
    outcome = app.run("converse", model=MODEL, text=CANARY, retries="off")
    assert not outcome["ok"]
    assert (outcome["error"]["status"], outcome["error"]["code"]) == (429, "ThrottlingException")
    assert "this host has used up requests_per_minute = 1" in outcome["error"]["message"]
