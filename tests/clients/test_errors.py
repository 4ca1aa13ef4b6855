"""What goes wrong looks the same through the daemon: class, code, message and status, in answers and in streams."""

import pytest

from conftest import ALL, CANARY, STREAMING, available

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
CODED = [name for name in ALL if name != "anthropic"]
RAW_STREAMS = [name for name in STREAMING if name != "anthropic"]

MODELS = {
    "access denied": ("ai21.jamba-1-5-large-v1:0", 403, "AccessDeniedException"),
    "no such model": ("nobody.no-such-model-v1:0", 400, "ValidationException"),
    "use case form missing": ("anthropic.claude-3-opus-20240229-v1:0", 404, "ResourceNotFoundException"),
}

FAULTS = {
    "tokens per minute": ({"kind": "throttle", "text": "tokens"}, 429, "ThrottlingException"),
    "requests per minute": ({"kind": "throttle", "text": "requests"}, 429, "ThrottlingException"),
    "tokens per day": ({"kind": "throttle", "text": "tokens_per_day"}, 429, "ThrottlingException"),
    "internal": ({"kind": "internal_server_error"}, 500, "InternalServerException"),
    "unavailable": ({"kind": "service_unavailable"}, 503, "ServiceUnavailableException"),
    "model error": ({"kind": "model_error"}, 424, "ModelErrorException"),
    "model timeout": ({"kind": "model_timeout"}, 408, "ModelTimeoutException"),
    "model not ready": ({"kind": "model_not_ready"}, 429, "ModelNotReadyException"),
    "quota, Message in capitals": (
        {
            "kind": "error",
            "status": 400,
            "error_type": "ServiceQuotaExceededException",
            "message": "Your account's quota is used up.",
            "capital": True,
        },
        400,
        "ServiceQuotaExceededException",
    ),
    "not authorized by a policy": (
        {
            "kind": "error",
            "status": 403,
            "error_type": "AccessDeniedException",
            "message": "User: x is not authorized to perform: bedrock:InvokeModel on resource: y",
        },
        403,
        "AccessDeniedException",
    ),
}


def refused(outcomes, client, status, code):
    """Both ways failed alike, and as expected."""
    direct, via = outcomes
    assert not direct["ok"], direct
    assert via == direct
    error = direct["error"]
    if client == "awscli":
        assert error["class"] != "exit 0"
    else:
        assert error["status"] == status
    if client != "anthropic":
        assert error["code"] == code
    assert error["message"]


@pytest.mark.parametrize("mode", ["bearer", "session"])
@pytest.mark.parametrize("why", MODELS)
@pytest.mark.parametrize("client", ALL)
def test_refusals_of_a_model(both, client, why, mode):
    model, status, code = MODELS[why]
    refused(both(client, mode, "converse", model=model), client, status, code)


@pytest.mark.parametrize("why", FAULTS)
@pytest.mark.parametrize("client", ALL)
def test_faults_of_the_service(both, client, why, simulator):
    effect, status, code = FAULTS[why]
    simulator.fault(effect)
    refused(both(client, "bearer", "converse", model=CLAUDE), client, status, code)
    assert len([r for r in simulator.requests() if r["fault"]]) == 2, "one attempt each: SDKs own retries"


@pytest.mark.parametrize("why", ["tokens per minute", "internal", "model not ready", "model error"])
@pytest.mark.parametrize("client", RAW_STREAMS)
def test_faults_before_a_stream_begins(both, client, why, simulator):
    effect, status, code = FAULTS[why]
    simulator.fault(effect)
    refused(both(client, "session", "converse_stream", model=CLAUDE), client, status, code)
    refused(both(client, "session", "invoke_stream", model=CLAUDE), client, status, code)


@pytest.mark.parametrize("client", CODED)
def test_faults_of_the_control_plane(both, client, simulator):
    refused(
        both(client, "bearer", "get_profile", profile="us.nobody.no-such-profile-v1:0"),
        client,
        404,
        "ResourceNotFoundException",
    )
    simulator.fault({"kind": "throttle"}, operation="ListFoundationModels")
    refused(both(client, "bearer", "list_models"), client, 429, "ThrottlingException")


