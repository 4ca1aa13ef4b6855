// The AWS SDK for JavaScript v3: HTTP/2 with prior knowledge, also on plain http.
import { createInterface } from "node:readline";
import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import * as agents from "@aws-sdk/client-bedrock-agent-runtime";
import * as bedrock from "@aws-sdk/client-bedrock";
import * as runtime from "@aws-sdk/client-bedrock-runtime";
import { rerank } from "ai";

const clients = new Map();

function client(Service, request) {
  const retries = request.retries ?? "off";
  const key = `${Service.name} ${retries}`;
  if (!clients.has(key)) clients.set(key, fresh(Service, retries === "off" ? { maxAttempts: 1 } : {}));
  return clients.get(key);
}

function fresh(Service, settings) {
  const { ENDPOINT, AGENT_ENDPOINT } = process.env;
  const endpoint = Service === agents.BedrockAgentRuntimeClient ? AGENT_ENDPOINT : ENDPOINT;
  return new Service({ endpoint, ...settings });
}

const send = (request, command) => client(runtime.BedrockRuntimeClient, request).send(command);
const manage = (request, command) => client(bedrock.BedrockClient, request).send(command);

const utf8 = new TextDecoder();
const json = (bytes) => JSON.parse(utf8.decode(bytes));

const messagesBody = (request) =>
  JSON.stringify({
    anthropic_version: "bedrock-2023-05-31",
    max_tokens: 64,
    messages: [{ role: "user", content: request.text }],
  });

// Without a content type this SDK calls every body application/octet-stream.
const invocation = (request) => ({
  modelId: request.model,
  contentType: "application/json",
  body: messagesBody(request),
});

const conversation = (request) => ({
  modelId: request.model,
  system: [{ text: "Answer in one word." }],
  messages: [{ role: "user", content: [{ text: request.text }] }],
  inferenceConfig: { maxTokens: 64, temperature: 0.5 },
});

