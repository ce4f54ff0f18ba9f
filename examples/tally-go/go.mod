module kogia.dev/examples/tally

go 1.24
