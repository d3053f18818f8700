# The two commands: `make demo` and `make test`. Each target is a line or two; what it does is in the script that it calls.
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test lint deny unit e2e soak soak-server faults partitions interleavings verdicts devices cluster cluster-down images install cli generate fixtures bench bench-router bench-rollout bench-serving bench-autoscale bench-operating bench-kernels onnx-conformance onnx-networks onnx-predictors onnx-fine-tuned packaging tutorial protocol fuzz clean

help: ## Show the targets.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: ## Cluster, operator, and four versions of a model rolled out under load. Needs root; set up by itself.
	e2e/demo

demo-down: ## Remove what `make demo` started.
	e2e/demo down

test: ## Everything that must hold: format, lints, licences, generated files, unit and cluster tests.
	.ci/test

lint: ## Format and clippy.
	.ci/test lint

deny: ## Licences, banned crates, sources and advisories, by cargo-deny.
	.ci/test deny

unit: ## Tests that need no cluster.
	.ci/test unit

e2e: ## Tests on a local cluster, which is removed again.
	.ci/test cluster

# DOCS_RS keeps the crates below `cuda` from downloading LLVM, which only linking needs.
devices: ## Whether the inference server compiles for GPUs, with `cuda` and with `wgpu`; not a part of `make test`, for its time.
	for feature in cuda wgpu; do DOCS_RS=1 cargo check --locked -p stoker-server --features $$feature || exit 1; done

soak: ## Fifty rollouts under load: no request may fail.
	e2e/soak

soak-server: ## The inference server under mixed traffic for half an hour (SOAK_SECONDS): memory and descriptors must not grow.
	e2e/soak-server

faults: ## The crash sweep: the operator killed and disturbed at each of its writes.
	e2e/faults

partitions: ## Networks cut for ten minutes each, which must heal without a restart; that of the operator by itself.
	STOKER_E2E_PARTITION=600 e2e/run --only partitions partitions -- routers_
	STOKER_E2E_PARTITION=600 e2e/run --only partitions partitions -- the_operator_

interleavings: ## Operators, routers and API server in every order, eight actions deep: the rules hold in each.
	STOKER_INTERLEAVINGS_DEPTH=8 cargo test --locked --release --workspace --test interleavings -- --nocapture

cluster: ## A local Kubernetes cluster named dev (CLUSTER=existing: the current context).
	e2e/cluster/up dev

cluster-down: ## Remove the cluster named dev.
	e2e/cluster/down dev

images: ## Container images as OCI archives, in target/images.
	e2e/images/build

cli: ## The kubectl plugin, as target/release/kubectl-stoker; docs/cli.md says how to install it.
	e2e/build kubectl-stoker

install: ## Install the operator on the cluster named dev.
	e2e/install dev

generate: ## Write crds/, manifests/install.yaml, the chart's files, the references of metrics, and what is made from the alert rules and the dashboards' description.
	STOKER_WRITE_DOCS=1 cargo test --locked --release -p stoker-server --test serving the_reference_of_metrics
	STOKER_WRITE_DOCS=1 cargo test --locked --release -p stoker-router --test router the_reference_of_metrics
	STOKER_WRITE_DOCS=1 cargo test --locked --release -p stoker --lib the_reference_of_metrics
	e2e/monitoring/generate
	cargo build --locked --release --workspace --bins && "$${CARGO_TARGET_DIR:-target}/release/stoker" crd --out crds
	e2e/packaging/generate

packaging: ## The manifests by Helm, kustomize and what Argo CD and Flux evaluate; the chart on an API server.
	e2e/packaging/check
	e2e/packaging/lifecycle

tutorial: ## docs/tutorial.md, typed into a terminal on a cluster of its own, and compared with what is printed.
	e2e/tutorial/run

fixtures: ## Train and write the demo's models and the golden cases again.
	python3 -m venv target/models-venv && target/models-venv/bin/pip install --quiet -r e2e/models/requirements.txt
	target/models-venv/bin/python e2e/models/make_models.py

bench: ## Our server against FastAPI and ONNX Runtime: target/bench/main-job.json.
	e2e/bench/main-job

bench-serving: ## The inference server beside MLServer and FastAPI, under overload, and its cache: target/bench/serving.json.
	e2e/bench/serving

bench-operating: ## From an alert that fires to no answer of the candidate: target/bench/operating.json.
	e2e/bench/operating

bench-autoscale: ## The autoscaler beside HPA and KPA in simulated time: target/bench/autoscale.json.
	e2e/bench/autoscale

bench-kernels: ## Models on burn beside ONNX Runtime on the same cores: target/bench/kernels.json.
	e2e/bench/kernels

bench-router: ## Our router against Envoy: target/bench/router.json.
	e2e/bench/router

verdicts: ## 10,000 simulated rollouts: false rollbacks against the budget, and how soon harm is found.
	cargo build --locked --release --workspace --bins && "$${CARGO_TARGET_DIR:-target}/release/stoker-verdicts"

bench-rollout: ## For how long a harmful candidate goes on serving, and what idle objects cost: target/bench/rollout.json.
	e2e/bench/rollout --cluster bench

onnx-conformance: ## ONNX's conformance cases, beside ONNX Runtime: target/conformance/onnx.json.
	e2e/conformance/onnx

onnx-networks: ## Whole networks and their memory, beside ONNX Runtime: target/conformance/networks.json.
	e2e/build stoker-graph
	python3 -m venv target/conformance-venv && target/conformance-venv/bin/pip install --quiet --disable-pip-version-check -r e2e/conformance/requirements.txt
	target/conformance-venv/bin/python e2e/conformance/networks.py --graph "$${CARGO_TARGET_DIR:-target}/release/stoker-graph"

onnx-predictors: ## Models of scikit-learn, XGBoost and LightGBM, beside the libraries that trained them.
	e2e/build stoker-graph
	python3 -m venv target/predictors-venv && target/predictors-venv/bin/pip install --quiet --disable-pip-version-check -r e2e/conformance/requirements-predictors.txt
	target/predictors-venv/bin/python e2e/conformance/predictors.py --graph "$${CARGO_TARGET_DIR:-target}/release/stoker-graph"

onnx-fine-tuned: ## A model that ours has fine-tuned, by ONNX Runtime: target/conformance/fine-tuned.json.
	e2e/conformance/fine-tuned

protocol: ## The inference server driven by tritonclient over HTTP and gRPC; a million rows, none mixed with another.
	e2e/protocol/triton

fuzz: ## Model files, random graphs beside ONNX Runtime, and requests, under libFuzzer: ten minutes each (FUZZ_SECONDS).
	e2e/fuzz

clean: ## Remove this checkout's clusters and all build output.
	CLUSTER= e2e/cluster/down --all --yes
	cargo clean
