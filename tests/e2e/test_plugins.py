"""Plugins (dmtcp-plugin(7)): their events, what they keep, descriptors that only they can save, and libraries that are none."""

import os
import pathlib
import shutil
import subprocess

import pytest

import harness
import survive

each_user = pytest.mark.parametrize("user", harness.users(), indirect=True)


def library(lab, name, where="tests/e2e", mode=0o755):
    """A copy that belongs to the lab's user."""
    return lab.write(f"{name}.so", (harness.BUILD / where / f"{name}.so").read_bytes(), mode)


class Diary:
    def __init__(self, lab):
        self.lab, self.path, self.seen = lab, lab.path("diary"), 0
        self.plugin = library(lab, "plugin_diary")

    def env(self):
        return self.lab.env(DMTCP_TEST_DIARY=self.path)

    def fail(self, event):
        self.lab.write("diary.fail", event)

    def new_lines(self):
        """What it wrote since the last call; every process must have stood still each time."""
        lines = [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []
        new, self.seen = lines[self.seen:], len(lines)
        for event, still, _ in new:
            there, of = still.split("/")
            assert there == of != "0", f"{event}: {there} of {of} processes stood still"
        return [(event, int(number)) for event, _, number in new]


def launch_with_diary(lab):
    diary = Diary(lab)
    lab.start_coordinator()
    lab.launch(lab.program_argv("tree_ids"), "--with-plugin", diary.plugin, env=diary.env())
    lab.wait_ready()
    return diary


def go_on(lab):
    lab.go.touch()
    assert lab.finish() == 0, lab.lines()
    assert lab.lines()[-1] == "PASS"


@each_user
def test_events(lab, user):
    """Each checkpoint and restart is told, the data come back, and the restart script knows the plugin."""
    diary = launch_with_diary(lab)
    lab.checkpoint()
    lab.checkpoint()
    assert diary.new_lines() == [("precheckpoint", 0), ("resume", 1), ("precheckpoint", 1), ("resume", 2)]
    lab.kill_everything()
    lab.program = lab.popen([lab.ckptdir / "dmtcp_restart_script.sh", "--ckptdir", lab.ckptdir], env=diary.env(),
                            stdout=subprocess.DEVNULL, stderr=lab.open_stderr("restart.stderr"))
    lab.wait_running()
    assert diary.new_lines() == [("restart", 2)]
    lab.checkpoint()
    assert diary.new_lines() == [("precheckpoint", 0), ("resume", 1)]  # the tracer is another process than the driver
    go_on(lab)


@each_user
def test_killed_at_the_checkpoint(lab, user):
    """Who is killed does not go on: no resume is told."""
    diary = launch_with_diary(lab)
    lab.checkpoint_and_kill()
    assert diary.new_lines() == [("precheckpoint", 0)]
    lab.restart("--with-plugin", diary.plugin, env=diary.env())
    lab.wait_running()
    assert diary.new_lines() == [("restart", 1)]
    go_on(lab)


@each_user
def test_failing_checkpoint(lab, user):
    diary = launch_with_diary(lab)
    diary.fail("precheckpoint")
    with pytest.raises(harness.CommandFailed, match="plugin diary: it is to fail here"):
        lab.checkpoint()
    assert not lab.images()
    assert diary.new_lines() == [("precheckpoint", 0), ("resume", 0)]
    diary.fail("")
    lab.checkpoint()
    go_on(lab)


@each_user
def test_restart_without_it(lab, user):
    """Refused with the way out; and a restart that the plugin refuses leaves nothing behind."""
    diary = launch_with_diary(lab)
    lab.checkpoint()
    lab.kill_everything()
    lab.restart()
    assert lab.finish() == 101
    assert "the plugin 'diary', which is not loaded: name its library with --with-plugin" in lab.tail("restart.stderr")
    diary.fail("restart")
    lab.restart("--with-plugin", diary.plugin, env=diary.env())
    assert lab.finish() == 101
    assert "plugin diary: it is to fail here" in lab.tail("restart.stderr")
    lab.wait_gone()
    diary.fail("")
    lab.restart(env={**lab.env(DMTCP_PLUGIN=diary.plugin), **diary.env()})
    lab.wait_running()
    go_on(lab)


def is_script_of(lab, *plugins):
    line = next(line for line in (lab.ckptdir / "dmtcp_restart_script.sh").read_text().splitlines() if line.startswith("plugins="))
    return line == "plugins='" + ":".join(map(str, plugins)) + "'"


@each_user
def test_refused_by_the_coordinator(lab, user):
    """A restart that does not come about is not told."""
    diary = launch_with_diary(lab)
    lab.checkpoint()
    diary.new_lines()
    program = lab.program
    lab.restart("--in-new-pidns", "--with-plugin", diary.plugin, env=diary.env())
    assert lab.finish() == 101, lab.tail("restart.stderr")
    assert diary.new_lines() == []
    lab.program = program
    go_on(lab)


@each_user
def test_changed_before_the_restart(lab, user):
    """The library is looked at again."""
    diary = launch_with_diary(lab)
    lab.checkpoint()
    lab.kill_everything()
    diary.plugin.chmod(0o757)
    lab.restart("--with-plugin", diary.plugin, env=diary.env())
    assert lab.finish() == 101
    assert "others may write it" in lab.tail("restart.stderr")


@each_user
def test_refused_is_forgotten(lab, user):
    """The launch that failed leaves no trace in the restart script of those that run, and other plugins can be loaded."""
    diary = Diary(lab)
    lab.start_coordinator()
    first = lab.launch(lab.program_argv("count"), env=diary.env())
    lab.wait_ready()
    lab.launch(["true"], "--with-plugin", library(lab, "plugin_old"))
    assert lab.finish() in (99, 100)
    lab.checkpoint()
    assert is_script_of(lab)
    lab.launch(["true"], "--with-plugin", diary.plugin)
    assert lab.finish() == 0, lab.tail("stderr")
    lab.checkpoint()
    assert is_script_of(lab, diary.plugin)
    assert diary.new_lines() == [("precheckpoint", 0), ("resume", 1)]
    lab.program = first
    go_on(lab)


@each_user
def test_file_is_let_go(lab, user):
    """What a plugin has opened belongs to the program alone, close-on-exec or not."""
    diary = Diary(lab)
    lab.write("claimed", "")
    lab.start_coordinator()
    lab.launch(["sh", "-c", 'exec "$@" 3<claimed', "sh", *lab.program_argv("count")], "--with-plugin", diary.plugin,
               env=diary.env())
    lab.wait_ready()
    lab.checkpoint()
    lab.kill_everything()
    lab.restart("--with-plugin", diary.plugin, env=diary.env())
    lab.wait_running()
    having = [p.comm for p in harness.descendants() for fd in fds_of(p.pid) if fd.endswith("/claimed")]
    assert having == ["count"]
    go_on(lab)


def fds_of(pid):
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    return found


@each_user
def test_attach(lab, user):
    diary = Diary(lab)
    lab.start_coordinator()
    lab.run_bare(lab.program_argv("count"))
    lab.wait_ready()
    lab.run("dmtcp_command", *lab.where(), "--ckptdir", lab.ckptdir, "--attach", lab.program.pid, "--with-plugin",
            diary.plugin, env=diary.env())
    lab.checkpoint()
    assert diary.new_lines() == [("precheckpoint", 0), ("resume", 1)]
    go_on(lab)


@each_user
def test_manual_page(lab, user):
    """The example of dmtcp-plugin(7), as it is there."""
    page = (pathlib.Path(__file__).parents[2] / "man/dmtcp-plugin.7").read_text()
    example = page.partition(".EX\n#include")[2].partition(".EE")[0]
    lab.write("when.c", "#include" + example.replace("\\-", "-").replace("/tmp/restarts", str(lab.path("restarts"))))
    include = pathlib.Path(__file__).parents[2] / "include"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-I", include, "-o", lab.path("when.so"), lab.path("when.c")],
                   check=True)
    lab.launch(lab.program_argv("count"), "--with-plugin", lab.path("when.so"))
    lab.wait_ready()
    lab.checkpoint()
    lab.kill_everything()
    lab.restart("--with-plugin", lab.path("when.so"))
    lab.wait_running()
    assert lab.path("restarts").read_text().startswith("1 processes of ")
    go_on(lab)


