"""Programs about sockets that hear what others on the machine do (tests/programs/net_*.c): each in a network namespace
of its own, in which nothing else happens."""

import os
import pathlib
import socket
import subprocess

import pytest

import harness
from survive import MODES, Program, control, survive

PROGRAMS = [
    Program("net_icmp"),
    Program("net_many", refused={"user": "of which only the first can be looked at"}),
    Program("net_netlink"),
    Program("net_packet", users=("root",)),
    Program("net_raw", users=("root",)),
]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes root")


@pytest.fixture(autouse=True)
def quiet(netns):
    pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")


def cases(*modes):
    return [pytest.param(p, user, *mode, id="-".join((p.name, user, *mode)))
            for p in PROGRAMS for user in p.users if user in harness.users() for mode in modes]


@pytest.mark.parametrize("program,user", cases(()), indirect=["user"])
def test_control(lab, program):
    control(lab, program)


@pytest.mark.parametrize("program,user", cases(()), indirect=["user"])
def test_can_fail(lab, program):
    with pytest.raises(AssertionError, match="FAIL: "):
        control(lab, program, "--break")


@pytest.mark.parametrize("program,user,mode", cases(*((mode,) for mode in MODES)), indirect=["user"])
def test_survives(lab, program, mode):
    survive(lab, program, mode)


def test_all_programs_are_listed():
    built = {p.stem for p in (harness.ROOT / "tests" / "programs").glob("net_*.c")}
    assert built == {p.name for p in PROGRAMS}


# -- what is refused ------------------------------------------------------------------------------------

REFUSED = {
    "rings": ("import socket\ns = socket.socket(17, 3, 0)\ns.setsockopt(263, 5, __import__('struct').pack('4I', 4096, 1, 2048, 2))",
              "PACKET_RX_RING"),
    "frames": ("import socket\ns = socket.socket(17, 3, 0x0300)\nu = socket.socket(2, 2)\n"
               "u.sendto(b'x', ('127.0.0.1', 9))", "frames wait in a packet socket"),
    "kernel": ("import socket\ns = socket.socket(2, 3, 17)\nu = socket.socket(2, 2)\nu.bind(('127.0.0.1', 0))\n"
               "u.sendto(b'x', u.getsockname())\nu.recv(1)", "packet of protocol 17 waits, of which the kernel"),
    "group": ("import socket\ns = socket.socket(16, 3, 2)\nt = socket.socket(16, 3, 2)\ns.bind((0, 1))\nt.bind((0, 0))\n"
              "try:\n    t.sendto(b'x', (0, 1))\nexcept OSError:\n    pass", "a message to a group waits"),
    "answer": ("import socket, struct\ns = socket.socket(16, 3, 0)\n"
               "s.send(struct.pack('IHHIIBxHiII', 32, 18, 1, 1, 0, 0, 0, 1, 0, 0))", "messages of the kernel wait"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(lab, name):
    text, words = REFUSED[name]
    lab.write("program.py", text + "\nopen('made', 'w').close()\nimport os, time\n"
              "while not os.path.exists('stop'):\n    time.sleep(0.005)\n")
    lab.launch(["/usr/bin/python3", "program.py"], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has made its socket", lambda: lab.path("made").exists())
    with pytest.raises(harness.CommandFailed) as failed:
        lab.checkpoint()
    assert words in failed.value.output
    assert lab.images() == []
    lab.write("stop", "")
    assert lab.finish() == 0


def test_interface_is_gone(lab):
    """A packet socket of an interface that the restart does not find."""
    def make():
        subprocess.run(["ip", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8"], check=True)
        for name in ("veth7", "veth8"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)

    make()
    lab.write("program.py", "import os, socket, time\ns = socket.socket(17, 3, 0)\ns.bind(('veth7', 0x88b5))\n"
              "open('made', 'w').close()\nwhile not os.path.exists('stop'):\n    time.sleep(0.005)\n"
              "assert s.getsockname()[0] == 'veth7'\n")
    lab.launch(["/usr/bin/python3", "program.py"], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has made its socket", lambda: lab.path("made").exists())
    lab.checkpoint_and_kill()
    subprocess.run(["ip", "link", "del", "veth7"], check=True)
    lab.restart(stdout=subprocess.DEVNULL)
    assert lab.finish() != 0
    assert 'no interface "veth7"' in lab.tail("restart.stderr")
    make()
    lab.restart(stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0


def test_netlink_port_is_taken(lab):
    lab.write("program.py", "import os, socket, time\ns = socket.socket(16, 3, 0)\ns.bind((12345, 0))\n"
              "open('made', 'w').close()\nwhile not os.path.exists('stop'):\n    time.sleep(0.005)\n")
    lab.launch(["/usr/bin/python3", "program.py"], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has made its socket", lambda: lab.path("made").exists())
    lab.checkpoint_and_kill()
    thief = socket.socket(16, 3, 0)
    thief.bind((12345, 0))
    lab.restart(stdout=subprocess.DEVNULL)
    assert lab.finish() != 0
    assert "another netlink socket has the address 12345" in lab.tail("restart.stderr")
    thief.close()
    lab.restart(stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0


def test_others_hear_nothing_of_a_packet_that_waited(lab):
    """A raw socket of another program would get what comes again: then it is lost, as on a network, and that is said."""
    lab.write("program.py", "import os, socket, time\ns = socket.socket(2, 3, 253)\ns.sendto(b'x', ('127.0.0.1', 0))\n"
              "open('made', 'w').close()\nwhile not os.path.exists('stop'):\n    time.sleep(0.005)\n"
              "s.setblocking(False)\ntry:\n    s.recv(99)\nexcept BlockingIOError:\n    raise SystemExit(7)\n")
    lab.launch(["/usr/bin/python3", "program.py"], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has made its socket", lambda: lab.path("made").exists())
    lab.checkpoint_and_kill()
    with socket.socket(2, 3, 253) as other:
        lab.restart(stdout=subprocess.DEVNULL)
        lab.wait_running()
        lab.write("stop", "")
        assert lab.finish() == 7
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(99)
    assert "waited in a socket is lost" in lab.tail("restart.stderr")
