#!/bin/sh
# A router that is no part of the fabric: it learns where each instance is by plain BGP.
set -eu
sed -i 's/^bgpd=.*/bgpd=yes/' /etc/frr/daemons
cat > /etc/frr/frr.conf <<'FRR'
router bgp 64501
 bgp router-id 198.51.100.254
 no bgp ebgp-requires-policy
 neighbor 198.51.100.11 remote-as 64500
 neighbor 198.51.100.12 remote-as 64500
 neighbor 203.0.113.13 remote-as 64500
FRR
systemctl enable frr
systemctl restart frr
