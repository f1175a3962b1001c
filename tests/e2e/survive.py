"""How one test program is taken through control, resume, restart and restart of a restart, and what
is known of each program: who can run it and what the product may refuse."""

import dataclasses
import re

import pytest

import harness

MODES = ("resume", "restart", "restart2")


@dataclasses.dataclass
class Program:
    """A program of tests/programs/ (its opening comment says what it is about)."""

    name: str
    users: tuple = ("root", "user")
    # By user: a pattern that the refusal of the checkpoint must match. The program must go on unharmed.
    refused: dict = dataclasses.field(default_factory=dict)
    options: tuple = ()  # of the program
    image_below: int = 0  # no image may be larger than this many bytes
    can_break: bool = True
    launch: tuple = ()  # options of dmtcp_launch
    seconds: float = 60


def skipped(lab):
    """The program said that it can't run here."""
    for line in lab.lines():
        if line.startswith("SKIP: "):
            pytest.skip(line[len("SKIP: "):])


def await_ready(lab, seconds=30):
    try:
        lab.wait_ready(seconds=seconds)
    except AssertionError:
        skipped(lab)
        raise


def verify(lab, program):
    """Tell the program to compare, wait for its end and judge."""
    lab.go.touch()
    status = lab.finish(program.seconds)
    skipped(lab)
    lines = lab.lines()
    bad = [line for line in lines if line.startswith(("FAIL", "BROKEN"))]
    assert not bad, "\n".join(bad)
    assert "PASS" in lines, f"no PASS, exit status {status}: {lines}"
    assert status == 0, f"exit status {status} after PASS"
    for note in lines:
        if note.startswith("NOTE: "):
            print(note)


def control(lab, program, *options):
    lab.run_bare(lab.program_argv(program.name, *program.options, *options))
    await_ready(lab)
    verify(lab, program)


def check_images(images, program):
    if program.image_below:
        for image in images:
            size = image.stat().st_size
            assert size < program.image_below, f"{image.name} has {size} bytes"


def expect_refusal(lab, program, pattern):
    """The checkpoint must fail and say why; the program must not notice; nothing stays behind."""
    with pytest.raises(harness.CommandFailed) as failed:
        lab.checkpoint(seconds=program.seconds)
    assert re.search(pattern, failed.value.output, re.I | re.S), f"refused, but not by name: {failed.value.output}"
    assert not lab.images(), f"images of a refused checkpoint: {lab.images()}"
    verify(lab, program)
    lab.wait_gone()


def checkpoint_and_restart(lab, program):
    check_images(lab.checkpoint(seconds=program.seconds), program)
    lab.kill_everything()
    lab.restart()
    lab.wait_running()


def survive(lab, program, mode):
    """Take the program through one mode; raise what went wrong."""
    lab.launch(lab.program_argv(program.name, *program.options), *program.launch)
    await_ready(lab)
    pattern = program.refused.get(lab.user.name)
    if pattern:
        return expect_refusal(lab, program, pattern)
    if mode == "resume":
        check_images(lab.checkpoint(seconds=program.seconds), program)
    else:
        for _ in range(2 if mode == "restart2" else 1):
            checkpoint_and_restart(lab, program)
    verify(lab, program)
    lab.wait_gone()
    return None
