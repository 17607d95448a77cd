"""The two errors: what they say, and that they survive a process boundary."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.model.errors import ConfigError, VethError


def test_a_refusal_reads_as_one_sentence() -> None:
    assert str(VethError(errno.EEXIST, "newlink", "va")) == f"newlink va: {os.strerror(errno.EEXIST)}"
    assert str(VethError(errno.ENOENT, "dellink")) == f"dellink: {os.strerror(errno.ENOENT)}"
    assert str(VethError(errno.EINVAL, "newlink", "va", "mtu 5 is too small")) == "newlink va: mtu 5 is too small"


@pytest.mark.parametrize(
    ("number", "symbol"),
    [
        (errno.EINVAL, "EINVAL"),
        (errno.ERANGE, "ERANGE"),
        (errno.EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (errno.ENOTCONN, "ENOTCONN"),
        (errno.EEXIST, "EEXIST"),
        (errno.EBUSY, "EBUSY"),
        (errno.ENOTUNIQ, "ENOTUNIQ"),
        (errno.ENODEV, "ENODEV"),
        (errno.ESRCH, "ESRCH"),
        (errno.EPERM, "EPERM"),
        (errno.E2BIG, "E2BIG"),
        (errno.EAGAIN, "EAGAIN"),
        (errno.EOPNOTSUPP, "EOPNOTSUPP"),
        (4095, "E4095"),
    ],
)
def test_code_is_the_symbol_that_the_api_documents(number: int, symbol: str) -> None:
    assert VethError(number, "newlink").code == symbol


@given(st.integers(0, 4095), st.text(), st.text(), st.text())
def test_a_refusal_keeps_its_parts(number: int, op: str, ifname: str, reason: str) -> None:
    error = VethError(number, op, ifname, reason)
    assert (error.errno, error.op, error.ifname) == (number, op, ifname)
    assert error.reason == (reason or os.strerror(number))
    assert str(error).endswith(error.reason)
    assert error.code.startswith("E")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (vars(again), str(again), again.code) == (vars(error), str(error), error.code)


def test_a_refusal_is_no_oserror() -> None:
    """A caller that means the kernel's own errors must not catch ours by accident, and the reverse."""
    assert not issubclass(VethError, OSError)
    assert not issubclass(ConfigError, (OSError, VethError))


def test_a_configuration_error_names_the_place() -> None:
    assert str(ConfigError("/etc/v.toml", "pair[0].mtu", "is 5")) == "/etc/v.toml: pair[0].mtu: is 5"
    assert str(ConfigError("/etc/v.toml", "", "is no TOML")) == "/etc/v.toml: is no TOML"


@given(st.text(), st.text(), st.text())
def test_a_configuration_error_keeps_its_parts(file: str, key: str, reason: str) -> None:
    error = ConfigError(file, key, reason)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert vars(again) == {"file": file, "key": key, "reason": reason}
    assert str(again) == str(error)
