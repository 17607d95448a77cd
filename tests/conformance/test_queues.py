"""Queues: which frames of a pair with several keep their order, and which queue a device behind a pair takes.

    a: sender of 16 flows, each of whole and of fragmented datagrams -> va ==== four queues ==== vb -> receivers :b

Whole datagrams have the queue of their addresses and ports. Fragments have no ports, so all of two addresses' have one
queue, and their flow's whole datagrams in most cases another one. On veth the sender's CPU delivers every frame itself.
Kernel: tun_automq_select_queue(), flow_keys_dissector_symmetric; skb_tx_hash(), __get_xps_queue_idx().
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lib.lab import End, Lab, Wire
from tests.lib.sockets import udp_pair, udp_socket
from tests.lib.sysfs import in_sysfs
from vethd.model.spec import LinkSpec

QUEUES = 4
FLOWS = 16  # that all of them have the fragments' queue happens once in 4 ** 16
DATAGRAMS = 12  # of a flow: with their fragments, what all flows send fits into any one queue
MTU = 1500


@pytest.mark.parametrize("queues", [1, QUEUES])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_datagrams_of_a_flow(lab: Lab, queues: int, family: str) -> None:
    a, b = lab.netns("a", ipv6=True), lab.netns("b", ipv6=True)
    wire = lab.pair(a, b, LinkSpec(queues=queues), LinkSpec(queues=queues))
    wire.up()
    near, far = ("10.9.0.1", "10.9.0.2") if family == "ipv4" else ("fd09::1", "fd09::2")
    length = 24 if family == "ipv4" else 64
    wire.a.address(f"{near}/{length}")
    wire.b.address(f"{far}/{length}")
    with ExitStack() as stack:
        flows = [stack.enter_context(udp_pair(a, near, b, far)) for _ in range(FLOWS)]
        for left, right in flows:
            left.send(b"hello")
            assert right.recv(10) == b"hello"
        # what waits in the queues is read queue by queue
        with lab.backend.held():
            for number in range(DATAGRAMS):
                for left, _ in flows:
                    left.send(bytes([number]) + bytes(MTU if number % 3 == 2 else 100))
        came = [[right.recv(2 * MTU)[0] for _ in range(DATAGRAMS)] for _, right in flows]
    assert {tuple(n for n in numbers if n % 3 != 2) for numbers in came} == {(0, 1, 3, 4, 6, 7, 9, 10)}
    assert {tuple(n for n in numbers if n % 3 == 2) for numbers in came} == {(2, 5, 8, 11)}
    overtaken = any(numbers != sorted(numbers) for numbers in came)
    assert overtaken == (queues > 1 and lab.backend.differs("fragments-have-another-queue"))


@pytest.mark.parametrize("xps", [False, True])
def test_flows_that_a_router_sends_on(lab: Lab, live: Wire, xps: bool) -> None:
    """A device behind with several queues takes one by the flow; where the frame says by which it came, by that.

    Unless XPS says otherwise: all CPUs for every queue means that the flow decides.
    """
    s, c = live.b.netns, lab.netns("c")
    queues = f"numtxqueues {QUEUES} numrxqueues {QUEUES}"
    s.ip(f"link add so {queues} type veth peer name ci {queues} netns {c.name}", "link set so up")
    c.ip("link set ci up")
    live.addresses()
    so, ci = End(s, "so"), End(c, "ci")
    so.address("10.8.0.2/24")
    s.ip(f"neigh add 10.8.0.3 lladdr {ci.link.address} dev so")
    s.sysctl("net/ipv4/ip_forward", "1")
    live.a.netns.ip("route add default via 10.9.0.2")
    s.command("tc", "qdisc", "replace", "dev", "so", "root", "handle", "1:", "mq")
    for number in range(1, QUEUES + 1):
        s.command("tc", "qdisc", "replace", "dev", "so", "parent", f"1:{number}", "pfifo")
    if xps:
        all_cpus_to_all_queues(so)
    with ci.packet() as capture:
        for port in range(4 * FLOWS):
            with udp_socket(live.a.netns, "10.9.0.1") as sock:
                sock.sendto(b"x", ("10.8.0.3", 1000 + port))
        for _ in range(4 * FLOWS):
            capture.recv()
    shown = json.loads(s.command("tc", "-s", "-j", "qdisc", "show", "dev", "so"))
    used = sum(one["packets"] > 0 for one in shown if one["kind"] == "pfifo")
    assert used == (1 if lab.backend.differs("rx-queue-is-recorded") and not xps else QUEUES)


def all_cpus_to_all_queues(end: End) -> None:
    """Have any CPU send by any of the device's queues."""

    def write(net: Path) -> None:
        for queue in (net / end.name / "queues").glob("tx-*"):
            (queue / "xps_cpus").write_text(f"{(1 << (os.cpu_count() or 1)) - 1:x}")

    in_sysfs(end.netns, write)
