"""Python's asyncio, server and clients in processes of their own: streams over TCP and over a unix socket, datagrams,
subprocesses with pipes, timers, an executor, signals."""

import asyncio
import hashlib
import os
import random
import signal
import sys
import time

import common
from common import PORT, check, equal


# -- the server: echoes lines, answers with checksums, counts ---------------------------------------------


async def serve(reader, writer):
    count = 0
    while size := await reader.read(4):
        if len(size) < 4:
            size += await reader.readexactly(4 - len(size))
        data = await reader.readexactly(int.from_bytes(size, "big"))
        count += 1
        writer.write(count.to_bytes(4, "big") + hashlib.sha256(data).digest() + data[::-1])
        await writer.drain()
    writer.close()


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data[::-1], addr)


async def server():
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    tcp = await asyncio.start_server(serve, "127.0.0.1", PORT)
    unix = await asyncio.start_unix_server(serve, "socket")
    udp, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", PORT))
    print("listening", flush=True)
    await end.wait()
    udp.close()
    tcp.close()
    unix.close()


# -- the clients --------------------------------------------------------------------------------------------


async def rounds():
    left, number = common.AFTERWARDS, 0
    while left:
        if common.STOP.exists():
            left -= 1
        yield number
        number += 1
        await asyncio.sleep(0)


async def talk(name, reader, writer):
    chance = random.Random(name)
    count = 0
    async for _ in rounds():
        sent = [chance.randbytes(chance.randrange(1, 200_000)) for _ in range(4)]
        for data in sent:
            writer.write(len(data).to_bytes(4, "big") + data)
        for data in sent:
            count += 1
            equal(int.from_bytes(await reader.readexactly(4), "big"), count, "count of " + name)
            equal(await reader.readexactly(32), hashlib.sha256(data).digest(), "checksum of " + name)
            equal(await reader.readexactly(len(data)), data[::-1], "data of " + name)
    writer.close()


async def datagrams():
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            queue.put_nowait(data)

    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", PORT))
    async for number in rounds():
        for i in range(5):
            transport.sendto(b"%d %d" % (number, i))
        for i in range(5):
            equal(await queue.get(), (b"%d %d" % (number, i))[::-1], "datagram")
    transport.close()


async def subprocesses():
    cat = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    async for number in rounds():
        line = b"%d " % number + b"y" * (number * 37 % 3000) + b"\n"
        cat.stdin.write(line)
        equal(await cat.stdout.readline(), line, "what cat says")
        short = await asyncio.create_subprocess_shell(f"exit {number % 100}")
        equal(await short.wait(), number % 100, "the status of a shell")
    cat.stdin.close()
    equal(await cat.wait(), 0, "cat's status")


async def timers():
    async for number in rounds():
        begin = time.monotonic()
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
            check(False, "an event that never comes came")
        except asyncio.TimeoutError:
            check(time.monotonic() - begin >= 0.0099, "a timeout was too early")
        value = await asyncio.get_running_loop().run_in_executor(None, lambda: hashlib.sha256(b"%d" % number).hexdigest())
        equal(value, hashlib.sha256(b"%d" % number).hexdigest(), "the executor's result")


async def signals():
    loop, seen = asyncio.get_running_loop(), asyncio.Queue()
    loop.add_signal_handler(signal.SIGUSR1, seen.put_nowait, 1)
    async for _ in rounds():
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.get()


async def ready():
    await asyncio.sleep(0.1)
    common.READY.touch()


async def clients():
    await asyncio.gather(talk("a", *await asyncio.open_connection("127.0.0.1", PORT)),
                         talk("b", *await asyncio.open_connection("127.0.0.1", PORT)),
                         talk("unix", *await asyncio.open_unix_connection("socket")),
                         datagrams(), subprocesses(), timers(), signals(), ready())


def main():
    if sys.argv[2:] == ["server"]:
        asyncio.run(server())
        return
    process = common.start(sys.executable, __file__, PORT, "server", stdout=common.subprocess.PIPE)
    equal(process.stdout.readline(), b"listening\n", "what the server says")
    common.guarded(asyncio.run, clients())
    common.end(process)
    common.done()


main()
