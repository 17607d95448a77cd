"""An unmodified dockerd under vethd-run: default bridge, published ports, networks with names, restarts.

dockerd and its containerd come from Debian's packages, unpacked and not installed. They run in mount and network
namespaces of their own, with /etc, /opt and /var laid over with memory and an empty /run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.systemd_box import REPO

pytestmark = pytest.mark.heavy

UNPACKED = REPO / "build" / "unpacked" / "docker.io"
RUN_S = 150.0
GROUP = "vethd-docker"
# one shell: each step prints what it proved; the daemons are its children, and die with its namespaces
SCRIPT = r"""
bin=$1 unpacked=$2 group=$3 memory=$4
mount -t tmpfs tmpfs "$memory"
for name in etc opt var; do
  mkdir -p "$memory/$name/up" "$memory/$name/work"
  mount -t overlay overlay -o "lowerdir=/$name,upperdir=$memory/$name/up,workdir=$memory/$name/work" "/$name"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
ip link set lo up
PATH=$unpacked/usr/sbin:$unpacked/usr/bin:$PATH
export VETHD_SOCKET=/run/vethd.sock DOCKER_HOST=unix:///run/docker.sock
"$bin/vethd" --socket "$VETHD_SOCKET" >"$memory/vethd.log" 2>&1 &
vethd=$!
until [ -S "$VETHD_SOCKET.fd" ]; do kill -0 $vethd; sleep 0.05; done

start() {
  "$bin/vethd-run" --log "$memory/run.log" dockerd --data-root "$memory/data" --exec-root /run/docker \
    --pidfile /run/docker.pid --host "$DOCKER_HOST" --storage-driver vfs --exec-opt native.cgroupdriver=cgroupfs \
    --oom-score-adjust=0 --cgroup-parent="/$group" --live-restore >>"$memory/dockerd.log" 2>&1 &
  dockerd=$!
  until docker version >/dev/null 2>&1; do
    kill -0 $dockerd || { cat "$memory/dockerd.log"; exit 1; }
    sleep 0.1
  done
}
links() { "$bin/vethctl" show --json | grep -c '"ifindex"' || true; }

start
mkdir -p "$memory/image/bin"
cp /bin/busybox "$memory/image/bin"
for applet in sh ping httpd echo mkdir sleep; do ln -s busybox "$memory/image/bin/$applet"; done
mkdir "$memory/image/www"
echo hello >"$memory/image/www/index.html"
tar -C "$memory/image" -c . | docker import - box >/dev/null

docker run --rm box ping -c 1 -W 5 172.17.0.1 | grep "1 packets received"
docker run -d --name web -p 8080:80 box httpd -f -p 80 -h /www >/dev/null
until curl --silent --max-time 5 http://127.0.0.1:8080/; do sleep 0.1; done
echo "links of a published container: $(links)"
docker network create net >/dev/null
docker run -d --network net --name server box httpd -f -p 80 >/dev/null
docker run --rm --network net box ping -c 1 -W 5 server | grep "1 packets received"
docker network connect net web
docker run --rm --network net box ping -c 1 -W 5 web | grep "1 packets received"

kill $dockerd
wait $dockerd || true
curl --silent --max-time 5 http://127.0.0.1:8080/ >/dev/null || true # its proxy went with dockerd
start
docker run --rm --network net box ping -c 1 -W 5 server | grep "1 packets received"
docker restart --time 0 server >/dev/null
docker run --rm --network net box ping -c 1 -W 5 server | grep "1 packets received"
docker rm --force web server >/dev/null
docker network rm net >/dev/null
until [ "$(links)" = 0 ]; do sleep 0.1; done
echo "no pair is left"
kill $dockerd
wait $dockerd || true
kill $vethd
wait $vethd
echo "the end"
"""


@pytest.fixture
def memory(root: None, tmp_path: Path) -> Iterator[Path]:  # noqa: ARG001 - the check that we may
    """Yield a directory, and remove the control groups of the containers."""
    yield tmp_path
    for group in Path("/sys/fs/cgroup").glob(f"*/{GROUP}"):
        for child in sorted(group.rglob("*/"), reverse=True):
            child.rmdir()
        group.rmdir()


def test_dockerd(memory: Path) -> None:
    argv = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]
    words = ["sh", "-euc", SCRIPT, "docker", str(Path(sys.executable).parent), str(UNPACKED), GROUP, str(memory)]
    done = subprocess.run([*argv, *words], capture_output=True, text=True, timeout=RUN_S, check=False)
    said = done.stdout.splitlines()
    assert (done.returncode, said[-2:]) == (0, ["no pair is left", "the end"]), f"{done.stdout}\n{done.stderr}"
    assert said.count("1 packets transmitted, 1 packets received, 0% packet loss") == 5
    assert "hello" in said
    assert "links of a published container: 2" in said
