"""What goes wrong around a checkpoint or a restart: the program goes on unharmed, and the older checkpoint is whole."""

import os
import pathlib
import random
import re
import signal
import subprocess
import time

import pytest

import harness
from survive import Program, await_ready, verify

ROUNDS = int(os.environ.get("DMTCP_ROUNDS", "4"))
BLOCKED = Program("thr_block")  # its threads are in all sorts of calls, and tell if one returns too early

EINTR_OF_A_STOP = re.compile(r"FAIL: (epoll_wait|epoll_pwait|sigwaitinfo|sigtimedwait|semop|semtimedop|io_getevents): "
                             r"came back before it was let: result -4$")

users = pytest.mark.parametrize("user", harness.users(), indirect=True)


def ours(comm):
    """The process of that name below us (of the lab, since tests are alone in their worker)."""
    found = [p for p in harness.descendants() if p.comm.startswith(comm) and p.alive]
    return found[0] if found else None


def start(lab, *options):
    lab.launch(lab.program_argv(BLOCKED.name), *options)
    await_ready(lab)


def whole(lab, directory=None):
    """The newest complete checkpoint, checked whole."""
    lab.run("dmtcp_restart", "--verify", directory or lab.ckptdir)


def how_long(lab):
    begin = time.monotonic()
    lab.checkpoint()
    return time.monotonic() - begin


def begin_checkpoint(lab):
    return lab.popen([lab.bin.command("dmtcp_command"), *lab.where(), "-bc"], stdout=subprocess.PIPE,
                     stderr=subprocess.STDOUT)


@users
def test_killed_tracer(lab):
    """The tracer is killed in the middle of checkpoints; another one takes the same program over."""
    start(lab)
    pid, took = lab.program.pid, how_long(lab)
    for _ in range(2 * ROUNDS):
        command = begin_checkpoint(lab)
        time.sleep(random.uniform(0, 1.2 * took))
        harness.kill_process(ours("dmtcp_tracer"))
        lab.wait_end(command, 30)
        whole(lab)
        lab.wait_until("the tracer is gone", lambda: not ours("dmtcp_tracer"), 10)
        lab.run("dmtcp_command", *lab.where(), "--attach", str(pid))
        lab.checkpoint()
    try:
        verify(lab, BLOCKED)
    except AssertionError as failed:
        # These answer EINTR to every stop (signal(7)); a tracer that is killed at once cannot hide it.
        if lines := [line for line in str(failed).splitlines() if not EINTR_OF_A_STOP.match(line)]:
            raise AssertionError("\n".join(lines)) from None
    lab.wait_gone()


@users
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_killed_coordinator(lab, round_):
    start(lab)
    took = how_long(lab)
    command = begin_checkpoint(lab)
    time.sleep(random.uniform(0, 1.2 * took))
    lab.coordinator.kill()
    lab.wait_end(command, 30)
    whole(lab)
    verify(lab, BLOCKED)


@users
def test_killed_command(lab):
    """Who asked for the checkpoint is gone: it is made nevertheless, and the next one too."""
    start(lab)
    took = how_long(lab)
    for _ in range(2 * ROUNDS):
        command = begin_checkpoint(lab)
        time.sleep(random.uniform(0, 1.2 * took))
        command.kill()
        lab.wait_end(command, 10)
        lab.checkpoint()
        whole(lab)
    verify(lab, BLOCKED)
    lab.wait_gone()


def held(lab, process):
    """Stopped, so that it stays what it is: the driver of a restart becomes the tracer. None: it has ended."""
    harness.kill_process(process, signal.SIGSTOP)

    def stopped_or_gone():
        now = harness.read_process(process.pid)
        return now is None or now.start != process.start or not now.alive or now.state in "tT"

    lab.wait_until("it stops", stopped_or_gone)
    now = harness.read_process(process.pid)
    return now if now and now.start == process.start and now.alive else None


@users
@pytest.mark.parametrize("round_", range(2 * ROUNDS))
def test_killed_restart(lab, round_):
    """Some process of a restart is killed at some instant: all of it is gone then, or the program runs."""
    start(lab)
    lab.checkpoint()
    lab.kill_everything()
    begin = time.monotonic()
    lab.restart()
    lab.wait_running()
    took = time.monotonic() - begin
    lab.kill_everything()

    lab.restart()
    time.sleep(random.uniform(0, 1.2 * took))
    victims = [p for p in harness.descendants() if p.comm.startswith("dmtcp_") and p.comm != "dmtcp_coordinat"]
    victim = held(lab, random.choice(victims)) if victims else None
    if victim:
        harness.kill_process(victim)

    def settled():
        lab.reap()
        rest = [p for p in harness.descendants() if p.alive and p.comm != "dmtcp_coordinat"]
        if not rest:
            return True
        if victim and victim.comm == "dmtcp_tracer":  # let go already, and it goes on; or all of it ends now
            return all(p.state not in "tT" for p in rest)
        status, said = lab.run("dmtcp_command", *lab.where(), "-s", check=False)
        return status == 0 and "RUNNING=yes" in said

    lab.wait_until("it is gone or runs", settled, 20)
    if victim and victim.comm == "dmtcp_tracer":
        lab.go.touch()
        if lab.finish() != -signal.SIGKILL:
            return verify(lab, BLOCKED)
        lab.go.unlink()
    lab.kill_everything()
    lab.restart()
    lab.wait_running()
    return verify(lab, BLOCKED)


