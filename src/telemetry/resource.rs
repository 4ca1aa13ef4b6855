//! What all traces and metrics of this process say of it, under the names of OpenTelemetry's semantic conventions.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// The name under which the libraries' users know this program's traces and metrics.
pub(super) const SCOPE: &str = env!("CARGO_PKG_NAME");

/// `host_id` is that of the records. Nothing comes from the environment.
pub(super) fn of(host_id: &str, instance: uuid::Uuid) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.name", SCOPE),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_string()),
        KeyValue::new("host.id", host_id.to_owned()),
    ];
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if !name.trim().is_empty() {
        attributes.push(KeyValue::new("host.name", name.trim().to_owned()));
    }
    if host_id.starts_with("i-") {
        attributes.extend([KeyValue::new("cloud.provider", "aws"), KeyValue::new("cloud.platform", "aws_ec2")]);
    }
    Resource::builder_empty().with_attributes(attributes).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_instance_of_ec2_says_that_it_is_in_the_cloud() {
        let of = |host_id: &str, name: &'static str| {
            of(host_id, uuid::Uuid::nil()).get(&name.into()).map(|value| value.to_string())
        };
        assert_eq!(of("i-0123456789abcdef0", "cloud.platform").as_deref(), Some("aws_ec2"));
        assert_eq!(of("web-1-01234567", "cloud.provider"), None);
        assert_eq!(of("web-1-01234567", "host.id").as_deref(), Some("web-1-01234567"));
        assert_eq!(of("web-1-01234567", "service.name").as_deref(), Some("bedrock-sidecar"));
    }
}
