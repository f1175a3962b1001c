"""nginx with two workers: keep-alive clients with requests of many sizes (also several on their way at a time), a
large slow download of which the checksum is compared, and curl, each time a connection of its own."""

import hashlib
import random
import subprocess
import time

import common
from common import PORT, check, connect, equal, rounds

CONFIGURATION = """
daemon off; worker_processes 2; pid nginx.pid; error_log error.log;
events { worker_connections 64; }
http { access_log access.log; sendfile on; keepalive_requests 1000000; keepalive_timeout 1000s;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server { listen 127.0.0.1:%d; root files;
    location /slow/ { alias files/; limit_rate 4m; }
    location /proxy/ { proxy_pass http://127.0.0.1:%d/; } } }
"""

SIZES = [0, 1, 1000, 65536, 1_000_000, 5_000_000]


def request(file, path):
    file.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def response(file, take=lambda part: None, pause=0.0):
    """The body, also given to take in pieces."""
    file.flush()
    status = file.readline()
    equal(status, b"HTTP/1.1 200 OK\r\n", "the status")
    length, chunked = None, False
    while (line := file.readline()) != b"\r\n":
        check(line, "the connection ended within the headers")
        name, _, rest = line.lower().partition(b":")
        if name == b"content-length":
            length = int(rest)
    body = []
    while length:
        part = file.read1(min(length, 65536))
        check(part, "the connection ended within the body")
        body.append(part)
        length -= len(part)
        time.sleep(pause)
    return b"".join(body)


def keep_alive(name, prefix, contents):
    chance, file = random.Random(name), connect().makefile("rwb")
    for _ in rounds():
        wanted = [chance.randrange(len(SIZES) - 1) for _ in range(5)]
        for i in wanted:
            request(file, f"{prefix}/{i}")
        for i in wanted:
            equal(hashlib.sha256(response(file)).hexdigest(), contents[i], f"checksum of {i}")


def download(contents):
    file = connect().makefile("rwb")
    for number in rounds():
        request(file, f"/slow/{len(SIZES) - 1}")
        got = hashlib.sha256(response(file, pause=0.001)).hexdigest()
        equal(got, contents[-1], "checksum of the download")
        if common.STOP.exists():
            return


def curl(contents):
    for number in rounds():
        i = number % (len(SIZES) - 1)
        said = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{PORT}/{i}"], stdout=subprocess.PIPE)
        equal((said.returncode, hashlib.sha256(said.stdout).hexdigest()), (0, contents[i]), "what curl gets")


def main():
    common.os.mkdir("files")
    contents = []
    for i, size in enumerate(SIZES):
        content = random.Random(i).randbytes(size)
        common.pathlib.Path(f"files/{i}").write_bytes(content)
        contents.append(hashlib.sha256(content).hexdigest())
    common.pathlib.Path("nginx.conf").write_text(
        ("user root;" if common.os.geteuid() == 0 else "") + CONFIGURATION % (PORT, PORT))
    server = common.start("nginx", "-p", ".", "-c", "nginx.conf", "-e", "error.log")
    connect().close()
    common.in_threads((keep_alive, "a", "", contents), (keep_alive, "b", "/proxy", contents), (download, contents),
                      (curl, contents))
    common.end(server, how=lambda: server.send_signal(common.signal.SIGQUIT))
    errors = [line for line in open("error.log") if "[emerg]" in line or "[crit]" in line or "[alert]" in line]
    equal(errors, [], "nginx's log")
    common.done()


main()
