//! What becomes of a flow between two ends, by the policies that the kernel has: which NIC's rule
//! lets it pass or stops it.

use super::nic::Nic;
use crate::addr::IpAddr;
use crate::host::HostFile;
use crate::lxd::Elsewhere;
use crate::policy::fabric::{self, Opened};
use crate::policy::{Direction, Flow, Judgement, Peer, Protocol, Service, Traffic};
use serde::Serialize;

/// The question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub host: &'a HostFile,
    pub nics: &'a [Nic],
    /// Instances of other members of the server's cluster.
    pub elsewhere: &'a Elsewhere,
    /// `INSTANCE`, `INSTANCE/DEVICE`, each with `PROJECT/` before it outside the default project,
    /// or an address.
    pub source: &'a str,
    pub destination: &'a str,
    /// `tcp/443`, `icmp/echo-request`.
    pub traffic: &'a str,
}

/// The answer for one pair of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub allowed: bool,
    /// In the order in which the packet meets them. None after the first that denies.
    pub steps: Vec<Step>,
}

/// What one NIC's policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `out of web1 device eth0`.
    pub place: String,
    pub allowed: bool,
    /// The rule, or why there is none.
    pub why: String,
}

/// One end: what is known of it.
#[derive(Clone, Copy)]
struct End<'a> {
    nic: Option<&'a Nic>,
    address: IpAddr,
}

/// Answers for each address family in which both ends have an address; IPv4 first.
pub fn trace(question: &Question<'_>) -> Result<Vec<Trace>, String> {
    let (protocol, port) = one_port(question.traffic)?;
    let sources = ends(question, question.source)?;
    let destinations = ends(question, question.destination)?;
    let mut traces = Vec::new();
    for source in &sources {
        for destination in &destinations {
            let six = source.address.is_ipv6();
            let spoken = match protocol {
                Protocol::Icmp => !six,
                Protocol::IcmpV6 => six,
                _ => true,
            };
            if destination.address.is_ipv6() == six && spoken {
                traces.push(one(question.host, *source, *destination, protocol, port));
            }
        }
    }
    if traces.is_empty() {
        return Err(format!(
            "{} and {} have no addresses of one family that {} goes with",
            question.source, question.destination, question.traffic
        ));
    }
    if traces.iter().all(|trace| trace.steps.is_empty()) {
        return Err(format!(
            "neither {} nor {} is a NIC of this host, so nothing here decides; ask where they run",
            question.source, question.destination
        ));
    }
    Ok(traces)
}

fn one_port(text: &str) -> Result<(Protocol, u16), String> {
    let service: Service = text.parse().map_err(|why| format!("{text:?} {why}"))?;
    match (service.traffic, &service.peer) {
        (Traffic::Of(protocol, ports), Peer::Anyone)
            if ports.first == ports.last || !protocol.has_ports() =>
        {
            Ok((protocol, ports.first))
        }
        _ => Err(format!(
            "{text:?} is more than one flow; name one protocol and port, such as tcp/443"
        )),
    }
}

fn ends<'a>(question: &Question<'a>, text: &str) -> Result<Vec<End<'a>>, String> {
    let nics = question.nics;
    if let Ok(address) = text.parse::<IpAddr>() {
        let nic = nics
            .iter()
            .find(|nic| nic.addresses().any(|own| own == address));
        return Ok(vec![End { nic, address }]);
    }
    let named = |nic: &&Nic| {
        let (instance, device) = (nic.id.instance.to_string(), &nic.id.device);
        text == instance
            || text
                .strip_prefix(&instance)
                .and_then(|rest| rest.strip_prefix('/'))
                == Some(device)
    };
    let found: Vec<&Nic> = nics.iter().filter(named).collect();
    let nic = match found.as_slice() {
        [nic] => *nic,
        [] => {
            if let Some(said) = question.elsewhere.about(text) {
                return Err(format!("{said}, or name it by its address"));
            }
            return Err(format!(
                "{text:?} is no running instance of this host with a NIC of LXMesh, and no address; lxmesh status lists them"
            ));
        }
        more => {
            let names: Vec<String> = more
                .iter()
                .map(|nic| format!("{}/{}", nic.id.instance, nic.id.device))
                .collect();
            return Err(format!(
                "{text:?} has several NICs; name one of {}",
                names.join(", ")
            ));
        }
    };
    let four = nic.ipv4.map(IpAddr::V4);
    let addresses = four.into_iter().chain(nic.ipv6.map(IpAddr::V6));
    Ok(addresses
        .map(|address| End {
            nic: Some(nic),
            address,
        })
        .collect())
}

