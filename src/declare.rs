//! The macro that declares a collection in one place.

/// Declares a [`Collection`](crate::Collection), its record and its [indexes](crate::Index).
///
/// ```
/// use op_engine::{Block, BlockHash, Config, Desc, Engine, Height, collection};
///
/// collection! {
///     /// Orders of a market, by their numbers.
///     pub collection Orders = "orders": ([u8; 32], u64) => Order where partition: 1;
///
///     #[derive(Debug, PartialEq)]
///     pub struct Order {
///         version 1 { pub seller: String, pub price: u64 as Compact, pub tags: Vec<String>, pub open: bool }
///     }
///     /// Open orders of a market, the dearest first, with their sellers.
///     pub index OrdersByPrice = "by_price": ([u8; 32], Desc<u64>) => String,
///         |(market, _), order, emit| if order.open { emit((*market, Desc(order.price)), order.seller.clone()) };
///     pub index OrdersByTag = "by_tag": (String, u64),
///         |_, order, emit| for tag in &order.tags { emit((tag.clone(), order.price), ()) };
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let store = Engine::open_blocking(Config::new(dir.path()).collection::<Orders>())?;
/// let engine = store.blocking();
/// let order = |seller: &str, price, open| {
///     Order { seller: seller.to_owned(), price, tags: vec!["rare".to_owned()], open }
/// };
/// let (market, genesis) = ([7; 32], BlockHash([1; 32]));
/// let mut block = Block::new(Height(0), genesis, BlockHash([0; 32]));
/// block.put::<Orders>(&(market, 1), &order("ann", 50, true));
/// block.put::<Orders>(&(market, 2), &order("bob", 70, true));
/// engine.commit(block)?;
///
/// let mut block = Block::new(Height(1), BlockHash([2; 32]), genesis);
/// block.put::<Orders>(&(market, 2), &order("bob", 70, false));
/// engine.commit(block)?;
///
/// // What is on sale, answered by the index alone; and what carries a tag, the cheapest first.
/// let sellers = || -> op_engine::Result<Vec<String>> {
///     let rows = store.scan_index::<OrdersByPrice>().prefix(&(market,)).collect_blocking()?;
///     Ok(rows.into_iter().map(|(_, _, seller)| seller).collect())
/// };
/// assert_eq!(sellers()?, ["ann"]);
/// let rare = store.scan_index::<OrdersByTag>().prefix(&("rare".to_owned(),)).collect_blocking()?;
/// assert_eq!(rare.iter().map(|(key, _, ())| key.1).collect::<Vec<_>>(), [50, 70]);
///
/// engine.reorg_to(Height(0))?; // The order is open again, in the index too.
/// assert_eq!(sellers()?, ["bob", "ann"]);
/// store.close_blocking()?;
/// # Ok(())
/// # }
/// ```
///
/// # The collection
///
/// `collection Type = "name": Key => Record`, then its policies, if any, after `where` in this form:
///
/// | Policy | Default | Sets |
/// |---|---|---|
/// | `scope: Chain`, `Global` or `Cleared` | `Chain` | [`Collection::SCOPE`](crate::Collection::SCOPE) |
/// | `history: Window` or `All` | `Window` | [`Collection::HISTORY`](crate::Collection::HISTORY) |
/// | `layout: Mutable` or `AppendOnly` | `Mutable` | [`Collection::LAYOUT`](crate::Collection::LAYOUT) |
/// | `tier: (TierPolicy::after_confirmations(n))` | it stays hot | [`Collection::TIER`](crate::Collection::TIER) |
/// | `value_bytes_max: n` | 32 MiB | [`Collection::VALUE_BYTES_MAX`](crate::Collection::VALUE_BYTES_MAX) |
/// | `purge: (Purge::beyond(n, test))` | none is purged | [`Collection::purge`](crate::Collection::purge) |
/// | `partition: n` | 0, the whole key | [`Collection::PARTITION`](crate::Collection::PARTITION) |
///
/// # Records
///
/// Structs and enums, in any number, as in [`record!`](crate::record). None is needed when the record is a type that
/// is there already: a number, an array, a tuple, or one whose [`Record`](crate::value::Record) is written by hand.
///
/// # Indexes
///
/// `index Type = "name": Key => Covered, |key, record, emit| ...;`. The closure is the body of
/// [`Index::entries`](crate::Index::entries): it calls `emit` for every entry, so an `if` makes the index partial and a
/// `for` makes it multi-valued. With `=> Covered` each entry carries that part of the record; without it, `()`.
/// A closure of two parameters gives the key of the only entry, which covers nothing. `unique index` is an
/// index in which no key occurs twice, and `where partition: n` sets [`Index::PARTITION`](crate::Index::PARTITION):
///
/// ```
/// use op_engine::{Desc, Index, History, Collection, collection};
///
/// collection! {
///     collection Slots = "slots": ([u8; 32], [u8; 32]) => [u8; 32] where history: All, partition: 1;
///     index SlotsByValue = "by_value": ([u8; 32], Desc<[u8; 32]>) where partition: 2,
///         |(contract, _), value| (*contract, Desc(*value));
///     unique index Pointers = "pointers": [u8; 32], |(_, pointer), _| *pointer;
/// }
///
/// assert!(Pointers::UNIQUE && SlotsByValue::PARTITION == 2 && Slots::HISTORY == History::All);
/// ```
///
/// # Why a declarative macro
///
/// It expands to the public traits, and anything that it cannot say can be said by implementing them; the two mix in
/// one store. A derive would be a second crate, with a parser of Rust to build before it, and would spread
/// a collection over attributes of several types; the versions of a record would become marks on single fields, which
/// nothing keeps in order. The price is that `rustfmt` leaves the inside of the macro as it is.
#[macro_export]
macro_rules! collection {
    // The collection, then one item after the other; the indexes are gathered for the collection.
    (
        $(#[$meta:meta])*
        $visibility:vis collection $name:ident = $label:literal: $key:ty => $value:ty
        $(where $($policy:ident: $setting:tt),+)?;
        $($items:tt)*
    ) => {
        $crate::collection! {
            @items
            [$(#[$meta])* { $visibility } $name { $label } { $key } { $value } { $($($policy: $setting)+)? }]
            [] $($items)*
        }
    };

    (
        @items
        [$(#[$meta:meta])* { $visibility:vis } $name:ident { $label:literal } { $key:ty } { $value:ty }
            { $($policy:ident: $setting:tt)* }]
        [$($index:ident)*]
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        $visibility struct $name;

        impl $crate::Collection for $name {
            const NAME: &'static str = $label;
            type Key = $key;
            type Value = $value;
            $($crate::collection! { @policy $policy $setting })*

            fn indexes() -> $crate::IndexList<Self> {
                $crate::IndexList::new()$(.with::<$index>())*
            }
        }
    };

    (
        @items $collection:tt $indexes:tt
        $(#[$meta:meta])* $visibility:vis struct $record:ident { $($body:tt)* }
        $($rest:tt)*
    ) => {
        $crate::record! { $(#[$meta])* $visibility struct $record { $($body)* } }
        $crate::collection! { @items $collection $indexes $($rest)* }
    };
    (
        @items $collection:tt $indexes:tt
        $(#[$meta:meta])* $visibility:vis enum $record:ident { $($body:tt)* }
        $($rest:tt)*
    ) => {
        $crate::record! { $(#[$meta])* $visibility enum $record { $($body)* } }
        $crate::collection! { @items $collection $indexes $($rest)* }
    };
    (
        @items $collection:tt $indexes:tt
        $(#[$meta:meta])* $visibility:vis index $index:ident = $label:literal: $($rest:tt)*
    ) => {
        $crate::collection! { @index $collection $indexes [$(#[$meta])* { $visibility } $index $label false] $($rest)* }
    };
    (
        @items $collection:tt $indexes:tt
        $(#[$meta:meta])* $visibility:vis unique index $index:ident = $label:literal: $($rest:tt)*
    ) => {
        $crate::collection! { @index $collection $indexes [$(#[$meta])* { $visibility } $index $label true] $($rest)* }
    };

    // An index with one entry for every record.
    (
        @index $collection:tt $indexes:tt $header:tt
        $key:ty $(where $($policy:ident: $setting:tt),+)?, |$of:pat_param, $record:pat_param| $entry:expr;
        $($rest:tt)*
    ) => {
        $crate::collection! {
            @index $collection $indexes $header
            $key $(where $($policy: $setting),+)?, |$of, $record, emit| emit($entry, ());
            $($rest)*
        }
    };
    (
        @index
        [$(#[$collection_meta:meta])* { $collection_visibility:vis } $collection:ident $($definition:tt)*]
        [$($before:ident)*]
        [$(#[$meta:meta])* { $visibility:vis } $index:ident $label:literal $unique:literal]
        $key:ty $(=> $covered:ty)? $(where $($policy:ident: $setting:tt),+)?,
        |$of:pat_param, $record:pat_param, $emit:ident| $body:expr;
        $($rest:tt)*
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        $visibility struct $index;

        impl $crate::Index for $index {
            const NAME: &'static str = $label;
            type Of = $collection;
            type Key = $key;
            type Covered = $crate::collection!(@covered $($covered)?);
            const UNIQUE: bool = $unique;
            $($($crate::collection! { @policy $policy $setting })+)?

            fn entries(
                $of: &<$collection as $crate::Collection>::Key,
                $record: &<$collection as $crate::Collection>::Value,
                $emit: &mut dyn ::core::ops::FnMut(Self::Key, Self::Covered),
            ) {
                $body
            }
        }

        $crate::collection! {
            @items
            [$(#[$collection_meta])* { $collection_visibility } $collection $($definition)*]
            [$($before)* $index] $($rest)*
        }
    };

    (@covered) => { () };
    (@covered $covered:ty) => { $covered };

    (@policy scope $scope:ident) => { const SCOPE: $crate::Scope = $crate::Scope::$scope; };
    (@policy history $history:ident) => { const HISTORY: $crate::History = $crate::History::$history; };
    (@policy layout $layout:ident) => { const LAYOUT: $crate::Layout = $crate::Layout::$layout; };
    (@policy tier $tier:tt) => { const TIER: $crate::TierPolicy = $tier; };
    (@policy partition $components:literal) => { const PARTITION: usize = $components; };
    (@policy value_bytes_max $bytes:tt) => { const VALUE_BYTES_MAX: usize = $bytes; };
    (@policy purge $purge:tt) => {
        fn purge() -> ::core::option::Option<$crate::Purge<Self>> {
            ::core::option::Option::Some($purge)
        }
    };
    (@policy $policy:ident $setting:tt) => {
        ::core::compile_error!(::core::concat!(
            "no policy `", ::core::stringify!($policy), ": ", ::core::stringify!($setting), "`"
        ));
    };

    (@items $collection:tt $indexes:tt $($unknown:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "after the collection come a `struct`, an `enum`, an `index` or a `unique index`, not: ",
            ::core::stringify!($($unknown)*)
        ));
    };
    (@index $collection:tt $indexes:tt $header:tt $($unknown:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "an index is written `Key, |key, record| entry;` or `Key => Covered, |key, record, emit| { ... };`, not: ",
            ::core::stringify!($($unknown)*)
        ));
    };
}

#[cfg(test)]
mod tests {
    use crate::collection::CollectionDef;
    use crate::value::{Record, ValueError};
    use crate::{Collection, Desc, History, Index, Layout, Purge, Scope, TierPolicy};

    collection! {
        /// Nothing but a name, a key and a type that is there.
        collection Bare = "bare": u64 => Vec<u8>;
    }

    collection! {
        pub(super) collection Full = "full": (u8, Desc<u64>, String) => Entry
        where scope: Global, history: All, layout: AppendOnly, partition: 2, value_bytes_max: (64 << 10),
            tier: (TierPolicy::after_confirmations(9)),
            purge: (Purge::beyond(100, |_, entry: &Entry, _| entry.kind == Kind::Hidden));

        #[derive(Debug, Clone, PartialEq)]
        pub(super) struct Entry {
            version 1 { kind: Kind, words: Vec<String> }
            version 2 { weight: u32 as Compact = 9 }
        }
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub(super) enum Kind { 1 = Kept, 2 = Hidden }

        unique index ByName = "by_name": String, |(_, _, name), _| name.clone();
        /// Partial, multi-valued and covering.
        pub(super) index ByWord = "by_word": (String, Desc<u32>) => (u8, Kind) where partition: 2,
            |(first, ..), entry, emit| {
                if entry.kind == Kind::Kept {
                    for word in &entry.words {
                        emit((word.clone(), Desc(entry.weight)), (*first, entry.kind));
                    }
                }
            };
    }

    fn entries<I: Index>(
        key: &<I::Of as Collection>::Key,
        value: &<I::Of as Collection>::Value,
    ) -> Vec<(I::Key, I::Covered)> {
        let mut all = Vec::new();
        I::entries(key, value, &mut |key, covered| all.push((key, covered)));
        all
    }

    #[test]
    fn policies_are_the_defaults_or_what_is_said() {
        let bare = CollectionDef::of::<Bare>();
        assert_eq!((bare.name, bare.scope, bare.history), ("bare", Scope::Chain, History::Window));
        assert_eq!((bare.layout, bare.partition, bare.indexes.len()), (Layout::Mutable, 0, 0));
        let full = CollectionDef::of::<Full>();
        assert_eq!((full.name, full.scope, full.history), ("full", Scope::Global, History::All));
        assert_eq!((full.layout, full.partition), (Layout::AppendOnly, 2));
        assert_eq!((bare.tier, full.tier), (TierPolicy::HOT, TierPolicy::after_confirmations(9)));
        assert_eq!((bare.value_bytes_max, full.value_bytes_max), (32 << 20, 64 << 10));
        assert!(Bare::purge().is_none() && Full::purge().is_some());
        let indexes: Vec<_> =
            full.indexes.iter().map(|index| (index.name.as_str(), index.unique, index.partition)).collect();
        assert_eq!(indexes, [("full.by_name", true, 1), ("full.by_word", false, 2)]);
    }

    #[test]
    fn an_index_emits_what_its_closure_says() {
        let key = (3, Desc(5), "a name".to_owned());
        let words = vec!["x".to_owned(), "y".to_owned()];
        let kept = Entry { kind: Kind::Kept, words, weight: 7 };
        assert_eq!(entries::<ByName>(&key, &kept), [("a name".to_owned(), ())]);
        let covered = (3, Kind::Kept);
        let expected = [(("x".to_owned(), Desc(7)), covered), (("y".to_owned(), Desc(7)), covered)];
        assert_eq!(entries::<ByWord>(&key, &kept), expected);
        let hidden = Entry { kind: Kind::Hidden, ..kept };
        assert_eq!(entries::<ByWord>(&key, &hidden), []);
        assert_eq!(entries::<ByName>(&key, &hidden).len(), 1);
    }

    #[test]
    fn records_are_those_of_the_record_macro() {
        let entry = Entry { kind: Kind::Hidden, words: vec!["w".to_owned()], weight: 9 };
        assert_eq!(entry.to_bytes(), [2, 2, 1, 1, b'w', 9]);
        assert_eq!(Entry::decode_exact(&[1, 2, 1, 1, b'w']), Ok(entry));
        assert_eq!(Entry::decode_exact(&[1, 3, 0]), Err(ValueError::UnknownVariant { found: 3 }));
    }
}
