# Build the program.
build:
    CGO_ENABLED=0 go build -o data/bin/meros ./cmd/meros

# Build and boot the demo constellation.
demo:
    ./dist-conf.sh go run ./cmd/meros demo

# Run all tests.
test:
    ./dist-conf.sh go test ./...

# Compare with peers, in the same run.
bench:
    ./dist-conf.sh go test -run '^$' -bench . -benchtime 1x -timeout 60m ./bench

# What CI checks besides the tests.
lint:
    go vet ./... && go tool staticcheck ./...
