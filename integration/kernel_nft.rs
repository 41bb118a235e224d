//! `kernel::nft` against the running kernel: sets that `nft` made read as it made them, and what we
//! change is read back with `nft -j`.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

mod support;

use lxmesh::kernel::Nft;
use lxmesh::kernel::nft::{Element, ElementOp, Family, Place, Structure, verdict};
use serde_json::{Value, json};
use support::{Ns, in_netns};

/// The sets that we use, one of each shape.
const TABLE: &str = "
table bridge t {
    counter c1 { packets 3 bytes 4 }
    counter c2 { }
    chain one { }
    chain two { }
    set macs { type ether_addr; }
    set ports { type iface_index . ether_addr . ipv4_addr; }
    set six { type ipv6_addr; counter; }
    set names { type ifname . inet_proto . inet_service; }
    map marks { type ipv4_addr : mark; }
    map jumps { type ether_addr : verdict; }
    map counts { type ipv4_addr : counter; }
    map ranges { type iface_index . inet_proto . inet_service . ipv4_addr : verdict; flags interval; }
}
table inet t {
    set macs { type ether_addr; }
}";

fn with_table(body: impl FnOnce(&Ns, &mut Nft) + Send) {
    in_netns(|ns| {
        ns.nft(TABLE);
        body(ns, &mut Nft::open().unwrap());
    });
}

fn add_to(
    set: &'static str,
    key: impl Into<Vec<u8>>,
    data: Option<Vec<u8>>,
    comment: Option<&str>,
) -> ElementOp {
    let element = Element {
        key: key.into(),
        end: None,
        data,
        comment: comment.map(str::to_owned),
        special: false,
    };
    ElementOp::Add {
        family: Family::Bridge,
        table: "t",
        set,
        element,
    }
}

fn add(set: &'static str, key: impl Into<Vec<u8>>) -> ElementOp {
    add_to(set, key, None, None)
}

fn delete(set: &'static str, key: impl Into<Vec<u8>>) -> ElementOp {
    ElementOp::Delete {
        family: Family::Bridge,
        table: "t",
        set,
        key: key.into(),
        end: None,
    }
}

