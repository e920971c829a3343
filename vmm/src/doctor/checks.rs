//! The doctor's checks, each of one thing of this host. None changes anything but to make the
//! runtime folder.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvm_ioctls::Kvm;

use super::Finding;
use crate::arch::host;
use crate::cli::value::show_size;
use crate::control;

/// KVM's only stable interface, unchanged since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Below this much free space in the store, launches soon fail: 1 GiB.
const SPACE_BYTES: u64 = 1 << 30;

/// Below this much available memory hardly a guest fits: 256 MiB.
const MEMORY_BYTES: u64 = 256 << 20;

/// A check, given the store's folder.
pub type Check = fn(&Path) -> Finding;

/// Every check, in the order in which they make sense to a reader.
pub const ALL: [Check; 9] = [
    |_| device(Path::new("/dev/kvm")),
    |_| permission(Path::new("/dev/kvm")),
    |_| api(),
    |_| capabilities(),
    |_| host::virtualization_finding(),
    |_| io_uring(),
    space,
    |_| memory(),
    |_| runtime_folder(),
];

fn device(path: &Path) -> Finding {
    const SUBJECT: &str = "kvm device";
    if path.exists() {
        return Finding::ok(SUBJECT, path.display().to_string());
    }
    Finding::missing(
        SUBJECT,
        format!("there is no {}", path.display()),
        host::kvm_module_help(),
    )
}

fn permission(path: &Path) -> Finding {
    const SUBJECT: &str = "kvm permission";
    let opened = fs::File::options().read(true).write(true).open(path);
    let error = match opened {
        Ok(_) => return Finding::ok(SUBJECT, "may read and write it"),
        Err(error) => error,
    };
    let owners = path.metadata().map_or(String::new(), |meta| {
        format!(" (group {}, mode {:03o})", meta.gid(), meta.mode() & 0o777)
    });
    let detail = format!("cannot open {}: {error}{owners}", path.display());
    Finding::missing(SUBJECT, detail, permission_help(&error))
}

/// How to mend a KVM device that cannot be opened.
pub fn permission_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "join the group that owns it, with `sudo usermod -aG kvm $USER`, and log in again"
        }
        io::ErrorKind::NotFound => "run `kami doctor`: it says how to get /dev/kvm on this host",
        _ => "see the kernel's log (dmesg) for what kvm says",
    }
}

fn api() -> Finding {
    const SUBJECT: &str = "kvm api";
    match Kvm::new().map(|kvm| kvm.get_api_version()) {
        Ok(API_VERSION) => Finding::ok(SUBJECT, format!("version {API_VERSION}")),
        Ok(other) => Finding::missing(
            SUBJECT,
            format!("version {other}, not {API_VERSION}"),
            "boot a newer kernel: Linux 5.10 or later",
        ),
        Err(error) => Finding::missing(SUBJECT, format!("unknown: {error}"), "open /dev/kvm first"),
    }
}

fn capabilities() -> Finding {
    const SUBJECT: &str = "kvm features";
    let missing: Vec<_> = match Kvm::new() {
        Ok(kvm) => {
            let lacking = host::CAPABILITIES
                .iter()
                .filter(|(cap, _)| !kvm.check_extension(*cap));
            lacking.map(|(_, name)| *name).collect()
        }
        Err(_) => vec!["unknown"],
    };
    if missing.is_empty() {
        Finding::ok(SUBJECT, host::CAPABILITIES.map(|(_, name)| name).join(", "))
    } else {
        let detail = format!("without {}", missing.join(", "));
        Finding::missing(SUBJECT, detail, "boot a newer kernel: Linux 5.10 or later")
    }
}

fn io_uring() -> Finding {
    const SUBJECT: &str = "io_uring";
    match ::io_uring::IoUring::new(4) {
        Ok(_) => Finding::ok(SUBJECT, "usable"),
        Err(error) => {
            let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
            let help = io_uring_help(sysctl.as_deref().map(str::trim));
            Finding::missing(SUBJECT, format!("cannot be used: {error}"), help)
        }
    }
}

/// Documentation/admin-guide/sysctl/kernel.rst, "io_uring_disabled".
fn io_uring_help(sysctl: Option<&str>) -> &'static str {
    match sysctl {
        Some("2") => "it is switched off: sudo sysctl kernel.io_uring_disabled=0",
        Some("1") => {
            "it is left to a group: join the group of `sysctl kernel.io_uring_group`, or \
             sudo sysctl kernel.io_uring_disabled=0"
        }
        Some(_) => {
            "a seccomp filter forbids it: allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        None => {
            "boot Linux 5.10 or later, or allow the io_uring system calls in the container's seccomp filter"
        }
    }
}

fn space(home: &Path) -> Finding {
    const SUBJECT: &str = "disk space";
    let Some(existing) = home.ancestors().find(|path| path.exists()) else {
        return Finding::missing(
            SUBJECT,
            format!("no folder {}", home.display()),
            "set KAMI_HOME",
        );
    };
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let detail = format!("{} free in {}", show_size(free), home.display());
            if free >= SPACE_BYTES {
                Finding::ok(SUBJECT, detail)
            } else {
                Finding::missing(
                    SUBJECT,
                    detail,
                    "make room, or set KAMI_HOME to a larger disk",
                )
            }
        }
        Err(error) => Finding::missing(
            SUBJECT,
            format!("{} cannot be read: {error}", existing.display()),
            "set KAMI_HOME to a folder of yours",
        ),
    }
}

fn memory() -> Finding {
    const SUBJECT: &str = "memory";
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let available = field("MemAvailable:").unwrap_or(0) << 10;
    let total = field("MemTotal:").unwrap_or(0) << 10;
    let detail = format!("{} available of {}", show_size(available), show_size(total));
    if available >= MEMORY_BYTES {
        Finding::ok(SUBJECT, detail)
    } else {
        Finding::missing(
            SUBJECT,
            detail,
            "end other programs: a guest needs at least 256 MiB",
        )
    }
}

fn runtime_folder() -> Finding {
    const SUBJECT: &str = "runtime folder";
    match control::runtime_folder() {
        Ok(folder) => Finding::ok(SUBJECT, folder.display().to_string()),
        Err(error) => Finding::missing(
            SUBJECT,
            error.to_string(),
            "set XDG_RUNTIME_DIR to a folder of yours with mode 0700",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn device_that_is_not_there_or_cannot_be_opened_says_why() {
        let finding = device(Path::new("/nowhere/kvm"));
        assert_eq!(finding.verdict, Verdict::Missing);
        assert_eq!(finding.help.as_deref(), Some(host::kvm_module_help()));
        let finding = permission(Path::new("/nowhere/kvm"));
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(
            finding.detail.contains("No such file"),
            "{}",
            finding.detail
        );
        let denied = permission_help(&io::ErrorKind::PermissionDenied.into());
        assert!(denied.contains("usermod -aG kvm"));
    }

    #[test]
    fn io_uring_is_mended_by_what_forbids_it() {
        assert!(io_uring_help(Some("2")).contains("io_uring_disabled=0"));
        assert!(io_uring_help(Some("1")).contains("io_uring_group"));
        assert!(io_uring_help(Some("0")).contains("seccomp"));
    }

    #[test]
    fn space_is_that_of_the_nearest_folder_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("not/yet/there");
        assert!(space(&home).detail.contains("not/yet/there"));
        assert!(!home.exists());
    }
}
