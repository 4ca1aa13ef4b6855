//! Application inference profiles, and the resolution of whatever names a model to the model itself.

use serde_json::{Value, json};

use crate::catalogue::{self, Model, SystemProfile};
use crate::opaque;
use crate::partition;
use crate::reply::AwsError;
use crate::sigv4::sha256_hex;

/// A profile made by CreateInferenceProfile.
#[derive(Debug, Clone)]
pub(crate) struct ApplicationProfile {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) arn: String,
    pub(crate) id: String,
    pub(crate) model: &'static Model,
    pub(crate) model_arns: Vec<String>,
    pub(crate) token: Option<String>,
}

/// The profiles of one account in one region.
#[derive(Debug)]
pub(crate) struct Profiles {
    region: String,
    account: String,
    pub(crate) quota: usize,
    made: Vec<ApplicationProfile>,
}

/// A fixed moment: answers must not differ between a direct call and one through the daemon.
pub(crate) const MADE_AT: &str = "2025-01-01T00:00:00Z";

impl Profiles {
    pub(crate) fn new(region: &str, account: &str, quota: usize) -> Profiles {
        Profiles { region: region.to_owned(), account: account.to_owned(), quota, made: Vec::new() }
    }

    /// The model that `reference` leads to: an identifier, a system profile or an ARN of either, or the full ARN of
    /// an application profile. A commercial region never sees `us-gov` here: it is a leak.
    pub(crate) fn resolve(&self, reference: &str) -> Result<&'static Model, AwsError> {
        let invalid = || AwsError::validation("The provided model identifier is invalid.");
        let Some(arn) = reference.strip_prefix("arn:") else {
            if let Some(model) = catalogue::find(reference, &self.region) {
                return model.admit(true, reference).map(|()| model);
            }
            let profile = self.system(reference).ok_or_else(invalid)?;
            return profile.model.admit(false, reference).map(|()| profile.model);
        };
        let fields: Vec<&str> = arn.splitn(5, ':').collect();
        let [partition, "bedrock", region, account, resource] = fields.as_slice() else { return Err(invalid()) };
        if *region != self.region || partition::arn(region) != format!("arn:{partition}") {
            return Err(invalid());
        }
        let own = *account == self.account;
        if let Some(model) = opaque::model(resource, region).filter(|_| own) {
            return Ok(model);
        }
        match resource.split_once('/') {
            Some(("foundation-model", id)) if account.is_empty() => {
                let model = catalogue::find(id, region).ok_or_else(invalid)?;
                model.admit(true, id).map(|()| model)
            }
            Some(("inference-profile", id)) if own || account.is_empty() => {
                let profile = self.system(id).ok_or_else(invalid)?;
                profile.model.admit(false, id).map(|()| profile.model)
            }
            Some(("application-inference-profile", _)) if own => {
                let profile = self
                    .made
                    .iter()
                    .find(|profile| profile.arn == reference)
                    .ok_or_else(|| AwsError::not_found("The requested inference profile could not be found."))?;
                profile.model.admit(false, reference).map(|()| profile.model)
            }
            Some(("provisioned-model", _)) => {
                Err(AwsError::not_found("Could not resolve the foundation model from the model identifier."))
            }
            _ => Err(invalid()),
        }
    }

    /// The model that counts tokens under `reference`: by its own name, and by no profile's.
    pub(crate) fn counting(&self, reference: &str) -> Result<&'static Model, AwsError> {
        if reference.contains("inference-profile/") || self.system(reference).is_some() {
            return Err(AwsError::validation("The provided model doesn't support counting tokens."));
        }
        let of_region = format!("{}:bedrock:{}::foundation-model/", partition::arn(&self.region), self.region);
        match catalogue::find(reference.strip_prefix(&of_region).unwrap_or(reference), &self.region) {
            Some(model) => Ok(model),
            None => self.resolve(reference),
        }
    }

    fn system(&self, id: &str) -> Option<SystemProfile> {
        catalogue::system_profiles(&self.region).into_iter().find(|profile| profile.id == id)
    }

    fn system_arn(&self, id: &str) -> String {
        format!("{}:bedrock:{}:{}:inference-profile/{id}", partition::arn(&self.region), self.region, self.account)
    }

    /// Summaries of the wanted type (`None`: AWS's default, the system's).
    pub(crate) fn list(&self, wanted: Option<&str>) -> Vec<Value> {
        if wanted == Some("APPLICATION") {
            return self.made.iter().map(ApplicationProfile::summary).collect();
        }
        catalogue::system_profiles(&self.region).iter().map(|profile| self.system_summary(profile)).collect()
    }

    pub(crate) fn describe(&self, reference: &str) -> Result<Value, AwsError> {
        let bare = reference.rsplit('/').next().unwrap_or_default();
        if let Some(made) = self.made.iter().find(|profile| profile.arn == reference || profile.id == reference) {
            return Ok(made.summary());
        }
        match self.system(bare) {
            Some(profile) if reference == bare || reference == self.system_arn(bare) => {
                Ok(self.system_summary(&profile))
            }
            _ => Err(not_found()),
        }
    }

    pub(crate) fn delete(&mut self, reference: &str) -> Result<(), AwsError> {
        let before = self.made.len();
        self.made.retain(|profile| profile.arn != reference && profile.id != reference);
        if self.made.len() == before { Err(not_found()) } else { Ok(()) }
    }

    /// Makes a profile, or gives the one made before under the same client token.
    pub(crate) fn create(
        &mut self,
        name: &str,
        description: Option<&str>,
        copy_from: &str,
        token: Option<&str>,
    ) -> Result<String, AwsError> {
        if let Some(made) = self.made.iter().find(|profile| token.is_some() && profile.token.as_deref() == token) {
            return Ok(made.arn.clone());
        }
        let (model, model_arns) = self.source(copy_from)?;
        if self.made.iter().any(|profile| profile.name == name) {
            return Err(AwsError::new(
                400,
                "ConflictException",
                format!("An inference profile with the name {name} already exists in this account."),
            ));
        }
        if self.made.len() >= self.quota {
            return Err(AwsError::new(
                400,
                "ServiceQuotaExceededException",
                "The number of inference profiles in this account exceeds the service quota.",
            ));
        }
        let id = sha256_hex(format!("{name}{copy_from}").as_bytes())[..12].to_owned();
        let (partition, region, account) = (partition::arn(&self.region), &self.region, &self.account);
        let arn = format!("{partition}:bedrock:{region}:{account}:application-inference-profile/{id}");
        self.made.push(ApplicationProfile {
            name: name.to_owned(),
            description: description.map(str::to_owned),
            arn: arn.clone(),
            id,
            model,
            model_arns,
            token: token.map(str::to_owned),
        });
        Ok(arn)
    }

    fn source(&self, copy_from: &str) -> Result<(&'static Model, Vec<String>), AwsError> {
        let invalid = || {
            AwsError::validation(format!(
                "The provided model source {copy_from} is invalid: it must be the ARN of a foundation model or of a \
                 system-defined inference profile of this region."
            ))
        };
        let models = format!("{}:bedrock:{}::foundation-model/", partition::arn(&self.region), self.region);
        if let Some(id) = copy_from.strip_prefix(&models) {
            let model = catalogue::find(id, &self.region).ok_or_else(invalid)?;
            return Ok((model, vec![model.arn(&self.region)]));
        }
        let id = copy_from.rsplit('/').next().unwrap_or_default();
        let profile = self.system(id).filter(|_| copy_from == self.system_arn(id)).ok_or_else(invalid)?;
        Ok((profile.model, profile.model_arns()))
    }

    fn system_summary(&self, profile: &SystemProfile) -> Value {
        summary(
            &profile.name,
            Some(&format!("Routes requests to {} across regions.", profile.model.name)),
            &self.system_arn(&profile.id),
            &profile.id,
            &profile.model_arns(),
            "SYSTEM_DEFINED",
        )
    }
}

