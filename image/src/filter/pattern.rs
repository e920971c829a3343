//! The patterns in the values of filters.

/// A text in which some characters may stand for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// This character.
    One(char),
    /// Any character, or none.
    Maybe,
    /// Any text.
    Any,
}

/// The values between the commas of `text`; a comma after a backslash belongs to the value.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let is_end = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        is_end
    })
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let mut parts = Vec::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::Maybe,
                '\\' => Part::One(chars.next().unwrap_or('\\')),
                c => Part::One(c),
            });
        }
        Self { parts }
    }

    pub(super) fn literal(text: &str) -> Self {
        Self {
            parts: text.chars().map(Part::One).collect(),
        }
    }

    /// Whether the whole of `text` matches, in time proportional to both lengths' product.
    pub(super) fn matches(&self, text: &str) -> bool {
        // reached[n]: what was read so far may have been the first n parts.
        let mut reached = vec![false; self.parts.len() + 1];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        self.skip(&mut reached);
        for c in text.chars() {
            let mut next = vec![false; reached.len()];
            for (n, part) in self.parts.iter().enumerate() {
                if !reached.get(n).copied().unwrap_or(false) {
                    continue;
                }
                let to = match part {
                    Part::One(wanted) if *wanted != c => continue,
                    Part::One(_) | Part::Maybe => n + 1,
                    Part::Any => n,
                };
                if let Some(to) = next.get_mut(to) {
                    *to = true;
                }
            }
            self.skip(&mut next);
            reached = next;
        }
        reached.last().copied().unwrap_or(false)
    }

    /// Parts that may stand for nothing are passed at once.
    fn skip(&self, reached: &mut [bool]) {
        for (n, part) in self.parts.iter().enumerate() {
            if matches!(part, Part::Any | Part::Maybe)
                && reached.get(n).copied().unwrap_or(false)
                && let Some(next) = reached.get_mut(n + 1)
            {
                *next = true;
            }
        }
    }

    /// Whether nothing in it is special.
    pub(super) fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::One(_)))
    }

    /// The text that it stands for, if it is literal. Else a pattern of SQLite's `GLOB` that matches
    /// whatever this one matches: its `?` is exactly one character, so that it takes `*` instead.
    pub(super) fn sql(&self) -> String {
        let is_literal = self.is_literal();
        let mut sql = String::with_capacity(self.parts.len());
        for part in &self.parts {
            match part {
                Part::Any | Part::Maybe => sql.push('*'),
                Part::One(c @ ('*' | '?' | '[')) if !is_literal => sql.extend(['[', *c, ']']),
                Part::One(c) => sql.push(*c),
            }
        }
        sql
    }
}
