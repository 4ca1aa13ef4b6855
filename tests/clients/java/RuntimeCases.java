import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.core.document.Document;
import software.amazon.awssdk.protocols.jsoncore.JsonNode;
import software.amazon.awssdk.services.bedrockruntime.model.*;

/** Every operation of bedrock-runtime; what streams goes by the asynchronous client. */
final class RuntimeCases {
    static void addTo(Map<String, Client.Case> cases) {
        cases.put("invoke", r -> invoked(r.clients().runtime().invokeModel(b -> invocation(r, b))));
        cases.put("invoke_async", r -> invoked(r.clients().streaming().invokeModel(b -> invocation(r, b)).join()));
        cases.put("invoke_stream", RuntimeCases::invokeStream);
        cases.put("converse", r -> said(r.clients().runtime().converse(conversation(r))));
        cases.put("converse_async", r -> said(r.clients().streaming().converse(conversation(r)).join()));
        cases.put("converse_tools", RuntimeCases::converseTools);
        cases.put("converse_image", RuntimeCases::converseImage);
        cases.put("converse_stream", r -> converseStream(r, r.emit()).join());
        cases.put("parallel_streams", RuntimeCases::parallelStreams);
        cases.put("count_tokens", RuntimeCases::countTokens);
        cases.put("apply_guardrail", RuntimeCases::applyGuardrail);
        cases.put("guardrail_checks", RuntimeCases::guardrailChecks);
        cases.put("async_invoke", RuntimeCases::asyncInvoke);
    }

    private static SdkBytes messagesBody(Client.Request r) {
        return SdkBytes.fromUtf8String(Json.write(Map.of(
                "anthropic_version", "bedrock-2023-05-31",
                "max_tokens", 64,
                "messages", List.of(Map.of("role", "user", "content", r.text("text"))))));
    }

    private static void invocation(Client.Request r, InvokeModelRequest.Builder builder) {
        builder.modelId(r.text("model")).body(messagesBody(r));
    }

    static ConverseRequest conversation(Client.Request r) {
        return ConverseRequest.builder()
                .modelId(r.text("model"))
                .system(SystemContentBlock.fromText("Answer in one word."))
                .messages(Message.builder()
                        .role(ConversationRole.USER)
                        .content(ContentBlock.fromText(r.text("text")))
                        .build())
                .inferenceConfig(c -> c.maxTokens(64).temperature(0.5f))
                .build();
    }

    private static ToolConfiguration weather() {
        Document schema = Document.mapBuilder()
                .putString("type", "object")
                .putMap("properties", p -> p.putMap("city", c -> c.putString("type", "string")))
                .putList("required", l -> l.addString("city"))
                .build();
        Tool tool = Tool.fromToolSpec(s -> s.name("weather")
                .description("The weather in a city")
                .inputSchema(ToolInputSchema.fromJson(schema)));
        return ToolConfiguration.builder().tools(tool).build();
    }

