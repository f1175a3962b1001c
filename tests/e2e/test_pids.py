"""Pids that a restart cannot have as they come: another pid namespace is made for them."""

import os
import pathlib
import subprocess

import pytest

import harness

HIGH = 1000000
PROGRAM = """
import os, subprocess, time
open("ready", "w").close()
while not os.path.exists("start"):
    time.sleep(0.005)
child = subprocess.Popen(["sleep", "1000"])
open("made", "w").close()
while not os.path.exists("stop"):
    time.sleep(0.005)
child.kill()
print(child.wait(), child.pid)
"""


def restarted(lab):
    return next((p.pid for p in harness.descendants() if p.comm == "python3"), None)


def in_pidns(pid, command):
    return subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "sh", "-c", command],
                          check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_above_pid_max(lab, user):
    """A pid namespace may have higher pids than the one around it (Linux 6.14). A program that was restarted in one, and
    has got such a pid since, is restarted again."""
    if os.geteuid() != 0 or int(pathlib.Path("/proc/sys/kernel/pid_max").read_text()) > HIGH:
        pytest.skip("pids are not limited here, or root is needed to choose the next one")
    lab.write("program.py", PROGRAM)
    lab.launch(["/usr/bin/python3", "program.py"], stdout=open(lab.write("said", ""), "wb"))
    lab.wait_until("it runs", lab.path("ready").exists)
    lab.checkpoint_and_kill()
    lab.restart("--in-new-pidns", stdout=subprocess.DEVNULL)
    lab.wait_running()
    pid = restarted(lab)
    if int(in_pidns(pid, "cat /proc/sys/kernel/pid_max")) <= HIGH:
        pytest.skip("this kernel has one limit for all pid namespaces (before Linux 6.14)")
    in_pidns(pid, f"echo {HIGH} >/proc/sys/kernel/ns_last_pid")
    lab.write("start", "")
    lab.wait_until("there is a child", lab.path("made").exists)
    lab.checkpoint_and_kill()
    lab.restart(stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0, lab.tail("restart.stderr")
    status, child = lab.tail("said").split()
    assert (status, int(child) > HIGH) == ("-9", True)
    assert user.name != "root" or "above kernel.pid_max: restarting in a new pid namespace" in lab.tail("restart.stderr")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses the next pid, and restarts with the old ones")
@pytest.mark.parametrize("ahead", range(1, 6))
def test_taken_by_ourselves(lab, ahead):
    """The program's pid is the next, or the one after that …: dmtcp_restart, the coordinator that it starts or the driver
    gets it."""
    lab.launch(lab.program_argv("count"))
    lab.wait_ready()
    pid = lab.program.pid
    lab.checkpoint()
    lab.kill_everything()
    pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - ahead))
    lab.restart()
    lab.wait_running()
    lab.go.touch()
    assert lab.finish() == 0, lab.tail("restart.stderr")
    assert lab.lines()[-1] == "PASS"


def test_contradiction(lab):
    lab.run("dmtcp_restart", "--in-new-pidns", "--pids-must-match", "none", check=False)
    assert "--in-new-pidns and --pids-must-match exclude each other" in lab.tail("dmtcp_restart.output")
