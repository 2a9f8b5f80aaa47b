package vdisk

import (
	"iter"
	"runtime"
	"sync"
)

// maxWorkers bounds memory on machines of many cores.
const maxWorkers = 16

// Workers is the number of goroutines for Options.Workers n: 0 means all cores,
// at most 16.
func Workers(n int) int {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return min(n, maxWorkers)
}

// InOrder runs for each job a function that newWork returned, in several
// goroutines, and gives the results to emit in the order of jobs. A result is a
// *T, new or used before; about 2 a worker exist. It returns the error of the
// first job in order that failed.
func InOrder[T any](jobs iter.Seq[int64], workers int, newWork func() func(i int64, out *T) error, emit func(i int64, out *T) error) error {
	type job struct {
		i    int64
		out  *T
		done chan error
	}
	slots := 2*workers + 2
	queue := make(chan job)        // to the workers
	order := make(chan job, slots) // to this goroutine; never full
	free := make(chan job, slots)  // results to use again
	stop := make(chan struct{})    // closed when this goroutine gives up
	for range slots {
		free <- job{out: new(T), done: make(chan error, 1)}
	}
	var wg sync.WaitGroup
	for range workers {
		do := newWork()
		wg.Go(func() {
			for j := range queue {
				j.done <- do(j.i, j.out)
			}
		})
	}
	wg.Go(func() {
		defer close(queue)
		defer close(order)
		for i := range jobs {
			var j job
			select {
			case j = <-free:
			case <-stop:
				return
			}
			j.i = i
			order <- j
			queue <- j
		}
	})
	var err error
	for j := range order {
		e := <-j.done
		if err == nil {
			if err = e; err == nil {
				err = emit(j.i, j.out)
			}
			if err != nil {
				close(stop)
			}
		}
		free <- j
	}
	wg.Wait()
	return err
}
