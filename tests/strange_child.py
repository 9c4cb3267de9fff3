"""A child process that does as it is told by its first word: echoes, prints, ends, or sticks in a library."""

from __future__ import annotations

import os
import time

from tests.faulty_device import hold_gil
from worker.child import connect_to_parent


def main() -> None:
    """Obey until the parent has gone."""
    connection = connect_to_parent()
    while True:
        match connection.recv():
            case "print":
                os.write(1, b"from a library\n")
                connection.send("printed")
            case "exit":
                connection.send("last words")
                os._exit(3)
            case "stick":
                connection.send("sticks")
                hold_gil(3_600)
            case "sleep":
                time.sleep(3_600)
            case "numpy":
                import numpy

                connection.send(numpy.__file__)
            case other:
                connection.send(other)


if __name__ == "__main__":
    main()
