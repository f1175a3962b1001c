"""Programs on terminals, driven by typed keys: on the user's own terminal, which is another one after a
restart, and on pseudo-terminals inside the tree (script, tmux)."""

import fcntl
import os
import shutil
import struct
import subprocess
import termios
import threading

import pytest

import harness

NEEDED = {"vim": "vim", "script": "bsdutils", "tmux": "tmux", "bash": "bash"}


class Terminal:
    """A pseudo-terminal of the test: the user's terminal, with a user who types."""

    def __init__(self, rows=30, columns=90):
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen = b""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.screen += data

    def options(self):
        """How to start a process that leads the session of this terminal."""
        def control():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        return {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, "preexec_fn": control}

    def type(self, keys):
        os.write(self.master, keys.encode())

    def wait(self, text, seconds=20):
        """Until the text was drawn since the last time; returns what was drawn before it."""
        try:
            harness.wait_until(f"the terminal shows {text!r}", lambda: text.encode() in self.screen, seconds)
        except harness.Timeout as timeout:
            raise harness.Timeout(f"{timeout}; it has {self.screen[-500:]!r}") from None
        at = self.screen.index(text.encode())
        before, self.screen = self.screen[:at], self.screen[at + len(text):]
        return before.decode(errors="replace")

    def foreground(self, name):
        """Does that program run in the foreground: does ^C go to it?"""
        process = harness.read_process(os.tcgetpgrp(self.master))
        return process and process.comm == name and process.state != "T"

    def mode(self):
        return termios.tcgetattr(self.slave)

    def close(self):
        os.close(self.slave)
        self.reader.join(0.1)
        os.close(self.master)


@pytest.fixture
def terminals():
    made = []

    def make(**size):
        made.append(Terminal(**size))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"no {program} here (package {NEEDED[program]})")


def launch(lab, terminal, *argv):
    lab.start_coordinator()
    lab.launch([shutil.which(argv[0]), *argv[1:]], env=lab.env(TERM="xterm", SHELL="/bin/bash"), **terminal.options())


def restart(lab, terminal):
    lab.kill_everything()
    lab.start_coordinator()
    lab.restart(env=lab.env(TERM="xterm"), **terminal.options())
    lab.wait_running()


def users():
    return [pytest.param(name, id=name) for name in harness.users()]


VIM = ("vim", "-N", "-u", "NONE", "-i", "NONE", "-n")


TILDE = "~"  # vim has drawn its screen: it is waiting for keys
SHELL = "bash-"  # the prompt of a bash that has not been told another one


@pytest.mark.parametrize("user", users(), indirect=True)
def test_vim_on_the_users_terminal(lab, terminals):
    need("vim")
    old, new = terminals(), terminals(rows=40, columns=120)
    launch(lab, old, *VIM, lab.path("text"))
    old.wait(TILDE)
    old.type("ihello")
    old.wait("hello")
    lab.checkpoint()
    old.type(" lost")  # after the checkpoint: gone after the restart
    old.wait("lost")
    restart(lab, new)
    assert not new.mode()[3] & termios.ICANON, "the new terminal is not in vim's mode"
    new.type(" world\x1b:set columns?\r")
    new.wait("columns=120")
    new.type(":wq\r")
    assert lab.finish() == 0
    assert lab.path("text").read_text() == "hello world\n"


@pytest.mark.parametrize("user", users(), indirect=True)
def test_vim_in_script(lab, terminals):
    """script has the master of a pseudo-terminal, vim the slave."""
    need("vim", "script")
    old, new = terminals(), terminals()
    launch(lab, old, "script", "-q", "-c", " ".join([*VIM, str(lab.path("text"))]), lab.path("typescript"))
    old.wait(TILDE)
    old.type("ione\rtwo")
    old.wait("two")
    lab.checkpoint_and_kill()
    restart(lab, new)
    new.type("\rthree\x1b:wq\r")
    assert lab.finish() == 0
    assert lab.path("text").read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("user", users(), indirect=True)
def test_number_taken(lab, terminals):
    """The number of a pseudo-terminal is taken at the restart: it gets another one, and that is said."""
    need("script", "bash")
    old, new = terminals(), terminals()
    launch(lab, old, "script", "-q", "-c", "bash --norc --noprofile", lab.path("typescript"))
    old.wait(SHELL)
    old.type("tty\r")
    old.wait("/dev/pts/")
    number = int(old.wait("\r"))
    lab.checkpoint_and_kill()
    while True:
        taken = terminals()
        if int(os.ttyname(taken.slave).rsplit("/", 1)[1]) >= number:
            break
    restart(lab, new)
    new.wait(f"/dev/pts/{number} is taken")
    new.type(f"tty > {lab.path('tty')}; exit 3\r")
    assert lab.finish() in (0, 3)  # script(1) tells its child's status only if asked
    assert lab.path("tty").read_text().startswith("/dev/pts/")
    assert lab.path("tty").read_text() != f"/dev/pts/{number}\n"


