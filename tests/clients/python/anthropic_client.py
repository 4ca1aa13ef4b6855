"""Anthropic's own SDK in its Bedrock form: raw colons in paths, SigV4 over its own headers, its own retries."""

import base64
import os

from anthropic import AnthropicBedrock, APIStatusError

from program import image, serve

_clients = {}


def client(request):
    retries = {"off": 0, "default": 2}[request.get("retries", "off")]
    if retries not in _clients:
        _clients[retries] = AnthropicBedrock(
            base_url=os.environ["ENDPOINT"],
            aws_region=os.environ["AWS_REGION"],
            aws_access_key=os.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=os.environ.get("AWS_SESSION_TOKEN"),
            max_retries=retries,
        )
    return _clients[retries]


def conversation(request):
    return {
        "model": request["model"],
        "max_tokens": 64,
        "system": "Answer in one word.",
        "messages": [{"role": "user", "content": request["text"]}],
    }


def said(message):
    return {
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "tools": [block.name for block in message.content if block.type == "tool_use"],
        "stop": message.stop_reason,
        "usage": [message.usage.input_tokens, message.usage.output_tokens],
        "raw": message.model_dump(),
    }


def converse(request, _emit):
    return said(client(request).messages.create(**conversation(request)))


def converse_image(request, _emit):
    ask = conversation(request)
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(image(request["size"])).decode()}
    ask["messages"][0]["content"] = [
        {"type": "text", "text": request["text"], "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": source},
    ]
    return said(client(request).messages.create(**ask))


def converse_stream(request, emit):
    text, stop, usage, raw = "", None, [None, None], []
    for event in client(request).messages.create(**conversation(request), stream=True):
        raw.append(event.model_dump())
        if event.type == "message_start":
            usage[0] = event.message.usage.input_tokens
        if event.type == "content_block_delta":
            text += getattr(event.delta, "text", "")
        if event.type == "message_delta":
            stop, usage[1] = event.delta.stop_reason, event.usage.output_tokens
        emit(event.type)
    return {"text": text, "stop": stop, "usage": usage, "events": len(raw), "raw": raw}


CASES = {"converse": converse, "converse_image": converse_image, "converse_stream": converse_stream}


def describe(error):
    seen = {"class": f"{type(error).__module__}.{type(error).__name__}", "message": str(error)}
    if isinstance(error, APIStatusError):
        seen["status"] = error.status_code
    return seen


serve(CASES, describe)
