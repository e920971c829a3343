//! Long listings, a page at a time: EC2's `MaxResults` and `NextToken`.

use std::fmt;
use std::str::FromStr;

/// Which part of a listing is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many objects; without it, all.
    pub max_results: Option<usize>,
    /// Those after the page that ended with this token.
    pub next_token: Option<Token>,
}

/// Where a page ended: the key of its last object in the order of the listing. Objects that come or
/// go meanwhile shift nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    key: String,
}

/// A text that no listing gave as its token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The token '{text}' is invalid")]
pub struct MalformedToken {
    pub text: String,
}

impl Token {
    pub(crate) fn new(key: impl Into<String>) -> Self {
        Self { key: key.into() }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

/// Hex digits: nothing that a shell or a terminal would take for something else.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.bytes().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl FromStr for Token {
    type Err = MalformedToken;

    fn from_str(text: &str) -> Result<Self, MalformedToken> {
        let bytes = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect::<Option<Vec<u8>>>();
        let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        match key {
            Some(key) if !key.is_empty() && !text.contains('+') => Ok(Self { key }),
            _ => Err(MalformedToken {
                text: text.to_owned(),
            }),
        }
    }
}

/// The page of `objects`, which are in the order of their keys, and the token of the next one if
/// there is more.
pub fn cut<T>(objects: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> (Vec<T>, Option<Token>) {
    let after = |object: &T| {
        let token = page.next_token.as_ref();
        token.is_none_or(|token| key(object).as_str() > token.key())
    };
    let mut rest: Vec<T> = objects.into_iter().filter(after).collect();
    let most = page.max_results.unwrap_or(usize::MAX);
    if rest.len() <= most {
        return (rest, None);
    }
    rest.truncate(most);
    let token = rest.last().map(|last| Token::new(key(last)));
    (rest, token)
}
