"""boto3: every operation of bedrock-runtime that it has, the reads and profiles of the control plane, and Rerank."""

import json
import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from program import image, serve

MESSAGES_VERSION = "bedrock-2023-05-31"
RETRIES = {"off": {"total_max_attempts": 1}, "default": {}}
_clients = {}


def client(service, request):
    """One client per service and retry setting, as an application would keep it."""
    key = service, request.get("retries", "off")
    if key not in _clients:
        config = Config(retries=RETRIES[key[1]] or None, read_timeout=60, connect_timeout=10)
        endpoint = os.environ["AGENT_ENDPOINT" if service == "bedrock-agent-runtime" else "ENDPOINT"]
        _clients[key] = boto3.client(service, endpoint_url=endpoint, config=config)
    return _clients[key]


def runtime(request):
    return client("bedrock-runtime", request)


def control(request):
    return client("bedrock", request)


def messages_body(request):
    return json.dumps(
        {
            "anthropic_version": MESSAGES_VERSION,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": request["text"]}],
        }
    )


def conversation(request):
    return {
        "modelId": request["model"],
        "system": [{"text": "Answer in one word."}],
        "messages": [{"role": "user", "content": [{"text": request["text"]}]}],
        "inferenceConfig": {"maxTokens": 64, "temperature": 0.5},
    }


TOOLS = {
    "tools": [
        {
            "toolSpec": {
                "name": "weather",
                "description": "The weather in a city",
                "inputSchema": {
                    "json": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
                },
            }
        }
    ]
}


def invoke(request, _emit):
    answer = runtime(request).invoke_model(modelId=request["model"], body=messages_body(request))
    body = json.loads(answer["body"].read())
    return {"text": body["content"][0]["text"], "contentType": answer["contentType"], "raw": body}


def invoke_stream(request, emit):
    answer = runtime(request).invoke_model_with_response_stream(modelId=request["model"], body=messages_body(request))
    text, chunks = "", []
    for event in answer["body"]:
        (kind,) = event
        chunk = json.loads(event["chunk"]["bytes"])
        chunks.append(chunk)
        if chunk.get("type") == "content_block_delta":
            text += chunk["delta"].get("text", "")
        emit(kind)
    return {"text": text, "events": len(chunks), "raw": chunks}


def plain(answer):
    return {key: value for key, value in answer.items() if key != "ResponseMetadata"}


def said(answer):
    blocks = answer["output"]["message"]["content"]
    return {
        "text": "".join(block.get("text", "") for block in blocks),
        "tools": [block["toolUse"]["name"] for block in blocks if "toolUse" in block],
        "stop": answer["stopReason"],
        "usage": [answer["usage"]["inputTokens"], answer["usage"]["outputTokens"]],
        "raw": plain(answer),
    }


def converse(request, _emit):
    return said(runtime(request).converse(**conversation(request)))


def converse_tools(request, _emit):
    """The model asks for a tool, and is given what the tool said."""
    ask = conversation(request) | {"toolConfig": TOOLS}
    first = runtime(request).converse(**ask)
    ask["messages"] = ask["messages"] + [first["output"]["message"]]
    uses = [block["toolUse"] for block in first["output"]["message"]["content"] if "toolUse" in block]
    results = [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"json": {"output": "clear"}}]}} for use in uses]
    ask["messages"] = ask["messages"] + [{"role": "user", "content": results}]
    return {"first": said(first), "second": said(runtime(request).converse(**ask))}


def converse_image(request, _emit):
    ask = conversation(request)
    picture = {"image": {"format": "png", "source": {"bytes": image(request["size"])}}}
    ask["messages"][0]["content"] += [picture, {"cachePoint": {"type": "default"}}]
    ask["system"].append({"cachePoint": {"type": "default"}})
    return said(runtime(request).converse(**ask))


def converse_stream(request, emit):
    ask = conversation(request)
    if request.get("tools"):
        ask["toolConfig"] = TOOLS
    text, stop, usage, raw = "", None, None, []
    for event in runtime(request).converse_stream(**ask)["stream"]:
        (kind,) = event
        raw.append(event)
        if kind == "contentBlockDelta":
            text += event[kind]["delta"].get("text", "")
        if kind == "messageStop":
            stop = event[kind]["stopReason"]
        if kind == "metadata":
            usage = [event[kind]["usage"]["inputTokens"], event[kind]["usage"]["outputTokens"]]
        emit(kind)
    return {"text": text, "stop": stop, "usage": usage, "events": len(raw), "raw": raw}


def count_tokens(request, _emit):
    ask = conversation(request)
    counted = runtime(request).count_tokens(
        modelId=request["model"], input={"converse": {"messages": ask["messages"], "system": ask["system"]}}
    )
    invoked = runtime(request).count_tokens(
        modelId=request["model"], input={"invokeModel": {"body": messages_body(request)}}
    )
    return {"tokens": [counted["inputTokens"], invoked["inputTokens"]]}


