import software.amazon.awssdk.services.bedrockruntime.*;import software.amazon.awssdk.services.bedrockruntime.model.*;import software.amazon.awssdk.auth.credentials.*;import software.amazon.awssdk.regions.Region;import software.amazon.awssdk.core.SdkBytes;import java.net.URI;
public class V{public static void main(String[] a){
 var p=StaticCredentialsProvider.create(AwsBasicCredentials.create("VECJAVA","localSecretThatOnlyTestsKnow0123456789ABC"));
 var c=BedrockRuntimeClient.builder().region(Region.of("us-gov-west-1")).endpointOverride(URI.create("http://127.0.0.1:18999")).credentialsProvider(p).build();
 try{c.invokeModel(r->r.modelId("us.anthropic.claude-opus-4-1-20250805-v1:0").body(SdkBytes.fromUtf8String("{}")));}catch(Exception e){System.out.println(e);}
 try{c.converse(r->r.modelId("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123").messages(Message.builder().role("user").content(ContentBlock.fromText("hi")).build()));}catch(Exception e){System.out.println(e);}
}}