fn elements(nft: &mut Nft, set: &str) -> Vec<Element> {
    let mut all = nft.elements(Family::Bridge, "t", set).unwrap().unwrap();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

/// The elements of a set or map as nft prints them, in no order.
fn nft_elements(ns: &Ns, kind: &str, set: &str) -> Vec<Value> {
    let objects = ns.nft_json(&format!("list {kind} bridge t {set}"));
    objects[0][kind]["elem"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

/// A key of a concatenation: each part padded to 4 bytes.
fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

fn number(i: u32) -> [u8; 6] {
    let [a, b, c, d] = i.to_be_bytes();
    [2, 0, a, b, c, d]
}

#[test]
fn elements_read_as_nft_made_them() {
    with_table(|ns, nft| {
        ns.nft(
            "add element bridge t macs { 02:00:00:00:00:01 comment \"web1: it's up\", 02:00:00:00:00:02 }
             add element bridge t ports { 1 . 02:00:00:00:00:01 . 10.0.0.1 }
             add element bridge t six { 2001:db8::1 }
             add element bridge t names { lo . tcp . 443 }
             add element bridge t marks { 10.0.0.1 comment \"m\" : 0x12345678 }
             add element bridge t jumps { 02:00:00:00:00:01 : goto one, 02:00:00:00:00:02 : drop }
             add element bridge t counts { 10.0.0.1 : \"c1\" }",
        );
        let element = |key: &[u8], data: Option<&[u8]>, comment: Option<&str>| Element {
            key: key.to_vec(),
            end: None,
            data: data.map(<[u8]>::to_vec),
            comment: comment.map(str::to_owned),
            special: false,
        };
        let wanted = [
            element(&[2, 0, 0, 0, 0, 1], None, Some("web1: it's up")),
            element(&[2, 0, 0, 0, 0, 2], None, None),
        ];
        assert_eq!(elements(nft, "macs"), wanted);
        let key = concat(&[&1u32.to_ne_bytes(), &[2, 0, 0, 0, 0, 1], &[10, 0, 0, 1]]);
        assert_eq!(elements(nft, "ports"), [element(&key, None, None)]);
        let six: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let counted = Element {
            special: true,
            ..element(&six.octets(), None, None)
        };
        assert_eq!(elements(nft, "six"), [counted]);
        let mut name = [0; 16];
        name[..2].copy_from_slice(b"lo");
        let key = concat(&[&name, &[6], &443u16.to_be_bytes()]);
        assert_eq!(elements(nft, "names"), [element(&key, None, None)]);
        let mark = 0x1234_5678u32.to_ne_bytes();
        assert_eq!(
            elements(nft, "marks"),
            [element(&[10, 0, 0, 1], Some(&mark), Some("m"))]
        );
        let wanted = [
            element(&[2, 0, 0, 0, 0, 1], Some(&verdict(-4, "one")), None),
            element(&[2, 0, 0, 0, 0, 2], Some(&verdict(0, "")), None),
        ];
        assert_eq!(elements(nft, "jumps"), wanted);
        assert_eq!(
            elements(nft, "counts"),
            [element(&[10, 0, 0, 1], Some(b"c1"), None)]
        );
    });
}

#[test]
fn chains_on_a_hook_are_told_from_others_and_other_tables() {
    with_table(|ns, nft| {
        assert_eq!(nft.hooked_chains(Family::Inet, "u").unwrap(), [""; 0]);
        ns.nft(
            "table inet u {
               chain a { type filter hook input priority 0; policy drop; }
               chain b { }
               chain c { type filter hook output priority 0; }
             }
             table inet v {
               chain d { type filter hook input priority 0; }
             }",
        );
        assert_eq!(nft.hooked_chains(Family::Inet, "u").unwrap(), ["a", "c"]);
        assert_eq!(nft.hooked_chains(Family::Bridge, "u").unwrap(), [""; 0]);
    });
}

#[test]
fn an_absent_table_or_set_is_none_and_an_empty_set_is_empty() {
    with_table(|_, nft| {
        assert_eq!(
            nft.elements(Family::Bridge, "t", "macs").unwrap(),
            Some(vec![])
        );
        assert_eq!(nft.elements(Family::Bridge, "t", "absent").unwrap(), None);
        assert_eq!(
            nft.elements(Family::Bridge, "absent", "macs").unwrap(),
            None
        );
        // The other family's table has no such set.
        assert_eq!(nft.elements(Family::Inet, "t", "ports").unwrap(), None);
        assert_eq!(nft.structure(Family::Bridge, "absent").unwrap(), None);
        let error = nft.counters(Family::Bridge, "absent").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        let long = "x".repeat(70_000);
        assert_eq!(
            nft.elements(Family::Bridge, &long, "s")
                .unwrap_err()
                .errno(),
            Some(libc::ENAMETOOLONG)
        );
    });
}

#[test]
fn elements_of_every_shape_are_added_as_nft_prints_them_and_removed() {
    with_table(|ns, nft| {
        let mut name = [0; 16];
        name[..2].copy_from_slice(b"lo");
        let ports = concat(&[&1u32.to_ne_bytes(), &[2, 0, 0, 0, 0, 1], &[10, 0, 0, 1]]);
        let names = concat(&[&name, &[6], &443u16.to_be_bytes()]);
        let six: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let ops = [
            add_to("macs", number(1), None, Some("web1: \u{e9}")),
            add("ports", ports.clone()),
            add("names", names.clone()),
            add("six", six.octets()),
            add_to(
                "marks",
                [10, 0, 0, 1],
                Some(0x12u32.to_ne_bytes().into()),
                Some("m"),
            ),
            add_to("jumps", number(1), Some(verdict(-3, "two")), None),
            add_to("jumps", number(2), Some(verdict(1, "")), None),
            add_to("counts", [10, 0, 0, 1], Some(b"c2".to_vec()), None),
            ElementOp::Add {
                family: Family::Inet,
                table: "t",
                set: "macs",
                element: Element {
                    key: number(9).into(),
                    end: None,
                    data: None,
                    comment: None,
                    special: false,
                },
            },
        ];
        // Twice: adding what is there already is fine.
        for _ in 0..2 {
            nft.transaction(&ops).unwrap();
            let macs = nft_elements(ns, "set", "macs");
            assert_eq!(
                macs,
                [json!({"elem": {"val": "02:00:00:00:00:01", "comment": "web1: \u{e9}"}})]
            );
            let wanted = json!({"concat": ["lo", "02:00:00:00:00:01", "10.0.0.1"]});
            assert_eq!(nft_elements(ns, "set", "ports"), [wanted]);
            assert_eq!(
                nft_elements(ns, "set", "names"),
                [json!({"concat": ["lo", "tcp", 443]})]
            );
            let six = nft_elements(ns, "set", "six");
            assert_eq!(six[0]["elem"]["val"], "2001:db8::1");
            let wanted = json!([{"elem": {"val": "10.0.0.1", "comment": "m"}}, 0x12]);
            assert_eq!(nft_elements(ns, "map", "marks"), [wanted]);
            let jumps = nft_elements(ns, "map", "jumps");
            assert_eq!(jumps.len(), 2);
            assert!(jumps.contains(&json!(["02:00:00:00:00:01", {"jump": {"target": "two"}}])));
            assert!(jumps.contains(&json!(["02:00:00:00:00:02", {"accept": null}])));
            let counts = nft_elements(ns, "map", "counts");
            assert_eq!(
                (counts.len(), &counts[0][0], &counts[0][1]),
                (1, &json!("10.0.0.1"), &json!("c2"))
            );
            let inet = ns.nft_json("list set inet t macs");
            assert_eq!(inet[0]["set"]["elem"], json!(["02:00:00:00:00:09"]));
        }
        let ops = [
            delete("macs", number(1)),
            delete("ports", ports),
            delete("names", names),
            delete("six", six.octets()),
            delete("marks", [10, 0, 0, 1]),
            delete("jumps", number(1)),
            delete("jumps", number(2)),
            delete("counts", [10, 0, 0, 1]),
        ];
        nft.transaction(&ops).unwrap();
        for (kind, set) in [
            ("set", "macs"),
            ("set", "ports"),
            ("set", "names"),
            ("set", "six"),
            ("map", "marks"),
            ("map", "jumps"),
            ("map", "counts"),
        ] {
            assert_eq!(nft_elements(ns, kind, set), [] as [Value; 0], "{set}");
        }
    });
}

/// Interface 1, TCP, a port and an address, as in a set of ranges: all big-endian.
fn block(port: u16, address: [u8; 4]) -> Vec<u8> {
    concat(&[&1u32.to_be_bytes(), &[6], &port.to_be_bytes(), &address])
}

fn range(first: Vec<u8>, last: Vec<u8>, verdict: Vec<u8>) -> Element {
    Element {
        key: first,
        end: Some(last),
        data: Some(verdict),
        comment: None,
        special: false,
    }
}

#[test]
fn concatenated_ranges_read_as_nft_made_them_and_are_written_alike() {
    with_table(|ns, nft| {
        ns.nft(
            "add element bridge t ranges { 1 . 6 . 80-90 . 192.0.2.0/24 : goto one }
             add element bridge t ranges { 1 . 6 . 443 . 0.0.0.0/0 : accept }
             add element bridge t ranges { 1 . 6 . 91 . 192.0.2.7 : return }",
        );
        let first = range(
            block(80, [192, 0, 2, 0]),
            block(90, [192, 0, 2, 255]),
            verdict(-4, "one"),
        );
        let all = range(block(443, [0; 4]), block(443, [255; 4]), verdict(1, ""));
        let single = range(
            block(91, [192, 0, 2, 7]),
            block(91, [192, 0, 2, 7]),
            verdict(-5, ""),
        );
        let wanted = [first.clone(), single.clone(), all.clone()];
        assert_eq!(elements(nft, "ranges"), wanted);
        let op = |element: &Element| ElementOp::Add {
            family: Family::Bridge,
            table: "t",
            set: "ranges",
            element: element.clone(),
        };
        let gone = |element: &Element| ElementOp::Delete {
            family: Family::Bridge,
            table: "t",
            set: "ranges",
            key: element.key.clone(),
            end: element.end.clone(),
        };
        // Adding what is there is fine; what nft made we remove, and what we make nft removes.
        nft.transaction(&wanted.iter().map(op).collect::<Vec<_>>())
            .unwrap();
        nft.transaction(&wanted.iter().map(gone).collect::<Vec<_>>())
            .unwrap();
        assert_eq!(elements(nft, "ranges"), []);
        // A range that overlaps with one that goes in the same transaction.
        nft.transaction(&[op(&first), op(&all)]).unwrap();
        let wider = range(
            block(85, [192, 0, 0, 0]),
            block(95, [192, 0, 255, 255]),
            verdict(-4, "two"),
        );
        nft.transaction(&[gone(&first), op(&wider)]).unwrap();
        assert_eq!(elements(nft, "ranges"), [wider.clone(), all.clone()]);
        let error = nft.transaction(&[op(&single)]).unwrap_err();
        assert_eq!(error.source.errno(), Some(libc::EEXIST));
        // Looked up by its ends, and found whatever covers the first.
        let place = |element: &Element| (element.key.clone(), element.end.clone());
        let absent = (block(7, [0; 4]), Some(block(7, [0; 4])));
        let found = nft.lookup(
            Family::Bridge,
            "t",
            "ranges",
            &[place(&wider), absent, place(&single)],
        );
        assert_eq!(found.unwrap(), [Some(wider.clone()), None, Some(wider)]);
        ns.nft(
            "delete element bridge t ranges { 1 . 6 . 85-95 . 192.0.0.0/16 }
             delete element bridge t ranges { 1 . 6 . 443 . 0.0.0.0/0 }",
        );
        assert_eq!(elements(nft, "ranges"), []);
    });
}

#[test]
fn a_changed_map_value_is_a_delete_and_an_add_in_one_transaction() {
    with_table(|ns, nft| {
        let key = |i: u32| i.to_be_bytes();
        let value = |v: u32| Some(v.to_ne_bytes().to_vec());
        let first: Vec<_> = (0..3000)
            .map(|i| add_to("marks", key(i), value(1), None))
            .collect();
        nft.transaction(&first).unwrap();
        let generation = nft.generation().unwrap();
        let replace: Vec<_> = (0..3000)
            .flat_map(|i| {
                [
                    delete("marks", key(i)),
                    add_to("marks", key(i), value(2), None),
                ]
            })
            .collect();
        nft.transaction(&replace).unwrap();
        assert_eq!(nft.generation().unwrap(), generation + 1);
        let all = nft_elements(ns, "map", "marks");
        assert_eq!(all.len(), 3000);
        assert!(all.iter().all(|e| e[1] == 2));
        // Nothing left of an element that was added and deleted again.
        let ops = [
            add_to("marks", key(9000), value(1), None),
            delete("marks", key(9000)),
        ];
        nft.transaction(&ops).unwrap();
        assert_eq!(nft_elements(ns, "map", "marks").len(), 3000);
    });
}

#[test]
fn a_refused_transaction_names_the_change_and_does_nothing() {
    with_table(|ns, nft| {
        let key = |i: u32| i.to_be_bytes();
        let value = |v: u32| Some(v.to_ne_bytes().to_vec());
        nft.transaction(&[add_to("marks", key(3210), value(1), None)])
            .unwrap();
        let many = |set: &'static str, n: u32| -> Vec<ElementOp> {
            let one = |i| {
                if set == "macs" {
                    add(set, number(i))
                } else {
                    add_to(set, key(i), value(2), None)
                }
            };
            (0..n).map(one).collect()
        };
        let at = |ops: Vec<ElementOp>, index: usize, op: ElementOp| {
            let mut ops = ops;
            ops.insert(index, op);
            ops
        };
        let both = [many("macs", 2000), many("marks", 3210)].concat();
        let long = add_to("macs", number(1), None, Some(&"x".repeat(129)));
        let cases = [
            // Several messages, the fault in the middle of one, after another set's.
            (
                both.into_iter()
                    .chain(many("marks", 5000).split_off(3210))
                    .collect(),
                2000 + 3210,
                libc::EEXIST,
            ),
            (
                at(many("macs", 4000), 2500, delete("macs", number(77_777))),
                2500,
                libc::ENOENT,
            ),
            (
                at(many("macs", 10), 3, delete("macs", number(77_777))),
                3,
                libc::ENOENT,
            ),
            (
                at(many("macs", 100), 99, add("macs", [1, 2, 3])),
                99,
                libc::EINVAL,
            ),
            (
                at(many("macs", 100), 50, add("absent", [1])),
                50,
                libc::ENOENT,
            ),
            (
                at(
                    many("macs", 100),
                    50,
                    add_to("absent", [1], Some(vec![1]), None),
                ),
                50,
                libc::ENOENT,
            ),
            (
                at(
                    many("macs", 100),
                    50,
                    add_to("jumps", number(5), Some(verdict(-4, "no")), None),
                ),
                50,
                libc::ENOENT,
            ),
            (at(many("macs", 100), 7, long), 7, libc::EINVAL),
            (
                at(many("macs", 100), 8, add("macs", [0; 65])),
                8,
                libc::EINVAL,
            ),
        ];
        for (i, (ops, index, errno)) in cases.into_iter().enumerate() {
            let error = nft.transaction(&ops).unwrap_err();
            assert_eq!(
                (error.index, error.source.errno()),
                (Some(index), Some(errno)),
                "case {i}: {error}"
            );
            assert_eq!(nft_elements(ns, "set", "macs").len(), 0, "case {i}");
            assert_eq!(nft_elements(ns, "map", "marks").len(), 1, "case {i}");
        }
        let error = nft.transaction(&[delete("macs", number(5))]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("set bridge t macs element 020000000005"),
            "{error}"
        );
        // And the socket is as good as before.
        nft.transaction(&[add("macs", number(5))]).unwrap();
        nft.transaction(&[]).unwrap();
    });
}

#[test]
fn single_lookups_find_what_is_there_and_only_that() {
    with_table(|_, nft| {
        let there: Vec<_> = (0..1000)
            .map(|i| add_to("macs", number(2 * i), None, Some(&format!("n{i}"))))
            .collect();
        nft.transaction(&there).unwrap();
        let keys: Vec<_> = (0..2000).map(|i| (number(i).to_vec(), None)).collect();
        let found = nft.lookup(Family::Bridge, "t", "macs", &keys).unwrap();
        assert_eq!(found.len(), 2000);
        for (i, element) in found.iter().enumerate() {
            let comment = element.as_ref().and_then(|e| e.comment.clone());
            assert_eq!(comment, (i % 2 == 0).then(|| format!("n{}", i / 2)));
            assert!(element.as_ref().is_none_or(|e| e.key == keys[i].0));
        }
        let none: [Place; 0] = [];
        assert!(
            nft.lookup(Family::Bridge, "t", "macs", &none)
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn a_lookup_in_a_set_that_is_not_there_is_an_error_and_not_an_absent_element() {
    with_table(|_, nft| {
        let keys = [(number(1).to_vec(), None), (number(2).to_vec(), None)];
        for (table, set) in [("t", "absent"), ("absent", "macs")] {
            let error = nft.lookup(Family::Bridge, table, set, &keys).unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOENT));
        }
        // A key of the wrong length is a mistake, not an absence.
        let error = nft
            .lookup(
                Family::Bridge,
                "t",
                "macs",
                &[(vec![1, 2, 3], None), (vec![0; 6], None)],
            )
            .unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert_eq!(
            nft.lookup(Family::Bridge, "t", "macs", &keys).unwrap(),
            [None, None]
        );
    });
}

#[test]
fn the_generation_counts_everybodys_transactions() {
    with_table(|ns, nft| {
        let before = nft.generation().unwrap();
        ns.nft("add set bridge t another { type mark; }");
        assert_eq!(nft.generation().unwrap(), before + 1);
        nft.transaction(&[add("macs", number(1))]).unwrap();
        assert_eq!(nft.generation().unwrap(), before + 2);
        nft.transaction(&[delete("macs", number(2))]).unwrap_err();
        assert_eq!(nft.generation().unwrap(), before + 2);
    });
}

#[test]
fn named_counters_are_read() {
    with_table(|_, nft| {
        let mut counters = nft.counters(Family::Bridge, "t").unwrap();
        counters.sort();
        assert_eq!(counters, [("c1".to_owned(), 3, 4), ("c2".to_owned(), 0, 0)]);
        assert_eq!(nft.counters(Family::Inet, "t").unwrap(), []);
    });
}

#[test]
fn a_script_is_run_whole_or_not_at_all_and_its_error_says_where() {
    with_table(|ns, nft| {
        let tables = |ns: &Ns| ns.sh("nft list tables");
        let before = tables(ns);
        nft.check("table inet new { }").unwrap();
        assert_eq!(tables(ns), before);
        for error in [
            nft.run("table inet new { }\nadd rule inet new absent accept\n")
                .unwrap_err(),
            nft.check("table inet new { }\nadd rule inet new absent accept\n")
                .unwrap_err(),
        ] {
            assert!(
                error.text().unwrap().contains("No such file or directory"),
                "{error}"
            );
            assert_eq!(tables(ns), before);
        }
        let error = nft.run("table inet new {").unwrap_err();
        assert!(error.to_string().contains("/dev/stdin:1:"), "{error}");
        nft.run("table inet new { }").unwrap();
        assert!(tables(ns).contains("table inet new"));
        assert_eq!(
            nft.structure(Family::Inet, "new").unwrap().map(|_| ()),
            Some(())
        );
    });
}

#[test]
fn thirty_thousand_elements_go_in_and_come_back() {
    with_table(|ns, nft| {
        let ops: Vec<_> = (0..30_000u32)
            .map(|i| {
                let key = concat(&[&i.to_ne_bytes(), &number(i), &i.to_be_bytes()]);
                add_to("ports", key, None, Some("instance/eth0"))
            })
            .collect();
        let start = std::time::Instant::now();
        nft.transaction(&ops).unwrap();
        println!(
            "{} elements: {} ms to write",
            ops.len(),
            start.elapsed().as_millis()
        );
        let start = std::time::Instant::now();
        assert_eq!(
            nft.elements(Family::Bridge, "t", "ports")
                .unwrap()
                .unwrap()
                .len(),
            ops.len()
        );
        println!("{} ms to read", start.elapsed().as_millis());
        assert_eq!(nft_elements(ns, "set", "ports").len(), ops.len());
        let deletes: Vec<_> = ops
            .iter()
            .map(|op| {
                let ElementOp::Add { element, .. } = op else {
                    unreachable!()
                };
                delete("ports", element.key.clone())
            })
            .collect();
        nft.transaction(&deletes).unwrap();
        assert_eq!(nft_elements(ns, "set", "ports").len(), 0);
    });
}

// Structure

const RULES: &str = "
table inet d {
    counter c { }
    counter spare { }
    quota q { 10 mbytes }
    map m2 { type inet_service : verdict; }
    set seen { type ipv4_addr; size 1000; flags dynamic, timeout; timeout 1h; }
    set limits { type ipv4_addr; size 1000; flags dynamic; }
    set allowed { type inet_service; elements = { 1, 2, 3 } }
    map m { type inet_service : verdict; }
    chain a {
        type filter hook input priority 10; policy accept;
        counter comment \"first\"
        quota over 5 mbytes drop
        limit rate 1/day burst 5 packets counter
        ct count over 1000 drop
        counter name c
        quota name q
        udp dport { 7, 8 } accept
        udp dport vmap @m
        add @seen { ip saddr }
        update @limits { ip saddr limit rate 10/second }
        meta mark set numgen inc mod 4
        udp dport @allowed accept
    }
    set fixed { type mark; flags constant; elements = { 1, 2 } }
    chain b {
        meta mark @fixed drop
    }
}
";

/// Makes the table by one transaction, in place of what is there.
fn make(ns: &Ns, table: &str) {
    let text = RULES.replace("inet d", &format!("inet {table}"));
    ns.nft(&format!(
        "table inet {table}\ndelete table inet {table}\n{text}"
    ));
}

fn structure(nft: &mut Nft, table: &str) -> Structure {
    let found = nft.structure(Family::Inet, table).unwrap();
    found.expect("the table is there")
}

#[test]
fn a_structure_is_the_same_through_traffic_elements_dumps_and_other_tables() {
    in_netns(|ns| {
        make(ns, "d");
        let mut nft = Nft::open().unwrap();
        let before = structure(&mut nft, "d");
        assert_eq!(before.flags, 0);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for i in 1..=100 {
            socket.send_to(&[0; 1000], ("127.0.0.1", i)).unwrap();
        }
        // It did pass through the rules.
        let listed = ns.sh("nft list table inet d");
        assert!(
            listed.contains("counter packets 2") || listed.contains("counter packets 1"),
            "{listed}"
        );
        assert!(listed.contains("127.0.0.1"), "{listed}");
        assert_eq!(structure(&mut nft, "d"), before, "traffic");
        for change in [
            "add element inet d allowed { 4 }",
            "delete element inet d allowed { 1 }",
            "add element inet d m { 5 : drop }",
            "flush set inet d seen",
            "reset counters table inet d",
            "reset quotas",
            "list ruleset",
            "add table bridge d",
            "add chain bridge d a",
            "add rule bridge d a accept",
            "add table inet other",
            "add chain inet other a",
            // What comes and goes, and what is replaced by its like.
            "add chain inet d extra; add rule inet d extra accept; flush chain inet d extra; delete chain inet d extra",
            "delete counter inet d spare; add counter inet d spare",
        ] {
            ns.nft(change);
            assert_eq!(structure(&mut nft, "d"), before, "{change}");
        }
        make(ns, "d");
        assert_eq!(structure(&mut nft, "d"), before, "the table made anew");
        // Another table is the same if it is made by the same text, dormant or not.
        make(ns, "other");
        assert_eq!(structure(&mut nft, "other"), before);
        ns.nft("add table inet other { flags dormant; }");
        let dormant = structure(&mut nft, "other");
        assert_eq!((dormant.digest, dormant.flags), (before.digest, 1));
    });
}

/// Each on a table of its own; also what is changed in place.
#[test]
fn no_change_of_a_structure_goes_unseen() {
    in_netns(|ns| {
        make(ns, "d");
        let mut nft = Nft::open().unwrap();
        let before = structure(&mut nft, "d");
        let handle = |ns: &Ns, text: &str| {
            let all = ns.sh("nft -a list table inet d");
            let line = all
                .lines()
                .find(|l| l.contains(text))
                .unwrap_or_else(|| panic!("{text} in {all}"));
            line.rsplit(' ').next().unwrap().to_owned()
        };
        for change in [
            "add rule inet d b accept",
            "insert rule inet d b drop",
            "flush chain inet d a",
            "flush chain inet d b",
            "add chain inet d extra",
            "add chain inet d extra { type filter hook output priority 5; }",
            "delete chain inet d b",
            "rename chain inet d b c",
            "add chain inet d a { policy drop; }",
            "add table inet d { flags dormant; }",
            "add set inet d more { type mark; }",
            "delete map inet d m2",
            "add counter inet d extra",
            "delete counter inet d spare",
            "add set inet d seen { type ipv4_addr; size 1000; flags dynamic, timeout; timeout 2h; }",
            "delete rule inet d a handle LIMIT",
            "replace rule inet d a handle FIRST counter comment \"second\"",
            "replace rule inet d a handle QUOTA quota over 6 mbytes drop",
            // The order of rules.
            "delete rule inet d a handle FIRST; add rule inet d a counter comment \"first\"",
            // Twice, so that what is between the braces has the same name as before.
            "replace rule inet d a handle PORTS udp dport { 7, 9 } accept\nreplace rule inet d a handle PORTS udp dport { 7, 9 } accept",
            "delete rule inet d b handle FIXED; delete set inet d fixed; add set inet d fixed { type mark; flags constant; elements = { 1, 3 }; }; add rule inet d b meta mark @fixed drop",
        ] {
            make(ns, "d");
            assert_eq!(structure(&mut nft, "d"), before);
            let script = change
                .replace("LIMIT", &handle(ns, "limit rate 1/day"))
                .replace("FIRST", &handle(ns, "comment \"first\""))
                .replace("QUOTA", &handle(ns, "quota over 5 mbytes"))
                .replace("PORTS", &handle(ns, "udp dport {"))
                .replace("FIXED", &handle(ns, "@fixed"));
            for line in script.lines() {
                ns.nft(line);
            }
            assert_ne!(structure(&mut nft, "d"), before, "{change}");
        }
    });
}

/// What no transaction of ours makes is told from other elements: also what has no key.
#[test]
fn special_elements_are_told_from_others() {
    in_netns(|ns| {
        ns.nft(
            "table bridge t {
                set plain { type mark; elements = { 1, 2 }; }
                set catch { type mark; elements = { 1, * }; }
                map default { type mark : verdict; elements = { 1 : drop, * : accept }; }
                set over { type mark; flags timeout; elements = { 1, 2 timeout 1h }; }
                set paced { type mark; limit rate 1/second; elements = { 2 }; }
                set const { type mark; flags constant; elements = { 1, 2 }; }
                chain c { meta mark @const accept; }
                set single { type inet_service; flags interval; elements = { 5-10 }; }
            }",
        );
        let mut nft = Nft::open().unwrap();
        let mut special = |set: &str| {
            let all = nft.elements(Family::Bridge, "t", set).unwrap().unwrap();
            let special = all.iter().filter(|element| element.special);
            (all.len(), special.map(|e| e.key.len()).collect::<Vec<_>>())
        };
        assert_eq!(special("plain"), (2, vec![]));
        assert_eq!(special("catch"), (2, vec![0]));
        assert_eq!(special("default"), (2, vec![0]));
        assert_eq!(special("over"), (2, vec![4]));
        assert_eq!(special("paced"), (1, vec![4]));
        assert!(!special("single").1.is_empty());
        assert_eq!(special("const"), (2, vec![]));
        // Nobody can change what a rule looks up in a constant set.
        for change in [
            "add element bridge t const { 3 }",
            "delete element bridge t const { 1 }",
            "flush set bridge t const",
        ] {
            let error = ns.try_sh(&format!("nft '{change}'")).unwrap_err();
            assert!(
                error.contains("Device or resource busy"),
                "{change}: {error}"
            );
        }
    });
}
