//! The rules of `[ipsec]` and `[bgp]`: how hosts prove who they are, and how soon they give one
//! another up.

use super::check::{list, or};
use super::keys::{BgpTable, HostTable, IpsecTable};
use super::mtu::Esp;
use super::problem::{Findings, quoted};
use super::schema::{Bgp, Ipsec, Revocation, Trust};
use super::words::{CertFile, ConfPath, Identity};
use toml::Spanned;

/// `[ipsec]` after its rules.
pub struct CheckedIpsec {
    /// `None` if it is off, or something is wrong with it.
    pub checked: Option<Ipsec>,
    /// What it takes from the MTU, also where something else is wrong with it.
    pub esp: Esp,
}

/// Notes what is wrong with IPsec and this host's identity in it.
pub fn check_ipsec(
    table: &Option<Spanned<IpsecTable>>,
    host: &Option<Spanned<HostTable>>,
    findings: &mut Findings<'_>,
) -> CheckedIpsec {
    let empty = IpsecTable::default();
    let table = table.as_ref().map_or(&empty, Spanned::get_ref);
    let IpsecTable {
        enabled,
        identity,
        ca: _,
        reflector_ca: _,
        revocation: _,
        psk_file,
        udp_encapsulation,
    } = table;
    let on = enabled.as_ref().is_some_and(|enabled| *enabled.get_ref());
    let in_udp = or(udp_encapsulation, |on| *on, false);
    let esp = match (on, in_udp) {
        (false, _) => Esp::None,
        (true, false) => Esp::Plain,
        (true, true) => Esp::InUdp,
    };
    if let (true, Some(enabled)) = (on, enabled)
        && findings.lacks("ipsec.identity", identity)
        && findings.lacks("ipsec.psk_file", psk_file)
    {
        findings.add(
            enabled.span(),
            "ipsec.enabled: true, but there is neither an ipsec.identity that peers must have nor an ipsec.psk_file",
            "add identity = \"*.example.org\" to [ipsec], with what your certificates say",
        );
    }
    check_psk(table, findings);
    check_own_identity(table, host, findings);
    let trust = match (psk_file, identity) {
        (Some(file), _) => {
            let ConfPath(file) = file.get_ref();
            Some(Trust::Psk { file: file.clone() })
        }
        (None, Some(identity)) => Some(certificates(table, identity.get_ref())),
        (None, None) => None,
    };
    let checked = trust.filter(|_| on).map(|trust| Ipsec {
        trust,
        udp_encapsulation: in_udp,
    });
    CheckedIpsec { checked, esp }
}

fn certificates(table: &IpsecTable, identity: &Identity) -> Trust {
    let files = |files: &[Spanned<CertFile>]| -> Vec<String> {
        files.iter().map(|file| file.get_ref().0.clone()).collect()
    };
    let ca = files(list(&table.ca));
    let reflector_ca = match &table.reflector_ca {
        Some(own) => files(own.get_ref()),
        None => ca.clone(),
    };
    Trust::Certificates {
        identity: identity.0.clone(),
        ca,
        reflector_ca,
        revocation: or(&table.revocation, |name| name.0, Revocation::Relaxed),
    }
}

/// A key that all share, and certificates: not both.
fn check_psk(table: &IpsecTable, findings: &mut Findings<'_>) {
    if table.psk_file.is_none() {
        return;
    }
    let of_certificates = [
        ("identity", table.identity.as_ref().map(Spanned::span)),
        ("ca", table.ca.as_ref().map(Spanned::span)),
        (
            "reflector_ca",
            table.reflector_ca.as_ref().map(Spanned::span),
        ),
        ("revocation", table.revocation.as_ref().map(Spanned::span)),
    ];
    for (key, span) in of_certificates {
        if let Some(span) = span {
            findings.add(
                span,
                format!("ipsec.{key}: is of certificates, but ipsec.psk_file replaces them"),
                format!("remove {key}, or remove psk_file"),
            );
        }
    }
}

/// The name that this host gives must be one that its peers accept.
fn check_own_identity(
    table: &IpsecTable,
    host: &Option<Spanned<HostTable>>,
    findings: &mut Findings<'_>,
) {
    let own = host
        .as_ref()
        .and_then(|host| host.get_ref().identity.as_ref());
    let Some(own) = own else { return };
    let Identity(name) = own.get_ref();
    let shown = quoted(name);
    if name.contains('*') {
        findings.add(
            own.span(),
            format!("host.identity: {shown} is a pattern"),
            "write the one name that is in this host's certificate",
        );
        return;
    }
    let Some(Identity(pattern)) = table.identity.as_ref().map(Spanned::get_ref) else {
        return;
    };
    if !matches(name, pattern) {
        findings.add(
            own.span(),
            format!(
                "host.identity: {shown} does not match ipsec.identity, {}",
                quoted(pattern)
            ),
            "correct one of them: this host's peers would refuse it",
        );
    }
}

/// As strongSwan compares names: a leading `*` stands for anything, letters are equal in both
/// cases. Distinguished names (with `=`) are not looked into.
fn matches(name: &str, pattern: &str) -> bool {
    if name.contains('=') || pattern.contains('=') {
        return true;
    }
    let (name, pattern) = (name.to_lowercase(), pattern.to_lowercase());
    match pattern.strip_prefix('*') {
        Some(end) => name.ends_with(end) && name.len() > end.len(),
        None => name == pattern,
    }
}

/// Notes timers that undo one another (RFC 4271 section 4.4).
pub fn check_bgp(table: &Option<Spanned<BgpTable>>, findings: &mut Findings<'_>) -> Bgp {
    let empty = BgpTable::default();
    let BgpTable {
        password_file,
        keepalive_s,
        hold_s,
        connect_s,
    } = table.as_ref().map_or(&empty, Spanned::get_ref);
    let keepalive: u32 = or(keepalive_s, |seconds| seconds.get(), 3);
    let hold: u32 = or(hold_s, |seconds| seconds.get(), 9.max(3 * keepalive));
    if let Some(given) = hold_s
        && hold < 3 * keepalive
    {
        findings.add(
            given.span(),
            format!("bgp.hold_s: {hold} is less than three times keepalive_s, {keepalive}"),
            format!(
                "choose at least {}, or a smaller keepalive_s",
                3 * keepalive
            ),
        );
    }
    Bgp {
        password_file: password_file.as_ref().map(|file| file.get_ref().0.clone()),
        keepalive_s: keepalive,
        hold_s: hold,
        connect_s: or(connect_s, |seconds| seconds.get(), 5),
    }
}
