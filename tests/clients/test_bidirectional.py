"""Bidirectional streams through real SDKs: every frame is signed by the SDK, and verified by the stand-in for Bedrock."""

import subprocess

import pytest

from conftest import CANARY, available
from harness import GOV_KEYS, COMMERCIAL_KEYS, SECRETS, Client, Daemon, eventually

OPERATION = "InvokeModelWithBidirectionalStream"
SONIC = "amazon.nova-sonic-v1:0"
SAY = [f"{CANARY} one", f"{CANARY} two", f"{CANARY} three"]
SAID = [said for word in SAY for said in (f"echo: {word}", "usageEvent")] + ["completionEnd"]

# The daemon knows the key that the client signs with, and verifies each frame.
KNOWN = """
[[callers]]
name = "known"
access_key_id = "{AWS_ACCESS_KEY_ID}"
secret_access_key_file = "{file}"
"""


def of_stream(daemon):
    return eventually("the record", lambda: [one for one in daemon.records() if one["operation"] == OPERATION])[-1]


def check(simulator, record, **expected):
    sent = simulator.from_daemon(OPERATION)[-1]
    assert (sent["event_count"], sent["has_final_frame"], sent["ended"]) == (3, True, "completed"), sent
    told = {"outcome": "completed", "statusCode": 200, "modelId": SONIC, "streaming": True, "inputTokens": 6, "outputTokens": 9}
    for name, value in (told | expected).items():
        assert record.get(name) == value, (name, record)
    assert record["requestSize"] > 3 * 200 and record["responseSize"] == sent["bytes_sent"], record


@pytest.mark.parametrize("mode", ["sigv4", "session"])
@pytest.mark.parametrize("client", available("js"))
def test_a_conversation_passes(both, client, mode, simulator, daemons):
    direct, via = both(client, mode, "bidirectional", model=SONIC, say=SAY)
    assert direct["ok"] and direct["result"]["said"] == SAID, direct
    assert via == direct
    check(simulator, of_stream(daemons(mode)), identityVerified=False)


@pytest.mark.parametrize("client", available("js"))
def test_an_upstream_with_an_api_key_is_named(clients, client, daemons):
    outcome = clients(client, "bearer").run("bidirectional", model=SONIC, say=SAY)
    assert not outcome["ok"] and outcome["error"]["status"] == 400, outcome
    assert outcome["error"]["code"] == "ValidationException"
    assert "configure AWS keys (SigV4)" in outcome["error"]["message"]
    record = of_stream(daemons("bearer"))
    assert (record["outcome"], record["attempts"]) == ("refused", 0), record


@pytest.fixture
def verifying(simulator, secrets, tmp_path):
    """A daemon that knows the client's key, with an address that speaks TLS, and the certificate for it."""
    name = "commercial-sigv4"
    secrets.put(name, SECRETS["sigv4"])
    # Whoever signs with a key of its own has no session token.
    keys = {key: value for key, value in GOV_KEYS.items() if key != "AWS_SESSION_TOKEN"} | {"AWS_ACCESS_KEY_ID": "LOCALKNOWN"}
    secret = tmp_path / "secret"
    secret.write_text(keys["AWS_SECRET_ACCESS_KEY"])
    secret.chmod(0o600)
    certificate, private = tmp_path / "certificate.pem", tmp_path / "private.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*request, *names, "-keyout", private, "-out", certificate], check=True, capture_output=True)
    private.chmod(0o600)
    tls = f'\n[listen.tls]\naddress = "127.0.0.1:0"\ncertificate_file = "{certificate}"\nprivate_key_file = "{private}"\n'
    extra = KNOWN.format(file=secret, **keys) + tls
    daemon = Daemon(tmp_path / "daemon", simulator, secrets, secret=name, extra=extra)
    daemon.keys, daemon.certificate = keys, certificate
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("client", available("js", "bidirectional"))
def test_the_frames_of_a_known_key_are_verified(client, verifying, simulator):
    over_tls = client == "bidirectional"
    port = verifying.addresses[-1].rsplit(":", 1)[1]
    endpoint = f"https://localhost:{port}" if over_tls else verifying.endpoint
    program = Client(client, endpoint, verifying.keys, CA_FILE=str(verifying.certificate))
    try:
        outcome = program.run("bidirectional", model=SONIC, say=SAY)
    finally:
        program.stop()
    assert outcome["ok"] and outcome["result"]["said"] == SAID, outcome
    record = of_stream(verifying)
    check(simulator, record, identityVerified=True, accessKeyId="LOCALKNOWN")


@pytest.mark.parametrize("client", available("bidirectional"))
def test_the_same_conversation_without_a_daemon(client, simulator):
    """The stand-in verifies the client's own frames as it verifies the daemon's."""
    port = simulator.tls.rsplit(":", 1)[1]
    program = Client(client, f"https://localhost:{port}", COMMERCIAL_KEYS, CA_FILE=str(simulator.ca_file))
    try:
        outcome = program.run("bidirectional", model=SONIC, say=SAY)
    finally:
        program.stop()
    assert outcome["ok"] and outcome["result"]["said"] == SAID, outcome
    simulator.clear()
