"""The GPUs of this machine, shared out to commands: one lock file for each.

``python -m rimkit.runs.gpus NEEDED ALL FOLDER COMMAND…`` runs a command on GPUs that no other one
has. The locks go when it ends, however it ends. Imports nothing else, to cost a cell no seconds.
"""

import os
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path


def held(file: int) -> bool:
    """Try to lock a file; the lock lasts as long as a process has the file open."""
    import fcntl  # not on Windows, where Snakemake does not run either

    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def take(needed: int, there: int, folder: str | Path) -> list[int]:
    """Wait for ``needed`` of ``there`` GPUs, and hold them until this process ends."""
    Path(folder).mkdir(exist_ok=True)
    while True:
        files = [os.open(Path(folder) / str(number), os.O_CREAT | os.O_RDWR) for number in range(there)]
        found = list(islice((number for number in range(there) if held(files[number])), needed))
        own = found if len(found) == needed else []
        for number, file in enumerate(files):  # the lock stays with the command
            os.set_inheritable(file, True) if number in own else os.close(file)
        if own:
            return own
        time.sleep(0.5)


def visible(numbers: list[int], chosen: str | None) -> str:
    """The value of CUDA_VISIBLE_DEVICES for some of the GPUs; ``chosen``: its value so far."""
    names = [name.strip() for name in chosen.split(",")] if chosen else []
    return ",".join(names[number] if number < len(names) else str(number) for number in numbers)


if __name__ == "__main__":
    wanted, total, where, *command = sys.argv[1:]
    mine = visible(take(int(wanted), int(total), where), os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.execve(command[0], command, {**os.environ, "CUDA_VISIBLE_DEVICES": mine})
