//! How one TOML value becomes one typed value, or a problem with its place in the text; and how
//! the same type describes itself in the JSON Schema. The keys themselves are in `keys.rs`.

use super::keys::File;
use super::problem::{Findings, quoted};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something that can stand to the right of `=`.
pub trait Value: Sized {
    /// What is wanted, for messages: "a whole number from 1 to 9".
    fn wanted() -> String;
    /// An example as one would write it, for remedies: `64500`.
    fn example() -> String;
    /// The shape of its values.
    const SHAPE: Shape = Shape::Plain;
    /// What to do about a value of another type. `key` may be empty: an element of a list.
    fn remedy(key: &str, _found: &DeValue<'_>) -> String {
        match key {
            "" => format!("write {}, for example", Self::example()),
            _ => format!("write {key} = {}, for example", Self::example()),
        }
    }
    /// `None` if it is wrong; then a problem was noted.
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self>;
    /// Draft 2020-12.
    fn schema() -> Json;
}

/// A section's key, for messages about unknown and missing ones.
pub struct Key {
    pub name: &'static str,
    pub required: bool,
    pub example: String,
    pub shape: Shape,
}

/// What can stand behind a key, as far as it decides where else the key may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string, a number, or a list of such.
    Plain,
    /// `[name]`
    Table,
    /// `[[name]]`
    Tables,
}

impl Shape {
    /// Whether a value can be meant for a key of this shape; one bracket too few or too many is no matter.
    fn admits(self, value: &DeValue<'_>) -> bool {
        let (tables, plain) = match value {
            DeValue::Table(_) => (true, false),
            DeValue::Array(items) => {
                let is_table = |item: &Spanned<DeValue<'_>>| item.get_ref().is_table();
                (items.iter().all(is_table), !items.iter().any(is_table))
            }
            _ => (false, true),
        };
        match self {
            Shape::Plain => plain,
            Shape::Table | Shape::Tables => tables,
        }
    }

    /// The key as remedies speak of it.
    fn written(self, key: &str) -> String {
        match self {
            Shape::Plain => quoted(key),
            Shape::Table => format!("[{key}]"),
            Shape::Tables => format!("[[{key}]]"),
        }
    }
}

/// A section as remedies speak of it.
pub struct Section {
    pub title: &'static str,
    pub keys: Vec<Key>,
    /// Keys that nothing can be moved to: every table of this section in the file has them already.
    pub taken: BTreeSet<String>,
}

impl Section {
    /// The section as it is in the file `root`.
    pub fn in_file(title: &'static str, keys: Vec<Key>, root: &DeTable<'_>) -> Self {
        let tables: Option<Vec<&DeTable<'_>>> = match title.strip_prefix('[') {
            None => Some(vec![root]),
            Some(name) => {
                let value = root.get(name.trim_matches(['[', ']']));
                value.map(|value| match value.get_ref() {
                    DeValue::Table(table) => vec![table],
                    DeValue::Array(items) => {
                        let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                        tables.collect()
                    }
                    _ => vec![],
                })
            }
        };
        let everywhere = |name: &str| {
            let mut tables = tables.iter().flatten();
            tables.all(|table| table.contains_key(name))
        };
        // Of a section that is not there, a key that it must have may as well be another's.
        let is_taken = |key: &&Key| match tables {
            None => key.required,
            Some(_) => everywhere(key.name),
        };
        let taken = keys.iter().filter(is_taken);
        let taken = taken.map(|key| key.name.to_string()).collect();
        Section { title, keys, taken }
    }
}

/// Reads values, remembering where in the file's tree it is.
pub struct Reader<'f, 'a> {
    pub findings: &'f mut Findings<'a>,
    /// As in messages, with dots between: `network.vni`.
    path: Vec<String>,
    in_list: bool,
    /// Where a misplaced key may belong.
    sections: Vec<Section>,
}

impl<'f, 'a> Reader<'f, 'a> {
    pub fn new(findings: &'f mut Findings<'a>, sections: Vec<Section>) -> Self {
        Reader {
            findings,
            path: Vec::new(),
            in_list: false,
            sections,
        }
    }

    fn path(&self) -> String {
        self.path.join(".")
    }

    /// Notes that the value at the current place is wrong: `PATH: CLAUSE`.
    pub fn wrong(&mut self, span: Range<usize>, clause: &str, remedy: impl Into<String>) {
        let path = self.path();
        let message = if path.is_empty() {
            clause.into()
        } else {
            format!("{path}: {clause}")
        };
        self.findings.add(span, message, remedy);
    }

