//! The names of a volume's files (`FORMAT.md` "Volume").

use crate::chunk;
use crate::id::VolumeId;
use std::io;
use std::path::{Path, PathBuf};

/// Part `part` of the overlay of layer `layer`.
pub(super) fn overlay(folder: &Path, id: &VolumeId, layer: u32, part: u64) -> PathBuf {
    let name = stem(id, layer);
    folder.join(match part {
        0 => format!("{name}.overlay"),
        _ => format!("{name}.overlay.{part}"),
    })
}

pub(super) fn bitmap(folder: &Path, id: &VolumeId, layer: u32) -> PathBuf {
    folder.join(format!("{}.bitmap", stem(id, layer)))
}

fn stem(id: &VolumeId, layer: u32) -> String {
    match layer {
        0 => id.to_string(),
        _ => format!("{id}.{layer}"),
    }
}

/// The volume and the layer that a file name names.
pub(super) fn parse(name: &str) -> Option<(VolumeId, u32)> {
    let (id, mut rest) = name.split_once('.')?;
    let mut layer = 0;
    if let Some((number, kind)) = rest.split_once('.')
        && let Some(number) = canonical(number)
    {
        (layer, rest) = (number, kind);
    }
    let ours = match rest.strip_prefix("overlay.") {
        Some(part) => canonical(part).is_some(),
        None => rest == "overlay" || rest == "bitmap",
    };
    id.parse().ok().filter(|_| ours).map(|id| (id, layer))
}

/// A number that is not 0, as these names are written.
fn canonical(text: &str) -> Option<u32> {
    let number = text.parse().ok().filter(|number| *number > 0)?;
    (text == format!("{number}")).then_some(number)
}

/// Every file in `folder` of `id`, by layer.
pub(super) fn of_volume(folder: &Path, id: &VolumeId) -> Result<Vec<(u32, PathBuf)>, chunk::Error> {
    let failed = |source| chunk::Error::io("read", folder, source);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        match name.to_str().and_then(parse) {
            Some((named, layer)) if named == *id => found.push((layer, folder.join(name))),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_all_others() {
        let id = VolumeId::generate();
        let folder = Path::new("");
        for layer in [0, 1, 17] {
            for path in [
                overlay(folder, &id, layer, 0),
                overlay(folder, &id, layer, 3),
                bitmap(folder, &id, layer),
            ] {
                assert_eq!(parse(path.to_str().unwrap()), Some((id, layer)));
            }
        }
        for rest in [
            "",
            "0.overlay",
            "01.bitmap",
            "overlay.0",
            "overlay.x",
            "overlay.",
            "1",
            "1.2.overlay",
            "bitmap.1",
            "+1.overlay",
            "overlay.01",
        ] {
            assert_eq!(parse(&format!("{id}.{rest}")), None, "{rest}");
        }
    }
}