    private static byte[] image(int size) {
        byte[] head = {(byte) 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
        byte[] bytes = Arrays.copyOf(head, size);
        for (int i = head.length; i < size; i++) {
            bytes[i] = (byte) ((i - head.length) % 251 * 7 % 251);
        }
        return bytes;
    }

    private static Map<String, Object> invoked(InvokeModelResponse answer) {
        JsonNode body = JsonNode.parser().parse(answer.body().asUtf8String());
        String text = body.field("content").get().asArray().get(0).field("text").get().asString();
        return Map.of("text", text, "contentType", answer.contentType(), "raw", answer.body().asUtf8String());
    }

    static Map<String, Object> said(ConverseResponse answer) {
        StringBuilder text = new StringBuilder();
        List<String> tools = new ArrayList<>();
        for (ContentBlock block : answer.output().message().content()) {
            if (block.text() != null) {
                text.append(block.text());
            }
            if (block.toolUse() != null) {
                tools.add(block.toolUse().name());
            }
        }
        return Map.of(
                "text", text.toString(),
                "tools", tools,
                "stop", answer.stopReasonAsString(),
                "usage", usage(answer.usage()),
                "raw", Client.plain(answer));
    }

    private static List<Integer> usage(TokenUsage counted) {
        return List.of(counted.inputTokens(), counted.outputTokens());
    }

    private static Map<String, Object> invokeStream(Client.Request r) {
        List<Object> chunks = Collections.synchronizedList(new ArrayList<>());
        StringBuffer text = new StringBuffer();
        InvokeModelWithResponseStreamResponseHandler handler = InvokeModelWithResponseStreamResponseHandler.builder()
                .subscriber(event -> {
                    String chunk = ((PayloadPart) event).bytes().asUtf8String();
                    chunks.add(chunk);
                    JsonNode parsed = JsonNode.parser().parse(chunk);
                    if (parsed.field("type").map(JsonNode::asString).orElse("").equals("content_block_delta")) {
                        text.append(parsed.field("delta").get().field("text").get().asString());
                    }
                    r.emit().accept("chunk");
                })
                .build();
        r.clients().streaming()
                .invokeModelWithResponseStream(b -> b.modelId(r.text("model")).body(messagesBody(r)), handler)
                .join();
        return Map.of("text", text.toString(), "events", chunks.size(), "raw", chunks);
    }

    private static CompletableFuture<Map<String, Object>> converseStream(Client.Request r, Consumer<String> emit) {
        Map<String, Object> result = Collections.synchronizedMap(new TreeMap<>());
        List<Object> raw = Collections.synchronizedList(new ArrayList<>());
        StringBuffer text = new StringBuffer();
        ConverseStreamResponseHandler handler = ConverseStreamResponseHandler.builder()
                .subscriber(event -> {
                    String kind = event.sdkEventType().toString();
                    raw.add(Map.of(kind, Client.plain(event)));
                    if (event instanceof ContentBlockDeltaEvent delta && delta.delta().text() != null) {
                        text.append(delta.delta().text());
                    } else if (event instanceof MessageStopEvent stop) {
                        result.put("stop", stop.stopReasonAsString());
                    } else if (event instanceof ConverseStreamMetadataEvent metadata) {
                        result.put("usage", usage(metadata.usage()));
                    }
                    emit.accept(kind);
                })
                .build();
        ConverseRequest ask = conversation(r);
        return r.clients().streaming()
                .converseStream(
                        b -> b.modelId(ask.modelId())
                                .system(ask.system())
                                .messages(ask.messages())
                                .inferenceConfig(ask.inferenceConfig())
                                .toolConfig(r.is("tools") ? weather() : null),
                        handler)
                .thenApply(ended -> {
                    result.putAll(Map.of("text", text.toString(), "events", raw.size(), "raw", raw));
                    return result;
                });
    }

    private static Map<String, Object> parallelStreams(Client.Request r) {
        List<CompletableFuture<Map<String, Object>>> open = IntStream.range(0, r.number("count"))
                .mapToObj(n -> converseStream(r.with("text", r.text("text") + " " + n), event -> {}))
                .toList();
        List<Object> streams = new ArrayList<>();
        for (CompletableFuture<Map<String, Object>> stream : open) {
            Map<String, Object> result = stream.join();
            result.keySet().retainAll(List.of("text", "stop", "events"));
            streams.add(result);
        }
        return Map.of("streams", streams);
    }

    /** The model asks for a tool, and is given what the tool said. */
    private static Map<String, Object> converseTools(Client.Request r) {
        ConverseRequest ask = conversation(r).toBuilder().toolConfig(weather()).build();
        ConverseResponse first = r.clients().runtime().converse(ask);
        Message message = first.output().message();
        Document sky = Document.mapBuilder().putString("output", "clear").build();
        List<ContentBlock> results = message.content().stream()
                .filter(block -> block.toolUse() != null)
                .map(block -> ContentBlock.fromToolResult(
                        t -> t.toolUseId(block.toolUse().toolUseId()).content(ToolResultContentBlock.fromJson(sky))))
                .toList();
        List<Message> messages = new ArrayList<>(ask.messages());
        messages.add(message);
        messages.add(Message.builder().role(ConversationRole.USER).content(results).build());
        ConverseResponse second = r.clients().runtime().converse(ask.toBuilder().messages(messages).build());
        return Map.of("first", said(first), "second", said(second));
    }

    private static Map<String, Object> converseImage(Client.Request r) {
        CachePointBlock cachePoint = CachePointBlock.builder().type(CachePointType.DEFAULT).build();
        ContentBlock picture = ContentBlock.fromImage(i -> i.format(ImageFormat.PNG)
                .source(ImageSource.fromBytes(SdkBytes.fromByteArrayUnsafe(image(r.number("size"))))));
        ConverseRequest ask = conversation(r);
        Message message = Message.builder()
                .role(ConversationRole.USER)
                .content(ContentBlock.fromText(r.text("text")), picture, ContentBlock.fromCachePoint(cachePoint))
                .build();
        SystemContentBlock system = ask.system().get(0);
        return said(r.clients().runtime().converse(ask.toBuilder()
                .messages(message)
                .system(system, SystemContentBlock.fromCachePoint(cachePoint))
                .build()));
    }

    private static Map<String, Object> countTokens(Client.Request r) {
        ConverseRequest ask = conversation(r);
        List<CountTokensInput> inputs = List.of(
                CountTokensInput.fromConverse(c -> c.messages(ask.messages()).system(ask.system())),
                CountTokensInput.fromInvokeModel(i -> i.body(messagesBody(r))));
        List<Integer> tokens = new ArrayList<>();
        for (CountTokensInput input : inputs) {
            tokens.add(r.clients().runtime().countTokens(b -> b.modelId(ask.modelId()).input(input)).inputTokens());
        }
        return Map.of("tokens", tokens);
    }

    private static Map<String, Object> applyGuardrail(Client.Request r) {
        ApplyGuardrailResponse answer = r.clients().runtime().applyGuardrail(b -> b
                .guardrailIdentifier(r.text("guardrail"))
                .guardrailVersion("1")
                .source(GuardrailContentSource.INPUT)
                .content(GuardrailContentBlock.fromText(t -> t.text(r.text("text")))));
        return Map.of("action", answer.actionAsString(), "raw", Client.plain(answer));
    }

    private static Map<String, Object> guardrailChecks(Client.Request r) {
        InvokeGuardrailChecksResponse answer = r.clients().runtime().invokeGuardrailChecks(b -> b
                .messages(GuardrailChecksMessage.builder()
                        .role(GuardrailChecksRole.USER)
                        .content(GuardrailChecksContentBlock.fromText(r.text("text")))
                        .build())
                .checks(c -> c
                        .contentFilter(f -> f.categories(
                                GuardrailChecksContentFilterCategoryConfig.builder().category("VIOLENCE").build()))
                        .promptAttack(f -> f.categories(
                                GuardrailChecksPromptAttackCategoryConfig.builder().category("JAILBREAK").build()))));
        List<String> checks = new ArrayList<>();
        if (answer.results().contentFilter() != null) {
            checks.add("contentFilter");
        }
        if (answer.results().promptAttack() != null) {
            checks.add("promptAttack");
        }
        return Map.of("checks", checks, "raw", Client.plain(answer));
    }

    private static Map<String, Object> asyncInvoke(Client.Request r) {
        Document input = Document.mapBuilder().putString("prompt", r.text("text")).build();
        String arn = r.clients().runtime().startAsyncInvoke(b -> b
                .modelId(r.text("model"))
                .modelInput(input)
                .outputDataConfig(AsyncInvokeOutputDataConfig.fromS3OutputDataConfig(s -> s.s3Uri("s3://answers/here"))))
                .invocationArn();
        GetAsyncInvokeResponse got = r.clients().runtime().getAsyncInvoke(b -> b.invocationArn(arn));
        boolean listed = r.clients().runtime().listAsyncInvokes(b -> b.maxResults(50)).asyncInvokeSummaries().stream()
                .anyMatch(entry -> entry.invocationArn().equals(arn));
        return Map.of(
                "arn", arn,
                "same", got.invocationArn().equals(arn),
                "status", got.statusAsString(),
                "listed", listed,
                "raw", Client.plain(got));
    }

    private RuntimeCases() {}
}