@pytest.mark.parametrize("user", users(), indirect=True)
def test_job_control(lab, terminals):
    """A shell that leads the session of the user's terminal, with a job in the background and a stopped one."""
    need("bash")
    old, new = terminals(), terminals()
    launch(lab, old, "bash", "--norc", "--noprofile", "-i")
    old.wait(SHELL)
    old.type("PS1='rea''dy> '; x=5; sleep 1000 &\r")  # so that the echo does not look like the prompt
    old.wait("ready> ")
    old.type("sleep 2000\r")
    lab.wait_until("the job is in the foreground", lambda: old.foreground("sleep"), 20)
    old.type("\x1a")
    old.wait("Stopped")
    old.wait("ready> ")
    lab.checkpoint()
    restart(lab, new)
    new.type("echo $((x + 1)) $(jobs -r | wc -l) $(jobs -s | wc -l)\r")
    new.wait("6 1 1")
    new.type("fg %2\r")
    new.wait("sleep 2000")
    lab.wait_until("the job is in the foreground", lambda: new.foreground("sleep"), 20)
    new.type("\x03")  # ^C ends the job, not the shell
    new.wait("ready> ")
    new.type("kill %1; tty; exit 7\r")
    new.wait(os.ttyname(new.slave))
    assert lab.finish() == 7


@pytest.mark.parametrize("user", users(), indirect=True)
def test_restart_as_a_job(lab, terminals):
    """dmtcp_restart typed at a shell: the shell's session keeps the terminal, the program is a job of it."""
    need("bash", "vim")
    old, new = terminals(), terminals()
    launch(lab, old, *VIM, lab.path("text"))
    old.wait(TILDE)
    old.type("iabc")
    old.wait("abc")
    lab.checkpoint()
    lab.kill_everything()
    lab.start_coordinator()
    shell = lab.popen(["bash", "--norc", "--noprofile", "-i"], env=lab.env(TERM="xterm", PS1="shell> "), **new.options())
    new.wait("shell> ")
    new.type(f"{lab.bin.command('dmtcp_restart')} -p {lab.port} {lab.ckptdir}; echo status $?\r")
    harness.wait_until("vim's mode", lambda: not new.mode()[3] & termios.ICANON and not new.mode()[3] & termios.ISIG
                       or b"status" in new.screen.replace(b"echo status", b""))
    new.type("def\x1b:wq\r")
    new.wait("status 0")
    new.type("exit\r")
    assert lab.wait_end(shell, 20) == 0
    assert lab.path("text").read_text() == "abcdef\n"


def tmux(lab, *command):
    """What the server answers to a command from outside."""
    asked = lab.popen(["tmux", "-S", lab.path("socket"), *command], stdout=subprocess.PIPE)
    answer, _ = asked.communicate(timeout=20 * harness.SLOW)
    assert asked.returncode == 0
    return answer.splitlines()


@pytest.mark.parametrize("user", users(), indirect=True)
def test_tmux(lab, terminals):
    """A server with two panes, a shell and vim, and a client on the user's terminal."""
    need("tmux", "vim", "bash")
    old, new = terminals(), terminals()
    launch(lab, old, "tmux", "-S", lab.path("socket"), "-f", "/dev/null", "new-session", "bash --norc --noprofile")
    old.wait(SHELL)
    old.type("PS1='pa''ne> '; y=4\r")
    old.wait("pane> ")
    # not typed: a key that tmux gets soon after another is for it part of what somebody pastes, and the shell's
    tmux(lab, "split-window", " ".join([*VIM, str(lab.path("text"))]))
    old.wait("[New]")
    old.type("ipanes")
    old.wait("panes")
    lab.checkpoint()
    restart(lab, new)
    new.type(" lives\x1b:wq\r")
    lab.wait_until("the shell has all of the screen", lambda: len(tmux(lab, "list-panes", "-a")) == 1)
    assert lab.path("text").read_text() == "panes lives\n"
    new.type(f"echo $((y * 2)) > {lab.path('number')}; exit\r")
    assert lab.finish() == 0
    assert lab.path("number").read_text() == "8\n"
