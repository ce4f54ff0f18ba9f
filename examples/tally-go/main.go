// Tally adds up orders from a ConfigMap, one goroutine for each file of them.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
)

type order struct {
	Item  string  `json:"item"`
	Count int     `json:"count"`
	Price float64 `json:"price"`
}

type tally struct {
	file  string
	total float64
	err   error
}

func main() {
	files, err := filepath.Glob("/data/*.json")
	if err != nil || len(files) == 0 {
		fmt.Fprintln(os.Stderr, "no orders in /data:", err)
		os.Exit(1)
	}
	tallies := make(chan tally)
	for _, file := range files {
		go func() { tallies <- add(file) }()
	}
	var all []tally
	for range files {
		all = append(all, <-tallies)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].file < all[j].file })
	failed := false
	for _, one := range all {
		if one.err != nil {
			fmt.Fprintln(os.Stderr, one.err)
			failed = true
			continue
		}
		fmt.Printf("%-14s%8.2f\n", filepath.Base(one.file), one.total)
	}
	fmt.Fprintf(os.Stderr, "added up by %s on %s\n", runtime.Version(), runtime.GOOS)
	if failed {
		os.Exit(1)
	}
}

func add(file string) tally {
	text, err := os.ReadFile(file)
	if err != nil {
		return tally{file, 0, err}
	}
	var orders []order
	if err := json.Unmarshal(text, &orders); err != nil {
		return tally{file, 0, fmt.Errorf("%s: %w", file, err)}
	}
	total := 0.0
	for _, order := range orders {
		total += float64(order.Count) * order.Price
	}
	return tally{file, total, nil}
}