@pytest.fixture
def small_disk(lab):
    """A file system that has room for one and a half checkpoints; how to make it read-only."""
    start(lab)
    size = sum(image.stat().st_size for image in lab.checkpoint())
    where = lab.path("small")
    lab.mkdir(where)
    if os.geteuid() != 0 or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={(size * 3 // 2 + 16384) // 4096 * 4096},mode=777", "small", where],
            stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def expect_failure(lab, pattern):
    with pytest.raises(harness.CommandFailed) as failed:
        lab.run("dmtcp_command", *lab.where(), "-bc")
    assert failed.value.status == 101
    assert re.search(pattern, failed.value.output), failed.value.output
    assert len(failed.value.output.strip().splitlines()) == 1, failed.value.output


def move_to(lab, directory):
    """Checkpoints are made there from now on; the first one."""
    pid = str(lab.program.pid)
    lab.run("dmtcp_command", *lab.where(), "--detach", pid)
    lab.run("dmtcp_command", *lab.where(), "--ckptdir", directory, "--attach", pid)
    lab.run("dmtcp_command", *lab.where(), "-bc")


@users
def test_full_disk(lab, small_disk):
    move_to(lab, small_disk)
    before = sorted(os.listdir(small_disk))
    for _ in range(2):
        expect_failure(lab, "No space left on device")
        assert sorted(os.listdir(small_disk)) == before, "something was left there"
        whole(lab, small_disk)
    lab.kill_everything()
    lab.restart(what=[small_disk])
    lab.wait_running()
    verify(lab, BLOCKED)


@users
def test_read_only_disk(lab, small_disk):
    move_to(lab, small_disk)
    lab.wait_until("nobody writes there", lambda: subprocess.run(
        ["mount", "-o", "remount,ro", small_disk], stderr=subprocess.DEVNULL, check=False).returncode == 0, 10)
    expect_failure(lab, "Read-only file system")
    whole(lab, small_disk)
    verify(lab, BLOCKED)


def debuggers(pid):
    """Of all threads of a process."""
    return {int(re.search(r"TracerPid:\s*(\d+)", status.read_text())[1])
            for status in pathlib.Path("/proc", str(pid), "task").glob("*/status")}


def debug(lab, pid, *options):
    """strace, as ourselves; with -f of all threads."""
    strace = subprocess.Popen(["strace", "-qq", "-o", "/dev/null", *options, "-p", str(pid)], stderr=subprocess.DEVNULL)
    lab.popens.append(strace)
    lab.wait_until("strace has it", lambda: strace.pid in debuggers(pid) and ("-f" not in options or 0 not in debuggers(pid)), 10)
    return strace


def let_go(lab, strace):
    strace.send_signal(signal.SIGINT)
    lab.wait_end(strace, 10)


# What fails in a checkpoint: whose system call, which (counted in each thread).
BROKEN = {
    "begin": ("dmtcp_tracer", "pwrite64", 1),
    "image": ("dmtcp_tracer", "pwrite64", "9+"),
    "sync": ("dmtcp_tracer", "fsync", 1),
    "directory": ("dmtcp_tracer", "fsync", "1+"),
    "script": ("dmtcp_coordinat", "write", 1),
    "script-sync": ("dmtcp_coordinat", "fsync", 1),
    "manifest-sync": ("dmtcp_coordinat", "fsync", 2),
    "manifest-directory": ("dmtcp_coordinat", "fsync", "1+"),
}


@users
@pytest.mark.parametrize("what", BROKEN)
def test_broken_disk(lab, what):
    """The disk fails at some point of a checkpoint."""
    start(lab)
    before = sorted([*lab.checkpoint(), *lab.ckptdir.glob("dmtcp_*")])
    who, call, when = BROKEN[what]
    where = ["-P", lab.ckptdir] if what.endswith("directory") else []
    strace = debug(lab, ours(who).pid, "-f", *where, "-e", f"inject={call}:error=EIO:when={when}")
    expect_failure(lab, "Input/output error")
    let_go(lab, strace)
    assert sorted(lab.ckptdir.iterdir()) == before, "something was left there"
    whole(lab)
    lab.checkpoint()
    verify(lab, BLOCKED)
    lab.wait_gone()


@users
def test_being_debugged(lab):
    """Refused while another tracer has it, by its name; fine afterwards."""
    start(lab)
    strace = debug(lab, lab.program.pid)
    expect_failure(lab, f"{lab.program.pid}.*trace.*{strace.pid}")
    assert strace.pid in debuggers(lab.program.pid)
    let_go(lab, strace)
    lab.checkpoint()
    verify(lab, BLOCKED)


@users
def test_attach_refused(lab):
    """Processes that cannot be had: one line each."""
    lab.start_coordinator()
    gone = lab.popen(["true"])
    gone.wait()
    if lab.user.name != "root" or os.geteuid() != 0:
        cases = [(gone.pid, "no process"), (1, "permit|another user|belongs")]
    else:
        cases = [(gone.pid, "no process"), (2, "may not be traced")]
    for pid, pattern in cases:
        status, said = lab.run("dmtcp_command", *lab.where(), "--attach", str(pid), check=False)
        assert status == 101 and re.search(pattern, said), (pid, status, said)
        assert len(said.strip().splitlines()) == 1, said
