"""The coordinator through checkpoints with tracers that trace nothing (fake_tracer.c): phases, failures in each of
them, generations on disk, a disk that is slow."""

import json
import os
import pathlib
import pty
import signal
import subprocess
import time

import pytest

from coordinator_site import FAKE, needs_fake, PHASES, site, SLOW_SYNC, SOLO_PHASES
from harness import SLOW, wait_until

pytestmark = needs_fake


def test_solo_checkpoint(site):
    site.start()
    site.tracer(FAKE_IMAGES=3)
    site.command("-bc")
    wait_until("the tracer has heard of it", lambda: [line for line in site.lines() if not line.startswith("joined")] == [
        "phase freeze solo", "phase commit", "end 1 complete"])
    assert len(site.images()) == 3 and len(site.manifests()) == 1 and not site.rubbish()
    status = site.status()
    assert status["generation"] == 1 and status["last_bytes"] == 15 and status["running"]
    assert pathlib.Path(status["manifest"]).name == site.manifests()[0]
    script = site.ckptdir / "dmtcp_restart_script.sh"
    assert script.is_symlink() and os.access(script, os.X_OK)


def test_generations_are_replaced(site):
    site.start()
    site.tracer()
    seen = set()
    for generation in range(1, 6):
        site.command("-bc")
        wait_until("the older image is gone", lambda: len(site.images()) == 1)
        assert len(site.manifests()) == 1 and site.manifests()[0].endswith(f"{generation:05}")
        assert len(list(site.ckptdir.glob("dmtcp_restart_script_*"))) == 1
        seen.add(site.images()[0])
    assert len(seen) == 5


def test_generations_are_kept(site):
    site.start("--keep", "3")
    site.tracer()
    for _ in range(5):
        site.command("-bc")
    wait_until("older images are gone", lambda: len(site.images()) == 3)
    assert [m[-5:] for m in site.manifests()] == ["00003", "00004", "00005"]


def test_images_of_a_tracer_that_is_gone(site):
    """The coordinator removes what no tracer of this host is there to remove."""
    site.start()
    site.tracer().kill()
    wait_until("it is gone", lambda: site.status()["tracers"] == 0)
    first = site.tracer()
    site.command("-bc")
    first.send_signal(signal.SIGUSR1)
    assert first.wait(5 * SLOW) == 0
    assert len(site.images()) == 1
    computation = site.status()["computation"]
    site.tracer()
    assert site.status()["computation"] != computation  # another computation: the old checkpoint stays
    site.command("-bc")
    site.command("-bc")
    assert len([m for m in site.manifests() if computation in m]) == 1
    wait_until("only its own are replaced", lambda: len(site.images()) == 2)


def test_two_tracers_keep_step(site):
    site.start()
    site.tracer("anna")
    site.tracer("berta")
    site.command("-bc")
    assert site.phases() == [p for p in PHASES for _ in range(2)]
    assert len(site.images()) == 2
    text = (site.ckptdir / site.manifests()[0]).read_text()
    assert 'host 0 "anna"' in text + text.replace("berta", "anna") and text.endswith("end 2\n")


@pytest.mark.parametrize("how", ["FAIL", "VANISH"])
@pytest.mark.parametrize("count,phase", [(1, p) for p in SOLO_PHASES] + [(2, p) for p in PHASES])
def test_failure_in_a_phase(site, how, count, phase):
    site.start()
    good = site.tracer("anna") if count == 2 else None
    bad = site.tracer("berta")
    site.command("-bc")
    images, manifests = site.images(), site.manifests()
    bad.send_signal(signal.SIGUSR1)
    assert bad.wait(5 * SLOW) == 0
    if not good:
        images, manifests = [], []
        for file in site.ckptdir.iterdir():
            file.unlink()
    bad = site.tracer("berta", **{f"FAKE_{how}": phase})
    code, out, err = site.command("-bc", check=False)
    assert code == 101 and err.count("\n") == 1
    assert ("told to fail" if how == "FAIL" else "the tracer ended") in err
    if count == 2:
        assert "berta: " in err
    if how == "FAIL" or count == 2:
        assert any(line.startswith("abort ") for line in site.lines())
    if how == "FAIL":  # who vanishes leaves its own files
        assert site.images() == images and not site.rubbish()
    assert site.manifests() == manifests
    if how == "FAIL":
        bad.kill()
    bad.wait()
    wait_until("it is gone", lambda: site.status()["tracers"] == count - 1)
    site.tracer("berta")
    site.command("-bc")
    assert site.status()["last_error"] == "" and len(site.manifests()) == 1


