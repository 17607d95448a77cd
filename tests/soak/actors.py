"""Who makes pairs and deletes them, in every way: by the API, by `ip`, with their namespace, by reload."""

from __future__ import annotations

import random
import threading
import traceback
from contextlib import nullcontext
from itertools import count

from tests.soak.stage import Over, Wrong
from tests.soak.traffic import Flows
from tests.soak.world import Pair, Room, World

HELD = 8  # pairs that a maker keeps
DECLARED = 5
MARK = 31  # of the declared pairs, which have no traffic of their own
ACTIVE = ("systemctl", "is-active", "--quiet", "vethd.service")

_numbers = count(1)


class Actor(threading.Thread):
    """Does something now and then, until the run is over; what it finds wrong ends the run."""

    pauses_s = (0.05, 0.3)
    stops = True  # for a stocktaking

    def __init__(self, world: World, flows: Flows, seed: str) -> None:
        """seed decides what it does, not when."""
        super().__init__(name=f"{type(self).__name__} {seed}")
        self.world, self.stage, self.windows, self.flows = world, world.stage, world.windows, flows
        self.dice = random.Random(seed)

    def run(self) -> None:
        """Act, and pause, and act."""
        try:
            while True:
                self.stage.pause(self.dice.uniform(*self.pauses_s))
                with self.stage.acting() if self.stops else nullcontext():
                    self.act()
        except Over:
            return
        except Wrong as error:
            self.stage.fail(f"{self.name}: {error}")
        except BaseException:  # noqa: BLE001 - a fault of the soak's own ends it, too
            self.stage.fail(f"{self.name}: {traceback.format_exc()}")

    def act(self) -> None:
        """Do one thing, to its end."""
        raise NotImplementedError

    def wait_no_pair(self, pair: Pair) -> None:
        """Wait until a pair is gone whose end was: from the API and from its namespaces."""

        def gone() -> bool:
            ids = {one["id"] for one in self.world.get("/v1/pairs")}
            rooms = {room.name: room for room in self.world.every_room()}
            names = {(place, name) for place, name in pair.ends() if place in rooms and name in rooms[place].names()}
            return pair.id not in ids and not names

        self.stage.wait(gone, f"{pair} is gone")
        self.world.gone(pair)


class Maker(Actor):
    """Makes run-time pairs of all kinds between shared namespaces, and deletes them by the API or by `ip`."""

    def __init__(self, world: World, flows: Flows, seed: str, rooms: tuple[Room, Room]) -> None:
        """The two namespaces are shared with others."""
        super().__init__(world, flows, seed)
        self.rooms = rooms
        self.held: list[Pair] = []

    def act(self) -> None:
        """Make a pair, or delete one."""
        if len(self.held) < self.dice.randint(0, HELD):
            self.make()
        elif self.held:
            self.unmake(self.held.pop(self.dice.randrange(len(self.held))))

    def make(self) -> None:
        number = next(_numbers)
        near, far = self.dice.sample(self.rooms, 2)
        pair = Pair(near.name, f"m{number}a", far.name, f"m{number}b")
        queues = self.dice.choice((1, 1, 1, 2, 3))
        spec = {"queues": queues, "mtu": self.dice.choice((1500, 9000)), "gro": self.dice.choice((True, False))}
        self.stage.did("pair made", f"{pair.near_name} {spec}")
        if not self.world.make(pair, {**spec, "peer": {"queues": queues}}):
            raise Wrong(f"no namespace for {pair}, and both are there")
        if self.dice.random() < 0.7:
            self.world.change(pair, {"up": True, "peer": {"up": True}})
        self.held.append(pair)

    def unmake(self, pair: Pair) -> None:
        room = {room.name: room for room in self.rooms}
        match self.dice.randrange(3):
            case 0:
                self.stage.did("pair deleted by the API", pair.near_name)
                self.world.delete(pair)
            case 1:
                self.stage.did("pair deleted by ip", pair.near_name)
                self.must(room[pair.near], f"link del {pair.near_name}")
                self.wait_no_pair(pair)
            case _:
                self.stage.did("pair deleted by ip", pair.far_name)
                self.must(room[pair.far], f"link del {pair.far_name}")
                self.wait_no_pair(pair)

    def must(self, room: Room, line: str) -> None:
        if words := self.world.ip(room, line):
            raise Wrong(words)


