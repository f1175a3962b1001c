"""The coordinator and dmtcp_command with tracers that trace nothing (fake_tracer.c): phases, failures in each of
them, who starts a tracer, generations on disk, the restart script, strangers at the port."""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import time

import pytest

import harness
from harness import BUILD, SLOW, wait_until

FAKE = BUILD / "tests" / "e2e" / "fake_tracer"
SLOW_SYNC = BUILD / "tests" / "e2e" / "slow_sync.so"
PHASES = ["freeze", "collect", "match", "peek-send", "peek-recv", "write", "resume", "commit"]
SOLO_PHASES = [p for p in PHASES if p != "resume"]

pytestmark = pytest.mark.skipif(not FAKE.exists(), reason=f"not built: {FAKE}")


class Site:
    """Our commands in a tree of their own, with the fake as dmtcp_tracer; a home, a key, a checkpoint directory."""

    def __init__(self, base):
        self.base = base
        self.dir = base / "work"
        self.ckptdir = base / "ckpt"
        for part in ("coordinator", "tracer", "restorer", "work", "ckpt", "home"):
            (base / part).mkdir()
        for name in ("dmtcp_coordinator", "dmtcp_command"):
            shutil.copy2(BUILD / "coordinator" / name, base / "coordinator" / name)
        shutil.copy2(FAKE, base / "tracer" / "dmtcp_tracer")
        self.logs = base / "log"
        self.port = None
        self.coordinator = None
        self.popens = []

    def env(self, **more):
        keep = ("PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "DMTCP_LOG_LEVEL")
        env = {name: os.environ[name] for name in keep if name in os.environ}
        env.update(HOME=str(self.base / "home"), LANG="C.UTF-8", TMPDIR=str(self.dir), FAKE_LOG=str(self.logs),
                   FAKE_DIR=str(self.ckptdir))
        env.update({name: str(value) for name, value in more.items()})
        return env

    def popen(self, argv, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("cwd", self.dir)
        options.setdefault("env", self.env())
        process = subprocess.Popen([str(a) for a in argv], **options)
        self.popens.append(process)
        return process

    def bin(self, name):
        return self.base / "coordinator" / name

    def start(self, *options, **popen_options):
        port_file = self.dir / "port"
        port_file.unlink(missing_ok=True)
        with open(self.base / "coordinator.log", "ab") as log:
            popen_options.setdefault("stderr", log)
            popen_options.setdefault("stdout", log)
            self.coordinator = self.popen([self.bin("dmtcp_coordinator"), "-p", "0", "--port-file", port_file,
                                           "--ckptdir", self.ckptdir, *options], **popen_options)
        wait_until("the port file is there", port_file.exists)
        self.port = int(port_file.read_text())
        return self.port

    def coordinator_log(self):
        return (self.base / "coordinator.log").read_text(errors="replace")

    def command(self, *args, check=True, env=None, seconds=30):
        done = subprocess.run([str(self.bin("dmtcp_command")), "-p", str(self.port), *map(str, args)], cwd=self.dir,
                              env=env or self.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=seconds * SLOW)
        out, err = done.stdout.decode(), done.stderr.decode()
        if check:
            assert done.returncode == 0, (args, done.returncode, out, err)
            return out
        return done.returncode, out, err

    def status(self):
        return json.loads(self.command("--json", "-s"))

    def lines(self, log=None):
        log = log or self.logs
        return log.read_text().splitlines() if log.exists() else []

    def tracer(self, host="", count=1, **env):
        """Start a fake tracer by hand and wait until it has joined."""
        before = sum(line.startswith("joined 0") for line in self.lines())
        env = self.env(FAKE_PORT=self.port, **({"FAKE_HOST": host} if host else {}), **env)
        process = self.popen([FAKE], env=env)
        wait_until("the tracer joins",
                   lambda: sum(line.startswith("joined 0") for line in self.lines()) == before + 1)
        return process

    def phases(self):
        return [line.split()[1] for line in self.lines() if line.startswith("phase ")]

    def images(self):
        return sorted(p.name for p in self.ckptdir.glob("*.dmtcp"))

    def manifests(self):
        return sorted(p.name for p in self.ckptdir.glob("dmtcp_manifest_*"))

    def rubbish(self):
        return sorted(p.name for p in self.ckptdir.iterdir() if "tmp" in p.name)

    def close(self):
        for process in self.popens:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def sleeper(site):
    return site.popen(["sleep", "1000"])


# ---------------------------------------------------------------------------------------------
# Starting, asking, ending


def test_status_and_quit(site):
    site.start()
    status = site.status()
    assert status["port"] == site.port and status["processes"] == 0 and not status["running"]
    text = site.command("s")
    assert "NUM_PEERS=0" in text and "RUNNING=no" in text and "CKPT_INTERVAL=0" in text
    site.command("-q")
    assert site.coordinator.wait(5 * SLOW) == 0
    with socket.socket() as s:  # the port was free when -q returned
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", site.port))


def test_exit_codes(site):
    site.port = free_port()
    code, _, err = site.command("s", check=False)
    assert code == 100 and "refused" in err and err.count("\n") == 1
    assert site.command("nonsense", check=False)[0] == 99
    assert site.command("i", check=False)[0] == 99
    assert site.command("s", check=False, env=site.env(DMTCP_FAIL_RC=7))[0] == 8
    assert site.command("s", check=False, env=site.env(DMTCP_COORD_PORT="x"))[0] == 99
    site.start()
    code, _, err = site.command("-bc", check=False)
    assert code == 101 and "nothing to checkpoint" in err
    assert "--bcheckpoint" in site.command("--help")
    assert site.command("--check") == "checked\n"


def test_order_of_commands(site):
    site.start()
    out = site.command("i", "7", "s", "-i", "9", "-s")
    assert out.index("CKPT_INTERVAL=7") < out.index("CKPT_INTERVAL=9")


def test_daemon_lets_go_of_everything(site):
    """$(dmtcp_coordinator --daemon) ends at once, and what runs on holds nothing of the caller."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with open(site.dir / "file", "w") as file:
        started = subprocess.run([site.bin("dmtcp_coordinator"), "--daemon", "-p", "0", "--port-file", site.dir / "port",
                                  "--status-file", "status"],
                                 cwd=site.dir, env=site.env(), stdin=file, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, pass_fds=[write], timeout=30 * SLOW)
        assert (started.returncode, started.stdout, started.stderr) == (0, b"", b"")
    os.close(write)
    assert os.read(read, 1) == b""  # nobody has the other end
    os.close(read)
    site.port = int((site.dir / "port").read_text())
    pid = site.status()["pid"]
    targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert [t for t in targets if t.startswith("/") and t != "/dev/null"] == []
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid
    assert f"Port: {site.port}" in (site.dir / "status").read_text()
    site.command("q")


def test_port_is_taken(site):
    site.start()
    for extra in ([], ["--daemon"]):
        second = subprocess.run([site.bin("dmtcp_coordinator"), "-p", str(site.port), *extra], cwd=site.dir,
                                env=site.env(), stdin=subprocess.DEVNULL, capture_output=True, timeout=30 * SLOW)
        assert second.returncode == 100 and b"Address already in use" in second.stderr


def test_standard_input(site):
    read, write = os.pipe()
    site.start(stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    tracer = site.tracer()

    def say(text, *expected):
        os.write(write, text.encode())
        said = b""
        end = time.monotonic() + 20 * SLOW
        while not all(e.encode() in said for e in expected):
            assert time.monotonic() < end, said
            if select.select([site.coordinator.stdout], [], [], 0.1)[0]:
                said += os.read(site.coordinator.stdout.fileno(), 4096)
        return said.decode()

    say("?\n", "COMMANDS", "kc:")
    say("s\n", "NUM_PEERS=1", "RUNNING=yes")
    assert "fa?ke[100:100]" in say("l\n", "fa?ke")
    say("i\n", "checkpoint manually")
    say("i 12\ni\n", "interval: 12 seconds")
    say("f\n", "no restart is going on")
    say("rubbish\n", "unhandled command: rubbish")
    say("c\n")
    wait_until("the checkpoint is complete", lambda: "GENERATION=1" in say("s\n", "GENERATION=", "CKPT_DIR="))
    say("k\n")
    assert tracer.wait(5 * SLOW) == 0
    os.write(write, b"q\n")
    assert site.coordinator.wait(5 * SLOW) == 0
    os.close(write)


@pytest.mark.parametrize("source", ["file", "null", "closed"])
def test_standard_input_ends(site, source):
    (site.dir / "commands").write_text("s\ni 5\n")
    path = site.dir / "commands" if source == "file" else "/dev/null"
    if source == "closed":
        site.start(stdin=None, preexec_fn=lambda: os.close(0))
    else:
        with open(path) as file:
            site.start(stdin=file)
    assert site.status()["interval"] == (5 if source == "file" else 0)


@pytest.mark.parametrize("signum,kills", [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_signals(site, signum, kills):
    site.start()
    tracer = site.tracer()
    site.coordinator.send_signal(signum)
    assert site.coordinator.wait(10 * SLOW) == 0
    tracer.wait(5 * SLOW)
    assert ("kill" in site.lines()) == kills


def test_timeouts(site):
    site.start("--timeout", "1")
    site.tracer()
    assert site.coordinator.wait(20 * SLOW) == 0
    site.start("--stale-timeout", "1")
    assert site.coordinator.wait(20 * SLOW) == 0


# ---------------------------------------------------------------------------------------------
# Strangers


def test_key_file(site):
    site.start()
    key = site.base / "home" / ".dmtcp" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    key.chmod(0o644)
    code, _, err = site.command("s", check=False)
    assert code == 100 and "others can read" in err
    key.chmod(0o600)
    key.write_text("too short")
    code, _, err = site.command("s", check=False)
    assert code == 100 and "too short" in err


def test_without_home(site):
    env = site.env()
    del env["HOME"]
    with open(site.base / "coordinator.log", "ab") as log:
        site.start(env=env, stderr=log)
    assert site.command("s", env=env)
    directory = site.dir / f"dmtcp-{os.geteuid()}"
    assert (directory / "key").exists() and stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o777)
    code, _, err = site.command("s", check=False, env=env)
    assert code == 100 and "only you can write" in err


def test_another_users_coordinator(site):
    site.start()
    code, _, err = site.command("q", check=False, env=site.env(DMTCP_KEY_FILE=site.dir / "other-key"))
    assert code == 100 and "another user" in err
    assert site.status()["port"] == site.port


@pytest.mark.parametrize("speech", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n", b"\x08\x00\x00\x00garbage!"])
def test_another_service_at_the_port(site, speech):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        site.port = server.getsockname()[1]
        command = site.popen([site.bin("dmtcp_command"), "-p", site.port, "s"], stderr=subprocess.PIPE)
        client, _ = server.accept()
        client.sendall(speech)
        if not speech:
            client.close()
        code = command.wait(30 * SLOW)
        assert code == 100 and b"not a dmtcp coordinator" in command.stderr.read()
        client.close()


@pytest.mark.parametrize("noise", [
    b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100, b"\xff" * 100, b"\x04\0\0\0abcd", b"\0\0\0\0" * 10,
    b"\x07\0\0\0\x0d\x44\x43\x50\x31\x10\x63"])
def test_noise(site, noise):
    site.start()
    with socket.create_connection(("127.0.0.1", site.port)) as s:
        s.sendall(noise)
        s.settimeout(10 * SLOW)
        assert s.recv(1000) == b""
    lines = [line for line in site.coordinator_log().splitlines() if "connection from" in line]
    assert len(lines) == 1
    assert site.status()["port"] == site.port


def test_many_unfinished_handshakes(site):
    site.start()
    held = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(200)]
    assert site.status()["port"] == site.port
    for s in held:
        s.close()


def test_silent_after_the_handshake(site):
    """A restart connects first and joins when all is rebuilt: meanwhile it is not taken for an unfinished handshake."""
    site.start()
    silent = site.popen([FAKE], env=site.env(FAKE_PORT=site.port, FAKE_SILENT=1))
    wait_until("it has connected", lambda: "silent" in site.lines())
    assert site.status()["port"] == site.port  # its greeting has been read as well
    held = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(200)]
    assert site.status()["port"] == site.port
    silent.send_signal(signal.SIGUSR1)
    wait_until("it joins", lambda: any(line.startswith("joined 0") for line in site.lines()))
    for s in held:
        s.close()


# ---------------------------------------------------------------------------------------------
# Checkpoints


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


# ---------------------------------------------------------------------------------------------
# Who starts the coordinator and the tracer


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


# ---------------------------------------------------------------------------------------------
# Restarts


def restarter(site, host, hosts, **env):
    env = {"FAKE_COMPUTATION": "comp-1", "FAKE_GENERATION": 4, **env}
    return site.popen([FAKE], env=site.env(FAKE_PORT=site.port, FAKE_HOST=host, FAKE_RESTART=hosts,
                                           FAKE_LOG=site.base / f"log-{host}", **env))


def test_restart_on_two_hosts(site):
    site.start()
    restarter(site, "anna", 2)
    wait_until("the first one waits", lambda: "restart joined 0 " in site.lines(site.base / "log-anna"))
    status = site.status()
    assert status["restarting"] and not status["running"] and status["computation"] == "comp-1"
    waiting = site.popen([site.bin("dmtcp_command"), "-p", site.port, "-bc"])  # done when it runs
    restarter(site, "berta", 2)
    for host in ("anna", "berta"):
        log = site.base / f"log-{host}"
        wait_until("it runs", lambda: "joined 0 " in site.lines(log))
        assert site.lines(log)[:5] == ["restart joined 0 ", "name found anna", "name found berta", "name missing ",
                                       "restarted 0 "]
    assert waiting.wait(10 * SLOW) == 0
    site.command("-bc")
    assert site.status()["generation"] >= 5
    assert "comp-1" in site.manifests()[0]


def test_names_are_written_down(site):
    site.start("--write-kv-data")
    process = restarter(site, "anna", 1)
    wait_until("it runs", lambda: "joined 0 " in site.lines(site.base / "log-anna"))
    site.command("q")
    process.wait()
    site.coordinator.wait(10 * SLOW)
    assert json.loads((site.ckptdir / "dmtcp_kv_data_comp-1.json").read_text()) == [{"key": "anna", "value": "anna"}]


def test_restart_fails_on_one_host(site):
    site.start()
    restarter(site, "anna", 2)
    log = site.base / "log-anna"
    wait_until("the first one waits", lambda: "restart joined 0 " in site.lines(log))
    other = restarter(site, "berta", 3)  # waits for a third, and dies
    wait_until("the second one waits", lambda: site.lines(site.base / "log-berta"))
    other.kill()
    wait_until("the first one fails", lambda: len(site.lines(log)) > 1)
    assert "the restart on another host failed" in site.lines(log)[1]
    wait_until("all is over", lambda: not site.status()["restarting"])


def test_forced_restart(site):
    read, write = os.pipe()
    site.start(stdin=read)
    restarter(site, "anna", 2)
    log = site.base / "log-anna"
    wait_until("the first one waits", lambda: "restart joined 0 " in site.lines(log))

    def forced():
        os.write(write, b"f\n")
        return "joined 0 " in site.lines(log)

    wait_until("it runs alone", forced, interval=0.05)
    assert site.status()["running"]
    os.close(read), os.close(write)


def test_restart_of_something_else(site):
    site.start()
    restarter(site, "anna", 2)
    wait_until("the first one waits", lambda: site.lines(site.base / "log-anna"))
    restarter(site, "berta", 2, FAKE_COMPUTATION="comp-2").wait(10 * SLOW)
    assert "has a computation already (comp-1)" in site.lines(site.base / "log-berta")[0]
    restarter(site, "clara", 2, FAKE_COMPUTATION="../../etc").wait(10 * SLOW)
    assert "not a proper request" in site.lines(site.base / "log-clara")[0]


def test_restart_goes_on_from_its_generation(site):
    """What was restarted from is replaced by the next generation; a second restart of it gets a name of its own."""
    site.start()
    first = site.tracer()
    site.command("-bc")
    computation = site.status()["computation"]
    backup = site.base / "backup"
    shutil.copytree(site.ckptdir, backup, symlinks=True)
    site.command("q")
    first.wait()
    for _ in range(2):
        site.start()
        process = restarter(site, "anna", 1, FAKE_COMPUTATION=computation, FAKE_GENERATION=1)
        log = site.base / "log-anna"
        wait_until("it runs", lambda: "joined 0 " in site.lines(log))
        site.command("-bc")
        assert site.status()["generation"] == 2
        wait_until("the older image is gone", lambda: "ckpt_fake_-" not in " ".join(site.images()))
        site.command("q")
        process.wait()
        log.unlink()
        for file in backup.iterdir():
            if not (site.ckptdir / file.name).exists() and not file.is_symlink():
                shutil.copy2(file, site.ckptdir / file.name)
    assert len([m for m in site.manifests() if m.endswith("00002")]) == 2


# ---------------------------------------------------------------------------------------------
# The restart script


ODD = "it's a \"test\" of $HOME `and` \\ so\non; rm -rf *"


def make_script(site, *hosts):
    """Checkpoint odd names on these hosts; the script and the image names."""
    site.start()
    for host in hosts:
        site.tracer(host, FAKE_NAME=ODD, FAKE_IMAGES=2)
    site.command("-bc")
    restart = site.base / "restorer" / "dmtcp_restart"
    restart.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >"$FAKE_OUT"\nexit 42\n')
    restart.chmod(0o755)
    return site.ckptdir / "dmtcp_restart_script.sh"


def run_script(site, script, *args, **env):
    out = site.base / "arguments"
    out.unlink(missing_ok=True)
    done = subprocess.run([script, *map(str, args)], cwd=site.dir, env=site.env(FAKE_OUT=out, **env),
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=30 * SLOW)
    return done, out.read_bytes().decode().split("\0")[:-1] if out.exists() else None


@pytest.fixture
def script_site(site, monkeypatch):
    # The coordinator must find dmtcp_restart when it writes the script.
    restart = site.base / "restorer" / "dmtcp_restart"
    restart.write_text("#!/bin/sh\n")
    restart.chmod(0o755)
    return site


def test_script_of_one_host(script_site):
    site = script_site
    script = make_script(site, "")
    images = sorted(str(p) for p in site.ckptdir.glob("*.dmtcp"))
    done, args = run_script(site, script)
    assert done.returncode == 42 and done.stderr == b""
    assert args[:4] == ["--coord-host", "localhost", "--coord-port", str(site.port)]
    assert sorted(args[4:]) == images and ODD in args[4]
    done, args = run_script(site, script, "-h", "some where", "--coord-port=99", "--restartdir", "/new dir", "--tmpdir",
                            "/t", "--interval", "5", "--no-strict-checking", "--ckptdir=/c d")
    assert args[:11] == ["--coord-host", "some where", "--coord-port", "99", "--no-strict-checking", "--interval", "5",
                         "--tmpdir", "/t", "--ckptdir", "/c d"]
    assert sorted(args[11:]) == ["/new dir/" + i.rsplit("/", 1)[1] for i in images]
    done, args = run_script(site, script, DMTCP_COORD_HOST="h", DMTCP_COORD_PORT="1234")
    assert args[:4] == ["--coord-host", "h", "--coord-port", "1234"]
    done, args = run_script(site, script, "--help")
    assert done.returncode == 0 and b"--hostfile" in done.stdout and args is None
    for bad in (["--nonsense"], ["--interval"], ["x", "y"]):
        done, args = run_script(site, script, *bad)
        assert done.returncode == 99 and args is None and done.stderr.count(b"\n") == 1


def test_script_on_other_hosts(script_site):
    site = script_site
    script = make_script(site, "anna's", os.uname().nodename)
    tools = site.base / "tools"
    tools.mkdir()
    # ssh hands one string to a shell there, as this does.
    (tools / "ssh").write_text('#!/bin/sh\necho "$1" >>"$FAKE_SSH"\nFAKE_OUT=$FAKE_OUT.$1 sh -c "$2"\n')
    (tools / "ssh").chmod(0o755)
    ssh_log = site.base / "ssh"
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE_SSH": ssh_log}
    done, args = run_script(site, script, "-h", "coord", **env)
    assert done.returncode == 42, done.stderr
    assert args[:6] == ["--coord-host", "coord", "--coord-port", str(site.port), "--hosts", "2"] and len(args) == 8
    remote = site.base / "arguments.anna's"
    wait_until("the other one is called", lambda: remote.exists() and remote.read_bytes().count(b"\0") == 8)
    there = remote.read_bytes().decode().split("\0")[:-1]
    assert there[:6] == args[:6] and all("anna's" in i and ODD in i for i in there[6:])
    assert ssh_log.read_text() == "anna's\n"
    hosts = site.dir / "hosts"
    hosts.write_text("# where\nlocalhost\n\nclara\n" if "anna" in script.read_text().split("host_then")[1][:60]
                     else "localhost\nclara\n")
    done, args = run_script(site, script, "-h", "coord", "--hostfile", hosts, **env)
    assert done.returncode == 42
    wait_until("clara is called", lambda: "clara" in ssh_log.read_text())
    hosts.write_text("localhost\n")
    done, args = run_script(site, script, "-h", "coord", "--hostfile", hosts, **env)
    assert done.returncode == 99 and b"no host for images" in done.stderr


def test_script_is_clean_shell(script_site):
    site = script_site
    script = make_script(site, "anna", "berta")
    for shell in ("sh", "bash", "dash"):
        if shutil.which(shell):
            assert subprocess.run([shell, "-n", script]).returncode == 0
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed; the shells' own check passed")
    done = subprocess.run(["shellcheck", "-s", "sh", script], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
