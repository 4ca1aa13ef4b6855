"""Every operation, by every client, in both credential modes: equal to the direct call, which is as expected."""

import pytest

from conftest import ALL, CANARY, STREAMING, available

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
PROFILE = "us.anthropic.claude-opus-4-1-20250805-v1:0"
MODES = ["bearer", "session"]
EVERY_OPERATION = [name for name in ALL if name != "anthropic"]

in_both_modes = pytest.mark.parametrize("mode", MODES)


def on(*names):
    return pytest.mark.parametrize("client", [name for name in names if name in ALL])


def expect(outcomes):
    """The result, which both ways agree on."""
    direct, via = outcomes
    assert direct["ok"], direct
    assert via == direct
    return direct["result"]


@in_both_modes
@on(*EVERY_OPERATION)
def test_invoke_model(both, client, mode):
    result = expect(both(client, mode, "invoke", model=CLAUDE))
    assert result["text"] == f"echo: {CANARY} hello there"
    assert result["contentType"] == "application/json"


@in_both_modes
@on(*ALL)
def test_converse(both, client, mode):
    result = expect(both(client, mode, "converse", model=CLAUDE))
    assert result["text"] == f"echo: {CANARY} hello there"
    assert result["stop"] == "end_turn"
    assert all(count > 0 for count in result["usage"])


@on("boto3", "js")
def test_long_lived_aws_keys(both, client):
    assert expect(both(client, "sigv4", "converse", model=CLAUDE))["text"] == f"echo: {CANARY} hello there"
    assert expect(both(client, "sigv4", "converse_stream", model=CLAUDE))["text"] == f"echo: {CANARY} hello there"


@in_both_modes
@on(*STREAMING)
def test_converse_stream(both, client, mode):
    result = expect(both(client, mode, "converse_stream", model=CLAUDE, text=f"{CANARY} events 40"))
    assert result["text"] == "".join(f"word{n} " for n in range(40))
    assert result["stop"] == "end_turn"
    assert result["events"] > 40


@in_both_modes
@on("boto3", "js", "go", "java")
def test_invoke_model_with_response_stream(both, client, mode):
    result = expect(both(client, mode, "invoke_stream", model=CLAUDE))
    assert result["text"] == f"echo: {CANARY} hello there"
    assert result["events"] == len(result["raw"]) > 4
    assert "amazon-bedrock-invocationMetrics" in str(result["raw"][-1])


RERANKER = "arn:aws:bedrock:us-east-1::foundation-model/cohere.rerank-v3-5:0"


@pytest.mark.parametrize("mode", ["sigv4", "session"])
@on("boto3", "js")
def test_rerank(both, clients, simulator, client, mode):
    sources = [f"{CANARY} {number}" for number in range(6)] + [f"{CANARY} hello there"]
    result = expect(both(client, mode, "rerank", model=RERANKER, sources=sources))
    assert result["order"] == [6, 0, 1, 2, 3, 4, 5]
    assert result["scores"][0] == 1.0
    # What an app in GovCloud names.
    for model in [
        "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/cohere.rerank-v3-5:0",
        "arn:aws:bedrock:us-gov-west-1::foundation-model/cohere.rerank-v3-5:0",
    ]:
        before = len(simulator.from_daemon("Rerank"))
        via = clients(client, mode).run("rerank", model=model, sources=sources, text=f"{CANARY} hello there")
        assert via == {"ok": True, "result": result}
        assert {sent["model"] for sent in simulator.from_daemon("Rerank")[before:]} == {RERANKER}


@on("js")
def test_rerank_by_vercels_ai_sdk(both, simulator, client):
    sources = [CANARY, "nothing", f"{CANARY} hello there"]
    result = expect(both(client, "session", "rerank_ai_sdk", model="cohere.rerank-v3-5:0", sources=sources))
    assert result == {"order": [2, 0], "scores": [1.0, pytest.approx(1 / 3)]}
    assert [sent["model"] for sent in simulator.from_daemon("Rerank")] == [RERANKER]


@on("boto3", "js")
def test_rerank_with_an_api_key_is_refused_before_it_is_sent(clients, simulator, client):
    via = clients(client, "bearer").run("rerank", model=RERANKER, sources=[CANARY], text=CANARY)
    assert not via["ok"], via
    assert "takes no Bedrock API key for Rerank" in via["error"]["message"]
    assert via["error"]["status"] == 403
    assert simulator.from_daemon("Rerank") == []


