"""Ends the embedded Redis when its last user has gone, however that one ended. ``local.py`` runs this file by itself.

Every user holds a shared lock; this process waits for an exclusive one, and holds it until the server has stopped:
whoever comes meanwhile waits for that, and starts a new one. It ends with its server.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from pathlib import Path


def main(lock: str, note: str, *command: str) -> None:
    """Run a server for as long as it has users.

    Args:
        lock: File that every user holds a shared lock on.
        note: File that names the server; removed before it stops.
        command: The server's command line.
    """
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end_when_unused() -> None:
        with Path(lock).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            Path(note).unlink(missing_ok=True)
            server.terminate()
            server.wait()

    threading.Thread(target=end_when_unused, daemon=True).start()
    server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
