"""Run a command on GPUs of this machine that no other cell of the sweep has: one lock file for each.

``python -m rimkit.runs.slot NEEDED ALL FOLDER COMMAND…``. The locks go when the command ends, however it ends.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def take(needed: int, there: int, folder: str | Path) -> list[int]:
    """Wait for ``needed`` of the GPUs 0 to ``there - 1``, and hold them until this process (or its exec) ends."""
    import fcntl

    Path(folder).mkdir(exist_ok=True)
    while True:
        held: dict[int, int] = {}
        for number in range(there):
            file = os.open(Path(folder) / str(number), os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            held[number] = file
            if len(held) == needed:
                for kept in held.values():
                    os.set_inheritable(kept, True)  # the lock stays with the command
                return list(held)
        for file in held.values():
            os.close(file)
        time.sleep(0.5)


def visible(numbers: list[int], chosen: str | None) -> str:
    """The value of CUDA_VISIBLE_DEVICES for some of the GPUs; ``chosen``: its value so far."""
    names = [name.strip() for name in chosen.split(",")] if chosen else []
    return ",".join(names[number] if number < len(names) else str(number) for number in numbers)


if __name__ == "__main__":
    wanted, total, where, *command = sys.argv[1:]
    mine = take(int(wanted), int(total), where)
    os.environ["CUDA_VISIBLE_DEVICES"] = visible(mine, os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.execv(command[0], command)