impl ApplicationProfile {
    fn summary(&self) -> Value {
        summary(&self.name, self.description.as_deref(), &self.arn, &self.id, &self.model_arns, "APPLICATION")
    }
}

fn summary(name: &str, description: Option<&str>, arn: &str, id: &str, models: &[String], kind: &str) -> Value {
    let mut value = json!({
        "inferenceProfileName": name,
        "createdAt": MADE_AT,
        "updatedAt": MADE_AT,
        "inferenceProfileArn": arn,
        "models": models.iter().map(|arn| json!({ "modelArn": arn })).collect::<Vec<_>>(),
        "inferenceProfileId": id,
        "status": "ACTIVE",
        "type": kind,
    });
    if let Some(description) = description {
        value["description"] = description.into();
    }
    value
}

fn not_found() -> AwsError {
    AwsError::not_found("The requested inference profile could not be found.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIXTRAL: &str = "mistral.pixtral-large-2502-v1:0";

    #[test]
    fn a_model_without_system_profile_needs_an_application_profile() -> Result<(), AwsError> {
        let mut profiles = Profiles::new("us-east-1", "123456789012", 10);
        assert!(profiles.resolve(PIXTRAL).is_err());
        assert!(profiles.create("p", None, PIXTRAL, None).is_err(), "a bare id is no source");
        let source = format!("arn:aws:bedrock:us-east-1::foundation-model/{PIXTRAL}");
        let arn = profiles.create("p", None, &source, None)?;
        assert_eq!(profiles.resolve(&arn)?.id, PIXTRAL);
        assert!(profiles.resolve(arn.rsplit('/').next().unwrap_or_default()).is_err(), "only the full ARN invokes");
        assert_eq!(
            profiles.create("p", None, &source, None).map_err(|error| error.kind),
            Err("ConflictException".into())
        );
        profiles.delete(&arn)?;
        assert!(profiles.resolve(&arn).is_err());
        Ok(())
    }

    #[test]
    fn system_profiles_go_by_id_or_arn() -> Result<(), AwsError> {
        let profiles = Profiles::new("us-west-2", "123456789012", 10);
        let id = "us.amazon.nova-premier-v1:0";
        assert_eq!(profiles.resolve(id)?.id, "amazon.nova-premier-v1:0");
        assert_eq!(profiles.resolve(&profiles.system_arn(id))?.id, "amazon.nova-premier-v1:0");
        assert!(profiles.resolve("eu.amazon.nova-lite-v1:0").is_err());
        Ok(())
    }
}
