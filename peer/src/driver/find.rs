//! Which peer does a person mean?

/// The key of the one peer, of `(key, name)` pairs, that `wanted` means: its key, the beginning of its key, or its
/// machine's name; nothing when there is only one.
///
/// # Errors
/// One sentence, when it means none or several.
pub fn find_peer<'a>(
    peers: impl Iterator<Item = (&'a str, &'a str)>,
    wanted: Option<&str>,
) -> Result<&'a str, String> {
    let all: Vec<_> = peers.collect();
    let means = |(key, name): &&(&str, &str)| match wanted {
        None => true,
        Some(wanted) => !wanted.is_empty() && (key.starts_with(wanted) || *name == wanted),
    };
    let mut found: Vec<&str> = all.iter().filter(means).map(|(key, _)| *key).collect();
    found.sort_unstable();
    found.dedup();
    match (found.as_slice(), wanted) {
        ([one], _) => Ok(one),
        ([], _) if all.is_empty() => Err("no peer is linked now; see kuguri status".to_owned()),
        ([], wanted) => Err(format!(
            "no linked peer is {}; see kuguri status for their keys and names",
            wanted.unwrap_or_default()
        )),
        (_, Some(wanted)) => Err(format!("several peers are {wanted}; write more of the key")),
        (_, None) => Err(
            "several peers are linked; say which: its key, the beginning of it, or its name"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: [(&str, &str); 3] = [("abcd", "home"), ("abef", "car"), ("xyz", "home")];

    fn find(wanted: Option<&str>) -> Result<&'static str, String> {
        find_peer(PEERS.into_iter(), wanted)
    }

    #[test]
    fn a_key_its_beginning_or_a_name_mean_one_peer() {
        assert_eq!(find(Some("abcd")), Ok("abcd"));
        assert_eq!(find(Some("x")), Ok("xyz"));
        assert_eq!(find(Some("car")), Ok("abef"));
        assert_eq!(find_peer([PEERS[1]].into_iter(), None), Ok("abef"));
        let twice = [PEERS[1], PEERS[1]].into_iter();
        assert_eq!(
            find_peer(twice, None),
            Ok("abef"),
            "linked by two processes"
        );
    }

    #[test]
    fn none_or_several_are_one_sentence() {
        for (wanted, part) in [
            (Some("ab"), "several peers are ab"),
            (Some("home"), "several peers are home"),
            (Some("boat"), "no linked peer is boat"),
            (Some(""), "no linked peer"),
            (None, "say which"),
        ] {
            let error = find(wanted).expect_err("not one");
            assert!(error.contains(part), "{error}");
        }
        let nobody = find_peer(std::iter::empty(), None).expect_err("nobody");
        assert!(nobody.contains("no peer is linked"));
    }
}
