//! What to send where sources are reranked. Bedrock knows the model there by its ARN in the region that is asked, and takes
//! neither profiles nor plain names.

use super::identifier::{self, Identifier};
use super::lookup::Asker;
use super::resolve::{self, How, Target};
use super::{Models, Upstream};
use crate::error::Refusal;

impl Models {
    /// The ARN of the model behind `asked` in the upstream's region. What may not be invoked may not rerank either.
    ///
    /// # Errors
    /// The rules refuse it, or it is no identifier.
    pub(crate) async fn reranked(&self, asked: &str, upstream: &Upstream, asker: &Asker) -> Result<Target, Refusal> {
        let Target { identifier, .. } = self.counted(asked, upstream, asker).await?;
        let partition = self.settings.partition;
        let identifier = match identifier::read(&identifier, partition, |_| false)? {
            Identifier::Model { id, .. } | Identifier::ModelArn { id } => {
                format!("arn:{partition}:bedrock:{}::foundation-model/{id}", upstream.region)
            }
            // What it is only Bedrock can tell.
            _ => identifier,
        };
        resolve::check(&identifier, self.known(self.catalogue.load().as_ref(), asker.entry.as_deref()))?;
        let is_alias = resolve::unalias(asked, &self.settings) != asked;
        let how = if is_alias { How::Alias } else { How::AsIs };
        Ok(Target { identifier, is_profile: false, how })
    }
}
