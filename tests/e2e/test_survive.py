"""Every program of tests/programs/: by itself (control), made to fail (--break), checkpointed, restarted
from the checkpoint after everything was killed, and restarted from a checkpoint of that; as root and
as an ordinary user. The program itself compares what it had with what it has."""

import os

import pytest

import harness
from survive import MODES, Program, control, survive

ROOT_ONLY = ("root",)

PROGRAMS = [
    Program("count"),
    Program("mem_anon"),
    Program("mem_beside"),
    Program("mem_brk"),
    Program("mem_code"),
    Program("mem_cow"),
    Program("mem_deleted"),
    Program("mem_file"),
    Program("mem_guard"),
    Program("mem_hugetlb"),
    Program("mem_lock"),
    Program("mem_lockall"),
    Program("mem_madvise"),
    Program("mem_many"),
    Program("mem_memfd"),
    Program("mem_pkey"),
    Program("mem_proc"),
    Program("mem_reserve", image_below=16 << 20),
    Program("mem_shared"),
    Program("mem_snapshot"),
    Program("mem_stack"),
    Program("mem_vdso"),
    Program("thr_attr"),
    Program("thr_block"),
    Program("thr_block_socket"),
    Program("thr_dispatch", refused={"root": "DISPATCH", "user": "DISPATCH"}),
    Program("thr_leader"),
    Program("thr_many"),
    Program("thr_regs"),
    Program("thr_robust"),
    Program("thr_rseq"),
    Program("thr_sched", users=ROOT_ONLY),
    Program("thr_timed"),
    Program("thr_transfer"),
    Program("thr_transfer_busy"),
    Program("thr_transfer_more"),
    Program("sig_actions"),
    Program("sig_handler"),
    Program("sig_itimers"),
    Program("sig_pending"),
    Program("sig_timers"),
    Program("sig_trap"),
    Program("tree_attr"),
    Program("tree_cgroup", users=ROOT_ONLY),
    Program("tree_chroot", users=ROOT_ONLY),
    Program("tree_creds", users=ROOT_ONLY),
    Program("tree_exe"),
    Program("tree_ids"),
    Program("tree_keys", refused={"root": "keyring", "user": "keyring"}),
    Program("tree_limits"),
    Program("tree_nodump", refused={"user": "dumpable|ptrace|permitted"}),
    Program("tree_seccomp", refused={"user": "seccomp"}),
    Program("tree_seccomp_strict", refused={"user": "seccomp"}),
    Program("tree_session"),
    Program("tree_shared"),
    Program("tree_siblings", refused={"root": "not its parent", "user": "not its parent"}),
    Program("tree_stopped"),
    Program("tree_subreaper"),
    Program("tree_vfork"),
    Program("tree_vfork_many"),
    Program("tree_vfork_seccomp", refused={"user": "seccomp"}),
    Program("tree_wrapped", users=ROOT_ONLY),
    Program("tree_zombie"),
    Program("file_async"),
    Program("file_basic"),
    Program("file_dev"),
    Program("file_dir"),
    Program("file_epoll"),
    Program("file_events"),
    Program("file_fanotify"),
    Program("file_fds"),
    Program("file_gone"),
    Program("file_grown"),
    Program("file_inotify"),
    Program("file_inotify_odd"),
    Program("file_lease"),
    Program("file_locks"),
    Program("file_pidfd"),
    Program("file_pidfd_thread"),
    Program("file_pipe"),
    Program("file_pty"),
    Program("file_pty_odd"),
    Program("ipc_aio"),
    Program("ipc_iouring"),
    Program("ipc_mqueue"),
    Program("ipc_posix"),
    Program("ipc_sysv"),
    Program("ipc_sysv_undo"),
    Program("ipc_sysv_huge"),
    Program("sock_listen"),
    Program("sock_options"),
    Program("sock_pair"),
    Program("sock_rights"),
    Program("sock_tcp"),
    Program("sock_tcp_listen"),
    Program("sock_tcp_states"),
    Program("sock_udp"),
    Program("sock_unix"),
    Program("sock_unix_dgram"),
]


def cases(*more):
    """(program, user, …) for all programs and the users that they are for."""
    known = harness.users()
    for program in PROGRAMS:
        for user in program.users:
            if user in known:
                for extra in more or ((),):
                    extra = extra if isinstance(extra, tuple) else (extra,)
                    yield pytest.param(program, user, *extra, id="-".join((program.name, user, *extra)))


@pytest.mark.parametrize("program,user", cases(), indirect=["user"])
def test_control(lab, program):
    control(lab, program)


@pytest.mark.parametrize("program,user", [c for c in cases() if c.values[0].can_break], indirect=["user"])
def test_can_fail(lab, program):
    """With --break the program spoils its state itself: it must say so and end with 1."""
    with pytest.raises(AssertionError, match="FAIL: "):
        control(lab, program, "--break")
    assert lab.program.returncode == 1
    assert "PASS" not in lab.lines()


def survival_cases():
    """A checkpoint that is refused is tried once."""
    return [c for c in cases(*MODES) if c.values[2] == MODES[0] or c.values[1] not in c.values[0].refused]


@pytest.mark.parametrize("program,user,mode", survival_cases(), indirect=["user"])
def test_survives(lab, program, mode):
    survive(lab, program, mode)


def test_all_programs_are_listed():
    """A program that is in tests/programs/ but not in the table above would never be run."""
    source = harness.ROOT / "tests" / "programs"
    listed = {p.name for p in PROGRAMS}
    built = {p.stem for p in source.glob("*.c")} - {"check", "maps", "sock"}
    elsewhere = {p.stem for pattern in ("storm*.c", "net_*.c", "plugin_*.c") for p in source.glob(pattern)}
    assert built - elsewhere <= listed
    assert os.access(harness.BUILD, os.X_OK)
