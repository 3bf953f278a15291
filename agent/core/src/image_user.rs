//! User that a container's program runs as, from names or numbers and the image's own files, as
//! Docker has it. Sources: OCI Image Configuration 1.1, "User"; Dockerfile reference, "USER"; the
//! module `github.com/moby/sys/user`, `GetExecUser`; passwd(5), group(5).

/// User and groups of a process, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Number of the user.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Numbers of further groups.
    pub groups: Vec<u32>,
}

/// User of a service of which neither file nor image says one: nobody, where Docker takes root.
pub const NOBODY: User = User { uid: 65_534, gid: 65_534, groups: Vec::new() };

/// Largest number of a user or a group that Docker takes.
const ID_MAX: u32 = i32::MAX as u32;

/// Files of an image with its users and groups; empty if it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserFiles {
    /// Contents of `/etc/passwd`.
    pub passwd: String,
    /// Contents of `/etc/group`.
    pub group: String,
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Returns true if a text is a user and, behind a colon, perhaps a group: names or numbers.
pub fn is_user(text: &str) -> bool {
    let (user, group) = text.split_once(':').unwrap_or((text, "0"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    [user, group].iter().all(|name| {
        (1..=64).contains(&name.len())
            && name.bytes().all(plain)
            && (number(name).is_some() || !name.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// The user that a text says without a look at the image: both numbers.
pub fn of_numbers(text: &str) -> Option<User> {
    let (user, group) = text.split_once(':')?;
    Some(User { uid: number(user)?, gid: number(group)?, groups: Vec::new() })
}

/// Entries of passwd(5) and group(5), of at least four fields.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let fields = |line| str::split(line, ':').map(str::trim).collect::<Vec<_>>();
    text.lines().map(fields).filter(|it| it.len() >= 4)
}

/// Resolves a user by the image's files.
///
/// # Errors
/// A name that the image does not know.
pub fn resolve(text: &str, files: &UserFiles) -> Result<User, String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, it)| (user, Some(it)));
    // name:password:UID:GID:…
    let is_user = |it: &Vec<&str>| it[0] == user || it[2] == user;
    let known = entries(&files.passwd).find(is_user);
    let known = known.and_then(|it| Some((it[0], number(it[2])?, number(it[3])?)));
    let (name, uid, gid) = match (known, number(user)) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => return Err(format!("user {user} is not in the image's /etc/passwd")),
    };
    // name:password:GID:members
    let mut groups = entries(&files.group);
    match group {
        None => {
            let is_member =
                |it: &Vec<&str>| name.is_some_and(|name| it[3].split(',').any(|it| it == name));
            let groups = groups.filter(is_member).filter_map(|it| number(it[2])).collect();
            Ok(User { uid, gid, groups })
        }
        Some(group) => {
            let found = groups.find(|it| it[0] == group || it[2] == group);
            let gid = found.and_then(|it| number(it[2])).or_else(|| number(group));
            let gid = gid.ok_or(format!("group {group} is not in the image's /etc/group"))?;
            Ok(User { uid, gid, groups: Vec::new() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_that_docker_takes() {
        let files = UserFiles {
            passwd: "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:71:db:/var/lib:/bin/sh\nbad\n"
                .into(),
            group: "root:x:0:\npostgres:x:71:\nssl-cert:x:101:web,postgres\nweb:x:33:\n".into(),
        };
        let user = |uid, gid, groups: &[u32]| Ok(User { uid, gid, groups: groups.to_vec() });
        let cases = [
            ("postgres", user(70, 71, &[101])),
            ("70", user(70, 71, &[101])),
            ("1000", user(1000, 0, &[])),
            ("1000:2000", user(1000, 2000, &[])),
            ("postgres:web", user(70, 33, &[])),
            ("postgres:5", user(70, 5, &[])),
            ("0", user(0, 0, &[])),
            ("mysql", Err("user mysql is not in the image's /etc/passwd".into())),
            ("postgres:none", Err("group none is not in the image's /etc/group".into())),
        ];
        for (text, wanted) in cases {
            assert!(is_user(text), "{text}");
            assert_eq!(resolve(text, &files), wanted, "{text}");
        }
        assert_eq!(of_numbers("5:6"), user(5, 6, &[]).ok());
        assert_eq!((of_numbers("5"), of_numbers("a:6")), (None, None));
        for bad in ["", ":", "a:", ":a", "a b", "../x", "4294967296", "a:b:c"] {
            assert!(!is_user(bad), "{bad}");
        }
    }
}
