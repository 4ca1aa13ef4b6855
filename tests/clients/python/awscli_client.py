"""The AWS command line, version 1: everything of bedrock-runtime that does not stream, and the control plane."""

import base64
import json
import os
import re
import subprocess
import tempfile

from program import image, serve

AWS = os.environ["AWS_CLI"]


class CommandFailed(Exception):
    pass


def aws(service, operation, request, **parameters):
    """Runs one command; what a shell user sees is its standard output and error."""
    attempts = {"off": "1", "default": ""}[request.get("retries", "off")]
    environment = os.environ | ({"AWS_MAX_ATTEMPTS": attempts} if attempts else {})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(parameters, file)
        file.flush()
        command = [AWS, service, operation, "--endpoint-url", os.environ["ENDPOINT"], "--output", "json"]
        outfile = tempfile.NamedTemporaryFile("rb")
        if operation == "invoke-model":
            command += ["--model-id", parameters["modelId"], "--body", parameters["body"], outfile.name]
        else:
            command += ["--cli-input-json", f"file://{file.name}"]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if ran.returncode != 0:
        raise CommandFailed(ran.returncode, ran.stderr.strip())
    answer = json.loads(ran.stdout) if ran.stdout.strip() else {}
    return (answer, outfile.read()) if operation == "invoke-model" else answer


def messages_body(request):
    """Version 1 takes blobs as they are, not in base64."""
    return json.dumps(
        {
            "anthropic_version": "bedrock-2023-05-31",
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


def said(answer):
    blocks = answer["output"]["message"]["content"]
    return {
        "text": "".join(block.get("text", "") for block in blocks),
        "tools": [block["toolUse"]["name"] for block in blocks if "toolUse" in block],
        "stop": answer["stopReason"],
        "usage": [answer["usage"]["inputTokens"], answer["usage"]["outputTokens"]],
        "raw": answer,
    }


def invoke(request, _emit):
    answer, body = aws(
        "bedrock-runtime", "invoke-model", request, modelId=request["model"], body=messages_body(request)
    )
    body = json.loads(body)
    return {"text": body["content"][0]["text"], "contentType": answer["contentType"], "raw": body}


def converse(request, _emit):
    return said(aws("bedrock-runtime", "converse", request, **conversation(request)))


def converse_image(request, _emit):
    ask = conversation(request)
    picture = base64.b64encode(image(request["size"])).decode()[: request["size"]]
    cache_point = {"cachePoint": {"type": "default"}}
    ask["messages"][0]["content"] += [{"image": {"format": "png", "source": {"bytes": picture}}}, cache_point]
    ask["system"].append(cache_point)
    return said(aws("bedrock-runtime", "converse", request, **ask))


def count_tokens(request, _emit):
    ask = conversation(request)
    inputs = [
        {"converse": {"messages": ask["messages"], "system": ask["system"]}},
        {"invokeModel": {"body": messages_body(request)}},
    ]
    answers = [
        aws("bedrock-runtime", "count-tokens", request, modelId=request["model"], input=wanted) for wanted in inputs
    ]
    return {"tokens": [answer["inputTokens"] for answer in answers]}


def apply_guardrail(request, _emit):
    answer = aws(
        "bedrock-runtime",
        "apply-guardrail",
        request,
        guardrailIdentifier=request["guardrail"],
        guardrailVersion="1",
        source="INPUT",
        content=[{"text": {"text": request["text"]}}],
    )
    return {"action": answer["action"], "raw": answer}


def guardrail_checks(request, _emit):
    answer = aws(
        "bedrock-runtime",
        "invoke-guardrail-checks",
        request,
        messages=[{"role": "user", "content": [{"text": request["text"]}]}],
        checks={
            "contentFilter": {"categories": [{"category": "VIOLENCE"}]},
            "promptAttack": {"categories": [{"category": "JAILBREAK"}]},
        },
    )
    return {"checks": sorted(answer["results"]), "raw": answer}


def async_invoke(request, _emit):
    arn = aws(
        "bedrock-runtime",
        "start-async-invoke",
        request,
        modelId=request["model"],
        modelInput={"prompt": request["text"]},
        outputDataConfig={"s3OutputDataConfig": {"s3Uri": "s3://answers/here"}},
    )["invocationArn"]
    got = aws("bedrock-runtime", "get-async-invoke", request, invocationArn=arn)
    listed = aws("bedrock-runtime", "list-async-invokes", request, maxResults=50)["asyncInvokeSummaries"]
    return {
        "arn": arn,
        "same": got["invocationArn"] == arn,
        "status": got["status"],
        "listed": arn in [entry["invocationArn"] for entry in listed],
        "raw": got,
    }


def list_models(request, _emit):
    answer = aws("bedrock", "list-foundation-models", request)
    return {"ids": [model["modelId"] for model in answer["modelSummaries"]], "raw": answer}


def get_model(request, _emit):
    answer = aws("bedrock", "get-foundation-model", request, modelIdentifier=request["model"])
    return {"id": answer["modelDetails"]["modelId"], "raw": answer}


def list_profiles(request, _emit):
    answer = aws("bedrock", "list-inference-profiles", request, typeEquals="SYSTEM_DEFINED")
    profiles = answer["inferenceProfileSummaries"]
    return {"ids": [profile["inferenceProfileId"] for profile in profiles], "raw": profiles}


def get_profile(request, _emit):
    answer = aws("bedrock", "get-inference-profile", request, inferenceProfileIdentifier=request["profile"])
    return {"id": answer["inferenceProfileId"], "models": [m["modelArn"] for m in answer["models"]], "raw": answer}


def profile_lifecycle(request, _emit):
    """A profile is made, found, used and removed."""
    made = aws(
        "bedrock",
        "create-inference-profile",
        request,
        inferenceProfileName=request["name"],
        description="made by a client test",
        modelSource={"copyFrom": request["source"]},
        tags=[{"key": "suite", "value": "clients"}],
    )
    arn = made["inferenceProfileArn"]
    got = aws("bedrock", "get-inference-profile", request, inferenceProfileIdentifier=arn)
    listed = aws("bedrock", "list-inference-profiles", request, typeEquals="APPLICATION")
    answer = aws("bedrock-runtime", "converse", request, **conversation(request | {"model": arn}))
    aws("bedrock", "delete-inference-profile", request, inferenceProfileIdentifier=arn)
    try:
        aws("bedrock", "get-inference-profile", request, inferenceProfileIdentifier=arn)
        gone = "still there"
    except CommandFailed as error:
        gone = describe(error)["code"]
    return {
        "name": got["inferenceProfileName"],
        "status": made["status"],
        "listed": arn in [p["inferenceProfileArn"] for p in listed["inferenceProfileSummaries"]],
        "text": said(answer)["text"],
        "gone": gone,
    }


CASES = {
    case.__name__: case
    for case in [
        invoke,
        converse,
        converse_image,
        count_tokens,
        apply_guardrail,
        guardrail_checks,
        async_invoke,
        list_models,
        get_model,
        list_profiles,
        get_profile,
        profile_lifecycle,
    ]
}


def describe(error):
    if not isinstance(error, CommandFailed):
        return {"class": type(error).__name__, "message": str(error)}
    status, text = error.args
    code = re.search(r"An error occurred \((\w+)\)", text)
    return {"class": f"exit {status}", "code": code and code[1], "message": text}


serve(CASES, describe)
