"""What the tests of the coordinator have in common: our commands in a tree of their own, with a tracer that traces
nothing (fake_tracer.c)."""

import json
import os
import shutil
import socket
import subprocess

import pytest

from harness import BUILD, SLOW, wait_until

FAKE = BUILD / "tests" / "e2e" / "fake_tracer"
SLOW_SYNC = BUILD / "tests" / "e2e" / "slow_sync.so"
PHASES = ["freeze", "collect", "match", "peek-send", "peek-recv", "write", "resume", "commit"]
SOLO_PHASES = [p for p in PHASES if p != "resume"]

needs_fake = pytest.mark.skipif(not FAKE.exists(), reason=f"not built: {FAKE}")


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
