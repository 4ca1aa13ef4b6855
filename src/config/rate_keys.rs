//! The one list of the keys that limit a host, a caller or a group of models.
//!
//! Several tables of the configuration hold them beside keys of their own. serde's `flatten` would say that in a line, and
//! cost an error in such a table its line and column; so macros write the keys out.

/// Hands the list to a macro, before that macro's own arguments. A row is the key, what is written (with its place in the
/// file where a check comes after the parser's own), and what it means.
macro_rules! rate_keys {
    ($then:ident! { $($arguments:tt)* }) => {
        $then! {
            [
                /// Requests in a minute, filled evenly.
                requests_per_minute: NonZeroU32 => u64;
                /// Requests that may come at once after a quiet time; `requests_per_minute` when left out.
                request_burst: Spanned<NonZeroU32> => u64;
                /// Requests whose answer has not ended.
                concurrent_requests: NonZeroU32 => u64;
                /// Tokens in a minute, filled evenly.
                tokens_per_minute: NonZeroU64 => u64;
                /// Tokens by UTC day.
                tokens_per_day: NonZeroU64 => u64;
                /// Money by UTC day; in nano-dollars once read.
                usd_per_day: Spanned<Usd> => u64;
                /// Money by UTC month; in nano-dollars once read.
                usd_per_month: Spanned<Usd> => u64;
                /// How long a request may wait before its 429. A caller's own replaces the host's.
                max_wait: Wait => Duration;
            ]
            $($arguments)*
        }
    };
}

/// A table of the configuration with the rate keys where `..rates` stands, and `rates` to take them out of it. The order is
/// the one in which an error lists the keys that it expected. Where every key has a default, the table has one.
macro_rules! table_with_rates {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        rate_keys! { written_table! { $(#[$meta])* pub struct $name { $($body)* } } }
    };
}

macro_rules! written_table {
    (
        [$($(#[$doc:meta])* $key:ident: $written:ty => $meant:ty;)*]
        $(#[$meta:meta])* pub struct $name:ident { $($(#[$attribute:meta])* pub $field:ident: $type:ty,)* ..rates }
    ) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$attribute])* pub $field: $type,)*
            $($(#[$doc])* pub $key: Option<$written>,)*
        }
        written_table! { take $name $($key)* }
    };
    (
        [$($(#[$doc:meta])* $key:ident: $written:ty => $meant:ty;)*]
        $(#[$meta:meta])* pub struct $name:ident {
            ..rates, $($(#[$attribute:meta])* pub $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $($(#[$doc])* pub $key: Option<$written>,)*
            $($(#[$attribute])* pub $field: $type,)*
        }
        impl Default for $name {
            fn default() -> $name {
                $name { $($key: None,)* $($field: $default,)* }
            }
        }
        written_table! { take $name $($key)* }
    };
    (take $name:ident $($key:ident)*) => {
        impl $name {
            /// Takes the rate keys out of the table.
            pub(crate) fn rates(&mut self) -> Rates {
                Rates { $($key: self.$key.take(),)* }
            }
        }
    };
}

pub(crate) use {rate_keys, table_with_rates, written_table};
