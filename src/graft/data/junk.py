"""What file systems, NAS boxes and programs leave beside people's files: no data, at any depth.

Names are those of GitHub's collection of ignore files (github/gitignore: Global/macOS, Windows, Linux,
MicrosoftOffice, LibreOffice), of what Synology Drive and QNAP keep for themselves (Synology Drive's
``filter-v4150``, ``@__thumb`` and ``@Recently-Snapshot`` of QTS), of ext4, NetApp and Python. They are
compared without case. Whatever begins with a dot is hidden, and so junk as well.
"""

from __future__ import annotations

_NAMES = frozenset(
    {
        # macOS
        "__macosx",
        "icon\r",
        "network trash folder",
        "temporary items",
        # Windows
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "system volume information",
        # Synology
        "@eadir",
        "@tmp",
        "@sharebin",
        "@sharesnap",
        "@transcode",
        "#recycle",
        "#snapshot",
        # QNAP
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        # NetApp, ext4, Python
        "~snapshot",
        "lost+found",
        "__pycache__",
    }
)
_BEGINNINGS = (".", "~$")  # hidden; open in Microsoft Office
_ENDINGS = ("@synoeastream", "@synoresource")  # attributes of a file, kept by Synology beside it


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is no data of the person's.

    >>> is_junk("@eaDir"), is_junk("._train.csv"), is_junk("#hashtags")
    (True, True, False)
    """
    folded = name.casefold()
    return folded in _NAMES or folded.startswith(_BEGINNINGS) or folded.endswith(_ENDINGS)
