// Java's NIO: a selector with many connections in one thread, clients with blocking and non-blocking channels in
// threads of another process, a datagram channel, a pipe between threads, a watched directory and a locked file.
import java.io.*;
import java.net.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Nio {
    static final int AFTERWARDS = 20;
    static int port;

    static void check(boolean ok, Object... what) {
        if (!ok) {
            System.out.println("wrong: " + Arrays.toString(what));
            System.out.flush();
            Runtime.getRuntime().halt(1);
        }
    }

    // Each byte comes back plus one; the selector's buffer is small, so that both directions fill up.
    static void serve() throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel server = ServerSocketChannel.open();
        server.bind(new InetSocketAddress("127.0.0.1", port)).configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        DatagramChannel datagrams = DatagramChannel.open().bind(new InetSocketAddress("127.0.0.1", port));
        datagrams.configureBlocking(false);
        datagrams.register(selector, SelectionKey.OP_READ);
        System.out.println("listening");
        System.out.flush();
        ByteBuffer one = ByteBuffer.allocateDirect(2000);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel channel = server.accept();
                    channel.configureBlocking(false);
                    channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(20000));
                } else if (key.channel() == datagrams) {
                    one.clear();
                    SocketAddress from = datagrams.receive(one);
                    one.flip();
                    datagrams.send(one, from);
                } else {
                    move(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void move(SelectionKey key) throws IOException {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        if (key.isReadable()) {
            int before = buffer.position();
            if (channel.read(buffer) < 0) {
                channel.close();
                return;
            }
            for (int i = before; i < buffer.position(); i++)
                buffer.put(i, (byte) (buffer.get(i) + 1));
        }
        buffer.flip();
        channel.write(buffer);
        buffer.compact();
        key.interestOps((buffer.hasRemaining() ? SelectionKey.OP_READ : 0) | (buffer.position() > 0 ? SelectionKey.OP_WRITE : 0));
    }

    interface Round {
        void run(int number) throws Exception;
    }

    static Thread forever(Round round) {
        Thread thread = new Thread(() -> {
            try {
                int left = AFTERWARDS;
                for (int number = 0; left > 0; number++) {
                    if (Files.exists(Path.of("stop")))
                        left--;
                    round.run(number);
                }
            } catch (Throwable e) {
                e.printStackTrace(System.out);
                check(false, e);
            }
        });
        thread.start();
        return thread;
    }

    static Round echo(int seed) throws Exception {
        SocketChannel channel = SocketChannel.open(new InetSocketAddress("127.0.0.1", port));
        Random chance = new Random(seed);
        ExecutorService writer = Executors.newSingleThreadExecutor(r -> {
            Thread t = new Thread(r);
            t.setDaemon(true);
            return t;
        });
        return number -> {
            byte[] data = new byte[1 + chance.nextInt(300000)];
            chance.nextBytes(data);
            Future<?> written = writer.submit(() -> {
                ByteBuffer out = ByteBuffer.wrap(data);
                while (out.hasRemaining())
                    channel.write(out);
                return null;
            });
            ByteBuffer in = ByteBuffer.allocate(data.length);
            while (in.hasRemaining())
                check(channel.read(in) >= 0, "the connection ended");
            written.get();
            for (int i = 0; i < data.length; i++)
                check(in.get(i) == (byte) (data[i] + 1), "byte", i, "of round", number, "of", seed);
        };
    }

    static Round datagrams() throws Exception {
        DatagramChannel channel = DatagramChannel.open().connect(new InetSocketAddress("127.0.0.1", port));
        return number -> {
            byte[] data = ("datagram " + number).getBytes();
            channel.write(ByteBuffer.wrap(data));
            ByteBuffer in = ByteBuffer.allocate(2000);
            channel.read(in);
            check(Arrays.equals(data, Arrays.copyOf(in.array(), in.position())), "datagram", number);
        };
    }

    static Round pipe() throws Exception {
        Pipe pipe = Pipe.open();
        Thread thread = new Thread(() -> {
            try {
                for (int number = 0; true; number++) {
                    ByteBuffer out = ByteBuffer.allocate(8).putLong(0, number);
                    pipe.sink().write(out);
                }
            } catch (IOException e) {
                check(false, e);
            }
        });
        thread.setDaemon(true);
        thread.start();
        return number -> {
            ByteBuffer in = ByteBuffer.allocate(8);
            while (in.hasRemaining())
                pipe.source().read(in);
            check(in.getLong(0) == number, "pipe", number, in.getLong(0));
            if (number % 100 == 0)
                Thread.sleep(1);
        };
    }

    static Round files() throws Exception {
        Files.createDirectory(Path.of("watched"));
        WatchService watch = FileSystems.getDefault().newWatchService();
        Path.of("watched").register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        FileChannel locked = FileChannel.open(Path.of("locked"), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
        FileLock lock = locked.lock();
        return number -> {
            Path file = Path.of("watched", "file" + number);
            Files.createFile(file);
            WatchKey key = watch.take();
            for (WatchEvent<?> event : key.pollEvents())
                check(event.context().toString().equals("file" + number), event.context(), number);
            key.reset();
            Files.delete(file);
            check(lock.isValid(), "lock");
        };
    }

    static Round timers() {
        ScheduledExecutorService executor = Executors.newScheduledThreadPool(2, r -> {
            Thread t = new Thread(r);
            t.setDaemon(true);
            return t;
        });
        return number -> {
            long begin = System.nanoTime();
            int got = executor.schedule(() -> number * 3, 5, TimeUnit.MILLISECONDS).get();
            check(got == number * 3, "timer", number);
            check(System.nanoTime() - begin >= 5000000, "a timer came too early");
        };
    }

    public static void main(String[] args) throws Exception {
        port = Integer.parseInt(args[0]);
        if (args.length > 1) {
            serve();
            return;
        }
        Process server = new ProcessBuilder("java", "-Xmx64m", "Nio", args[0], "serve").redirectError(ProcessBuilder.Redirect.INHERIT).start();
        String line = new BufferedReader(new InputStreamReader(server.getInputStream())).readLine();
        check("listening".equals(line), line);
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < 4; i++)
            threads.add(forever(echo(i)));
        for (Round round : new Round[] {datagrams(), pipe(), files(), timers()})
            threads.add(forever(round));
        Thread.sleep(200);
        Files.createFile(Path.of("ready"));
        for (Thread thread : threads)
            thread.join();
        // Process.destroy() kills nobody whose start time has changed, which is what a restart does
        new ProcessBuilder("kill", "" + server.pid()).start().waitFor();
        check(server.waitFor() == 143, "the server's status");
        System.out.println("all as it should be");
        System.exit(0);
    }
}
