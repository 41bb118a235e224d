//! The fabric as a picture: reflectors, supervisors, what joins them, and the networks with their
//! devices. SVG and Mermaid, from the host file alone; needs no other program. Pure.

use crate::host::{HostFile, Network};
use std::fmt::Write;

/// What is drawn, in rows from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    title: String,
    reflectors: Vec<Card>,
    supervisors: Vec<Card>,
    networks: Vec<Card>,
    /// Outside of the fabric.
    routers: Vec<Card>,
    /// What they are told of.
    announced: String,
    /// What runs between hosts.
    sessions: String,
    tunnels: String,
}

/// A box with lines of text, the first one its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Card {
    lines: Vec<String>,
}

const ROUTERS: &str = "Routers outside of the fabric";

/// More networks than these are counted, not drawn.
const MOST: usize = 24;

impl Picture {
    pub fn of(file: &HostFile) -> Self {
        let fabric = &file.fabric;
        let mut both = Vec::new();
        let mut reflectors = Vec::new();
        for address in &fabric.reflectors {
            let single = fabric.supervisors.contains(&(*address).into());
            if single {
                both.push(address);
            }
            let role = if single {
                "reflector, and supervisor"
            } else {
                "reflector"
            };
            reflectors.push(Card::new([address.to_string(), role.into()]));
        }
        let supervisors = fabric.supervisors.iter().filter(|net| {
            let whole = net.prefix_len() == net.max_prefix_len();
            !(whole && both.contains(&&net.addr()))
        });
        let supervisors = supervisors
            .map(|net| match net.prefix_len() == net.max_prefix_len() {
                true => Card::new([net.addr().to_string(), "supervisor".into()]),
                false => Card::new([net.to_string(), "supervisors: any host in it".into()]),
            })
            .collect();
        let encrypted = match file.ipsec.is_some() {
            true => " in IPsec",
            false => "",
        };
        let mesh = match fabric.reflectors.is_empty() {
            true => "BGP EVPN and ",
            false => "",
        };
        Picture {
            title: format!(
                "Fabric {}: AS {}, underlay MTU {}",
                fabric.name, fabric.asn, fabric.underlay_mtu
            ),
            reflectors,
            supervisors,
            networks: networks(file),
            routers: file
                .routers
                .iter()
                .map(|router| Card::new([router.address.to_string(), format!("AS {}", router.asn)]))
                .collect(),
            announced: announced(file),
            sessions: format!("BGP EVPN{encrypted}"),
            tunnels: format!(
                "{mesh}VXLAN between all supervisors, UDP port {}{encrypted}",
                fabric.vxlan_port
            ),
        }
    }

    /// A Mermaid flowchart.
    pub fn mermaid(&self) -> String {
        let mut text = format!(
            "---\ntitle: \"{}\"\n---\nflowchart TB\n",
            plain(&self.title)
        );
        let mut row = |name: &str, title: &str, cards: &[Card]| {
            if cards.is_empty() {
                return;
            }
            let _ = writeln!(
                text,
                "  subgraph {name}[\"{}\"]\n    direction LR",
                plain(title)
            );
            for (number, card) in cards.iter().enumerate() {
                let lines: Vec<String> = card.lines.iter().map(|line| plain(line)).collect();
                let _ = writeln!(text, "    {name}{number}[\"{}\"]", lines.join("<br/>"));
            }
            text += "  end\n";
        };
        row("reflectors", "Reflectors", &self.reflectors);
        row("supervisors", &self.tunnels, &self.supervisors);
        row("networks", "Networks on every supervisor", &self.networks);
        row("routers", ROUTERS, &self.routers);
        if !self.reflectors.is_empty() && !self.supervisors.is_empty() {
            let _ = writeln!(text, "  reflectors <-->|\"{}\"| supervisors", self.sessions);
        }
        if !self.networks.is_empty() {
            let above = match self.supervisors.is_empty() {
                true => "reflectors",
                false => "supervisors",
            };
            let _ = writeln!(text, "  {above} --- networks");
        }
        if !self.routers.is_empty() {
            let _ = writeln!(
                text,
                "  networks -->|\"{}\"| routers",
                plain(&self.announced)
            );
        }
        text
    }

    /// A drawing of its own size, in pixels.
    pub fn svg(&self) -> String {
        let rows = [
            ("Reflectors", &self.reflectors, "#dbeafe", "#1d4ed8"),
            (
                self.tunnels.as_str(),
                &self.supervisors,
                "#dcfce7",
                "#15803d",
            ),
            (
                "Networks, on every supervisor",
                &self.networks,
                "#fef3c7",
                "#b45309",
            ),
            (ROUTERS, &self.routers, "#ede9fe", "#6d28d9"),
        ];
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|(_, cards, ..)| !cards.is_empty())
            .collect();
        let mut body = String::new();
        let mut top = MARGIN + 40;
        let mut middles: Vec<(u32, u32)> = Vec::new();
        for (title, cards, fill, stroke) in &rows {
            let height = draw_row(&mut body, top, title, cards, fill, stroke);
            middles.push((top, top + height));
            top += height + GAP;
        }
        for (pair, label) in middles.windows(2).zip(self.labels(rows.len())) {
            arrow(&mut body, pair[0].1, pair[1].0, label);
        }
        let height = top - GAP + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{MARGIN}\" y=\"{}\" font-size=\"20\" font-weight=\"bold\">{}</text>\n{body}</svg>\n",
            MARGIN + 16,
            escaped(&self.title)
        )
    }

    fn labels(&self, rows: usize) -> Vec<&str> {
        let mut labels = Vec::new();
        if !self.reflectors.is_empty() && !self.supervisors.is_empty() {
            labels.push(self.sessions.as_str());
        }
        while labels.len() + 1 < rows {
            labels.push("");
        }
        // Routers are the last row, and networks the one above.
        if let (false, Some(last)) = (self.routers.is_empty(), labels.last_mut()) {
            *last = self.announced.as_str();
        }
        labels
    }
}