@on("boto3", "js", "go", "java")
def test_tools(both, client):
    result = expect(both(client, "bearer", "converse_tools", model=CLAUDE, text=f"use the tool {CANARY}"))
    assert (result["first"]["stop"], result["first"]["tools"]) == ("tool_use", ["weather"])
    assert result["second"]["stop"] == "end_turn"
    assert "clear" in result["second"]["text"]


@on("boto3", "js", "go", "java")
def test_a_streamed_tool_call(both, client):
    result = expect(both(client, "bearer", "converse_stream", model=CLAUDE, text=f"use the tool {CANARY}", tools=True))
    assert result["stop"] == "tool_use"
    assert "weather" in str(result["raw"])


@in_both_modes
@on(*ALL)
def test_an_image_of_megabytes_with_cache_points(both, client, mode, simulator):
    result = expect(both(client, mode, "converse_image", model=CLAUDE, size=3_000_000))
    assert CANARY in result["text"]
    direct, via = [r for r in simulator.requests() if r["operation"] in ("Converse", "InvokeModel")]
    assert via["body"] == direct["body"]
    assert via["body_length"] > 3_900_000


@on(*EVERY_OPERATION)
def test_count_tokens(both, client):
    converse, invoke = expect(both(client, "bearer", "count_tokens", model=CLAUDE))["tokens"]
    assert converse > invoke > 0


@on(*EVERY_OPERATION)
def test_apply_guardrail(both, client):
    result = expect(both(client, "bearer", "apply_guardrail", guardrail="gr12345678"))
    assert result["action"] == "NONE"
    assert result["raw"]["usage"]


@on(*EVERY_OPERATION)
def test_invoke_guardrail_checks(both, client):
    result = expect(both(client, "bearer", "guardrail_checks"))
    assert result["checks"] == ["contentFilter", "promptAttack"]
    assert "VIOLENCE" in str(result["raw"])


@in_both_modes
@on(*EVERY_OPERATION)
def test_asynchronous_invocations(clients, client, mode):
    """Each start makes its own invocation, so the two ways are judged one by one."""
    for way in ["direct", mode]:
        outcome = clients(client, way).run("async_invoke", model="amazon.nova-reel-v1:0", text=CANARY)
        assert outcome["ok"], outcome
        result = outcome["result"]
        assert result["arn"].startswith("arn:aws:bedrock:us-east-1:123456789012:async-invoke/")
        assert (result["same"], result["status"], result["listed"]) == (True, "Completed", True)


@on(*available("java"))
def test_the_asynchronous_java_client(both, client):
    for case in ["invoke_async", "converse_async"]:
        assert expect(both(client, "bearer", case, model=CLAUDE))["text"] == f"echo: {CANARY} hello there"


@in_both_modes
@on(*EVERY_OPERATION)
def test_foundation_models(both, client, mode):
    listed = expect(both(client, mode, "list_models"))
    assert CLAUDE in listed["ids"] and len(listed["ids"]) > 20
    described = expect(both(client, mode, "get_model", model=CLAUDE))
    assert described["id"] == CLAUDE
    assert "Claude 3 Haiku" in str(described["raw"])


@in_both_modes
@on(*EVERY_OPERATION)
def test_inference_profiles(both, client, mode):
    listed = expect(both(client, mode, "list_profiles"))
    assert PROFILE in listed["ids"] and len(listed["ids"]) > 5, "several pages"
    described = expect(both(client, mode, "get_profile", profile=PROFILE))
    assert described["id"] == PROFILE
    assert len(described["models"]) > 1


@in_both_modes
@on(*EVERY_OPERATION)
def test_the_life_of_an_inference_profile(both, client, mode):
    source = f"arn:aws:bedrock:us-east-1::foundation-model/{CLAUDE}"
    assert expect(both(client, mode, "profile_lifecycle", name=f"clients {client}", source=source)) == {
        "name": f"clients {client}",
        "status": "ACTIVE",
        "listed": True,
        "text": f"echo: {CANARY} hello there",
        "gone": "ResourceNotFoundException",
    }