    /// Notes that the value has the wrong type.
    pub fn wrong_type<T: Value>(&mut self, value: &Spanned<DeValue<'_>>) {
        let found = describe(value.get_ref());
        let key = match self.in_list {
            true => "",
            false => self.path.last().map_or("", String::as_str),
        };
        let remedy = T::remedy(key, value.get_ref());
        self.wrong(
            value.span(),
            &format!("{found} is not {}", T::wanted()),
            remedy,
        );
    }

    /// One key of a section.
    pub fn field<T: Value>(
        &mut self,
        table: &DeTable<'_>,
        name: &'static str,
    ) -> Option<Spanned<T>> {
        let value = table.get(name)?;
        if !self.findings.complete && value.span().is_empty() {
            return None; // the parser's stand-in for what it could not read
        }
        let read = self.enter(name, |reader| T::read(value, reader))?;
        Some(Spanned::new(value.span(), read))
    }

    fn enter<R>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(name.into());
        let in_list = std::mem::take(&mut self.in_list);
        let read = read(self);
        self.in_list = in_list;
        self.path.pop();
        read
    }

    /// Notes keys of the section that are unknown, and required ones that are missing.
    pub fn check_keys(&mut self, table: &DeTable<'_>, at: Range<usize>, title: &str, keys: &[Key]) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if keys.iter().any(|known| known.name == name) {
                continue;
            }
            let remedy = self.suggest(name, value.get_ref(), table, title, keys);
            self.findings.add(
                key.span(),
                format!("unknown key {} in {title}", quoted(name)),
                remedy,
            );
        }
        if !self.findings.complete {
            return;
        }
        for key in keys
            .iter()
            .filter(|key| key.required && !table.contains_key(key.name))
        {
            let Key { name, example, .. } = key;
            self.findings.add(
                at.clone(),
                format!("{title} has no {}", quoted(name)),
                match example.as_str() {
                    "" => format!("add a [{name}] table"),
                    _ => format!("add {name} = {example}, for example"),
                },
            );
        }
    }

    /// What to do about an unknown key. Whatever is named takes such a value, and is not there yet.
    fn suggest(
        &self,
        name: &str,
        value: &DeValue<'_>,
        table: &DeTable<'_>,
        title: &str,
        keys: &[Key],
    ) -> String {
        let fits = |key: &&Key| key.shape.admits(value);
        let near = |key: &&Key| is_near(key.name, name);
        let here = keys.iter().filter(fits).filter(near);
        let is_there = |key: &&Key| key.shape != Shape::Tables && table.contains_key(key.name);
        let (there, free): (Vec<&Key>, Vec<&Key>) = here.partition(is_there);
        if let Some(key) = free.into_iter().min_by_key(|key| distance(key.name, name)) {
            return format!("did you mean {}?", key.shape.written(key.name));
        }
        let elsewhere = self.sections.iter().find_map(|section| {
            let key = section.keys.iter().find(|key| key.name == name)?;
            let other = section.title != title && !section.taken.contains(name);
            (other && fits(&key)).then_some((section.title, key.shape))
        });
        match (elsewhere, there.first()) {
            (Some((File::TITLE, Shape::Plain)), _) => {
                "move it to the beginning of the file, before the first table".into()
            }
            (Some((File::TITLE, shape)), _) => format!(
                "write {} on a line of its own, and its keys below",
                shape.written(name)
            ),
            (Some((other, _)), _) => format!("move it to {other}"),
            (None, Some(key)) => format!(
                "remove it; {title} has {} already",
                key.shape.written(key.name)
            ),
            (None, None) => {
                let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
                format!("remove it; {title} has: {}", names.join(", "))
            }
        }
    }
}

/// The remedy for a name that is almost one of those that are known.
pub fn did_you_mean<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let known = known.filter(|known| is_near(known, name));
    let nearest = known.min_by_key(|known| distance(known, name))?;
    Some(format!("did you mean {}?", quoted(nearest)))
}

fn distance(known: &str, name: &str) -> usize {
    strsim::damerau_levenshtein(known, name)
}

/// True if `name` may be `known`, misspelt.
fn is_near(known: &str, name: &str) -> bool {
    distance(known, name) <= 2.min(name.len() / 2)
}

