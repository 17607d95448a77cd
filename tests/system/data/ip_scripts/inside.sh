#!/bin/sh
# Made from inside a namespace by a shell there, ends handed on by the PID of a process; mistakes told as ip tells them.
set -eu
left=l-$1 right=r-$1
trap 'kill $pid; ip netns del $left; ip netns del $right' EXIT
ip netns add "$left"
ip netns add "$right"
ip netns exec "$right" sleep 60 &
pid=$!
until [ "$(ip netns identify $pid)" = "$right" ]; do :; done
ip netns exec "$left" sh -eu -c '
  ip link add veth0 type veth peer name veth1
  ip link set veth1 netns '"$pid"'
  ip link add v%d type veth peer name eth%d netns '"$pid"'
  ip addr add 10.2.0.1/24 dev veth0
  ip link set veth0 up
  ip link add veth0 type veth || echo "status $?"
  ip link add x mtu 20 type veth || echo "status $?"
  ip link add x type veth peer name y up || echo "status $?"
  ip link add x nonsense y type veth || echo "status $?"
  ip link del x || echo "status $?"
' 2>&1
ip netns exec "$right" ip addr add 10.2.0.2/24 dev veth1
ip netns exec "$right" ip link set veth1 up
ip netns exec "$left" ping -c 1 -w 20 10.2.0.2 | grep -o '1 received'
ip netns exec "$left" ip -o link show type veth | cut -d : -f 2 | cut -d @ -f 1 | sort
ip netns exec "$right" ip -o link | cut -d : -f 2 | cut -d @ -f 1 | sort
ip netns exec "$right" ip link set dev eth0 name lan0
ip netns exec "$right" ip link delete lan0 type veth
ip -n "$left" link show v0 2>&1 || echo "v0 went, too"
