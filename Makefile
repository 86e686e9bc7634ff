# Two commands do everything: make run, make test. Root adds packets: make lab.

GO      ?= $(shell command -v go || echo /usr/local/go/bin/go)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export CGO_ENABLED ?= 0

.PHONY: deb install-test systemd-test build run lab consistency test check race fuzz chaos partitions soak bench bench-l4 bench-idle profile behaviours h2spec floods overload grpc generate clean

build: ## bin/lbd and bin/lbctl
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/ ./cmd/lbd ./cmd/lbctl

run: build ## the quickstart: three backends and lbd, no root
	$(GO) run ./bench/demo

lab: build ## as root: client, router, three nodes, three backends in namespaces, and a tour
	$(GO) run ./bench/lab $(if $(KEEP),-keep) $(if $(SMOKE),-smoke)

consistency: build ## as root: what each change costs 2500 (CONNECTIONS) long-lived connections in the lab; ROWS=text,text, ROUNDS=n; 10 minutes
	$(GO) build -trimpath -ldflags "-X github.com/cirque-lb/lb/l4.spare=8" -o bin/lbd-other ./cmd/lbd
	$(GO) run ./bench/lab -consistency $(or $(CONNECTIONS),2500) $(if $(ROWS),-rows "$(ROWS)") $(if $(ROUNDS),-rounds $(ROUNDS))

check: ## vet, staticcheck, gofmt
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt wants to change:"; echo "$$out"; exit 1; }

test: check ## everything that is checked, packets and namespaces too when root
	$(GO) test ./...

race: ## the tests with the race detector
	CGO_ENABLED=1 $(GO) test -race ./...

FUZZTIME ?= 30s
fuzz: ## every fuzz target, FUZZTIME each
	@for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$pkg/*_test.go | cut -d' ' -f2); do \
	    echo "$$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) || exit 1; \
	  done; \
	done

chaos: build ## checked load under upgrades, good and broken, kills and reloads; QUICK=1: a minute; PEER=nginx or haproxy; RUSH=1: 100 upgrades in 60 s
	$(GO) run ./bench/chaos $(if $(QUICK),-quick) $(if $(SEED),-seed $(SEED)) $(if $(PEER),-peer $(PEER)) $(if $(RUSH),-rush)

PARTITIONS ?= 10m
partitions: ## five nodes, links cut and healed for ten minutes with edits on all sides; as root five daemons, too, with clocks five minutes apart
	$(GO) test ./cmd/lbd/app -run PartitionsHeal -v -timeout 20m -partitions $(PARTITIONS)
	@mkdir -p bin/skew; std=$$($(GO) env GOROOT)/src/time; \
	sed '/^func Now() Time {/,/^}/s/runtimeNow()$$/&; sec += skew/' $$std/time.go > bin/skew/time; \
	printf '%s\n' 'package time' 'import "syscall"' 'var skew = func() (n int64) {' '	text, _ := syscall.Getenv("LBD_TEST_SKEW")' \
	  '	sign := int64(1)' '	for _, c := range text {' '		if c == 45 { sign = -1 } else { n = 10*n + int64(c-48) }' '	}' '	return sign * n' '}()' > bin/skew/skew; \
	printf '{"Replace":{"%s/time.go":"%s/bin/skew/time","%s/skew.go":"%s/bin/skew/skew"}}' $$std "$$PWD" $$std "$$PWD" > bin/skew/overlay.json
	$(GO) test -overlay bin/skew/overlay.json ./cmd/lbd/app -run DaemonsOfARackHeal -v -timeout 25m -partitions $(PARTITIONS)

DURATION ?= 20m
soak: build ## mixed load for long, every response checked; SEED=1 repeats a run
	$(GO) run ./bench/soak -duration $(DURATION) $(if $(SEED),-seed $(SEED))

bench: build ## CPU per request beside nginx, HAProxy and a blind relay; ns per packet when root. ONLY=row, QUICK=1
	@$(GO) run ./bench/l7 -go $(GO) $(if $(QUICK),-quick) $(if $(ONLY),-only "$(ONLY)"); missed=$$?; \
	if [ -n "$(ONLY)" ]; then :; elif [ $$(id -u) = 0 ]; then $(MAKE) --no-print-directory bench-l4 || missed=1; else echo "ns per packet: skipped, needs root"; fi; \
	exit $$missed

behaviours: build ## what lbd, nginx and HAProxy do with 200 odd or hostile messages; PEER=nginx for one
	$(GO) run ./bench/behave $(if $(PEER),-peer $(PEER))

h2spec: build ## the conformance tests of HTTP/2 on lbd, in clear text and over TLS
	$(GO) run ./bench/h2spec -go $(GO)

floods: build ## attacks on lbd, nginx and HAProxy with innocent clients beside them; PEER=lbd for one
	$(GO) run ./bench/floods $(if $(PEER),-peer $(PEER)) $(if $(CONNECTIONS),-connections $(CONNECTIONS))

overload: build ## once, twice and four times the connections that lbd, nginx and HAProxy may have, by each limit; PEER=lbd for one
	$(GO) run ./bench/overload $(if $(PEER),-peer $(PEER)) $(if $(ONLY),-only "$(ONLY)")

grpc: build ## gRPC's own interoperability tests through lbd, then 20 000 calls through 20 upgrades
	cd bench/grpc && $(GO) run . -bin ../../bin

profile: ## a CPU profile of a worker under the loads of bench: bin/cpu.prof, for go tool pprof
	$(GO) build -o bin/profiled ./bench/profiled
	$(GO) run ./bench/l7 -lbd bin/profiled -length 5s -profile bin/cpu.prof

bench-l4: ## as root: ns per packet and frames per second, beside targets and a Maglev with an LRU of our own
	$(GO) run ./bench/l4

bench-idle: build ## 100 000 idle connections: bytes each, and a request beside them
	$(GO) run ./bench/idle

generate: ## BPF objects from their sources; needs clang-19 and llvm-19
	$(GO) generate ./bpf

deb: ## dist/*.deb: binaries, unit, manual, completions, examples
	GO=$(GO) packaging/build

install-test: ## as root, needs debootstrap: install, start, upgrade under load and remove the package
	GO=$(GO) packaging/install-test $(ROOT)

systemd-test: ## as root: the unit under a real systemd in namespaces: kills, upgrades, a reload, a restart, under load
	GO=$(GO) packaging/systemd-test

clean:
	rm -rf bin dist
