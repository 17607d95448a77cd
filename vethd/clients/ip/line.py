"""Parse one command line of ip(8): its options, its words, and whether it may be about a veth.

Every call of vethd-ip runs this module, so it imports nothing.
"""

# in the order in which ip compares; "=": cannot be abbreviated, "+": a word follows
_TABLE = """
loops+ family+ 4= 6= 0= M= B= human human-readable iec stats statistics details resolve oneline timestamp tshort Version
force batch+ brief json pretty rcvbuf+ color help netns+ Numeric all echo=
"""
_OPTIONS = tuple(_TABLE.split())
_FAMILIES = ("inet", "inet6", "link", "mpls", "bridge")


class Line:
    """A command line: the options as given, except -netns and -batch; then the words, object first.

    rows are the options' full words.
    """

    __slots__ = ("batch", "netns", "options", "rows", "words")

    def __init__(self) -> None:
        self.options: list[str] = []
        self.rows: list[str] = []
        self.netns: str | None = None
        self.batch: str | None = None
        self.words: list[str] = []

    def again(self, *words: str) -> list[str]:
        """Return the arguments for words with this line's options."""
        return [*self.options, *(["-netns", self.netns] if self.netns is not None else []), *words]


def abbreviates(word: str, whole: str) -> bool:
    """Return whether word is whole or its beginning, as iproute2 allows abbreviations."""
    return bool(word) and whole.startswith(word)


def split(args: list[str]) -> Line | None:
    """Split arguments into options and words; None if only the real ip can handle them."""
    line, at = Line(), 0
    while at < len(args) and args[at].startswith("-"):
        said = args[at]
        at += 1
        if said == "--":
            break
        option = _option(said[2:] if said.startswith("--") else said[1:])
        if option in ("", "Version", "help"):
            return None
        if not option.endswith("+"):
            line.options.append(said)
            line.rows.append(option)
            continue
        if at == len(args) or (option == "family+" and args[at] not in _FAMILIES):
            return None
        if option == "rcvbuf+" and not args[at].isdecimal():
            return None
        if option == "netns+":
            line.netns = args[at]
        elif option == "batch+":
            line.batch = args[at]
        else:
            line.options += (said, args[at])
        at += 1
    line.words = args[at:]
    return line


def _option(word: str) -> str:
    """Return an option's row for a word without its dashes; "" if there is none."""
    for row in _OPTIONS:
        if word == row[:-1] if row[-1] == "=" else row.rstrip("+").startswith(word):
            return row
        if row == "color" and word.partition("=")[0] and row.startswith(word.partition("=")[0]):
            return row
    return ""


def verb(words: list[str]) -> str:
    """Return the requested action on links: "add", "replace", "delete" or "show"; "" if it cannot be about vethd."""
    if not words or not abbreviates(words[0], "link"):
        return ""
    if len(words) == 1:
        return "show"
    for name in ("add", "set", "change", "replace", "delete", "show", "lst", "list"):
        if abbreviates(words[1], name):
            if name in ("add", "replace"):
                return name if "veth" in words else ""
            return {"delete": name, "show": name, "lst": "show", "list": "show"}.get(name, "")
    return ""