class Undertaker(Actor):
    """Deletes namespaces: under pairs that carry traffic, and under pairs that are just being made."""

    pauses_s = (0.3, 1.0)

    def __init__(self, world: World, flows: Flows, seed: str, home: Room) -> None:
        """What survives is in home, where somebody sends."""
        super().__init__(world, flows, seed)
        self.home = home

    def act(self) -> None:
        """Make a namespace, a pair into it, and delete the namespace."""
        number = next(_numbers)
        doomed = self.world.room(f"d{number}")
        pair = Pair(self.home.name, f"d{number}a", doomed.name, f"d{number}b")
        at_once = self.dice.random() < 0.3
        self.stage.did("namespace deleted at once" if at_once else "namespace deleted", doomed.name)
        if at_once:
            delay = self.dice.uniform(0, 0.03)
            other = threading.Timer(delay, self.world.leave, (doomed,))
            other.start()
            made = self.world.make(pair, {})
            other.join()
        else:
            made = self.world.make(pair, {})
            if not made:
                raise Wrong(f"no namespace for {pair}, and both are there")
            self.world.change(pair, {"up": True, "peer": {"up": True}})
            self.world.leave(doomed)
        if made:
            self.wait_no_pair(pair)


class Declarer(Actor):
    """Rewrites the config and has it read again; now and then a declared pair's namespace goes, and comes back."""

    pauses_s = (0.5, 2.0)

    def __init__(self, world: World, flows: Flows, seed: str, home: Room) -> None:
        """Declared pairs are between home and a namespace of their own."""
        super().__init__(world, flows, seed)
        self.home = home
        self.far = world.room("declared")
        self.declared: dict[str, Pair] = {}

    def act(self) -> None:
        """Reload, or take the namespace away for a moment."""
        if self.declared and self.dice.random() < 0.25:
            self.bereave()
        else:
            self.reload()

    def reload(self) -> None:
        numbers = sorted(self.dice.sample(range(DECLARED), self.dice.randint(0, DECLARED)))
        self.stage.did("reload", str(numbers))
        with self.windows.open(MARK, "declared"):
            self.reread(numbers)

    def reread(self, numbers: list[int]) -> None:
        names = (self.home.name, self.far.name)
        wanted = {f"c{n}a": Pair(names[0], f"c{n}a", names[1], f"c{n}b", mark=MARK, source="config") for n in numbers}
        mtu = self.dice.choice((1500, 2000))
        self.world.configure("".join(_table(pair, mtu) for pair in wanted.values()))
        by_systemd = self.dice.random() < 0.5
        # systemd refuses to reload what is dead; and a reload of what is just starting is done, it says, with the start
        running = self.world.pid() if by_systemd and self.world.box.run(*ACTIVE).returncode == 0 else 0
        reloaded = running and self.world.box.run("systemctl", "reload", "vethd.service").returncode == 0
        if not (reloaded and self.world.pid() == running) and self.world.surely("POST", "/v1/reload")[0] != 200:
            raise Wrong("a config that is right was refused")
        for name in self.declared.keys() - wanted.keys():
            self.world.gone(self.declared[name])
        self.declared = {name: self.declared.get(name, pair) for name, pair in wanted.items()}
        for name, pair in self.declared.items():
            self.world.pairs[name] = pair
        self.settled("alive")

    def bereave(self) -> None:
        self.stage.did("declared namespace deleted", self.far.name)
        with self.windows.open(MARK, "declared namespace deleted"):
            for pair in self.declared.values():
                self.world.gone(pair)
            self.world.leave(self.far)
            self.settled("waiting")
            self.far = self.world.room(self.far.name)
            self.world.pairs.update(self.declared)
            self.settled("alive")

    def settled(self, state: str) -> None:
        """Wait until the daemon's declared pairs are ours, and so."""

        def settled() -> bool:
            found = [pair for pair in self.world.get("/v1/pairs") if pair["source"] == "config"]
            for one in found:
                if one["spec"]["name"] in self.declared:
                    self.declared[one["spec"]["name"]].id = one["id"]
            told[:] = sorted((pair["spec"]["name"], pair["state"], pair["reason"]) for pair in found)
            return [one[:2] for one in told] == [(name, state) for name in sorted(self.declared)]

        told: list[tuple[str, str, str]] = []
        try:
            self.stage.wait(settled, f"the declared pairs {sorted(self.declared)} are {state}")
        except Wrong as error:
            raise Wrong(f"{error}; told: {told}") from error


def _table(pair: Pair, mtu: int) -> str:
    return (
        f'[[pair]]\nname = "{pair.near_name}"\nnetns = "{pair.near}"\nmtu = {mtu}\nup = true\n'
        f'[pair.peer]\nname = "{pair.far_name}"\nnetns = "{pair.far}"\nmtu = {mtu}\nup = true\n'
    )
