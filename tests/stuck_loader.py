"""``worker start`` whose second version never ends to load: its device process is stuck in a library.

python -m tests.stuck_loader start
"""

from __future__ import annotations

import sys

from tests.faulty_device import hold_gil
from worker.device.messages import LoadRequest


def main() -> None:
    """Run the command, or one of its device processes."""
    if sys.argv[1] == "start":
        from worker.cli import main as worker_main
        from worker.device import process

        process.CHILD_MODULE = "tests.stuck_loader"
        sys.argv[0] = "worker"
        worker_main()
        return
    from worker.device import __main__ as device

    load = device._load

    def load_first(request: LoadRequest) -> object:
        if request.unmeasured_budget is not None:
            print("stuck in a load", file=sys.stderr, flush=True)
            hold_gil(3_600)
        return load(request)

    device._load = load_first  # type: ignore[assignment]
    device.main()


if __name__ == "__main__":
    main()
