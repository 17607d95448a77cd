"""Real containerd with its CRI plugin, on a host of its own. It is Debian's, unpacked and not installed.

There is one image, of the static busybox. By default it sleeps, so it is the pods' pause image, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lib.cni import REFERENCE
from tests.lib.cri import Cri, CriError, Message, fields, text
from tests.lib.host import Host
from tests.lib.netns import command, in_netns
from tests.lib.systemd_box import REPO
from tests.lib.wait import wait_until
from vethd.clients.cni.install import install

TEMPLATE = REPO / "configs" / "vethd-cni.conflist.template"
PROGRAMS = REPO / "build" / "unpacked" / "docker.io" / "usr"
IMAGE = "localhost/box:1"
SOCKET = "/run/containerd/containerd.sock"
MOUNTS = """
for directory in /run /var/lib/cni; do mkdir -p $directory; mount -t tmpfs none $directory; done
mkdir /run/netns
"""
# restrict_oom_score_adj: lowering it would need CAP_SYS_RESOURCE, which root of a container may lack
CONFIG = """
version = 2
root = "/run/lib"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/bin"
    conf_dir = "{directory}/net.d"
    conf_template = "{directory}/template"
"""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
APPLETS = ("sh", "sleep", "ping", "httpd", "wget")


def image() -> bytes:
    """Return the image as `docker save` writes it."""

    def packed(*files: tuple[str, bytes, str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data, target in files:
                info = tarfile.TarInfo(name)
                info.mode, info.size, info.linkname = 0o755, len(data), target
                info.type = tarfile.SYMTYPE if target else tarfile.REGTYPE
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    busybox = ("bin/busybox", Path("/bin/busybox").read_bytes(), "")
    links = [(f"bin/{applet}", b"", "busybox") for applet in APPLETS]
    layer = packed(busybox, *links, ("www/page", b"hello", ""))
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    parts = {"config.json": config, "manifest.json": manifest}
    return packed(("layer.tar", layer, ""), *((name, json.dumps(part).encode(), "") for name, part in parts.items()))


class Containerd(Host):
    """A host with containerd and vethd; a process holds its namespaces."""

    def __init__(self, directory: Path, *args: str, name: str = "containerd") -> None:
        """Set it up, without a network's configuration; args are vethd's. close() ends it."""
        self.group = f"vethd-{name}"
        for folder in ("bin", "net.d", "log"):
            (directory / folder).mkdir()
        for plugin in REFERENCE.iterdir():
            (directory / "bin" / plugin.name).symlink_to(plugin)
        install(directory / "bin")
        (directory / "template").write_text(TEMPLATE.read_text())
        (directory / "config.toml").write_text(CONFIG.format(directory=directory, image=IMAGE))
        (directory / "image.tar").write_bytes(image())
        super().__init__(directory, name, MOUNTS, *args, pids=True)
        try:
            self._set_up()
        except BaseException:
            super().close()
            raise

    def _set_up(self) -> None:
        self.start_containerd()
        ctr = (f"{PROGRAMS}/bin/ctr", "--namespace", "k8s.io")
        self.command(*ctr, "images", "import", f"{self.directory}/image.tar")

    def start_containerd(self) -> None:
        """Start containerd, and wait until it answers."""
        path = f"PATH={PROGRAMS}/sbin:{PROGRAMS}/bin:{os.environ['PATH']}"
        argv = ("env", path, "containerd", "--config", f"{self.directory}/config.toml")
        self.containerd = self.spawn("containerd", *argv)
        self.cri = Cri(self.path(SOCKET))
        wait_until(self._answers, what="containerd")

    def close(self) -> None:
        """Remove the pods, end the daemons, let the namespaces go."""
        try:
            for pod in self.pods():
                self.stop(pod)
                self.remove(pod)
        finally:
            self.end(self.containerd)
            super().close()
        hierarchies = ("", "*/")  # of cgroup v2, and of v1
        for group in [path for where in hierarchies for path in Path("/sys/fs/cgroup").glob(where + self.group)]:
            for child in sorted(group.rglob("*/"), reverse=True):
                child.rmdir()
            group.rmdir()

    def _answers(self) -> bool:
        assert self.containerd.poll() is None, self.log("containerd")
        try:
            self.cri.call("Version", {})
        except (AssertionError, CriError):  # before the socket is there, and before the plugin is
            return False
        return True

    def network_ready(self) -> bool:
        """Return the condition NetworkReady, as a kubelet asks for it."""
        status = fields(self.cri.call("Status", {})[1][0])
        conditions = [fields(condition) for condition in status[1]]
        return {text(condition, 1): bool(condition.get(2)) for condition in conditions}["NetworkReady"]

    def run(self, name: str, *ports: tuple[int, int], annotations: Mapping[str, str] | None = None) -> str:
        """Run a pod's sandbox; ports are (port of the host, port of the pod). Return its ID. Raises CriError."""
        noted = [{1: key, 2: value} for key, value in (annotations or {}).items()]
        return text(self.cri.call("RunPodSandbox", {1: {**self._pod(name, *ports), 7: noted}}), 1)

    def _pod(self, name: str, *ports: tuple[int, int]) -> Message:
        mapped = [{2: container, 3: host} for host, container in ports]
        metadata = {1: name, 2: f"uid-{name}", 3: "default"}
        return {1: metadata, 2: name, 3: f"{self.directory}/log", 5: mapped, 8: {1: f"/{self.group}"}}

    def stop(self, pod: str) -> None:
        """Stop a pod's sandbox. Raises CriError."""
        self.cri.call("StopPodSandbox", {1: pod})

    def remove(self, pod: str) -> None:
        """Remove a pod's sandbox. Raises CriError."""
        self.cri.call("RemovePodSandbox", {1: pod})

    def addresses(self, pod: str) -> list[str]:
        """Return the addresses that the runtime reports."""
        network = fields(fields(self.cri.call("PodSandboxStatus", {1: pod})[1][0])[5][0])
        return [text(network, 1), *(text(fields(more), 1) for more in network.get(2, []))]

    def pods(self) -> list[str]:
        """Return the IDs of all sandboxes."""
        return [text(fields(pod), 1) for pod in self.cri.call("ListPodSandbox", {}).get(1, [])]

    def netns_of(self, pod: str) -> Path:
        """Return the path of a pod's network namespace, as it is to be seen from here."""
        info = [fields(entry) for entry in self.cri.call("PodSandboxStatus", {1: pod, 2: 1})[2]]
        pid = {text(entry, 1): json.loads(text(entry, 2)) for entry in info}["info"]["pid"]
        return self.path(f"/proc/{pid}/ns/net")

    def link(self, pod: str, name: str = "eth0") -> dict[str, Any]:
        """Return what ip says of a pod's link."""
        words = ["ip", "-json", "-details", "address", "show", "dev", name]
        return dict(json.loads(in_netns(self.netns_of(pod), command, words))[0])

    def left(self) -> dict[str, set[str]]:
        """Return what is there of pods: in containerd, in vethd, in the kernel, in host-local's files."""
        ports = json.loads(self.command("ip", "-json", "link", "show", "type", "tun"))
        leased = self.path("/var/lib/cni/networks").glob("*/*")
        rules = self.command("nft", "list", "ruleset").splitlines()
        return {
            "pods": set(self.pods()),
            "attachments": {one["container"] for one in self.get("/v1/attachments")},
            "ports": {port["ifname"] for port in ports if port},
            "namespaces": {path.name for path in self.path("/run/netns").iterdir()},
            "leases": {path.name for path in leased if not path.name.startswith(("last_", "lock"))},
            "masquerading": {line for line in rules if line.startswith("table") and "vethd" in line},
            "published ports": {line for line in rules if "dnat to" in line},
        }

    def configure(self, cidrs: str) -> None:
        """Say which addresses the pods have, as a kubelet does; if containerd has no conflist, it writes one."""
        self.cri.call("UpdateRuntimeConfig", {1: {1: {1: cidrs}}})

    def put(self, name: str, conflist: str) -> None:
        """Put a conflist in: written beside its name, then renamed."""
        directory = self.directory / "net.d"
        (directory / f".{name}").write_text(conflist)
        (directory / f".{name}").rename(directory / name)

    def start(self, name: str, pod: str, *command: str) -> str:
        """Start a container in a pod of this name and return its ID."""
        config = {1: {1: name}, 2: {1: IMAGE}, 3: list(command), 11: f"{name}.log"}
        made = self.cri.call("CreateContainer", {1: pod, 2: config, 3: self._pod(name)})
        self.cri.call("StartContainer", {1: text(made, 1)})
        return text(made, 1)

    def exec(self, container: str, *command: str) -> tuple[int, str]:
        """Run a program in a container; return its exit status, and its output."""
        ran = self.cri.call("ExecSync", {1: container, 2: list(command), 3: 30})
        return ran.get(3, [0])[0], text(ran, 1) + text(ran, 2)