@pytest.mark.parametrize("case", ["converse", "converse_stream"])
@pytest.mark.parametrize("client", ALL)
def test_the_sdk_retries_a_throttle_by_itself(clients, client, case, simulator):
    if case == "converse_stream" and client not in STREAMING:
        pytest.skip("has no streams")
    for way in ["direct", "bearer"]:
        simulator.fault({"kind": "throttle"}, times=2)
        simulator.clear()
        outcome = clients(client, way).run(case, model=CLAUDE, text=CANARY, retries="default")
        assert outcome["ok"], outcome
        assert outcome["result"]["text"] == f"echo: {CANARY}"
        assert [r["status"] for r in simulator.requests()] == [429, 429, 200], way


EXCEPTIONS = ["throttlingException", "modelStreamErrorException", "internalServerException", "serviceUnavailableException"]


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("client", RAW_STREAMS)
def test_an_exception_inside_a_stream(both, client, exception, simulator):
    simulator.fault({"kind": "stream_exception", "after_events": 3, "exception": exception, "message": "midway"})
    for case in ["converse_stream", "invoke_stream"]:
        direct, via = both(client, "bearer", case, model=CLAUDE)
        assert not direct["ok"], direct
        assert "midway" in direct["error"]["message"]
        assert exception.lower() in str(direct["error"]).lower()
        assert via == direct
        assert len(direct["events"]) <= 3


@pytest.mark.parametrize("how", ["rst", "fin", "stream_error"])
@pytest.mark.parametrize("case", ["converse_stream", "invoke_stream"])
@pytest.mark.parametrize("client", RAW_STREAMS)
def test_a_stream_that_breaks_never_ends_cleanly(clients, client, case, how, simulator):
    """
    The SDKs for Go, Java and JavaScript take an orderly close for the stream's end even where the last chunk is missing,
    and notice only a reset (JavaScript: of the stream). So the daemon resets, however the upstream broke off: an end is not to be made of a break.
    """
    simulator.fault({"kind": "cut", "after_events": 3, "how": how})
    for way in ["direct", "bearer", "session"]:
        outcome = clients(client, way).run(case, model=CLAUDE, text=f"{CANARY} events 20")
        if way == "direct" and not (client == "boto3" or (how == "rst" and client != "js")):
            continue
        assert not outcome["ok"], f"{way}: {outcome}"
        assert len(outcome["events"]) <= 3


@pytest.mark.parametrize("client", RAW_STREAMS)
def test_a_spoiled_frame_is_passed_on_as_it_is(both, client, simulator):
    simulator.fault({"kind": "wrong_crc", "event": 2})
    direct, via = both(client, "bearer", "converse_stream", model=CLAUDE)
    assert not direct["ok"]
    assert via["error"]["class"] == direct["error"]["class"]
    assert len(via["events"]) == len(direct["events"])


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("client", ALL)
def test_a_body_that_breaks_is_no_answer(clients, client, how, simulator):
    """Some SDKs take a body that ends early but cleanly for an answer without content."""
    simulator.fault({"kind": "cut", "after_bytes": 40, "how": how})
    outcome = clients(client, "bearer").run("converse", model=CLAUDE, text=f"{CANARY} repeat 4000")
    assert not outcome["ok"], outcome


@pytest.mark.parametrize("client", ALL)
def test_a_body_shorter_than_its_length_is_whole_or_no_answer(clients, client, simulator):
    """All of the JSON comes, and then less than was announced: some SDKs are content with that."""
    simulator.fault({"kind": "truncated_body", "missing": 100})
    outcome = clients(client, "bearer").run("converse", model=CLAUDE, text=CANARY)
    assert not outcome["ok"] or outcome["result"]["text"] == f"echo: {CANARY}"


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("client", ALL)
def test_an_upstream_that_does_not_answer_is_service_unavailable(clients, client, how, simulator):
    simulator.fault({"kind": "break_before_headers", "how": how})
    outcome = clients(client, "bearer").run("converse", model=CLAUDE, text=CANARY)
    assert not outcome["ok"]
    if client != "awscli":
        assert outcome["error"]["status"] == 503
    if client != "anthropic":
        assert outcome["error"]["code"] == "ServiceUnavailableException"
    assert "bedrock-sidecar: " in outcome["error"]["message"]
