"""Storms: trees that do one thing as fast as they can (tests/programs/storm_*.c), checkpointed many times at
random instants, with and without a restart in between. They check themselves all the time.

DMTCP_STORM_COUNT checkpoints of each (default 6; tests/soak.sh takes 200); DMTCP_STORM_SEED repeats a run."""

import os
import random
import time

import pytest

import harness
from survive import Program, await_ready, control, verify

COUNT = int(os.environ.get("DMTCP_STORM_COUNT", "6"))
SEED = int(os.environ.get("DMTCP_STORM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)

STORMS = sorted(path.stem for path in (harness.ROOT / "tests" / "programs").glob("storm_*.c"))


@pytest.fixture
def instants(request):
    """Sleeps for a random time; the seed is in the report of a failure."""
    chance = random.Random(f"{SEED} {request.node.name}")
    print(f"DMTCP_STORM_SEED={SEED}")

    def sleep(most=0.15):
        time.sleep(chance.uniform(0, most))

    return sleep


def known_users():
    return [name for name in ("root", "user") if name in harness.users()]


@pytest.mark.parametrize("name", STORMS)
def test_control(lab, name):
    lab.run_bare(lab.program_argv(name))
    await_ready(lab)
    time.sleep(0.3)
    verify(lab, Program(name))


@pytest.mark.parametrize("name", STORMS)
def test_can_fail(lab, name):
    with pytest.raises(AssertionError, match="FAIL: "):
        control(lab, Program(name), "--break")


@pytest.mark.parametrize("user", known_users(), indirect=True)
@pytest.mark.parametrize("name", STORMS)
def test_checkpoints(lab, name, instants):
    """Checkpoint and go on, again and again."""
    lab.launch(lab.program_argv(name))
    await_ready(lab)
    for number in range(COUNT):
        instants()
        lab.checkpoint()
        assert lab.program.poll() is None, f"after checkpoint {number}: {lab.lines()}"
    verify(lab, Program(name))
    lab.wait_gone()


@pytest.mark.parametrize("user", known_users(), indirect=True)
@pytest.mark.parametrize("name", STORMS)
def test_restarts(lab, name, instants):
    """Checkpoint, kill everything, restart, again and again."""
    lab.launch(lab.program_argv(name))
    await_ready(lab)
    for number in range(max(2, COUNT // 3)):
        instants()
        if name == "storm_files":  # what it deletes after a checkpoint is gone for the restart
            lab.checkpoint_and_kill()
        else:
            lab.checkpoint()
            instants(0.05)
        lab.kill_everything()
        lab.restart()
        lab.wait_running()
        assert lab.program.poll() is None, f"after restart {number}: {lab.lines()}"
    verify(lab, Program(name))
    lab.wait_gone()


def attach(lab, pid):
    lab.run("dmtcp_command", *lab.where(), "--ckptdir", lab.ckptdir, "--attach", pid)


@pytest.mark.parametrize("user", known_users(), indirect=True)
@pytest.mark.parametrize("name", STORMS)
def test_attached(lab, name, instants):
    """A storm that nobody launched: adopted, checkpointed, let go; and it goes on by itself."""
    lab.start_coordinator()
    program = lab.run_bare(lab.program_argv(name))
    await_ready(lab)
    attach(lab, program.pid)
    for _ in range(max(2, COUNT // 2)):
        instants()
        lab.checkpoint()
    lab.run("dmtcp_command", *lab.where(), "--detach", program.pid)
    tracer_gone(lab)
    verify(lab, Program(name))


def tracer_gone(lab):
    lab.wait_until("the tracer has gone",
                   lambda: not [p for p in harness.descendants() if p.comm == "dmtcp_tracer" and p.alive])


def start_pipeline_and_daemon(lab):
    """What a plain shell starts: a pipeline, and a daemon that leaves its tree. Both are adopted; returns their pids."""
    script = lab.write("start.sh", f"""
        set -e
        {lab.bin.program("count")} --go "$1" --out "$2" >/dev/null
        """, 0o755)
    work = lab.write("work.sh", f"""
        (setsid sh {script} {lab.go} {lab.path("daemon.out")} </dev/null >/dev/null 2>&1 &)
        i=0
        while [ ! -e {lab.go} ]; do echo $i; i=$((i+1)); sleep 0.01; done |
            tee {lab.path("numbers")} | {{ sum=0; while read n; do sum=$((sum+n)); done; echo $sum > {lab.path("sum")}; }}
        echo ready-to-end >> {lab.out}
        """, 0o755)
    lab.start_coordinator()
    shell = lab.run_bare(["bash", work])
    lab.wait_until("the daemon is ready", lambda: "ready" in lab.tail("daemon.out"))
    lab.wait_until("numbers come", lambda: lab.tail("numbers").count("\n") > 5)
    # the daemon has left the shell's tree: it is adopted by its own pid
    daemon = [p for p in harness.descendants() if p.comm == "count"][0]
    attach(lab, shell.pid)
    attach(lab, daemon.pid)
    return shell.pid, daemon.pid


def verify_pipeline_and_daemon(lab):
    lab.go.touch()
    assert lab.finish() == 0
    lab.wait_until("the daemon ends", lambda: "PASS" in lab.tail("daemon.out"))
    numbers = [int(n) for n in lab.tail("numbers", 1 << 30).split()]
    assert numbers == list(range(len(numbers)))
    assert int(lab.tail("sum")) == sum(numbers)


@pytest.mark.parametrize("user", known_users(), indirect=True)
def test_attached_pipeline_and_daemon_checkpoints(lab, instants):
    """Adopted, checkpointed at random instants, let go; and they go on by themselves."""
    pids = start_pipeline_and_daemon(lab)
    for _ in range(max(2, COUNT // 2)):
        instants()
        lab.checkpoint()
    for pid in pids:
        lab.run("dmtcp_command", *lab.where(), "--detach", pid)
    tracer_gone(lab)
    verify_pipeline_and_daemon(lab)


@pytest.mark.parametrize("user", known_users(), indirect=True)
def test_attached_pipeline_and_daemon_restarts(lab, instants):
    """Adopted, checkpointed, killed, restarted, again and again."""
    start_pipeline_and_daemon(lab)
    for _ in range(max(2, COUNT // 3)):
        instants()
        lab.checkpoint()
        instants(0.05)
        lab.kill_everything()
        lab.restart()
        lab.wait_running()
    verify_pipeline_and_daemon(lab)