def apply_guardrail(request, _emit):
    answer = runtime(request).apply_guardrail(
        guardrailIdentifier=request["guardrail"],
        guardrailVersion="1",
        source="INPUT",
        content=[{"text": {"text": request["text"]}}],
    )
    return {"action": answer["action"], "raw": plain(answer)}


def guardrail_checks(request, _emit):
    answer = runtime(request).invoke_guardrail_checks(
        messages=[{"role": "user", "content": [{"text": request["text"]}]}],
        checks={
            "contentFilter": {"categories": [{"category": "VIOLENCE"}]},
            "promptAttack": {"categories": [{"category": "JAILBREAK"}]},
        },
    )
    return {"checks": sorted(answer["results"]), "raw": plain(answer)}


def async_invoke(request, _emit):
    started = runtime(request).start_async_invoke(
        modelId=request["model"],
        modelInput={"prompt": request["text"]},
        outputDataConfig={"s3OutputDataConfig": {"s3Uri": "s3://answers/here"}},
    )
    arn = started["invocationArn"]
    got = runtime(request).get_async_invoke(invocationArn=arn)
    listed = runtime(request).list_async_invokes(maxResults=50)["asyncInvokeSummaries"]
    return {
        "arn": arn,
        "same": got["invocationArn"] == arn,
        "status": got["status"],
        "listed": arn in [entry["invocationArn"] for entry in listed],
        "raw": plain(got),
    }


def list_models(request, _emit):
    answer = control(request).list_foundation_models()
    return {"ids": [model["modelId"] for model in answer["modelSummaries"]], "raw": plain(answer)}


def get_model(request, _emit):
    answer = control(request).get_foundation_model(modelIdentifier=request["model"])
    return {"id": answer["modelDetails"]["modelId"], "raw": plain(answer)}


def list_profiles(request, _emit):
    pages = control(request).get_paginator("list_inference_profiles").paginate(
        typeEquals="SYSTEM_DEFINED", PaginationConfig={"PageSize": 2}
    )
    profiles = [profile for page in pages for profile in page["inferenceProfileSummaries"]]
    return {"ids": [profile["inferenceProfileId"] for profile in profiles], "raw": profiles}


def get_profile(request, _emit):
    answer = control(request).get_inference_profile(inferenceProfileIdentifier=request["profile"])
    return {"id": answer["inferenceProfileId"], "models": [m["modelArn"] for m in answer["models"]], "raw": plain(answer)}


def profile_lifecycle(request, _emit):
    """A profile is made, found, used and removed."""
    made = control(request).create_inference_profile(
        inferenceProfileName=request["name"],
        description="made by a client test",
        modelSource={"copyFrom": request["source"]},
        tags=[{"key": "suite", "value": "clients"}],
    )
    arn = made["inferenceProfileArn"]
    got = control(request).get_inference_profile(inferenceProfileIdentifier=arn)
    listed = control(request).list_inference_profiles(typeEquals="APPLICATION", maxResults=100)
    answer = runtime(request).converse(**conversation(request | {"model": arn}))
    control(request).delete_inference_profile(inferenceProfileIdentifier=arn)
    try:
        control(request).get_inference_profile(inferenceProfileIdentifier=arn)
        gone = "still there"
    except ClientError as error:
        gone = error.response["Error"]["Code"]
    return {
        "name": got["inferenceProfileName"],
        "status": made["status"],
        "listed": arn in [p["inferenceProfileArn"] for p in listed["inferenceProfileSummaries"]],
        "text": said(answer)["text"],
        "gone": gone,
    }


def rerank(request, _emit):
    """All pages of what the paginator gives."""
    pages = client("bedrock-agent-runtime", request).get_paginator("rerank").paginate(
        queries=[{"type": "TEXT", "textQuery": {"text": request["text"]}}],
        sources=[
            {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}}
            for text in request["sources"]
        ],
        rerankingConfiguration={
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {"modelConfiguration": {"modelArn": request["model"]}},
        },
    )
    results = [result for page in pages for result in page["results"]]
    return {"order": [result["index"] for result in results], "scores": [result["relevanceScore"] for result in results]}


CASES = {
    case.__name__: case
    for case in [
        invoke,
        invoke_stream,
        converse,
        converse_tools,
        converse_image,
        converse_stream,
        count_tokens,
        apply_guardrail,
        guardrail_checks,
        async_invoke,
        rerank,
        list_models,
        get_model,
        list_profiles,
        get_profile,
        profile_lifecycle,
    ]
}


def describe(error):
    seen = {"class": f"{type(error).__module__}.{type(error).__name__}", "message": str(error)}
    if isinstance(error, ClientError):
        seen["code"] = error.response["Error"]["Code"]
        seen["status"] = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return seen


serve(CASES, describe)
