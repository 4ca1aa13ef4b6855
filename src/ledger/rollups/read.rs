//! Reading roll-ups: the rows that a question is about.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, Row, params_from_iter};

use super::{Resolution, Sums};

/// The rows that a question is about.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) resolution: Resolution,
    /// The beginning of the first interval, in seconds since 1970.
    pub(crate) from: i64,
    /// The moment up to which intervals begin, the same.
    pub(crate) to: i64,
    pub(crate) model: Option<String>,
    pub(crate) operation: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) caller: Option<Who>,
    /// Only what belongs to whoever asks: a caller's name, a uid. Who has neither sees nothing.
    pub(crate) own: Option<(Option<String>, Option<u32>)>,
}

/// Whose requests are sought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    Named(String),
    /// Of this uid, without a name.
    Uid(u32),
    /// With neither.
    Unknown,
}

/// A row as it stands in the file.
pub(crate) struct Summed<'a>(&'a Row<'a>);

const COLUMNS: &str = "start, uid, caller, model, operation, region, outcome, status, requests, input_tokens, output_tokens,
     cache_read_tokens, cache_write_tokens, cost_nano_usd, unpriced, request_bytes, response_bytes, latency, first_byte";

/// Where [`COLUMNS`] has the numbers.
const FIRST_NUMBER: usize = 8;

impl Summed<'_> {
    pub(crate) fn start(&self) -> Result<i64, rusqlite::Error> {
        self.0.get(0)
    }

    pub(crate) fn uid(&self) -> Result<Option<u32>, rusqlite::Error> {
        Ok(u32::try_from(self.0.get::<_, i64>(1)?).ok())
    }

    /// Empty when no entry fitted.
    pub(crate) fn caller(&self) -> Result<&str, rusqlite::Error> {
        self.text(2)
    }

    /// Empty when none was named.
    pub(crate) fn model(&self) -> Result<&str, rusqlite::Error> {
        self.text(3)
    }

    pub(crate) fn operation(&self) -> Result<&str, rusqlite::Error> {
        self.text(4)
    }

    pub(crate) fn region(&self) -> Result<&str, rusqlite::Error> {
        self.text(5)
    }

    pub(crate) fn outcome(&self) -> Result<&str, rusqlite::Error> {
        self.text(6)
    }

    pub(crate) fn status(&self) -> Result<u16, rusqlite::Error> {
        self.0.get(7)
    }

    pub(crate) fn requests(&self) -> Result<u64, rusqlite::Error> {
        Ok(u64::try_from(self.0.get::<_, i64>(FIRST_NUMBER)?).unwrap_or(0))
    }

    pub(crate) fn sums(&self) -> Result<Sums, rusqlite::Error> {
        let mut sums = Sums::default();
        sums.add_row(self.0, FIRST_NUMBER)?;
        Ok(sums)
    }

    fn text(&self, column: usize) -> Result<&str, rusqlite::Error> {
        Ok(self.0.get_ref(column)?.as_str()?)
    }
}

/// Hands each row to `visit`.
pub(crate) fn for_each(
    db: &Connection,
    selection: &Selection,
    mut visit: impl FnMut(&Summed<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    let (condition, values) = condition(selection);
    let mut select = db.prepare_cached(&format!("SELECT {COLUMNS} FROM sums WHERE {condition}"))?;
    let mut rows = select.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        visit(&Summed(row))?;
    }
    Ok(())
}

fn condition(selection: &Selection) -> (String, Vec<Sql>) {
    let Selection { resolution, from, to, model, operation, region, caller, own } = selection;
    let mut condition = "step = ? AND start >= ? AND start <= ?".to_owned();
    let mut values = vec![Sql::Integer(resolution.step), Sql::Integer(*from), Sql::Integer(*to)];
    let mut and = |text: &str, more: Vec<Sql>| {
        condition.push_str(" AND ");
        condition.push_str(text);
        values.extend(more);
    };
    for (column, sought) in [("model = ?", model), ("operation = ?", operation), ("region = ?", region)] {
        if let Some(sought) = sought {
            and(column, vec![Sql::Text(sought.clone())]);
        }
    }
    match caller {
        Some(Who::Named(name)) => and("caller = ?", vec![Sql::Text(name.clone())]),
        Some(Who::Uid(uid)) => and("caller = '' AND uid = ?", vec![Sql::Integer((*uid).into())]),
        Some(Who::Unknown) => and("caller = '' AND uid = -1", Vec::new()),
        None => {}
    }
    if let Some((caller, uid)) = own {
        // Comparing with NULL is never true.
        let caller = caller.clone().map_or(Sql::Null, Sql::Text);
        and("(caller = ? OR uid = ?)", vec![caller, uid.map_or(Sql::Null, |uid| Sql::Integer(uid.into()))]);
    }
    (condition, values)
}
