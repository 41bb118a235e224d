//! An explanation for a person.

use super::{Explanation, NicExplanation, Object, State};

impl NicExplanation {
    fn text(&self) -> String {
        let to = self.network.as_deref().unwrap_or("any network");
        let verdict = match (self.managed, self.connected, self.reasons.is_empty()) {
            (false, ..) => "not of LXMesh".into(),
            (true, true, true) => format!("connected to {to}"),
            (true, true, false) => format!("connected to {to}, but not all that it asks for"),
            (true, false, _) => format!("NOT CONNECTED to {to}"),
        };
        let mut text = format!("\n{}: {verdict}\n", self.device);
        for reason in &self.reasons {
            text += &format!("  why: {reason}\n");
        }
        for remark in &self.remarks {
            text += &format!("  remark: {remark}\n");
        }
        let known = [("port", &self.port), ("MAC", &self.mac)];
        let mut known: Vec<String> = known
            .iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)))
            .collect();
        if !self.addresses.is_empty() {
            known.push(format!("addresses {}", self.addresses.join(" ")));
        }
        if !known.is_empty() {
            text += &format!("  {}\n", known.join(", "));
        }
        // A policy may be hundreds of elements: those that are there are counted.
        let (many, single): (Vec<&Object>, Vec<&Object>) = self
            .objects
            .iter()
            .partition(|object| object.state == State::There && object.kind == "nft_element");
        for object in single.into_iter().chain(&self.of_network) {
            text += &object.text();
        }
        if !many.is_empty() {
            text += &format!(
                "  there      {} elements of the filters' sets\n",
                many.len()
            );
        }
        text
    }
}

impl Object {
    fn text(&self) -> String {
        let Object {
            kind,
            object,
            state,
            want,
            have,
            note,
        } = self;
        let state = match state {
            State::There => "there",
            State::Missing => "MISSING",
            State::Different => "DIFFERENT",
            State::Unknown => "UNKNOWN",
        };
        let mut text = format!("  {state:<10} {kind} {object} {want}")
            .trim_end()
            .to_string();
        if let Some(have) = have {
            text += &format!("; it is: {have}");
        }
        if let Some(note) = note {
            text += &format!(" ({note})");
        }
        text + "\n"
    }
}

impl Explanation {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!("{} ({})\n", self.instance, self.state);
        for note in &self.notes {
            text += &format!("{note}\n");
        }
        for nic in &self.nics {
            text += &nic.text();
        }
        if self.nics.is_empty() {
            text += "\nit has no NIC\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &'static str, state: State, have: Option<&str>) -> Object {
        Object {
            kind,
            object: "key".into(),
            state,
            want: "wanted".into(),
            have: have.map(str::to_string),
            note: None,
        }
    }

    fn nic() -> NicExplanation {
        NicExplanation {
            device: "eth0".into(),
            managed: true,
            connected: true,
            network: Some("vpc".into()),
            port: Some("veth1".into()),
            mac: None,
            addresses: vec!["192.0.2.11".into()],
            reasons: Vec::new(),
            remarks: vec!["its MTU is large".into()],
            objects: Vec::new(),
            of_network: Vec::new(),
        }
    }

    #[test]
    fn an_object_that_is_not_there_disconnects_and_is_shown() {
        let there = |kind| object(kind, State::There, None);
        let mut well = nic();
        well.put(
            vec![there("nft_element"), there("nft_element"), there("fdb")],
            vec![there("nft_table")],
        );
        assert!(well.in_step() && well.of_network.is_empty());
        assert_eq!(
            well.text(),
            "\neth0: connected to vpc\n  remark: its MTU is large\n  port veth1, addresses 192.0.2.11\n  \
             there      fdb key wanted\n  there      2 elements of the filters' sets\n"
        );
        let mut broken = nic();
        broken.put(
            vec![object("fdb", State::Different, Some("elsewhere"))],
            vec![object("nft_table", State::Missing, None)],
        );
        assert!(!broken.connected);
        assert_eq!(
            broken.text(),
            "\neth0: NOT CONNECTED to vpc\n  remark: its MTU is large\n  port veth1, addresses 192.0.2.11\n  \
             DIFFERENT  fdb key wanted; it is: elsewhere\n  MISSING    nft_table key wanted\n"
        );
    }
}
