#!/bin/sh
# A router that is no part of the fabric: it learns where each instance is by plain BGP.
set -eu
sed -i 's/^bgpd=.*/bgpd=yes/' /etc/frr/daemons
cat > /etc/frr/frr.conf <<'FRR'
router bgp 64501
 bgp router-id 198.51.100.254
 no bgp ebgp-requires-policy
 neighbor supervisors peer-group
 neighbor supervisors remote-as 64500
 neighbor supervisors ebgp-multihop 2
 bgp listen range 198.51.100.0/24 peer-group supervisors
 bgp listen range 203.0.113.0/24 peer-group supervisors
FRR
systemctl enable frr
systemctl restart frr
