"""Ends the embedded Redis when its last user has gone, however that one ended. ``local.py`` runs this file by itself.

Every user holds a shared lock; the guard waits for an exclusive one and holds it until the server has stopped, so a
new user waits for that too. The guard ends with its server.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from pathlib import Path


def main(users: str, note: str, url: str, *command: str) -> None:
    """Run a server for as long as it has users.

    Args:
        users: File that every user holds a shared lock on.
        note: File that says where the server is; removed before it stops.
        url: The server's address.
        command: The server's command line. It inherits our standard input, which is locked: see ``local.py``.
    """
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    Path(note).write_text(json.dumps({"url": url, "pid": server.pid}) + "\n")

    def end_when_unused() -> None:
        with Path(users).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            Path(note).unlink(missing_ok=True)
            server.terminate()
            server.wait()

    threading.Thread(target=end_when_unused, daemon=True).start()
    server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
