import java.util.List;
import java.util.Map;
import software.amazon.awssdk.services.bedrock.BedrockClient;
import software.amazon.awssdk.services.bedrock.model.*;

/** The control plane's reads, and the life of an inference profile. */
final class ControlCases {
    static void addTo(Map<String, Client.Case> cases) {
        cases.put("list_models", ControlCases::listModels);
        cases.put("get_model", ControlCases::getModel);
        cases.put("list_profiles", ControlCases::listProfiles);
        cases.put("get_profile", ControlCases::getProfile);
        cases.put("profile_lifecycle", ControlCases::profileLifecycle);
    }

    private static Map<String, Object> listModels(Client.Request r) {
        ListFoundationModelsResponse answer = r.clients().control().listFoundationModels(b -> {});
        List<String> ids = answer.modelSummaries().stream().map(FoundationModelSummary::modelId).toList();
        return Map.of("ids", ids, "raw", Client.plain(answer));
    }

    private static Map<String, Object> getModel(Client.Request r) {
        GetFoundationModelResponse answer =
                r.clients().control().getFoundationModel(b -> b.modelIdentifier(r.text("model")));
        return Map.of("id", answer.modelDetails().modelId(), "raw", Client.plain(answer));
    }

    private static Map<String, Object> listProfiles(Client.Request r) {
        List<InferenceProfileSummary> profiles = r.clients().control()
                .listInferenceProfilesPaginator(b -> b.typeEquals(InferenceProfileType.SYSTEM_DEFINED).maxResults(2))
                .inferenceProfileSummaries().stream().toList();
        return Map.of(
                "ids", profiles.stream().map(InferenceProfileSummary::inferenceProfileId).toList(),
                "raw", Client.plain(profiles));
    }

    private static Map<String, Object> getProfile(Client.Request r) {
        GetInferenceProfileResponse answer =
                r.clients().control().getInferenceProfile(b -> b.inferenceProfileIdentifier(r.text("profile")));
        List<String> models = answer.models().stream().map(InferenceProfileModel::modelArn).toList();
        return Map.of("id", answer.inferenceProfileId(), "models", models, "raw", Client.plain(answer));
    }

    /** A profile is made, found, used and removed. */
    private static Map<String, Object> profileLifecycle(Client.Request r) {
        BedrockClient control = r.clients().control();
        CreateInferenceProfileResponse made = control.createInferenceProfile(b -> b
                .inferenceProfileName(r.text("name"))
                .description("made by a client test")
                .modelSource(InferenceProfileModelSource.fromCopyFrom(r.text("source")))
                .tags(Tag.builder().key("suite").value("clients").build()));
        String arn = made.inferenceProfileArn();
        GetInferenceProfileResponse got = control.getInferenceProfile(b -> b.inferenceProfileIdentifier(arn));
        boolean listed = control
                .listInferenceProfiles(b -> b.typeEquals(InferenceProfileType.APPLICATION).maxResults(100))
                .inferenceProfileSummaries().stream()
                .anyMatch(profile -> profile.inferenceProfileArn().equals(arn));
        Object text = RuntimeCases.said(
                r.clients().runtime().converse(RuntimeCases.conversation(r.with("model", arn)))).get("text");
        control.deleteInferenceProfile(b -> b.inferenceProfileIdentifier(arn));
        String gone = "still there";
        try {
            control.getInferenceProfile(b -> b.inferenceProfileIdentifier(arn));
        } catch (BedrockException refused) {
            gone = refused.awsErrorDetails().errorCode();
        }
        return Map.of(
                "name", got.inferenceProfileName(),
                "status", made.statusAsString(),
                "listed", listed,
                "text", text,
                "gone", gone);
    }

    private ControlCases() {}
}
