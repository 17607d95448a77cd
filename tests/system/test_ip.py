"""vethd-ip as it is installed: what it shows, what it leaves to the real ip, and what it says with the daemon down."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.ip_door import Caller, Done
from tests.lib.lab import Lab
from tests.lib.site import Site
from tests.lib.wait import DEADLINE_S, readable
from vethd.clients.ip.install import MARK, find_real, install
from vethd.clients.single import InstallError

REAL = find_real()
SCRIPTS = sorted(Path(__file__).with_name("data").joinpath("ip_scripts").glob("*.sh"))


@pytest.fixture(scope="module")
def call(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return Caller(install(tmp_path_factory.mktemp("bin"), REAL), site.socket)


def test_nothing_is_made_by_the_kernel_where_the_grammar_errs(call: Caller, lab: Lab) -> None:
    """This kernel has veth; what the real ip is asked to object to, it cannot do."""
    netns = lab.netns()
    done = call(netns, "link add va vf 0 mac 02:00:00:00:00:01 mtu 65535 type veth peer name vb")
    assert (done.status, done.err[:26]) == (2, "Error: vethd: newlink va: ")
    assert call(netns, "link add va type veth peer name vb mtu x").status == 255
    assert netns.names() == set()


def test_programs_behind_it_see_nothing_of_it(call: Caller, lab: Lab) -> None:
    """Signals and environment are as they came: Python ignores SIGPIPE, and adds an LC_CTYPE in the C locale."""
    netns = lab.netns()
    look = ["netns", "exec", netns.name, "/bin/sh", "-c", "env; grep Sig /proc/self/status; ls /proc/self/fd"]
    for env in ({"PATH": "/usr/bin:/bin"}, {"PATH": "/usr/bin:/bin", "LC_CTYPE": "C.UTF-8"}):
        found, expected = (call.run(netns, program, *look, env=env).out for program in (str(call.ip), REAL))
        assert found == expected
        assert "SigIgn" in found


def test_batch_answers_line_by_line(call: Caller, lab: Lab) -> None:
    """Who writes a line into a pipe and waits for its answer gets it, before the next is written."""
    netns = lab.netns()
    argv = [str(call.ip), "-o", "-batch", "-"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=call.env)

    with netns.run(start) as batch:
        assert batch.stdin is not None
        assert batch.stdout is not None
        for line, answer in ((b"link show lo", b"1: lo"), (b"link add va type veth\nlink show va", b"va@veth0")):
            batch.stdin.write(line + b"\n")
            batch.stdin.flush()
            heard = b""
            while answer not in heard:
                assert readable(batch.stdout.fileno()), heard
                more = os.read(batch.stdout.fileno(), 1 << 16)
                assert more, heard
                heard += more
        batch.stdin.close()
        assert batch.wait(DEADLINE_S) == 0


class TestDown:
    """Without a daemon: one sentence, and what needs none goes on."""

    WORDS = re.compile(
        r"vethd-ip: vethd does not answer at (\S+): [^\n]+; this kernel has veth, too: \S+/ip makes its pairs\n"
    )

    @pytest.fixture(params=["absent", "stale"])
    def down(self, call: Caller, request: pytest.FixtureRequest, tmp_path: Path) -> Caller:
        if request.param == "stale":
            code = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(sys.argv[1])"
            subprocess.run([sys.executable, "-c", code, f"{tmp_path}/v.sock.fd"], check=True)
        return Caller(call.ip, tmp_path / "v.sock")

    def test_add(self, down: Caller, lab: Lab) -> None:
        netns = lab.netns()
        done = down(netns, "link add va type veth peer name vb")
        assert (done.status, done.out) == (2, "")
        words = self.WORDS.fullmatch(done.err)
        assert words
        assert words[1] == f"{down.socket}.fd"
        assert netns.names() == set()

    def test_the_rest_goes_on(self, down: Caller, lab: Lab) -> None:
        netns = lab.netns()
        netns.ip("link add br0 type bridge")
        for line in ("-j link show", "link show type veth", "link del nowhere", "-batch /nowhere"):
            assert down(netns, line) == down.run(netns, REAL, *line.split())
        assert down(netns, "link del br0") == Done(0, "", "")

    def test_a_daemon_that_hangs(self, call: Caller, site: Site, lab: Lab) -> None:
        """Nothing is sent to it that it could carry out later."""
        netns = lab.netns()
        with site.daemon.stopped():
            done = call(netns, "link add va type veth peer name vb")
            assert done.status == 2
            assert "no answer within 1 s" in done.err
            assert call(netns, "link show lo").status == 0
        assert site.daemon.request("GET", "/v1/health")[0] == 200
        assert not site.daemon.pairs()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(call: Caller, lab: Lab, script: Path) -> None:
    """A script for veth says the same with the real ip and with vethd-ip first on PATH."""
    home = lab.backend.home
    tag = f"{os.getpid()}"
    expected = call.run(home, "/bin/sh", str(script), tag, env=dict(os.environ))
    assert expected.status == 0, expected
    assert call.run(home, "/bin/sh", str(script), tag) == expected


class TestInstall:
    def test_file(self, call: Caller) -> None:
        """One file, which names its interpreter and the real ip, and needs nothing of vethd."""
        head = call.ip.read_bytes().splitlines()[:2]
        assert head[0] == f"#!{Path(sys.executable).resolve()} -IS".encode()
        assert MARK.encode() in head[1]
        assert REAL.encode() in head[1]
        assert call.ip.stat().st_mode & 0o777 == 0o755

    def test_again_is_no_error(self, tmp_path: Path) -> None:
        first = install(tmp_path, REAL).read_bytes()
        assert install(tmp_path, REAL).read_bytes() == first
        assert [path.name for path in tmp_path.iterdir()] == ["ip"]

    def test_another_ip_stays(self, tmp_path: Path) -> None:
        (tmp_path / "ip").write_text("#!/bin/sh\n")
        with pytest.raises(InstallError, match="already exists"):
            install(tmp_path, REAL)
        assert (tmp_path / "ip").read_text() == "#!/bin/sh\n"

    def test_it_is_not_its_own_real_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "other").mkdir()
        first = install(tmp_path, REAL)
        with pytest.raises(InstallError, match="not an executable real ip"):
            install(tmp_path / "other", str(first))
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert find_real() == REAL

    def test_nowhere(self, tmp_path: Path) -> None:
        with pytest.raises(InstallError, match=os.strerror(errno.ENOENT)):
            install(tmp_path / "nowhere", REAL)

    def test_command(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-m", "vethd.clients.ip.install"]
        done = subprocess.run([*argv, "install", str(tmp_path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'ip'}\n")
        done = subprocess.run([*argv, "install", "/nowhere"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"vethd-ip: /nowhere/ip: {os.strerror(errno.ENOENT)}\n")
        done = subprocess.run([*argv, "-V"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout[:10]) == (0, "ip utility")

    def test_the_real_one_is_gone(self, tmp_path: Path) -> None:
        real = shutil.copy(REAL, tmp_path / "real-ip")
        ip = install(tmp_path, str(real))
        assert subprocess.run([ip, "-V"], capture_output=True, check=False).returncode == 0
        Path(real).unlink()
        done = subprocess.run([ip, "-V"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (127, 1)
        Path(real).symlink_to(ip)
        done = subprocess.run([ip, "-V"], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 127
        assert "vethd-ip itself" in done.stderr


def test_nowhere_to_write(call: Caller, lab: Lab) -> None:
    """One sentence where stdout is closed or full."""
    netns = lab.netns()
    assert call(netns, "link add va type veth peer name vb").status == 0
    done = call.run(netns, "/bin/sh", "-c", f"{call.ip} link show >/dev/full")
    assert (done.status, done.err) == (1, f"vethd-ip: {os.strerror(errno.ENOSPC)}\n")
    done = call.run(netns, "/bin/sh", "-c", f"{call.ip} link show >&-")
    assert (done.status, done.err) == (1, f"vethd-ip: {os.strerror(errno.EBADF)}\n")


def test_sigpipe_ends_it(call: Caller, lab: Lab) -> None:
    """As it ends the real one: `ip link | head -1` is no error on stderr."""
    netns = lab.netns()
    script = f"{call.ip} -batch - | true"
    done = call.run(netns, "/bin/sh", "-c", script, stdin="link show\n" * 50)
    assert done.err == ""
