"""The local cluster: what the programs `build`, `up`, `down`, `load-image`, `logs` and `api` do."""
