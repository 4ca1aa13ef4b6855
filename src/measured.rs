//! Doors for `benches/scan.rs` to what nothing else outside the crate uses.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::model::body;
use crate::model::catalogue::{Catalogue, Profile, ProfileModel};
use crate::record::{Record, Usage};
use crate::timings::Timings;

/// The usage that an answer of this content type tells, whose body arrives in these pieces.
pub fn metered(content_type: &'static str, pieces: &[Bytes]) -> Usage {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut meter = crate::meter::Meter::new(StatusCode::OK, &headers);
    pieces.iter().for_each(|piece| meter.feed(piece));
    meter.finish().usage
}

/// Whether a body names its model.
pub fn names_model(body: &[u8]) -> bool {
    body::find(body, &["model"]).is_ok_and(|named| named.is_some())
}

/// The line of a request in `format = "json"`.
pub fn log_line(record: &Record, host_id: &str) -> Vec<u8> {
    crate::log::json_line(record, &Timings::default(), host_id)
}

/// A listing of system profiles.
#[derive(Debug)]
pub struct Listing(Catalogue);

impl Listing {
    /// With a profile of each model in each geography.
    pub fn new(models: &[String], geographies: &[String]) -> Listing {
        let profile = |model: &String, geography: &String| Profile {
            inference_profile_id: format!("{geography}.{model}"),
            inference_profile_arn: format!(
                "arn:aws:bedrock:us-east-1:111122223333:inference-profile/{geography}.{model}"
            ),
            models: ["us-east-1", "us-east-2", "us-west-2"]
                .map(|region| ProfileModel { model_arn: format!("arn:aws:bedrock:{region}::foundation-model/{model}") })
                .to_vec(),
            ..Profile::default()
        };
        let of_model = |model| geographies.iter().map(move |geography| profile(model, geography));
        Listing(Catalogue::new(Vec::new(), models.iter().flat_map(of_model).collect()))
    }

    /// Whether a model has a system profile in one of these geographies.
    pub fn has_profile(&self, model: &str, geographies: &[String]) -> bool {
        self.0.system_profile(model, geographies).is_some()
    }
}
