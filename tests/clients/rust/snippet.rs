use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::types::{ContentBlock, ConversationRole, Message};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    let client = Client::new(&config);
    let hello = Message::builder().role(ConversationRole::User).content(ContentBlock::Text("Hello".into())).build()?;
    let answer = client.converse().model_id("amazon.nova-lite-v1:0").messages(hello).send().await?;
    println!("{:?}", answer.output());
    Ok(())
}
