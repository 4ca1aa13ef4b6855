"""Keys, prompts and answers stay out of the log, the ledger and the metrics, also when the log is at its most verbose."""

import pytest

from conftest import CANARY
from harness import COMMERCIAL_BEARER, GOV_KEYS, TEMPORARY, Client, Daemon, http

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
SECRETS = {"bearer": {"bedrock_api_key": COMMERCIAL_BEARER}, "session": TEMPORARY}
NEVER_KEPT = [
    CANARY,
    COMMERCIAL_BEARER,
    TEMPORARY["aws_secret_access_key"],
    TEMPORARY["aws_session_token"],
    GOV_KEYS["AWS_SESSION_TOKEN"],
]


@pytest.mark.parametrize("mode", SECRETS)
def test_nothing_secret_is_kept(simulator, secrets, tmp_path, mode):
    secrets.put(f"leaks-{mode}", SECRETS[mode])
    daemon = Daemon(tmp_path / "daemon", simulator, secrets, secret=f"leaks-{mode}", level="trace")
    client = Client("boto3", daemon.endpoint, GOV_KEYS)
    try:
        for case in ["converse", "invoke", "converse_stream", "invoke_stream"]:
            assert client.run(case, model=CLAUDE, text=CANARY)["ok"]
        assert not client.run("converse", model="ai21.jamba-1-5-large-v1:0", text=CANARY)["ok"]
        simulator.fault({"kind": "stream_exception", "after_events": 2, "exception": "throttlingException", "message": "midway"})
        assert not client.run("converse_stream", model=CLAUDE, text=CANARY)["ok"]
        status, _, metrics = http("GET", f"{daemon.admin}/metrics")
        assert status == 200 and b"bedrock_sidecar_requests_total" in metrics
    finally:
        client.stop()
        daemon.stop()
    kept = {"log": daemon.log().encode(), "metrics": metrics}
    kept |= {path.name: path.read_bytes() for path in daemon.state.rglob("*") if path.is_file()}
    assert len(kept) > 2, "the ledger is among what is searched"
    assert [(where, text) for where, data in kept.items() for text in NEVER_KEPT if text.encode() in data] == []
