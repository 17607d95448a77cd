#!/bin/sh
# Three hosts on a bridge, made by one batch; one of them is taken away and comes again.
set -eu
sw=sw-$1
trap 'for ns in $sw n1-$1 n2-$1 n3-$1; do ip netns del $ns; done' EXIT
for ns in "$sw" n1-"$1" n2-"$1" n3-"$1"; do ip netns add "$ns"; done
ip -n "$sw" -batch - <<B
link add name br0 type bridge
link set dev br0 up
# a port each
link add name p1 type veth peer name eth0 netns n1-$1
link add name p2 type veth peer name eth0 address 02:00:00:00:00:12 netns n2-$1
link add name p3 mtu 1400 master br0 type veth \\
  peer name eth0 netns n3-$1
link set dev p1 master br0
link set p2 master br0
link set p1 up
link set p2 up
link set p3 up
B
for n in 1 2 3; do
  ip -netns n$n-"$1" -batch - <<B
address add 10.1.0.$n/24 dev eth0
link set eth0 up
B
done
reach() { ip netns exec n1-"$2" ping -c 1 -w 20 "10.1.0.$1" | grep -o '1 received'; }
reach 2 "$1"
reach 3 "$1"
ip -n "$sw" -j link show master br0 | tr , '\n' | grep -c '"ifname":"p'
ip -n "$sw" link del p2
ip -n "$sw" link add p2 master br0 up type veth peer netns n2-"$1" address 02:00:00:00:00:12 dev eth0
ip -n n2-"$1" addr add 10.1.0.2/24 dev eth0
ip -n n2-"$1" link set eth0 up
reach 2 "$1"
ip -force -n "$sw" -batch - <<B || echo "batch: $?"
link del nowhere
link del p1
link add p1 type veth peer name p2
B
ip -n "$sw" -d link show p2 | grep -o '^ *veth'
