//! A request in the form that each partition is sent: as it was asked in GovCloud, and with the commercial names in the place
//! of GovCloud's on the commercial side.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;

use crate::error::Refusal;
use crate::partition::Partition;
use crate::request::Received;
use crate::settings::Settings;
use crate::upstream::strip;
use crate::{govcloud_names, large};

/// The forms of one request. Each is made when it is needed.
pub(crate) struct Forms<'a> {
    asked: &'a Received,
    settings: &'a Settings,
    first: Partition,
    /// What is replaced for the commercial side, if anything is.
    commercial: OnceLock<Option<Box<Received>>>,
    headers: [OnceLock<Arc<HeaderMap>>; 2],
}

impl<'a> Forms<'a> {
    /// `first` is the partition that is asked first.
    ///
    /// # Errors
    /// The request names something that this partition does not have.
    pub(crate) async fn new(
        asked: &'a Received,
        first: Partition,
        settings: &'a Settings,
    ) -> Result<Forms<'a>, Refusal> {
        let forms = Forms { asked, settings, first, commercial: OnceLock::new(), headers: Default::default() };
        forms.prepare(first).await?;
        Ok(forms)
    }

    /// What the partition that is asked first gets.
    pub(crate) fn first(&self) -> &Received {
        self.of(self.first)
    }

    /// What a partition gets, and the headers of it that go upstream.
    ///
    /// # Errors
    /// As those of `new`.
    pub(super) async fn for_partition(&self, partition: Partition) -> Result<(&Received, &Arc<HeaderMap>), Refusal> {
        self.prepare(partition).await?;
        let received = self.of(partition);
        let stripped = || Arc::new(strip::request_headers(&received.headers, &self.settings.headers.forward));
        Ok((received, self.headers[partition as usize].get_or_init(stripped)))
    }

    fn of(&self, partition: Partition) -> &Received {
        match (partition, self.commercial.get()) {
            (Partition::Commercial, Some(Some(replaced))) => replaced,
            _ => self.asked,
        }
    }

    async fn prepare(&self, partition: Partition) -> Result<(), Refusal> {
        if partition == Partition::Commercial && self.commercial.get().is_none() {
            let replaced = || govcloud_names::replaced(self.asked, self.settings);
            let replaced = large::work(self.asked.body.len(), replaced).await?;
            let _ = self.commercial.set(replaced.map(Box::new));
        }
        Ok(())
    }
}