def test_abort_reaches_the_busy(site):
    site.start()
    site.tracer("anna", FAKE_WAIT="write")
    site.tracer("berta", FAKE_FAIL="write")
    code, _, err = site.command("-bc", check=False)
    assert code == 101 and "berta: process 100: fd 3 (fake): told to fail" in err
    assert sum(line.startswith("abort ") for line in site.lines()) == 2


def test_kill_interrupts_a_checkpoint(site):
    site.start()
    tracer = site.tracer(FAKE_WAIT="write")
    waiting = site.popen([site.bin("dmtcp_command"), "-p", site.port, "-bc"], stderr=subprocess.PIPE)
    wait_until("the phase began", lambda: site.phases())
    assert site.status()["phase"] == "freeze"  # answered at once although the tracer is busy
    site.command("k")
    assert waiting.wait(5 * SLOW) == 101 and b"killed" in waiting.stderr.read()
    assert tracer.wait(5 * SLOW) == 0 and site.images() == []


def test_checkpoint_and_kill(site):
    site.start("--exit-on-last")
    tracer = site.tracer()
    site.command("-kc")
    assert tracer.wait(5 * SLOW) == 0
    assert site.coordinator.wait(5 * SLOW) == 0
    assert [line for line in site.lines() if not line.startswith("joined")] == [
        "phase freeze solo hold", "phase commit hold", "end 1 complete", "kill", "leave 1"]
    assert len(site.images()) == 1 and len(site.manifests()) == 1


def test_kill_after_ckpt(site):
    site.start("--kill-after-ckpt")
    tracer = site.tracer()
    site.command("-bc")
    assert tracer.wait(5 * SLOW) == 0 and len(site.manifests()) == 1


def test_checkpoint_that_fails_does_not_kill(site):
    site.start()
    site.tracer(FAKE_FAIL="write")
    code, _, err = site.command("-kc", check=False)
    assert code == 101 and "told to fail" in err and "kill" not in site.lines()


def test_checkpoint_directory_can_not_be_written(site):
    site.start()
    site.tracer()
    site.ckptdir.rmdir()
    site.ckptdir.write_text("not a directory")
    code, _, err = site.command("-bc", check=False)
    assert code == 101 and str(site.ckptdir) in err and "Not a directory" in err
    assert site.phases() == []  # nobody was frozen for it
    site.ckptdir.unlink()
    site.command("-bc")


def test_many_ask_for_checkpoints(site):
    """All who wait get an answer; checkpoints do not overlap."""
    site.start()
    site.tracer("anna")
    site.tracer("berta")
    asking = [site.popen([site.bin("dmtcp_command"), "-p", site.port, "-bc"]) for _ in range(12)]
    assert [p.wait(30 * SLOW) for p in asking] == [0] * 12
    phases = site.phases()
    assert phases == [p for p in PHASES for _ in range(2)] * (len(phases) // 16)


@pytest.fixture
def slow_disk(site):
    """The coordinator's disk does not finish before the returned file is gone."""
    slow = site.dir / "slow"
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    site.start(env=site.env(LD_PRELOAD=SLOW_SYNC, SLOW_SYNC=slow, ASAN_OPTIONS=asan))
    slow.touch()
    return slow


def begin_slow_commit(site):
    asking = site.popen([site.bin("dmtcp_command"), "-p", site.port, "-bc"], stderr=subprocess.PIPE)
    wait_until("the disk has work", site.dir.joinpath("slow.waits").exists)
    return asking


def test_slow_disk_holds_up_nobody(site, slow_disk):
    """While the manifest is on its way to the disk the coordinator answers; what must wait for it, waits."""
    tracer = site.tracer()
    asking = begin_slow_commit(site)
    status = site.status()
    assert status["phase"] == "commit" and status["generation"] == 0 and not status["running"]
    tracer.send_signal(signal.SIGUSR1)
    wait_until("it was told to stay", lambda: any(line.startswith("leave 0") for line in site.lines()))
    assert asking.poll() is None
    slow_disk.unlink()
    assert asking.wait(10 * SLOW) == 0 and len(site.manifests()) == 1
    assert site.status()["generation"] == 1 and not site.rubbish()


def test_slow_disk_and_the_tracer_dies(site, slow_disk):
    """All images are there: the checkpoint is complete, whatever happens to the processes meanwhile."""
    tracer = site.tracer()
    asking = begin_slow_commit(site)
    tracer.kill()
    wait_until("it is gone", lambda: "ended without a word" in site.coordinator_log())
    slow_disk.unlink()
    assert asking.wait(10 * SLOW) == 0 and len(site.manifests()) == 1
    assert site.status()["generation"] == 1


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM])
def test_slow_disk_and_the_end(site, slow_disk, signum):
    site.tracer()
    asking = begin_slow_commit(site)
    site.coordinator.send_signal(signum)
    wait_until("it has got it", lambda: "ending" in site.coordinator_log())
    slow_disk.unlink()
    assert asking.wait(10 * SLOW) == 0 and len(site.manifests()) == 1 and not site.rubbish()
    assert site.coordinator.wait(10 * SLOW) == 0


