//! `policy.require_data_retention` with several regions: each is judged by itself.

use simulator::{Effect, Fault, Options};
use test_support::*;

/// One that keeps more than is allowed, or that cannot be asked, is not used; the daemon is ready by the other one.
#[tokio::test]
async fn a_region_whose_retention_is_not_as_required_is_not_used() {
    let east = bedrock().await;
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await;
    for is_reachable in [true, false] {
        east.set_data_retention("aws_review");
        west.set_data_retention("none");
        east.refuse_connections(!is_reachable);
        let upstreams = [("us-east-1", &east), ("us-west-2", &west)];
        let text: String =
            upstreams.iter().map(|(region, bedrock)| upstream(region, &bedrock.plain_endpoint(), None)).collect();
        let policy = "[policy]\nrequire_data_retention = [\"none\"]";
        let daemon = Setup::plain(&east).upstreams(&text).with(policy).ready().await;
        east.clear();
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["destinationRegion"], "us-west-2");

        // Nor is it used when the other one fails.
        west.inject(Fault::once(Effect::Error {
            status: 503,
            error_type: "ServiceUnavailableException".into(),
            message: "x".into(),
            capital: false,
            headers: Default::default(),
        }));
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        daemon.record_of(&answer).await;
        assert!(received(&east, "Converse").is_empty());
    }
}
