import boto3, json, urllib.request
from botocore.config import Config
S="localSecretThatOnlyTestsKnow0123456789ABC"
E="http://127.0.0.1:18999"
def c(svc,key,tok=None): return boto3.client(svc,region_name="us-gov-west-1",endpoint_url=E,aws_access_key_id=key,aws_secret_access_key=S,aws_session_token=tok,config=Config(retries={"total_max_attempts":1}))
M="us.anthropic.claude-opus-4-1-20250805-v1:0"
A="arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
b=c("bedrock-runtime","VECBOTO3")
b.invoke_model(modelId=M,body=json.dumps({"max_tokens":1,"x":"é  y"}))
b.converse(modelId=A,messages=[{"role":"user","content":[{"text":"hi"}]}])
c("bedrock-runtime","ASIAVECBOTO3TOKEN","FQoGZXIvYXdzEXAMPLE//token==").invoke_model(modelId=M,body=b"{}",contentType="application/json",accept="*/*",trace="ENABLED")
c("bedrock","VECBOTO3").list_inference_profiles(maxResults=5,nextToken="a/b c+d=~",typeEquals="APPLICATION")
from anthropic import AnthropicBedrock
a=AnthropicBedrock(aws_access_key="VECANTHROPICPY",aws_secret_key=S,aws_region="us-gov-west-1",base_url=E,max_retries=0)
a.messages.create(model=M,max_tokens=5,messages=[{"role":"user","content":"hi"}])
