"""What the clients of all servers have in common: start the server, check until told to stop, say that all was right.

A client runs until the file `stop` is there, so that checkpoints and restarts come while it is at work however
fast the machine is; then it does some more rounds, so that what came out of the last restart is checked too. A
difference ends it at once: its message is on standard output."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 0
READY, STOP = pathlib.Path("ready"), pathlib.Path("stop")
AFTERWARDS = 20  # rounds after the word to stop


def check(truth, *what):
    if not truth:
        print("wrong:", *what, flush=True)
        os._exit(1)


def equal(got, expected, what):
    check(got == expected, what, "is", repr(got)[:300], "and not", repr(expected)[:300])


def connect(port=PORT, host="127.0.0.1"):
    """A connection, as soon as somebody listens."""
    end = time.monotonic() + 120
    while True:
        try:
            connection = socket.create_connection((host, port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except ConnectionRefusedError:
            check(time.monotonic() < end, "nobody listens on port", port)
            time.sleep(0.02)


def start(*argv, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([str(a) for a in argv], **options)


def guarded(work, *args):
    """What a thread does: an exception in it is the end of all."""
    try:
        work(*args)
    except BaseException as e:  # noqa: B902
        import traceback
        traceback.print_exc(file=sys.stdout)
        check(False, "exception", repr(e))


def rounds():
    """Numbers of rounds, until AFTERWARDS rounds after the file `stop` is there."""
    number, left = 0, AFTERWARDS
    while left:
        if STOP.exists():
            left -= 1
        yield number
        number += 1
        if number == 3:
            mine = threading.current_thread()
            if mine is threading.main_thread():
                READY.touch()


def in_threads(*works):
    """All of them at the same time; each a function or a tuple of one and its arguments."""
    works = [work if isinstance(work, tuple) else (work,) for work in works]
    threads = [threading.Thread(target=guarded, args=work) for work in works[1:]]
    for thread in threads:
        thread.start()
    guarded(*works[0])
    for thread in threads:
        thread.join()


def end(process, expected=0, how=None):
    """Ask the server to end, and see that it does."""
    (how or process.terminate)()
    equal(process.wait(), expected, "the server's status")


def done():
    print("all as it should be")
