//! Filters of listings, in EC2's syntax: `Name=tag:env,Values=test,live*`.
//!
//! Implements EC2's user guide, "List and filter your resources": an object is listed if it passes
//! every filter, and passes a filter if one of its values is one of the filter's. In those `*` stands for
//! any text, `?` for one character or none, and `\` takes their meaning away. They are matched against
//! the JSON that the listing shows. What the catalogue has columns for it can be asked first, so
//! that most objects are never made into JSON.

mod names;
mod page;
mod pattern;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use serde_json::Value;

pub use page::{MalformedToken, Page, Token, cut};
use pattern::Pattern;

/// What can be listed with filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    Image,
    Snapshot,
    Volume,
    Instance,
}

/// One filter, as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    name: String,
    values: Vec<Pattern>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("'{text}' is not a filter: expecting Name=NAME,Values=VALUE[,VALUE]")]
    Form { text: String },
    #[error("The filter '{name}' is invalid")]
    Unknown { name: String },
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let form = || Error::Form {
            text: text.to_owned(),
        };
        let (name, values) = text
            .strip_prefix("Name=")
            .and_then(|rest| rest.split_once(",Values="))
            .filter(|(name, values)| !name.is_empty() && !values.is_empty())
            .ok_or_else(form)?;
        Ok(Self {
            name: name.to_owned(),
            values: pattern::split(values).map(Pattern::new).collect(),
        })
    }
}

impl Filter {
    /// The filter of that name with that only value, in which nothing is special.
    pub fn exactly(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            values: vec![Pattern::literal(value)],
        }
    }

    fn passes(&self, value: &str) -> bool {
        self.values.iter().any(|pattern| pattern.matches(value))
    }
}

/// Whether `text` matches `pattern`, in which `*` and `?` are special as in a filter's values.
pub fn matches(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).matches(text)
}

/// The filters of one listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters {
    filters: Vec<(Subject, Filter)>,
}

/// What a filter looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    /// The member with this path, or of the reservation around an instance.
    Member(&'static str),
    /// The value of the tag with this key.
    Tag(String),
    TagKey,
}

/// Where the catalogue has what filters ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// The object's id.
    pub id: &'static str,
    /// The name of a filter, and the SQL that asks for it: an expression for its value as a text, or
    /// NULL, or a condition on one, with the expression in braces.
    pub members: &'static [(&'static str, &'static str)],
    /// The column of the object's JSON, where every other filter is looked up.
    pub document: Option<&'static str>,
}

/// A condition in SQL, each part with `AND` before it, and the values of its parameters `?`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub sql: String,
    pub values: Vec<String>,
}

impl Filters {
    /// The filters of a listing of that noun.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a name that EC2's listing of the noun does not know.
    pub fn new(noun: Noun, filters: Vec<Filter>) -> Result<Self, Error> {
        let filters = filters.into_iter().map(|filter| {
            let subject = match filter.name.strip_prefix("tag:") {
                Some(key) => Subject::Tag(key.to_owned()),
                None if filter.name == "tag-key" => Subject::TagKey,
                None => Subject::Member(names::path(noun, &filter.name).ok_or_else(|| {
                    Error::Unknown {
                        name: filter.name.clone(),
                    }
                })?),
            };
            Ok((subject, filter))
        });
        Ok(Self {
            filters: filters.collect::<Result<_, _>>()?,
        })
    }

    /// No filter: everything passes.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether one of the filters is of that name.
    pub fn has(&self, name: &str) -> bool {
        self.filters.iter().any(|(_, filter)| filter.name == name)
    }

