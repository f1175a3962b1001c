// Goroutines, channels, timers, select, a busy garbage collector; the same output each time.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

func digest(text string) string {
	value := []byte(text)
	for i := 0; i < 1500; i++ {
		sum := sha256.Sum256(value)
		value = sum[:]
	}
	return fmt.Sprintf("%x", value)[:24]
}

func garbage(n int) int {
	lists := map[string][]int{}
	for i := 0; i < 20000; i++ {
		key := "key" + strconv.Itoa((i*31+n)%997)
		lists[key] = append(lists[key], i)
	}
	sum := 0
	for _, list := range lists {
		sum += len(list)*3 + list[0]
	}
	return sum
}

func main() {
	rounds := 60
	if len(os.Args) > 1 {
		rounds, _ = strconv.Atoi(os.Args[1])
	}
	ticker := time.NewTicker(time.Millisecond)
	ticks := 0
	for round := 0; round < rounds; round++ {
		results := make([]string, 20)
		var group sync.WaitGroup
		for i := range results {
			group.Add(1)
			go func(i int) {
				defer group.Done()
				results[i] = digest(fmt.Sprintf("%d/%d", round, i))
			}(i)
		}
		group.Wait()
		timeout := time.After(5 * time.Millisecond)
	wait:
		for {
			select {
			case <-ticker.C:
				ticks++
			case <-timeout:
				break wait
			}
		}
		all := ""
		for _, result := range results {
			all += result
		}
		fmt.Println(round, digest(all), garbage(round))
	}
	if ticks == 0 {
		panic("no ticks")
	}
	fmt.Println("end")
}
