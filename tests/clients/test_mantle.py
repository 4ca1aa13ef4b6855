"""bedrock-mantle through the SDKs of OpenAI and Anthropic: streams, stored responses, counts, and errors as they read them."""

import json
import subprocess

import pytest

from conftest import CANARY, NOT_RUN
from harness import CACHE, GOV_KEYS, clean_environment, eventually

GPT = "openai.gpt-oss-120b"
OPUS = "anthropic.claude-opus-4-7"

OPENAI = f"""
import json, openai
client = openai.OpenAI(base_url=BASE + "/v1", api_key="any", max_retries=0)
TEXT = "{CANARY} hello"
"""

ANTHROPIC = f"""
import anthropic, json
client = anthropic.AnthropicBedrockMantle(base_url=BASE + "/anthropic", api_key="any", max_retries=0)
MESSAGES = [{{"role": "user", "content": "{CANARY} hello"}}]
"""


@pytest.fixture
def run(daemons, tmp_path):
    """`run(environment, program)`: what the program prints as JSON, and the records of its requests."""

    def program(environment, text):
        daemon = daemons("mantle")
        start = len(daemon.lines)
        file = tmp_path / "program.py"
        file.write_text(f"BASE = {daemon.endpoint!r}\n{text}")
        ran = subprocess.run(
            [CACHE / environment / "bin/python", file],
            env=clean_environment(**GOV_KEYS),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        eventually("an idle daemon", daemon.idle)
        return json.loads(ran.stdout), daemon.records(start)

    return program


openai = pytest.mark.skipif("frameworks" in NOT_RUN, reason="OpenAI's SDK is not installed")


@openai
def test_streams_of_openai_s_sdk(run):
    said, records = run(
        "frameworks",
        OPENAI
        + f"""
chat = client.chat.completions.create(model="{GPT}", messages=[{{"role": "user", "content": TEXT}}], stream=True,
                                      stream_options={{"include_usage": True}})
chat = [[c.delta.content for c in chunk.choices] + [chunk.usage and chunk.usage.total_tokens] for chunk in chat]
response = client.responses.create(model="{GPT}", input=TEXT, stream=True, store=False)
response = [event.type for event in response]
print(json.dumps([chat, response]))
""",
    )
    chat, response = said
    assert "".join(part for parts in chat for part in parts if isinstance(part, str)) == f"echo: {CANARY} hello"
    assert (response[0], response[-1]) == ("response.created", "response.completed")
    for record in records:
        assert (record["inputTokens"], record["outputTokens"], record["streaming"]) == (2, 3, True), record
        assert (record["outcome"], record["endpoint"]) == ("completed", "bedrock-mantle"), record
    assert [record["operation"] for record in records] == ["MantleChatCompletions", "MantleResponses"]


@openai
def test_stored_responses_of_openai_s_sdk(run):
    said, records = run(
        "frameworks",
        OPENAI
        + f"""
made = client.responses.create(model="{GPT}", input=TEXT)
found = client.responses.retrieve(made.id)
items = [item.type for item in client.responses.input_items.list(made.id)]
counted = client.responses.input_tokens.count(model="{GPT}", input=TEXT).input_tokens
client.responses.delete(made.id)
try:
    client.responses.retrieve(made.id)
    gone = None
except openai.NotFoundError as error:
    gone = error.code
models = [model.id for model in client.models.list()]
print(json.dumps([made.output_text, found.output_text, items, counted, gone, models, client.models.retrieve("{GPT}").id]))
""",
    )
    text = f"echo: {CANARY} hello"
    assert said[:5] == [text, text, ["message"], 2, "not_found"], said
    assert GPT in said[5] and said[6] == GPT
    assert records[0]["stored"] is True and all("stored" not in record for record in records[1:]), records
    assert [(record["operation"], record["statusCode"]) for record in records] == [
        ("MantleResponses", 200),
        ("MantleGetResponse", 200),
        ("MantleListInputItems", 200),
        ("MantleCountInputTokens", 200),
        ("MantleDeleteResponse", 200),
        ("MantleGetResponse", 404),
        ("MantleListModels", 200),
        ("MantleGetModel", 200),
    ]


@openai
def test_refusals_are_errors_of_openai_s_sdk(run):
    said, records = run(
        "frameworks",
        OPENAI
        + f"""
try:
    client.responses.create(model="eu.{GPT}", input=TEXT, store=False)
except openai.PermissionDeniedError as error:
    print(json.dumps([error.type, error.code, error.body["message"]]))
""",
    )
    assert said[:2] == ["permission_error", "AccessDeniedException"]
    assert said[2].startswith("bedrock-sidecar: ") and "geography" in said[2]
    [record] = records
    assert (record["outcome"], record["statusCode"], record["attempts"]) == ("refused", 403, 0), record


def test_anthropic_s_client_for_the_mantle_host(run):
    said, records = run(
        "py",
        ANTHROPIC
        + f"""
with client.messages.stream(model="{OPUS}", max_tokens=64, messages=MESSAGES) as stream:
    text = "".join(stream.text_stream)
counted = client.messages.count_tokens(model="{OPUS}", messages=MESSAGES).input_tokens
try:
    client.messages.create(model="eu.{OPUS}", max_tokens=64, messages=MESSAGES)
except anthropic.PermissionDeniedError as error:
    refused = [error.body["error"]["type"], error.body["error"]["message"]]
print(json.dumps([text, counted, refused]))
""",
    )
    text, counted, refused = said
    assert (text, counted, refused[0]) == (f"echo: {CANARY} hello", 2, "permission_error")
    assert refused[1].startswith("bedrock-sidecar: ")
    streamed, count, denied = records
    assert (streamed["operation"], streamed["endpoint"], streamed["attempts"]) == ("Messages", "bedrock-mantle", 2), streamed
    assert (streamed["inputTokens"], streamed["outputTokens"], streamed["streaming"]) == (2, 3, True), streamed
    assert (count["operation"], count["endpoint"]) == ("MessagesCountTokens", "bedrock-mantle"), count
    assert (denied["outcome"], denied["attempts"]) == ("refused", 0), denied