/// A value as it may be shown in a message.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the fraction {number}"),
        DeValue::Boolean(truth) => format!("{truth}"),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Int<const MIN: i64, const MAX: i64>(pub i64);

impl<const MIN: i64, const MAX: i64> Int<MIN, MAX> {
    /// The number; the type's bounds prove that it fits wherever `MAX` does.
    pub fn get<T: TryFrom<i64>>(self) -> T {
        T::try_from(self.0).unwrap_or_else(|_| unreachable!("{} is bounded by {MAX}", self.0))
    }
}

impl<const MIN: i64, const MAX: i64> Value for Int<MIN, MAX> {
    fn wanted() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
    fn example() -> String {
        MIN.to_string()
    }
    fn remedy(key: &str, found: &DeValue<'_>) -> String {
        match found {
            DeValue::String(text) if text.parse::<i64>().is_ok() => {
                format!("remove the quotes: {key} = {text}")
            }
            _ => format!("give {key} a whole number from {MIN} to {MAX}"),
        }
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            reader.wrong_type::<Self>(value);
            return None;
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(read) if (MIN..=MAX).contains(&read) => Some(Int(read)),
            _ => {
                let clause = format!("{number} is not {}", Self::wanted());
                reader.wrong(
                    value.span(),
                    &clause,
                    format!("choose a number from {MIN} to {MAX}"),
                );
                None
            }
        }
    }
    fn schema() -> Json {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

impl Value for bool {
    fn wanted() -> String {
        "true or false".into()
    }
    fn example() -> String {
        "true".into()
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let read = value.get_ref().as_bool();
        if read.is_none() {
            reader.wrong_type::<Self>(value);
        }
        read
    }
    fn schema() -> Json {
        json!({"type": "boolean"})
    }
}

/// A value written as a string with a form of its own.
pub trait Word: Sized {
    /// "an IP address".
    const WANTED: &'static str;
    /// Without quotes.
    const EXAMPLE: &'static str;
    /// For the JSON Schema; empty for none.
    const PATTERN: &'static str;
    /// Err: the clause that follows the value, "is not an IP address", and the remedy.
    fn parse(text: &str) -> Result<Self, (String, String)>;
}

/// The usual answer of [`Word::parse`].
pub fn not<W: Word>() -> (String, String) {
    (
        format!("is not {}", W::WANTED),
        format!("write it like \"{}\"", W::EXAMPLE),
    )
}

impl<W: Word> Value for W {
    fn wanted() -> String {
        W::WANTED.into()
    }
    fn example() -> String {
        format!("\"{}\"", W::EXAMPLE)
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::String(text) = value.get_ref() else {
            reader.wrong_type::<Self>(value);
            return None;
        };
        match W::parse(text) {
            Ok(read) => Some(read),
            Err((clause, remedy)) => {
                reader.wrong(value.span(), &format!("{} {clause}", quoted(text)), remedy);
                None
            }
        }
    }
    fn schema() -> Json {
        match W::PATTERN {
            "" => json!({"type": "string", "examples": [W::EXAMPLE]}),
            pattern => json!({"type": "string", "pattern": pattern, "examples": [W::EXAMPLE]}),
        }
    }
}

/// A list; a wrong element costs only itself.
impl<T: Value> Value for Vec<Spanned<T>> {
    const SHAPE: Shape = match T::SHAPE {
        Shape::Plain => Shape::Plain,
        Shape::Table | Shape::Tables => Shape::Tables,
    };
    fn wanted() -> String {
        "a list".into()
    }
    fn example() -> String {
        format!("[{}]", T::example())
    }
    fn remedy(key: &str, found: &DeValue<'_>) -> String {
        match found {
            DeValue::Table(_) => format!("write [[{key}]] with two brackets"),
            DeValue::String(text) if T::example().starts_with('"') => {
                format!("write a list: {key} = [{}]", quoted(text))
            }
            _ if T::example().is_empty() => {
                format!("write [[{key}]] on a line of its own, and its keys below")
            }
            _ => format!("write {key} = {}, for example", Self::example()),
        }
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Array(items) = value.get_ref() else {
            reader.wrong_type::<Self>(value);
            return None;
        };
        reader.in_list = true;
        let mut list = Vec::new();
        for item in items {
            list.extend(T::read(item, reader).map(|read| Spanned::new(item.span(), read)));
        }
        reader.in_list = false;
        Some(list)
    }
    fn schema() -> Json {
        json!({"type": "array", "items": T::schema()})
    }
}

/// A table with free keys, such as `[tags]`.
pub struct Map<K, V>(pub BTreeMap<String, (Spanned<K>, Spanned<V>)>);

impl<K: Word, V: Value> Value for Map<K, V> {
    const SHAPE: Shape = Shape::Table;
    fn wanted() -> String {
        "a table".into()
    }
    fn example() -> String {
        String::new()
    }
    fn remedy(key: &str, _found: &DeValue<'_>) -> String {
        format!("write [{key}] on a line of its own, and its keys below")
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            reader.wrong_type::<Self>(value);
            return None;
        };
        let mut map = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let read_key = match K::parse(name) {
                Ok(read) => Some(Spanned::new(key.span(), read)),
                Err((clause, remedy)) => {
                    reader.wrong(key.span(), &format!("{} {clause}", quoted(name)), remedy);
                    None
                }
            };
            let read_value = reader
                .enter(name, |reader| V::read(value, reader))
                .map(|read| Spanned::new(value.span(), read));
            if let (Some(read_key), Some(read_value)) = (read_key, read_value) {
                map.insert(name.to_string(), (read_key, read_value));
            }
        }
        Some(Map(map))
    }
    fn schema() -> Json {
        json!({
            "type": "object",
            "propertyNames": {"pattern": K::PATTERN},
            "additionalProperties": V::schema(),
        })
    }
}

