package main
import ("context";"fmt";"github.com/aws/aws-sdk-go-v2/aws";"github.com/aws/aws-sdk-go-v2/credentials";"github.com/aws/aws-sdk-go-v2/service/bedrockruntime";"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types")
func main(){
 c:=bedrockruntime.New(bedrockruntime.Options{Region:"us-gov-west-1",BaseEndpoint:aws.String("http://127.0.0.1:18999"),RetryMaxAttempts:1,Credentials:credentials.NewStaticCredentialsProvider("VECGO","localSecretThatOnlyTestsKnow0123456789ABC","")})
 _,e:=c.InvokeModel(context.Background(),&bedrockruntime.InvokeModelInput{ModelId:aws.String("us.anthropic.claude-opus-4-1-20250805-v1:0"),Body:[]byte("{}")});fmt.Println(e)
 _,e=c.Converse(context.Background(),&bedrockruntime.ConverseInput{ModelId:aws.String("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"),Messages:[]types.Message{{Role:"user",Content:[]types.ContentBlock{&types.ContentBlockMemberText{Value:"hi"}}}}});fmt.Println(e)
}
