"""A sending TAP's one counter told apart: the parts always add up, and each frame lands where it belongs."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from vethd.model.drops import KernelDrop
from vethd.model.kernel_drops import DropSample, KernelDrops


class Happening(NamedTuple):
    """What a TAP goes through between two samples: a change of carrier, then frames of each fate."""

    flip: bool
    oversize: int
    sent: int  # while there is a carrier: passed on to the queue; without one: dropped
    queue_full: int  # of the sent ones, no more than these found no room
    read: int  # of those that wait, no more than these are read
    sampled: bool


COUNTS = st.integers(0, 50)
HAPPENINGS = st.lists(st.builds(Happening, st.booleans(), COUNTS, COUNTS, COUNTS, COUNTS, st.booleans()), max_size=30)


class Tap:
    """A TAP that knows the truth."""

    def __init__(self) -> None:
        self.carrier = False
        self.epoch = self.oversize = self.no_carrier = self.queue_full = self.passed = self.read = 0

    def live(self, happening: Happening) -> None:
        if happening.flip:
            self.carrier = not self.carrier
            self.epoch += 1
        if self.carrier:
            full = min(happening.queue_full, happening.sent)
            self.oversize += happening.oversize  # dev_hard_start_xmit() is not reached without a carrier
            self.passed += happening.sent
            self.queue_full += full
        else:
            self.no_carrier += happening.sent
        self.read += min(happening.read, self.passed - self.queue_full - self.read)

    @property
    def dry(self) -> bool:
        return self.read == self.passed - self.queue_full

    @property
    def tx_dropped(self) -> int:
        return self.oversize + self.no_carrier + self.queue_full

    def sample(self, *, filtered: bool) -> DropSample:
        oversize, passed = (self.oversize, self.passed) if filtered else (None, None)
        return DropSample(self.tx_dropped, oversize, passed, self.read, self.dry, self.carrier, self.epoch)


def total(drops: KernelDrops) -> int:
    parts = drops.by_reason()
    assert min(parts.values()) >= 0
    return sum(parts.values())


@given(HAPPENINGS)
def test_with_a_filter_all_is_exact_once_the_queue_is_dry(happenings: list[Happening]) -> None:
    tap, drops = Tap(), KernelDrops()
    for happening in happenings:
        tap.live(happening)
        if happening.sampled and tap.dry:
            drops.account(tap.sample(filtered=True))
            assert drops == KernelDrops(tap.oversize, tap.no_carrier, tap.queue_full)


@given(HAPPENINGS)
def test_with_a_filter_it_adds_up_while_the_queue_is_busy(happenings: list[Happening]) -> None:
    tap, drops = Tap(), KernelDrops()
    for happening in happenings:
        tap.live(happening)
        if happening.sampled:
            drops.account(tap.sample(filtered=True))
            assert total(drops) == tap.tx_dropped
            assert drops.oversize == tap.oversize
            assert drops.unknown == 0


@given(HAPPENINGS)
def test_without_a_filter_nothing_is_claimed_that_is_not_so(happenings: list[Happening]) -> None:
    """Oversize is not seen; the rest is a lower bound, as what spans a change of carrier stays unknown."""
    tap, drops = Tap(), KernelDrops()
    for happening in (it._replace(oversize=0) for it in happenings):
        tap.live(happening)
        if happening.sampled:
            drops.account(tap.sample(filtered=False))
            assert total(drops) == tap.tx_dropped
            assert drops.oversize == 0
            assert drops.no_carrier <= tap.no_carrier
            assert drops.queue_full <= tap.queue_full


@given(HAPPENINGS)
def test_without_a_filter_a_sample_at_each_end_of_an_epoch_leaves_nothing_unknown(happenings: list[Happening]) -> None:
    tap, drops = Tap(), KernelDrops()
    for happening in (it._replace(oversize=0) for it in happenings):
        tap.live(happening._replace(sent=0))
        drops.account(tap.sample(filtered=False))
        tap.live(happening._replace(flip=False))
        drops.account(tap.sample(filtered=False))
        assert drops.by_reason() == {
            "kernel_oversize": 0,
            "kernel_no_carrier": tap.no_carrier,
            "kernel_queue_full": tap.queue_full,
            "kernel_unknown": 0,
        }


SAMPLES = st.builds(
    DropSample,
    tx_dropped=COUNTS,
    oversize=st.none() | COUNTS,
    passed=st.none() | COUNTS,
    read=COUNTS,
    dry=st.booleans(),
    carrier=st.booleans(),
    epoch=st.integers(0, 5),
)


@given(st.lists(SAMPLES, max_size=20))
def test_it_adds_up_and_never_goes_back_whatever_the_samples(samples: list[DropSample]) -> None:
    """The two sources are read one after the other, so a filter may be ahead of tx_dropped, which only grows."""
    drops = KernelDrops()
    highest = 0
    before = drops.by_reason()
    filtered = bool(samples) and samples[0].oversize is not None
    for sample in samples:
        highest += sample.tx_dropped
        counts = (sample.oversize or 0, sample.passed or 0) if filtered else (None, None)
        drops.account(sample._replace(tx_dropped=highest, oversize=counts[0], passed=counts[1]))
        assert total(drops) == highest
        now = drops.by_reason()
        assert all(now[reason] >= count for reason, count in before.items()), (before, now)
        before = now


def test_names() -> None:
    assert set(KernelDrops().by_reason()) == {reason.value for reason in KernelDrop}
