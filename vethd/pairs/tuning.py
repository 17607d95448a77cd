"""Settings for all pairs that may change while frames flow: the engine's own, and the defaults of gro and ring.

A pair's wire uses the values of its spec, and these defaults for the values that its spec leaves out. They are not
stored: the next process starts with the values of its config.
"""

from __future__ import annotations

import errno

from vethd.datapath.engine import ThreadedEngine, Wire
from vethd.datapath.engines import Picked
from vethd.model.api import EngineChange, EngineInfo
from vethd.model.errors import VethError
from vethd.model.spec import RING, LinkSpec, PairSpec, RxChecksum


class Tuning:
    """The settings of one engine and its wires."""

    def __init__(self, picked: Picked, *, gro: bool, ring: int = RING) -> None:
        """Take an engine, and gro and ring as defaults for pairs; the engine itself holds its own settings."""
        self.engine, self._fallback = picked
        self._gro = gro
        self._ring = ring

    def rx_checksum(self, spec: PairSpec) -> RxChecksum:
        """Return a pair's rx_checksum."""
        return spec.rx_checksum or "verify"

    def gro(self, spec: PairSpec) -> bool:
        """Return whether a pair's frames are coalesced."""
        return self._gro if spec.gro is None else spec.gro

    def ring(self, link: LinkSpec) -> int:
        """Return the length of an end's ring, in frames."""
        return link.ring or self._ring

    def of(self, spec: PairSpec) -> tuple[bool, int, int]:
        """Return a pair's settings that change() may change: its gro and its ends' rings."""
        return self.gro(spec), self.ring(spec.near_end()), self.ring(spec.far_end())

    def tune(self, wire: Wire, spec: PairSpec, *, uso: bool) -> None:
        """Apply the settings of a pair's spec to its wire; uso: both devices take UDP super-frames (Tap.uso)."""
        wire.set_trust(trust=self.rx_checksum(spec) == "trust")
        wire.set_gro(gro=self.gro(spec), udp=uso)

    def info(self) -> EngineInfo:
        """Describe the engine."""
        threaded = self.engine if isinstance(self.engine, ThreadedEngine) else None
        return EngineInfo(
            name=self.engine.name,
            workers=threaded.workers if threaded else 0,
            spin_us=threaded.spin_us if threaded else None,
            moderation_us=threaded.moderation_us if threaded else None,
            gro=self._gro,
            fallback=self._fallback,
            ring=self._ring,
        )

    def change(self, change: EngineChange) -> list[str]:
        """Apply every setting that change sets, or none; return each that differs as text. Does not tune the wires.

        Raises VethError EOPNOTSUPP for a setting that the engine does not have.
        """
        changed = []
        own = {key: value for key in ("spin_us", "moderation_us") if (value := getattr(change, key)) is not None}
        if own and not isinstance(self.engine, ThreadedEngine):
            raise VethError(errno.EOPNOTSUPP, "engine", reason=f"the {self.engine.name} engine has no {', '.join(own)}")
        if isinstance(self.engine, ThreadedEngine):
            before = {"spin_us": self.engine.spin_us, "moderation_us": self.engine.moderation_us}
            self.engine.set_times(**before | own)
            changed += [f"{key} {now}" for key, was in before.items() if (now := getattr(self.engine, key)) != was]
        if change.gro is not None and change.gro != self._gro:
            self._gro = change.gro
            changed.append(f"gro {'on' if change.gro else 'off'}")
        if change.ring is not None and change.ring != self._ring:
            self._ring = change.ring
            changed.append(f"ring {change.ring}")
        return changed
