"""What holds for all pairs and may change while frames flow: coalescing, where a pair does not say, and the spin.

A pair's wire is tuned by what its spec says and, for the rest, by what stands here. Nothing of it outlives the process:
the next one begins with its config's words.
"""

from __future__ import annotations

import errno

from vethd.datapath.engine import SpinningEngine, Wire
from vethd.datapath.engines import Picked
from vethd.model.api import EngineChange, EngineInfo
from vethd.model.errors import VethError
from vethd.model.spec import PairSpec, RxChecksum


class Tuning:
    """The settings of one engine and its wires."""

    def __init__(self, picked: Picked, *, gro: bool) -> None:
        """Begin with gro for pairs that do not say; what the engine does itself, it knows."""
        self.engine, self._fallback = picked
        self._gro = gro

    def rx_checksum(self, spec: PairSpec) -> RxChecksum:
        """Return what holds for a pair."""
        return spec.rx_checksum or "verify"

    def gro(self, spec: PairSpec) -> bool:
        """Return whether a pair's frames are coalesced."""
        return self._gro if spec.gro is None else spec.gro

    def tune(self, wire: Wire, spec: PairSpec, *, uso: bool) -> None:
        """Have a pair's wire do as its spec says, and as its devices can: uso is kernel.tun.Tap.uso of both."""
        wire.set_trust(trust=self.rx_checksum(spec) == "trust")
        wire.set_gro(gro=self.gro(spec), udp=uso)

    def info(self) -> EngineInfo:
        """Describe the engine."""
        spinning = self.engine if isinstance(self.engine, SpinningEngine) else None
        return EngineInfo(
            name=self.engine.name,
            workers=spinning.workers if spinning else 0,
            spin_us=spinning.spin_us if spinning else None,
            gro=self._gro,
            fallback=self._fallback,
        )

    def change(self, change: EngineChange) -> list[str]:
        """Take what is said, all of it or nothing, and return what is another now, in words; the wires are not tuned.

        Raises VethError EOPNOTSUPP for a spin where the engine has none.
        """
        changed = []
        if change.spin_us is not None:
            if not isinstance(self.engine, SpinningEngine):
                raise VethError(errno.EOPNOTSUPP, "engine", reason=f"the {self.engine.name} engine has no spin_us")
            if change.spin_us != self.engine.spin_us:
                self.engine.set_spin(change.spin_us)
                changed.append(f"spin_us {change.spin_us}")
        if change.gro is not None and change.gro != self._gro:
            self._gro = change.gro
            changed.append(f"gro {'on' if change.gro else 'off'}")
        return changed
