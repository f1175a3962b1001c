"""What a restart does about files that are not as they were, with what it says; and where the standard streams of a
program lead then."""

import os
import resource
import subprocess
import time

import pytest

import harness

# Appends numbered lines to a file and to its standard output, until the file `stop` is there.
APPEND = """
exec 5>>data
i=0
while [ ! -e stop ]; do
    echo "line $i" >&5
    [ $((i % 10)) = 0 ] && echo "said $i"
    i=$((i + 1))
    sleep 0.005
done
echo "end $i" >&5
echo "end $i"
"""

# Reads a file that it keeps open.
READ = """
exec 5<data
read -r first <&5
echo "$first"
while [ ! -e stop ]; do sleep 0.005; done
while read -r line; do echo "$line"; done <&5
echo end
"""

LIMIT = 99  # DMTCP_FAIL_RC's default is the least of the exit statuses that mean that we failed


def start(lab, text, *options):
    script = lab.write("script", text)
    lab.launch(["sh", script], *options, stdout=open(lab.write("said", ""), "wb"))
    lab.wait_until("the program has begun", lambda: lab.path("said").read_bytes().count(b"\n") > 0)


def said(lab):
    return lab.path("said").read_text().splitlines()


def checkpoint_and_kill(lab):
    lab.checkpoint_and_kill()
    lab.kill_everything()


