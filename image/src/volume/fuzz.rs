//! A volume outside of a store, as the fuzz targets of the block device need it: layers without folders.

use super::Volume;
use super::bitmap::Bitmap;
use super::direct::Alignment;
use super::layer::Layer;
use super::stack::Files;
use std::fs::File;
use std::path::Path;

/// A volume of two layers: `lower`, which holds every byte, and over it `overlay`, which holds what `bitmap` says: a
/// file without a header. They have the indices 0, 1 and 2. With `direct` the overlay is treated as if it had direct I/O.
#[doc(hidden)]
pub fn layered(
    lower: File,
    overlay: File,
    bitmap: File,
    size_bytes: u64,
    direct: Option<Alignment>,
) -> Volume {
    let mut files = Files::default();
    let [lower, overlay, bitmap] = [lower, overlay, bitmap].map(|file| files.add(file));
    if let Some(alignment) = direct {
        files.set_alignment(overlay, alignment);
    }
    let whole = (u64::MAX, size_bytes);
    let lower = Layer::new(0, [lower], whole);
    let bits = Bitmap::new(Path::new("bitmap"));
    let upper = Layer::new(1, [overlay], whole).with_bitmap(bits, bitmap);
    Volume::new(files, vec![lower, upper], size_bytes)
}
