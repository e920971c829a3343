//! A catalogue with very many images and snapshots: rows alone, copied from those of one image that was imported. Their
//! files would take long to make, and no listing looks at them.

use std::path::Path;

use rusqlite::{Connection, Result};

/// Gives the store in `home`, whose only image is `seed`, `images` more, named `web-1` and so on, each with a snapshot of its
/// own, and snapshots that no image uses, up to `snapshots` in all. Image N has the tag `batch` with N / 100, and the
/// image's snapshot too.
///
/// # Errors
/// The catalogue is not that of such a store.
pub fn fill(home: &Path, images: u32, snapshots: u32) -> Result<()> {
    let mut connection = Connection::open(home.join("catalogue.db"))?;
    let transaction = connection.transaction()?;
    copy(
        &transaction,
        "snapshots",
        snapshots,
        &[
            ("id", "printf('snap-%017x', n.value)"),
            ("description", "'copy ' || n.value"),
        ],
    )?;
    let document = "json_set(document, '$.ImageId', printf('ami-%017x', n.value), '$.Name', 'web-' || n.value, \
         '$.BlockDeviceMappings[0].Ebs.SnapshotId', printf('snap-%017x', n.value))";
    copy(
        &transaction,
        "images",
        images,
        &[
            ("id", "printf('ami-%017x', n.value)"),
            ("name", "'web-' || n.value"),
            ("document", document),
        ],
    )?;
    copy(
        &transaction,
        "image_snapshots",
        images,
        &[
            ("image", "printf('ami-%017x', n.value)"),
            ("snapshot", "printf('snap-%017x', n.value)"),
        ],
    )?;
    let mut tag = transaction.prepare(
        "INSERT INTO tags (resource, key, value) VALUES (printf(?1 || '-%017x', ?2), 'batch', ?3)",
    )?;
    for number in 1..=images {
        for kind in ["ami", "snap"] {
            tag.execute(rusqlite::params![kind, number, (number / 100).to_string()])?;
        }
    }
    drop(tag);
    transaction.commit()
}

/// Copies the only row of `table` `count` times, with those columns changed; `n.value` counts from 1.
fn copy(connection: &Connection, table: &str, count: u32, changes: &[(&str, &str)]) -> Result<()> {
    let columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_info(?1)")?
        .query_map([table], |row| row.get(0))?
        .collect::<Result<_>>()?;
    let values: Vec<&str> = columns
        .iter()
        .map(|column| {
            let change = changes.iter().find(|(name, _)| name == column);
            change.map_or(column.as_str(), |(_, value)| value)
        })
        .collect();
    connection.execute(
        &format!(
            "WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < ?1)
             INSERT INTO {table} ({}) SELECT {} FROM (SELECT * FROM {table} LIMIT 1), n",
            columns.join(", "),
            values.join(", ")
        ),
        [count],
    )?;
    Ok(())
}