def restart(lab, *options):
    lab.restart(*options, stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0, lab.tail("restart.stderr")


def refused(lab, *words, options=()):
    """The restart must fail, name the file, and start nothing."""
    lab.restart(*options, stdout=subprocess.DEVNULL)
    status = lab.finish()
    text = lab.tail("restart.stderr")
    assert status >= LIMIT
    for word in words:
        assert word in text
    assert len([line for line in text.splitlines() if "data" in line]) == 1
    assert [p.comm for p in harness.descendants() if p.comm not in ("dmtcp_coordinat",) and p.alive] == []


def numbered(lines, first="line"):
    """Each line once, in order, then the end with their number."""
    count = len(lines) - 1
    assert lines[:-1] == [f"{first} {i}" for i in range(count)]
    assert lines[-1] == f"end {count}"


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_output_is_not_doubled(lab):
    start(lab, APPEND)
    lab.checkpoint()
    before = lab.path("data").stat().st_size
    lab.wait_until("the file has grown", lambda: lab.path("data").stat().st_size > before + 200)
    lab.kill_everything()
    restart(lab)
    numbered(lab.path("data").read_text().splitlines())
    notes = [line for line in lab.tail("restart.stderr").splitlines() if str(lab.path("data")) in line]
    assert len(notes) == 1 and "cut back" in notes[0]


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_gone(lab):
    start(lab, READ.replace("5<data", "5<>data"))  # made by the shell itself
    checkpoint_and_kill(lab)
    lab.path("data").unlink()
    refused(lab, str(lab.path("data")), "is gone")


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_shorter(lab):
    lab.write("data", "first\nsecond\nthird\n")
    start(lab, READ)
    checkpoint_and_kill(lab)
    os.truncate(lab.path("data"), 3)
    refused(lab, str(lab.path("data")), "shorter", "--skip-file-checks")
    restart(lab, "--skip-file-checks")
    assert said(lab) == ["first", "end"]


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_another_kind(lab):
    lab.write("data", "first\n")
    start(lab, READ)
    checkpoint_and_kill(lab)
    lab.path("data").unlink()
    os.mkfifo(lab.path("data"))
    refused(lab, str(lab.path("data")), "is a FIFO, and was a regular file")


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_another_file(lab):
    start(lab, APPEND)
    checkpoint_and_kill(lab)
    lab.write("other", "somebody else's " * 1000)
    lab.path("other").rename(lab.path("data"))
    refused(lab, str(lab.path("data")), "another file")
    assert lab.path("data").read_text() == "somebody else's " * 1000


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_saved_content(lab):
    """--ckpt-open-files: the file is made anew, with what it had."""
    start(lab, APPEND, "--ckpt-open-files")
    checkpoint_and_kill(lab)
    lab.path("data").unlink()
    lab.path("said").unlink()  # standard output is a file like others
    restart(lab)
    numbered(lab.path("data").read_text().splitlines())
    assert said(lab)[0] == "said 0" and said(lab)[-1].startswith("end ")


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_saved_content_overwrites(lab):
    start(lab, APPEND, "--ckpt-open-files", "--allow-file-overwrite")
    checkpoint_and_kill(lab)
    lab.path("data").unlink()
    lab.write("data", "another")
    restart(lab)
    numbered(lab.path("data").read_text().splitlines())


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_saved_content_does_not_overwrite(lab):
    start(lab, APPEND, "--ckpt-open-files")
    checkpoint_and_kill(lab)
    lab.path("data").unlink()
    lab.write("data", "another")
    refused(lab, str(lab.path("data")), "--allow-file-overwrite")
    assert lab.path("data").read_text() == "another"


# -- standard streams ---------------------------------------------------------------------------

ECHO = """
echo "started $$" >&2
n=0
while read -r line; do
    n=$((n + 1))
    echo "$n: $line"
done
echo "end" >&2
"""


def ask(process, text, expected):
    process.stdin.write(text)
    process.stdin.flush()
    assert process.stdout.readline() == expected


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_pipes_to_outside(lab):
    """Standard streams that are pipes to somebody else are dmtcp_restart's own afterwards; a count goes on."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = lab.launch(["sh", lab.write("script", ECHO)], **pipes)
    assert program.stderr.readline().startswith(b"started")
    ask(program, b"one\n", b"1: one\n")
    for n in (2, 4):
        lab.checkpoint()
        ask(program, b"more\n", b"%d: more\n" % n)
        lab.kill_everything()
        program = lab.restart(**pipes)
        lab.wait_running()
        ask(program, b"again\n", b"%d: again\n" % n)
        ask(program, b"and again\n", b"%d: and again\n" % (n + 1))
    program.stdin.close()
    assert program.stderr.read().splitlines()[-1] == b"end"
    assert program.stdout.read() == b""
    lab.wait_end(program, 20)
    assert program.returncode == 0


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_streams_go_elsewhere(lab):
    """Two streams that were one pipe are two files when dmtcp_restart has two."""
    script = lab.write("script", "echo out; echo err >&2; while [ ! -e stop ]; do sleep 0.01; done; echo o; echo e >&2")
    program = lab.launch(["sh", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert program.stdout.readline() == b"out\n"
    assert program.stdout.readline() == b"err\n"
    lab.checkpoint()
    lab.kill_everything()
    with open(lab.path("1"), "wb") as out, open(lab.path("2"), "wb") as err:
        lab.restart(stdout=out, stderr=err)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0
    assert lab.path("1").read_text() == "o\n"
    assert lab.path("2").read_text().splitlines()[-1] == "e"


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_end_of_file_outside(lab):
    """The writer had gone before the checkpoint: the pipe's end is kept, dmtcp_restart's input is not read."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"last words\n")
    os.close(write_end)
    script = lab.write("script", "while [ ! -e stop ]; do sleep 0.01; done; cat; echo end")
    lab.launch(["sh", script], stdin=read_end, stdout=open(lab.write("said", ""), "wb"))
    os.close(read_end)
    time.sleep(0.1)
    checkpoint_and_kill(lab)
    lab.restart(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0
    assert said(lab) == ["last words", "end"]


# As ps and top do: what is below /proc/PID of a process that has nothing to do with the program.
STRANGER = """
import os, sys, time
base = f"/proc/{sys.argv[1]}"
dir = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
fds = [os.open(base + "/stat", os.O_RDONLY), os.open(base + f"/task/{sys.argv[1]}/stat", os.O_RDONLY | os.O_NOFOLLOW)]
open("made", "w").close()
while not os.path.exists("stop"):
    time.sleep(0.005)
for open_it in (lambda: os.open("stat", os.O_RDONLY, dir_fd=dir), lambda: fds[0], lambda: fds[1]):
    try:
        print(os.read(open_it(), 100).split()[1].decode())
    except OSError as e:
        print(e.strerror)
"""

@pytest.mark.parametrize("user", harness.users(), indirect=True)
@pytest.mark.parametrize("ends", (False, True), ids=("lives", "ends"))
def test_proc_of_a_stranger(lab, user, ends):
    """It may have ended at the restart, and is not there in a new pid namespace: then its files say so."""
    stranger = lab.popen(["sleep", "100"])
    lab.write("program.py", STRANGER)
    lab.launch(["/usr/bin/python3", "program.py", stranger.pid], stdout=open(lab.write("said", ""), "wb"))
    lab.wait_until("the program has opened the files", lambda: lab.path("made").exists())
    lab.checkpoint_and_kill()
    if ends:
        stranger.kill()
        stranger.wait()
    restart(lab)
    lives, ended = {"(sleep)"}, {"No such process"}
    assert set(said(lab)) <= (ended if ends else lives if user.name == "root" else lives | ended)


# As valgrind does: its own descriptors are the last that the limit allows.
TOPMOST = """
import os, resource, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
names = {}
for number in [*range(limit - 9, limit), *range(600, 1000)]:
    names[number] = f"file{number}"
    fd = os.open(names[number], os.O_WRONLY | os.O_CREAT, 0o600)
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)
open("made", "w").close()
while not os.path.exists("stop"):
    time.sleep(0.005)
for number, name in names.items():
    assert os.path.basename(os.readlink(f"/proc/self/fd/{number}")) == name
    assert os.write(number, b"x") == 1
print("right", flush=True)
"""


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_last_numbers(lab, user):
    def limited():
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))

    lab.write("program.py", TOPMOST)
    lab.launch(["/usr/bin/python3", "program.py"], stdout=open(lab.write("said", ""), "wb"), preexec_fn=limited)
    for _ in range(2):
        lab.wait_until("the program has opened its files", lambda: lab.path("made").exists())
        lab.checkpoint_and_kill()
        lab.restart(stdout=subprocess.DEVNULL, preexec_fn=limited)
        lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0, lab.tail("restart.stderr")
    assert said(lab) == ["right"]
