"""PostgreSQL under pgbench: the sums of all tables agree after each run of it, no row of a table that nobody changes
differs, and what a connection that stays open has counted is right. The server does not run as root, but as its own
user then."""

import glob
import os
import pwd
import shutil
import subprocess

import common
from common import PORT, check, equal

BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
DATA = os.path.abspath("data")


def as_postgres(*argv):
    if os.geteuid() != 0:
        return [*map(str, argv)]
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *map(str, argv)]


def said(*argv):
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    check(done.returncode == 0, argv, done.stdout)
    return done.stdout.strip()


def sql(*statements):
    return said(f"{BIN}/psql", "-h", "127.0.0.1", "-p", PORT, "-U", "postgres", "-XAtq", "-c", ";".join(statements))


def main():
    os.mkdir(DATA, 0o700)
    if os.geteuid() == 0:
        shutil.chown(DATA, "postgres")
    said(*as_postgres(f"{BIN}/initdb", "-U", "postgres", "-D", DATA, "-A", "trust", "--no-sync"))
    server = common.start(*as_postgres(f"{BIN}/postgres", "-D", DATA, "-p", PORT, "-k", "", "-c", "listen_addresses=127.0.0.1",
                                       "-c", "shared_buffers=16MB", "-c", "max_connections=20", "-c", "logging_collector=on"),
                          cwd="/", stderr=open("postgres.log", "wb"))
    common.connect().close()
    while subprocess.run([f"{BIN}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(PORT)]).returncode:
        common.time.sleep(0.05)
    said(f"{BIN}/pgbench", "-i", "-q", "-s", "1", "-h", "127.0.0.1", "-p", PORT, "-U", "postgres", "postgres")
    sql("CREATE TABLE fixed AS SELECT i, md5(i::text) AS t FROM generate_series(1, 20000) i")
    fixed = "SELECT md5(string_agg(t, '' ORDER BY i)) FROM fixed"
    expected = sql(fixed)
    open_psql = subprocess.Popen([f"{BIN}/psql", "-h", "127.0.0.1", "-p", str(PORT), "-U", "postgres", "-XAtq"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    open_psql.stdin.write("CREATE TEMP TABLE mine(n int);\n")
    common.AFTERWARDS = 2
    for number in common.rounds():
        said(f"{BIN}/pgbench", "-n", "-c", "4", "-j", "2", "-t", "10", "-h", "127.0.0.1", "-p", PORT, "-U", "postgres",
             "postgres")
        sums = sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), "
                   "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history), "
                   "(SELECT count(*) FROM pgbench_history)").split("|")
        check(len(set(sums[:4])) == 1, "the sums differ:", sums)
        equal(sums[4], str((number + 1) * 40), "number of transactions")
        equal(sql(fixed), expected, "checksum of the table that nobody changes")
        open_psql.stdin.write(f"INSERT INTO mine VALUES ({number});\nSELECT sum(n) FROM mine;\n")
        equal(int(open_psql.stdout.readline()), number * (number + 1) // 2, "sum of the temporary table")
    open_psql.stdin.close()
    equal(open_psql.wait(), 0, "psql's status")
    common.end(server, how=lambda: server.send_signal(common.signal.SIGINT))
    common.done()


common.guarded(main)
