import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.function.Consumer;
import software.amazon.awssdk.awscore.client.builder.AwsClientBuilder;
import software.amazon.awssdk.awscore.exception.AwsServiceException;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.core.SdkField;
import software.amazon.awssdk.core.SdkPojo;
import software.amazon.awssdk.core.document.Document;
import software.amazon.awssdk.http.SdkHttpClient;
import software.amazon.awssdk.http.apache.ApacheHttpClient;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.protocols.jsoncore.JsonNode;
import software.amazon.awssdk.retries.DefaultRetryStrategy;
import software.amazon.awssdk.services.bedrock.BedrockClient;
import software.amazon.awssdk.services.bedrockruntime.BedrockRuntimeAsyncClient;
import software.amazon.awssdk.services.bedrockruntime.BedrockRuntimeClient;

/** The AWS SDK for Java v2: one JSON request per line in, one JSON answer per line out. */
public final class Client {
    interface Case {
        Map<String, Object> run(Request request) throws Exception;
    }

    /** A request's fields, the clients that serve it, and where its events are told. */
    record Request(Map<String, JsonNode> fields, Clients clients, Consumer<String> emit) {
        String text(String name) {
            return fields.get(name).asString();
        }

        int number(String name) {
            return Integer.parseInt(fields.get(name).asNumber());
        }

        boolean is(String name) {
            return fields.containsKey(name) && fields.get(name).asBoolean();
        }

        Request with(String name, String value) {
            Map<String, JsonNode> changed = new HashMap<>(fields);
            changed.put(name, JsonNode.parser().parse(Json.write(value)));
            return new Request(changed, clients, emit);
        }
    }

    /** Kept as an application would keep them: one set that retries, one that does not. */
    record Clients(BedrockRuntimeClient runtime, BedrockRuntimeAsyncClient streaming, BedrockClient control) {
        static Clients connect(boolean retries) {
            return new Clients(
                    configured(BedrockRuntimeClient.builder().httpClient(http()), retries).build(),
                    configured(BedrockRuntimeAsyncClient.builder(), retries)
                            .httpClient(NettyNioAsyncHttpClient.builder().readTimeout(Duration.ofSeconds(60)).build())
                            .build(),
                    configured(BedrockClient.builder().httpClient(http()), retries).build());
        }

        private static SdkHttpClient http() {
            return "url-connection".equals(System.getenv("HTTP_CLIENT"))
                    ? UrlConnectionHttpClient.builder().socketTimeout(Duration.ofSeconds(60)).build()
                    : ApacheHttpClient.builder().socketTimeout(Duration.ofSeconds(60)).build();
        }

        private static <B extends AwsClientBuilder<B, C>, C> B configured(B builder, boolean retries) {
            builder.endpointOverride(URI.create(System.getenv("ENDPOINT")));
            if (!retries) {
                builder.overrideConfiguration(o -> o.retryStrategy(DefaultRetryStrategy.doNotRetry()));
            }
            return builder;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Case> cases = new HashMap<>();
        RuntimeCases.addTo(cases);
        ControlCases.addTo(cases);
        Clients hasty = Clients.connect(false);
        Clients patient = Clients.connect(true);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Map<String, JsonNode> fields = JsonNode.parser().parse(line).asObject();
            boolean retries = fields.containsKey("retries") && fields.get("retries").asString().equals("default");
            int id = Integer.parseInt(fields.get("id").asNumber());
            List<String> seen = new ArrayList<>();
            Consumer<String> emit = event -> {
                seen.add(event);
                say(Map.of("id", id, "event", event));
            };
            Map<String, Object> done = new TreeMap<>();
            try {
                Case asked = cases.get(fields.get("case").asString());
                done.put("result", asked.run(new Request(fields, retries ? patient : hasty, emit)));
                done.put("ok", true);
            } catch (Throwable thrown) {
                done.put("ok", false);
                done.put("error", describe(thrown));
                done.put("events", seen);
            }
            say(Map.of("id", id, "done", done));
        }
        System.exit(0);
    }

    private static synchronized void say(Map<String, Object> document) {
        byte[] line = (Json.write(document) + "\n").getBytes(StandardCharsets.UTF_8);
        System.out.write(line, 0, line.length);
        System.out.flush();
    }

    /** What an application can see of an error: its class, code, message and status. */
    static Map<String, Object> describe(Throwable thrown) {
        while ((thrown instanceof CompletionException || thrown instanceof ExecutionException) && thrown.getCause() != null) {
            thrown = thrown.getCause();
        }
        Map<String, Object> seen = new TreeMap<>();
        seen.put("class", thrown.getClass().getName());
        seen.put("message", String.valueOf(thrown.getMessage()));
        if (thrown instanceof AwsServiceException service && service.awsErrorDetails() != null) {
            seen.put("code", service.awsErrorDetails().errorCode());
            seen.put("message", service.awsErrorDetails().errorMessage());
            seen.put("status", service.statusCode());
        }
        return seen;
    }

    /** All that a response holds, also what toString() withholds as sensitive. */
    static Object plain(Object value) {
        if (value instanceof SdkPojo pojo) {
            Map<String, Object> fields = new TreeMap<>();
            for (SdkField<?> field : pojo.sdkFields()) {
                Object member = field.getValueOrDefault(pojo);
                if (member != null) {
                    fields.put(field.memberName(), plain(member));
                }
            }
            return fields;
        }
        if (value instanceof List<?> list) {
            return list.stream().map(Client::plain).toList();
        }
        if (value instanceof Map<?, ?> map) {
            Map<String, Object> fields = new TreeMap<>();
            map.forEach((name, member) -> fields.put(name.toString(), plain(member)));
            return fields;
        }
        if (value instanceof SdkBytes bytes) {
            return Base64.getEncoder().encodeToString(bytes.asByteArray());
        }
        if (value instanceof Document document) {
            return plain(document.unwrap());
        }
        return value instanceof Number || value instanceof Boolean ? value : value.toString();
    }
}
