"""A virtual X server with a terminal and programs that draw: the picture of the whole screen must be what it was when
the same was drawn first."""

import hashlib
import os
import subprocess
import time

import common
from common import check

PATTERNS = ["\033[2J\033[Hfirst line\r\n\033[31mred\033[0m and \033[7minverse\033[0m\r\n",
            "\033[2J\033[H\033[4munderlined\033[0m\r\n" + "".join(f"\033[4{i % 8}m {i} \033[0m" for i in range(20)),
            "\033[2J\033[5;10Hplaced\033[8;20H\033#8", "\033[2J\033[H" + "row of text\r\n" * 15]


def picture():
    done = subprocess.run(["xwd", "-root", "-silent"], stdout=subprocess.PIPE)
    check(done.returncode == 0, "xwd:", done.returncode)
    return hashlib.sha256(done.stdout).hexdigest()


def settled():
    """The picture, when it has not changed for a while."""
    last, since = picture(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        now = picture()
        if now != last:
            last, since = now, time.monotonic()
    return last


def start_server():
    """On a number of its own choice, which it writes to a pipe."""
    read, write = os.pipe()
    server = common.start("Xvfb", "-displayfd", write, "-screen", "0", "640x480x24", "-ac", "-noreset", pass_fds=[write],
                          stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        os.environ["DISPLAY"] = ":" + pipe.readline().strip()
    return server


def main():
    server = start_server()
    os.mkfifo("text")
    programs = [common.start("xterm", "-geometry", "60x20+5+5", "-e", "sh", "-c", "stty -echo; while cat text 2>>cat.err; do :; done; echo $? >>cat.err",
                             stderr=subprocess.DEVNULL),
                common.start("xlogo", "-geometry", "100x100+450+20", stderr=subprocess.DEVNULL),
                common.start("xeyes", "-geometry", "150x100+450+200", stderr=subprocess.DEVNULL)]
    seen = []
    for pattern in PATTERNS:
        common.pathlib.Path("text").write_text(pattern)
        seen.append(settled())
    check(len(set(seen)) == len(PATTERNS), "two patterns look the same")
    common.AFTERWARDS = len(PATTERNS)
    for number in common.rounds():
        common.pathlib.Path("text").write_text(PATTERNS[number % len(PATTERNS)])
        end = time.monotonic() + 20
        while picture() != seen[number % len(PATTERNS)]:
            check(time.monotonic() < end, "another picture of pattern", number % len(PATTERNS), "in round", number)
            time.sleep(0.02)
    for program in programs:
        check(program.poll() is None, program.args[0], "has ended")
        program.terminate()
        program.wait()
    common.end(server)
    common.done()


common.guarded(main)
