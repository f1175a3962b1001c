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


REUSED = """
import os, pathlib, threading, time
def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.005)
child = os.fork()
if child == 0:
    wait_for("end")
    os._exit(0)
print(child, flush=True)
open("ready", "w").close()
os.waitpid(child, 0)
open("ended", "w").close()
wait_for("go on")
stop = threading.Event()
while os.path.exists("thread"):
    pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(child - 1))
    gone = threading.Event()
    thread = threading.Thread(target=lambda: (gone.wait(), stop.wait()) if threading.get_native_id() == child else None)
    thread.start()
    gone.set()
    if thread.native_id == child:
        break
    thread.join()
open("made", "w").close()
wait_for("stop")
stop.set()
print("done")
"""


def launch_with_dead_child(lab, seen):
    """A child is seen by a checkpoint, or not, ends and is waited for: its number is free."""
    lab.write("program.py", REUSED)
    lab.launch(["/usr/bin/python3", "program.py"], stdout=open(lab.write("said", ""), "wb"))
    lab.wait_until("it runs", lab.path("ready").exists)
    if seen:
        assert len(lab.checkpoint()) == 2
    lab.write("end", "")
    lab.wait_until("the child has ended", lab.path("ended").exists)
    return int(lab.tail("said"))


def go_on(lab):
    """What was the child's is not saved, and nobody else is touched."""
    lab.wait_until("its number has been taken", lab.path("made").exists)
    assert len(lab.checkpoint()) == 1
    lab.checkpoint_and_kill()
    lab.restart(stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0, lab.tail("restart.stderr")
    assert lab.tail("said").split()[-1] == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses the next pid")
@pytest.mark.parametrize("seen", (True, False), ids=("seen", "unseen"))
def test_number_of_a_thread(lab, seen):
    """A thread of the program has the number that one of its processes had."""
    launch_with_dead_child(lab, seen)
    lab.write("thread", "")
    lab.write("go on", "")
    go_on(lab)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses the next pid")
@pytest.mark.parametrize("seen", (True, False), ids=("seen", "unseen"))
@pytest.mark.parametrize("threads", (1, 2))
def test_number_of_a_stranger(lab, threads, seen):
    """A process that is none of the program's has the number that one of its processes had."""
    number = launch_with_dead_child(lab, seen)
    code = "import threading, time\nfor _ in range(%d): threading.Thread(target=time.sleep, args=(1000,)).start()" % (threads - 1)
    while True:
        pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
        stranger = subprocess.Popen(["/usr/bin/python3", "-c", code + "\ntime.sleep(1000)"])
        if stranger.pid == number:
            break
        stranger.kill()
        stranger.wait()
    try:
        lab.wait_until("it has all its threads", lambda: len(os.listdir(f"/proc/{number}/task")) == threads)
        lab.write("go on", "")
        lab.wait_until("the program went on", lab.path("made").exists)
        assert len(lab.checkpoint()) == 1
        lab.checkpoint_and_kill()
        assert stranger.poll() is None, "it was killed"
    finally:
        stranger.kill()
        stranger.wait()


def test_contradiction(lab):
    lab.run("dmtcp_restart", "--in-new-pidns", "--pids-must-match", "none", check=False)
    assert "--in-new-pidns and --pids-must-match exclude each other" in lab.tail("dmtcp_restart.output")
