//! The members of a JSON object that name resources, without a tree of all the others.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The places of guardrails, which are replaced.
pub(super) const GUARDRAIL: &str = "guardrailIdentifier";
pub(super) const CONFIGS: [&str; 2] = ["guardrailConfig", "amazon-bedrock-guardrailConfig"];

/// What was found under the names that were asked for.
#[derive(Debug, Default)]
pub(super) struct Members<'a> {
    found: Vec<(&'static str, &'a RawValue)>,
    pub(super) fault: Option<Fault>,
}

/// What two readers could read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Twice(&'static str),
    /// A key that a reader who does not mind case would take for this one.
    OtherCase(&'static str),
}

impl<'a> Members<'a> {
    /// Reads a whole JSON text. `names` are the keys that matter.
    pub(super) fn read(json: &'a [u8], names: &'static [&'static str]) -> serde_json::Result<Members<'a>> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let members = Names(names).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(members)
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Keys in another case have the name that they resemble.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &'a RawValue)> {
        self.found.iter().copied()
    }

    fn add(&mut self, key: Key, value: &'a RawValue) {
        let Key { name, is_exact } = key;
        if !is_exact && (name == GUARDRAIL || CONFIGS.contains(&name)) {
            self.fault.get_or_insert(Fault::OtherCase(name));
        } else if is_exact && self.get(name).is_some() {
            self.fault.get_or_insert(Fault::Twice(name));
        }
        // What comes after a fault is only read as far as it is JSON.
        if self.fault.is_none() {
            self.found.push((name, value));
        }
    }
}

#[derive(Clone, Copy)]
struct Names(&'static [&'static str]);

/// A key of interest.
struct Key {
    name: &'static str,
    is_exact: bool,
}

impl<'de> DeserializeSeed<'de> for Names {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Members<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(key) = map.next_key_seed(OneOf(self.0))? {
            match key {
                Some(key) => members.add(key, map.next_value()?),
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(members)
    }
}

struct OneOf(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Option<Key>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Key>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for OneOf {
    type Value = Option<Key>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<Key>, E> {
        let name = self.0.iter().find(|name| name.eq_ignore_ascii_case(key));
        Ok(name.map(|name| Key { name, is_exact: *name == key }))
    }
}
