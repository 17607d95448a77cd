"""Other users of vethd as a service: the sandbox lets it see whose a namespace is, and a restart forgets no owner."""

from __future__ import annotations

import pytest

from tests.lib.lab import End, Wire
from tests.lib.others import ALICE, BOB, Other
from tests.lib.service import ACTIVE_S, CONTROL, Service
from tests.lib.sockets import ping
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture"]  # pytest knows it as systemd_box


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_pairs_stay_their_owners(systemd_box: SystemdBox, how: str) -> None:
    service = Service(systemd_box)
    service.configure("quota = 1\n")
    service.start()
    socket = systemd_box.path(CONTROL)
    assert socket.stat().st_mode & 0o777 == 0o666
    with Other(socket, ALICE) as alice, Other(socket, BOB) as bob:
        a, b = alice.netns(), alice.netns()
        status, pair = alice.pair(a, b)
        assert (status, pair["owner"]) == (201, ALICE)
        before = service.pid
        if how == "restart":
            systemd_box.output("systemctl", "restart", "vethd.service")
        else:
            systemd_box.output("kill", "-KILL", str(before))
        wait_until(lambda: service.pid not in (0, before) and service.state == "active", ACTIVE_S)
        assert [one["owner"] for one in service.get("/v1/pairs")] == [ALICE]
        status, body = alice.pair(a, b, name="vc", peer={"name": "vd", "netns": "fd:1"})
        assert (status, body["code"]) == (403, "EDQUOT")
        assert bob.http("DELETE", f"/v1/pairs/{pair['id']}")[0] == 403
        assert bob.pair(bob.netns(), bob.netns())[0] == 201
        wire = Wire(End(a, "va"), End(b, "vb"))
        wire.up()
        near, far = wire.addresses()
        ping(a, near, b, far)
        assert alice.http("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204
        wait_until(lambda: a.names() | b.names() == set())
