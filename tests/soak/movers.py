"""Who disturbs pairs that carry traffic: what costs frames does so in a window, what costs none in none."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.soak.actors import Actor
from tests.soak.stage import Wrong
from tests.soak.traffic import Flows, Totals, ping, transfer
from tests.soak.world import Pair, Room, World

RATE = 100.0  # datagrams a second of a flow: 1,000 wait in a queue, so a restart may take ten seconds
SMALL_MTU = 576  # some of the datagrams are longer


class Busy(Actor):
    """A pair that meets all that costs frames: ends down, carriers flipped, moves, small MTUs, deletion.

    far [fb] ===== [fa] near, or there: fa moves between the two, and each of the three namespaces sends.
    """

    pauses_s = (0.5, 2.0)

    def __init__(self, world: World, flows: Flows, seed: str, mark: int) -> None:
        """Make the pair, and let traffic flow."""
        super().__init__(world, flows, seed)
        self.near, self.far, self.there = (world.room(f"b{mark}{tag}") for tag in "nft")
        for side, room in enumerate((self.near, self.far, self.there)):
            flows.add(room, mark, side, RATE)
        flows.go()
        self.pair = Pair(self.near.name, f"fa{mark}", self.far.name, f"fb{mark}", mark=mark)
        self.mark = mark
        with self.windows.open(mark, "not yet made"):
            self.make()

    def make(self) -> None:
        self.pair.near = self.near.name
        if not self.world.make(self.pair, {}):
            raise Wrong(f"no namespace for {self.pair}, and both are there")
        self.flowing()

    def act(self) -> None:
        """Disturb the pair, and await its traffic."""
        every = (
            self.end_down, self.end_down_by_api, self.carrier_flipped, self.moved, self.moved_by_api, self.mtu_small,
            self.deleted,
        )  # fmt: skip
        disturb: Callable[[], None] = self.dice.choice(every)
        why = disturb.__name__.replace("_", " ")
        self.stage.did(why, self.pair.near_name)
        with self.windows.open(self.mark, why):
            disturb()
            self.flowing()

    def flowing(self) -> None:
        """Wait until what is sent from now on arrives, both ways.

        On a busy machine the daemon may hear of a moment's change after it, and close and open its gates then. So it
        is asked for what is so already: it answers when it has caught up.
        """
        self.world.change(self.pair, {"up": True, "peer": {"up": True}})
        now = time.monotonic_ns()
        sides = (0 if self.pair.near == self.near.name else 2, 1)
        last: Totals = {}

        def flows() -> bool:
            last.update(self.flows.totals())
            return all(last[self.mark, side].heard_ns > now for side in sides)

        try:
            self.stage.wait(flows, f"traffic of pair {self.mark}")
        except Wrong as error:
            raise Wrong(f"{error}\n{self.world.get(f'/v1/pairs/{self.pair.id}')}\n{last}") from error

    def room(self) -> Room:
        """Where the near end is."""
        return self.near if self.pair.near == self.near.name else self.there

    def must(self, room: Room, line: str) -> None:
        if words := self.world.ip(room, line):
            raise Wrong(words)

    # What may happen to it

    def end_down(self) -> None:
        room, name = self.dice.choice(((self.room(), self.pair.near_name), (self.far, self.pair.far_name)))
        self.must(room, f"link set {name} down")
        self.stage.pause(self.dice.uniform(0, 0.3))
        self.must(room, f"link set {name} up")

    def end_down_by_api(self) -> None:
        self.world.change(self.pair, {"up": False} if self.dice.random() < 0.5 else {"peer": {"up": False}})
        self.world.change(self.pair, {"up": True, "peer": {"up": True}})

    def carrier_flipped(self) -> None:
        """Of which the kernel tells, and acts on it, up to a second later."""
        before = self.far.links()[0].carrier_changes
        self.must(self.far, f"link set {self.pair.far_name} carrier off")
        undone = lambda: self.far.links()[0].carrier_changes >= before + 2  # noqa: E731
        self.stage.wait(undone, f"the carrier of {self.pair.far_name} is set right")

    def moved(self) -> None:
        target = self.there if self.pair.near == self.near.name else self.near
        self.must(self.room(), f"link set {self.pair.near_name} netns {target.path}")
        self.pair.near = target.name
        self.must(target, f"link set {self.pair.near_name} up")

    def moved_by_api(self) -> None:
        target = self.there if self.pair.near == self.near.name else self.near
        self.world.change(self.pair, {"netns": target.name, "up": True})
        self.pair.near = target.name

    def mtu_small(self) -> None:
        self.must(self.far, f"link set {self.pair.far_name} mtu {SMALL_MTU}")
        self.stage.pause(self.dice.uniform(0, 0.3))
        self.must(self.far, f"link set {self.pair.far_name} mtu 1500")

    def deleted(self) -> None:
        if self.dice.random() < 0.5:
            self.world.delete(self.pair)
        else:
            self.must(self.far, f"link del {self.pair.far_name}")
            self.wait_no_pair(self.pair)
        self.make()


class Steady(Actor):
    """A pair that loses nothing: what is done to it costs a veth nothing either."""

    pauses_s = (0.3, 1.0)

    def __init__(self, world: World, flows: Flows, seed: str, mark: int) -> None:
        """Make the pair, and then let traffic flow."""
        super().__init__(world, flows, seed)
        self.mark = mark
        self.near, self.far = (world.room(f"s{mark}{tag}") for tag in "nf")
        self.pair = Pair(self.near.name, f"sa{mark}", self.far.name, f"sb{mark}", mark=mark)
        world.make(self.pair, {})
        world.change(self.pair, {"up": True, "peer": {"up": True}})
        world.stage.wait(self.carrier, f"the carrier of pair {mark}")
        for side, room in enumerate((self.near, self.far)):
            flows.add(room, mark, side, RATE)
        flows.go()

    def carrier(self) -> bool:
        return all(link.operstate == "UP" for room in (self.near, self.far) for link in room.links())

    def act(self) -> None:
        """Change something of which the traffic takes no notice."""
        match self.dice.randrange(7):
            case 0:
                self.told("gro of a pair", {"gro": self.dice.choice((True, False, "default"))})
            case 1:
                body = {"gro": self.dice.random() < 0.5}
                self.stage.did("gro of all pairs", str(body))
                self.world.surely("PATCH", "/v1/engine", body)
            case 2:
                self.told("MTU", {"peer": {"mtu": self.dice.choice((1500, 4000, 9000))}})
            case 3:
                self.told("queue length", {"txqueuelen": self.dice.choice((0, 1, 1000, 2000))})
            case 4:
                self.told("alias", {"alias": self.dice.choice(("", "a user's")), "peer": {"group": 7}})
            case 5:
                self.renamed()
            case _:
                if self.world.engine == "native":
                    spin = {"spin_us": self.dice.choice((0, 50, 200))}
                    self.stage.did("spin", str(spin))
                    self.world.surely("PATCH", "/v1/engine", spin)

    def told(self, kind: str, body: dict[str, object]) -> None:
        self.stage.did(kind, f"{self.pair.near_name} {body}")
        self.world.change(self.pair, body)

    def renamed(self) -> None:
        """And back: by `ip`, while it is up."""
        name = self.pair.far_name
        self.stage.did("renamed", name)
        for old, new in ((name, f"{name}x"), (f"{name}x", name)):
            if words := self.world.ip(self.far, f"link set {old} name {new}"):
                raise Wrong(words)


class Caller(Actor):
    """A pair with real sockets: TCP transfers with their hashes, and pings."""

    pauses_s = (0.1, 0.5)
    stops = False  # it changes nothing

    def __init__(self, world: World, flows: Flows, seed: str) -> None:
        """Make the pair with its addresses."""
        super().__init__(world, flows, seed)
        self.near, self.far = world.room("tn"), world.room("tf")
        self.pair = Pair(self.near.name, "ta", self.far.name, "tb")
        world.make(self.pair, {})
        macs = {link.name: link.address for room in (self.near, self.far) for link in room.links()}
        for room, name, ip, peer, peer_ip in (
            (self.near, "ta", "10.8.0.1", "tb", "10.8.0.2"),
            (self.far, "tb", "10.8.0.2", "ta", "10.8.0.1"),
        ):
            # ARP gives up after three seconds, which a restart may take
            for line in (f"addr add {ip}/24 dev {name}", f"neigh add {peer_ip} lladdr {macs[peer]} dev {name}"):
                if words := world.ip(room, line):
                    raise Wrong(words)
        world.change(self.pair, {"up": True, "peer": {"up": True}})
        self.transferred = 0

    def act(self) -> None:
        """Transfer, or ping."""
        if self.dice.random() < 0.5:
            size = self.dice.randint(1, 64) << 16
            self.stage.did("TCP transfer", f"{size} bytes")
            transfer((self.near, self.far), "10.8.0.2", size, self.dice.getrandbits(32), self.stage)
            self.transferred += size
            return
        began = time.monotonic_ns()
        self.stage.did("ping")
        sent, back = ping(self.near, "10.8.0.2", 10)
        if back < sent and not self.windows.killed(began):
            raise Wrong(f"ping: {back} of {sent} came back, and nobody killed the daemon")
        self.windows.costs["killed (pings)"] += sent - back