    /// Whether `object`, in the JSON of its listing, passes every filter.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_within(object, &Value::Null)
    }

    /// As [`Filters::matches`], for an instance, with the reservation that it is in.
    pub fn matches_within(&self, object: &Value, reservation: &Value) -> bool {
        self.filters.iter().all(|(subject, filter)| match subject {
            Subject::Member(path) => {
                let (object, path) = match path.strip_prefix(names::RESERVATION) {
                    Some(path) => (reservation, path),
                    None => (object, *path),
                };
                any_member(object, path, &mut |value| passes(filter, value))
            }
            Subject::Tag(wanted) => {
                tags(object).any(|(key, value)| key == wanted && filter.passes(value))
            }
            Subject::TagKey => tags(object).any(|(key, _)| filter.passes(key)),
        })
    }

    /// What every object that passes fulfils, and few others do.
    pub(crate) fn condition(&self, columns: &Columns) -> Condition {
        let mut condition = Condition::default();
        for (subject, filter) in &self.filters {
            let tagged =
                |test| format!("{} IN (SELECT resource FROM tags WHERE {test})", columns.id);
            let asked = match subject {
                Subject::Member(path) => columns.member(&filter.name, path),
                Subject::Tag(key) => {
                    condition.values.push(key.clone());
                    Some(tagged("key = ? AND {value}"))
                }
                Subject::TagKey => Some(tagged("{key}")),
            };
            if let Some(asked) = asked {
                condition.sql += " AND ";
                condition.sql += &with_tests(&asked, &filter.values);
                condition
                    .values
                    .extend(filter.values.iter().map(Pattern::sql));
            }
        }
        condition
    }
}

/// `asked` with its expression, which stands in braces or is all of it, tested against the patterns.
fn with_tests(asked: &str, patterns: &[Pattern]) -> String {
    let (before, rest) = asked.split_once('{').unwrap_or(("", asked));
    let (expression, after) = rest.split_once('}').unwrap_or((rest, ""));
    let tests = patterns.iter().map(|pattern| match pattern.is_literal() {
        // By an index, if there is one.
        true => format!("{expression} = ?"),
        false => format!("{expression} GLOB ?"),
    });
    let tests: Vec<_> = tests.collect();
    format!("{before}({}){after}", tests.join(" OR "))
}

impl Condition {
    /// And what `sql` says, with the values of its parameters.
    pub(crate) fn and(&mut self, sql: &str, values: impl IntoIterator<Item = String>) {
        self.sql += " AND ";
        self.sql += sql;
        self.values.extend(values);
    }

    /// And the column has one of the values, if there are any.
    pub(crate) fn and_one_of(&mut self, column: &str, values: impl IntoIterator<Item = String>) {
        let before = self.values.len();
        self.values.extend(values);
        let count = self.values.len() - before;
        if count > 0 {
            let places = vec!["?"; count].join(", ");
            self.sql += &format!(" AND {column} IN ({places})");
        }
    }
}

impl Columns {
    fn member(&self, name: &str, path: &str) -> Option<String> {
        let own = self.members.iter().find(|(member, _)| *member == name);
        if let Some((_, asked)) = own {
            return Some((*asked).to_owned());
        }
        let document = self.document?;
        Some(match names::in_list(path) {
            Some((list, path)) => {
                let value = sql_text("value", path);
                format!(
                    "EXISTS (SELECT 1 FROM json_each({document}, '$.{list}') WHERE {{{value}}})"
                )
            }
            None => sql_text(document, path),
        })
    }
}

/// The member of the JSON in `column` as a text. SQL has numbers for what JSON calls true and false.
fn sql_text(column: &str, path: &str) -> String {
    let value = format!("({column} ->> '$.{path}')");
    match names::is_boolean(path) {
        true => format!("(CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END)"),
        false => format!("CAST({value} AS TEXT)"),
    }
}

/// Whether `test` holds for a member of that path; of a list, for one of any of its items.
fn any_member(value: &Value, path: &str, test: &mut dyn FnMut(&Value) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| any_member(item, path, test)),
        _ if path.is_empty() => test(value),
        _ => {
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            let member = value.get(name);
            member.is_some_and(|member| any_member(member, rest, test))
        }
    }
}

fn passes(filter: &Filter, value: &Value) -> bool {
    match value {
        Value::String(text) => filter.passes(text),
        Value::Bool(_) | Value::Number(_) => filter.passes(&value.to_string()),
        _ => false,
    }
}

fn tags(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    let tags = object.get("Tags").and_then(Value::as_array);
    tags.into_iter().flatten().filter_map(|tag| {
        let text = |name| tag.get(name).and_then(Value::as_str);
        Some((text("Key")?, text("Value").unwrap_or_default()))
    })
}