/// Whose host routes routers are told of.
fn announced(file: &HostFile) -> String {
    let names: Vec<&str> = file
        .networks
        .iter()
        .filter(|network| network.announce)
        .map(|network| network.name.as_str())
        .collect();
    match names[..] {
        [] | [_] | [_, _] | [_, _, _] => format!("BGP: host routes of {}", names.join(", ")),
        _ => format!("BGP: host routes of {} networks", names.len()),
    }
}

fn networks(file: &HostFile) -> Vec<Card> {
    let mut cards: Vec<Card> = file.networks.iter().take(MOST).map(network).collect();
    if file.networks.len() > MOST {
        let more = file.networks.len() - MOST;
        cards.push(Card::new([format!("and {more} more")]));
    }
    cards
}

fn network(network: &Network) -> Card {
    let mut lines = vec![
        format!("{}: VNI {}", network.name, network.vni),
        format!("{} + {}", network.bridge, network.tunnel),
        format!("MTU {}", network.mtu),
    ];
    lines.extend(network.gateways().map(|gateway| gateway.to_string()));
    if let Some(vrf) = &network.vrf {
        lines.push(format!("VRF {}, table {}", vrf.name, vrf.table));
    }
    Card { lines }
}

impl Card {
    fn new<const N: usize>(lines: [String; N]) -> Self {
        Card {
            lines: lines.into(),
        }
    }

    fn height(&self) -> u32 {
        20 + LINE * u32::try_from(self.lines.len()).unwrap_or(u32::MAX / LINE / 2)
    }
}

const WIDTH: u32 = 960;
const MARGIN: u32 = 24;
/// Between rows: room for an arrow and its label.
const GAP: u32 = 56;
const LINE: u32 = 19;
const COLUMNS: u32 = 4;
const CARD: u32 = (WIDTH - 2 * MARGIN - 16 * (COLUMNS + 1)) / COLUMNS;

/// A frame with a title and its cards, in lines of four; the height of it all.
fn draw_row(
    out: &mut String,
    top: u32,
    title: &str,
    cards: &[Card],
    fill: &str,
    stroke: &str,
) -> u32 {
    let mut body = String::new();
    let mut y = top + 36;
    for line in cards.chunks(COLUMNS as usize) {
        let tallest = line.iter().map(Card::height).max().unwrap_or(0);
        for (column, card) in (0u32..).zip(line) {
            let x = MARGIN + 16 + column * (CARD + 16);
            draw_card(&mut body, x, y, tallest, card, fill, stroke);
        }
        y += tallest + 16;
    }
    let height = y - top;
    let _ = write!(
        out,
        "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{}\" height=\"{height}\" rx=\"8\" fill=\"#f8fafc\" \
         stroke=\"#cbd5e1\"/>\n<text x=\"{}\" y=\"{}\" font-weight=\"bold\" fill=\"#334155\">{}</text>\n{body}",
        WIDTH - 2 * MARGIN,
        MARGIN + 16,
        top + 24,
        escaped(title)
    );
    height
}

fn draw_card(out: &mut String, x: u32, y: u32, height: u32, card: &Card, fill: &str, stroke: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{CARD}\" height=\"{height}\" rx=\"6\" fill=\"{fill}\" stroke=\"{stroke}\"/>"
    );
    for (number, line) in (0u32..).zip(&card.lines) {
        let weight = if number == 0 {
            " font-weight=\"bold\""
        } else {
            ""
        };
        // Long IPv6 addresses are pressed into their card.
        let fitted = match line.chars().count() > 25 {
            true => format!(
                " textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\"",
                CARD - 20
            ),
            false => String::new(),
        };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\"{weight}{fitted}>{}</text>",
            x + 10,
            y + 24 + number * LINE,
            escaped(line)
        );
    }
}

fn arrow(out: &mut String, from: u32, to: u32, label: &str) {
    let x = WIDTH / 2;
    let _ = writeln!(
        out,
        "<path d=\"M{x} {} V{} M{} {} L{x} {} L{} {} M{} {} L{x} {} L{} {}\" fill=\"none\" stroke=\"#475569\" stroke-width=\"2\"/>",
        from + 4,
        to - 4,
        x - 6,
        from + 12,
        from + 4,
        x + 6,
        from + 12,
        x - 6,
        to - 12,
        to - 4,
        x + 6,
        to - 12
    );
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" fill=\"#475569\">{}</text>",
        x + 14,
        (from + to) / 2 + 5,
        escaped(label)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Mermaid has no escape for a quotation mark but an entity.
fn plain(text: &str) -> String {
    text.replace('"', "#quot;")
}
