//! Listing snapshots: by filters, a page at a time.
//!
//! Implements the filters and pages of `DescribeSnapshots`. There may be very many: what the catalogue
//! has columns for it is asked first, and it stops where the page ends.

use std::ops::ControlFlow;

use serde_json::Value;

use super::{Error, SnapshotRecord, Store};
use crate::catalogue::to_millis;
use crate::filter::{Columns, Filters, Page, Token};
use crate::manifest::Tag;

const COLUMNS: Columns = Columns {
    id: "snapshots.id",
    members: &[
        ("description", "description"),
        ("owner-id", "owner"),
        ("snapshot-id", "id"),
        // Of one that was made of no volume, what EC2 says then.
        ("volume-id", "coalesce(volume, 'vol-ffffffff')"),
        (
            "volume-size",
            "CAST((size_bytes + 1073741823) / 1073741824 AS TEXT)",
        ),
    ],
    document: None,
};

/// Between time and id in the key of a page's end.
const BETWEEN: char = ' ';

impl Store {
    /// The snapshots that pass the filters, oldest first, and the token of the next page. `describe`
    /// makes the JSON that the filters look at, of a snapshot and its tags.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn list_snapshots(
        &self,
        filters: &Filters,
        page: &Page,
        describe: &dyn Fn(&SnapshotRecord, &[Tag]) -> Value,
    ) -> Result<(Vec<SnapshotRecord>, Option<Token>), Error> {
        let condition = filters.condition(&COLUMNS);
        let after = page.next_token.as_ref().map_or("", Token::key);
        let after = after.split_once(BETWEEN).unwrap_or(("-1", ""));
        let most = page.max_results.unwrap_or(usize::MAX);
        let (mut snapshots, mut token) = (Vec::new(), None);
        let mut each = |snapshot: SnapshotRecord| {
            if !filters.is_empty() {
                let tags = self.catalogue.tags(&snapshot.id.to_string())?;
                if !filters.matches(&describe(&snapshot, &tags)) {
                    return Ok(ControlFlow::Continue(()));
                }
            }
            if snapshots.len() < most {
                snapshots.push(snapshot);
                return Ok(ControlFlow::Continue(()));
            }
            token = snapshots.last().map(key);
            Ok(ControlFlow::Break(()))
        };
        self.catalogue
            .list_snapshots(&condition, after, &mut each)?;
        Ok((snapshots, token))
    }
}

/// Where the snapshot stands in the listing.
fn key(snapshot: &SnapshotRecord) -> Token {
    let started = to_millis(snapshot.started);
    Token::new(format!("{started}{BETWEEN}{}", snapshot.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::NewSnapshot;
    use crate::filter::Noun;
    use crate::id::SnapshotId;
    use serde_json::json;

    fn describe(snapshot: &SnapshotRecord, tags: &[Tag]) -> Value {
        json!({
            "SnapshotId": snapshot.id,
            "Description": snapshot.description,
            "VolumeId": "vol-ffffffff",
            "VolumeSize": snapshot.size_bytes.div_ceil(1 << 30),
            "OwnerId": snapshot.owner,
            "Progress": "100%",
            "Tags": tags,
        })
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let transaction = store.quick().unwrap();
        for n in 0..300_u64 {
            let id = SnapshotId::generate();
            let new = NewSnapshot {
                id,
                owner: store.owner(),
                volume: None,
                size_bytes: 1 + (n << 22),
                stored_bytes: 0,
                full_bytes: 0,
                description: &format!("number {n}"),
                // Many of one moment.
                started: std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n / 50),
                chunks: &[],
                segments: &Default::default(),
            };
            store.catalogue.add_snapshot(&new).unwrap();
            if n % 100 == 7 {
                let tag = "env=test".parse().unwrap();
                store.catalogue.add_tags(&id.to_string(), &[tag]).unwrap();
            }
        }
        store.catalogue.commit(transaction).unwrap();
        (folder, store)
    }

    #[test]
    fn filters_and_pages_list_each_snapshot_once() {
        let (_folder, store) = store();
        for (filters, expected) in [
            (vec![], 300),
            (vec!["Name=description,Values=number 1?"], 11),
            (vec!["Name=volume-size,Values=1"], 256),
            (vec!["Name=volume-id,Values=vol-f*"], 300),
            (
                vec!["Name=tag:env,Values=test", "Name=owner-id,Values=0*"],
                3,
            ),
            (vec!["Name=progress,Values=100%"], 300),
            (vec!["Name=tag-key,Values=other"], 0),
        ] {
            let parsed = filters.iter().map(|text| text.parse().unwrap()).collect();
            let parsed = Filters::new(Noun::Snapshot, parsed).unwrap();
            let mut page = Page {
                max_results: Some(7),
                next_token: None,
            };
            let mut found = Vec::new();
            loop {
                let (some, token) = store.list_snapshots(&parsed, &page, &describe).unwrap();
                found.extend(some);
                let Some(token) = token else { break };
                page.next_token = Some(token.to_string().parse().unwrap());
            }
            assert_eq!(found.len(), expected, "{filters:?}");
            let mut naively = store.snapshots().unwrap();
            naively.retain(|it| {
                let tags = store.tags(&it.id.to_string()).unwrap();
                parsed.matches(&describe(it, &tags))
            });
            assert_eq!(found, naively, "{filters:?}");
        }
    }
}
