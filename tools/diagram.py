"""Writes docs/img/overview.svg, the picture at the head of the README: `tools/diagram.py [FILE]`.

The picture follows the reader's light or dark theme, by a media query inside the SVG.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).parents[1] / "docs" / "img" / "overview.svg"
WIDTH, HEIGHT = 880, 400
DOORS = (
    ("Docker, LXC", "vethd-run"),
    ("scripts", "vethd-ip"),
    ("CRI-O, podman", "vethd-cni"),
    ("you", "vethctl"),
    ("services", "config file"),
    ("programs", "HTTP API"),
)
STYLE = """\
text { font: 14px system-ui, sans-serif; fill: #1f2328; text-anchor: middle; }
.small { font-size: 12px; fill: #59636e; }
.mono { font-family: ui-monospace, monospace; }
.title { font-weight: 600; }
.box { fill: #f6f8fa; stroke: #818b98; }
.daemon { fill: #ddf4ff; stroke: #0969da; stroke-width: 2; }
.device { fill: #ffffff; stroke: #0969da; stroke-width: 2; }
.door { fill: #ffffff; stroke: #818b98; }
.line { stroke: #59636e; stroke-width: 1.5; fill: none; }
.frames { stroke: #0969da; stroke-width: 3; }
.line-tip { fill: #59636e; }
.frames-tip { fill: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .box { fill: #151b23; stroke: #656c76; }
  .daemon { fill: #121d2f; stroke: #4493f8; }
  .device, .door { fill: #0d1117; }
  .device { stroke: #4493f8; }
  .door { stroke: #656c76; }
  .line { stroke: #9198a1; }
  .frames { stroke: #4493f8; }
  .line-tip { fill: #9198a1; }
  .frames-tip { fill: #4493f8; }
}"""


def box(place: tuple[int, int, int, int], kind: str) -> str:
    """Draw a rounded box; place is x, y, width and height."""
    x, y, width, height = place
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'


def text(x: int, y: int, words: str, kind: str = "") -> str:
    """Write words centred on x, with their base line at y."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'


def arrow(points: tuple[int, int, int, int], kind: str, *, both: bool = False) -> str:
    """Draw an arrow from x1, y1 to x2, y2; the last word of kind is the kind of its tip."""
    x1, y1, x2, y2 = points
    tip = f"url(#tip-{kind.rpartition(' ')[2]})"
    start = f' marker-start="{tip}"' if both else ""
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{start} marker-end="{tip}"/>'


def marker(kind: str) -> str:
    """Define the tip of the arrows whose kind ends in that word."""
    return (
        f'<marker id="tip-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
        ' markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
        f'<path class="{kind}-tip" d="M0,0 L8,4 L0,8 z"/></marker>'
    )


def namespace(x: int, name: str, device: str) -> list[str]:
    """Draw a network namespace with an application, the kernel's stack and a TAP; x is its left edge."""
    middle = x + 105
    return [
        box((x, 150, 210, 230), "box"),
        text(middle, 176, f"namespace {name}", "title"),
        text(middle, 196, "container, VM or host", "small"),
        text(middle, 236, "application"),
        arrow((middle, 246, middle, 268), "line", both=True),
        text(middle, 288, "kernel's network stack"),
        arrow((middle, 298, middle, 322), "line", both=True),
        box((middle - 60, 326, 120, 38), "device"),
        text(middle, 350, f"{device} (TAP)", "mono"),
    ]


def picture() -> str:
    """Return the SVG."""
    parts = []
    for number, (who, door) in enumerate(DOORS):
        x = 20 + number * 142
        parts += [box((x, 12, 130, 52), "door"), text(x + 65, 33, who), text(x + 65, 52, door, "small mono")]
        parts.append(arrow((x + 65, 66, 440 + (number * 2 - 5) * 24, 144), "line"))
    parts += namespace(20, "red", "va") + namespace(650, "blue", "vb")
    parts += [
        box((290, 150, 300, 230), "daemon"),
        text(440, 176, "vethd, a userspace process", "title"),
        text(440, 214, "carrier, MTU, moves, deletion:"),
        text(440, 234, "as the kernel's veth driver"),
        text(440, 272, "every drop counted by its reason"),
        text(440, 330, "read, check as veth does, write", "small"),
        arrow((188, 345, 692, 345), "line frames", both=True),
    ]
    body = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title desc">
<title id="title">How vethd joins two network namespaces</title>
<desc id="desc">Scripts, container runtimes, Mininet, vethctl, a config file and an HTTP API ask vethd for a pair.
vethd opens a TAP device in each of two namespaces and forwards frames between them under the rules of the kernel's
veth driver.</desc>
<style>
{STYLE}
</style>
<defs>
{marker("line")}
{marker("frames")}
</defs>
{body}
</svg>
"""


def main() -> None:
    """Write the picture."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
