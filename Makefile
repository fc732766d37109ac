# One command each. `make help` lists them.
KEELSON_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/keelson
export KEELSON_CACHE
export CARGO_TARGET_DIR ?= $(KEELSON_CACHE)/target
export PATH := $(KEELSON_CACHE)/bin:$(PATH)
export KEELSON_REFERENCE_ETCD ?= $(KEELSON_CACHE)/etcd-reference/etcd
cargo := cargo
# Always the whole workspace: a part of it would build its dependencies anew, with other features.
profile := --release --locked
programs := $(CARGO_TARGET_DIR)/release
# Those of the definitions in crds/.
kinds := etcdbackups etcdbackupschedules etcdclusters etcdroles etcdusers
# What `make differential` runs, the first seed of `make simulation`, `make faults` and `make soak`, and the members of these.
SEED ?= 0
COUNT ?= 1000
STEPS ?= 350
MEMBERS ?= 3,5

.PHONY: help run clean build images test unit instructions bounds differential simulation seeds operator-simulation clients e2e api-faults scale apiserver faults crashes soak verify fix generate bench

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## start a local Kubernetes with a 3-member cluster, or use KUBECONFIG's
	@deploy/prerequisites.sh run
	@deploy/run.sh up

clean: ## remove what `make run` keeps (not the build)
	@deploy/run.sh clean

build: ## build the three programs
	$(cargo) build $(profile) --workspace --bins

images: build ## container images of server and operator, for a real Kubernetes
	@deploy/images/build.sh

# End-to-end tests wait more than they compute: others run beside them, each one's output when it ends. What they need is compiled before,
# as that takes all cores.
test: ## everything that CI runs
	@deploy/prerequisites.sh test
	$(MAKE) --no-print-directory verify build unit
	$(cargo) bench --profile release --locked --workspace --bench instructions --no-run
	tests/e2e/run.sh --build
	$(MAKE) --no-print-directory -j4 --output-sync=target instructions faults e2e seeds

# The same cases of what is drawn by chance in each run; `make operator-simulation` and `cargo test` draw others.
unit: export PROPTEST_RNG_SEED ?= 0
unit: ## tests of each crate, servers as processes and the local Kubernetes included
	$(cargo) test $(profile) --workspace

instructions: ## what the pure rooms and the codecs take, counted by callgrind; fails where it is 5 % more than written down
	@deploy/prerequisites.sh test
	$(cargo) bench --profile release --locked --workspace --bench instructions

bounds: ## memory under 1,000 ranges of 100 MiB, 10,000 watchers that do not read and 10,000 writes that wait
	$(cargo) test $(profile) --workspace --test bounds -- --ignored --nocapture --test-threads=1

clients: ## etcdctl and client libraries, each against a server; T=NAME for one line of docs/clients.md
	@deploy/prerequisites.sh test
	$(cargo) test $(profile) --workspace --test clients $(T)

differential: ## random programs on ours and on a real etcd: SEED=0 COUNT=1000 STEPS=350
	@deploy/prerequisites.sh test
	KEELSON_DIFFERENTIAL_SEED=$(SEED) KEELSON_DIFFERENTIAL_PROGRAMS=$(COUNT) KEELSON_DIFFERENTIAL_STEPS=$(STEPS) \
		$(cargo) test $(profile) --workspace --test differential -- --nocapture

simulation: ## Raft, log and state machine in simulated time, a run for each seed: SEED=0 RUNS=2000
	@deploy/prerequisites.sh test
	KEELSON_SIMULATION_SEED=$(SEED) KEELSON_SIMULATION_RUNS=$(or $(RUNS),2000) \
		$(cargo) test $(profile) --workspace --test simulation what_raft_promises -- --nocapture

# After those that `make unit` has tried, and with the least priority: who runs beside it waits for times, and must not be late.
seeds: ## 1,940 more seeds of the simulation with the processor time that others leave: RUNS=1940
	KEELSON_SIMULATION_SEED=60 KEELSON_SIMULATION_RUNS=$(or $(RUNS),1940) \
		nice -n 19 $(cargo) test $(profile) --workspace --test simulation what_raft_promises -- --nocapture

