//! Which version may follow which, by the tags of images: one minor version at a time, and no lower one unless a person says so. An
//! image whose tag is no version is not judged.

/// Why members of image `from` are not given image `to`.
pub(super) fn refuse(from: &str, to: &str, allow_downgrade: bool) -> Option<String> {
    let (is, asked) = (minor(tag(from))?, minor(tag(to))?);
    let what = format!("members run {}, and {} is asked for", tag(from), tag(to));
    if asked < is && !allow_downgrade {
        return Some(format!("{what}: a lower version may not understand the data (spec.rollout.allowDowngrade)"));
    }
    let ((low_major, low), (high_major, high)) = if asked < is { (asked, is) } else { (is, asked) };
    let is_near = match high_major - low_major {
        0 => high - low <= 1,
        // Nobody knows the last minor version of a major one.
        1 if asked > is => high == 0,
        1 => low_major == asked.0 && high == 0,
        _ => false,
    };
    (!is_near).then(|| format!("{what}: one minor version at a time"))
}

/// Major and minor number of a tag such as `v1.2.3`, `1.2` or `v1.2.3-rc.1`.
fn minor(tag: &str) -> Option<(u64, u64)> {
    let mut numbers = tag.strip_prefix('v').unwrap_or(tag).splitn(3, '.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    let minor = minor.split(['-', '+', '_']).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The tag of an image reference; without one its digest, and without either what Kubernetes then takes.
pub fn tag(image: &str) -> &str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    tag.or(digest).unwrap_or("latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_at_a_time_and_none_lower_unless_told() {
        let refused = |from: &str, to: &str, told| refuse(&format!("a:{from}"), &format!("r:5/b:{to}"), told).is_some();
        let ups = [
            ("v0.1.0", "v0.1.9"),
            ("v0.1.9", "v0.1.0"),
            ("v0.1.0", "v0.2.3"),
            ("v1.9.0", "v2.0.0"),
            ("1.2", "v1.3.0-rc.1"),
        ];
        for (from, to) in ups {
            assert!(!refused(from, to, false), "{from} to {to}");
        }
        for (from, to) in [("v0.1.0", "v0.3.0"), ("v1.9.0", "v2.1.0"), ("v0.1.0", "v2.0.0")] {
            assert!(refused(from, to, false) && refused(from, to, true), "{from} to {to}");
        }
        for (from, to) in [("v0.2.0", "v0.1.9"), ("v2.0.1", "v1.9.0")] {
            assert!(refused(from, to, false) && !refused(from, to, true), "{from} to {to}");
        }
        assert!(refused("v0.3.0", "v0.1.0", true));
        for (from, to) in [("latest", "v0.1.0"), ("v0.9.0", "mine"), ("v0.9.0", "v1")] {
            assert!(!refused(from, to, false), "{from} to {to}");
        }
        let why = refuse("a:v0.1.0", "a:v0.3.0", false).unwrap();
        assert_eq!(why, "members run v0.1.0, and v0.3.0 is asked for: one minor version at a time");
    }
}