const toolConfig = {
  tools: [
    {
      toolSpec: {
        name: "weather",
        description: "The weather in a city",
        inputSchema: { json: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
      },
    },
  ],
};

function image(size) {
  const bytes = new Uint8Array(size);
  bytes.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  for (let i = 8; i < size; i++) bytes[i] = (((i - 8) % 251) * 7) % 251;
  return bytes;
}

const plain = ({ $metadata, ...rest }) => rest;

function said(answer) {
  const blocks = answer.output.message.content;
  return {
    text: blocks.map((block) => block.text ?? "").join(""),
    tools: blocks.filter((block) => block.toolUse).map((block) => block.toolUse.name),
    stop: answer.stopReason,
    usage: [answer.usage.inputTokens, answer.usage.outputTokens],
    raw: plain(answer),
  };
}

async function readConversation(stream, emit) {
  const result = { text: "", raw: [] };
  for await (const event of stream) {
    const [kind] = Object.keys(event);
    result.raw.push(event);
    if (kind === "contentBlockDelta") result.text += event[kind].delta.text ?? "";
    if (kind === "messageStop") result.stop = event[kind].stopReason;
    if (kind === "metadata") result.usage = [event[kind].usage.inputTokens, event[kind].usage.outputTokens];
    emit(kind);
  }
  result.events = result.raw.length;
  return result;
}

const cases = {
  async invoke(request) {
    const answer = await send(request, new runtime.InvokeModelCommand(invocation(request)));
    const body = json(answer.body);
    return { text: body.content[0].text, contentType: answer.contentType, raw: body };
  },

  async invoke_stream(request, emit) {
    const answer = await send(
      request,
      new runtime.InvokeModelWithResponseStreamCommand(invocation(request)),
    );
    let text = "";
    const chunks = [];
    for await (const event of answer.body) {
      const chunk = json(event.chunk.bytes);
      chunks.push(chunk);
      if (chunk.type === "content_block_delta") text += chunk.delta.text ?? "";
      emit(Object.keys(event)[0]);
    }
    return { text, events: chunks.length, raw: chunks };
  },

  async converse(request) {
    return said(await send(request, new runtime.ConverseCommand(conversation(request))));
  },

  // The model asks for a tool, and is given what the tool said.
  async converse_tools(request) {
    const ask = { ...conversation(request), toolConfig };
    const first = await send(request, new runtime.ConverseCommand(ask));
    const { message } = first.output;
    const results = message.content
      .filter((block) => block.toolUse)
      .map(({ toolUse }) => ({ toolResult: { toolUseId: toolUse.toolUseId, content: [{ json: { output: "clear" } }] } }));
    ask.messages = [...ask.messages, message, { role: "user", content: results }];
    return { first: said(first), second: said(await send(request, new runtime.ConverseCommand(ask))) };
  },

  async converse_image(request) {
    const ask = conversation(request);
    const cachePoint = { cachePoint: { type: "default" } };
    ask.messages[0].content.push({ image: { format: "png", source: { bytes: image(request.size) } } }, cachePoint);
    ask.system.push(cachePoint);
    return said(await send(request, new runtime.ConverseCommand(ask)));
  },

  async converse_stream(request, emit) {
    const ask = conversation(request);
    if (request.tools) ask.toolConfig = toolConfig;
    const answer = await send(request, new runtime.ConverseStreamCommand(ask));
    return readConversation(answer.stream, emit);
  },

  // Many streams on one connection, and the client destroyed when the last has ended: its GOAWAY may overtake them.
  async parallel_streams(request) {
    const many = fresh(runtime.BedrockRuntimeClient, { maxAttempts: 1 });
    const read = async (n) => {
      const ask = conversation({ ...request, text: `${request.text} ${n}` });
      const answer = await many.send(new runtime.ConverseStreamCommand(ask));
      return readConversation(answer.stream, () => {});
    };
    const streams = await Promise.all(Array.from({ length: request.count }, (_, n) => read(n)));
    many.destroy();
    return { streams: streams.map(({ text, stop, events }) => ({ text, stop, events })) };
  },

  // The client is destroyed while its streams are open; the events that were asked for must still arrive.
  async destroyed_while_open(request, emit) {
    const doomed = fresh(runtime.BedrockRuntimeClient, { maxAttempts: 1 });
    const answers = await Promise.all(
      Array.from({ length: request.count }, (_, n) =>
        doomed.send(new runtime.ConverseStreamCommand(conversation({ ...request, text: `${request.text} ${n}` }))),
      ),
    );
    doomed.destroy();
    emit("destroyed");
    const streams = await Promise.all(answers.map((answer) => readConversation(answer.stream, () => {})));
    return { streams: streams.map(({ text, stop, events }) => ({ text, stop, events })) };
  },

  // The application leaves in the middle of a stream.
  async leave_stream(request, emit) {
    const leaving = fresh(runtime.BedrockRuntimeClient, { maxAttempts: 1 });
    const abort = new AbortController();
    const command = new runtime.ConverseStreamCommand(conversation(request));
    const answer = await leaving.send(command, { abortSignal: abort.signal });
    for await (const event of answer.stream) {
      emit(Object.keys(event)[0]);
      break;
    }
    abort.abort();
    leaving.destroy();
    return { left: true };
  },

  // Each event is said once the one before it has been answered, on a stream that is open all the while.
  async bidirectional(request) {
    const answered = request.say.map(() => {
      const turn = {};
      turn.comes = new Promise((resolve) => (turn.done = resolve));
      return turn;
    });
    async function* input() {
      for (const [at, content] of request.say.entries()) {
        const event = { event: { textInput: { content } } };
        yield { chunk: { bytes: new TextEncoder().encode(JSON.stringify(event)) } };
        await answered[at].comes;
      }
    }
    const command = new runtime.InvokeModelWithBidirectionalStreamCommand({ modelId: request.model, body: input() });
    const answer = await send(request, command);
    const said = [];
    let turns = 0;
    for await (const event of answer.body) {
      const [[name, value]] = Object.entries(json(event.chunk.bytes).event);
      said.push(value.content ?? name);
      if (name === "usageEvent") answered[turns++].done();
    }
    return { said };
  },

  async count_tokens(request) {
    const { messages, system } = conversation(request);
    const count = (input) => send(request, new runtime.CountTokensCommand({ modelId: request.model, input }));
    const counted = await count({ converse: { messages, system } });
    const invoked = await count({ invokeModel: { body: new TextEncoder().encode(messagesBody(request)) } });
    return { tokens: [counted.inputTokens, invoked.inputTokens] };
  },

  async apply_guardrail(request) {
    const answer = await send(
      request,
      new runtime.ApplyGuardrailCommand({
        guardrailIdentifier: request.guardrail,
        guardrailVersion: "1",
        source: "INPUT",
        content: [{ text: { text: request.text } }],
      }),
    );
    return { action: answer.action, raw: plain(answer) };
  },

  async guardrail_checks(request) {
    const answer = await send(
      request,
      new runtime.InvokeGuardrailChecksCommand({
        messages: [{ role: "user", content: [{ text: request.text }] }],
        checks: {
          contentFilter: { categories: [{ category: "VIOLENCE" }] },
          promptAttack: { categories: [{ category: "JAILBREAK" }] },
        },
      }),
    );
    return { checks: Object.keys(answer.results).sort(), raw: plain(answer) };
  },

  async async_invoke(request) {
    const { invocationArn } = await send(
      request,
      new runtime.StartAsyncInvokeCommand({
        modelId: request.model,
        modelInput: { prompt: request.text },
        outputDataConfig: { s3OutputDataConfig: { s3Uri: "s3://answers/here" } },
      }),
    );
    const got = await send(request, new runtime.GetAsyncInvokeCommand({ invocationArn }));
    const { asyncInvokeSummaries } = await send(request, new runtime.ListAsyncInvokesCommand({ maxResults: 50 }));
    return {
      arn: invocationArn,
      same: got.invocationArn === invocationArn,
      status: got.status,
      listed: asyncInvokeSummaries.some((entry) => entry.invocationArn === invocationArn),
      raw: plain(got),
    };
  },

  // All pages of what the paginator gives.
  async rerank(request) {
    const results = [];
    const pages = agents.paginateRerank(
      { client: client(agents.BedrockAgentRuntimeClient, request) },
      {
        queries: [{ type: "TEXT", textQuery: { text: request.text } }],
        sources: request.sources.map((text) => ({
          type: "INLINE",
          inlineDocumentSource: { type: "TEXT", textDocument: { text } },
        })),
        rerankingConfiguration: {
          type: "BEDROCK_RERANKING_MODEL",
          bedrockRerankingConfiguration: { modelConfiguration: { modelArn: request.model } },
        },
      },
    );
    for await (const page of pages) results.push(...page.results);
    return { order: results.map((result) => result.index), scores: results.map((result) => result.relevanceScore) };
  },

  // Vercel's AI SDK, which makes an ARN of the partition aws and of the app's region.
  async rerank_ai_sdk(request) {
    const provider = createAmazonBedrock({ baseURL: process.env.AGENT_ENDPOINT });
    const { ranking } = await rerank({
      model: provider.reranking(request.model),
      documents: request.sources,
      query: request.text,
      topN: 2,
      maxRetries: 0,
    });
    return { order: ranking.map((result) => result.originalIndex), scores: ranking.map((result) => result.score) };
  },

  async list_models(request) {
    const answer = await manage(request, new bedrock.ListFoundationModelsCommand({}));
    return { ids: answer.modelSummaries.map((model) => model.modelId), raw: plain(answer) };
  },

  async get_model(request) {
    const answer = await manage(request, new bedrock.GetFoundationModelCommand({ modelIdentifier: request.model }));
    return { id: answer.modelDetails.modelId, raw: plain(answer) };
  },

  async list_profiles(request) {
    const profiles = [];
    const pages = bedrock.paginateListInferenceProfiles(
      { client: client(bedrock.BedrockClient, request), pageSize: 2 },
      { typeEquals: "SYSTEM_DEFINED" },
    );
    for await (const page of pages) profiles.push(...page.inferenceProfileSummaries);
    return { ids: profiles.map((profile) => profile.inferenceProfileId), raw: profiles };
  },

  async get_profile(request) {
    const command = new bedrock.GetInferenceProfileCommand({ inferenceProfileIdentifier: request.profile });
    const answer = await manage(request, command);
    return { id: answer.inferenceProfileId, models: answer.models.map((m) => m.modelArn), raw: plain(answer) };
  },

  // A profile is made, found, used and removed.
  async profile_lifecycle(request) {
    const made = await manage(
      request,
      new bedrock.CreateInferenceProfileCommand({
        inferenceProfileName: request.name,
        description: "made by a client test",
        modelSource: { copyFrom: request.source },
        tags: [{ key: "suite", value: "clients" }],
      }),
    );
    const arn = made.inferenceProfileArn;
    const get = () => manage(request, new bedrock.GetInferenceProfileCommand({ inferenceProfileIdentifier: arn }));
    const got = await get();
    const listed = await manage(
      request,
      new bedrock.ListInferenceProfilesCommand({ typeEquals: "APPLICATION", maxResults: 100 }),
    );
    const answer = await send(request, new runtime.ConverseCommand(conversation({ ...request, model: arn })));
    await manage(request, new bedrock.DeleteInferenceProfileCommand({ inferenceProfileIdentifier: arn }));
    const gone = await get().then(() => "still there", (error) => error.name);
    return {
      name: got.inferenceProfileName,
      status: made.status,
      listed: listed.inferenceProfileSummaries.some((profile) => profile.inferenceProfileArn === arn),
      text: said(answer).text,
      gone,
    };
  },
};

const say = (document) => process.stdout.write(`${JSON.stringify(document, bytesAsText)}\n`);

function bytesAsText(_key, value) {
  return value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value;
}

const describe = (error) => ({
  class: error.constructor.name,
  code: error.name,
  message: error.message,
  status: error.$metadata?.httpStatusCode,
});

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const seen = [];
  const emit = (event) => {
    seen.push(event);
    say({ id: request.id, event });
  };
  let done;
  try {
    done = { ok: true, result: await cases[request.case](request, emit) };
  } catch (error) {
    done = { ok: false, error: describe(error), events: seen };
  }
  say({ id: request.id, done });
}