PROGRAM = survive.Program("plugin_file")


@each_user
def test_files_control(lab, user):
    survive.control(lab, PROGRAM)


@each_user
def test_files_can_fail(lab, user):
    with pytest.raises(AssertionError, match="FAIL"):
        survive.control(lab, PROGRAM, "--break")


@each_user
def test_files_refused(lab, user):
    """What it takes a plugin for."""
    lab.launch(lab.program_argv("plugin_file"))
    survive.await_ready(lab)
    survive.expect_refusal(lab, PROGRAM, r"fd \d+: uts:\[\d+\]")


@each_user
@pytest.mark.parametrize("rounds", (0, 1, 2), ids=("resume", "restart", "restart2"))
def test_files(lab, user, rounds):
    plugin = library(lab, "namespaces", "examples/plugins")
    lab.launch(lab.program_argv("plugin_file"), "--with-plugin", plugin)
    survive.await_ready(lab)
    lab.checkpoint()
    for again in range(rounds):
        if again:
            lab.checkpoint()
        lab.kill_everything()
        lab.restart("--with-plugin", plugin)
        lab.wait_running()
    survive.verify(lab, PROGRAM)
    lab.wait_gone()


def refused(lab, plugin, why):
    lab.start_coordinator()
    lab.launch(["true"], "--with-plugin", plugin)
    assert lab.finish() in (99, 100)
    said = lab.tail("stderr").strip()
    assert why in said and "\n" not in said, said


@each_user
def test_not_a_plugin(lab, user):
    refused(lab, library(lab, "slow_sync"), "exports no dmtcp_plugin")


@each_user
def test_not_a_library(lab, user):
    refused(lab, lab.write("text.so", "text", 0o755), "text.so: ")


@each_user
def test_fifo(lab, user):
    """It is not even opened: nobody writes to it."""
    path = lab.path("fifo.so")
    os.mkfifo(path)
    refused(lab, path, "not a regular file")


@each_user
def test_colon(lab, user):
    lab.mkdir(lab.path("a:b"))
    lab.path("link.so").symlink_to(lab.write("a:b/diary.so", "", 0o755))
    refused(lab, lab.path("link.so"), "has a colon in it")


@each_user
def test_another_version(lab, user):
    refused(lab, library(lab, "plugin_old"), "made for version 2 of the plugin API, this is 1")


@each_user
def test_missing(lab, user):
    refused(lab, lab.path("none.so"), "No such file")


@each_user
def test_writable_by_others(lab, user):
    refused(lab, library(lab, "plugin_diary", mode=0o777), "others may write it")


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to own nothing")
def test_of_another_user(lab):
    path = library(lab, "plugin_diary")
    os.chown(path, harness.TEST_UID, harness.TEST_UID)
    refused(lab, path, "it belongs to another user")


@each_user
def test_same_name(lab, user):
    """Two libraries that call themselves the same: the image could not say which."""
    first = library(lab, "plugin_diary")
    second = lab.path("second.so")
    shutil.copy2(first, second)
    if user.uid is not None and os.geteuid() == 0:
        os.chown(second, user.uid, user.uid)
    refused(lab, f"{first}:{second}", "has the same name, diary")