operator-simulation: ## the operator's planner under faults, edits and old views, other cases in each run: CASES=5000 SEED=7
	PROPTEST_CASES=$(or $(CASES),5000) PROPTEST_RNG_SEED=$(or $(filter-out 0,$(SEED)),$(shell date +%s)) \
		$(cargo) test $(profile) --workspace --bin keelson-operator simulation

faults: ## clusters of 3 and 5 members under faults, judged: SEED=0 SECONDS=300 MEMBERS=3,5 ARGS="--faults kill"
	@deploy/prerequisites.sh test
	@$(MAKE) --no-print-directory build
	$(programs)/keelson-faults --seed $(SEED) --seconds $(or $(SECONDS),300) --members $(MEMBERS) \
		--output $(KEELSON_CACHE)/faults $(ARGS)

crashes: ## members killed before their steps towards what is durable: SECONDS=1800 ARGS="--every 5"
	@deploy/prerequisites.sh test
	@$(MAKE) --no-print-directory build
	$(programs)/keelson-faults --crash founding,rotation,truncation,installation,restore,recovery,membership,force-new-cluster \
		--within $(or $(SECONDS),1800) $(ARGS)

soak: ## the same for HOURS=, with any seeds
	@deploy/prerequisites.sh test
	@$(MAKE) --no-print-directory build
	@test -n "$(HOURS)" || { echo "make soak HOURS=8" >&2; exit 2; }
	$(programs)/keelson-faults --seconds "$$(awk 'BEGIN { print $(HOURS) * 3600 }')" --members $(MEMBERS) \
		--output $(KEELSON_CACHE)/faults $(ARGS)

e2e: ## the operator on a local Kubernetes, or on KUBECONFIG's
	@deploy/prerequisites.sh test
	@tests/e2e/run.sh

api-faults: ## of those only operators on an API server that fails; KEELSON_E2E_SEED=7 makes the same faults again
	@deploy/prerequisites.sh test
	@tests/e2e/run.sh --api-faults

scale: ## one operator with CLUSTERS=200 clusters: processor, memory, requests, and how soon a change is answered
	@deploy/prerequisites.sh test
	@KEELSON_SCALE_CLUSTERS=$(or $(CLUSTERS),200) KEELSON_SCALE_SECONDS=$(or $(SECONDS),60) tests/e2e/run.sh --scale

apiserver: build ## a Kubernetes API server on three members; KUBE_APISERVER names the program
	@test -x "$(KUBE_APISERVER)" || { echo "KUBE_APISERVER=/path/to/kube-apiserver make apiserver" >&2; exit 2; }
	KEELSON_SERVER=$(programs)/keelson-server KUBE_APISERVER=$(KUBE_APISERVER) $(cargo) test $(profile) --workspace \
		--features keelson-e2e/apiserver --test apiserver -- --nocapture

verify: ## formatting, lints, generated files, the chart, licences; writes nothing
	@deploy/prerequisites.sh verify
	$(cargo) fmt --all --check
	$(cargo) clippy $(profile) --workspace --all-targets -- -D warnings
	$(cargo) build $(profile) --workspace --bins
	for kind in $(kinds); do $(programs)/keelson-operator crds $$kind | diff -u crds/$$kind.yaml - || exit 1; done
	$(programs)/keelson-operator reference | diff -u docs/crds.md -
	$(programs)/keelson-server --help=markdown | diff -u docs/flags.md -
	@charts/checks/verify.sh
	$(cargo) deny check bans licenses sources

fix: ## format, apply lint suggestions, write generated files
	$(cargo) fmt --all
	$(cargo) clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	$(MAKE) --no-print-directory generate

generate: ## write crds/ and docs/crds.md from the Rust types, docs/flags.md from the table of flags, what follows from the chart
	@deploy/prerequisites.sh verify
	$(cargo) build --release --workspace --bins
	for kind in $(kinds); do $(programs)/keelson-operator crds $$kind >crds/$$kind.yaml; done
	$(programs)/keelson-operator reference >docs/crds.md
	$(programs)/keelson-server --help=markdown >docs/flags.md
	@charts/checks/generate.sh

bench: ## ours and etcd under the same load in turn, 15 minutes; ARGS="--list" and others (docs/performance.md)
	@deploy/prerequisites.sh test
	@$(MAKE) --no-print-directory build
	@KEELSON_REVISION=$$(git describe --always --dirty) $(programs)/keelson-bench $(ARGS)
