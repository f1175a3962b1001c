"""Who starts the coordinator and the tracer (here one that traces nothing), and what if one can't or dies."""

import os
import signal
import subprocess
import time

import pytest

from coordinator_site import free_port, needs_fake, site, sleeper
from harness import SLOW, wait_until

pytestmark = needs_fake


def attach(site, pid, *options, **env):
    return site.popen([site.bin("dmtcp_command"), "-p", site.port, "--ckptdir", site.ckptdir, *options, "--attach", pid],
                      stderr=subprocess.PIPE, env=site.env(**env))


def test_concurrent_launches(site):
    """Nothing is running, not even a key is there: ten come at once; one coordinator, one tracer, ten trees."""
    site.port = free_port()
    programs = [sleeper(site) for _ in range(10)]
    launches = [attach(site, p.pid) for p in programs]
    for launch in launches:
        assert launch.wait(30 * SLOW) == 0, launch.stderr.read()
    lines = site.lines()
    assert lines.count("adopt sleep") == 10
    assert [line for line in lines if line.startswith("joined")] == ["joined 0 "]
    status = site.status()
    assert status["tracers"] == 1 and status["processes"] == 11 and status["exit_on_last"]
    site.command("k")
    wait_until("the coordinator goes with the last one", lambda: site.command("s", check=False)[0] == 100)


def test_tracer_that_can_not_start(site):
    site.port = free_port()
    program = sleeper(site)
    launch = attach(site, program.pid, FAKE_CRASH=1, FAKE_TEXT="no perf, no proc, no luck")
    assert launch.wait(20 * SLOW) == 101
    assert launch.stderr.read() == b"dmtcp_command: starting dmtcp_tracer: no perf, no proc, no luck\n"
    launch = attach(site, program.pid, FAKE_CRASH=1)
    assert launch.wait(20 * SLOW) == 101 and b"it died at once" in launch.stderr.read()
    # Its coordinator was of no use to anybody.
    wait_until("the coordinator goes", lambda: site.command("s", check=False)[0] == 100)
    (site.base / "tracer" / "dmtcp_tracer").unlink()
    launch = attach(site, program.pid)
    assert launch.wait(20 * SLOW) == 101 and b"dmtcp_tracer is neither" in launch.stderr.read()


def test_next_launcher_takes_over(site):
    """The launcher that was to start the tracer dies of it; the one that waited behind it starts another."""
    site.start()
    programs = [sleeper(site) for _ in range(5)]
    launches = [attach(site, programs[0].pid, FAKE_CRASH=1, FAKE_TEXT="bad luck")]
    launches += [attach(site, p.pid) for p in programs[1:]]
    codes = [launch.wait(30 * SLOW) for launch in launches]
    assert codes[1:] == [0] * 4 and codes[0] in (0, 101)
    assert site.lines().count("adopt sleep") == codes.count(0)


def test_tracer_refuses(site):
    site.start()
    launch = attach(site, sleeper(site).pid, FAKE_REFUSE=1)
    assert launch.wait(20 * SLOW) == 101
    assert launch.stderr.read() == b"dmtcp_command: pid 100: told to refuse\n"


def test_tracer_dies_over_it(site):
    site.start()
    launch = attach(site, sleeper(site).pid, FAKE_VANISH="adopt")
    assert launch.wait(20 * SLOW) == 101 and b"the tracer ended" in launch.stderr.read()


def test_attach_of_nobody(site):
    site.start()
    gone = site.popen(["true"])
    gone.wait()
    launch = attach(site, gone.pid)
    assert launch.wait(20 * SLOW) == 101 and b"no process with pid" in launch.stderr.read()


def test_attach_waits_for_the_checkpoint(site):
    site.start()
    tracer = site.tracer(FAKE_WAIT="write")
    site.command("-c")
    wait_until("it began", lambda: site.phases())
    launch = attach(site, sleeper(site).pid)
    time.sleep(0.2)
    assert launch.poll() is None and "adopt sleep" not in site.lines()
    tracer.kill()
    assert launch.wait(20 * SLOW) == 0  # by a tracer of its own


def test_background_things_hold_nothing(site):
    read, write = os.pipe()
    os.set_inheritable(write, True)
    site.port = free_port()
    program = sleeper(site)
    launch = subprocess.run([site.bin("dmtcp_command"), "-p", str(site.port), "--attach", str(program.pid)], cwd=site.dir,
                            env=site.env(), pass_fds=[write], capture_output=True, timeout=30 * SLOW)
    assert launch.returncode == 0, launch.stderr
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    site.command("q")


def test_leaving_tracer_stays_for_a_new_tree(site):
    site.start()
    tracer = site.tracer()
    tracer.send_signal(signal.SIGSTOP)
    launch = attach(site, sleeper(site).pid)
    wait_until("the tree is handed over", lambda: site.coordinator_log().count("joined") == 1)
    time.sleep(0.2)
    tracer.send_signal(signal.SIGUSR1)
    tracer.send_signal(signal.SIGCONT)
    assert launch.wait(10 * SLOW) == 0
    assert tracer.wait(10 * SLOW) == 0 or "leave 0" in site.lines()
