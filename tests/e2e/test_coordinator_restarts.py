"""Restarts as the coordinator leads them, on several hosts, and the restart script."""

import json
import os
import shutil
import subprocess

import pytest

from coordinator_site import FAKE, needs_fake, site
from harness import SLOW, wait_until

pytestmark = needs_fake


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
