//! Who is known and what each may do: `[[callers]]` and `[policy]`, with every name resolved and every secret read.

mod shadow;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use super::accounts::Accounts;
use super::limits::{Budgets, Prices, Rates};
use super::partitions::Reach;
use super::patterns;
pub(crate) use super::secrets::Secret;
use super::secrets::secret;
use crate::ascii::Alphabet;
use crate::config::callers as written;
use crate::config::{ConfigError, DataRetention, FilePath, Glob, Source};
use crate::operation;
use shadow::{Earlier, Shadow};

/// What the names of a certificate begin with; `listen::tls` finds them in it.
pub(crate) const CERTIFICATE_NAME_KINDS: [&str; 7] = ["CN=", "O=", "OU=", "DNS:", "URI:", "email:", "IP:"];

/// The longest access key id that is accepted, as IAM has it.
pub(crate) const MAX_ACCESS_KEY_ID: usize = 128;

/// A place in the configuration, as refusals name it: `config.toml:42`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    file: Arc<str>,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A default that no line says is not worth a number.
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// A list of patterns and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub patterns: Vec<Glob>,
    pub place: Place,
}

impl Rule {
    /// The first pattern that fits one of the names.
    pub(crate) fn matched(&self, names: &[&str]) -> Option<&Glob> {
        self.patterns.iter().find(|glob| names.iter().any(|name| glob.matches(name)))
    }
}

/// What an admin hands to an app so that its SDK can sign.
#[derive(Debug, Clone)]
pub(crate) struct LocalKey {
    pub access_key_id: String,
    pub secret: Secret,
}

/// One known caller.
#[derive(Debug, Clone)]
pub(crate) struct CallerEntry {
    pub name: String,
    pub users: Vec<u32>,
    pub groups: Vec<u32>,
    pub key: Option<LocalKey>,
    pub bearer: Option<Secret>,
    pub certificate_names: Vec<Glob>,
    pub host_role: bool,
    /// None: every model that `[models]` allows.
    pub models: Option<Rule>,
    pub deny_models: Option<Rule>,
    /// None: every operation.
    pub operations: Option<Rule>,
    pub deny_operations: Option<Rule>,
    pub data_classification: Option<String>,
    /// None: as its data classification says.
    pub commercial: Option<written::Commercial>,
    pub limits: Rates,
}

/// All `[[callers]]`, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Callers {
    pub entries: Vec<Arc<CallerEntry>>,
    /// Sentences for the log at start, such as a secret that every user can read.
    pub warnings: Vec<String>,
}

/// What holds for everybody.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// Where `require_known_caller = true` is written; none when anybody on the host may call.
    pub require_known_caller: Option<Place>,
    /// Levels, the lowest first; empty when levels are only recorded.
    pub data_classifications: Vec<String>,
    pub data_classifications_place: Place,
    /// Where requests may go by their level; none: anywhere.
    pub partitions: Option<Reach>,
    /// Another partition may serve a request in place of the one that should.
    pub cross_partition_failover: bool,
    /// Empty: whatever the account keeps, the daemon is ready.
    pub require_data_retention: Vec<DataRetention>,
}

/// What each entry so far is called and known by, which no later one may be.
#[derive(Default)]
struct Names {
    callers: HashSet<String>,
    keys: HashSet<String>,
    /// By a hash, with the names of their entries.
    tokens: HashMap<u64, Vec<(Secret, String)>>,
    hasher: RandomState,
}

/// What stands around `[[callers]]` and decides whether an entry can work.
pub(super) struct Around<'a> {
    pub policy: &'a Policy,
    pub prices: Option<&'a Prices>,
    /// Clients may show certificates.
    pub has_client_ca: bool,
    pub source: &'a Source,
}