def test_slow_disk_and_the_next_computation(site, slow_disk):
    tracer = site.tracer()
    asking = begin_slow_commit(site)
    tracer.kill()
    wait_until("it is gone", lambda: "ended without a word" in site.coordinator_log())
    next_one = site.popen([FAKE], env=site.env(FAKE_PORT=site.port))
    slow_disk.unlink()
    wait_until("it joins", lambda: sum(line.startswith("joined 0") for line in site.lines()) == 2)
    assert asking.wait(10 * SLOW) == 0 and next_one.poll() is None
    site.command("-bc")
    assert site.status()["generation"] == 1 and len(site.manifests()) == 2


def test_interval(site):
    site.start()
    site.tracer()
    site.command("i", "1")
    assert "CKPT_INTERVAL=1" in site.command("s")
    wait_until("two checkpoints by themselves", lambda: site.status()["generation"] >= 2, 20)
    site.command("i", "0")


def test_checkpoint_returns_at_once(site):
    site.start()
    site.tracer(FAKE_WAIT="write")
    site.command("-c")
    wait_until("it began", lambda: site.phases())


def test_progress_on_a_terminal_only(site):
    site.start()
    site.tracer()
    code, out, err = site.command("-bc", check=False)
    assert (code, out, err) == (0, "", "")
    master, slave = pty.openpty()
    command = site.popen([site.bin("dmtcp_command"), "-p", site.port, "-bc"], stderr=slave)
    os.close(slave)
    assert command.wait(10 * SLOW) == 0
    said = b""
    try:
        while chunk := os.read(master, 4096):
            said += chunk
    except OSError:  # the other end is closed
        pass
    os.close(master)
    said = said.decode()
    assert "write: 1/1 processes, 5 B of 5 B" in said and said.endswith("\r\x1b[K")


def test_list_backtraces_detach(site):
    site.start()
    site.tracer()
    assert "1, fa?ke[100:100]@" in site.command("l")
    listed = json.loads(site.command("--json", "l"))
    assert listed[0]["program"] == "fa\nke" and listed[0]["threads"] == 2 and listed[0]["tracer"] > 0
    assert site.command("--bt") == "100 fake: main()\n"
    assert json.loads(site.command("--json", "--bt")) == {"text": "100 fake: main()\n"}
    site.command("--detach", "100")
    assert "detach 100" in site.lines()


def test_silent_tracer(site):
    """A tracer that was stopped holds up neither the status nor, for ever, anything else."""
    site.start()
    tracer = site.tracer()
    assert site.status()["processes"] == 1
    tracer.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert site.status()["processes"] == 1
    assert time.monotonic() - began < 3 * SLOW
    code, _, err = site.command("l", check=False)
    assert code == 101 and f"the tracer (pid {tracer.pid}) does not answer" in err
    tracer.send_signal(signal.SIGCONT)
    assert "fa?ke" in site.command("l")
    site.command("-bc")


def test_second_tracer_of_a_host(site):
    site.start()
    site.tracer()
    second = site.popen([FAKE], env=site.env(FAKE_PORT=site.port))
    assert second.wait(5 * SLOW) == 1
    assert "belong to this coordinator already" in site.lines()[-2]
