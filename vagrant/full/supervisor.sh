#!/bin/sh
# The supervisor tells the lab's router of the host routes of its instances. On top of what
# lxmesh-gen wrote, in FRR's memory only: FRR's file is lxmesh-gen's.
set -eu
case $(hostname) in
sup3) router=203.0.113.254 ;;
*) router=198.51.100.254 ;;
esac
vtysh -c 'configure terminal' \
    -c 'ip prefix-list instances seq 5 permit 192.0.2.0/24 ge 32' \
    -c 'route-map instances permit 10' -c 'match ip address prefix-list instances' -c 'exit' \
    -c 'router bgp 64500' -c "neighbor $router remote-as 64501" \
    -c 'address-family ipv4 unicast' -c 'redistribute kernel route-map instances' \
    -c "neighbor $router activate" -c "neighbor $router route-map instances out" \
    -c "neighbor $router prefix-list nothing in" -c 'exit-address-family' -c 'exit' \
    -c 'ip prefix-list nothing seq 5 deny any'
