"""The coordinator and dmtcp_command by themselves: starting, asking, ending; strangers at the port."""

import os
import select
import signal
import socket
import stat
import subprocess
import time

import pytest

from coordinator_site import FAKE, free_port, needs_fake, site
from harness import SLOW, wait_until

pytestmark = needs_fake


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