/// A section's part of the JSON Schema.
pub fn object_schema(title: &str, about: &str, keys: Vec<(Key, &str, Json)>) -> Json {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for (key, doc, mut schema) in keys {
        if let Some(object) = schema.as_object_mut() {
            object
                .entry("description")
                .or_insert_with(|| json!(tidy(doc)));
        }
        if key.required {
            required.push(key.name);
        }
        properties.insert(key.name.into(), schema);
    }
    json!({
        "type": "object",
        "title": title,
        "description": tidy(about),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A documentation comment as one paragraph.
fn tidy(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Declares a table of the file once: its keys, their types, whether they are required, and
/// their documentation, which is also the JSON Schema's.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident $title:literal {
            $( $(#[doc = $doc:literal])* $need:ident $field:ident : $ty:ty, )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Default)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: Option<Spanned<$ty>>, )*
        }

        impl $name {
            pub const TITLE: &'static str = $title;

            fn keys() -> Vec<Key> {
                vec![$( Key {
                    name: stringify!($field),
                    required: section!(@required $need),
                    example: <$ty as Value>::example(),
                    shape: <$ty as Value>::SHAPE,
                }, )*]
            }

            /// The section as it is in the file `root`.
            pub fn section(root: &DeTable<'_>) -> Section {
                Section::in_file(Self::TITLE, Self::keys(), root)
            }

            /// Reads the keys of the table; `at` is where missing ones are reported.
            pub fn read_table(
                table: &DeTable<'_>,
                at: std::ops::Range<usize>,
                reader: &mut Reader<'_, '_>,
            ) -> Self {
                reader.check_keys(table, at, $title, &Self::keys());
                $name { $( $field: reader.field(table, stringify!($field)), )* }
            }
        }

        impl Value for $name {
            const SHAPE: Shape = Shape::Table;
            fn wanted() -> String {
                "a table".into()
            }
            fn example() -> String {
                String::new()
            }
            fn remedy(_key: &str, _found: &DeValue<'_>) -> String {
                format!("write {} on a line of its own, and its keys below", $title)
            }
            fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
                match value.get_ref() {
                    DeValue::Table(table) => Some(Self::read_table(table, value.span(), reader)),
                    _ => {
                        reader.wrong_type::<Self>(value);
                        None
                    }
                }
            }
            fn schema() -> serde_json::Value {
                let docs = [$( concat!($( $doc, "\n" ),*), )*];
                let schemas = [$( <$ty as Value>::schema(), )*];
                let keys = Self::keys().into_iter().zip(docs).zip(schemas);
                object_schema(
                    $title,
                    concat!($( $about, "\n" ),*),
                    keys.map(|((key, doc), schema)| (key, doc, schema)).collect(),
                )
            }
        }
    };
    (@required required) => { true };
    (@required optional) => { false };
}
pub(super) use section;
