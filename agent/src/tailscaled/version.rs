//! Which tailscaled is driven at all.

/// Whether a tailscaled that says `version` is at least `min` (major, minor).
///
/// `version` is what `status` and the `Tailscale-Version` header carry, e.g. `1.102.3-t0123456`. One that cannot be read as numbers is a
/// build of somebody's own and passes: refusing it would gain nothing.
pub fn supported(version: &str, min: (u32, u32)) -> bool {
    numbers(version).is_none_or(|found| found >= min)
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for version in ["1.80.0", "1.102.3-t1a2b3c4d5-gabcdef", "1.80-dev", "2.0.0"] {
            assert!(supported(version, (1, 80)), "{version}");
        }
        for version in ["1.79.9", "1.9.0", "0.98.1-120"] {
            assert!(!supported(version, (1, 80)), "{version}");
        }
    }

    #[test]
    fn a_version_of_somebodys_own_passes() {
        for version in ["", "date.20260101", "devel"] {
            assert!(supported(version, (1, 80)), "{version}");
        }
    }
}
