"""AWS's Python client for bidirectional streams (aws-sdk-bedrock-runtime on smithy), which speaks HTTP/2 over TLS."""

import asyncio
import json
import os

from awscrt import io as crt_io
from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig
from aws_sdk_bedrock_runtime.models import (
    BidirectionalInputPayloadPart,
    InvokeModelWithBidirectionalStreamInputChunk,
    InvokeModelWithBidirectionalStreamOperationInput,
    InvokeModelWithBidirectionalStreamOutputChunk,
)
from program import serve
from smithy_aws_core.identity.environment import EnvironmentCredentialsResolver
from smithy_http.aio.crt import AWSCRTHTTPClient


async def client():
    transport = AWSCRTHTTPClient()
    options = crt_io.TlsContextOptions()
    options.override_default_trust_store_from_path(None, os.environ["CA_FILE"])
    transport._tls_ctx = crt_io.ClientTlsContext(options)
    config = await AsyncBedrockRuntimeConfig.resolve(
        endpoint_uri=os.environ["ENDPOINT"],
        region=os.environ["AWS_REGION"],
        aws_credentials_identity_resolver=EnvironmentCredentialsResolver(),
        transport=transport,
    )
    return AsyncBedrockRuntimeClient(config=config)


async def converse(request):
    bedrock = await client()
    stream = await bedrock.invoke_model_with_bidirectional_stream(
        InvokeModelWithBidirectionalStreamOperationInput(model_id=request["model"])
    )

    async def say(event):
        part = BidirectionalInputPayloadPart(bytes_=json.dumps({"event": event}).encode())
        await stream.input_stream.send(InvokeModelWithBidirectionalStreamInputChunk(value=part))

    said = []

    async def hear():
        event = await output.receive()
        assert isinstance(event, InvokeModelWithBidirectionalStreamOutputChunk), event
        (name, value), = json.loads(event.value.bytes_)["event"].items()
        said.append(value.get("content", name))
        return name

    waiting = asyncio.ensure_future(stream.await_output())
    output = None
    for content in request["say"]:
        await say({"textInput": {"content": content}})
        if output is None:
            _, output = await waiting
        while await hear() != "usageEvent":
            pass
    await stream.input_stream.close()
    while await hear() != "completionEnd":
        pass
    return {"said": said}


def describe(error):
    return {"code": type(error).__name__, "message": str(error)}


serve({"bidirectional": lambda request, emit: asyncio.run(converse(request))}, describe)
