"""A command as a public page may show it."""

from __future__ import annotations

import re
import shlex

from densebench.console import one_line

# A path from the root, a home or a drive, at the beginning of a value; not the address of a host, as in https://host/path.
FOLDERS = re.compile(r"(^|[=,?&]|:(?!//[^/]))(?:~[^/\\,]*|[A-Za-z]:)?[/\\](?:[^,/\\?&]*[/\\])*(?=[^,/\\?&]*)")
SECRETS = re.compile(r"(?<=://)[^/@\s]*@")


def public(command: str) -> str:
    """Return a command without what is private; "" for one that cannot be read.

    Folders on the way from the root or from a home are private: "..." stands for them. So do the words before the "@" of an
    address, which are left out.
    """
    try:
        words = shlex.split(one_line(command))
    except ValueError:
        return ""
    return shlex.join(FOLDERS.sub(r"\1.../", SECRETS.sub("", word)) for word in words)