fn one(
    host: &HostFile,
    source: End<'_>,
    destination: End<'_>,
    protocol: Protocol,
    port: u16,
) -> Trace {
    let mut steps = Vec::new();
    if let Some(nic) = source.nic {
        let flow = Flow {
            protocol,
            port,
            peer: destination.address,
            tags: 0,
        };
        if fabric::is_host(host, host.network(&nic.network), destination.address) {
            steps.push(to_fabric(host, &flow));
        }
        if steps.iter().all(|step| step.allowed) {
            steps.push(step(nic, Direction::Out, &flow, nic.outward.judge(&flow)));
        }
    }
    let open = steps.iter().all(|step| step.allowed);
    let gateway = host.networks.iter().any(|network| {
        network
            .gateways()
            .any(|own| own.addr() == destination.address)
    });
    if open && gateway && source.nic.is_some() {
        let allowed = !protocol.has_ports();
        let why = if allowed {
            "the gateway answers ICMP"
        } else {
            "the host itself offers no services to instances but DHCP"
        };
        steps.push(Step {
            place: "at the gateway".into(),
            allowed,
            why: why.into(),
        });
    }
    if let (true, Some(nic)) = (open, destination.nic) {
        let tags = source.nic.map_or(0, |nic| nic.tags);
        let flow = Flow {
            protocol,
            port,
            peer: source.address,
            tags,
        };
        let mut decided = step(nic, Direction::In, &flow, nic.inward.judge(&flow));
        if !decided.allowed
            && source.nic.is_none()
            && nic
                .inward
                .judge(&Flow {
                    tags: u16::MAX,
                    ..flow
                })
                .allows()
        {
            decided.why.push_str(
                "; it depends on the tags of the source, which are known on its own host",
            );
        }
        steps.push(decided);
    }
    Trace {
        source: source.address,
        destination: destination.address,
        allowed: steps.iter().all(|step| step.allowed),
        steps,
    }
}

/// As in the chain `egress_fabric`; audit is not about this.
fn to_fabric(host: &HostFile, flow: &Flow) -> Step {
    let opened = Opened::of(host);
    let rule = opened.rule(flow);
    Step {
        place: "to a host of the fabric".into(),
        allowed: rule.is_some(),
        why: match rule {
            Some(rule) => rule.origin.to_string(),
            None => "services of [fabric] in the host file do not open it to instances".into(),
        },
    }
}

/// As in the chains `egress_audited` and `to_port_audited`: audit is about services only.
fn is_auditable(flow: &Flow) -> bool {
    let dhcp_client = flow.protocol == Protocol::Udp && [68, 546].contains(&flow.port);
    flow.protocol.has_ports() && !dhcp_client
}

fn step(nic: &Nic, direction: Direction, flow: &Flow, judgement: Judgement<'_>) -> Step {
    let (way, key) = match direction {
        Direction::In => ("into", "in_services"),
        Direction::Out => ("out of", "out_services"),
    };
    let why = match judgement {
        Judgement::Rule(rule) => rule.origin.to_string(),
        Judgement::Echo => "echo requests are always allowed".into(),
        Judgement::Nothing => {
            format!("no rule of user.lxmesh.{key}, of the network or of an ACL allows it")
        }
    };
    let audited = nic.denied.audit && is_auditable(flow) && !judgement.allows();
    Step {
        place: format!("{way} {}", nic.id),
        allowed: judgement.allows() || audited,
        why: if audited {
            format!("{why}, but it is only audited: it passes and is logged")
        } else {
            why
        },
    }
}

impl Trace {
    /// Two lines or more for a person.
    pub fn text(&self) -> String {
        let verdict = |allowed| if allowed { "allowed" } else { "denied" };
        let mut text = format!(
            "{} to {}: {}\n",
            self.source,
            self.destination,
            verdict(self.allowed)
        );
        for step in &self.steps {
            text.push_str(&format!(
                "  {}: {}: {}\n",
                step.place,
                verdict(step.allowed),
                step.why
            ));
        }
        text
    }
}
