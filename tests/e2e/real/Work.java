// Threads, executors, synchronisation, timers and a busy garbage collector; the same output each time.
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Work {
    static String digest(String text) throws Exception {
        byte[] value = text.getBytes();
        for (int i = 0; i < 300; i++) value = MessageDigest.getInstance("SHA-256").digest(value);
        StringBuilder hex = new StringBuilder();
        for (byte b : value) hex.append(String.format("%02x", b));
        return hex.substring(0, 24);
    }

    static long garbage(int n) {
        Map<String, List<Integer>> map = new HashMap<>();
        for (int i = 0; i < 20000; i++) map.computeIfAbsent("key" + (i * 31 + n) % 997, k -> new ArrayList<>()).add(i);
        return map.values().stream().mapToLong(l -> l.size() * 3L + l.get(0)).sum();
    }

    public static void main(String[] args) throws Exception {
        int rounds = args.length > 0 ? Integer.parseInt(args[0]) : 40;
        ExecutorService pool = Executors.newFixedThreadPool(4);
        ScheduledExecutorService timer = Executors.newScheduledThreadPool(1);
        AtomicLong ticks = new AtomicLong();
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 1, 1, TimeUnit.MILLISECONDS);
        for (int round = 0; round < rounds; round++) {
            List<Future<String>> futures = new ArrayList<>();
            for (int i = 0; i < 20; i++) {
                final String text = round + "/" + i;
                futures.add(pool.submit(() -> digest(text)));
            }
            StringBuilder all = new StringBuilder();
            for (Future<String> future : futures) all.append(future.get());
            CountDownLatch latch = new CountDownLatch(1);
            Thread sleeper = new Thread(() -> { try { Thread.sleep(5); } catch (InterruptedException e) { } latch.countDown(); });
            sleeper.start();
            if (!latch.await(60, TimeUnit.SECONDS)) throw new IllegalStateException("latch");
            sleeper.join();
            System.out.println(round + " " + digest(all.toString()) + " " + garbage(round));
        }
        if (ticks.get() == 0) throw new IllegalStateException("no ticks");
        timer.shutdown();
        pool.shutdown();
        System.out.println("end");
    }
}
