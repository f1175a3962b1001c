"""Real servers from Debian's packages, each with its clients in one computation: the clients check every byte and run
until they are told to stop; meanwhile checkpoints are made at random instants, everything is killed and restarted,
and restarted ones are killed and restarted again.

DMTCP_ROUNDS checkpoints or restarts of each (default 3); DMTCP_STORM_SEED repeats a run. With DMTCP_TEST_ALL=1 also
those whose packages are large (run-tests.sh --all)."""

import dataclasses
import os
import random
import shutil
import socket
import subprocess
import time
from typing import Callable

import pytest

import harness

ROUNDS = int(os.environ.get("DMTCP_ROUNDS", "3"))
SEED = int(os.environ.get("DMTCP_STORM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
SERVERS = harness.ROOT / "tests" / "e2e" / "servers"
RIGHT = "all as it should be\n"


@dataclasses.dataclass
class Server:
    """prepare(lab, port) makes the files in the lab's directory and returns the argv of the client, which starts the
    server and says RIGHT at the end. at_once: files are changed other than by appending, so nothing may run
    between checkpoint and kill (dmtcp_command -kc)."""

    name: str
    needs: tuple
    prepare: Callable
    at_once: bool = False
    refused: str = ""  # what the message has if it may be refused at some instants
    users: tuple = ("root", "user")
    most: float = 0.3  # seconds between checkpoints, at most
    large: bool = False


def need(*commands):
    for command in commands:
        if not shutil.which(command):
            pytest.skip(f"{command} is not installed")


def free_port():
    """Of those which the kernel does not choose by itself: it must be free again at the restart."""
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def copy_in(lab, name):
    return lab.write(name, (SERVERS / name).read_bytes(), 0o755)


def python(name):
    def prepare(lab, port):
        copy_in(lab, "common.py")
        return ["python3", copy_in(lab, name), port]

    return prepare


def node(name):
    return lambda lab, port: ["node", copy_in(lab, name), port]


def go(name):
    def prepare(lab, port):
        copy_in(lab, name)
        # with cgo it takes the libraries that come compiled
        env = dict(os.environ, GOCACHE=str(lab.path("gocache")), GO111MODULE="off", HOME=str(lab.dir))
        subprocess.run(["go", "build", "-o", "server", name], cwd=lab.dir, env=env, check=True, timeout=300)
        shutil.rmtree(lab.path("gocache"), ignore_errors=True)
        return [lab.path("server"), port]

    return prepare


def java(name):
    def prepare(lab, port):
        copy_in(lab, name + ".java")
        subprocess.run(["javac", name + ".java"], cwd=lab.dir, check=True, timeout=120)
        return ["java", "-Xmx128m", name, port]

    return prepare


def mpi(kind, *options, **env):
    """kind: openmpi or mpich; each has a compiler and an mpirun of its own."""
    def prepare(lab, port):
        copy_in(lab, "mpi.c")
        subprocess.run([f"mpicc.{kind}", "-O1", "-o", "mpi", "mpi.c"], cwd=lab.dir, check=True, timeout=60)
        more = ["--allow-run-as-root", "--oversubscribe", "--mca", "plm", "isolated",
                "--mca", "btl_tcp_port_min_v4", str(port)] if kind == "openmpi" else []
        return ["env", *(f"{name}={value}" for name, value in env.items()), f"mpirun.{kind}", *more, *options, "-n", "4", "./mpi",
                *(["two-sided"] if kind == "mpich" else [])]

    return prepare


OPENMPI, MPICH = ("mpicc.openmpi", "mpirun.openmpi"), ("mpicc.mpich", "mpirun.mpich")

ALL = [
    Server("redis", ("redis-server", "redis-cli"), python("redis_client.py")),
    Server("memcached", ("memcached",), python("memcached_client.py")),
    Server("nginx", ("nginx", "curl"), python("nginx_client.py")),
    Server("asyncio", ("python3",), python("asyncio_server.py")),
    Server("manager", ("python3",), python("manager_server.py")),
    Server("node-http", ("node",), node("http.js"), at_once=True),
    Server("go-http", ("go",), go("http.go")),
    Server("java-nio", ("java", "javac"), java("Nio"), at_once=True),
    # sshd makes itself not dumpable, so nobody but root may trace it
    Server("ssh", ("ssh", "sshd", "ssh-keygen"), python("ssh_client.py"), at_once=True, users=("root",),
           refused="limit of open files"),  # the sandbox in which sshd looks at who logs in may open none
    Server("postgresql", ("psql", "pgbench"), python("postgresql_client.py"), at_once=True, large=True),
    Server("x11", ("Xvfb", "xterm", "xwd", "xlogo"), python("x11_client.py"), large=True),
    Server("openmpi-shm", OPENMPI, mpi("openmpi", "--mca", "btl", "vader,self"), large=True),
    Server("openmpi-tcp", OPENMPI, mpi("openmpi", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"), large=True),
    # over TCP (UCX) it does not come out of MPI_Finalize, also uninterrupted
    Server("mpich-shm", MPICH, mpi("mpich", UCX_TLS="sysv,posix,self", UCX_SYSV_HUGETLB_MODE="n"), large=True),
]


def cases():
    for server in ALL:
        if server.large and not os.environ.get("DMTCP_TEST_ALL"):
            continue
        for user in server.users:
            if user in harness.users():
                # one at a time: X servers of several network namespaces share their locks and sockets in /tmp
                alone = [pytest.mark.xdist_group("x11")] if server.name == "x11" else []
                yield pytest.param(server, user, id=f"{server.name}-{user}", marks=alone)


def start(lab, server, how):
    """Until the clients are at work."""
    need(*server.needs)
    with open(lab.write("stdout", b""), "wb") as stdout:
        how(server.prepare(lab, free_port()), stdout=stdout)

    def ready():
        assert lab.program.poll() is None, said(lab)
        return lab.path("ready").exists()

    lab.wait_until("the clients are at work", ready, 60)


def said(lab):
    return f"{lab.program.returncode}: {lab.tail('stdout')} {lab.tail('stderr')} {lab.tail('restart.stderr')}"


def finish(lab):
    lab.path("stop").touch()
    status = lab.finish(120)
    assert (lab.tail("stdout"), status) == (RIGHT, 0), said(lab)
    lab.wait_gone()


def chance_of(request):
    print(f"DMTCP_STORM_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


def checkpoint(server, make, chance):
    """At a later instant if the server is where it has to be refused. The program goes on unharmed then."""
    for _ in range(50):
        try:
            return make()
        except harness.CommandFailed as failed:
            if not server.refused or server.refused not in failed.output:
                raise
        time.sleep(chance.uniform(0, 0.2))
    raise AssertionError(f"refused 50 times: {server.refused}")


@pytest.mark.parametrize("server,user", cases(), indirect=["user"])
def test_checkpoints(lab, user, server, request):
    """Checkpoint and go on at random instants."""
    chance = chance_of(request)
    start(lab, server, lab.launch)
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0, server.most))
        checkpoint(server, lab.checkpoint, chance)
        assert lab.program.poll() is None, said(lab)
    finish(lab)


@pytest.mark.parametrize("server,user", cases(), indirect=["user"])
def test_restarts(lab, user, server, request):
    """Checkpoint, lose everything, restart; again from the restarted one, and so on."""
    chance = chance_of(request)
    start(lab, server, lab.launch)
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0, server.most))
        if server.at_once:
            checkpoint(server, lab.checkpoint_and_kill, chance)
        else:
            checkpoint(server, lab.checkpoint, chance)
            time.sleep(chance.uniform(0, 0.2))
        lab.kill_everything()
        lab.restart(stdout=subprocess.DEVNULL)
        try:
            lab.wait_running()
        except AssertionError as failed:
            raise AssertionError(f"{failed}; {said(lab)}") from None
        assert lab.program.poll() is None, said(lab)
    finish(lab)
