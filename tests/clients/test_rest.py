"""The REST API of the system that this one replaces: `/v1/bedrock/…`, with the shapes its callers rely on."""

import base64
import json
import re

import pytest

from conftest import CANARY
from harness import body_of, http

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
PAYLOAD = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": f"{CANARY} hello there"}],
}
INVOKE = "/v1/bedrock/invoke-model"


@pytest.fixture(params=["bearer", "session"])
def endpoint(daemons, request):
    return daemons(request.param).endpoint


def post(endpoint, document):
    status, headers, body = http("POST", endpoint + INVOKE, document, {"Content-Type": "application/json"})
    return status, headers, json.loads(body)


BODIES = {
    "object": PAYLOAD,
    "JSON string": json.dumps(PAYLOAD),
    "base64": base64.b64encode(json.dumps(PAYLOAD).encode()).decode(),
}


@pytest.mark.parametrize("form", BODIES)
def test_invoke_model(endpoint, form, simulator):
    status, headers, answer = post(endpoint, {"modelId": CLAUDE, "body": BODIES[form]})
    assert status == 200, answer
    assert set(answer) == {"body", "contentType"}
    assert answer["contentType"] == "application/json"
    assert json.loads(answer["body"])["content"][0]["text"] == f"echo: {CANARY} hello there"
    assert headers["X-Request-ID"]
    assert (headers["X-Source-Partition"], headers["X-Destination-Partition"]) == ("govcloud", "commercial")
    (request,) = simulator.from_daemon("InvokeModel")
    assert json.loads(body_of(request)) == PAYLOAD


def test_a_profile_only_model(endpoint):
    status, _, answer = post(endpoint, {"modelId": "anthropic.claude-opus-4-1-20250805-v1:0", "body": PAYLOAD})
    assert status == 200, answer
    assert json.loads(answer["body"])["content"][0]["text"] == f"echo: {CANARY} hello there"


def test_routing_information(endpoint):
    status, headers, body = http("GET", endpoint + INVOKE)
    assert status == 200
    assert headers["X-Source-Partition"] == "govcloud"
    routing = json.loads(body)["routing"]
    assert (routing["sourcePartition"], routing["destinationPartition"]) == ("govcloud", "commercial")


def test_models(endpoint):
    status, _, body = http("GET", endpoint + "/v1/bedrock/models")
    assert status == 200
    answer = json.loads(body)
    assert {"region", "models", "totalModels", "timestamp", "source"} <= set(answer)
    assert answer["region"].items() >= {"region": "us-east-1", "partition": "aws"}.items()
    assert answer["region"]["description"]
    assert answer["totalModels"] == len(answer["models"]) > 20
    keys = {
        "modelId",
        "modelName",
        "providerName",
        "inputModalities",
        "outputModalities",
        "responseStreamingSupported",
        "customizationsSupported",
        "inferenceTypesSupported",
    }
    assert all(keys <= set(model) for model in answer["models"])
    assert CLAUDE in [model["modelId"] for model in answer["models"]]
    assert answer["source"]["partition"] == "govcloud" and answer["source"]["region"] and answer["source"]["requestId"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["timestamp"])


def test_health(daemons):
    daemon = daemons("bearer")
    for address in [daemon.endpoint, daemon.admin]:
        status, _, body = http("GET", f"{address}/health")
        assert status == 200 and json.loads(body)


REFUSALS = {
    "no model": ({"body": PAYLOAD}, 400),
    "no body": ({"modelId": CLAUDE}, 400),
    "no JSON": (b"{", 400),
    "neither JSON nor base64": ({"modelId": CLAUDE, "body": "{broken"}, 400),
    "no such model": ({"modelId": "nobody.no-such-model-v1:0", "body": PAYLOAD}, 400),
    "access denied": ({"modelId": "ai21.jamba-1-5-large-v1:0", "body": PAYLOAD}, 403),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_errors_have_their_true_status(endpoint, why):
    document, expected = REFUSALS[why]
    status, _, answer = post(endpoint, document)
    assert status == expected, answer
    assert set(answer) == {"error"} and set(answer["error"]) == {"code", "message", "requestId"}
    assert all(answer["error"].values())


def test_a_throttle_stays_a_throttle(endpoint, simulator):
    simulator.fault({"kind": "throttle"}, operation="InvokeModel")
    status, _, answer = post(endpoint, {"modelId": CLAUDE, "body": PAYLOAD})
    assert (status, answer["error"]["code"]) == (429, "ThrottlingException")


def test_an_unknown_path_is_not_found(endpoint):
    status, _, body = http("GET", endpoint + "/v1/bedrock/nothing")
    assert status == 404 and json.loads(body)["error"]["message"]
