// Go's net/http: a server and many keep-alive clients in goroutines, in two processes; bodies both ways with checksums,
// a streamed response, timeouts, and Go's own runtime (epoll, timers, preemption by signals).
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const afterwards = 20

func check(ok bool, what ...any) {
	if !ok {
		fmt.Println(append([]any{"wrong:"}, what...)...)
		os.Exit(1)
	}
}

func must(err error) {
	check(err == nil, err)
}

func serve(address string) {
	var count atomic.Int64
	http.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		size, err := io.Copy(hash, r.Body)
		must(err)
		count.Add(1)
		fmt.Fprintf(w, "%d %x", size, hash.Sum(nil))
	})
	http.HandleFunc("/lines", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 30; i++ {
			fmt.Fprintf(w, "line %d\n", i)
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	})
	listener, err := net.Listen("tcp", address)
	must(err)
	server := &http.Server{}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		server.Shutdown(context.Background())
		fmt.Fprintln(os.Stderr, count.Load() > 0)
	}()
	fmt.Println("listening")
	if err := server.Serve(listener); err != http.ErrServerClosed {
		must(err)
	}
}

func stopped() bool {
	_, err := os.Stat("stop")
	return err == nil
}

func forever(group *sync.WaitGroup, work func(number int)) {
	group.Add(1)
	go func() {
		defer group.Done()
		for number, left := 0, afterwards; left > 0; number++ {
			if stopped() {
				left--
			}
			work(number)
		}
	}()
}

func post(client *http.Client, address string, seed int64) func(int) {
	chance := rand.New(rand.NewSource(seed))
	return func(number int) {
		body := make([]byte, chance.Intn(500000))
		chance.Read(body)
		response, err := client.Post("http://"+address+"/sum", "", bytes.NewReader(body))
		must(err)
		said, err := io.ReadAll(response.Body)
		must(err)
		response.Body.Close()
		expected := fmt.Sprintf("%d %x", len(body), sha256.Sum256(body))
		check(string(said) == expected, "sum is", string(said), "and not", expected)
	}
}

func lines(client *http.Client, address string) func(int) {
	return func(number int) {
		response, err := client.Get("http://" + address + "/lines")
		must(err)
		scanner, i := bufio.NewScanner(response.Body), 0
		for ; scanner.Scan(); i++ {
			check(scanner.Text() == fmt.Sprintf("line %d", i), scanner.Text())
		}
		must(scanner.Err())
		check(i == 30, "lines:", i)
		response.Body.Close()
	}
}

func main() {
	address := "127.0.0.1:" + os.Args[1]
	if len(os.Args) > 2 {
		serve(address)
		return
	}
	server := exec.Command(os.Args[0], os.Args[1], "serve")
	said, err := server.StdoutPipe()
	must(err)
	must(server.Start())
	line, err := bufio.NewReader(said).ReadString('\n')
	must(err)
	check(line == "listening\n", line)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20}}
	var group sync.WaitGroup
	for i := int64(0); i < 6; i++ {
		forever(&group, post(client, address, i))
	}
	forever(&group, lines(client, address))
	time.Sleep(100 * time.Millisecond)
	must(os.WriteFile("ready", nil, 0o644))
	group.Wait()
	client.CloseIdleConnections()
	must(server.Process.Signal(syscall.SIGTERM))
	must(server.Wait())
	fmt.Println("all as it should be")
}
