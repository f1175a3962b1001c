"""A restart under nice(1): root gets the niceness back that there was, others keep what they are allowed."""

import os
import pathlib
import subprocess

import pytest

import harness

PROGRAM = """
import os, threading, time
threading.Thread(target=lambda: os.nice(2) and time.sleep(1000), daemon=True).start()
open("made", "w").close()
while not os.path.exists("stop"):
    time.sleep(0.005)
print(sorted(os.getpriority(os.PRIO_PROCESS, int(tid)) for tid in os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize("user", harness.users(), indirect=True)
@pytest.mark.parametrize("before,at_restart", ((0, 0), (0, 5), (5, 0)))
def test_nice(lab, user, before, at_restart):
    lab.write("program.py", PROGRAM)
    lab.launch(["nice", "-n", before, "/usr/bin/python3", "program.py"], stdout=open(lab.write("said", ""), "wb"))

    def nices(pid):
        return sorted(int(p.read_text().rsplit(")")[1].split()[16]) for p in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"))

    was = os.getpriority(os.PRIO_PROCESS, 0)
    expected = [was + before, was + before + 2]
    lab.wait_until("the second thread is nice", lambda: lab.path("made").exists() and nices(lab.program.pid) == expected)
    lab.checkpoint_and_kill()
    lab.restart(stdout=subprocess.DEVNULL, preexec_fn=lambda: os.nice(at_restart))
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0, lab.tail("restart.stderr")
    if user.name != "root":
        expected = [max(nice, was + at_restart) for nice in expected]
    assert lab.tail("said") == f"{expected}\n"
