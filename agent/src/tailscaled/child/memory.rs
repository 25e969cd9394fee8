//! How much memory tailscaled may use before its garbage collector works harder.

use std::path::Path;

const MIB: u64 = 1 << 20;

/// The smallest limit: an idle tailscaled has about 30 MiB live, and below twice that it would only collect.
const LIMIT_MIN: u64 = 64 * MIB;

/// The largest limit: the netmap of a tailnet with ten thousands of nodes still fits.
const LIMIT_MAX: u64 = 512 * MIB;

/// The share of the machine that tailscaled may take.
const SHARE: u64 = 8;

/// tailscaled's `GOMEMLIMIT`: an eighth of the machine, between 64 and 512 MiB. A soft limit: it costs CPU time, never the process.
pub(super) fn go_limit() -> String {
    let machine = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let container = container_limit(Path::new("/sys/fs/cgroup/memory.max")).unwrap_or(u64::MAX);
    format!("{}MiB", limit(machine.min(container)) / MIB)
}

fn limit(memory: u64) -> u64 {
    (memory / SHARE).clamp(LIMIT_MIN, LIMIT_MAX)
}

/// What a container may use (cgroup v2); outside of one the file is not there, without a limit it says `max`.
fn container_limit(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_machine_within_bounds() {
        for (memory, expected) in [(256, 64), (512, 64), (1024, 128), (2048, 256), (4096, 512), (262_144, 512)] {
            assert_eq!(limit(memory * MIB), expected * MIB, "{memory} MiB");
        }
        assert_eq!(limit(u64::MAX), LIMIT_MAX);
    }

    #[test]
    fn a_containers_limit_is_read_and_its_absence_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("memory.max");
        assert_eq!(container_limit(&file), None);
        for (text, expected) in [("max\n", None), ("536870912\n", Some(512 * MIB))] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(container_limit(&file), expected);
        }
    }
}