pub(super) fn policy(
    policy: written::Policy,
    has_callers: bool,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Policy, ConfigError> {
    let require = policy.require_known_caller.filter(|require| *require.get_ref());
    if let Some(require) = require.as_ref().filter(|_| !has_callers) {
        let sentence =
            "require_known_caller refuses everybody, because there are no [[callers]]; add an entry or remove it.";
        return Err(source.error(require.span(), sentence));
    }
    let list = policy.data_classifications.unwrap_or_else(|| Spanned::new(0..0, Vec::new()));
    let place_of_list = place(&list.span(), source);
    let mut levels = Vec::<String>::new();
    for level in list.into_inner() {
        let (span, level) = (level.span(), level.into_inner());
        if !is_classification(&level) {
            return Err(source.error(span, not_a_classification(&level)));
        }
        if levels.contains(&level) {
            return Err(source.error(span, format!("data classification \"{level}\" is named twice.")));
        }
        levels.push(level);
    }
    let partitions = Reach::new(policy.partitions, &levels, warnings, source)?;
    Ok(Policy {
        require_known_caller: require.map(|require| place(&require.span(), source)),
        data_classifications: levels,
        data_classifications_place: place_of_list,
        partitions,
        cross_partition_failover: policy.cross_partition_failover,
        require_data_retention: policy.require_data_retention,
    })
}

pub(super) fn callers(
    tables: Vec<Spanned<written::Caller>>,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) -> Result<Callers, ConfigError> {
    let mut callers = Callers::default();
    if tables.is_empty() {
        return Ok(callers);
    }
    let accounts = Accounts::read();
    let (mut names, mut earlier) = (Names::default(), Earlier::default());
    for table in tables {
        let span = table.span();
        let entry = Arc::new(entry(table, &accounts, around, &mut names, &mut callers.warnings)?);
        let mut odd = |sentence: String| warnings.push(around.source.error(span.clone(), sentence).to_string());
        match earlier.shadow(&entry) {
            Shadow::Nothing => {}
            Shadow::Some(taken) => odd(format!("in \"{}\", {}, which comes first.", entry.name, taken.join("; "))),
            Shadow::Everything(taken) => {
                let sentence =
                    format!("nobody can be the caller \"{}\": {}, which comes first.", entry.name, taken.join("; "));
                return Err(around.source.error(span, sentence));
            }
        }
        let may = |name: &str| {
            entry.operations.as_ref().is_none_or(|rule| rule.matched(&[name]).is_some())
                && entry.deny_operations.as_ref().is_none_or(|rule| rule.matched(&[name]).is_none())
        };
        if !operation::names().any(may) {
            odd(format!("the caller \"{}\" may call nothing.", entry.name));
        }
        earlier.add(&entry);
        callers.entries.push(entry);
    }
    Ok(callers)
}

fn entry(
    table: Spanned<written::Caller>,
    accounts: &Accounts,
    around: &Around<'_>,
    known: &mut Names,
    warnings: &mut Vec<String>,
) -> Result<CallerEntry, ConfigError> {
    let &Around { policy, source, .. } = around;
    let span = table.span();
    let mut table = table.into_inner();
    let limits = Rates::new(table.rates(), Budgets { prices: around.prices, of: None }, source)?;
    let name = table.name.get_ref().clone();
    if !is_classification(&name) {
        return Err(source.error(
            table.name.span(),
            "a caller's name has 1 to 64 letters, digits, spaces or any of \"_.:/@-\"; it stands in logs and records.",
        ));
    }
    if !known.callers.insert(name.clone()) {
        return Err(source.error(table.name.span(), format!("two callers are named \"{name}\".")));
    }
    let users = ids(&table.users, "user", |user| accounts.uid(user), source)?;
    let groups = ids(&table.groups, "group", |group| accounts.gid(group), source)?;
    let key = key(&table, known, warnings, source)?;
    let bearer =
        table.bearer_token_file.as_ref().map(|file| bearer(file, &name, known, warnings, source)).transpose()?;
    for pattern in &table.certificate_names {
        certificate_name(pattern, around)?;
    }
    let certificate_names: Vec<Glob> = table.certificate_names.into_iter().map(Spanned::into_inner).collect();
    let criteria = [
        !users.is_empty(),
        !groups.is_empty(),
        key.is_some(),
        bearer.is_some(),
        !certificate_names.is_empty(),
        table.host_role,
    ];
    if !criteria.contains(&true) {
        return Err(source.error(
            span,
            format!("nobody can be the caller \"{name}\"; give users, groups, access_key_id, bearer_token_file, certificate_names or host_role."),
        ));
    }
    let data_classification = table
        .data_classification
        .map(|level| classification_name(level, &policy.data_classifications, source))
        .transpose()?;
    let models = table.models.map(|list| patterns::permitted_models("models", &list, source)).transpose()?;
    let deny_models = table.deny_models.map(|list| patterns::models(&list, source)).transpose()?;
    let operations =
        table.operations.map(|list| patterns::permitted_operations("operations", &list, source)).transpose()?;
    let deny_operations = table.deny_operations.map(|list| patterns::operations(&list, source)).transpose()?;
    Ok(CallerEntry {
        name,
        users,
        groups,
        key,
        bearer,
        certificate_names,
        host_role: table.host_role,
        models,
        deny_models,
        operations,
        deny_operations,
        data_classification,
        commercial: table.commercial,
        limits,
    })
}

fn ids(
    names: &[Spanned<String>],
    what: &str,
    find: impl Fn(&str) -> Option<u32>,
    source: &Source,
) -> Result<Vec<u32>, ConfigError> {
    names
        .iter()
        .map(|name| {
            find(name.get_ref()).ok_or_else(|| {
                let sentence = format!(
                    "this host has no {what} \"{}\" in /etc/{}; create it, or give the number if a directory service knows it.",
                    name.get_ref(),
                    if what == "user" { "passwd" } else { "group" },
                );
                source.error(name.span(), sentence)
            })
        })
        .collect()
}

fn key(
    table: &written::Caller,
    known: &mut Names,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Option<LocalKey>, ConfigError> {
    let (id, file) = match (&table.access_key_id, &table.secret_access_key_file) {
        (None, None) => return Ok(None),
        (Some(id), Some(file)) => (id, file),
        (Some(id), None) => {
            return Err(source.error(id.span(), "access_key_id needs secret_access_key_file beside it."));
        }
        (None, Some(file)) => {
            return Err(source.error(file.span(), "secret_access_key_file needs access_key_id beside it."));
        }
    };
    let access_key_id = id.get_ref().clone();
    if !is_access_key_id(&access_key_id) {
        return Err(source.error(
            id.span(),
            "an access_key_id has 1 to 128 visible characters, without \"/\", \",\" or \"=\"; for example \"LOCALBILLING\".",
        ));
    }
    if !known.keys.insert(access_key_id.clone()) {
        return Err(source.error(id.span(), format!("two callers have the access_key_id \"{access_key_id}\".")));
    }
    let secret = secret(file, warnings, source)?;
    Ok(Some(LocalKey { access_key_id, secret }))
}

fn bearer(
    file: &Spanned<FilePath>,
    name: &str,
    known: &mut Names,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Secret, ConfigError> {
    let token = secret(file, warnings, source)?;
    let same = known.tokens.entry(known.hasher.hash_one(token.expose())).or_default();
    if let Some((_, other)) = same.iter().find(|(other, _)| other.expose() == token.expose()) {
        let sentence = format!("the callers \"{other}\" and \"{name}\" have the same bearer token.");
        return Err(source.error(file.span(), sentence));
    }
    same.push((token.clone(), name.to_owned()));
    Ok(token)
}

/// A level; one of the order, where there is one.
pub(super) fn classification_name(
    level: Spanned<String>,
    order: &[String],
    source: &Source,
) -> Result<String, ConfigError> {
    let (span, level) = (level.span(), level.into_inner());
    if !is_classification(&level) {
        return Err(source.error(span, not_a_classification(&level)));
    }
    if !order.is_empty() && !order.contains(&level) {
        let levels = order.join("\", \"");
        let sentence = format!(
            "data classification \"{level}\" is not one of policy.data_classifications (\"{levels}\"); add it there or choose one of them."
        );
        return Err(source.error(span, sentence));
    }
    Ok(level)
}

/// The spelling of an access key id: what AWS issues, and what people write into a configuration for local use.
pub(crate) fn is_access_key_id(text: &str) -> bool {
    const IN_IDS: Alphabet = Alphabet::letters_digits_and(b"!#$%&'()*+-.:;<>?@[\\]^_`{|}~");
    (1..=MAX_ACCESS_KEY_ID).contains(&text.len()) && IN_IDS.makes(text.as_bytes())
}

/// The spelling of a data classification (and of a caller's name): it stands in headers, records and logs.
pub(crate) fn is_classification(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.trim() == text
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" _.:/@-".contains(&b))
}

fn not_a_classification(level: &str) -> String {
    format!("\"{level}\" is not a data classification; it has 1 to 64 letters, digits, spaces or any of \"_.:/@-\".")
}

fn certificate_name(pattern: &Spanned<Glob>, around: &Around<'_>) -> Result<(), ConfigError> {
    let text = pattern.get_ref().to_string();
    if !CERTIFICATE_NAME_KINDS.iter().any(|kind| patterns::overlap(&text, &format!("{kind}*"))) {
        let sentence = format!(
            "\"{text}\" fits no name of a certificate, because each begins with its kind: {}.",
            CERTIFICATE_NAME_KINDS.join(", ")
        );
        return Err(around.source.error(pattern.span(), sentence));
    }
    if !around.has_client_ca {
        let sentence = "nobody can show a certificate: certificate_names need client_ca_file in [listen.tls].";
        return Err(around.source.error(pattern.span(), sentence));
    }
    Ok(())
}

pub(super) fn place(span: &std::ops::Range<usize>, source: &Source) -> Place {
    let file = source.path.file_name().map_or_else(|| PathBuf::from(&source.path), PathBuf::from);
    let line = if span.is_empty() { 0 } else { source.line(span.start) };
    Place { file: file.to_string_lossy().into(), line }
}

#[cfg(test)]
mod tests;
