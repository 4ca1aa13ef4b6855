import boto3, json
from urllib.parse import urlsplit
S="localSecretThatOnlyTestsKnow0123456789ABC"
b=boto3.client("bedrock",region_name="us-gov-west-1",endpoint_url="http://127.0.0.1:18999",aws_access_key_id="VECBOTO3",aws_secret_access_key=S,aws_session_token="to/ken==")
u=urlsplit(b.generate_presigned_url("list_inference_profiles",Params={"maxResults":5,"nextToken":"a/b c"},ExpiresIn=600))
print(json.dumps({"name":"boto3 presigned","method":"GET","path":u.path+"?"+u.query,"authority":u.netloc,"headers":[["host",u.netloc]],"body":""}))
