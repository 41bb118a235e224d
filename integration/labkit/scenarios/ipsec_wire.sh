#!/bin/sh
# ipsec_wire.sh DIRECTORY: hosts in network namespaces, each with strongSwan on the files that lxmesh-gen
# rendered for it and a tunnel, with static entries in place of FRR's. Prints "RESULT what value" lines.
# ipsec_wire.py lays the directory out and runs this in namespaces of its own: network, mounts, processes.
#   hosts      their names; HOST/ has the host's address and its files
#   mtu        of the tunnel
#   pings      FROM,TO: whose first packets go where
#   bgp        there if `a` is to call the reflector `rr`
#   sizes      largest packets of the underlay and then of the tunnel, UNDERLAY,TUNNEL
set -eu
work=$1
mount -t tmpfs wire /run
mkdir /run/netns
hosts=$(cat "$work/hosts")
address_of() { cat "$work/$1/address"; }
case $(address_of a) in
*:*) prefix=64 options=nodad statistics=snmp6 ;;
*) prefix=24 options='' statistics=snmp ;;
esac

ip link set lo up
ip link add ul mtu 9216 type bridge mcast_snooping 0
ip link set ul up
number=0
for host in $hosts; do
	number=$((number + 1))
	address=$(address_of $host)
	ip netns add $host
	ip link add v$number mtu 9216 type veth peer name u netns $host
	ip link set v$number master ul up
	ip -n $host link set lo up
	ip -n $host address add $address/$prefix dev u $options
	ip -n $host link set u mtu 1500 up
	ip netns exec $host sysctl -q -p "$work/$host/etc/sysctl.d/60-lxmesh-ipsec.conf"
	ip -n $host link add vx type vxlan id 100 local $address dstport 4789 nolearning
	ip -n $host link set vx address 02:00:00:00:00:0$number mtu $(cat "$work/mtu") up
	ip -n $host address add 192.0.2.$number/24 dev vx
	other=0
	for peer in $hosts; do
		other=$((other + 1))
		[ $peer != $host ] || continue
		ip netns exec $host bridge fdb append 02:00:00:00:00:0$other dev vx dst $(address_of $peer)
		ip -n $host neigh add 192.0.2.$other lladdr 02:00:00:00:00:0$other dev vx nud permanent
	done
	mkdir -p /run/$host/swanctl /run/$host/lxmesh
	cp -r "$work/$host/etc/swanctl/." /run/$host/swanctl/
	echo 'secret = 0x000102030405060708090a0b0c0d0e0f101112131415161718' > /run/$host/lxmesh/ipsec.secret
	echo 'include conf.d/*.conf' > /run/$host/swanctl/swanctl.conf
	cat > /run/$host/strongswan.conf <<-END
		charon-systemd {
		  load_modular = yes
		  plugins {
		    include /etc/strongswan.d/charon/*.conf
		    vici { socket = unix:///run/$host/vici }
		  }
		}
		include $work/$host/etc/strongswan.d/*.conf
	END
	cat > /run/$host/start <<-END
		mount --bind /run/$host/swanctl /etc/swanctl
		STRONGSWAN_CONF=/run/$host/strongswan.conf charon-systemd > /run/$host/log 2>&1 &
		until test -S /run/$host/vici; do sleep 0.1; done
		swanctl --load-all --uri unix:///run/$host/vici
	END
	sed -i "s,include /etc/lxmesh/,include /run/$host/lxmesh/," /run/$host/swanctl/conf.d/lxmesh.conf
done

# All listen before the first one calls.
tcpdump --immediate-mode -U -Z root -ni ul -w /run/capture 2> /run/listening &
tcpdump=$!
until grep -q listening /run/listening; do sleep 0.1; done
for host in $hosts; do
	ip netns exec $host unshare -m sh -eu /run/$host/start > /run/$host/loaded 2>&1 || { cat /run/$host/loaded /run/$host/log; exit 1; }
done

# The first packets ever, to hosts that nobody has heard of. Each is waited for by itself: one ping for
# all would go two round trips after the last answer, and those that wait for an association longest
# arrive after the later ones.
first_packets() { # FROM TO
	to=192.0.2.$(echo $hosts | tr ' ' '\n' | grep -nx $2 | cut -d: -f1)
	waiting=
	for each in 1 2 3 4 5; do
		ip netns exec $1 ping -n -c 1 -W 20 $to > /dev/null &
		waiting="$waiting $!"
		sleep 0.3
	done
	answered=0
	for ping in $waiting; do
		! wait $ping || answered=$((answered + 1))
	done
	echo "RESULT ping-$1-$2 $answered"
}
for pair in $(cat "$work/pings"); do
	first_packets $(echo $pair | tr ',' ' ')
done

# BGP's port, to a reflector that its supervisors know.
if [ -e "$work/bgp" ]; then
	cat > /run/listen <<-END
		import socket, sys
		family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
		s = socket.create_server((sys.argv[1], 179), family=family); c, a = s.accept(); c.sendall(c.recv(9))
	END
	cat > /run/call <<-END
		import socket, sys, time
		for attempt in range(600):
		    try:
		        c = socket.create_connection((sys.argv[1], 179), 30)
		        break
		    except ConnectionRefusedError:  # nobody listens there yet
		        time.sleep(0.1)
		c.sendall(b"hello"); print("RESULT bgp", c.recv(9).decode())
	END
	ip netns exec rr python3 /run/listen $(address_of rr) &
	ip netns exec a python3 /run/call $(address_of rr) || echo "RESULT bgp nothing"
fi

# Nothing but IKE, ESP and what makes hosts find one another (charon's multicast plugin joins groups by IGMP
# and MLD). What comes later is counted by its ports only: pieces of ESP in UDP have none.
sleep 0.5
cp /run/capture /run/first
count() { tcpdump -nr $1 "$2" 2> /dev/null | wc -l; }
esp='esp or udp port 4500'
echo "RESULT other $(count /run/first "not ($esp or udp port 500 or arp or icmp or icmp6 or ip6 proto 0 or igmp)")"
echo "RESULT esp $(count /run/first "$esp")"
for host in $hosts; do
	swanctl --list-sas --uri unix:///run/$host/vici > /run/associations 2> /dev/null && count=$(grep -c INSTALLED /run/associations || true) || count=unknown
	echo "RESULT sas-$host $count"
done

# The largest packet that is not fragmented outside, and one of a byte more.
fragments() {
	ip netns exec a awk '
		/^Ip6FragCreates/ { print $2 }
		/^Ip:/ && column { print $column }
		/^Ip:/ { for (i = 1; i <= NF; i++) if ($i == "FragCreates") column = i }' /proc/net/$statistics
}
large() { # BYTES PATIENCE: with a tunnel of this MTU, whether a packet of its size is answered, and how many
# fragments it took on its way
	for host in a b; do
		ip -n $host link set vx mtu $1
		# what was learnt of other sizes
		ip -n $host route flush cache
		ip -n $host -6 route flush cache
	done
	before=$(fragments)
	ip netns exec a ping -n -M do -c 1 -W $2 -s $(($1 - 28)) 192.0.2.2 > /dev/null 2>&1 && answer=answered || answer=silence
	echo $answer,$(($(fragments) - before))
}
for size in $(cat "$work/sizes" 2> /dev/null); do
	underlay=${size%,*} tunnel=${size#*,}
	for host in a b; do ip -n $host link set u mtu $underlay; done
	exact=$(large $tunnel 5)
	echo "RESULT size-$underlay-$tunnel $exact,$(large $((tunnel + 1)) 2)"
done

# A charon that is gone takes its policies along: what then leaves is the packet filter's business,
# and is not looked at here.
sleep 0.5
kill -INT $tcpdump
wait $tcpdump || true
echo "RESULT cleartext $(count /run/capture 'udp port 4789 or tcp port 179')"
if [ -e "$work/verbose" ]; then
	for host in $hosts; do cat /run/$host/loaded /run/$host/log; swanctl --list-sas --uri unix:///run/$host/vici; done
fi
