"""The commercial credential: in every format that is met, changed while applications call, and late."""

import base64
import json
import threading

import boto3
import pytest
from botocore.config import Config

from conftest import CANARY
from harness import COMMERCIAL_BEARER, GOV_KEYS, LONG_LIVED, ROTATED_BEARER, SECRETS, TEMPORARY, Daemon, Simulator, eventually, http

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"

TEMPORARY_KEY = {name.removeprefix("aws_"): value for name, value in TEMPORARY.items()}


@pytest.fixture
def own_simulator(tmp_path):
    """Its credentials are changed here, so it is not shared."""
    running = Simulator(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def start(own_simulator, secrets, tmp_path):
    """Starts a daemon whose secret has this name."""
    running = []

    def daemon(secret, **options):
        running.append(Daemon(tmp_path / f"daemon-{len(running)}", own_simulator, secrets, secret=secret, **options))
        return running[-1]

    yield daemon
    for each in running:
        each.stop()


def application(daemon):
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=daemon.endpoint,
        region_name="us-gov-west-1",
        aws_access_key_id=GOV_KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=GOV_KEYS["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=GOV_KEYS["AWS_SESSION_TOKEN"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def ask(client):
    answer = client.converse(modelId=CLAUDE, messages=[{"role": "user", "content": [{"text": CANARY}]}])
    return answer["output"]["message"]["content"][0]["text"]


def encoded(text):
    return base64.b64encode(text.encode()).decode()


FORMATS = {
    "bedrock_api_key": ({"bedrock_api_key": COMMERCIAL_BEARER, "region": "us-east-1"}, "bearer"),
    "bedrock_bearer_token": ({"bedrock_bearer_token": COMMERCIAL_BEARER}, "bearer"),
    "bearer_token": ({"bearer_token": COMMERCIAL_BEARER}, "bearer"),
    "bare string": (COMMERCIAL_BEARER, "bearer"),
    "base64 of an API key": (encoded(COMMERCIAL_BEARER), "bearer"),
    "AWS keys": (LONG_LIVED | {"region": "us-east-1"}, "sigv4"),
    "AWS keys with a session token": (TEMPORARY, "sigv4"),
    "access_key and secret_key": (
        {"access_key": LONG_LIVED["aws_access_key_id"], "secret_key": LONG_LIVED["aws_secret_access_key"]},
        "sigv4",
    ),
    "base64 of an AWS key pair": (encoded(":".join(LONG_LIVED.values())), "sigv4"),
    "base64 of temporary AWS keys": (encoded(":".join(TEMPORARY.values())), "sigv4"),
}


@pytest.mark.parametrize("form", FORMATS)
def test_formats_of_the_secret(start, own_simulator, secrets, form):
    value, auth = FORMATS[form]
    name = f"format-{form.replace(' ', '-')}"
    secrets.put(name, value)
    assert ask(application(start(name))) == f"echo: {CANARY}"
    (request,) = own_simulator.from_daemon("Converse")
    assert (request["auth"], request["leaks"]) == (auth, [])


@pytest.mark.parametrize(
    "before, after, known_after",
    [
        (SECRETS["bearer"], {"bedrock_api_key": ROTATED_BEARER}, {"bearer_tokens": [ROTATED_BEARER], "aws_keys": []}),
        (LONG_LIVED, TEMPORARY, {"aws_keys": [TEMPORARY_KEY]}),
        (SECRETS["bearer"], TEMPORARY, {"bearer_tokens": [], "aws_keys": [TEMPORARY_KEY]}),
        (
            TEMPORARY,
            {"bedrock_api_key": ROTATED_BEARER},
            {"bearer_tokens": [ROTATED_BEARER], "aws_keys": []},
        ),
    ],
    ids=["API key", "AWS keys", "API key to AWS keys", "AWS keys to API key"],
)
def test_rotation_is_not_noticed_by_applications(start, own_simulator, secrets, before, after, known_after, request):
    """The secret changes, then the old key is revoked, while applications call without retries of their own."""
    name = f"rotation-{request.node.callspec.id.replace(' ', '-')}"
    secrets.put(name, before)
    daemon = start(name)
    answers, failures, stop = [], [], threading.Event()

    def call():
        client = application(daemon)
        while not stop.is_set():
            try:
                answers.append(ask(client))
            except Exception as error:  # noqa: BLE001 - any failure that an application would see
                failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    eventually("answers under the old key", lambda: len(answers) > 20)
    secrets.put(name, after)
    own_simulator.credentials(**known_after)
    seen = len(answers)
    eventually("answers under the new key, or a failure", lambda: len(answers) > seen + 50 or failures)
    stop.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert set(answers) == {f"echo: {CANARY}"}
    assert own_simulator.from_daemon("Converse")[-1]["status"] == 200


def test_a_key_that_was_revoked_without_a_successor_is_the_upstreams_answer(start, own_simulator, secrets):
    """One forced look at the secret, no more; then the application sees what Bedrock said."""
    secrets.put("revoked", SECRETS["bearer"])
    client = application(start("revoked"))
    assert ask(client) == f"echo: {CANARY}"
    own_simulator.credentials(bearer_tokens=[], aws_keys=[])
    own_simulator.clear()
    with pytest.raises(client.exceptions.AccessDeniedException):
        ask(client)
    assert len(own_simulator.from_daemon("Converse")) <= 2


def test_a_secret_that_comes_late(start, own_simulator, secrets):
    """Without a secret the daemon runs, says why it cannot serve, and serves once the secret is there."""
    daemon = start("late", wait=False)
    client = application(daemon)
    status, _, body = http("GET", f"{daemon.admin}/ready")
    assert status == 503, body
    assert json.loads(body)["reasons"]
    with pytest.raises(client.exceptions.ServiceUnavailableException) as refused:
        ask(client)
    assert "bedrock-sidecar: " in str(refused.value)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert own_simulator.from_daemon("Converse") == []

    secrets.put("late", SECRETS["bearer"])
    eventually("readiness after the secret came", daemon.ready, deadline=90)
    assert ask(client) == f"echo: {CANARY}"


@pytest.mark.parametrize("value", ["not a key", "user+1-at-123456789012:secret", "{}", '{"bedrock_api_key": ""}'])
def test_a_secret_that_is_no_credential_is_explained_and_never_shown(start, secrets, value, request):
    name = f"broken-{abs(hash(request.node.callspec.id))}"
    secrets.put(name, value)
    daemon = start(name, wait=False)
    client = application(daemon)
    with pytest.raises(client.exceptions.ServiceUnavailableException) as refused:
        ask(client)
    assert "bedrock-sidecar: " in str(refused.value)
    assert value not in str(refused.value) and "at-123456789012" not in str(refused.value)
    eventually("an idle daemon", daemon.idle)
    assert "at-123456789012" not in daemon.log()
