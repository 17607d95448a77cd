#!/bin/sh
# Two hosts and a router between them, a namespace each: made in the router's, the hosts' ends moved at birth.
set -eu
h1=h1-$1 h2=h2-$1 r=r-$1
trap 'ip netns del $h1; ip netns del $h2; ip netns del $r' EXIT
for ns in $h1 $h2 $r; do
  ip netns add "$ns"
  ip -netns "$ns" link set dev lo up
done
ip -n "$r" link add r1 type veth peer name eth0 netns "$h1"
ip link add r2 netns "$r" type veth peer name eth0 netns "$h2"
for n in 1 2; do
  ns=h$n-$1
  ip -n "$r" addr add "10.0.$n.1/24" dev r$n
  ip -n "$r" link set r$n up
  ip -n "$ns" addr add "10.0.$n.2/24" dev eth0
  ip -n "$ns" link set dev eth0 mtu 1400 up
  ip -n "$ns" route add default via "10.0.$n.1"
done
ip netns exec "$r" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
ip netns exec "$h1" ping -c 2 -i 0.2 -w 20 10.0.2.2 | grep -o '2 received'
ip netns exec "$h1" ping -c 1 -w 20 -M 'do' -s 1372 10.0.2.2 | grep -o '1 received'
ip -n "$r" -br link show | sed 's/@.*//' | cut -d ' ' -f 1 | sort
ip -n "$r" link show type veth | grep -c 'link/ether'
ip -n "$r" link del r1
ip -n "$h1" link show eth0 2>&1 || echo "eth0 is gone"
