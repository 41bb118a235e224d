//! Which instance, and which of its devices, a text means.

use crate::lxd::Instance;

/// The instance, and the device if one is named, that a text means: INSTANCE, PROJECT/INSTANCE, and
/// either with /DEVICE behind it.
pub fn named<'a, 'b>(
    instances: impl Iterator<Item = &'a Instance>,
    text: &'b str,
    client: &str,
) -> Result<(&'a Instance, Option<&'b str>), String> {
    let mut found = Vec::new();
    for instance in instances {
        let id = &instance.id;
        let names = [id.to_string(), format!("{}/{}", id.project, id.name)];
        let device = |name: &String| text.strip_prefix(name.as_str())?.strip_prefix('/');
        if names.iter().any(|name| name == text) {
            found.push((instance, None));
        } else if let Some(device) = names.iter().find_map(device)
            && !device.contains('/')
        {
            found.push((instance, Some(device)));
        }
    }
    match found[..] {
        [one] => Ok(one),
        [] => Err(format!(
            "{text:?} is no instance of this host; {client} list --all-projects shows them"
        )),
        _ => {
            let names: Vec<String> = found
                .iter()
                .map(|(instance, device)| {
                    let device = device.map(|device| format!("/{device}"));
                    let id = &instance.id;
                    format!("{}/{}{}", id.project, id.name, device.unwrap_or_default())
                })
                .collect();
            Err(format!(
                "{text:?} may mean several; write {}",
                names.join(" or ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxd::{InstanceId, Presence};

    fn instance(project: &str, name: &str) -> Instance {
        Instance {
            id: InstanceId {
                project: project.into(),
                name: name.into(),
            },
            presence: Presence::Up,
            last_used_at: String::new(),
            nics: Vec::new(),
            unknown: Default::default(),
            misplaced: Vec::new(),
            strays: Vec::new(),
            acls: Default::default(),
            acls_unread: false,
        }
    }

    #[test]
    fn names_may_have_project_and_device_and_must_mean_one_thing() {
        let all = [
            instance("default", "web1"),
            instance("prod", "web1"),
            instance("web1", "eth0"),
        ];
        let find = |text: &str| {
            let (instance, device) = named(all.iter(), text, "lxc")?;
            Ok((
                instance.id.to_string(),
                device.unwrap_or_default().to_string(),
            ))
        };
        let found = |instance: &str, device: &str| Ok((instance.to_string(), device.to_string()));
        assert_eq!(find("web1"), found("web1", ""));
        assert_eq!(find("web1/eth1"), found("web1", "eth1"));
        assert_eq!(find("prod/web1"), found("prod/web1", ""));
        assert_eq!(find("prod/web1/eth0"), found("prod/web1", "eth0"));
        assert_eq!(find("default/web1/eth0"), found("web1", "eth0"));
        let both: Result<_, String> = find("web1/eth0");
        assert_eq!(
            both.unwrap_err(),
            "\"web1/eth0\" may mean several; write default/web1/eth0 or web1/eth0"
        );
        assert!(find("web2").unwrap_err().contains("lxc list"));
    }
}
