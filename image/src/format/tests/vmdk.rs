//! VMDK descriptors as VMware and QEMU write them, and as nobody should.

use super::*;

fn descriptor(extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         encoding=\"UTF-8\"\n\
         CID=fffffffe\n\
         parentCID=ffffffff\n\
         isNativeSnapshot=\"no\"\n\
         createType=\"twoGbMaxExtentFlat\"\n\
         \n\
         # Extent description\n\
         {extents}\n\
         # The Disk Data Base\n\
         #DDB\n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"4\"\n"
    )
}

fn open_text(folder: &Folder, extents: &str) -> Result<Vec<u8>, Error> {
    let path = folder.file("disk.vmdk", descriptor(extents).as_bytes());
    open(&path).and_then(|source| {
        assert_eq!(source.format(), Format::Vmdk);
        bytes(&source)
    })
}

#[test]
fn flat_extents_are_read_in_order() {
    let folder = Folder::new();
    folder.file("disk-f001.vmdk", &[1; 8192]);
    folder.file(
        "disk-f002.vmdk",
        &[[0; 512].as_slice(), &[2; 4096]].concat(),
    );
    let bytes = open_text(
        &folder,
        "RW 16 FLAT \"disk-f001.vmdk\" 0\nRW 8 ZERO\nRW 8 FLAT \"disk-f002.vmdk\" 1",
    )
    .unwrap();
    let expected = [[1; 8192].as_slice(), &[0; 4096], &[2; 4096]].concat();
    assert!(bytes == expected);
}

#[test]
fn extent_file_that_is_missing_or_cut_off_is_an_error() {
    let folder = Folder::new();
    let error = open_text(&folder, "RW 16 FLAT \"disk-flat.vmdk\" 0").unwrap_err();
    let error = text(&error);
    assert!(error.contains("disk-flat.vmdk: No such file"), "{error}");
    folder.file("disk-flat.vmdk", &[1; 8191]);
    let error = open_text(&folder, "RW 16 FLAT \"disk-flat.vmdk\" 0").unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

#[test]
fn extent_files_elsewhere_are_refused() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("sub")).unwrap();
    folder.file("sub/disk.vmdk", &[1; 8192]);
    let absolute = folder.path("sub/disk.vmdk");
    for name in [
        "sub/disk.vmdk",
        "sub/../sub/disk.vmdk",
        "..",
        absolute.to_str().unwrap(),
    ] {
        let error = open_text(&folder, &format!("RW 16 FLAT \"{name}\" 0")).unwrap_err();
        assert!(
            matches!(error, Error::BackingName { .. }),
            "{}",
            text(&error)
        );
    }
}

#[test]
fn nonsense_is_an_error() {
    let folder = Folder::new();
    for extents in [
        "RW x FLAT \"a\" 0",
        "RW 16 SPARSE \"a\"",
        "RW 18446744073709551615 ZERO",
        "RW 36028797018963967 ZERO\nRW 36028797018963967 ZERO",
        "RW 16 FLAT \"a",
        "parentFileNameHint=\"a\"",
    ] {
        open_text(&folder, extents).unwrap_err();
    }
    let error = open_text(&folder, "").unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
    let error = open_text(&folder, "RW 137438953473 ZERO").unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}
